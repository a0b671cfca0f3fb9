"""A received message, and the reasons for which one is rejected that cannot be read."""

from __future__ import annotations

from kombu.transport import virtual

from celery_sqs.sqs.dead_letters import Reason

REJECTED = Reason("Rejected", "the worker rejected the message: its log has the message id and the cause")
NOT_A_TASK = Reason("NotAMessage", "the body is no message of Celery's")
NOT_DECODABLE = Reason("NotAMessage", "the body cannot be decoded: it is not what its content type says")


class Message(virtual.Message):
    """A message that knows, once rejected, why."""

    reject_reason: Reason = REJECTED
