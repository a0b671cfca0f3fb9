"""What a send does to an email and its row, for each row of the failure table."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from email import message_from_bytes
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import structlog
from botocore.exceptions import ClientError
from pydantic import HttpUrl

from emails import steps
from emails.claim_tokens import new_token
from emails.decide import LEASE_GRACE_SECONDS, End, Send
from emails.mime import to_mime
from emails.outcome import Done, RetryLater
from emails.providers.contract import PermanentError, Receipt, TemporaryError, UnknownResultError
from emails.providers.ses import _destination
from emails.sender import EmailNotFound, Sender
from emails.status import EmailStatus
from emails.steps import Carried
from emails.store import Claim, ClaimUnanswered, Conflict, EmailStore, StoreRefused, StoreUnavailable
from settings.aws import client
from settings.model import S3_SECONDS
from tests.emails.conftest import land
from tests.support.stage import new_stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from emails.claim_tokens import Tokens
    from emails.email import Email
    from emails.store import Row
    from settings import Settings

    Step = Callable[[str], Send | RetryLater | Done]


class Ending(NamedTuple):
    """The error that a provider raises, the outcome that follows, and the row's status then."""

    error: Exception | None
    outcome: RetryLater | Done
    status: str


each_ending = pytest.mark.parametrize(
    "ending",
    [
        Ending(None, Done(EmailStatus.SENT, provider="stub"), "Sent"),
        Ending(PermanentError("no"), Done(EmailStatus.FAILED, "no", "stub"), "Failed"),
        Ending(UnknownResultError("?"), Done(EmailStatus.UNKNOWN, "?", "stub"), "Unknown"),
        Ending(TemporaryError("busy", 900), RetryLater(900, "busy (attempt 1)"), "Pending"),
    ],
    ids=lambda ending: ending.status,
)

SECRET = "To: ada@example.com, the password is 1234"


class Recorder:
    """A provider that records what it sent, and raises the errors that the test gives it."""

    name = "stub"
    longest_send = 5.0
    max_message_bytes = None
    response = "accepted"

    def __init__(self, *errors: Exception | None) -> None:
        self.sent: list[str] = []
        self.emails: list[Email] = []
        self.errors = list(errors)
        self.meanwhile: Callable[[], object] = lambda: None

    def send(self, email: Email) -> Receipt:
        self.sent.append(email.id)
        self.emails.append(email)
        self.meanwhile()
        if self.errors and (error := self.errors.pop(0)):
            raise error
        return Receipt(self.name, f"id-{len(self.sent)}", self.response)


class Clock:
    """A clock that moves only when somebody sleeps or sets it ahead."""

    def __init__(self) -> None:
        self.started = time.time()
        self.ahead = 0.0

    def time(self) -> float:
        return self.started + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += seconds


class FailingStore(EmailStore):
    """A store that is unavailable for a number of writes after the claim, which may be infinite."""

    def __init__(self, store: EmailStore, failures: float) -> None:
        super().__init__(store._client, store.table)
        self.failures = failures
        self.failed = 0

    def _move_claimed(self, *arguments: Any, **options: Any) -> None:
        if self.failed < self.failures:
            self.failed += 1
            raise StoreUnavailable("away")
        super()._move_claimed(*arguments, **options)


@pytest.fixture(scope="module")
def settings(emulator: str) -> Settings:
    """Return the settings of one table for all tests, in which each row has its own id."""
    return new_stage(emulator, "sender")


@pytest.fixture(scope="module")
def store(settings: Settings) -> EmailStore:
    return EmailStore.from_settings(settings)


@pytest.fixture
def provider() -> Recorder:
    return Recorder()


@pytest.fixture
def sender(store: EmailStore, settings: Settings, provider: Recorder) -> Sender:
    return Sender(store, {"stub": provider}, settings)


@pytest.fixture(params=["load", "send"])
def settle(sender: Sender, request: pytest.FixtureRequest) -> Step:
    """Return either step. Both settle emails that need not be sent."""
    step: Step = getattr(sender, request.param)
    return step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("emails.sender", "emails.store.rows"):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


def stands(store: EmailStore, row: dict[str, Any]) -> dict[str, Any]:
    found = store.get(row["EmailId"])
    assert found is not None
    return found


def iso(seconds_from_now: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds_from_now, UTC).isoformat()


def make_due(store: EmailStore, row: dict[str, Any]) -> None:
    store._client.update_item(
        TableName=store.table, Key={"EmailId": {"S": row["EmailId"]}}, UpdateExpression="REMOVE NextAttemptAt"
    )


def test_a_pending_email_is_sent_once_however_often_it_is_asked_for(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put(row)
    assert isinstance(sender.load(row["EmailId"]), Send)
    assert str(sender.send(row["EmailId"])) == "Sent"
    assert str(sender.send(row["EmailId"])) == "already Sent"
    assert str(sender.load(row["EmailId"])) == "already Sent"
    assert provider.sent == [row["EmailId"]]
    sent = stands(store, row)
    assert (sent["EmailStatus"], sent["Provider"], sent["ProviderMessageId"]) == ("Sent", "stub", "id-1")
    assert sent["Attempts"] == 1
    assert "FailureReason" not in sent


def test_of_many_duplicates_at_once_one_sends(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put(row)
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(sender.send, [row["EmailId"]] * 16))
    assert [str(outcome) for outcome in outcomes].count("Sent") == 1
    assert provider.sent == [row["EmailId"]]


def test_what_is_sent_is_what_the_claim_returned(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put(row)
    sender.load(row["EmailId"])
    store._client.put_item(
        TableName=store.table,
        Item={name: {"S": value} for name, value in row.items() if isinstance(value, str)}
        | {"Subject": {"S": "Corrected"}, "RecipientsTo": {"SS": ["grace@example.com"]}},
    )
    assert str(sender.send(row["EmailId"])) == "Sent"
    assert provider.emails[0].subject == "Corrected"
    assert [mailbox.username for mailbox in provider.emails[0].recipients] == ["grace"]


def test_settings_alone_make_a_delivery_that_sends(settings: Settings, store: EmailStore, row: dict[str, Any]) -> None:
    store.put(row)
    assert str(Sender.from_settings(settings).send(row["EmailId"])) == "Sent"


# There is no such row.


@pytest.mark.parametrize("step", ["load", "send", "preview"])
def test_no_such_row_is_told_apart(sender: Sender, store: EmailStore, provider: Recorder, step: str) -> None:
    with pytest.raises(EmailNotFound):
        getattr(sender, step)("no-such-row")
    assert provider.sent == []
    assert store.get("no-such-row") is None


# The row is invalid.


def test_a_row_that_cannot_be_mapped_is_failed_with_its_reason(
    settle: Step, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put({**row, "Sender": SECRET, "Subject": None})
    assert str(settle(row["EmailId"])) == "Failed: invalid row"
    failed = stands(store, row)
    assert failed["EmailStatus"] == "Failed"
    assert failed["FailureReason"].startswith("Subject: is missing; Sender: ")
    assert "ada@example.com, the" not in failed["FailureReason"]
    assert provider.sent == []
    assert str(settle(row["EmailId"])) == "already Failed"


def test_a_number_of_more_than_38_digits_is_read(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    """boto3 cannot read it (boto/boto3#4693)."""
    store.put(row | {"NextAttemptAt": Decimal("-1E+38"), "Price": Decimal("1E+40")})
    assert isinstance(sender.load(row["EmailId"]), Send)
    assert str(sender.send(row["EmailId"])) == "Sent"
    assert provider.sent == [row["EmailId"]]


@pytest.mark.parametrize("status", [None, "", ...], ids=["NULL", "empty", "missing"])
def test_a_row_without_a_status_is_failed_with_its_reason(
    settle: Step, store: EmailStore, provider: Recorder, row: dict[str, Any], status: object
) -> None:
    row["EmailStatus"] = status
    store.put({name: value for name, value in row.items() if value is not ...})
    assert str(settle(row["EmailId"])) == "Failed: invalid row"
    failed = stands(store, row)
    assert (failed["EmailStatus"], failed["FailureReason"]) == ("Failed", "EmailStatus: is missing")
    assert provider.sent == []


def test_the_provider_that_the_producer_wants_is_the_one_that_sends(
    store: EmailStore, settings: Settings, row: dict[str, Any]
) -> None:
    usual, wanted = Recorder(), Recorder()
    store.put({**row, "SendVia": "other"})
    both = settings.model_copy(update={"send_via": ("other",)})
    assert str(Sender(store, {"stub": usual, "other": wanted}, both).send(row["EmailId"])) == "Sent"
    assert (usual.sent, wanted.sent) == ([], [row["EmailId"]])


# A file is in S3.


FILE = {"name": "a.pdf", "content_type": "application/pdf", "s3_uri": "s3://files/mail/a.pdf"}


@pytest.fixture
def fetching(store: EmailStore, settings: Settings, provider: Recorder) -> Sender:
    """Return a sender that may fetch from one folder, in which there is one file."""
    s3 = client("s3", settings)
    s3.create_bucket(Bucket="files")
    s3.put_object(Bucket="files", Key="mail/a.pdf", Body=b"hello")
    allowed = settings.model_copy(update={"attachment_prefixes": ("s3://files/mail/",)})
    return Sender(store, {"stub": provider}, allowed)


def test_the_provider_is_given_the_content_of_a_file_in_s3(
    fetching: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put({**row, "Attachments": [FILE]})
    assert isinstance(fetching.load(row["EmailId"]), Send)
    assert str(fetching.send(row["EmailId"])) == "Sent"
    assert [attachment.body for attachment in provider.emails[0].attachments] == [b"hello"]


def test_a_file_that_is_not_there_is_failed_before_the_provider_is_asked(
    fetching: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put({**row, "Attachments": [{**FILE, "s3_uri": "s3://files/mail/none"}]})
    reason = "Attachments[0].s3_uri: S3 has no such object"
    assert str(fetching.send(row["EmailId"])) == f"Failed: {reason}"
    failed = stands(store, row)
    assert (failed["EmailStatus"], failed["FailureReason"]) == ("Failed", reason)
    assert provider.sent == []


def test_a_file_that_s3_does_not_give_now_is_tried_again_later(
    fetching: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def throttled(*_: object) -> Email:
        raise TemporaryError("S3 answered SlowDown", retry_after=900)

    monkeypatch.setattr("emails.attachments.fetch", throttled)
    store.put({**row, "Attachments": [FILE]})
    assert fetching.send(row["EmailId"]) == RetryLater(900, "S3 answered SlowDown (attempt 1)")
    assert (stands(store, row)["EmailStatus"], stands(store, row)["Attempts"]) == ("Pending", 1)
    assert provider.sent == []


@pytest.mark.parametrize("longest_send", [5.0, 50.0])
def test_files_are_fetched_under_the_claim_and_what_is_left_of_it_is_looked_at_after(  # noqa: PLR0913 (fixtures)
    fetching: Sender,
    provider: Recorder,
    row: dict[str, Any],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    longest_send: float,
) -> None:
    provider.longest_send = longest_send
    store, lease = fetching._store, fetching.settings.claim_lease
    asked: list[tuple[str, float]] = []

    def slow(_: object, email: Email, until: float) -> Email:
        claimed = stands(store, row)
        asked.append((claimed["EmailStatus"], float(claimed["ClaimExpiresAt"]) - until))
        clock.ahead += lease - longest_send + 1
        return email

    monkeypatch.setattr("emails.attachments.fetch", slow)
    store.put({**row, "Attachments": [FILE]})
    assert fetching.send(row["EmailId"]) == RetryLater(0, "there was too little time left to send it")
    assert asked == [("Sending", pytest.approx(max(S3_SECONDS, longest_send), abs=1))]
    assert stands(store, row)["EmailStatus"] == "Pending"
    assert provider.sent == []


# The status is Pending, and NextAttemptAt or SendAfter is in the future.


def test_a_claim_before_send_after_is_given_back_uncounted(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    row["SendAfter"] = iso(300)
    store.put(row)
    for _ in range(2):
        outcome = sender.send(row["EmailId"])
        assert isinstance(outcome, RetryLater)
        assert 290 < outcome.seconds <= 300
    pending = stands(store, row)
    assert (pending["EmailStatus"], pending["Attempts"]) == ("Pending", 0)
    assert 290 < int(pending["NextAttemptAt"]) - time.time() <= 300
    assert provider.sent == []


def test_an_email_whose_times_have_come_is_sent(sender: Sender, store: EmailStore, row: dict[str, Any]) -> None:
    store.put({**row, "SendAfter": iso(-1), "NextAttemptAt": int(time.time()), "ExpiresAt": iso(60)})
    assert str(sender.send(row["EmailId"])) == "Sent"


# The status is Sending, and the lease is still valid or has expired.


def test_an_email_whose_lease_is_expired_is_unknown_and_not_sent_again(
    settle: Step, store: EmailStore, provider: Recorder, clock: Clock, row: dict[str, Any]
) -> None:
    store.put(row)
    claim = store.claim(row["EmailId"], lease=60)
    clock.ahead = 60 + LEASE_GRACE_SECONDS + 1
    assert str(settle(row["EmailId"])) == "Unknown: the claim expired"
    unknown = stands(store, row)
    assert (unknown["EmailStatus"], unknown["ClaimedBy"]) == ("Unknown", claim.id)
    assert "may have accepted it" in unknown["FailureReason"]
    assert str(settle(row["EmailId"])) == "already Unknown"
    assert provider.sent == []


# ExpiresAt is in the past.


def test_an_email_past_its_expires_at_is_failed(
    settle: Step, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put({**row, "ExpiresAt": iso(-1), "SendAfter": iso(300)})
    assert str(settle(row["EmailId"])) == "Failed: expired"
    failed = stands(store, row)
    assert (failed["EmailStatus"], failed["FailureReason"]) == ("Failed", "expired")
    assert provider.sent == []


def test_an_email_that_expires_between_load_and_send_is_failed(
    sender: Sender, store: EmailStore, provider: Recorder, clock: Clock, row: dict[str, Any]
) -> None:
    store.put({**row, "ExpiresAt": iso(60)})
    assert isinstance(sender.load(row["EmailId"]), Send)
    clock.ahead = 1000
    assert str(sender.send(row["EmailId"])) == "Failed: expired"
    assert stands(store, row)["EmailStatus"] == "Failed"
    assert provider.sent == []


# The provider fails temporarily.


def test_a_temporary_failure_goes_back_to_pending_by_backoff(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def backoff(attempt: int, *limits: float) -> float:
        assert limits == (5, 900), "EMAIL_RETRY_DELAY and EMAIL_RETRY_DELAY_MAX"
        return 100 * attempt

    monkeypatch.setattr("emails.sender.full_jitter", backoff)
    provider.errors = [TemporaryError("throttled"), TemporaryError("busy")]
    store.put(row)
    for attempt, reason in ((1, "throttled (attempt 1)"), (2, "busy (attempt 2)")):
        assert sender.send(row["EmailId"]) == RetryLater(100 * attempt, reason)
        pending = stands(store, row)
        assert (pending["EmailStatus"], pending["Attempts"], pending["FailureReason"]) == ("Pending", attempt, reason)
        assert 100 * attempt - 20 < int(pending["NextAttemptAt"]) - time.time() <= 100 * attempt
        make_due(store, row)
    assert str(sender.send(row["EmailId"])) == "Sent"
    sent = stands(store, row)
    assert sent["Attempts"] == 3
    assert not {"FailureReason", "NextAttemptAt"} & sent.keys()
    assert provider.sent == [row["EmailId"]] * 3


def test_duplicates_of_a_temporary_failure_do_not_jump_the_queue(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    provider.errors = [TemporaryError("throttled", retry_after=60)]
    store.put(row)
    sender.send(row["EmailId"])
    before = stands(store, row)
    for step in (sender.load, sender.send):
        outcome = step(row["EmailId"])
        assert isinstance(outcome, RetryLater)
        assert outcome.seconds > 50
    assert stands(store, row) == before
    assert provider.sent == [row["EmailId"]]


def test_retry_after_is_honoured_where_it_is_longer_than_the_backoff(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    provider.errors = [TemporaryError("throttled", retry_after=4000)]
    store.put(row)
    outcome = sender.send(row["EmailId"])
    assert outcome == RetryLater(4000, "throttled (attempt 1)")
    assert 3990 < int(stands(store, row)["NextAttemptAt"]) - time.time() <= 4000


def test_a_temporary_failure_of_the_last_attempt_is_failed(
    store: EmailStore, settings: Settings, row: dict[str, Any]
) -> None:
    provider = Recorder(*[TemporaryError("throttled")] * 3)
    sender = Sender(store, {"stub": provider}, settings.model_copy(update={"max_attempts": 3}))
    store.put(row)
    for _ in range(2):
        assert isinstance(sender.send(row["EmailId"]), RetryLater)
        make_due(store, row)
    reason = "throttled (attempt 3, the last)"
    assert str(sender.send(row["EmailId"])) == f"Failed: {reason}"
    failed = stands(store, row)
    assert (failed["EmailStatus"], failed["FailureReason"], failed["Attempts"]) == ("Failed", reason, 3)
    assert str(sender.send(row["EmailId"])) == "already Failed"
    assert len(provider.sent) == 3


# The provider fails permanently.


def test_a_permanent_failure_is_failed(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    provider.errors = [PermanentError("the sender is not verified")]
    store.put(row)
    assert str(sender.send(row["EmailId"])) == "Failed: the sender is not verified"
    failed = stands(store, row)
    assert (failed["EmailStatus"], failed["FailureReason"]) == ("Failed", "the sender is not verified")
    assert failed["Attempts"] == 1
    assert str(sender.send(row["EmailId"])) == "already Failed"
    assert len(provider.sent) == 1


# It is unknown whether the provider accepted the email.


def test_a_send_without_an_answer_is_unknown_and_not_repeated(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    provider.errors = [UnknownResultError("the connection was lost after DATA")]
    store.put(row)
    assert str(sender.send(row["EmailId"])) == "Unknown: the connection was lost after DATA"
    unknown = stands(store, row)
    assert (unknown["EmailStatus"], unknown["FailureReason"]) == ("Unknown", "the connection was lost after DATA")
    assert str(sender.send(row["EmailId"])) == "already Unknown"
    assert len(provider.sent) == 1


@pytest.mark.parametrize("error", [KeyError(SECRET), RuntimeError(SECRET), TimeoutError(SECRET)], ids=repr)
def test_what_a_provider_did_not_foresee_is_unknown_and_its_text_is_nowhere(
    store: EmailStore, settings: Settings, row: dict[str, Any], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.DEBUG, logger="emails")
    store.put(row)
    outcome = Sender(store, {"stub": Recorder(error)}, settings).send(row["EmailId"])
    assert str(outcome) == f"Unknown: the provider raised {type(error).__name__}"
    unknown = stands(store, row)
    assert unknown["EmailStatus"] == "Unknown"
    assert SECRET not in f"{outcome} {unknown} {caplog.text}"
    assert f"the provider raised {type(error).__name__} in send (emails/test_sender.py:" in caplog.text


# Recording the result of a send fails.


@each_ending
def test_the_record_is_retried_until_dynamodb_is_back_within_the_lease(
    store: EmailStore, settings: Settings, clock: Clock, row: dict[str, Any], ending: Ending
) -> None:
    failing, provider = FailingStore(store, failures=5), Recorder(ending.error)
    store.put(row)
    assert Sender(failing, {"stub": provider}, settings).send(row["EmailId"]) == ending.outcome
    assert failing.failed == 5
    assert 0 < clock.ahead < settings.claim_lease, "it waits between its tries"
    assert stands(store, row)["EmailStatus"] == ending.status
    assert provider.sent == [row["EmailId"]]


def test_the_record_that_fails_past_the_lease_is_left_to_the_rule_for_expired_leases(
    sender: Sender, store: EmailStore, settings: Settings, clock: Clock, row: dict[str, Any]
) -> None:
    provider = Recorder()
    store.put(row)
    with pytest.raises(StoreUnavailable):
        Sender(FailingStore(store, failures=float("inf")), {"stub": provider}, settings).send(row["EmailId"])
    assert settings.claim_lease - 1 < clock.ahead < settings.claim_lease + 2
    assert stands(store, row)["EmailStatus"] == "Sending"
    clock.ahead += LEASE_GRACE_SECONDS + 1
    assert str(sender.send(row["EmailId"])) == "Unknown: the claim expired"
    assert stands(store, row)["EmailStatus"] == "Unknown"
    assert provider.sent == [row["EmailId"]]


def test_a_record_that_the_row_has_no_room_for_is_left_to_the_rule_for_expired_leases(
    sender: Sender, store: EmailStore, provider: Recorder, clock: Clock, row: dict[str, Any]
) -> None:
    store.put({**row, "BodyText": "x" * (409_600 - 450)})
    provider.response = "x" * 400
    with pytest.raises(StoreRefused):
        sender.send(row["EmailId"])
    assert stands(store, row)["EmailStatus"] == "Sending"
    clock.ahead = 1000
    assert str(sender.send(row["EmailId"])) == "Unknown: the claim expired"
    assert provider.sent == [row["EmailId"]]


def test_a_late_holder_moves_unknown_to_sent(
    sender: Sender, store: EmailStore, provider: Recorder, clock: Clock, row: dict[str, Any]
) -> None:
    def lease_ends() -> None:
        clock.ahead += 1000
        assert str(sender.send(row["EmailId"])) == "Unknown: the claim expired"

    provider.meanwhile = lease_ends
    store.put(row)
    assert str(sender.send(row["EmailId"])) == "Sent"
    sent = stands(store, row)
    assert (sent["EmailStatus"], sent["ProviderMessageId"]) == ("Sent", "id-1")
    assert "FailureReason" not in sent
    assert provider.sent == [row["EmailId"]]


def test_a_holder_that_is_later_than_an_operators_word_adds_its_receipt(
    sender: Sender, store: EmailStore, provider: Recorder, clock: Clock, row: dict[str, Any]
) -> None:
    def lease_ends() -> None:
        clock.ahead += 1000
        sender.load(row["EmailId"])
        store.resolve_sent(row["EmailId"])

    provider.meanwhile = lease_ends
    store.put(row)
    assert str(sender.send(row["EmailId"])) == "Sent"
    sent = stands(store, row)
    assert (sent["EmailStatus"], sent["Provider"], sent["ProviderMessageId"]) == ("Sent", "stub", "id-1")
    assert "FailureReason" not in sent


@pytest.mark.parametrize("error", [TemporaryError("busy"), PermanentError("no"), UnknownResultError("?")], ids=repr)
def test_a_late_holder_moves_unknown_to_nothing_but_sent(
    store: EmailStore, settings: Settings, clock: Clock, row: dict[str, Any], error: Exception
) -> None:
    provider = Recorder(error)
    late = Sender(store, {"stub": provider}, settings)

    def lease_ends() -> None:
        clock.ahead += 1000
        late.load(row["EmailId"])

    provider.meanwhile = lease_ends
    store.put(row)
    assert isinstance(late.send(row["EmailId"]), Done)
    assert stands(store, row)["EmailStatus"] == "Unknown"
    assert str(late.send(row["EmailId"])) == "already Unknown"


def test_a_holder_whose_claim_another_took_over_records_nothing(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    def operator_and_another_worker() -> None:
        store._client.delete_item(TableName=store.table, Key={"EmailId": {"S": row["EmailId"]}})
        store.put({**row, "EmailStatus": "Sent", "ClaimedBy": "another", "ProviderMessageId": "another's"})

    provider.meanwhile = operator_and_another_worker
    store.put(row)
    assert str(sender.send(row["EmailId"])) == "already Sent"
    assert stands(store, row)["ProviderMessageId"] == "another's"


# An answer is lost, so botocore repeats a request that has already taken effect.


def test_a_claim_whose_answer_was_lost_sends_once(
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_the_answer: Callable[..., list[Any]],
) -> None:
    store.put(row)
    taken = lose_the_answer(store)
    assert str(sender.send(row["EmailId"])) == "Sent"
    assert len(taken) == 1
    assert provider.sent == [row["EmailId"]]
    assert stands(store, row)["Attempts"] == 1


@each_ending
def test_a_record_whose_answer_was_lost_is_our_own_success(
    store: EmailStore,
    settings: Settings,
    row: dict[str, Any],
    lose_the_answer: Callable[..., list[Any]],
    ending: Ending,
) -> None:
    taken: list[Any] = []
    provider = Recorder(ending.error)
    provider.meanwhile = lambda: taken.append(lose_the_answer(store))
    store.put(row)
    assert Sender(store, {"stub": provider}, settings).send(row["EmailId"]) == ending.outcome
    assert [len(requests) for requests in taken] == [1]
    written = stands(store, row)
    assert (written["EmailStatus"], written["Attempts"]) == (ending.status, 1)
    assert provider.sent == [row["EmailId"]]


# A claim gets no answer at all, so the message carries the claim's token when it is delivered again.


EVERY = 3  # the number of botocore's attempts


class Lost(NamedTuple):
    """A claim that got no answer: the tokens that the message then carries, and the requests that were lost."""

    tokens: Tokens
    requests: list[Any]


@pytest.fixture
def lose_a_claim(
    sender: Sender, store: EmailStore, row: dict[str, Any], lose_the_answer: Callable[..., list[Any]]
) -> Callable[..., Lost]:
    def lose(tokens: Tokens = (), *, late: bool = False) -> Lost:
        requests = lose_the_answer(store, times=EVERY, late=late)
        with pytest.raises(ClaimUnanswered) as raised:
            sender.send(row["EmailId"], tokens=tokens)
        assert len(requests) == EVERY
        return Lost(raised.value.tokens, requests)

    store.put(row)
    return lose


@pytest.mark.parametrize(
    ("ahead", "others"),
    [(0, "RetryLater"), (1000, None), (1000, "Done")],
    ids=["lease alive", "lease expired", "called Unknown by another message"],
)
def test_a_claim_whose_every_answer_was_lost_is_taken_over_and_counted_once(  # noqa: PLR0913 (fixtures)
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
    *,
    clock: Clock,
    ahead: float,
    others: str | None,
) -> None:
    tokens = lose_a_claim().tokens
    lost = stands(store, row)
    assert (lost["EmailStatus"], lost["Attempts"], provider.sent) == ("Sending", 1, [])
    clock.ahead = ahead
    if others:
        assert type(sender.send(row["EmailId"])).__name__ == others
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "Sent"
    sent = stands(store, row)
    assert (sent["EmailStatus"], sent["Attempts"], provider.sent) == ("Sent", 1, [row["EmailId"]])
    assert sent["ClaimedBy"] != lost["ClaimedBy"]
    assert sent["ClaimExpiresAt"] == int(clock.time() + sender.settings.claim_lease)
    assert "FailureReason" not in sent


def test_of_two_deliveries_of_one_copy_one_takes_the_claim_over_and_the_other_waits_for_the_lease(
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
) -> None:
    others: list[RetryLater | Done] = []
    tokens = lose_a_claim().tokens
    provider.meanwhile = lambda: others.append(sender.send(row["EmailId"], tokens=tokens))
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "Sent"
    assert [type(other) for other in others] == [RetryLater]
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "already Sent"
    assert provider.sent == [row["EmailId"]]


def test_of_many_deliveries_of_one_copy_at_once_one_sends(
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
) -> None:
    tokens = lose_a_claim().tokens
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: sender.send(row["EmailId"], tokens=tokens), range(16)))
    assert [str(outcome) for outcome in outcomes].count("Sent") == 1
    assert provider.sent == [row["EmailId"]]


def test_a_lost_claim_that_arrives_before_the_next_delivery_is_taken_over(
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
) -> None:
    tokens, requests = lose_a_claim(late=True)
    assert stands(store, row) == row
    land(store, requests[0])
    assert stands(store, row)["EmailStatus"] == "Sending"
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "Sent"
    assert (provider.sent, stands(store, row)["Attempts"]) == ([row["EmailId"]], 1)


def test_a_lost_claim_that_arrives_between_the_look_and_the_claim_is_looked_at_again(
    store: EmailStore,
    settings: Settings,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
) -> None:
    class Beaten(EmailStore):
        def claim(self, email_id: str, *, lease: float) -> Claim:
            land(store, requests[0])
            return super().claim(email_id, lease=lease)

    tokens, requests = lose_a_claim(late=True)
    sender = Sender(Beaten(store._client, store.table), {"stub": provider}, settings)
    assert sender.send(row["EmailId"], tokens=tokens) == RetryLater(0, "the row has changed")
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "Sent"
    assert (provider.sent, stands(store, row)["Attempts"]) == ([row["EmailId"]], 1)


def test_a_lost_claim_that_arrives_while_the_next_delivery_sends_or_later_changes_nothing(
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
) -> None:
    tokens, requests = lose_a_claim(late=True)
    provider.meanwhile = lambda: land(store, requests[0])
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "Sent"
    sent = stands(store, row)
    land(store, requests[0])
    assert stands(store, row) == sent
    assert (provider.sent, sent["Attempts"]) == ([row["EmailId"]], 1)


def test_a_lost_claim_that_arrives_after_the_email_was_given_back_is_taken_over(
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
) -> None:
    provider.errors = [TemporaryError("busy")]
    tokens, requests = lose_a_claim(late=True)
    assert isinstance(sender.send(row["EmailId"], tokens=tokens), RetryLater)
    make_due(store, row)
    land(store, requests[0])
    assert stands(store, row)["EmailStatus"] == "Sending"
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "Sent"
    assert stands(store, row)["Attempts"] == 2


def test_a_lost_claim_that_arrives_before_the_email_is_due_again_changes_nothing(
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
) -> None:
    provider.errors = [TemporaryError("busy", retry_after=60)]
    tokens, requests = lose_a_claim(late=True)
    sender.send(row["EmailId"], tokens=tokens)
    pending = stands(store, row)
    land(store, requests[0])
    assert stands(store, row) == pending


@pytest.mark.parametrize("late", [False, True], ids=["arrived", "arrives later"])
def test_a_take_over_whose_every_answer_was_lost_is_taken_over_itself(  # noqa: PLR0913 (fixtures)
    sender: Sender,
    store: EmailStore,
    provider: Recorder,
    row: dict[str, Any],
    lose_a_claim: Callable[..., Lost],
    *,
    late: bool,
) -> None:
    tokens, requests = lose_a_claim(lose_a_claim().tokens, late=late)
    assert len(tokens) == 2
    if late:
        land(store, requests[0])
    assert str(sender.send(row["EmailId"], tokens=tokens)) == "Sent"
    assert (provider.sent, stands(store, row)["Attempts"]) == ([row["EmailId"]], 1)


def test_a_claim_that_somebody_called_unknown_before_its_answer_came_is_taken_over(
    sender: Sender, store: EmailStore, provider: Recorder, clock: Clock, row: dict[str, Any]
) -> None:
    def answer_late(request: Any, **_: Any) -> None:
        store._client.meta.events.unregister(event, answer_late)
        land(store, request)
        clock.ahead += 1000
        assert str(sender.load(row["EmailId"])) == "Unknown: the claim expired"

    event = "before-send.dynamodb.UpdateItem"
    store.put(row)
    store._client.meta.events.register(event, answer_late)
    with pytest.raises(ClaimUnanswered) as raised:
        sender.send(row["EmailId"])
    assert str(sender.send(row["EmailId"], tokens=raised.value.tokens)) == "Sent"
    assert provider.sent == [row["EmailId"]]


def test_while_dynamodb_is_away_a_message_gets_no_more_tokens(
    store: EmailStore, settings: Settings, provider: Recorder, no_backoff_of_botocore: None
) -> None:
    # The discard port, where nothing listens.
    away = settings.model_copy(update={"endpoint_url": HttpUrl("http://127.0.0.1:9")})
    sender = Sender(EmailStore.from_settings(away), {"stub": provider}, settings)
    with pytest.raises(StoreUnavailable) as raised:
        sender.send("any", tokens=(new_token(),))
    assert not isinstance(raised.value, ClaimUnanswered)


def test_a_message_without_the_token_of_a_lost_claim_waits_for_the_lease_and_ends_it_as_unknown(
    sender: Sender, provider: Recorder, clock: Clock, row: dict[str, Any], lose_a_claim: Callable[..., Lost]
) -> None:
    lose_a_claim()
    other = (new_token(),)
    assert isinstance(sender.send(row["EmailId"], tokens=other), RetryLater)
    clock.ahead = 1000
    assert str(sender.send(row["EmailId"], tokens=other)) == "Unknown: the claim expired"
    assert provider.sent == []


def test_what_a_row_says_of_its_claim_is_no_token_for_it(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    others: list[RetryLater | Done] = []

    def read_and_forge() -> None:
        others.append(sender.send(row["EmailId"], tokens=(str(stands(store, row)["ClaimedBy"]),)))

    provider.meanwhile = read_and_forge
    store.put(row)
    assert str(sender.send(row["EmailId"])) == "Sent"
    assert [type(other) for other in others] == [RetryLater]
    assert provider.sent == [row["EmailId"]]


# The lease is too short for the provider.


def test_a_claim_that_took_too_long_is_given_back_uncounted_before_the_first_byte(
    store: EmailStore, settings: Settings, clock: Clock, provider: Recorder, row: dict[str, Any]
) -> None:
    class Slow(EmailStore):
        def claim(self, email_id: str, *, lease: float) -> Claim:
            claim = super().claim(email_id, lease=lease)
            clock.ahead += lease - Recorder.longest_send + 1
            return claim

    store.put(row)
    slow = Sender(Slow(store._client, store.table), {"stub": provider}, settings)
    assert slow.send(row["EmailId"]) == RetryLater(0, "there was too little time left to send it")
    assert provider.sent == []
    pending = stands(store, row)
    assert (pending["EmailStatus"], pending["Attempts"]) == ("Pending", 0)
    assert str(Sender(store, {"stub": provider}, settings).send(row["EmailId"])) == "Sent"
    assert stands(store, row)["Attempts"] == 1


def test_a_process_that_may_end_before_the_provider_answers_gives_the_claim_back(
    store: EmailStore, settings: Settings, clock: Clock, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put(row)
    sender = Sender(store, {"stub": provider}, settings)
    outcome = sender.send(row["EmailId"], ends_at=clock.time() + Recorder.longest_send - 0.1)
    assert isinstance(outcome, RetryLater)
    assert provider.sent == []
    assert (stands(store, row)["EmailStatus"], stands(store, row)["Attempts"]) == ("Pending", 0)
    ends_at = clock.time() + Recorder.longest_send + 0.1
    assert str(sender.send(row["EmailId"], ends_at=ends_at)) == "Sent"


# DynamoDB throttles or is unavailable.


@pytest.mark.parametrize("step", ["load", "send", "preview"])
def test_while_dynamodb_is_away_nothing_is_claimed(
    settings: Settings, provider: Recorder, step: str, no_backoff_of_botocore: None
) -> None:
    # The discard port, where nothing listens.
    away = settings.model_copy(update={"endpoint_url": HttpUrl("http://127.0.0.1:9")})
    sender = Sender(EmailStore.from_settings(away), {"stub": provider}, settings)
    with pytest.raises(StoreUnavailable):
        getattr(sender, step)("any")
    assert provider.sent == []


def test_while_dynamodb_throttles_no_attempt_is_counted(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def throttled(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "UpdateItem")

    store.put(row)
    with monkeypatch.context() as patch:
        patch.setattr(store._client, "update_item", throttled)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="ProvisionedThroughputExceeded"):
                sender.send(row["EmailId"])
    assert stands(store, row) == row
    assert provider.sent == []
    assert str(sender.send(row["EmailId"])) == "Sent"


# The row changes between a read and a write.


def test_a_row_that_changed_after_the_look_is_looked_at_again(
    store: EmailStore, settings: Settings, provider: Recorder, row: dict[str, Any]
) -> None:
    class Stale(EmailStore):
        def get(self, email_id: str) -> Row | None:
            return {**row, "ExpiresAt": iso(-60)}

    store.put(row)
    claim = store.claim(row["EmailId"], lease=60)
    outcome = Sender(Stale(store._client, store.table), {"stub": provider}, settings).load(row["EmailId"])
    assert outcome == RetryLater(0, "the row has changed")
    assert stands(store, row) == claim.row


def test_a_claim_lost_to_a_row_that_is_ready_again_is_tried_again(
    store: EmailStore, settings: Settings, provider: Recorder, row: dict[str, Any]
) -> None:
    class Beaten(EmailStore):
        def claim(self, email_id: str, *, lease: float) -> Claim:
            raise Conflict(row)

    beaten = Sender(Beaten(store._client, store.table), {"stub": provider}, settings)
    assert beaten.send(row["EmailId"]) == RetryLater(0, "the row has changed")
    assert provider.sent == []


@pytest.mark.parametrize(
    "changes",
    [
        {"NextAttemptAt": None},
        *(
            changes
            for changes in (
                {"NextAttemptAt": ""},
                {"EmailStatus": []},
                {"EmailStatus": "Sending", "ClaimExpiresAt": None},
            )
        ),
    ],
    ids=repr,
)
def test_no_row_is_put_off_by_0_seconds_again_and_again(
    sender: Sender, store: EmailStore, row: dict[str, Any], changes: dict[str, Any]
) -> None:
    store.put({**row, **changes})
    outcomes = [step(row["EmailId"]) for _ in range(3) for step in (sender.load, sender.send)]
    assert isinstance(outcomes[-1], Done)


# An email is cancelled.


@pytest.mark.parametrize("status", [*EmailStatus, "Waiting"])
def test_only_a_pending_email_is_cancelled(sender: Sender, store: EmailStore, row: dict[str, Any], status: str) -> None:
    row["EmailStatus"] = str(status)
    store.put(row)
    assert sender.cancel(row["EmailId"], "cancelled") == (status == "Pending")
    if status == "Pending":
        cancelled = stands(store, row)
        assert (cancelled["EmailStatus"], cancelled["FailureReason"]) == ("Failed", "cancelled")
        assert str(sender.send(row["EmailId"])) == "already Failed"
    else:
        assert stands(store, row) == row


# A preview changes nothing.


def test_a_preview_of_a_row_that_is_to_end_writes_nothing(
    sender: Sender, store: EmailStore, row: dict[str, Any]
) -> None:
    row |= {"ExpiresAt": "2026-01-31T12:00:00Z"}
    store.put(row)
    assert isinstance(sender.preview(row["EmailId"]), End)
    assert stands(store, row) == row


def test_a_preview_of_an_email_that_may_be_sent_has_the_email_and_its_provider(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put(row)
    preview = sender.preview(row["EmailId"])
    assert isinstance(preview, Send)
    assert sender.provider(preview.email) is provider
    assert stands(store, row) == row


# EMAIL_REDIRECT_TO

ME = "me@example.com"


@pytest.fixture
def redirecting(store: EmailStore, settings: Settings, provider: Recorder) -> Sender:
    return Sender(store, {"stub": provider}, settings.model_copy(update={"redirect_to": ME}))


def test_a_redirected_email_reaches_only_that_address_and_names_its_recipients_in_a_header(
    redirecting: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    to, cc, bcc = "ada@example.org", "bob@example.org", "carol@example.org"
    store.put(row | {"RecipientsTo": [to], "RecipientsCc": [cc], "RecipientsBcc": [bcc]})
    assert redirecting.send(row["EmailId"]) == Done(EmailStatus.SENT, provider="stub")
    (email,) = provider.emails
    assert [mailbox.addr_spec for mailbox in email.recipients] == [ME]
    assert _destination(email) == {"ToAddresses": [], "CcAddresses": [], "BccAddresses": [ME]}
    message = message_from_bytes(to_mime(email))
    assert (message["To"], message["Cc"]) == (to, cc)
    assert message["X-Redirected-From"] == f"{to}, {cc}, {bcc}"
    assert stands(store, row)["RedirectedTo"] == ME


@pytest.mark.parametrize("error", [PermanentError("no"), UnknownResultError("?"), TemporaryError("busy", 900)])
def test_the_reason_of_a_redirected_email_says_so_without_the_address(
    redirecting: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any], error: Exception
) -> None:
    provider.errors = [error]
    store.put(row)
    outcome = redirecting.send(row["EmailId"])
    reason = stands(store, row)["FailureReason"]
    assert reason.startswith(f"{error}; the email was redirected")
    assert "; the email was redirected" in str(outcome)
    assert ME not in f"{reason}{outcome}"


def test_no_row_can_redirect_an_email(
    sender: Sender, store: EmailStore, provider: Recorder, row: dict[str, Any]
) -> None:
    store.put(row | {"redirect_to": ME, "_redirected_to": ME, "RedirectedTo": ME})
    sender.send(row["EmailId"])
    assert ME not in [mailbox.addr_spec for mailbox in provider.emails[0].recipients]


def test_a_resent_row_no_longer_says_that_it_was_redirected(store: EmailStore, row: dict[str, Any]) -> None:
    store.put(row | {"EmailStatus": "Failed", "RedirectedTo": ME})
    store.resend(row["EmailId"])
    assert "RedirectedTo" not in stands(store, row)


def test_every_outcome_of_a_worker_that_redirects_says_so(
    redirecting: Sender, sender: Sender, store: EmailStore, row: dict[str, Any]
) -> None:
    store.put(row)
    with structlog.contextvars.bound_contextvars():
        steps.send(redirecting, row["EmailId"], Carried())
        bound = structlog.contextvars.get_contextvars()
        assert bound["redirected"] is True
        assert ME not in str(bound)
        structlog.contextvars.clear_contextvars()
        steps.send(sender, row["EmailId"], Carried())
        assert "redirected" not in structlog.contextvars.get_contextvars()
        structlog.contextvars.clear_contextvars()
