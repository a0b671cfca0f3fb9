"""What happens when a Celery worker's consumer is ready, whether the worker is a program or embedded in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery.worker.consumer.consumer import Consumer

from celery_sqs.fifo import warn_of_concurrency
from celery_sqs.patches.remote_control import answer_commands, show_receiving, spare_events
from celery_sqs.request import learn_pool
from celery_sqs.undisturbed import make_handlers_patient
from celery_sqs.watchdog import watch

if TYPE_CHECKING:
    from kombu.transport import SQS

_celerys_on_ready = Consumer.on_ready
_seen: WeakSet[Any] = WeakSet()


def serve_workers(transport_class: type[SQS.Transport]) -> None:
    """Prepare each worker that consumes by this transport, before it takes its first message.

    An embedded worker (celery.contrib.testing.worker) never sends the signal `worker_ready`.
    """

    def on_ready(consumer: Any) -> None:
        _celerys_on_ready(consumer)
        transport = consumer.connection.transport
        if isinstance(transport, transport_class):
            transport.serves_worker = True  # type: ignore[attr-defined]  # ours has it
            if consumer not in _seen:  # it is ready again after each lost connection
                _seen.add(consumer)
                _prepare(consumer)

    Consumer.on_ready = on_ready
    answer_commands()


def _prepare(consumer: Any) -> None:
    learn_pool(consumer.pool)
    show_receiving(consumer)
    spare_events(consumer)
    make_handlers_patient(consumer)
    warn_of_concurrency(consumer)
    watch(consumer)
