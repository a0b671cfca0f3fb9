"""Flower's pages in headless Chromium, with real workers, real Flowers and the emulator."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import urllib.request
from base64 import b64encode
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import URLError

import pytest
from playwright.sync_api import expect, sync_playwright

from celery_sqs.patches.remote_control import CANNOT_RESIZE
from emails.store import EmailStore
from settings.aws import client
from settings.model import dead_letter_queue
from tests.conftest import free_port
from tests.support.celery_programs import kill, start_celery
from tests.support.sqs import report_age
from tests.support.stage import environment_of, new_stage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from mypy_boto3_sqs import SQSClient
    from playwright.sync_api import Browser, Page

    Scheme = Literal["light", "dark"]
    StartService = Callable[..., "Service"]
    WaitUntil = Callable[..., None]
    OpenPage = Callable[..., Page]

pytestmark = pytest.mark.slow

FOLDER = "SCREENSHOTS"  # the variable that names the folder for screenshots, such as docs/images

COLUMNS = "name,args,state,uuid,runtime,worker"

expect.set_options(timeout=60_000)

# Without a password, Flower refuses the requests that its pages' buttons make.
USER, PASSWORD = "ada", "secret"


class Service:
    """One stage, with the workers and Flowers that a test starts. They end with it."""

    def __init__(self, emulator: str, stage: str, folder: Path, wait_until: WaitUntil, **environment: str) -> None:
        self.settings = new_stage(emulator, stage)
        self.sqs: SQSClient = client("sqs", self.settings)
        self.store = EmailStore.from_settings(self.settings)
        self._environment = environment_of(self.settings, **environment)
        self._folder = folder
        self.wait_until = wait_until
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._signs: dict[str, Callable[[], bool]] = {}

    def start_worker(self, name: str, *arguments: str) -> str:
        """Start a worker, and return its hostname."""
        hostname = f"{name}@localhost"
        self._start(name, "worker", "--loglevel", "INFO", "--hostname", hostname, *arguments)
        self._signs[name] = lambda: "ready." in self.log(name)
        return hostname

    def start_flower(self, name: str) -> str:
        """Start a Flower, and return its URL."""
        port = free_port()
        self._start(name, "flower", f"--port={port}", f"--basic-auth={USER}:{PASSWORD}", f"--tasks-columns={COLUMNS}")
        url = f"http://127.0.0.1:{port}"
        self._signs[name] = lambda: answers(f"{url}/healthcheck")
        return url

    def wait_until_ready(self) -> None:
        for name, process in self.processes.items():
            self.wait_until(lambda n=name, p=process: self._signs[n]() or p.poll() is not None, what=f"{name} is ready")
            assert process.poll() is None, self.log(name)

    def send(self, queue: str, body: str, delay: int = 0) -> str:
        url = self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        return self.sqs.send_message(QueueUrl=url, MessageBody=body, DelaySeconds=delay)["MessageId"]

    def send_email(self, row: dict[str, Any], **notes: str) -> str:
        """Put the row and enqueue its id. Return the id of its bridge task."""
        self.store.put(row)
        return self.send(self.settings.queue, json.dumps({"email_id": row["EmailId"], **notes}))

    def status(self, email_id: str) -> tuple[str, str]:
        row = self.store.get(email_id) or {}
        return row["EmailStatus"], row.get("FailureReason", "")

    def control_queues(self) -> list[str]:
        return self.sqs.list_queues(QueueNamePrefix=self.settings.control_queue_prefix).get("QueueUrls", [])

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def stop(self, *names: str) -> None:
        """Stop a program as an operator would."""
        stopping = [self.processes.pop(name) for name in names or tuple(self.processes)]
        for process in stopping:
            process.send_signal(signal.SIGTERM)
        for process in stopping:
            try:
                assert process.wait(60) == 0
            finally:
                kill(process)

    def _start(self, name: str, *arguments: str) -> None:
        log_file = self._folder / f"{name}.log"
        self.processes[name] = start_celery(*arguments, log_file=log_file, environment=self._environment)


def answers(url: str) -> bool:
    try:
        fetch(url)
    except URLError:
        return False
    return True


def fetch(url: str) -> str:
    """Return a page or a response of the API to somebody who knows the password."""
    credentials = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {credentials}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.read().decode())


def states(url: str) -> dict[str, str]:
    """Return the tasks that a Flower knows: `<task> <email id, or the bridge's own id>` and its state."""
    found = {}
    for task_id, task in json.loads(fetch(f"{url}/api/tasks")).items():
        email_id = re.match(r"\('([^']+)'", task["args"] or "")
        found[f"{task['name']} {email_id[1] if email_id else task_id}"] = task["state"]
    return found


def online(url: str) -> set[str]:
    """Return the workers that a Flower shows as online."""
    return {worker["hostname"] for worker in json.loads(fetch(f"{url}/workers?json=1"))["data"] if worker["status"]}


@pytest.fixture
def start_service(emulator: str, tmp_path: Path, wait_until: WaitUntil) -> Iterator[StartService]:
    """Start a stage. The screenshots show its name."""
    with ExitStack() as started:

        def start(stage: str, **environment: str) -> Service:
            service = Service(emulator, stage, tmp_path, wait_until, **environment)
            started.callback(service.stop)
            return service

        yield start


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium. Playwright's own would be downloaded from a server other than PyPI."""
    program = shutil.which("chromium")
    assert program, "there is no chromium here: apt-get install chromium"
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, and the pages are our own.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open a URL as somebody who knows the password and prefers a light or a dark colour scheme."""
    with ExitStack() as opened:

        def open_url(url: str, scheme: Scheme = "light", height: int = 320) -> Page:
            context = browser.new_context(
                color_scheme=scheme,
                http_credentials={"username": USER, "password": PASSWORD},
                viewport={"width": 1200, "height": height},
            )
            context.set_default_timeout(60_000)
            opened.callback(context.close)
            page = context.new_page()
            page.goto(url)
            return page

        yield open_url


def cells(page: Page, table: str) -> list[list[str]]:
    """Return the text of the cells in each row of the table."""
    rows = page.locator(f"{table} tbody tr").all()
    return [[text.strip() for text in row.locator("td").all_inner_texts()] for row in rows]


def shoot(page: Page, name: str) -> None:
    """Take a screenshot for the docs, if somebody asked for new ones."""
    if FOLDER in os.environ:
        path = Path(os.environ[FOLDER]) / f"{name}.png"
        page.screenshot(path=path, style=".broker-url { display: none }", animations="disabled")


# This mark is in everything that is private.
MARK = "xyzzy"
MARKED = {
    "EmailStatus": "Pending",
    "Subject": f"{MARK} subject",
    "Sender": f"{MARK} <{MARK}-from@example.com>",
    "RecipientsTo": [f"{MARK}-to@example.com"],
    "RecipientsCc": [f"{MARK}-cc@example.com"],
    "RecipientsBcc": [f"{MARK}-bcc@example.com"],
    "ReplyTo": [f"{MARK}-reply@example.com"],
    "BodyText": f"{MARK} text",
    "BodyHtml": f"<p>{MARK} html</p>",
    "Headers": {f"X-{MARK}": f"{MARK} header"},
    "Tags": {f"{MARK}-name": f"{MARK}-tag"},
    "Attachments": [
        {"name": f"{MARK}.txt", "content_type": "text/plain", "body": b64encode(f"{MARK} file".encode()).decode()}
    ],
}
TEMPORARY, PERMANENT = f"{MARK}-temporary@example.com", f"{MARK}-permanent@example.com"


def marked(email_id: str, **attributes: Any) -> dict[str, Any]:
    return MARKED | {"EmailId": email_id} | attributes


@dataclass
class Live:
    """Two workers and two Flowers, and how the tasks of some emails ended."""

    service: Service
    threads: str
    processes: str
    flowers: list[str]
    ended: dict[str, str]


@pytest.fixture(scope="module")
def live(emulator: str, tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil) -> Iterator[Live]:
    service = Service(
        emulator,
        "live",
        tmp_path_factory.mktemp("live"),
        wait_until,
        EMAIL_STUB_FAILURES=json.dumps({TEMPORARY: "temporary:1", PERMANENT: "permanent"}),
        EMAIL_RETRY_DELAY="0.1",
    )
    with ExitStack() as stack:
        stack.callback(service.stop)
        flowers = [service.start_flower(name) for name in ("flower-1", "flower-2")]
        threads = service.start_worker("worker-1")
        processes = service.start_worker("worker-2", "--pool", "processes", "--concurrency", "1")
        service.wait_until_ready()
        for flower in flowers:
            wait_until(lambda f=flower: online(f) == {threads, processes}, what=f"{flower} shows both workers")
        ended = send_emails(service)
        for flower in flowers:
            with suppress(AssertionError):
                wait_until(lambda f=flower: states(f) == ended)
            assert states(flower) == ended
        yield Live(service, threads, processes, flowers, ended)


def send_emails(service: Service) -> dict[str, str]:
    """Send emails of several kinds. Return how their tasks end."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    # DynamoDB refuses to add a claim, because the row would be too large
    too_large = 400 * 1024 - len(json.dumps(MARKED)) - 50
    rows = {
        "order-1": {},
        "order-2": {},
        "throttled-1": {"RecipientsTo": [TEMPORARY]},
        "refused-1": {"RecipientsTo": [PERMANENT]},
        "too-large-1": {"BodyText": MARK.ljust(too_large, ".")},
        "scheduled-1": {"SendAfter": tomorrow.isoformat()},
        "invalid-1": {"RecipientsTo": [f"{MARK} is no address"]},
    }
    ended = {}
    for email_id, attributes in rows.items():
        task_id = service.send_email(marked(email_id, **attributes), note=MARK)
        ended[f"tasks.bridge {task_id}"] = "SUCCESS"
        ended[f"tasks.load_email {email_id}"] = "SUCCESS"
        ended[f"tasks.send_email {email_id}"] = "SUCCESS"
    for failed in ("send_email refused-1", "send_email too-large-1", "load_email invalid-1"):
        ended[f"tasks.{failed}"] = "FAILURE"
    ended["tasks.load_email scheduled-1"] = "RETRY"
    del ended["tasks.send_email scheduled-1"], ended["tasks.send_email invalid-1"]
    for body in (f"{MARK} is no JSON", json.dumps({"email_id": {MARK: MARK}})):
        ended[f"tasks.bridge {service.send(service.settings.queue, body)}"] = "FAILURE"
    return ended


BOTH: tuple[Scheme, Scheme] = ("light", "dark")


def statuses(page: Page) -> list[list[str]]:
    """Return whether each worker is online, by name, from the Workers page, which breaks long names."""
    return sorted([name.replace("\n", ""), status] for name, status, *_ in cells(page, "#workers-table"))


def suffix(scheme: Scheme) -> str:
    return "-dark" if scheme == "dark" else ""


def open_worker(live: Live, open_page: OpenPage, hostname: str, height: int = 492) -> Page:
    """Open a worker's page. Flower has none until the worker has answered, for which it waits a second."""
    url = f"{live.flowers[0]}/worker/{hostname}"
    live.service.wait_until(lambda: answers(url), what=f"{hostname} answers Flower")
    return open_page(url, height=height)


def test_the_workers_page_of_each_flower_shows_both_workers(live: Live, open_page: OpenPage) -> None:
    for flower in live.flowers:
        for scheme in BOTH:
            page = open_page(flower, scheme, height=524)
            expect(page.locator("#workers-online")).to_have_text("2")
            assert statuses(page) == [[live.threads, "Online"], [live.processes, "Online"]]
            failed = list(live.ended.values()).count("FAILURE")
            expect(page.locator("#workers-failed")).to_have_text(str(failed))
            if flower == live.flowers[0]:
                shoot(page, f"flower-workers{suffix(scheme)}")


def test_the_tasks_page_of_each_flower_shows_how_each_task_ended(live: Live, open_page: OpenPage) -> None:
    for flower in live.flowers:
        tasks = json.loads(fetch(f"{flower}/api/tasks"))
        page = open_page(f"{flower}/tasks", height=640)
        page.select_option("#tasks-table_length select", "50")
        expect(page.locator("#tasks-table tbody tr")).to_have_count(len(live.ended))
        shown = {uuid: (name, state) for name, _, state, uuid, *_ in cells(page, "#tasks-table")}
        assert shown == {task_id: (task["name"], task["state"]) for task_id, task in tasks.items()}
        assert sorted(state for _, state in shown.values()) == sorted(live.ended.values())
    for scheme in BOTH:
        page = open_page(f"{live.flowers[0]}/tasks", scheme, height=640)
        page.locator("th[data-column=state]").first.click()  # sorting shows that the table works
        expect(page.locator("#tasks-table tbody tr .badge").first).to_have_text("FAILURE")
        shoot(page, f"flower-tasks{suffix(scheme)}")


def find_task(live: Live, name: str, args: str) -> tuple[str, dict[str, Any]]:
    tasks = json.loads(fetch(f"{live.flowers[0]}/api/tasks"))
    (found,) = ((i, task) for i, task in tasks.items() if task["name"] == name and args in task["args"])
    return found


def details(page: Page) -> dict[str, str]:
    names, values = page.locator(".detail-list dt").all_inner_texts(), page.locator(".detail-list dd").all_inner_texts()
    return {name: value.strip() for name, value in zip(names, values, strict=True)}


def test_a_tasks_page_tells_of_its_retry_and_its_result(live: Live, open_page: OpenPage) -> None:
    task_id, _ = find_task(live, "tasks.send_email", "throttled-1")
    page = open_page(f"{live.flowers[0]}/task/{task_id}")
    shown = details(page)
    assert (shown["Name"], shown["UUID"].split()[0], shown["Status"]) == ("tasks.send_email", task_id, "SUCCESS")
    assert (shown["Retries"], shown["Result"]) == ("1", "'Sent'")
    assert shown["Worker"] in (live.threads, live.processes)


def test_a_failed_tasks_page_tells_why(live: Live, open_page: OpenPage) -> None:
    task_id, _ = find_task(live, "tasks.send_email", "too-large-1")
    shown = details(open_page(f"{live.flowers[0]}/task/{task_id}"))
    assert shown["Status"] == "FAILURE"
    assert shown["Exception"] == "StoreRefused('DynamoDB refused the request: ValidationException')"
    assert "in send_email" in shown["Traceback"]
    assert "maximum allowed size" not in shown["Traceback"], "AWS's words may quote a row"


def test_a_body_that_is_no_email_says_so_on_its_tasks_page(live: Live, open_page: OpenPage) -> None:
    body = f"{MARK} is no JSON"
    task_id, _ = find_task(live, "tasks.bridge", f"<body of {len(body)} bytes>")
    page = open_page(f"{live.flowers[0]}/task/{task_id}", height=900)
    shown = details(page)
    assert shown["Exception"] == "reject requeue=False: Reason(code='NotJson', detail='the body is not JSON')"
    # The traceback contains this machine's folders.
    page.locator(".detail-row", has=page.locator("dt", has_text="Traceback")).evaluate("row => row.remove()")
    shoot(page, "flower-task")


def test_a_workers_page_shows_its_pool_broker_and_queues(live: Live, open_page: OpenPage) -> None:
    page = open_worker(live, open_page, live.threads)
    assert ["Max concurrency", "32"] in cells(page, "#tab-pool")
    shoot(page, "flower-worker")
    page.click("#worker-tab-broker")
    assert ["Transport", "celery_sqs.transport:Transport"] in cells(page, "#tab-broker")
    page.click("#worker-tab-queues")
    page.locator("#worker-queues").wait_for()
    assert [row[0] for row in cells(page, "#tab-queues")] == list(live.service.settings.queues)


def test_a_pool_of_processes_grows_from_its_page(live: Live, open_page: OpenPage) -> None:
    page = open_worker(live, open_page, live.processes)

    def processes() -> int:
        (pids,) = (row[1] for row in cells(page, "#tab-pool") if row[0] == "Processes")
        return len(pids.split(","))

    assert processes() == 1
    with page.expect_response("**/api/worker/pool/grow/*"):
        page.click("#worker-pool-grow")

    def has_grown() -> bool:
        page.reload()  # the page shows the worker's last answer, and asks it again
        return processes() == 2

    live.service.wait_until(has_grown)


def test_a_pool_of_threads_says_that_it_cannot_grow(live: Live, open_page: OpenPage) -> None:
    page = open_worker(live, open_page, live.threads)
    sentence = page.locator(".toast-body", has_text=CANNOT_RESIZE)

    def says_so() -> bool:
        page.click("#worker-pool-grow")
        page.locator(".toast-body").last.wait_for()  # it is "Unknown reason" if the worker takes longer than a second
        return sentence.count() > 0

    live.service.wait_until(says_so)
    assert sentence.first.inner_text() == f"Failed to grow '{live.threads}' worker's pool: {CANNOT_RESIZE}"


def test_nothing_but_ids_is_on_any_page(live: Live, open_page: OpenPage) -> None:
    """The mark is in every row and body that the workers saw."""
    flower = live.flowers[0]
    tasks = json.loads(fetch(f"{flower}/api/tasks"))
    assert len(tasks) == len(live.ended)
    texts = {f"log of {name}": live.service.log(name) for name in live.service.processes}
    paths = ["workers", "workers?json=1", "tasks", "broker", "metrics", "api/tasks", "api/workers?refresh=1"]
    paths += ["api/queues/length"]
    paths += [f"{page}/{task_id}" for page in ("task", "api/task/info") for task_id in tasks]
    for hostname in (live.threads, live.processes):
        texts[hostname] = open_worker(live, open_page, hostname).content()
    for path in paths:
        texts[path] = fetch(f"{flower}/{path}")
    page = open_page(f"{flower}/tasks")
    page.locator("#tasks-table tbody td").first.wait_for()
    texts["tasks, as a browser shows them"] = page.content()
    assert "order-1" in texts["api/tasks"]
    private = [MARK, b64encode(MARK.encode()).decode()[:6].casefold(), "test:test"]
    assert [name for name, text in texts.items() if any(part in text.casefold() for part in private)] == []


def test_a_task_that_waits_for_a_thread_is_revoked_from_its_page(
    start_service: StartService, open_page: OpenPage, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    # The stub writes an email to a file. This one's file is a pipe, so the stub waits until the test reads it.
    pipe = outbox / f"{hashlib.sha256(b'order-1').hexdigest()[:32]}.eml"
    os.mkfifo(pipe)
    service = start_service("busy", EMAIL_STUB_OUTBOX=str(outbox))
    url = service.start_flower("flower-1")
    service.start_worker("worker-1", "--concurrency", "1")
    service.wait_until_ready()
    service.send_email(marked("order-1"))
    service.wait_until(lambda: states(url).get("tasks.send_email order-1") == "STARTED")
    task_id = service.send_email(marked("order-2"))
    service.wait_until(lambda: states(url).get(f"tasks.bridge {task_id}") == "RECEIVED")
    page = open_page(f"{url}/task/{task_id}")
    page.click("#task-revoke")
    expect(page.locator(".toast-body")).to_have_text(f"Revoked '{task_id}'")
    service.wait_until(lambda: f"Tasks flagged as revoked: {task_id}" in service.log("worker-1"))
    assert pipe.read_bytes()
    service.wait_until(lambda: states(url)[f"tasks.bridge {task_id}"] == "REVOKED")
    page.goto(f"{url}/task/{task_id}")
    assert details(page)["Status"] == "REVOKED"
    service.wait_until(lambda: service.status("order-1")[0] == "Sent")
    service.wait_until(lambda: service.status("order-2") == ("Failed", "cancelled: its task was revoked"))


def test_the_broker_tab_shows_each_queue(start_service: StartService, open_page: OpenPage) -> None:
    service = start_service("production")
    settings = service.settings
    service.start_worker("worker-1", "--queues", settings.tasks_queue)
    url = service.start_flower("flower-1")
    for _ in range(12):
        service.send(settings.queue, "{}")
    service.sqs.receive_message(
        QueueUrl=service.sqs.get_queue_url(QueueName=settings.queue)["QueueUrl"], MaxNumberOfMessages=4
    )
    for _ in range(3):
        service.send(settings.queue, "{}", delay=900)
    for _ in range(2):
        service.send(dead_letter_queue(settings.queue), "{}")
    report_age(service.settings.endpoint or "", settings.queue, 190)
    service.wait_until_ready()
    for scheme in BOTH:
        page = open_page(f"{url}/broker", scheme, height=400)
        assert cells(page, "#queue-table") == [
            ["emails_production", "8", "4", "3", "2", "3m 10s"],
            ["emails_production_bulk", "0", "0", "0", "0", "—"],
            ["emails_production_callbacks", "0", "0", "0", "0", "—"],
            ["emails_production_tasks", "0", "0", "0", "0", "—"],
        ]
        assert page.locator(".broker-url").inner_text() == f"{settings.endpoint} us-east-1"
        assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
        shoot(page, f"flower-broker{suffix(scheme)}")
    # It would answer if Flower listened on all interfaces.
    assert not answers(f"{url.replace('127.0.0.1', '127.0.0.2')}/healthcheck")
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as metrics:
        assert b"flower_events_total" in metrics.read()


def test_the_broker_tab_says_which_queue_is_not_there(start_service: StartService, open_page: OpenPage) -> None:
    service = start_service("lost")
    url = service.start_flower("flower-1")
    service.wait_until_ready()
    queue = service.sqs.get_queue_url(QueueName=service.settings.queue)["QueueUrl"]
    service.sqs.delete_queue(QueueUrl=queue)
    page = open_page(f"{url}/broker")
    lost, _, _, tasks = cells(page, "#queue-table")
    assert lost == ["emails_lost\n\nQueue with name 'emails_lost' doesn't exist in SQS", "—", "—", "—", "—", "—"]
    assert tasks == ["emails_lost_tasks", "0", "0", "0", "0", "—"]


def test_who_is_stopped_is_shown_offline_and_leaves_no_queue(live: Live, open_page: OpenPage) -> None:
    """This is the last test in the file, because it stops the workers that the others use."""
    pages = [open_page(flower) for flower in live.flowers]
    for page in pages:
        expect(page.locator("#workers-online")).to_have_text("2")
    live.service.stop("worker-2")
    for page in pages:
        expect(page.locator("#workers-online")).to_have_text("1")
        assert statuses(page) == [[live.threads, "Online"], [live.processes, "Offline"]]
        page.close()
    shared = {"emails_live_control_celeryev", "emails_live_control_celery-pidbox"}
    assert shared | {"emails_live_control_reply-celery-pidbox"} == kinds(live.service.control_queues())
    live.service.stop("flower-1")
    live.service.stop("flower-2")
    assert kinds(live.service.control_queues()) == {"emails_live_control_celery-pidbox"}
    live.service.stop("worker-1")
    assert live.service.control_queues() == []


def kinds(queue_urls: list[str]) -> set[str]:
    """Return the exchanges that the control queues are bound to."""
    return {url.rpartition("/")[2].rpartition("_")[0] for url in queue_urls}
