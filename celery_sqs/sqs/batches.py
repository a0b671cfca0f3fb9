"""Entries of SQS's batch requests: how they are packed, and what becomes of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_ENTRIES = 10  # SQS Developer Guide, "Amazon SQS message quotas": messages a batch
MAX_MESSAGE_BYTES = 1_048_576  # the same page, "Message size": of a message, and of a whole batch


def pack(entries: Iterable[dict[str, Any]], size: Callable[[dict[str, Any]], int]) -> Iterator[list[dict[str, Any]]]:
    """The entries in order, in batches that SQS takes: at most 10 entries and 1 MiB each."""
    batch: list[dict[str, Any]] = []
    room = MAX_MESSAGE_BYTES
    for entry in entries:
        needed = size(entry)
        if batch and (len(batch) == MAX_ENTRIES or needed > room):
            yield batch
            batch, room = [], MAX_MESSAGE_BYTES
        batch.append(entry)
        room -= needed
    if batch:
        yield batch


def outcomes(batch: list[dict[str, Any]], answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each entry of the batch and SQS's error code for it, which is empty where it succeeded.

    An entry that the answer leaves out counts as failed: `Missing`.
    """
    done = {success["Id"]: "" for success in answer.get("Successful", ())}
    failed = {failure["Id"]: failure["Code"] for failure in answer.get("Failed", ())}
    for number, entry in enumerate(batch):
        yield entry, (done | failed).get(str(number), "Missing")


def numbered(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The batch with the ids by which `outcomes` knows its entries again."""
    return [{"Id": str(number), **entry} for number, entry in enumerate(batch)]
