"""The names that docs/celery_sqs.md and docs/flower.md tell users to import exist."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "path",
    [
        "celery_sqs.Reason",
        "celery_sqs.control_queues.reap",
        "celery_sqs.flower.install",
        "celery_sqs.liveness.main",
        "celery_sqs.poller.pause",
        "celery_sqs.transport.Transport",
    ],
)
def test_it_is_there(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert hasattr(import_module(module), name)


def test_the_part_for_sqs_alone_imports_neither_kombu_nor_celery() -> None:
    code = (
        "import pkgutil, sys, celery_sqs.sqs as sqs\n"
        "[__import__(f'celery_sqs.sqs.{module.name}') for module in pkgutil.iter_modules(sqs.__path__)]\n"
        "print({'billiard', 'celery', 'kombu'} & {name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "set()", run.stderr
