from typing import Any

from celery.events.receiver import EventReceiver as Receiver

EventReceiver: type[Receiver]

class Events:
    state: Any
