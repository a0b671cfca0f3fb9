"""Flower's pages in headless Chromium, with real workers, real Flowers and the emulator."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.request
from base64 import b64encode
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from celery_sqs.patches.remote_control import CANNOT_RESIZE
from emails.events import DeliveryEvent, EventType
from emails.store import EventStore
from settings.model import dead_letter_queue
from tests.support.flower import BOTH, Service, answers, cells, details, fetch, online, shoot, states, suffix
from tests.support.sqs import report_age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    StartService = Callable[..., Service]
    WaitUntil = Callable[..., None]
    OpenPage = Callable[..., Page]

pytestmark = pytest.mark.slow

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


# DynamoDB refuses to add a claim, because the row would be too large.
TOO_LARGE = MARK.ljust(400 * 1024 - len(json.dumps(MARKED)) - 50, ".")
TOMORROW = datetime.now(UTC) + timedelta(days=1)
ROWS: dict[str, dict[str, Any]] = {
    "order-1": {},
    "order-2": {},
    "throttled-1": {"RecipientsTo": [TEMPORARY]},
    "refused-1": {"RecipientsTo": [PERMANENT]},
    "too-large-1": {"BodyText": TOO_LARGE},
    "scheduled-1": {"SendAfter": TOMORROW.isoformat()},
    "invalid-1": {"RecipientsTo": [f"{MARK} is no address"]},
}


def send_emails(service: Service) -> dict[str, str]:
    """Send emails of several kinds. Return how their tasks end."""
    ended = {}
    for email_id, attributes in ROWS.items():
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


def statuses(page: Page) -> list[list[str]]:
    """Return whether each worker is online, by name, from the Workers page, which breaks long names."""
    return sorted([name.replace("\n", ""), status] for name, status, *_ in cells(page, "#workers-table"))


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
        shown = {uuid: (name, state) for name, _, _, state, uuid, *_ in cells(page, "#tasks-table")}
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
    assert page.locator("#why-not-resize").inner_text().casefold() == f"{CANNOT_RESIZE}.".casefold()
    for button in ("#worker-pool-grow", "#worker-pool-shrink", "#worker-pool-autoscale"):
        expect(page.locator(button)).to_be_disabled()


def test_a_flower_without_a_password_says_what_the_buttons_need(live: Live, open_page: OpenPage) -> None:
    url = live.service.start_flower("flower-3", password=False)
    live.service.wait_until_ready()
    live.service.wait_until(lambda: answers(f"{url}/worker/{live.processes}"), what="the worker answers Flower")
    page = open_page(f"{url}/worker/{live.processes}")
    expect(page.locator("#why-not-resize")).to_contain_text("start Flower with authentication")
    expect(page.locator("#worker-pool-grow")).to_be_disabled()
    live.service.stop("flower-3")


def test_nothing_but_ids_is_on_any_page(live: Live, open_page: OpenPage) -> None:
    """The mark is in every row and body that the workers saw, and in what a provider reported."""
    flower = live.flowers[0]
    diagnostic = f"smtp; 550 <{MARK}-to@example.com>"
    now = datetime.now(UTC)
    bounced = DeliveryEvent("order-1", EventType.BOUNCED, f"{MARK}-to@example.com", now, "ses", diagnostic=diagnostic)
    EventStore.from_settings(live.service.settings).add([bounced])
    tasks = json.loads(fetch(f"{flower}/api/tasks"))
    assert len(tasks) == len(live.ended)
    texts = {f"log of {name}": live.service.log(name) for name in live.service.processes}
    paths = ["workers", "workers?json=1", "tasks", "broker", "metrics", "api/tasks", "api/workers?refresh=1"]
    paths += ["api/queues/length", "emails", "dead-letters", *(f"email?id={email_id}" for email_id in ROWS)]
    paths += [f"{page}/{task_id}" for page in ("task", "api/task/info") for task_id in tasks]
    for hostname in (live.threads, live.processes):
        texts[hostname] = open_worker(live, open_page, hostname).content()
    for path in paths:
        texts[path] = fetch(f"{flower}/{path}")
    page = open_page(f"{flower}/tasks")
    page.locator("#tasks-table tbody td").first.wait_for()
    texts["tasks, as a browser shows them"] = page.content()
    assert "order-1" in texts["api/tasks"]
    assert "order-1" in texts["emails"]
    assert "…@example.com" in texts["email?id=order-1"]
    assert "NotJson" in texts["dead-letters"]
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


UNKNOWN_AGE = "unknown: CloudWatch has no figure yet"


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
            ["emails_production", "8", "4", "3", "2 Show", "3m 10s"],
            ["emails_production_bulk", "0", "0", "0", "0", UNKNOWN_AGE],
            ["emails_production_callbacks", "0", "0", "0", "0", UNKNOWN_AGE],
            ["emails_production_tasks", "0", "0", "0", "0", UNKNOWN_AGE],
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
    assert lost == [
        "emails_lost\n\nQueue with name 'emails_lost' doesn't exist in SQS",
        "—",
        "—",
        "—",
        "—",
        UNKNOWN_AGE,
    ]
    assert tasks == ["emails_lost_tasks", "0", "0", "0", "0", UNKNOWN_AGE]


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
