"""Every snippet of the README runs, in the order in which a reader comes to it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from commands.emulator import running_emulator
from emails.message import parse_message
from emails.raw_queue import find_raw_queue
from emails.resources import provision
from infrastructure.uv import uv
from settings import Settings
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_sqs.sqs.queue import Queue

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = [(found[2], found[3]) for found in re.finditer(r"^(`{3,}|~{3,})(.*)\n((?s:.*?))^\1$", README, re.MULTILINE)]
# What the README has a reader set for every client of the emulator.
EXPORTED = dict(word.split("=") for word in re.findall(r"`export ([^`]*)`", README)[0].split())

# What stays in a terminal of its own, with the words by which it says that it is ready.
STAYS = {"make emulator": "Ready on ", "make worker": " ready."}
# It would run this test.
WOULD_NOT_END = {"make test": "make --dry-run test"}


def snippets(language: str) -> list[str]:
    return [text for found, text in SNIPPETS if found == language]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console snippet, with what the README says that it prints."""
    before, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not before, "a command begins with $"
    for part in parts:
        lines = part.splitlines()
        end = next(end for end in range(1, len(lines) + 1) if is_whole("\n".join(lines[:end])))
        yield "\n".join(lines[:end]), "\n".join(lines[end:])


def is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation that the next line goes on with
        return False
    return not command.endswith("\\")


def prints(output: str, printed: str) -> bool:
    """Whether each line is in the output. An … stands for what is different each time."""
    return all("…" in line or line in output for line in printed.splitlines())


class Reader:
    """Somebody who follows the README, on a port where no other emulator is."""

    def __init__(self, port: int, folder: Path, wait_until: Callable[..., None]) -> None:
        # What a make above this one told it is not for the reader's, and the README says all that a client needs.
        others = ("AWS_", "EMAIL_", "MAKE", "MFLAGS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        self._port = port
        self._folder = folder
        self._wait_until = wait_until
        path = f"{folder}:{os.environ['PATH']}"
        self._environment = kept | EXPORTED | {"AWS_CONFIG_FILE": os.devnull, "PATH": path}

    def run(self, *command: str, **environment: str) -> str:
        """Run it until it ends; gives what it printed."""
        ended = subprocess.run(
            [self.here(word) for word in command],
            cwd=ROOT,
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert ended.returncode == 0, f"{command} ends with {ended.returncode}:\n{ended.stdout}"
        return ended.stdout

    def type(self, command: str, printed: str, stack: ExitStack) -> None:
        """Give a shell the command, and see it print what the README says."""
        words = shlex.join(shlex.split(command, comments=True))
        # PORT and EMAIL_ENDPOINT_URL stand for the default port, which another program may have.
        ours = {
            "PORT": str(self._port),
            "EMAIL_ENDPOINT_URL": f"http://localhost:{self._port}",
            "EMAIL_STUB_OUTBOX": str(self._folder / "outbox"),
        }
        if words in STAYS:
            stack.enter_context(self._staying(words, STAYS[words], ours))
        elif words.startswith("make status "):  # the worker may take a moment
            self._wait_until(lambda: prints(self.run("bash", "-c", command, **ours), printed), what=command)
        else:
            output = self.run("bash", "-c", WOULD_NOT_END.get(words, command), **ours)
            assert prints(output, printed), f"{command}\nprints\n{output}"

    @contextmanager
    def _staying(self, command: str, ready: str, environment: dict[str, str]) -> Iterator[None]:
        log = self._folder / f"{command.replace(' ', '-')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=ROOT,
                env=self._environment | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait_until(lambda: ready in log.read_text() or process.poll() is not None, what=command)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # make waits for what it runs
            process.wait(60)

    def here(self, word: str) -> str:
        return word.replace("localhost:4566", f"localhost:{self._port}")


@pytest.fixture
def reader(tmp_path: Path, wait_until: Callable[..., None]) -> Reader:
    return Reader(free_port(), tmp_path, wait_until)


@pytest.fixture
def raw_queue() -> Iterator[Queue]:
    """The raw queue of a fresh `make emulator`, where no worker takes what a snippet sends."""
    with running_emulator(free_port()) as url:
        settings = Settings(endpoint_url=url)
        list(provision(settings))
        yield find_raw_queue(settings)


@pytest.fixture
def producer(raw_queue: Queue, tmp_path: Path, wait_until: Callable[..., None]) -> Reader:
    """A reader beside that queue."""
    return Reader(urlsplit(raw_queue.url).port or 0, tmp_path, wait_until)


def received(raw_queue: Queue) -> list[str]:
    return [parse_message(message["Body"]) for message in raw_queue.receive(10, 0, 30)]


def test_every_snippet_is_of_a_kind_that_is_run_here() -> None:
    assert len(SNIPPETS) == len(re.findall(r"^ *(?:```|~~~)", README, re.MULTILINE)) / 2
    assert {language for language, _ in SNIPPETS} == {"console", "js", "python", "text"}


def test_every_target_of_make_is_one() -> None:
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^\$ )make ([\w.-]+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("snippet", snippets("python"))
def test_a_python_snippet_enqueues_the_email(snippet: str, producer: Reader, raw_queue: Queue) -> None:
    producer.run(sys.executable, "-c", snippet)
    assert received(raw_queue) == ["test-1"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no Node")
@pytest.mark.parametrize("snippet", snippets("js"))
def test_a_node_snippet_enqueues_the_email(snippet: str, producer: Reader, raw_queue: Queue, tmp_path: Path) -> None:
    packages = set(re.findall(r'from "([^"]+)"', snippet))
    producer.run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), *packages)
    (tmp_path / "snippet.mjs").write_text(producer.here(snippet))
    producer.run("node", str(tmp_path / "snippet.mjs"))
    assert received(raw_queue) == ["test-1"]


@pytest.mark.slow
def test_the_commands_print_what_the_readme_says(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("aws") is None:
        monkeypatch.setenv("UV_TOOL_DIR", str(tmp_path / "tools"))
        monkeypatch.setenv("UV_TOOL_BIN_DIR", str(tmp_path))
        uv("tool", "install", "awscli")
    with ExitStack() as stack:
        for snippet in snippets("console"):
            for command, printed in commands(snippet):
                reader.type(command, printed, stack)
