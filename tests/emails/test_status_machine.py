"""The statuses of an email, whatever workers, providers, operators and time do to it, in any order.

Each worker is a greenlet. It stops after its claim, at the provider and before each of its writes, and others act in
the meantime. A claim may get no answer, and its write may arrive at any later time. Nothing sleeps, because the test
has its own clock. Half of the runs have a second provider, to which emails fail over.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from greenlet import GreenletExit, getcurrent, greenlet
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from emails import status as statuses
from emails.claim_tokens import claim_id
from emails.events import DeliveryEvent, EventType
from emails.providers.contract import PermanentError, Receipt, TemporaryError, UnknownResultError
from emails.sender import Sender
from emails.status import TRANSITIONS
from emails.store import ClaimUnanswered, Conflict, EmailStore, StoreUnavailable
from emails.sweep import Sweep
from emails.tracking import Tracking
from tests.support.groups import always_grouped
from tests.support.stage import new_stage, pending_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from emails.claim_tokens import Tokens
    from emails.email import Email
    from emails.status import Transition
    from emails.store import Claim, Row
    from settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # hypothesis takes up to 300 s to shrink a failure

PROVIDER_TIMEOUT, LEASE, SWEEP_AFTER, RETRY_AFTER = 10, 20, 60, 5
PROVIDERS_AND_ATTEMPTS = [(("stub",), 2), (("stub", "ses"), 3)]  # the third attempt waits for the backoff
LONG = 10**6


# The allowed transitions, by who may make them.
CLAIM, DISCARD, ABANDON = ("Pending", "Sending"), ("Pending", "Failed"), ("Sending", "Unknown")
TAKE_OVER = {("Sending", "Sending"), ("Unknown", "Sending")}
GIVE_BACK = ("Sending", "Pending")
BY_HOLDER = {
    ("Sending", "Sent"),
    GIVE_BACK,
    ("Sending", "Failed"),
    ("Sending", "Unknown"),
    ("Unknown", "Sent"),  # its answer came late
    ("Sent", "Sent"),  # an operator was faster
}
RESOLVE_SENT = {("Unknown", "Sent"), ("Failed", "Sent")}
RESEND = {("Unknown", "Pending"), ("Failed", "Pending")}
RANKED = ("Sent", "Delivered", "Bounced", "Complained")
CALL_BACK = {
    (source, target)
    for rank, target in enumerate(RANKED)
    for source in ("Pending", "Sending", "Failed", "Unknown", *RANKED[:rank])
}
BY_HOLDER |= {(status, status) for status in RANKED}  # the holder adds its receipt
CALLBACKS = (EventType.SENT, EventType.DELIVERED, EventType.BOUNCED, EventType.COMPLAINED)


class Answer(NamedTuple):
    """What a provider does with an email, and the error that it raises."""

    accepts: bool
    error: Exception | None = None


# Where a worker stops, and what may happen to it there. The first of each is the best.
CLAIMING, CLAIMED, AT_PROVIDER = "about to claim", "has claimed", "at the provider"
RECORDING, SETTLING = "about to record", "about to settle"
GOES_ON, CRASHES, WRITE_LOST, ANSWER_LOST = "goes on", "crashes", "the write is lost", "the answer is lost"
WRITE_LATE = "the write arrives later"
TEMPORARY = [Answer(accepts=False, error=TemporaryError("busy", seconds)) for seconds in (RETRY_AFTER, 0)]
FATES: dict[str, list[Any]] = {
    CLAIMING: [*[GOES_ON] * 4, WRITE_LOST, ANSWER_LOST, WRITE_LATE],
    CLAIMED: [*[GOES_ON] * 5, CRASHES],
    AT_PROVIDER: [
        Answer(accepts=True),
        Answer(accepts=True, error=UnknownResultError("the answer was lost")),
        Answer(accepts=True, error=RuntimeError("unforeseen")),
        Answer(accepts=False, error=UnknownResultError("the request was lost")),
        *TEMPORARY * 3,
        Answer(accepts=False, error=PermanentError("no")),
        CRASHES,
    ],
    RECORDING: [*[GOES_ON] * 5, WRITE_LOST, ANSWER_LOST, CRASHES],
    SETTLING: [GOES_ON, CRASHES],
}


def stop(where: str) -> Any:
    """Stop here so that others can act. Return what happens to the worker."""
    return getcurrent().parent.switch(where)


class Worker(greenlet):
    """Takes a step with the email. `where` says where it has stopped."""

    def __init__(self, step: Callable[[], object], tokens: Tokens = ()) -> None:
        super().__init__(lambda: self._run(step))
        self.where = ""
        self.claim_id = ""
        self.tokens = tokens  # the tokens that its message carries
        self.copy: Tokens = ()  # the tokens that its message's delayed copy carries, if there are more of them
        self.late: Callable[[], object] | None = None  # its claim, if that arrives later

    def go_on(self, fate: Any = None) -> None:
        if fate == CRASHES:
            self.throw(GreenletExit)
        else:
            self.where = self.switch(fate) if self.where else self.switch()

    def _run(self, step: Callable[[], object]) -> None:
        try:
            step()
        except ClaimUnanswered as error:
            self.copy = error.tokens
        except StoreUnavailable:  # Celery would retry the task, which is another worker here
            pass


class StoppingStore(EmailStore):
    """The store that a worker uses, which stops the worker at each write."""

    def claim(self, email_id: str, *, lease: float) -> Claim:
        return self._claimed(super().claim(email_id, lease=lease))

    def take_over(self, email_id: str, token: str, *, lease: float) -> Claim:
        return self._claimed(super().take_over(email_id, token, lease=lease))

    @staticmethod
    def _claimed(claim: Claim) -> Claim:
        getcurrent().claim_id = claim.id
        stop(CLAIMED)
        return claim

    def _move(self, email_id: str, transition: Transition, assign: Row, **options: Any) -> Row:
        move = partial(super()._move, email_id, transition, assign, **options)
        if transition not in (statuses.CLAIM, statuses.TAKE_OVER):
            return move()
        fate = stop(CLAIMING)
        if fate == WRITE_LATE:
            getcurrent().late = move
        row = move() if fate in (GOES_ON, ANSWER_LOST) else {}
        if fate != GOES_ON:
            raise StoreUnavailable(fate)
        return row

    def _move_claimed(self, *arguments: Any, **options: Any) -> None:
        fate = stop(RECORDING)
        if fate != WRITE_LOST:
            super()._move_claimed(*arguments, **options)
        if fate != GOES_ON:
            raise StoreUnavailable(fate)

    def end(self, *arguments: Any) -> None:
        stop(SETTLING)
        super().end(*arguments)


class Clock:
    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


class Ask(NamedTuple):
    """An attempt that a worker makes. It has no answer yet, or will never have one, if `answer` is None."""

    provider: str
    answer: Answer | None = None


class AskedProvider:
    """A provider that tells the test when it is asked."""

    longest_send = PROVIDER_TIMEOUT
    max_message_bytes = None

    def __init__(self, name: str, send: Callable[[str, Email], Receipt]) -> None:
        self.name = name
        self._send = send

    def max_send_rate(self) -> float | None:
        return None

    def send(self, email: Email) -> Receipt:
        return self._send(self.name, email)


class Statuses(RuleBasedStateMachine):
    """One email after another. Each event sets the transitions that it may cause."""

    store: EmailStore
    settings_of_stage: Settings
    grouped: bool
    tracking: Tracking

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._clock = Clock()
        for module in ("fail_over", "sender", "store.rows", "sweep"):
            self._patch.setattr(f"emails.{module}.time", self._clock)
        self._workers: list[Worker] = []
        self._allowed: set[tuple[str, str]] = set()
        self._holder: Worker | None = None
        self._may_take_over: set[str] = set()
        self._enqueued: list[str] = []
        self._called_without_claim: list[str] = []
        self._called_out_of_turn: list[str] = []
        self._id = ""

    # The providers

    def send(self, name: str, email: Email) -> Receipt:
        row = self._row()
        if not self._resent:
            self._check_turn(name, row)
        left = email.claim_expires_at - self._clock.now
        if left < PROVIDER_TIMEOUT or (row["EmailStatus"], row["ClaimExpiresAt"]) != (
            "Sending",
            email.claim_expires_at,
        ):
            self._called_without_claim.append(f"{row['EmailStatus']}, {left} s left")
        number, asks = len(self._asks), self._asks
        asks.append(Ask(name))
        answer: Answer = stop(AT_PROVIDER)
        asks[number] = Ask(name, answer)
        self._accepted += answer.accepts
        self._may_be_tried_at = self._clock.now + getattr(answer.error, "retry_after", 0)
        if answer.error:
            raise answer.error.with_traceback(None)
        return Receipt(name, f"id-{self._accepted}")

    def _check_turn(self, name: str, row: Row) -> None:
        """Note it if this provider must not be asked now."""
        if not all(ask.answer and isinstance(ask.answer.error, TemporaryError) for ask in self._asks):
            self._called_out_of_turn.append(f"{name} after {self._asks}")
        if via := row.get("SendVia"):
            if name != via:
                self._called_out_of_turn.append(f"{name} instead of {via}")
        elif len(self.settings.provider) > 1:
            asked = Counter(ask.provider for ask in self._asks)
            if row.get("ProvidersTried", {}) != asked:
                self._called_out_of_turn.append(f"{row.get('ProvidersTried')} were tried and not {asked}")
            if any(asked[other] < asked[name] for other in self.settings.provider):
                self._called_out_of_turn.append(f"{name} twice in a round after {asked}")

    # The raw queue

    def enqueue(self, email_ids: list[str]) -> dict[str, str]:
        self._enqueued += email_ids
        return {}

    # What may happen

    @initialize(data=st.data())
    def begins(self, data: st.DataObject) -> None:
        names, max_attempts = data.draw(st.sampled_from(PROVIDERS_AND_ATTEMPTS), label="providers, attempts")
        self.settings = self.settings_of_stage.model_copy(update={"provider": names, "max_attempts": max_attempts})
        stopping = StoppingStore(self.store._client, self.store.table, grouped=self.grouped)
        if self.grouped:
            always_grouped(stopping)
        self._sender = Sender(stopping, {name: AskedProvider(name, self.send) for name in names}, self.settings)
        self.it_is_written(data)

    @rule(data=st.data())
    def happens(self, data: st.DataObject) -> None:
        # There is a single rule, because hypothesis leaves out rules at random, and most events need workers.
        status = self._stands["EmailStatus"]
        events = ["a_worker_goes_on"] * 8 if self._workers else []
        events += ["a_worker_sends"] * (4 - len(self._workers))
        events += ["a_copy_comes"] * (2 * len(self._copies)) + ["a_lost_claim_arrives"] * (2 * len(self._late))
        events += ["a_worker_loads", "it_is_swept", "time_passes"]
        events += ["an_operator_says_that_it_was_sent", "an_operator_resends_it", "an_operator_cancels_it"]
        if status == "Pending":
            if self._stands.get("NextAttemptAt", 0) > self._clock.now:
                events += ["its_time_comes"] * 8
            elif 0 < len(self._workers) < 4:  # the other workers' messages may come too late
                events += ["a_worker_sends"] * 8
            else:
                events += ["an_attempt_is_made"] * 8
        elif status == "Sending":
            events += ["its_lease_ends"] * 2
        elif not self._workers:
            events += ["it_is_written"] * 8
        elif status == "Unknown":
            events += ["an_operator_resends_it"] * 4
        if self._accepted:
            events += ["a_callback_comes"] * 2
        self._allowed, self._holder, self._may_take_over = set(), None, set()
        getattr(self, data.draw(st.sampled_from(events), label="event"))(data)

    def it_is_written(self, data: st.DataObject) -> None:
        if self._id:
            self._what_was_lost_comes()
        self._id = f"email-{uuid.uuid4().hex}"
        self._copies: list[Tokens] = []  # each may be delivered any number of times
        self._late: list[tuple[Callable[[], object], Tokens]] = []
        self._held: set[str] = set()  # the claims that a worker got an answer for
        self._asks: list[Ask] = []
        self._may_be_tried_at = 0.0
        self._accepted = self._resent = self._resolved = self._called_back = 0
        row = pending_row(self._id)
        odd: list[dict[str, Any]] = [{}, {}, {}, {"Sender": "nobody"}, {"UpdatedAt": None}]
        odd += [{"SendAfter": 15}, {"ExpiresAt": 30}, {"SendVia": self.settings.provider[-1]}]
        for name, value in data.draw(st.sampled_from(odd), label="attributes").items():
            row[name] = self._iso(value) if isinstance(value, int) else value
        self.store.put(row)
        self._stands = self._row()

    def a_worker_sends(self, _: st.DataObject) -> None:
        self._start(lambda: self._sender.send(self._id))

    def an_attempt_is_made(self, data: st.DataObject) -> None:
        """Let a worker make an attempt in peace, so that many emails get as far as the second round."""
        self._allowed = {("Pending", "Failed"), ("Pending", "Sent")}
        answer = data.draw(st.sampled_from([*TEMPORARY * 2, Answer(accepts=True)]), label="answer")
        self._work_in_peace(Worker(lambda: self._sender.send(self._id)), answer)

    def a_copy_comes(self, data: st.DataObject) -> None:
        tokens = data.draw(st.sampled_from(self._copies), label="tokens")
        self._start(lambda: self._sender.send(self._id, tokens=tokens), tokens)

    def a_lost_claim_arrives(self, data: st.DataObject) -> None:
        self._allowed = {CLAIM} | TAKE_OVER
        self._arrive(data.draw(st.sampled_from(range(len(self._late))), label="claim"))

    def a_worker_loads(self, _: st.DataObject) -> None:
        self._start(lambda: self._sender.load(self._id))

    def a_worker_goes_on(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self._workers), label="worker")
        if worker.where == SETTLING:
            self._allowed = {DISCARD, ABANDON}
        elif worker.where == CLAIMING:
            self._allowed = {CLAIM} | (TAKE_OVER if worker.tokens else set())
            self._may_take_over = {claim_id(token) for token in worker.tokens}
        else:
            self._allowed, self._holder = BY_HOLDER, worker
        self._go_on(worker, data.draw(st.sampled_from(FATES[worker.where]), label="fate"))

    def time_passes(self, data: st.DataObject) -> None:
        self._clock.now += data.draw(st.sampled_from([1, PROVIDER_TIMEOUT, SWEEP_AFTER + LEASE]), label="seconds")

    def its_time_comes(self, _: st.DataObject) -> None:
        self._clock.now = max(self._clock.now, float(self._stands.get("NextAttemptAt", 0)))

    def its_lease_ends(self, data: st.DataObject) -> None:
        self._clock.now = max(self._clock.now, float(self._stands["ClaimExpiresAt"])) + 2
        self.a_worker_loads(data)

    def a_callback_comes(self, data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from(CALLBACKS), label="callback")
        self._allowed = {arrow for arrow in CALL_BACK if arrow[1] == RANKED[CALLBACKS.index(kind)]}
        moment = datetime.fromtimestamp(self._clock.now, UTC)
        self.tracking.record([DeliveryEvent(self._id, kind, "ada@example.com", moment, "stub")])
        self._called_back += 1

    def an_operator_says_that_it_was_sent(self, _: st.DataObject) -> None:
        self._allowed = RESOLVE_SENT
        with suppress(Conflict):
            self.store.resolve_sent(self._id)
            self._resolved += 1

    def an_operator_resends_it(self, _: st.DataObject) -> None:
        self._allowed = RESEND
        with suppress(Conflict):
            self.store.resend(self._id)
            self._resent += 1

    def an_operator_cancels_it(self, _: st.DataObject) -> None:
        self._allowed = {DISCARD}
        cancelled = Sender(self.store, {}, self.settings).cancel(self._id, "cancelled")
        assert cancelled == (self._stands["EmailStatus"] == "Pending")

    def it_is_swept(self, _: st.DataObject | None = None) -> None:
        self._allowed = {ABANDON}
        with TemporaryDirectory() as folder:
            work = Sweep(self.store, self.enqueue, SWEEP_AFTER)
            work.run(LONG, Path(folder) / "position", lambda report: report)

    # What must hold

    @invariant()
    def it_takes_only_the_arrows_of_what_happened(self) -> None:
        before, self._stands = self._stands, self._row()
        arrow = (before["EmailStatus"], self._stands["EmailStatus"])
        assert arrow[0] == arrow[1] or arrow in self._allowed, f"{arrow}, where {self._allowed} are allowed"
        if arrow == CLAIM:
            assert before.get("NextAttemptAt", 0) <= self._clock.now, "it was claimed before its time"
        if arrow == GIVE_BACK:
            assert self._stands["Attempts"] < self.settings.max_attempts, "it was given back after its last attempt"
        if arrow[1] == "Pending":
            self._check_delay(before)
        if arrow == ABANDON and self._holder is None:
            assert before["ClaimExpiresAt"] < self._clock.now, "a lease that is alive was abandoned"
        if before.get("ClaimedBy") != self._stands.get("ClaimedBy") and arrow in TAKE_OVER:
            assert arrow in self._allowed, "a claim was taken over by whoever has no token"
            assert before["ClaimedBy"] in self._may_take_over, "a claim that may send was taken over"
            assert before["Attempts"] == self._stands["Attempts"], "a take-over was counted"
        if arrow[0] != arrow[1] and self._holder is not None:
            assert before["ClaimedBy"] == self._holder.claim_id, "another's claim was settled"

    def _check_delay(self, before: Row) -> None:
        """Check that the next provider tries at once, and that there is a backoff after each has tried."""
        tried = self._stands.get("ProvidersTried", {})
        if tried == before.get("ProvidersTried", {}) or self._resent:
            return
        if len(tried) < len(self.settings.provider):
            assert self._stands["NextAttemptAt"] <= self._clock.now, "the next provider waits"
        else:
            assert self._stands["NextAttemptAt"] >= int(self._may_be_tried_at), "the provider asked to wait longer"

    @invariant()
    def a_provider_is_asked_only_after_temporary_answers_and_once_in_a_round(self) -> None:
        assert self._called_out_of_turn == []

    @invariant()
    def the_row_names_the_provider_that_accepted_it(self) -> None:
        if "Provider" in self._stands and not self._resent:
            assert [self._stands["Provider"]] == [
                ask.provider for ask in self._asks if ask.answer and ask.answer.accepts
            ]

    @invariant()
    def the_provider_accepts_it_once_but_for_resends(self) -> None:
        assert self._accepted <= 1 + self._resent

    @invariant()
    def the_provider_is_asked_under_a_claim_and_no_more_often_than_allowed(self) -> None:
        assert self._called_without_claim == []
        assert len(self._asks) <= self.settings.max_attempts * (1 + self._resent)

    @invariant()
    def it_is_sent_only_where_the_provider_or_an_operator_says_so(self) -> None:
        if self._stands["EmailStatus"] == "Sent":
            assert self._accepted or self._resolved
        if self._stands["EmailStatus"] in RANKED[1:]:
            assert self._called_back

    @invariant()
    def what_was_accepted_is_to_be_sent_no_more_unless_an_operator_resends_it(self) -> None:
        if self._accepted and not self._resent:
            assert self._stands["EmailStatus"] not in {"Pending", "Failed"}

    @invariant()
    def it_is_in_the_index_while_it_needs_a_person(self) -> None:
        status, key = self._stands["EmailStatus"], str(self._stands.get("AttentionKey", ""))
        assert key.partition("#")[0] == (status if status in {"Failed", "Unknown"} else "")
        assert ("AttentionSince" in self._stands) == bool(key)

    def teardown(self) -> None:
        """Check that the email is not lost: a sweep finds it, or an operator can see its status."""
        try:
            self._all_workers_crash()
            self._what_was_lost_comes()
            self._is_not_lost()
        finally:
            self._all_workers_crash()
            self._patch.undo()

    def _is_not_lost(self) -> None:
        for _ in range(2):  # the first sweep gives an UpdatedAt to a row that never had one
            self._clock.now += LONG
            self._enqueued.clear()
            self.it_is_swept()
        status = self._row()["EmailStatus"]
        assert status in {"Pending", "Failed", "Unknown", *RANKED}
        assert (self._id in self._enqueued) == (status == "Pending")
        if status == "Pending":
            self._work_in_peace(Worker(lambda: self._sender.send(self._id)))
            assert self._row()["EmailStatus"] in {"Sent", "Failed"}, "its time has come, and nobody holds it"

    def _what_was_lost_comes(self) -> None:
        """Let every lost claim and every copy arrive. If the email is still Unknown, a worker held it."""
        while self._late:
            self._arrive(0)
        for tokens in self._copies:
            self._work_in_peace(Worker(partial(self._sender.send, self._id, tokens=tokens), tokens))
        self.the_provider_accepts_it_once_but_for_resends()
        row = self._row()
        if row["EmailStatus"] == "Unknown":
            assert row["ClaimedBy"] in self._held, "nothing was sent, and its worker knew that"

    def _work_in_peace(self, worker: Worker, answer: Answer = FATES[AT_PROVIDER][0]) -> None:
        self._go_on(worker)
        while not worker.dead:
            self._go_on(worker, answer if worker.where == AT_PROVIDER else FATES[worker.where][0])

    def _arrive(self, number: int) -> None:
        claim, tokens = self._late.pop(number)
        self._may_take_over = {claim_id(token) for token in tokens}
        with suppress(Conflict):
            claim()

    def _all_workers_crash(self) -> None:
        for worker in list(self._workers):
            self._go_on(worker, CRASHES)

    def _start(self, step: Callable[[], object], tokens: Tokens = ()) -> None:
        worker = Worker(step, tokens)
        self._workers.append(worker)
        self._go_on(worker)

    def _go_on(self, worker: Worker, fate: Any = None) -> None:
        worker.go_on(fate)
        if worker.claim_id:
            self._held.add(worker.claim_id)
        if worker.dead and worker in self._workers:
            self._workers.remove(worker)
        if worker.copy:
            self._copies.append(worker.copy)
        if worker.late:
            self._late.append((worker.late, worker.tokens))

    def _row(self) -> Row:
        row = self.store.get(self._id)
        assert row
        return row

    def _iso(self, seconds: int) -> str:
        return datetime.fromtimestamp(self._clock.now + seconds, UTC).isoformat()


def test_the_arrows_are_those_of_the_table() -> None:
    arrows = {CLAIM, DISCARD, ABANDON} | TAKE_OVER | BY_HOLDER | RESOLVE_SENT | RESEND | CALL_BACK
    assert arrows == {(source, arrow.target) for arrow in TRANSITIONS for source in arrow.sources if source}


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "not grouped"])
def test_no_order_of_events_loses_an_email_or_sends_it_twice(emulator: str, grouped: bool) -> None:
    Statuses.grouped = grouped
    settings = new_stage(
        emulator,
        provider_timeout=PROVIDER_TIMEOUT,
        claim_lease=LEASE,
        retry_delay=1,
        retry_delay_max=10,
    )
    Statuses.settings_of_stage = settings
    Statuses.store = EmailStore.from_settings(settings)
    Statuses.tracking = Tracking.from_settings(settings)
    run_state_machine_as_test(
        Statuses,
        settings=hypothesis_settings(
            max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
