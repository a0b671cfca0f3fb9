"""The pages about emails in headless Chromium, with a real worker and Flower, and what their buttons do in AWS."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from emails.events import DeliveryEvent, EventType, RejectReason
from emails.store import EventStore
from settings.model import dead_letter_queue
from tests.support.flower import BOTH, Service, cells, fetch, shoot, states, suffix
from tests.support.sqs import message_counts
from tests.support.stage import pending_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

    OpenPage = Callable[..., Page]

pytestmark = pytest.mark.slow

PERMANENT, SILENT = "gone@example.com", "silent@example.com"
MARKUP = "<img src=x onerror=\"alert('hello')\">"


@dataclass
class Live:
    """A worker and a Flower that may act, after some emails have ended in different ways."""

    service: Service
    flower: str


@pytest.fixture(scope="module")
def live(emulator: str, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]) -> Iterator[Live]:
    service = Service(
        emulator,
        "staging",
        tmp_path_factory.mktemp("staging"),
        wait_until,
        EMAIL_STUB_FAILURES=json.dumps({PERMANENT: "permanent", SILENT: "unknown"}),
        EMAIL_FLOWER_ACTIONS="on",
        EMAIL_MISSING_ROW_WAIT="2",
    )
    try:
        flower = service.start_flower("flower-1")
        service.start_worker("worker-1")
        service.wait_until_ready()
        ended = send_emails(service)
        wait_until(lambda: ended.items() <= states(flower).items(), what="Flower shows how the tasks ended")
        yield Live(service, flower)
    finally:
        service.stop()


def send_emails(service: Service) -> dict[str, str]:
    """Send emails and write what makes dead letters. Return how the last task of each ends."""
    ended = {}
    recipients = {"refused": PERMANENT, "unknown": SILENT, "order": "ada.lovelace@example.com"}
    for kind, count in (("refused", 3), ("unknown", 2), ("order", 12)):
        for number in range(1, count + 1):
            row = pending_row(f"{kind}-{1040 + number}") | {"RecipientsTo": [recipients[kind]]}
            service.send_email(row)
            ended[f"tasks.send_email {row['EmailId']}"] = "SUCCESS" if kind == "order" else "FAILURE"
    service.send_email(pending_row("later-1041") | {"SendAfter": (datetime.now(UTC) + timedelta(days=1)).isoformat()})
    ended["tasks.load_email later-1041"] = "RETRY"
    service.send(service.settings.queue, "no JSON")
    for email_id in ("missing-1041", "missing-1042"):
        service.send(service.settings.queue, json.dumps({"email_id": email_id}))
        ended[f"tasks.load_email {email_id}"] = "FAILURE"
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    bounce = DeliveryEvent(
        *("order-1041", EventType.BOUNCED, "ada.lovelace@example.com", now, "ses"),
        reject_reason=RejectReason.BOUNCED,
        diagnostic="smtp; 550 5.1.1 <ada.lovelace@example.com>... User unknown",
    )
    EventStore.from_settings(service.settings).add([bounce])
    return ended


def status(live: Live, email_id: str) -> str:
    return live.service.status(email_id)[0]


def press(page: Page, button: str, *, accept: bool = True) -> str:
    """Press a button and answer its question, which is returned."""
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.message)
        dialog.accept() if accept else dialog.dismiss()

    page.once("dialog", answer)
    page.get_by_role("button", name=button, exact=True).click()
    return asked[0]


def test_the_emails_tab_shows_what_needs_a_person_and_what_flower_has_seen(live: Live, open_page: OpenPage) -> None:
    for scheme in BOTH:
        page = open_page(live.flower, scheme, height=860)
        page.get_by_role("link", name="Emails", exact=True).click()
        expect(page.locator("#attention-counts .badge")).to_have_text(["3 Failed", "2 Unknown"])
        needing = {row[0]: row[1] for row in cells(page, "#attention-table")}
        assert needing["refused-1041"] == "Failed"
        assert needing["unknown-1042"] == "Unknown"
        seen = {row[0]: row for row in cells(page, "#seen-table")}
        assert len(seen) == 12 + 3 + 2 + 1 + 2
        assert (seen["order-1041"][1], seen["order-1041"][3], seen["order-1041"][5]) == (
            "Sent",
            "1",
            "worker-1@localhost",
        )
        assert (seen["refused-1041"][1], seen["later-1041"][1], seen["missing-1041"][1]) == (
            "Failed",
            "Pending",
            "no row",
        )
        shoot(page, f"flower-emails{suffix(scheme)}")
    page.locator("#attention-reasons a").first.click()
    expect(page.locator("#attention-counts .badge")).to_have_text(["3 Failed"])


def test_markup_in_an_id_is_text(live: Live, open_page: OpenPage) -> None:
    live.service.send_email(pending_row(MARKUP) | {"RecipientsTo": [PERMANENT]})
    live.service.wait_until(lambda: status(live, MARKUP) == "Failed")
    page = open_page(f"{live.flower}/emails")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.locator("#attention-table").get_by_role("link", name=MARKUP).click()
    expect(page.locator("#email-id")).to_have_text(MARKUP)
    page.goto(f"{live.flower}/tasks")
    expect(page.locator("#tasks-table tbody tr").first).to_be_visible()
    assert dialogs == []


def test_the_search_finds_any_email_also_after_a_restart(live: Live, open_page: OpenPage) -> None:
    live.service.store.put(pending_row("never-seen"))
    url = live.service.start_flower("flower-2", EMAIL_FLOWER_ACTIONS="off")
    live.service.wait_until_ready()
    page = open_page(f"{url}/emails")
    assert "seen: 0" in page.content()
    for email_id, shown in (("order-1041", "Sent"), ("never-seen", "Pending")):
        page.get_by_label("Email id").fill(f" {email_id} ")
        page.get_by_role("button", name="Find email").click()
        expect(page.locator("#email-id")).to_have_text(email_id)
        expect(page.locator("#status")).to_have_text(shown)
        assert page.locator("main button").count() == 0, "it may not act"
        page.go_back()
    live.service.stop("flower-2")


def test_an_emails_page_shows_its_row_its_history_and_its_tasks(live: Live, open_page: OpenPage) -> None:
    for scheme in BOTH:
        page = open_page(f"{live.flower}/email?id=order-1041", scheme, height=1030)
        assert cells(page, "#history-table") == [
            [
                "2026-01-31 12:00:00",
                "a…@example.com",
                "bounced",
                "bounced smtp; 550 5.1.1 <a…@example.com>... User unknown",
            ]
        ]
        tasks = cells(page, "#email-tasks")
        assert [row[:3] for row in tasks] == [
            ["tasks.bridge", "SUCCESS", "'order-1041'"],
            ["tasks.load_email", "SUCCESS", "'order-1041'"],
            ["tasks.send_email", "SUCCESS", "'Sent'"],
        ]
        assert "lovelace" not in page.content()
        shoot(page, f"flower-email{suffix(scheme)}")


def test_a_failed_email_is_not_green_and_flowers_pill_finds_it(live: Live, open_page: OpenPage) -> None:
    page = open_page(f"{live.flower}/tasks")
    page.select_option("#tasks-table_length select", "100")
    page.get_by_role("button", name="Failed").click()
    expect(page.locator("#tasks-table tbody .text-bg-success")).to_have_count(0)
    failed = page.locator("#tasks-table tbody tr")
    expect(failed.filter(has_text="unknown-1041")).to_contain_text("'Unknown: ")
    expect(failed.filter(has_text="refused-1041")).to_contain_text("'Failed: ")
    expect(failed.filter(has_text="order-1041")).to_have_count(0)
    expect(page.locator("#tasks-table thead")).to_contain_text("Result")
    assert dead_letters(live) == {live.service.settings.queue: 1, live.service.settings.tasks_queue: 2}, "not of these"


def test_cancel_asks_and_then_cancels(live: Live, open_page: OpenPage) -> None:
    page = open_page(f"{live.flower}/email?id=later-1041")
    press(page, "Cancel", accept=False)
    assert status(live, "later-1041") == "Pending"
    assert "Cancel this email?" in press(page, "Cancel")
    expect(page.locator("#done")).to_have_text("later-1041 is Failed: cancelled.")
    expect(page.locator("#status")).to_have_text("Failed")
    assert live.service.status("later-1041") == ("Failed", "cancelled")


def test_mark_as_sent_marks_it(live: Live, open_page: OpenPage) -> None:
    page = open_page(f"{live.flower}/email?id=unknown-1041")
    press(page, "Mark as sent")
    expect(page.locator("#done")).to_have_text("unknown-1041 is Sent.")
    assert live.service.status("unknown-1041") == ("Sent", "resolved by an operator: it was sent")


def test_resend_warns_and_sends_it_again(live: Live, open_page: OpenPage) -> None:
    page = open_page(f"{live.flower}/email?id=unknown-1042")
    claimed = (live.service.store.get("unknown-1042") or {})["ClaimedBy"]
    assert "get it twice" in press(page, "Resend")
    expect(page.locator("#done")).to_have_text("unknown-1042 is Pending and enqueued.")
    # The provider says nothing this time either, but a worker has received the message.
    live.service.wait_until(
        lambda: (live.service.store.get("unknown-1042") or {}).get("ClaimedBy") not in (None, claimed)
    )


def test_what_somebody_else_has_done_meanwhile_is_said(live: Live, open_page: OpenPage) -> None:
    page = open_page(f"{live.flower}/email?id=refused-1043")
    live.service.store.resolve_sent("refused-1043")
    press(page, "Resend")
    expect(page.locator("#refused")).to_have_text("refused-1043 is Sent, not Unknown or Failed.")
    assert status(live, "refused-1043") == "Sent"


def count(live: Live, queue: str) -> int:
    """Count a queue's messages. The emulator may have given one to the long poll of a worker that has stopped."""
    sqs = live.service.sqs
    return sum(message_counts(sqs, sqs.get_queue_url(QueueName=queue)["QueueUrl"]))


def dead_letters(live: Live) -> dict[str, int]:
    """Return how many dead letters each queue has that has some."""
    counts = {queue: count(live, dead_letter_queue(queue)) for queue in live.service.settings.queues}
    return {queue: number for queue, number in counts.items() if number}


def test_dead_letters_are_found_from_the_broker_tab_and_redriven(live: Live, open_page: OpenPage) -> None:
    raw, tasks = live.service.settings.queue, live.service.settings.tasks_queue
    live.service.wait_until(lambda: dead_letters(live) == {raw: 1, tasks: 2}, what="three dead letters")
    for scheme in BOTH:
        page = open_page(f"{live.flower}/broker", scheme, height=700)
        marked = page.locator("#queue-table tr.has-dead-letters")
        expect(marked).to_have_count(2)
        marked.filter(has_text=tasks).get_by_role("link", name="Show").click()
        assert page.url.endswith(f"/dead-letters#{tasks}")
        expect(page.locator(f"#{raw} tbody tr")).to_have_count(1)
        expect(page.locator(f"#{tasks} tbody tr")).to_have_count(2)
        page.evaluate("window.scrollTo(0, 0)")
        shoot(page, f"flower-dead-letters{suffix(scheme)}")
    live.service.stop("worker-1")  # so that the messages stay where the buttons put them
    others = count(live, tasks)  # the delayed copy for the email that is scheduled
    page.on("dialog", lambda dialog: dialog.accept())
    done = page.locator("#done")

    page.locator(f"#{tasks} tbody tr", has_text="missing-1041").get_by_role("button", name="Redrive").click()
    expect(done).to_have_text(f"1 moved back to {tasks}.")
    expect(page.locator(f"#{tasks} tbody tr")).to_have_count(1)
    assert (dead_letters(live), count(live, tasks)) == ({raw: 1, tasks: 1}, others + 1)

    page.get_by_role("button", name="1 EmailNotFound: redrive").click()
    expect(page.locator(f"#{tasks}")).to_contain_text("has none")
    assert (dead_letters(live), count(live, tasks)) == ({raw: 1}, others + 2)

    page.locator(f"#{raw}").get_by_role("button", name="Redrive all").click()
    expect(done).to_have_text(f"1 moved back to {raw}.")
    assert (dead_letters(live), count(live, raw)) == ({}, 1)


def test_the_tables_are_readable_on_a_phone(live: Live, open_page: OpenPage) -> None:
    for path in ("emails", "email?id=order-1041", "dead-letters", "broker"):
        page = open_page(f"{live.flower}/{path}", width=400, height=800)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, path
        for table in page.locator("figure.table-responsive").all():
            assert table.evaluate("figure => figure.scrollWidth <= figure.clientWidth"), path


FORM = """<form method="post" action="{action}"><input name="action" value="resend"></form>
<script>document.forms[0].submit()</script>"""


@contextmanager
def another_site(content: str) -> Iterator[str]:
    """Serve a page from another site, and return its URL. Browsers take localhost and 127.0.0.1 for different sites."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_form_of_another_site_changes_nothing(live: Live, open_page: OpenPage) -> None:
    """The browser sends the password by itself, since the person has opened Flower before."""
    page = open_page(f"{live.flower}/email?id=refused-1041")
    assert page.get_by_role("button", name="Resend").count() == 1
    task_id = next(iter(json.loads(fetch(f"{live.flower}/api/tasks"))))
    for path in ("email?id=refused-1041", "dead-letters", f"api/task/revoke/{task_id}"):
        with (
            another_site(FORM.format(action=f"{live.flower}/{path}")) as site,
            page.expect_response(lambda response: response.request.method == "POST") as response,
        ):
            page.goto(site)
        assert response.value.status == 403, path
        sent = response.value.request.all_headers()
        assert sent.get("authorization") == f"Basic {b64encode(b'ada:secret').decode()}", path
    assert status(live, "refused-1041") == "Failed"
