from __future__ import annotations

import subprocess
import sys

FORK = """
import os, sys, threading
from celery_sqs.per_process import at_exit, one_per_process

making, made = threading.Event(), threading.Event()

def make_slowly():
    making.set()
    made.wait()
    return object()

parents = one_per_process("key", object)
assert one_per_process("key", object) is parents
at_exit(lambda: print("the parent's", flush=True))
maker = threading.Thread(target=one_per_process, args=("slow", make_slowly))
maker.start()
making.wait()
if not (child := os.fork()):
    assert one_per_process("key", object) is not parents
    at_exit(lambda: print("the child's", flush=True))
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
made.set()
maker.join()
"""


def test_a_fork_makes_its_own_and_ends_only_that_even_if_its_parent_was_making_something() -> None:
    run = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout.splitlines(), run.returncode) == (["the child's", "the parent's"], 0), run.stderr


EXIT = """
from kombu import Connection
from celery_sqs.control_queues import ControlQueues
from celery_sqs.events import EventPublisher
from celery_sqs.held_messages import HeldMessages, held_messages
from celery_sqs.poller import Pollers
from celery_sqs.replies import ReplySender

def say(ended):
    print(type(ended).__name__, flush=True)

ControlQueues.exit = EventPublisher.exit = HeldMessages.exit = ReplySender.exit = say
Pollers.let_stopped_give_back = say
transport = Connection("sqs://key:secret@", transport="celery_sqs.transport:Transport").transport
channel = transport.create_channel(transport)
held_messages()
"""


def test_at_exit_messages_are_settled_first_and_open_long_polls_are_waited_for_last() -> None:
    run = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60, check=False)
    ended = ["HeldMessages", "ReplySender", "EventPublisher", "ControlQueues", "Pollers"]
    assert run.stdout.splitlines() == ended, run.stderr


TAGS = """
import os
from kombu import Connection

transport = Connection("sqs://key:secret@", transport="celery_sqs.transport:Transport").transport
channels = [transport.create_channel(transport) for _ in range(2)]
for channel in channels * 2:
    print(channel._next_delivery_tag(), flush=True)
if not (child := os.fork()):
    print(channels[0]._next_delivery_tag(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_no_channel_and_no_fork_gives_a_delivery_tag_that_was_given_before() -> None:
    run = subprocess.run([sys.executable, "-c", TAGS], capture_output=True, text=True, timeout=60, check=False)
    tags = run.stdout.split()
    assert len(set(tags)) == len(tags) == 5, run.stderr
