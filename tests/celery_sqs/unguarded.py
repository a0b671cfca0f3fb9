"""For `celery worker --include`: without the guard, a parent's delete does not wait for its children."""

from __future__ import annotations

from typing import Any

from celery_sqs.deliveries import Delivery

publish = Delivery.publish


def publish_for_nobody(parent: Delivery, *arguments: Any, **options: Any) -> None:
    nobody = Delivery(parent._deliveries, parent.queue, parent.message, parent.visibility_timeout)
    publish(nobody, *arguments, **options)


Delivery.publish = publish_for_nobody  # type: ignore[method-assign]  # what this module is for
