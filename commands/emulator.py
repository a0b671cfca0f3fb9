"""The command that runs SQS and DynamoDB on this machine."""

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
DEFAULT_PORT = 4566  # LocalStack's port, which other tools use in their examples
START_SECONDS = 30


class EmulatorFailed(Exception):
    """The emulator, ministack, did not start. The text says why."""


@contextmanager
def running_emulator(port: int) -> Iterator[str]:
    """Run ministack on 127.0.0.1 with its state in memory, give its URL, and stop it at the end.

    Raises:
        EmulatorFailed: It did not start, or an emulator runs on the port already.
    """
    program = shutil.which("ministack", path=str(Path(sys.executable).parent)) or "ministack"
    environment = {
        **os.environ,
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,  # by default it listens on all interfaces
        "MINISTACK_HOST": "localhost",
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
    }
    url = f"http://{HOST}:{port}"
    if _is_ready(url):
        raise EmulatorFailed(f"An emulator is already running on port {port}.")
    # It gets its own session, so that Ctrl-C reaches only this process, which then stops it.
    # Its log is shown only if it fails to start, because on exit it logs a traceback for every open connection.
    log = TemporaryFile()  # noqa: SIM115 (it is closed below, after the process has ended)
    process = subprocess.Popen([program], env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603 (our own program)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(url):
            if process.poll() is not None:
                log.seek(0)
                last_line = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise EmulatorFailed(f"ministack exited with {process.returncode}; is port {port} taken? {last_line}")
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
    """Run an emulator of SQS and DynamoDB until SIGINT, SIGTERM or SIGHUP, and create the queues and tables in it.

    When it stops, everything in it is lost. If --port is not the default, the other commands need the
    EMAIL_ENDPOINT_URL that this one prints.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores SIGHUP, so that it outlives the terminal
            signal.signal(number, lambda *_: sys.exit(0))
    try:
        with running_emulator(port) as url:
            override(endpoint_url=url)
            click.get_current_context().invoke(provision)
            if port != DEFAULT_PORT:
                say(f"In each terminal that uses it, first run: export EMAIL_ENDPOINT_URL={url}")
            say(f"Ready on {url}; stop it with Ctrl-C.")
            signal.pause()
    except EmulatorFailed as error:
        raise click.ClickException(str(error)) from None


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_ministack/ready", timeout=1) as answer:  # noqa: S310 (our own http URL)
            return bool(answer.status == 200)  # noqa: PLR2004 (HTTP's code for OK)
    except (urllib.error.URLError, OSError):
        return False
