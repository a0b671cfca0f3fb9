"""Queues that each belong to one process: how they are named and found, and how those of crashed processes are deleted.

Tags say what a queue is for and which process owns it. One tag is a lease, which the owner renews. `reap` deletes
queues whose lease has expired.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from celery_sqs.sqs.errors import NO_SUCH_QUEUE, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE_SECONDS = 3600
EXCHANGE_TAG, HOST_TAG, PID_TAG, LEASE_TAG = (f"celery_sqs:{name}" for name in ("exchange", "host", "pid", "lease"))

MAX_NAME_LENGTH = 80  # SQS Developer Guide, "Amazon SQS standard queue quotas": queue name
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_NONCE_LENGTH = 16
_MAX_START_LENGTH = MAX_NAME_LENGTH - _NONCE_LENGTH - 1
_HASH_LENGTH = 8
_KEPT_LENGTH = _MAX_START_LENGTH - _HASH_LENGTH - 1


def queue_name(start: str, nonce: str) -> str:
    """Return a name for a queue that `find` finds by this start. The nonce makes it unique among them."""
    return f"{name_start(start)}_{hashlib.sha256(nonce.encode()).hexdigest()[:_NONCE_LENGTH]}"


def name_start(start: str) -> str:
    """Return the start of a name with only the characters that SQS allows, and short enough to leave room for the rest.

    A start that is too long is cut, and ends in a hash of the whole.
    """
    name = _NOT_IN_NAMES.sub("-", start)
    if len(name) <= _MAX_START_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{name[:_KEPT_LENGTH]}-{digest}"


def find(client: Any, start: str) -> Iterator[tuple[str, str]]:
    """Yield the names and URLs of all processes' queues with this start, as ListQueues lists them now."""
    wanted = name_start(start)
    return ((name, url) for name, url in _list_queues(client, wanted) if name.rpartition("_")[0] == wanted)


def owner_tags(exchange: str) -> dict[str, str]:
    """Return the tags of a queue that this process owns and that is bound to the exchange."""
    return {EXCHANGE_TAG: exchange, HOST_TAG: socket.gethostname(), PID_TAG: str(os.getpid()), **lease()}


def lease() -> dict[str, str]:
    """Return the tag that keeps a queue for an hour from now."""
    return {LEASE_TAG: str(int(time.time()) + LEASE_SECONDS)}


def reap(client: Any, prefix: str, *, dry_run: bool = False) -> Iterator[str]:
    """Delete the queues with that prefix whose lease has expired, and no others. Yield their names.

    If `dry_run` is true, nothing is deleted. Several processes may run this at the same time. It raises botocore's
    errors, and continues with the other queues before it raises an error about a single queue.
    """
    failure: Exception | None = None
    # Names contain at most this much of a prefix, so other queues may match, too. The tags show which ones are leased.
    for name, url in _list_queues(client, _NOT_IN_NAMES.sub("-", prefix)[:_KEPT_LENGTH]):
        try:
            tags = client.list_queue_tags(QueueUrl=url).get("Tags", {})
            ends_at = tags.get(LEASE_TAG, "")
            if EXCHANGE_TAG in tags and ends_at.isdecimal() and int(ends_at) < time.time():
                if not dry_run:
                    client.delete_queue(QueueUrl=url)
                yield name
        except ClientError as error:
            if code_of(error) not in NO_SUCH_QUEUE:
                failure = failure or error
    if failure:
        raise failure


def _list_queues(client: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for page in client.get_paginator("list_queues").paginate(QueueNamePrefix=prefix):
        for url in page.get("QueueUrls", ()):
            yield url.rpartition("/")[2], url
