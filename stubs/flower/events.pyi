from celery.events.receiver import EventReceiver as Receiver

EventReceiver: type[Receiver]
