"""After a temporary answer, and only then, the next provider of EMAIL_PROVIDER sends the email."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from botocore.client import BaseClient

from emails import fail_over
from emails.email import Email
from emails.fail_over import FAILURES, REST_SECONDS, Failures, choose
from emails.outcome import RetryLater
from emails.providers.contract import PermanentError, Receipt, TemporaryError, UnknownResultError
from emails.send_rate import ROW, row_of
from emails.sender import ROW_CHANGED, Sender
from emails.store import EmailStore, EventStore, StoreUnavailable
from emails.tracking import Tracking
from tests.support.stage import new_stage, pending_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from settings import Settings


class Recorder:
    """A provider that raises the errors that the test gives it, and notes its name for each attempt."""

    longest_send = 5.0
    max_message_bytes = None

    def __init__(self, name: str, asked: list[str], *errors: Exception) -> None:
        self.name = name
        self.errors = list(errors)
        self._asked = asked

    def max_send_rate(self) -> float | None:
        return None

    def send(self, email: Email) -> Receipt:
        self._asked.append(self.name)
        if self.errors:
            raise self.errors.pop(0)
        return Receipt(self.name, "id")


class Pair:
    """A Sender with `smtp` before `ses`, and `stub` for SendVia."""

    def __init__(self, settings: Settings, email_id: str, **row: Any) -> None:
        self.id, self.asked, self.settings = email_id, list[str](), settings
        self.store = EmailStore.from_settings(settings)
        self.providers = {name: Recorder(name, self.asked) for name in settings.providers}
        self.sender = Sender(self.store, self.providers, settings)
        self.store.put({**pending_row(email_id), **row})

    @property
    def row(self) -> dict[str, Any]:
        return dict(self.store.get(self.id) or {})

    def send(self) -> Any:
        return self.sender.send(self.id)

    def send_another(self, name: str) -> None:
        """Send another email once, by the same sender."""
        email_id = f"{self.id}: {name}"
        self.store.put(pending_row(email_id))
        self.sender.send(email_id)


@pytest.fixture(scope="module")
def settings(emulator: str) -> Settings:
    return new_stage(emulator, "fail-over", provider=("smtp", "ses"), send_via=("stub",), retry_delay=0.001)


@pytest.fixture
def pair(settings: Settings, request: pytest.FixtureRequest) -> Callable[..., Pair]:
    return lambda **row: Pair(settings, request.node.name, **row)


def busy(times: int = 1) -> list[Exception]:
    return [TemporaryError("busy")] * times


def test_the_next_provider_is_tried_at_once_after_a_temporary_answer(pair: Callable[..., Pair]) -> None:
    one = pair()
    one.providers["smtp"].errors = [TemporaryError("busy", 900)]
    outcome = one.send()
    assert outcome == RetryLater(0, "smtp: busy (attempt 1)")
    assert one.row["EmailStatus"] == "Pending"
    assert one.row["ProvidersTried"] == {"smtp": 1}
    one.send()
    assert one.asked == ["smtp", "ses"]
    assert (one.row["EmailStatus"], one.row["Provider"], one.row["Attempts"]) == ("Sent", "ses", 2)
    assert one.row["ProvidersTried"] == {"smtp": 1}, "who was tried before"


def test_the_history_has_each_provider_that_did_not_accept(pair: Callable[..., Pair]) -> None:
    one = pair()
    one.providers["smtp"].errors, one.providers["ses"].errors = busy(), busy()
    one.send(), one.send()
    events = EventStore.from_settings(one.settings).of(one.id)
    assert [(event["EventType"], event["Provider"], event["Description"]) for event in events] == [
        ("deferred", "smtp", "smtp: busy"),
        ("deferred", "ses", "ses: busy"),
    ]


def test_after_the_first_round_there_is_a_backoff(pair: Callable[..., Pair]) -> None:
    one = pair()
    one.providers["smtp"].errors, one.providers["ses"].errors = busy(), [TemporaryError("busy", 900)]
    assert one.send().seconds == 0
    assert one.send().seconds == 900
    assert one.row["NextAttemptAt"] > time.time() + 800


@pytest.mark.parametrize(("error", "status"), [(UnknownResultError("?"), "Unknown"), (PermanentError("no"), "Failed")])
def test_no_other_answer_fails_over(pair: Callable[..., Pair], error: Exception, status: str) -> None:
    one = pair()
    one.providers["smtp"].errors = [error]
    one.send(), one.send()
    assert one.asked == ["smtp"]
    assert (one.row["EmailStatus"], one.row["FailureReason"]) == (status, f"smtp: {error}")
    assert one.row["ProvidersTried"] == {"smtp": 1}


def test_an_email_with_send_via_never_fails_over(pair: Callable[..., Pair]) -> None:
    one = pair(SendVia="stub")
    one.providers["stub"].errors = [TemporaryError("busy", 900)]
    assert one.send().seconds == 900
    assert one.asked == ["stub"]
    assert "ProvidersTried" not in one.row
    assert EventStore.from_settings(one.settings).of(one.id) == []


def test_send_via_may_name_a_provider_of_the_list_which_alone_is_tried(pair: Callable[..., Pair]) -> None:
    one = pair(SendVia="ses")
    one.providers["ses"].errors = [TemporaryError("busy", 900)]
    assert one.send() == RetryLater(900, "busy (attempt 1)")
    assert (one.asked, "ProvidersTried" in one.row) == (["ses"], False)


def test_every_provider_gets_a_turn_until_the_last_attempt(settings: Settings) -> None:
    one = Pair(settings.model_copy(update={"max_attempts": 4}), "to the last")
    for provider in one.providers.values():
        provider.errors = busy(9)
    while one.row["EmailStatus"] == "Pending":
        one.send()
    assert one.asked == ["smtp", "ses", "smtp", "ses"]
    assert one.row["ProvidersTried"] == {"smtp": 2, "ses": 2}
    assert one.row["FailureReason"] == "ses: busy (attempt 4, the last)"


def test_resend_begins_a_new_round(pair: Callable[..., Pair]) -> None:
    one = pair()
    one.providers["smtp"].errors = [*busy(), UnknownResultError("?")]
    one.providers["ses"].errors = [UnknownResultError("?")]
    one.send(), one.send()
    one.store.resend(one.id)
    assert "ProvidersTried" not in one.row
    one.send()
    assert one.asked == ["smtp", "ses", "smtp"]


def test_a_provider_that_keeps_failing_is_tried_last_for_a_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(fail_over.time, "monotonic", lambda: now[0])
    failures = Failures()
    for _ in range(FAILURES - 1):
        failures.failed("smtp")
    assert not failures.failing()
    failures.failed("smtp")
    assert failures.failing() == {"smtp"}
    failures.failed("smtp")
    assert caplog.messages == ["smtp failed 5 times in a row; it is tried last for 60 s"]
    now[0] += REST_SECONDS
    assert not failures.failing()
    failures.failed("smtp")
    assert failures.failing() == {"smtp"}, "one more failure is enough"
    failures.answered("smtp")
    assert not failures.failing()
    for _ in range(FAILURES - 1):
        failures.failed("smtp")
    assert not failures.failing(), "an answer ends the row"


def test_a_provider_that_asks_for_short_waits_rests_after_as_many_failures_as_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(fail_over.time, "monotonic", lambda: now[0])
    failures = Failures()
    for _ in range(FAILURES):
        failures.failed("ses", retry_after=1)
    now[0] += 2
    assert failures.failing() == {"ses"}
    assert caplog.messages == ["ses failed 5 times in a row; it is tried last for 60 s"]


def test_a_provider_is_tried_last_for_the_longest_time_that_it_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(fail_over.time, "monotonic", lambda: now[0])
    failures = Failures()
    failures.failed("ses", retry_after=3600)
    for _ in range(FAILURES):
        failures.failed("ses", retry_after=1)
    now[0] += 3599
    assert failures.failing() == {"ses"}
    assert caplog.messages == [], "a rest of 60 s would be no news"
    now[0] += 1
    assert not failures.failing()
    failures.failed("ses", retry_after=3600)
    failures.answered("ses")
    assert not failures.failing()


@pytest.mark.parametrize("error", [TemporaryError("busy"), UnknownResultError("?")])
def test_an_email_goes_to_the_next_provider_first_after_several_failures_in_a_row(
    pair: Callable[..., Pair], error: Exception
) -> None:
    one = pair()
    one.providers["smtp"].errors = [error] * FAILURES
    for number in range(FAILURES):
        one.send_another(f"failure {number}")
    one.asked.clear()
    one.send()
    assert one.asked == ["ses"]


@pytest.mark.parametrize("answer", [None, PermanentError("no")], ids=["accepts", "refuses"])
def test_an_answer_between_failures_ends_the_row(pair: Callable[..., Pair], answer: Exception | None) -> None:
    one = pair()
    one.providers["smtp"].errors = busy(FAILURES - 1) + ([answer] if answer else [])
    for number in range(FAILURES):
        one.send_another(f"before {number}")
    one.providers["smtp"].errors = busy()
    one.send_another("after")
    one.asked.clear()
    one.send()
    assert one.asked == ["smtp"]


def test_a_file_that_cannot_be_fetched_is_no_failure_of_a_provider(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pair()
    one.sender._s3 = object()  # type: ignore[assignment]  # the fetch is replaced

    def fail(*_: object) -> Email:
        raise TemporaryError("S3 is slow", 900)

    monkeypatch.setattr("emails.sender.attachments.fetch", fail)
    for number in range(FAILURES):
        one.send_another(f"without its file {number}")
    assert one.send() == RetryLater(900, "S3 is slow (attempt 1)")
    assert "ProvidersTried" not in one.row
    assert EventStore.from_settings(one.settings).of(one.id) == []
    assert not one.sender._failures.failing()


def test_only_a_provider_that_has_enough_of_the_lease_left_is_asked(pair: Callable[..., Pair]) -> None:
    one = pair()
    one.providers["smtp"].errors = busy()
    one.providers["ses"].longest_send = 1000
    one.send()
    assert one.send().reason == "there was too little time left to send it"
    assert one.asked == ["smtp"]
    assert (one.row["ProvidersTried"], one.row["Attempts"]) == ({"smtp": 1}, 1), "nobody was asked"


def test_the_slowest_provider_says_how_long_a_send_may_take(pair: Callable[..., Pair]) -> None:
    one = pair()
    assert one.sender.longest == 5
    one.providers["ses"].longest_send = 1000
    assert one.sender.longest == 1000


def test_each_provider_is_watched(pair: Callable[..., Pair]) -> None:
    one = pair()
    watched: list[str] = []

    def watch(provider: Any) -> Any:
        watched.append(provider.name)
        return provider

    one.sender.watch(watch)
    assert watched == ["smtp", "ses", "stub"]


@pytest.mark.parametrize(
    ("tried", "failing", "chosen"),
    [
        ({}, (), "smtp"),
        ({}, ("smtp",), "ses"),
        ({}, ("smtp", "ses"), "smtp"),
        ({"smtp": Decimal(1)}, (), "ses"),
        ({"smtp": Decimal(1)}, ("ses",), "ses"),
        ({"ses": Decimal(1)}, ("smtp",), "smtp"),
        ({"ses": Decimal(1), "smtp": Decimal(1)}, (), "smtp"),
        ("nonsense", (), "smtp"),
        ({"smtp": "nonsense", "ses": Decimal(-1), "gone": Decimal(7)}, (), "smtp"),
    ],
)
def test_each_provider_is_tried_once_in_a_round(tried: object, failing: tuple[str, ...], chosen: str) -> None:
    email = Email.from_row({**pending_row("e"), "ProvidersTried": tried})
    assert choose(email, ("smtp", "ses"), failing) == chosen


class Turns:
    """A send rate that notes who waits, and lets something happen meanwhile."""

    def __init__(self, name: str, waited: list[str], meanwhile: Callable[[], object]) -> None:
        self._name, self._waited, self._meanwhile = name, waited, meanwhile
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def wait(self) -> bool:
        self._waited.append(self._name)
        self._meanwhile()
        return True


def with_turns(one: Pair, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    waited: list[str] = []
    turns: Any = {name: Turns(name, waited, meanwhile) for name in one.settings.providers}
    one.sender._rates = turns
    return waited


def test_each_attempt_waits_for_its_own_provider_s_turn(pair: Callable[..., Pair]) -> None:
    one = pair()
    waited = with_turns(one)
    one.providers["smtp"].errors = busy()
    one.send(), one.send()
    assert waited == one.asked == ["smtp", "ses"]


def test_an_email_with_send_via_waits_for_that_provider_s_turn(pair: Callable[..., Pair]) -> None:
    one = pair(SendVia="stub")
    waited = with_turns(one)
    one.send()
    assert waited == one.asked == ["stub"]


def test_an_email_waits_for_the_turn_of_the_next_provider_while_the_first_one_keeps_failing(
    pair: Callable[..., Pair],
) -> None:
    one = pair()
    waited = with_turns(one)
    one.sender._failures.failed("smtp", retry_after=900)
    assert one.send().status == "Sent"
    assert waited == one.asked == ["ses"]


@pytest.mark.parametrize(
    ("changes", "takes_turns", "reads"),
    [({}, False, 0), ({}, True, 1), ({"provider": ("smtp",), "send_via": ()}, True, 0)],
    ids=["two providers", "two providers with turns", "one provider with turns"],
)
def test_a_send_makes_two_requests_and_reads_the_row_first_only_to_know_whose_turn_to_take(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], takes_turns: bool, reads: int
) -> None:
    one = Pair(settings.model_copy(update=changes), f"requests {takes_turns} {reads}")
    if takes_turns:
        with_turns(one)
    made, call = list[str](), BaseClient._make_api_call

    def note(client: BaseClient, operation: str, parameters: Any) -> Any:
        made.append(operation)
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", note)
    assert one.send().status == "Sent"
    assert len(made) == 2 + reads, made


def test_an_invalid_row_waits_for_a_turn_and_fails_with_the_reason(pair: Callable[..., Pair]) -> None:
    one = pair(Subject=None)
    with_turns(one)
    assert one.send().status == "Failed"
    assert one.row["FailureReason"].startswith("Subject: ")


def test_a_stop_ends_the_wait_for_each_provider_s_turn(pair: Callable[..., Pair]) -> None:
    one = pair()
    with_turns(one)
    one.sender.close()
    rates: Any = one.sender._rates
    assert [rate.is_closed for rate in rates.values()] == [True, True, True]


def test_no_provider_sends_on_another_s_turn_if_the_row_changes_while_it_waits(pair: Callable[..., Pair]) -> None:
    one = pair()

    def change() -> None:
        one.store._client.update_item(
            TableName=one.settings.table,
            Key={"EmailId": {"S": one.id}},
            UpdateExpression="SET SendVia = :stub",
            ExpressionAttributeValues={":stub": {"S": "stub"}},
        )

    waited = with_turns(one, change)
    assert one.send() == ROW_CHANGED
    assert (one.asked, one.row["Attempts"], one.row["EmailStatus"]) == ([], 0, "Pending")
    one.send()
    assert (waited, one.asked) == (["smtp", "stub"], ["stub"])


def test_the_first_provider_keeps_the_row_that_earlier_versions_reserve_from(settings: Settings) -> None:
    assert [row_of(name, settings) for name in settings.providers] == [ROW, f"{ROW}\nby ses", f"{ROW}\nby stub"]


def test_every_provider_has_a_rate_of_its_own(settings: Settings) -> None:
    slow = settings.model_copy(update={"send_rate": 3.0})
    store = EmailStore.from_settings(settings)
    assert {name: rate._per_second for name, rate in Sender(store, {}, slow)._rates.items()} == {
        "smtp": 3,
        "ses": 3,
        "stub": 3,
    }
    assert {rate._per_second for rate in Sender(store, {}, slow, {"ses": 14})._rates.values()} == {3}
    own = Sender(store, {}, settings, {"ses": 14})._rates
    assert {name: rate._per_second for name, rate in own.items()} == {"ses": 14}


def test_a_preview_names_the_provider_of_the_next_attempt(pair: Callable[..., Pair]) -> None:
    one = pair()
    one.providers["smtp"].errors = busy()
    one.send()
    assert one.sender.provider(Email.from_row(one.row)) is one.providers["ses"]


def test_a_history_that_cannot_be_written_holds_nothing_up(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = pair()
    one.providers["smtp"].errors = busy()

    def fail(self: Tracking, events: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Tracking, "keep", fail)
    assert one.send().seconds == 0
    assert (one.row["EmailStatus"], one.row["ProvidersTried"]) == ("Pending", {"smtp": 1})
    assert "the history does not show that smtp did not accept the email: away" in caplog.text


def test_a_provider_is_counted_by_the_name_in_the_settings(pair: Callable[..., Pair]) -> None:
    """A provider from another package may call itself something else, and must not be tried again at once."""
    one = pair()
    one.providers["smtp"].name, one.providers["smtp"].errors = "Relay", busy()
    one.send(), one.send()
    assert (one.row["Provider"], one.row["ProvidersTried"]) == ("ses", {"smtp": 1})


def test_a_provider_that_asked_to_wait_is_tried_last_in_the_next_round(pair: Callable[..., Pair]) -> None:
    one = pair()
    one.providers["smtp"].errors, one.providers["ses"].errors = [TemporaryError("quota", 3600)], busy()
    for _ in range(3):
        one.send()
        one.store._client.update_item(
            TableName=one.store.table, Key={"EmailId": {"S": one.id}}, UpdateExpression="REMOVE NextAttemptAt"
        )
    assert one.asked == ["smtp", "ses", "ses"]


def test_a_single_provider_that_keeps_failing_is_no_news(caplog: pytest.LogCaptureFixture, settings: Settings) -> None:
    one = Pair(settings.model_copy(update={"provider": ("smtp",), "send_via": ()}), "single")
    one.providers["smtp"].errors = busy(9)
    for _ in range(FAILURES):
        one.send()
    assert "in a row" not in caplog.text
