"""The pages about emails. Flower runs in this process, without a broker. test_in_a_browser.py has the real thing."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils.saferepr import saferepr
from flower.options import options

from emails.store import EventStore
from settings import get_settings
from settings.aws import client
from tasks import flower as ours
from tasks.flower import dead_letters, emails, page
from tests.celery_sqs.test_flower_pages import FORGED, heartbeat, received, running
from tests.support.stage import PREDECESSORS_TABLE, pending_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emails.store import EmailStore
    from settings import Settings
    from tests.celery_sqs.test_flower_pages import Running

PASSWORD = "ada:secret"
AUTHORIZATION = f"Basic {b64encode(PASSWORD.encode()).decode()}"
MARKUP = "<script>alert('1')</script>&amp;\"x\""


@pytest.fixture(scope="module")
def site() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("celery_sqs.patches.flower.added", [])
        patch.setattr(options.mockable(), "tasks_columns", "")
        ours.install()
        with running() as site:
            yield site


@pytest.fixture
def flower(site: Running, settings: Settings, environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A Flower with a password on the test's own stage, which may act."""
    monkeypatch.setattr(options.mockable(), "basic_auth", [PASSWORD])
    monkeypatch.setenv("EMAIL_FLOWER_ACTIONS", "on")
    get_settings.cache_clear()
    page.services.cache_clear()
    site.forget()
    yield site
    page.services.cache_clear()


def read(flower: Running, path: str) -> str:
    status, body, _ = flower.get(path, AUTHORIZATION)
    assert status == 200, body
    return body.decode()


def post(flower: Running, path: str, data: dict[str, str], *, token: bool = True, **headers: str) -> tuple[int, str]:
    """Post a form as the page itself does, with some headers replaced, or left out if they are empty."""
    _, _, answered = flower.get("/emails", AUTHORIZATION)
    cookie = answered["Set-Cookie"].split(";")[0]
    fields = data | ({"_xsrf": cookie.partition("=")[2].strip('"')} if token else {})
    sent = {"Authorization": AUTHORIZATION, "Cookie": cookie, "Origin": flower.url, "Sec_Fetch_Site": "same-origin"}
    request = urllib.request.Request(flower.url + path, urllib.parse.urlencode(fields).encode())
    for name, value in (sent | headers).items():
        if value:
            request.add_header(name.replace("_", "-"), value)
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read().decode()


def email(email_id: str) -> str:
    return page.link("/email", id=email_id)


def ended(email_id: str, result: str, kind: str = "task-succeeded", **changes: Any) -> list[dict[str, Any]]:
    """Return the events of an email's send_email, which ended now."""
    begin = received(uuid=f"task of {email_id}", name="tasks.send_email", args=saferepr((email_id,)))
    end = begin | {"type": kind, "result": saferepr(result), "runtime": 0.1, "timestamp": time.time()} | changes
    return [begin, end]


def status(store: EmailStore, email_id: str) -> str:
    return str((store.get(email_id) or {}).get("EmailStatus"))


# What the pages show


def test_the_tab_shows_what_needs_a_person_first_with_counts(flower: Running, store: EmailStore) -> None:
    for number in range(30):
        store.put(pending_row(f"order-{number}"))
        claim = store.claim(f"order-{number}", lease=60)
        if number < 20:
            store.fail(claim, "no such mailbox" if number < 5 else "no connection")
        elif number < 28:
            store.mark_unknown(claim, "no answer")
    text = read(flower, "/emails")
    assert re.findall(r">(\d+) (Failed|Unknown)<", text) == [("20", "Failed"), ("8", "Unknown")]
    assert re.findall("<li>(\\d+) \N{MULTIPLICATION SIGN} <a[^>]*>([^<]*)</a>", text) == [
        ("15", "no connection"),
        ("8", "no answer"),
        ("5", "no such mailbox"),
    ]
    assert text.index("attention-table") < text.index("seen-table")
    ids = [set(re.findall(r'href="/email\?id=(order-\d+)"', read(flower, f"/emails?page={n}"))) for n in (1, 2, 3)]
    assert [len(each) for each in ids] == [25, 3, 0]
    assert ids[0] | ids[1] == {f"order-{number}" for number in range(28)}
    filtered = read(flower, "/emails?reason=no+such+mailbox")
    assert set(re.findall(r'href="/email\?id=(order-\d+)"', filtered)) == {f"order-{number}" for number in range(5)}


def test_the_tab_shows_one_row_for_each_email_that_flower_has_seen(flower: Running, store: EmailStore) -> None:
    for email_id in ("order-1", "order-2"):
        store.put(pending_row(email_id))
    store.fail(store.claim("order-2", lease=60), "refused: <eve.adams@example.com> is unknown")
    flower.feed([heartbeat()])
    flower.feed(ended("order-1", "Sent"))
    loaded = received(uuid="loaded", name="tasks.load_email", args="('order-1',)", timestamp=time.time() - 9)
    bridged = received(uuid="bridged", name="tasks.bridge", args="(<body of 9 bytes>,)", timestamp=time.time() - 9)
    flower.feed([loaded, bridged, bridged | {"type": "task-succeeded", "result": "'order-1'"}])
    flower.feed(ended("order-2", "Failed: refused", "task-failed"))
    flower.feed(ended("deleted", "Sent"))
    page_text = read(flower, "/emails")
    assert "eve.adams" not in page_text
    table = page_text.split("seen-table")[1]
    rows = [re.sub(r"<[^>]*>|\s+", " ", row).split() for row in table.split("<tr>")[2:]]
    assert [row[0] for row in rows] == ["deleted", "order-2", "order-1"]
    assert rows[0][1:3] == ["no", "row"]
    assert rows[1][1:7] == ["Failed", "refused:", "&lt;e…@example.com&gt;", "is", "unknown", "1"]
    assert (rows[2][1:3], rows[2][-1]) == (["Pending", "0"], "worker-1@host")
    shown = read(flower, email("order-1"))
    assert re.findall(r">(tasks\.\w+)</a>", shown) == ["tasks.load_email", "tasks.bridge", "tasks.send_email"]


def test_an_emails_page_shows_its_row_and_its_history_without_content_and_addresses(
    flower: Running, store: EmailStore, settings: Settings
) -> None:
    store.put(pending_row("order-1") | {"RecipientsTo": ["grace.hopper@example.com"], "Subject": "Hidden subject"})
    store.fail(store.claim("order-1", lease=60), "550 no mailbox grace.hopper@example.com")
    item = {
        "EmailId": "order-1",
        "EventId": "Bounced grace.hopper@example.com",
        "EventType": "Bounced",
        "Recipient": "grace.hopper@example.com",
        "Permanent": False,
        "OccurredAt": "2026-01-31T12:00:00.000+00:00",
        "Diagnostic": "smtp; 550 <grace.hopper@example.com>",
    }
    events = EventStore.from_settings(settings)
    client("dynamodb", settings).put_item(
        TableName=events.table,
        Item={name: {"BOOL": value} if isinstance(value, bool) else {"S": value} for name, value in item.items()},
    )
    text = read(flower, email("order-1"))
    for shown in ("Failed", "g…@example.com", "Bounced (temporary)", "2026-01-31 12:00:00", "ClaimedBy", "Attempts"):
        assert shown in text
    assert not re.search("grace.hopper|Hidden subject|shop@example.com", text)


def test_any_id_is_found_and_is_text(flower: Running, store: EmailStore) -> None:
    ids = [MARKUP, "a/b?c=d#e", "100%", "a+b", " padded ", "o'brien", "zoë", "x" * 190]
    flower.feed([heartbeat()])
    for email_id in ids:
        store.put(pending_row(email_id))
        store.fail(store.claim(email_id, lease=60), MARKUP)
        flower.feed(ended(email_id, f"Failed: {MARKUP}", "task-failed"))
    text = read(flower, "/emails")
    assert "<script>alert" not in text
    links = dict(re.findall(r'href="(/email\?id=[^"]*)">([^<]*)</a>', text))
    assert sorted(map(unescape, links.values())) == sorted(ids)
    for path, shown in links.items():
        email_id = unescape(shown)
        pasted = email_id if email_id != email_id.strip() else f" {email_id}\t"
        text = read(flower, email(pasted))
        assert re.findall(r'id="email-id">([^<]*)<', text) == [shown]
        assert "<script>alert" not in text
        assert text.count("tasks.send_email") == 1
        assert post(flower, path, {"action": "sent"})[0] == 200
        assert status(store, email_id) == "Sent"


def test_an_id_without_an_email_says_so(flower: Running) -> None:
    says = {"missing": "missing has no row in emails_", " ": "email_id is blank", "x" * 191: "longer than 190 bytes"}
    for email_id, sentence in says.items():
        code, body, _ = flower.get(email(email_id), AUTHORIZATION)
        assert (code, sentence in body.decode()) == (404, True)


def test_a_row_with_values_of_any_type_is_shown(flower: Running, settings: Settings) -> None:
    odd: dict[str, Any] = {
        name: {"L": [{"B": b"\x1b"}]} for name in ("FailureReason", "Attempts", "UpdatedAt", "SentAt")
    }
    item = {"EmailId": {"S": "odd"}, "EmailStatus": {"N": "7"}, "ClaimExpiresAt": {"N": "1E+125"}} | odd
    client("dynamodb", settings).put_item(TableName=settings.table, Item=item)
    flower.feed([heartbeat(), *ended("odd", "Sent")])
    assert "odd" in read(flower, "/emails")
    assert "Decimal" in read(flower, email("odd"))


def test_a_page_whose_dynamodb_is_unavailable_says_so(
    flower: Running, free_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_ENDPOINT_URL", free_endpoint)
    get_settings.cache_clear()
    page.services.cache_clear()
    flower.feed([heartbeat(), *ended("order-1", "Sent")])
    text = read(flower, "/emails")
    assert text.count("DynamoDB cannot be reached: EndpointConnectionError.") == 2
    assert "order-1" in text
    for path in (email("order-1"), "/dead-letters"):
        code, body, _ = flower.get(path, AUTHORIZATION)
        assert (code, "cannot be reached: EndpointConnectionError." in body.decode()) == (503, True)


def test_flower_answers_while_dynamodb_does_not(flower: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE_SECONDS", 0.5)
    monkeypatch.setattr(emails, "read_email", lambda _: time.sleep(1.5))
    began = time.monotonic()
    code, body, _ = flower.get(email("order-1"), AUTHORIZATION)
    assert (code, "did not answer within 0.5 seconds" in body.decode()) == (503, True)
    assert time.monotonic() - began < 1.4, "the page waited for DynamoDB"


def test_a_table_without_the_index_says_how_to_add_it(flower: Running, settings: Settings) -> None:
    dynamodb = client("dynamodb", settings)
    dynamodb.delete_table(TableName=settings.table)
    dynamodb.create_table(**PREDECESSORS_TABLE | {"TableName": settings.table})
    assert "email-service provision --backfill" in read(flower, "/emails")


def test_the_pages_are_below_flowers_prefix(flower: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.mockable(), "url_prefix", "watch")
    flower.feed([heartbeat(), *ended("order-1", "Sent")])
    with running() as below:
        below.app.events.state.tasks.update(flower.app.events.state.tasks.data)
        text = read(below, "/watch/emails")
        links = set(re.findall(r'href="(/[^"]*(?:email|dead)[^"]*)"', text))
        assert links == {"/watch/emails", "/watch/dead-letters", "/watch/email?id=order-1"}
        assert 'action="/watch/email"' in text
        assert below.get("/emails", AUTHORIZATION)[0] == 404


# What the buttons do


ACTIONS = [("Pending", "cancel", "Failed"), ("Failed", "sent", "Sent"), ("Unknown", "resend", "Pending")]


def put(store: EmailStore, email_id: str, status: str) -> None:
    store.put(pending_row(email_id) | {"EmailStatus": status})


@pytest.mark.parametrize(("before", "action", "after"), ACTIONS)
def test_a_button_changes_the_email_once(
    flower: Running, store: EmailStore, before: str, action: str, after: str
) -> None:
    put(store, "order-1", before)
    buttons = re.findall(r'name="action" value="(\w+)"', read(flower, email("order-1")))
    assert buttons == (["cancel"] if before == "Pending" else ["sent", "resend"])
    code, text = post(flower, email("order-1"), {"action": action})
    assert (code, 'id="done"' in text, status(store, "order-1")) == (200, True, after)
    code, text = post(flower, email("order-1"), {"action": action})
    assert (f"order-1 is {after}, not" in text, status(store, "order-1")) == (True, after)


def test_an_email_that_nobody_may_change_has_no_buttons(flower: Running, store: EmailStore) -> None:
    for other in ("Sending", "Sent", "Delivered", "Bounced", "Complained", "Waiting"):
        put(store, f"is-{other}", other)
        assert "<form" not in read(flower, email(f"is-{other}"))


FORGERIES = {
    "no password": {"Authorization": ""},
    "a wrong password": {"Authorization": "Basic YTpi"},
    "no origin": {"Origin": "", "Sec_Fetch_Site": ""},
    "no origin, and metadata that claims the best": {"Origin": ""},
    "another origin": {"Origin": "https://evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "the origin of a sandbox": {"Origin": "null"},
    "another site by metadata": {"Sec_Fetch_Site": "cross-site"},
    "another port by metadata": {"Sec_Fetch_Site": "same-site"},
    "no cookie": {"Cookie": ""},
    "another cookie": {"Cookie": "_xsrf=abc"},
}


def test_a_forged_post_changes_nothing(
    flower: Running, store: EmailStore, put_dead_letter: Callable[..., str], settings: Settings
) -> None:
    put(store, "order-1", "Pending")
    letter = put_dead_letter(settings.queue, "{}")
    for what, headers in FORGERIES.items():
        assert post(flower, email("order-1"), {"action": "cancel"}, **headers)[0] in (401, 403), what
        data = {"queue": f"{settings.queue}_dlq", "all": "yes"}
        assert post(flower, "/dead-letters", data, **headers)[0] in (401, 403), what
    assert status(store, "order-1") == "Pending"
    assert letter in read(flower, "/dead-letters")


def test_a_post_without_a_token_changes_nothing(flower: Running, store: EmailStore) -> None:
    put(store, "order-1", "Pending")
    assert post(flower, email("order-1"), {"action": "cancel"}, token=False)[0] == 403
    assert post(flower, email("order-1"), {"action": "cancel", "_xsrf": "abc"}, token=False)[0] == 403
    assert status(store, "order-1") == "Pending"


def test_a_link_changes_nothing(flower: Running, store: EmailStore) -> None:
    put(store, "order-1", "Pending")
    read(flower, page.link("/email", id="order-1", action="cancel"))
    assert status(store, "order-1") == "Pending"


@pytest.mark.parametrize("off", ["setting", "password", "read-only"])
def test_without_the_setting_or_a_password_there_are_no_buttons_and_no_actions(  # noqa: PLR0913, PLR0917 (fixtures)
    flower: Running,
    store: EmailStore,
    put_dead_letter: Callable[..., str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    off: str,
) -> None:
    put(store, "order-1", "Pending")
    letter = put_dead_letter(settings.queue, "{}")
    if off == "setting":
        monkeypatch.setenv("EMAIL_FLOWER_ACTIONS", "off")
        get_settings.cache_clear()
    elif off == "password":
        monkeypatch.setattr(options.mockable(), "basic_auth", [])
    else:
        monkeypatch.setattr(options.mockable(), "read_only", True)
    assert "<button" not in read(flower, email("order-1")).split('id="main-content"')[1]
    text = read(flower, "/dead-letters")
    assert letter in text
    assert "<button" not in text.split('id="main-content"')[1]
    assert post(flower, email("order-1"), {"action": "cancel"})[0] == 403
    assert post(flower, "/dead-letters", {"queue": f"{settings.queue}_dlq", "all": "yes"})[0] == 403
    assert status(store, "order-1") == "Pending"


def test_every_page_asks_for_the_password(flower: Running) -> None:
    for path in ("/emails", "/email?id=order-1", "/dead-letters"):
        assert flower.get(path)[0] == 401


def test_an_unknown_action_is_refused(flower: Running, store: EmailStore) -> None:
    put(store, "order-1", "Pending")
    for data in ({}, {"action": "delete"}):
        assert post(flower, email("order-1"), data)[0] == 400


# Dead letters


def test_dead_letters_are_listed_with_reason_age_and_email_and_not_their_body(
    flower: Running, settings: Settings, put_dead_letter: Callable[..., str]
) -> None:
    put_dead_letter(
        settings.queue, '{"email_id": "order-1", "x": "secret"}', {"Reason": "EmailNotFound", "Detail": "d"}
    )
    put_dead_letter(settings.queue, MARKUP, {"Reason": MARKUP, "Detail": MARKUP})
    text = read(flower, "/dead-letters")
    assert "1 EmailNotFound" in text
    assert re.search(r'href="/email\?id=order-1">order-1</a>', text)
    assert len(re.findall(r"<td[^>]*>[\d.]+ m?s</td>", text)) == 2
    assert "secret" not in text
    assert "<script>alert" not in text
    assert text.count("has none") == 3


def test_one_all_of_a_reason_or_all_are_redriven(
    flower: Running, store: EmailStore, settings: Settings, put_dead_letter: Callable[..., str]
) -> None:
    letters = [
        put_dead_letter(settings.queue, json.dumps({"email_id": f"order-{n}"}), {"Reason": "A" if n < 4 else "B"})
        for n in range(7)
    ]
    other = put_dead_letter(settings.bulk_queue, "{}", {"Reason": "A"})
    put(store, "order-6", "Failed")
    queue = {"queue": f"{settings.queue}_dlq"}
    assert f"1 moved back to {settings.queue}." in post(flower, "/dead-letters", queue | {"message_id": letters[0]})[1]
    assert f"3 moved back to {settings.queue}." in post(flower, "/dead-letters", queue | {"reason": "A"})[1]
    code, text = post(flower, "/dead-letters", queue | {"all": "yes"})
    assert (code, f"2 moved back to {settings.queue}." in text) == (200, True)
    assert f"{letters[6]} was not moved: order-6 is Failed" in text
    left = set(re.findall(r'name="message_id" value="([^"]*)"', text))
    assert left == {letters[6], other}


def test_a_redrive_that_names_no_queue_or_no_one_choice_is_refused(flower: Running, settings: Settings) -> None:
    for data in ({}, {"all": "yes", "reason": "A"}, {"reason": "A", "message_id": "1"}, {"all": "no"}):
        assert post(flower, "/dead-letters", {"queue": f"{settings.queue}_dlq"} | data)[0] == 400
    assert post(flower, "/dead-letters", {"all": "yes"})[0] == 400


def test_a_redrive_that_takes_too_long_stops_and_says_so(
    flower: Running, settings: Settings, put_dead_letter: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "REDRIVE_SECONDS", 0)
    put_dead_letter(settings.queue, "{}")
    _, text = post(flower, "/dead-letters", {"queue": f"{settings.queue}_dlq", "all": "yes"})
    assert "0 moved back to" in text
    assert "press the button again" in text


# Many emails


def test_no_event_that_is_forged_breaks_the_tab(flower: Running) -> None:
    for event in FORGED:
        flower.feed([event, heartbeat(), received(args="('order-1',)")])
    assert ">order-1</a>" in read(flower, "/emails")
    for args in (
        "('",
        "('\\",
        "(" * 9000,
        "('a\\', 'b',)",
        "('" + "\\'" * 9000,
        "('\x00',)",
        "('" + "x" * 5000 + "',)",
    ):
        flower.feed(received(uuid=args[:900] + "1", args=args))
    for path in ("/emails", email("order-1")):
        assert "order-1" in flower.get(path, AUTHORIZATION)[1].decode()


@pytest.mark.slow
def test_ten_thousand_emails_keep_the_tab_fast_and_its_memory_bounded(flower: Running, store: EmailStore) -> None:
    flower.app.events.state.tasks.limit = 20_000
    flower.feed([heartbeat()])
    for start in range(0, 10_000, 500):
        loaded = [
            received(uuid=f"load of {n}", args=saferepr((f"order-{n}",)), timestamp=time.time() - 1)
            for n in range(start, start + 500)
        ]
        flower.feed(loaded + [event for n in range(start, start + 500) for event in ended(f"order-{n}", "Sent")])
    store.put(pending_row("order-9999"))
    read(flower, "/emails")
    began = time.monotonic()
    first = read(flower, "/emails")
    took = time.monotonic() - began
    tracemalloc.start()
    read(flower, "/emails")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"the Emails tab took {took:.2f} s with 10,000 emails, and {peak / 2**20:.1f} MiB for a moment")  # noqa: T201
    assert kept < 1_000_000, "the tab itself remembers nothing"
    assert peak < 20_000_000
    assert "seen: 10,000" in first
    assert first.count("<tr>") < 40, "only a page of them is rendered"
    assert len(first) < 100_000
    last = read(flower, f"/emails?seen={10_000 // emails.ON_A_PAGE}")
    assert "order-0<" in last
