"""What all tables share: it converts items to and from Python, and botocore's errors to the store's own."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Row = dict[str, Any]

# What an endpoint answers if it never takes this kind of request from us.
_DENIALS = frozenset({"AccessDeniedException", "UnknownOperationException"})

# Errors of DynamoDB that no retry can change (Amazon DynamoDB Developer Guide, "Error handling").
_FINAL_ERRORS = frozenset({"ItemCollectionSizeLimitExceededException", "SerializationException", "ValidationException"})

serialize = TypeSerializer().serialize

# Amazon DynamoDB Developer Guide, "Naming rules and data types" and "Service quotas".
MIN_EXPONENT, MAX_EXPONENT = -130, 125
MAX_DEPTH = 32


class _Deserializer(TypeDeserializer):
    """Reads numbers that DynamoDB writes with more than 38 digits, such as 1E+38.

    boto3 raises Rounded for them (boto/boto3#4693).
    """

    def _deserialize_n(self, value: str) -> Decimal:
        return Decimal(value)


_deserialize = _Deserializer().deserialize


class StoreUnavailable(Exception):
    """DynamoDB throttles, is unavailable, or refuses us for now. Nothing is known to have changed."""


class StoreDenied(StoreUnavailable):
    """DynamoDB refuses this kind of request, until somebody changes our permissions."""


class ClaimUnanswered(StoreUnavailable):
    """A claim got no answer, so it may be in the row now, or appear there later. Nothing is ever sent under it.

    Anybody who has its token may take the claim over, so the message's delayed copy carries `tokens`.
    """

    def __init__(self, why: str, tokens: tuple[str, ...]) -> None:
        super().__init__(why)
        self.tokens = tokens


class StoreRefused(Exception):
    """DynamoDB will never accept this write, for example because the item would be larger than 400 KB."""


class Conflict(Exception):
    """The row does not meet the write's condition. `row` is the row as it is, or None if there is no row."""

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
            raise StoreRefused(f"DynamoDB refused the request: {code}") from error
        if code in _DENIALS:
            raise StoreDenied(f"DynamoDB answered with {code}") from error
        raise StoreUnavailable(f"DynamoDB answered with {code}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"DynamoDB cannot be reached: {type(error).__name__}") from error


def to_item(row: Row) -> dict[str, Any]:
    """Return the row in DynamoDB's form.

    Raises:
        StoreRefused: DynamoDB would never accept it. The text names each wrong attribute and says what is wrong,
            without its value.
    """
    problems = {name: _problem(name) or _problem(value) for name, value in row.items()}
    if any(problems.values()):
        raise StoreRefused("; ".join(f"{name}: {problem}" for name, problem in problems.items() if problem))
    return {name: serialize(value) for name, value in row.items()}


def _problem(value: object, depth: int = 0) -> str:
    """Return why DynamoDB cannot hold the value, or ""."""
    if isinstance(value, (dict, list, set)):
        if depth == MAX_DEPTH:
            return f"has more than {MAX_DEPTH} levels, which DynamoDB cannot hold"
        inner = [part for item in value.items() for part in item] if isinstance(value, dict) else value
        return next(filter(None, (_problem(part, depth + 1) for part in inner)), "")
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and not _is_held(value):
        return "has a number that DynamoDB cannot hold (at most 38 digits, from 1E-130 to 9.9E+125)"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "has a lone surrogate, which UTF-8 cannot encode"
    return ""


def _is_held(number: float | Decimal) -> bool:
    try:
        held = Decimal(serialize(number)["N"])
    except (TypeError, ArithmeticError):
        return False
    return held.is_finite() and (not held or MIN_EXPONENT <= held.adjusted() <= MAX_EXPONENT)


def epoch_seconds(value: object) -> float:
    """Return the epoch seconds of an attribute that holds a number or an ISO 8601 string, or 0 for anything else."""
    if isinstance(value, Decimal):
        return float(value)
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        return 0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def to_row(item: Mapping[str, Any] | None) -> Row | None:
    return {name: _deserialize(value) for name, value in item.items()} if item else None
