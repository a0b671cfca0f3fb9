"""While only DynamoDB is unavailable, emails wait in SQS, and nothing is counted or given up."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from emails import claim_tokens
from emails.dead_letters import dead_letters
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.store import EmailStore
from settings.aws import client
from tests.emails.callbacks.notifications import RECIPIENT, by_sns, event
from tests.support.celery_programs import running_celery
from tests.support.dynamodb_requests import updates_in
from tests.support.pipeline import another_program
from tests.support.proxy import Dropped, Proxy, Unanswered, running
from tests.support.sqs import message_counts
from tests.support.stage import environment_of, new_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_sqs import SQSClient

    from settings import Settings

    Row = dict[str, Any]

pytestmark = pytest.mark.slow


class Fate:
    """Closes every connection to DynamoDB while `drops_dynamodb` is set.

    While claims are not answered, it closes their connections after DynamoDB has taken the claims.
    """

    def __init__(self) -> None:
        self.drops_dynamodb = False
        self.claims_are_answered = True
        self.claims: Counter[str] = Counter()
        """How often each claim was sent that got no answer."""
        self.copies: list[dict[str, Any]] = []
        """The delayed messages."""
        self.refused = 0
        self.delays: list[int] = []
        """The DelaySeconds of each message that was sent."""
        self.reprs: list[str] = []
        """What their headers, and so events, show of their arguments."""

    def __call__(self, service: str, action: str, body: bytes) -> str:
        if service.startswith("DynamoDB") and self.drops_dynamodb:
            self.refused += 1
            raise Dropped
        claims = [update.claim_id for update in updates_in(action, body) if update.claim_id]
        if claims and not self.claims_are_answered:
            self.claims.update(claims)
            raise Unanswered
        if action == "SendMessageBatch":
            entries = json.loads(body)["Entries"]
            self.delays += [entry.get("DelaySeconds", 0) for entry in entries]
            self.copies += [json.loads(entry["MessageBody"]) for entry in entries if entry.get("DelaySeconds")]
            self.reprs += [json.loads(entry["MessageBody"])["headers"]["argsrepr"] for entry in entries]
        return ""


@pytest.fixture
def fate() -> Fate:
    return Fate()


@pytest.fixture
def cut_off(worked: Settings, fate: Fate) -> Iterator[Settings]:
    """Start a worker, and then cut it off from DynamoDB. Return settings that bypass the proxy."""
    fate.drops_dynamodb = True
    yield worked
    fate.drops_dynamodb = False


@pytest.fixture
def worked(emulator: str, fate: Fate, tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Settings]:
    """Start a worker. Return settings that bypass the proxy."""
    settings = new_stage(emulator)
    log_file = tmp_path / "worker.log"
    with running(Proxy(emulator, fate)) as proxy:
        environment = environment_of(settings, EMAIL_ENDPOINT_URL=proxy.url, EMAIL_STUB_OUTBOX=str(tmp_path / "outbox"))
        with running_celery("worker", "--loglevel", "INFO", log_file=log_file, environment=environment):
            wait_until(lambda: " ready." in log_file.read_text())
            yield settings


def count_messages(sqs: SQSClient, settings: Settings) -> int:
    urls = [sqs.get_queue_url(QueueName=queue)["QueueUrl"] for queue in settings.queues]
    return sum(sum(message_counts(sqs, url)) for url in urls)


def test_emails_wait_in_sqs_while_dynamodb_is_unavailable_and_are_sent_when_it_is_back(
    cut_off: Settings, fate: Fate, row: Row, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    sqs, store = client("sqs", cut_off), EmailStore.from_settings(cut_off)
    rows = [row | {"EmailId": f"email-{number}"} for number in range(5)]
    for each in rows:
        store.put(each)
    enqueue_ids(find_raw_queue(cut_off), [each["EmailId"] for each in rows])

    def found() -> list[Row]:
        return [store.get(each["EmailId"]) or {} for each in rows]

    wait_until(lambda: fate.refused and any(fate.delays), what="a delayed copy")
    assert count_messages(sqs, cut_off) >= len(rows), "each email has a message"
    assert found() == rows, "nothing was claimed, and no attempt counted"
    fate.drops_dynamodb = False
    wait_until(lambda: {each["EmailStatus"] for each in found()} == {"Sent"})
    assert [each["Attempts"] for each in found()] == [1] * len(rows)
    assert len(list((tmp_path / "outbox").iterdir())) == len(rows)
    wait_until(lambda: count_messages(sqs, cut_off) == 0)
    assert list(dead_letters(sqs, cut_off)) == []


def test_a_callback_waits_too_and_shows_nobody_s_address_meanwhile(
    cut_off: Settings, fate: Fate, row: Row, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    sqs, store = client("sqs", cut_off), EmailStore.from_settings(cut_off)
    store.put(row | {"EmailStatus": "Sent"})
    url = sqs.get_queue_url(QueueName=cut_off.callbacks_queue)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=by_sns(event("Delivery", row["EmailId"])))
    wait_until(lambda: any(fate.delays), what="a delayed copy")
    assert all(shown.startswith("(<body of ") for shown in fate.reprs)
    fate.drops_dynamodb = False
    wait_until(lambda: (store.get(row["EmailId"]) or {})["EmailStatus"] == "Delivered")
    assert RECIPIENT not in (tmp_path / "worker.log").read_text()


def test_an_email_waits_however_often_it_has_waited(
    cut_off: Settings, fate: Fate, wait_until: Callable[..., None]
) -> None:
    sqs = client("sqs", cut_off)
    tasks = ["tasks.load_email", "tasks.send_email"]
    with another_program(cut_off) as program:
        for task in tasks:
            program.send_task(task, ["email-1"], queue=cut_off.tasks_queue, retries=50)

    def delayed() -> int:
        return sum(delay > 0 for delay in fate.delays)

    wait_until(lambda: delayed() + len(list(dead_letters(sqs, cut_off))) == len(tasks))
    assert list(dead_letters(sqs, cut_off)) == []
    wait_until(lambda: count_messages(sqs, cut_off) == len(tasks), what="the copies alone are left")


def test_emails_whose_claims_got_no_answer_are_sent_once_and_counted_once(
    worked: Settings, fate: Fate, row: Row, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    sqs, store = client("sqs", worked), EmailStore.from_settings(worked)
    rows = [row | {"EmailId": f"email-{number}"} for number in range(10)]
    for each in rows:
        store.put(each)

    def found() -> list[Row]:
        return [store.get(each["EmailId"]) or {} for each in rows]

    fate.claims_are_answered = False
    enqueue_ids(find_raw_queue(worked), [each["EmailId"] for each in rows])
    wait_until(lambda: len({copy["body"] for copy in fate.copies}) == len(rows), what="a delayed copy of each")
    assert {(each["EmailStatus"], each["Attempts"]) for each in found()} == {("Sending", 1)}
    # Some are also taken over without an answer.
    wait_until(lambda: len(fate.claims) > len(rows), what="a claim that got no answer after another")
    fate.claims_are_answered = True
    wait_until(lambda: {each["EmailStatus"] for each in found()} == {"Sent"})
    assert [each["Attempts"] for each in found()] == [1] * len(rows)
    assert len(list((tmp_path / "outbox").iterdir())) == len(rows)
    tokens = {token for copy in fate.copies for token in claim_tokens.from_text(copy["headers"].get("claim_tokens"))}
    published = {claim_tokens.claim_id(token) for token in tokens}
    assert len(published) >= len(rows)
    assert not published & {each["ClaimedBy"] for each in found()}, "nothing is sent under a published claim"
    wait_until(lambda: count_messages(sqs, worked) == 0)


def test_a_copy_with_tokens_of_claims_has_the_arguments_that_older_workers_know(
    worked: Settings, fate: Fate, row: Row, wait_until: Callable[..., None]
) -> None:
    store = EmailStore.from_settings(worked)
    store.put(row)
    fate.claims_are_answered = False
    enqueue_ids(find_raw_queue(worked), [row["EmailId"]])
    wait_until(lambda: fate.copies)
    fate.claims_are_answered = True
    (copy,) = fate.copies[:1]
    assert json.loads(copy["body"])[:2] == [[row["EmailId"], None], {}]
    tokens = claim_tokens.from_text(copy["headers"]["claim_tokens"])
    assert [claim_tokens.claim_id(token) for token in tokens] == list(fate.claims)[:1]


def test_a_task_that_knows_nothing_of_the_tokens_keeps_them(
    worked: Settings, fate: Fate, wait_until: Callable[..., None]
) -> None:
    with another_program(worked) as program:
        headers = {"claim_tokens": claim_tokens.new_token()}
        program.send_task("tasks.load_email", ["no-such-row"], queue=worked.tasks_queue, headers=headers)
    wait_until(lambda: len(fate.copies) > 1)
    assert [copy["headers"]["claim_tokens"] for copy in fate.copies[:2]] == [headers["claim_tokens"]] * 2
