"""For `celery worker --include`: without the guard, a parent's message is deleted before its children are confirmed."""

from __future__ import annotations

from typing import Any

from celery_sqs.held_message import HeldMessage

publish = HeldMessage.publish


def publish_for_nobody(parent: HeldMessage, *arguments: Any, **options: Any) -> None:
    nobody = HeldMessage(parent._holder, parent.queue, parent.received, parent.visibility_timeout)
    publish(nobody, *arguments, **options)


HeldMessage.publish = publish_for_nobody  # type: ignore[method-assign]  # this is the purpose of the module
