"""Run SQS and DynamoDB on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import click

from commands import say
from commands.provision import provision
from settings import override

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
DEFAULT_PORT = 4566  # LocalStack's, which every tool's examples have
START_SECONDS = 30


class EmulatorFailed(Exception):
    """ministack did not start. The text says why."""


@contextmanager
def running_emulator(port: int) -> Iterator[str]:
    """Ministack on 127.0.0.1, its state in memory; gives its URL, and stops it at the end.

    Raises:
        EmulatorFailed
    """
    program = shutil.which("ministack", path=str(Path(sys.executable).parent)) or "ministack"
    environment = {
        **os.environ,
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,  # without it, it listens on all interfaces
        "MINISTACK_HOST": "localhost",
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
    }
    url = f"http://{HOST}:{port}"
    if _is_ready(url):
        raise EmulatorFailed(f"Port {port} has an emulator already.")
    # A session of its own: Ctrl-C reaches us, and we stop it.
    # Its log is wanted only where it fails: when it stops it logs a traceback for every connection that is open.
    log = TemporaryFile()  # noqa: SIM115 (it is closed below, after the process)
    process = subprocess.Popen([program], env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603 (our own program)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(url):
            if process.poll() is not None:
                log.seek(0)
                last_line = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise EmulatorFailed(f"ministack ended with {process.returncode}; is port {port} taken? {last_line}")
            if time.monotonic() > deadline:
                raise EmulatorFailed(f"ministack is not ready after {START_SECONDS} seconds.")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@click.command()
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="The port on 127.0.0.1.")
def emulator(port: int) -> None:
    """Run an emulator of SQS and DynamoDB, with queues and table made, until SIGINT or SIGTERM.

    What it holds is gone when it stops. Where --port is another than the default, tell the other commands by
    EMAIL_ENDPOINT_URL.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with running_emulator(port) as url:
            override(endpoint_url=url)
            click.get_current_context().invoke(provision)
            say(f"Ready on {url}; stop it with Ctrl-C.")
            signal.pause()
    except EmulatorFailed as error:
        raise click.ClickException(str(error)) from None


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_ministack/ready", timeout=1) as answer:  # noqa: S310 (http, of ours)
            return bool(answer.status == 200)  # noqa: PLR2004 (HTTP's OK)
    except (urllib.error.URLError, OSError):
        return False
