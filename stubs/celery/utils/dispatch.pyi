from celery.signals import Signal as Signal
