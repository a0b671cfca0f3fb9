"""Every snippet of the README and of docs/producers.md runs, in the order in which a reader comes to it."""

from __future__ import annotations

import json
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
from settings.aws import client
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_sqs.sqs.queue import Queue

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PRODUCERS = (ROOT / "docs" / "producers.md").read_text()
FENCE = re.compile(r"^(`{3,}|~{3,})(.*)\n((?s:.*?))^\1$", re.MULTILINE)
# The variables that docs/producers.md tells a reader to set for every client of the emulator.
EXPORTED = dict(word.split("=") for word in re.findall(r"`export ([^`]*)`", PRODUCERS)[0].split())

# Commands that keep running in a terminal of their own, and what they print when they are ready.
STAYS = {"make emulator": "Ready on ", "make worker": " ready."}


def snippets(page: str, language: str) -> list[str]:
    return [found[3] for found in FENCE.finditer(page) if found[2] == language]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console snippet, with what the page says that it prints."""
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
    """Somebody who follows the pages, on a port where no other emulator is."""

    def __init__(self, port: int, folder: Path, wait_until: Callable[..., None]) -> None:
        # What a make that runs this test sets must not reach the reader: the pages name all that a client needs.
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
        """Give a shell the command, and check that it prints what the page says."""
        command = self.here(command)
        words = shlex.split(command, comments=True)
        stays = next((start for start in STAYS if words[:2] == start.split()), None)
        # PORT and EMAIL_ENDPOINT_URL stand for the default port, which another program may have.
        ours = {
            "PORT": str(self._port),
            "EMAIL_ENDPOINT_URL": f"http://localhost:{self._port}",
            "EMAIL_STUB_OUTBOX": str(self._folder / "outbox"),  # by default, in the checkout
        }
        if stays:
            stack.enter_context(self._staying(words, STAYS[stays], ours))
        elif words[:2] == ["make", "status"]:  # the worker may take a moment
            self._wait_until(lambda: prints(self.run("bash", "-c", command, **ours), printed), what=command)
        else:
            output = self.run("bash", "-c", command, **ours)
            assert prints(output, printed), f"{command}\nprints\n{output}"

    @contextmanager
    def _staying(self, command: list[str], ready: str, environment: dict[str, str]) -> Iterator[None]:
        log = self._folder / f"{command[1]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait_until(lambda: ready in log.read_text() or process.poll() is not None, what=str(command))
            assert process.poll() is None, log.read_text()
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # make waits for what it runs
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail(f"{command} did not stop within 60 seconds:\n{log.read_text()}")

    def here(self, text: str) -> str:
        """The text, with the reader's port."""
        return text.replace("localhost:4566", f"localhost:{self._port}")


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


def check_enqueued(raw_queue: Queue) -> None:
    """Check that the snippet has written a row that a worker would send, and has put its id on the queue."""
    assert [parse_message(message["Body"]) for message in raw_queue.receive(10, 0, 30)] == ["order-1"]
    port = urlsplit(raw_queue.url).port
    settings = Settings(endpoint_url=f"http://localhost:{port}")
    (row,) = client("dynamodb", settings).scan(TableName=settings.table)["Items"]
    assert row == {
        "EmailId": {"S": "order-1"},
        "EmailStatus": {"S": "Pending"},
        "Subject": {"S": "Your order"},
        "Sender": {"S": "The Shop <shop@example.com>"},
        "RecipientsTo": {"L": [{"S": "ada@example.com"}]},
        "BodyText": {"S": "Thank you!"},
    }


def test_every_snippet_is_of_a_kind_that_is_run_here() -> None:
    for page, languages in ((README, {"console", "json", "text"}), (PRODUCERS, {"console", "js", "json", "python"})):
        fences = FENCE.findall(page)
        assert len(fences) == len(re.findall(r"^ *(?:```|~~~)", page, re.MULTILINE)) / 2
        assert {language for _, language, _ in fences} == languages


def test_every_target_of_make_is_one() -> None:
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^\$ )make ([\w.-]+)", README + PRODUCERS, re.MULTILINE)) <= targets


def test_the_readme_shows_the_example_that_it_sends() -> None:
    assert snippets(README, "json") == [(ROOT / "examples" / "email.json").read_text()]


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 700


@pytest.mark.parametrize("snippet", snippets(PRODUCERS, "python"))
def test_a_python_snippet_enqueues_an_email(snippet: str, producer: Reader, raw_queue: Queue) -> None:
    producer.run(sys.executable, "-c", snippet)
    check_enqueued(raw_queue)


def test_put_accepts_the_json_of_both_pages(producer: Reader, raw_queue: Queue, tmp_path: Path) -> None:
    row = json.loads(snippets(README, "json")[0]) | {"Attachments": []}
    for part in snippets(PRODUCERS, "json"):
        if part.startswith("{"):
            row["Attachments"].append(json.loads(part))
        else:
            row |= json.loads(f"{{{part}}}")
    (tmp_path / "email.json").write_text(json.dumps(row | {"BodyHtml": "<p>Hello!</p>"}))
    environment = {
        "EMAIL_ENDPOINT_URL": f"http://localhost:{urlsplit(raw_queue.url).port}",
        "EMAIL_ATTACHMENT_PREFIXES": "s3://example-bucket/mail/",
    }
    producer.run("make", "put", f"ROW={tmp_path}/email.json", **environment)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no Node")
@pytest.mark.parametrize("snippet", snippets(PRODUCERS, "js"))
def test_a_node_snippet_enqueues_an_email(snippet: str, producer: Reader, raw_queue: Queue, tmp_path: Path) -> None:
    packages = set(re.findall(r'from "([^"]+)"', snippet))
    producer.run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), *packages)
    (tmp_path / "snippet.mjs").write_text(producer.here(snippet))
    producer.run("node", str(tmp_path / "snippet.mjs"))
    check_enqueued(raw_queue)


@pytest.mark.slow
def test_the_commands_print_what_the_pages_say(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("aws") is None:
        monkeypatch.setenv("UV_TOOL_DIR", str(tmp_path / "tools"))
        monkeypatch.setenv("UV_TOOL_BIN_DIR", str(tmp_path))
        uv("tool", "install", "awscli")
    with ExitStack() as stack:
        for snippet in [*snippets(README, "console"), *snippets(PRODUCERS, "console")]:
            for command, printed in commands(snippet):
                reader.type(command, printed, stack)
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 2  # the README's email, and the AWS CLI's


# Links


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#{1,6} (.*)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "stubs/**/*.md", "examples/**/*.md") for page in ROOT.glob(pattern)
)
# [text](target), and a picture's src and srcset.
LINK = re.compile(r'\]\(([^()\s]+)\)|(?:src|srcset|href)="([^"]+)"')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for found in LINK.finditer(FENCE.sub("", page.read_text())):
        target = found[1] or found[2]
        if urlsplit(target).scheme:  # elsewhere
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_relative_to(ROOT) or not file.exists():
            broken.append(f"{target}: there is no such file")
        elif anchor and anchor not in anchors(file.read_text()):
            broken.append(f"{target}: there is no such heading")
    assert not broken


def test_every_file_that_a_page_names_is_there() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"outbox"}
    modules = {path.name for folder in folders if not folder.startswith(".") for path in ROOT.glob(f"{folder}/**/*.py")}
    modules |= {path.name for path in ROOT.glob("*.py")} | {"flowerconfig.py"}  # Flower's own
    missing = []
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # which names files that are gone
            continue
        for name in re.findall(r"`([\w./-]+(?:\.\w+|/))`", page.read_text()):
            if "/" in name:
                is_missing = name.partition("/")[0] in folders and not (ROOT / name).exists()
            else:
                is_missing = name.endswith(".py") and name not in modules
            if is_missing:
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    assert not missing
