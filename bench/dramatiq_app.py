"""The same job on dramatiq, with dramatiq_sqs (the dependency group `bench`).

    dramatiq bench.dramatiq_app --processes 1 --threads 16
    python -m bench.dramatiq_app        the polling bridge beside it

Settings come from the environment, as for the service. The queue is `<raw queue>_dramatiq_default`.
"""

from __future__ import annotations

import dramatiq
from dramatiq_sqs import SQSBroker  # type: ignore[import-untyped]  # it has no stubs

from bench.polling_bridge import poll
from emails.sender import Sender
from settings import get_settings
from settings.aws import client, session_options

settings = get_settings()
sender = Sender.from_settings(settings)

broker = SQSBroker(
    namespace=f"{settings.queue}_dramatiq",
    endpoint_url=settings.endpoint,
    config=client("sqs", settings).meta.config,  # tuned like the service's own client
    **session_options(settings),
)
dramatiq.set_broker(broker)


@dramatiq.actor
def process_email(email_id: str) -> None:
    steps = [load_email.message(email_id), send_email.message_with_options()]  # send_email gets load_email's result
    dramatiq.pipeline(steps).run()  # type: ignore[no-untyped-call]  # dramatiq does not type it


@dramatiq.actor
def load_email(email_id: str) -> str:
    sender.load(email_id)
    return email_id


@dramatiq.actor
def send_email(email_id: str) -> None:
    sender.send(email_id)


if __name__ == "__main__":
    poll(process_email.send)
