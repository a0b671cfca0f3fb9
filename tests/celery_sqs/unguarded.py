"""For `celery worker --include`: without the guard, a message is deleted before its children are on SQS or settled."""

from __future__ import annotations

from typing import Any

from celery_sqs.held_message import HeldMessage
from celery_sqs.held_messages import HeldMessages

publish = HeldMessage.publish
hand_off = HeldMessages.hand_off


def nobody(parent: HeldMessage) -> HeldMessage:
    """Return a parent that nobody acknowledges, in place of the real one."""
    return HeldMessage(parent._holder, parent.queue, parent.received, parent.visibility_timeout)


def publish_for_nobody(parent: HeldMessage, *arguments: Any, **options: Any) -> None:
    publish(nobody(parent), *arguments, **options)


def hand_off_for_nobody(messages: HeldMessages, queue: Any, parent: HeldMessage, *arguments: Any) -> Any:
    return hand_off(messages, queue, nobody(parent), *arguments)


HeldMessage.publish = publish_for_nobody  # type: ignore[method-assign]  # this is the purpose of the module
HeldMessages.hand_off = hand_off_for_nobody  # type: ignore[method-assign]  # as above
