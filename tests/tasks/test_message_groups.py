"""A message group, of a fair queue or a FIFO one, stays with an email from the raw queue to the redrive."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from emails.dead_letters import dead_letter_queues
from settings.aws import client
from tests.support.pipeline import Pipeline, running_worker
from tests.support.proxy import Proxy, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Row = dict[str, Any]

GROUP = "customer-7"


class Sends:
    """Records the messages to the tasks queue and its dead-letter queue: task name, retries and message group."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str]] = []

    def __call__(self, service: str, action: str, body: bytes) -> str:
        if action in {"SendMessage", "SendMessageBatch"}:
            request = json.loads(body)
            if "_tasks" in request["QueueUrl"]:
                self.seen += map(self._read, request.get("Entries", [request]))
        return ""

    @staticmethod
    def _read(message: dict[str, Any]) -> tuple[str, int, str]:
        headers = json.loads(message["MessageBody"])["headers"]
        where = " (dead letter)" if "Reason" in message.get("MessageAttributes", {}) else ""
        return f"{headers['task']}{where}", headers["retries"], message.get("MessageGroupId", "")


@pytest.fixture
def sends() -> Sends:
    return Sends()


@pytest.fixture
def pipeline(emulator: str, tmp_path: Path, sends: Sends, wait_until: Callable[..., None]) -> Iterator[Pipeline]:
    """Return a pipeline that makes its requests through a proxy."""
    with ExitStack() as stack:
        proxy = stack.enter_context(running(Proxy(emulator, sends)))
        yield Pipeline(stack.enter_context(running_worker(proxy.url, tmp_path, {})), wait_until)


@pytest.mark.slow
def test_a_message_group_survives_every_hop(pipeline: Pipeline, sends: Sends, row: Row) -> None:
    row["RecipientsTo"] = ["temporary@example.com"]
    pipeline.send_raw(json.dumps({"email_id": row["EmailId"]}), MessageGroupId=GROUP)
    letter = pipeline.find_dead_letter(lambda letter: row["EmailId"] in letter.body)
    assert letter.reason == "EmailNotFound"
    pipeline.store.put(row)
    for queue in dead_letter_queues(client("sqs", pipeline.settings), pipeline.settings):
        with queue:
            assert all(not why for _, why in queue.redrive(lambda _: ""))
    pipeline.wait_until(lambda: pipeline.status(row) == "Sent")
    tasks = [task for task, _, _ in sends.seen]
    assert set(tasks) == {"tasks.load_email", "tasks.load_email (dead letter)", "tasks.send_email"}
    assert tasks.count("tasks.load_email") > 2, "the first, its retries, and the redriven one"
    assert ("tasks.send_email", 1, GROUP) in sends.seen, "a retry after the provider's temporary failure"
    assert {group for _, _, group in sends.seen} == {GROUP}
