"""The event source mappings by which AWS Lambda functions receive a stage's emails.

A function cannot refuse a message without using up one of its receives, so a pause disables the mappings themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import ClientError

from emails.pause import paused_queues
from emails.resources import find_queue
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from settings import Settings


class Mapping(NamedTuple):
    """An event source mapping of a queue to a function."""

    uuid: str
    queue: str
    function: str  # its name, with its alias if there is one


def enabled_mappings(settings: Settings) -> Iterator[Mapping]:
    """Yield the mappings of the paused queues that are not disabled. May raise botocore's errors."""
    functions, sqs = client("lambda", settings), client("sqs", settings)
    for name in paused_queues(settings):
        arn = find_queue(sqs, name).attributes("QueueArn")["QueueArn"]
        for page in functions.get_paginator("list_event_source_mappings").paginate(EventSourceArn=arn):
            for found in page["EventSourceMappings"]:
                if found["State"] not in {"Disabled", "Disabling", "Deleting"}:
                    yield Mapping(found["UUID"], name, found["FunctionArn"].partition(":function:")[2])


def switch(settings: Settings, uuid: str, *, enabled: bool) -> bool:
    """Enable or disable the mapping. Return False if it does not exist. May raise botocore's errors."""
    try:
        client("lambda", settings).update_event_source_mapping(UUID=uuid, Enabled=enabled)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        return False
    return True
