"""What every table has: items to and from Python, and botocore's errors as the store's own."""

from __future__ import annotations

from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Row = dict[str, Any]

# DynamoDB's answers that no repetition changes (Amazon DynamoDB Developer Guide, "Error handling").
_FINAL_ERRORS = frozenset({"ItemCollectionSizeLimitExceededException", "SerializationException", "ValidationException"})

serialize = TypeSerializer().serialize


class _Deserializer(TypeDeserializer):
    """Reads what DynamoDB writes out in more than 38 digits, such as 1E+38: boto3 raises Rounded (boto/boto3#4693)."""

    def _deserialize_n(self, value: str) -> Decimal:
        return Decimal(value)


_deserialize = _Deserializer().deserialize


class StoreUnavailable(Exception):
    """DynamoDB is throttled or away, or refuses us for now. Nothing is known to have changed."""


class ClaimUnanswered(StoreUnavailable):
    """A claim got no answer, so it may stand in the row, now or later. Nothing was sent under it, and nothing will be.

    Whoever has its token may take the claim over, so a message's delayed copy carries `tokens`.
    """

    def __init__(self, why: str, tokens: tuple[str, ...]) -> None:
        super().__init__(why)
        self.tokens = tokens


class StoreRefused(Exception):
    """DynamoDB will never take this write, such as one that grows the item past 400 KB."""


class Conflict(Exception):
    """The row is not where the transition starts. `row` is what stands there, or None for no row."""

    def __init__(self, row: Row | None) -> None:
        super().__init__()
        self.row = row


@contextmanager
def errors() -> Iterator[None]:
    """Turn botocore's errors into the store's."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ConditionalCheckFailedException":
            raise Conflict(to_row(error.response.get("Item"))) from None  # type: ignore[arg-type]  # not in its type
        if code in _FINAL_ERRORS:
            msg = f"DynamoDB refuses: {code}"
            raise StoreRefused(msg) from error
        msg = f"DynamoDB answers {code}"
        raise StoreUnavailable(msg) from error
    except BotoCoreError as error:
        msg = f"DynamoDB cannot be reached: {type(error).__name__}"
        raise StoreUnavailable(msg) from error


def to_row(item: Mapping[str, Any] | None) -> Row | None:
    return {name: _deserialize(value) for name, value in item.items()} if item else None
