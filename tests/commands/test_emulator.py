from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emails.resources import check_resources
from settings import Settings
from tests.conftest import free_port


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP))],
    ids=lambda number: number.name,
)
def test_it_provisions_says_how_to_use_it_and_stops_cleanly(number: signal.Signals) -> None:
    port = free_port()
    program = Path(sys.executable).with_name("email-service")
    process = subprocess.Popen([program, "emulator", "--port", str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        hint = next(line for line in process.stdout if "export" in line)
        assert hint.endswith(f" export EMAIL_ENDPOINT_URL=http://127.0.0.1:{port}\n")
        line = next(process.stdout)
        assert line.startswith(f"Ready on http://127.0.0.1:{port};")
        check_resources(Settings(endpoint_url=f"http://127.0.0.1:{port}"))
    finally:
        process.send_signal(number)
    assert process.wait(60) == 0
    process.stdout.close()


def test_a_port_that_is_taken_is_named(emulator: str) -> None:
    program = Path(sys.executable).with_name("email-service")
    port = emulator.rpartition(":")[2]
    arguments = [program, "emulator", "--port", port]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert f"An emulator is already running on port {port}" in result.stderr
