"""A message as Lambda's event source mapping for SQS passes it, and what its copies carry."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from celery_sqs.sqs.dead_letters import fitting, string_attribute
from emails import claim_tokens
from emails.steps import Carried

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_sqs.sqs.dead_letters import Reason
    from emails.outcome import RetryLater

WAIT_ATTRIBUTE = "Wait"
# The tokens are not part of the wait, because older functions do not recognise a wait with an unknown field. They treat
# this attribute as the producer's, and so they keep it.
TOKENS_ATTRIBUTE = "ClaimTokens"
MESSAGE_ID = re.compile(r"[A-Za-z0-9-]{1,100}")  # SQS Developer Guide, "Message ID": at most 100 characters
ONE_OF_OURS = ("Reason", "Detail", WAIT_ATTRIBUTE, TOKENS_ATTRIBUTE)


@dataclass(frozen=True)
class Wait:
    """How long an email has waited already. Its message's delayed copies carry it."""

    message_id: str
    """The id of the message with which the email's journey began."""
    attempt: int
    """How often this step was tried, including this time."""
    missing_since: float | None = None
    """When the row was first found to be missing, in epoch seconds."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the wait that a copy of ours carries, or None: any sender to the queue can write the attribute."""
        try:
            wait = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        types = {"message_id": str, "attempt": int, "missing_since": int | float | None}
        if not all(isinstance(getattr(wait, name), kind) for name, kind in types.items()):
            return None
        return wait if MESSAGE_ID.fullmatch(wait.message_id) else None  # the id goes into the log


class Record:
    """One message of an event.

    Source of its format: AWS Lambda Developer Guide, "Using Lambda with Amazon SQS".
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.body: str = record["body"]
        self.receipt_handle: str = record["receiptHandle"]
        self.queue: str = record["eventSourceARN"].rpartition(":")[2]
        self._id: str = record["messageId"]
        self._group: str | None = record["attributes"].get("MessageGroupId")  # fair queues have groups too
        self._attributes = {name: _attribute(value) for name, value in record.get("messageAttributes", {}).items()}
        if self.is_fifo:  # it waits without copies, so SQS's own counters apply
            receives = int(record["attributes"]["ApproximateReceiveCount"])
            first = int(record["attributes"]["ApproximateFirstReceiveTimestamp"]) / 1000
            self.wait = Wait(self._id, receives, first)
        else:
            self.wait = Wait.parse(self._text(WAIT_ATTRIBUTE)) or Wait(self._id, 1)
        tokens = claim_tokens.from_text(self._text(TOKENS_ATTRIBUTE))
        self.carried = Carried(self.wait.attempt, self.wait.missing_since, tokens)

    @property
    def is_fifo(self) -> bool:
        return self.queue.endswith(".fifo")

    def copy(self, later: RetryLater) -> dict[str, Any] | None:
        """Return the parameters of SendMessage for a copy that carries the wait, or None if it has no room for that.

        It carries the tokens too, if there is room.
        """
        wait = Wait(self.wait.message_id, self.wait.attempt + 1, later.missing_since)
        ours = {WAIT_ATTRIBUTE: string_attribute(json.dumps(asdict(wait)))}
        if tokens := later.tokens or self.carried.tokens:
            ours[TOKENS_ATTRIBUTE] = string_attribute(claim_tokens.to_text(tokens))
        parameters = self._copy(ours)
        return parameters if WAIT_ATTRIBUTE in parameters["MessageAttributes"] else None

    def dead_letter(self, reason: Reason) -> dict[str, Any]:
        """Return the parameters of SendMessage for the dead-letter queue."""
        parameters = self._copy({"Reason": string_attribute(reason.code), "Detail": string_attribute(reason.detail)})
        if self.is_fifo:
            parameters["MessageDeduplicationId"] = self._id
        return parameters

    def _text(self, attribute: str) -> str:
        return str(self._attributes.get(attribute, {}).get("StringValue", ""))

    def _copy(self, ours: dict[str, Any]) -> dict[str, Any]:
        # The old wait is left out, so that a dead letter that is sent back to its queue starts afresh.
        producers = {name: value for name, value in self._attributes.items() if name not in ONE_OF_OURS}
        parameters = {"MessageBody": self.body, "MessageAttributes": fitting(self.body, ours, producers)}
        return parameters | ({"MessageGroupId": self._group} if self._group else {})


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attribute in boto3's form."""
    if value.get("binaryValue") is not None:
        return {"DataType": value["dataType"], "BinaryValue": base64.b64decode(value["binaryValue"])}
    return {"DataType": value["dataType"], "StringValue": value.get("stringValue") or ""}
