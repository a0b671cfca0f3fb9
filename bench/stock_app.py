"""The same job on stock Celery, with kombu's own SQS transport.

    celery -A bench.stock_app worker
    python -m bench.stock_app           the polling bridge beside it

Settings come from the environment, as for the service. The queue is `<raw queue>_stock_celery`.
"""

from __future__ import annotations

from celery import Celery, chain

import celeryconfig
from bench.polling_bridge import poll
from emails.sender import Sender
from settings import get_settings

settings = get_settings()
sender = Sender.from_settings(settings)

app = Celery("bench.stock_app")
app.conf.update(
    broker_url=celeryconfig.broker_url,
    broker_transport_options={
        "region": celeryconfig.broker_transport_options["region"],
        "is_secure": celeryconfig.broker_transport_options["is_secure"],
        "queue_name_prefix": f"{settings.queue}_stock_",
    },
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    worker_pool="threads",
    worker_concurrency=settings.concurrency,
    worker_prefetch_multiplier=2,
)


@app.task(name="bench.process_email")
def process_email(email_id: str) -> None:
    chain(load_email.s(email_id), send_email.s()).apply_async()


@app.task(name="bench.load_email")
def load_email(email_id: str) -> str:
    sender.load(email_id)
    return email_id


@app.task(name="bench.send_email")
def send_email(email_id: str) -> None:
    sender.send(email_id)


if __name__ == "__main__":
    poll(lambda email_id: process_email.s(email_id).apply_async())
