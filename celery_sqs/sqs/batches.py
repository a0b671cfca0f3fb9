"""Packs entries into SQS's batch requests, reads the result of each entry, and retries those that fail."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from celery_sqs.sqs.errors import ACCESS_DENIED, NO_SUCH_QUEUE, code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

MAX_ENTRIES = 10  # SQS Developer Guide, "Amazon SQS message quotas": messages per batch
MAX_MESSAGE_BYTES = 1_048_576  # the same page, "Message size": the limit for a message, and for a whole batch

ATTEMPTS = 5
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 20.0


def pack(
    entries: Iterable[T], size: Callable[[T], int], most: float = MAX_ENTRIES, most_bytes: int = MAX_MESSAGE_BYTES
) -> Iterator[list[T]]:
    """Yield the entries in order, in batches of at most `most` entries and `most_bytes` bytes.

    The defaults are SQS's limits, 10 entries and 1 MiB. An entry larger than that gets a batch of its own.
    """
    batch: list[T] = []
    left = most_bytes
    for entry in entries:
        needed = size(entry)
        if batch and (len(batch) == most or needed > left):
            yield batch
            batch, left = [], most_bytes
        batch.append(entry)
        left -= needed
    if batch:
        yield batch


def numbered(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the batch with an id for each entry. SQS's response refers to entries by these ids."""
    return [{"Id": str(number), **entry} for number, entry in enumerate(batch)]


def entry_codes(batch: list[dict[str, Any]], answer: dict[str, Any]) -> list[str]:
    """Return SQS's error code for each entry of a numbered batch, or "" for an entry that succeeded.

    If the answer leaves an entry out, its code is `Missing`.
    """
    codes = {success["Id"]: "" for success in answer.get("Successful", ())}
    codes |= {failure["Id"]: failure["Code"] for failure in answer.get("Failed", ())}
    return [codes.get(str(number), "Missing") for number in range(len(batch))]


def backoff_seconds(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row: 0.1, doubled each time, and at most 20."""
    return min(FIRST_BACKOFF_SECONDS * 2 ** (failures - 1), LAST_BACKOFF_SECONDS) if failures else 0


def try_batch(
    request: Callable[[list[T]], list[str]], batch: list[T], is_final: Callable[[str], bool] = lambda _: False
) -> list[str]:
    """Make the request. Return the error code of each entry, or "" if SQS confirmed it.

    `is_final` says whether a retry cannot help after a code. If SQS refuses the whole request with such a code, a
    single entry may be the cause, so each entry is tried by itself.
    """
    try:
        return request(batch)
    except (BotoCoreError, ClientError) as error:
        code = code_of(error) or type(error).__name__
    if len(batch) > 1 and code not in NO_SUCH_QUEUE | ACCESS_DENIED and is_final(code):
        return [try_batch(request, [entry])[0] for entry in batch]
    return [code] * len(batch)


def until_confirmed(request: Callable[[list[T]], list[str]], batch: list[T]) -> list[str]:
    """Make the request, and repeat it for entries that fail, up to five times in all.

    Return the error code of each entry, or "" if SQS confirmed it.
    """
    codes = ["Missing"] * len(batch)
    for attempt in range(1, ATTEMPTS + 1):
        failed = [number for number, code in enumerate(codes) if code]
        for number, code in zip(failed, try_batch(request, [batch[number] for number in failed]), strict=True):
            codes[number] = code
        if not any(codes) or attempt == ATTEMPTS:
            break
        time.sleep(random.uniform(0, backoff_seconds(attempt)))  # noqa: S311 (it spreads the load and is no secret)
    return codes
