"""Each service's webhooks: what is verified, how it is wrapped, and what it means."""

from __future__ import annotations

import base64
import hmac
import json
import random
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES
from emails.callbacks import PartlyInvalid, check_reader, parse_callback
from emails.callbacks.anymail import FORMATS
from emails.events import EventType
from emails.message import InvalidMessage
from emails.webhooks.envelope import LARGEST_BODY, Envelope, TooLarge, accept
from emails.webhooks.request import NotVerified, WebhookRequest
from emails.webhooks.settings import WebhookSettings
from emails.webhooks.signatures import SCHEMES, basic
from settings import SettingsError
from tests.emails.webhooks.examples import AT, EMAIL_ID, EXAMPLES, ONE_EACH, Example
from tests.support.webhooks import KEY, LOGIN, MANDRILL_URL, SVIX_KEY, public, secrets, signed, webhook_settings

if TYPE_CHECKING:
    from emails.events import DeliveryEvent

OTHER_KEY, OTHER_LOGIN = "another-key-of-the-service", "reports:another-password"


def accepted(provider: str, request: WebhookRequest, now: float | None = None, **changed: Any) -> list[str]:
    its_secrets = SCHEMES[provider].secrets(webhook_settings(**changed))
    return accept(provider, request, its_secrets, time.time() if now is None else now)


def events_of(provider: str, report: Any) -> list[DeliveryEvent]:
    return parse_callback(_text_of(provider, report))


def report_of(provider: str, **changed: Any) -> Any:
    """Return a report of the service with some values changed."""
    report = next(example.report for example in EXAMPLES if example.provider == provider)
    return [{**report[0], **changed}] if isinstance(report, list) else {**report, **changed}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_documented_report_becomes_its_event(example: Example) -> None:
    (message,) = accepted(example.provider, signed(example.provider, example.report))
    (event,) = parse_callback(message)
    assert (event.email_id, event.provider, event.recipient) == (EMAIL_ID, example.provider, example.recipient)
    assert (event.type, event.status, event.reject_reason) == (example.event, example.status, example.reason)
    assert (event.permanent, event.description) == (example.permanent, example.word)
    assert (event.diagnostic, event.occurred_at) == (example.response, AT)
    assert event.provider_message_id


def test_every_service_with_webhooks_has_examples() -> None:
    assert {example.provider for example in EXAMPLES} == {*SCHEMES} == {*FORMATS}


@pytest.mark.parametrize("example", ONE_EACH, ids=str)
def test_a_request_with_another_secret_is_not_accepted(example: Example) -> None:
    provider = example.provider
    changed = {
        name: OTHER_LOGIN if value == LOGIN else OTHER_KEY for name, value in secrets().items() if value in (LOGIN, KEY)
    }
    changed["resend_signing_secret"] = SVIX_KEY[::-1].replace("=", "A")
    request = signed(provider, example.report)
    if provider in ("postal", "sendgrid"):  # a signature with their private keys, of something else
        request = replace(request, body=request.body + b" ")
    with pytest.raises(NotVerified):
        accepted(provider, request, **changed)


@pytest.mark.parametrize("example", ONE_EACH, ids=str)
def test_a_request_without_its_signature_is_not_accepted(example: Example) -> None:
    request = signed(example.provider, example.report)
    kept = {name: value for name, value in request.headers.items() if name == "content-type"}
    body = request.body.replace(b'"signature"', b'"x"').replace(b'"auth"', b'"x"')
    with pytest.raises(NotVerified):
        accepted(example.provider, WebhookRequest(kept, body))


# The others have a password or, like Mailgun, sign only a token.
SIGNED = [
    example for example in ONE_EACH if example.provider not in ("brevo", "mailgun", "mailjet", "postmark", "sparkpost")
]


@pytest.mark.parametrize("example", SIGNED, ids=str)
def test_a_changed_body_is_not_accepted_if_the_service_signs_it(example: Example) -> None:
    request = signed(example.provider, example.report)
    changed = request.body.replace(b"ada", b"eve")
    assert changed != request.body
    with pytest.raises(NotVerified):
        accepted(example.provider, replace(request, body=changed))


@pytest.mark.parametrize("example", ONE_EACH, ids=str)
def test_the_old_and_the_new_secret_are_both_accepted_while_it_is_replaced(example: Example) -> None:
    new = {
        "postal_webhook_key": public(rsa.generate_private_key(65537, 1024)),
        "sendgrid_tracking_webhook_verification_key": public(ec.generate_private_key(ec.SECP256R1())),
        "resend_signing_secret": f"whsec_{SVIX_KEY[::-1].replace('=', 'A')}",
    }
    both = {}
    for name, old in secrets().items():
        replacement = new.get(name, OTHER_LOGIN if old == LOGIN else OTHER_KEY)
        if not old.startswith("https:"):
            both[name] = f"{replacement}, {old}"
    assert accepted(example.provider, signed(example.provider, example.report), **both)


def test_an_old_request_of_resend_is_not_accepted() -> None:
    example = next(example for example in EXAMPLES if example.provider == "resend")
    request = signed("resend", example.report, now=1_700_000_000)
    assert accepted("resend", request, now=1_700_000_300)
    with pytest.raises(NotVerified):
        accepted("resend", request, now=1_700_000_301)
    with pytest.raises(NotVerified):
        accepted("resend", request, now=1_699_999_699)


def test_resend_may_send_several_signatures_of_which_one_fits() -> None:
    request = signed("resend", report_of("resend"))
    right = request.headers["svix-signature"]
    for several in (f"v1,AAAA {right}", f"{right} v1,AAAA", f"v1a,AAAA {right}"):
        assert accepted("resend", replace(request, headers={**request.headers, "svix-signature": several}))
    with pytest.raises(NotVerified):
        accepted("resend", replace(request, headers={**request.headers, "svix-signature": right.replace("v1", "v2")}))


@pytest.mark.parametrize("timestamp", ["", "now", "-1", "1.5", "\u0661\u0667", "9" * 5000])
def test_a_request_of_resend_with_no_valid_time_is_not_accepted(timestamp: str) -> None:
    request = signed("resend", report_of("resend"))
    with pytest.raises(NotVerified):
        accepted("resend", replace(request, headers={**request.headers, "svix-timestamp": timestamp}))


def test_mandrill_signs_every_field_in_the_order_of_their_names() -> None:
    text = f"{MANDRILL_URL}aempty" + "mandrill_events[]"
    signature = base64.b64encode(hmac.digest(KEY.encode(), text.encode(), "sha1")).decode()
    request = WebhookRequest({"x-mandrill-signature": signature}, b"mandrill_events=%5B%5D&empty=&a=")
    assert accepted("mandrill", request)
    with pytest.raises(NotVerified):
        accepted("mandrill", replace(request, body=b"mandrill_events=%5B%5D&a="))


def test_a_password_with_characters_that_are_not_base64_is_not_accepted() -> None:
    request = signed("postmark", report_of("postmark"))
    changed = request.headers["authorization"].replace("Basic ", "Basic !")
    with pytest.raises(NotVerified):
        accepted("postmark", replace(request, headers={"authorization": changed}))


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2026-11-27T14:00:00+02:00", datetime(2026, 11, 27, 12, tzinfo=UTC)),
        ("2026-11-27T12:00:00Z", datetime(2026, 11, 27, 12, tzinfo=UTC)),
        ("2026-11-27T12:00:00", datetime(2026, 11, 27, 12, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", AT),
    ],
)
def test_an_event_without_a_usable_time_occurred_when_it_was_received(given: str, moment: datetime) -> None:
    (event,) = events_of("postmark", report_of("postmark", RecordType="Delivery", DeliveredAt=given))
    assert event.occurred_at == moment
    assert event.occurred_at.utcoffset() == timedelta(0)


def test_an_event_of_a_new_kind_is_unknown() -> None:
    (event,) = events_of("sendgrid", report_of("sendgrid", event="teleported"))
    assert event.type == EventType.UNKNOWN


def test_the_words_in_the_row_have_no_room_for_an_address() -> None:
    (event,) = events_of(
        "sendgrid", report_of("sendgrid", event="bounce", type="Ada <ada@example.com> said: caf\u00e9")
    )
    assert event.description == "Ada adaexample.com said caf"
    (event,) = events_of("sendgrid", report_of("sendgrid", event="bounce", type="x" * 41))
    assert event.description == "x" * 40


@pytest.mark.parametrize(
    ("report", "reason", "detail"),
    [
        (report_of("sendgrid", email_id=None), "NoEmailId", "so it is not our email"),
        ([7], "InvalidCallback", r"^it is not a callback as sendgrid documents it \(\w+Error\)$"),
    ],
)
def test_a_report_that_cannot_be_read_says_why(report: Any, reason: str, detail: str) -> None:
    with pytest.raises(PartlyInvalid) as raised:
        events_of("sendgrid", report)
    assert raised.value.reason == reason
    assert re.search(detail, raised.value.detail)
    assert raised.value.events == []


def test_the_envelope_has_only_the_headers_that_parsing_needs() -> None:
    example = next(example for example in EXAMPLES if example.provider == "resend")
    request = signed("resend", example.report)
    (message,) = accepted("resend", replace(request, headers={**request.headers, "cookie": "x", "authorization": "y"}))
    envelope = json.loads(message)
    assert {*envelope} == {"provider", "received", "headers", "body"}
    assert {*envelope["headers"]} == {"content-type", "svix-id"}
    assert envelope["body"] == request.body.decode()


def test_a_body_above_900_kib_is_too_large_before_anything_is_verified() -> None:
    with pytest.raises(TooLarge):
        accepted("postmark", WebhookRequest({}, b"x" * (LARGEST_BODY + 1)))
    with pytest.raises(NotVerified):
        accepted("postmark", WebhookRequest({}, b"x" * LARGEST_BODY))


BATCHES = [
    ("sendgrid", lambda events: events),
    ("mailjet", lambda events: events),
    ("sparkpost", lambda events: events),
    ("mandrill", lambda events: events),
    ("mailtrap", lambda events: {"events": [event for one in events for event in one["events"]]}),
    (
        "unisender_go",
        lambda events: {
            "events_by_user": [{"user_id": 1, "events": [e["events_by_user"][0]["events"][0] for e in events]}]
        },
    ),
]


def _batch(provider: str, together: Any, padding: str) -> Any:
    reports = [example.report for example in EXAMPLES if example.provider == provider]
    text = json.dumps([report[0] if isinstance(report, list) else report for report in reports])
    return together(json.loads(text.replace('"ada@example.com"', json.dumps(f"ada@example.com{padding}"))))


@pytest.mark.parametrize(("provider", "together"), BATCHES, ids=[name for name, _ in BATCHES])
def test_a_body_that_fits_no_message_is_split_by_event(provider: str, together: Any) -> None:
    count = sum(example.provider == provider for example in EXAMPLES)
    whole = accepted(provider, signed(provider, _batch(provider, together, "")))
    assert len(whole) == 1
    # Each of these characters has six in the envelope: JSON escapes it.
    padding = "\u00e9" * (MAX_MESSAGE_BYTES // 7 // count)
    request = signed(provider, _batch(provider, together, padding).copy())
    body = request.body.decode()
    if provider in ("mailjet", "sendgrid", "sparkpost", "mailtrap", "unisender_go"):
        assert body.isascii()
    parts = [json.loads(text) for text in map(str, _envelope(provider, body, request).parts())]
    assert len(parts) == count
    events = [event for part in parts for event in parse_callback(json.dumps(part))]
    assert [event.type for event in events] == [event.type for event in parse_callback(_text(provider, body, request))]


def _envelope(provider: str, body: str, request: WebhookRequest) -> Any:
    return Envelope(provider, AT, {"content-type": request.headers["content-type"]}, body)


def _text(provider: str, body: str, request: WebhookRequest) -> str:
    return str(_envelope(provider, body, request))


def test_splitting_keeps_every_event_and_each_message_fits() -> None:
    event = next(example for example in EXAMPLES if example.provider == "sendgrid").report[0]
    report = json.dumps([{**event, "response": '"' * 1000}] * 410, separators=(",", ":")).encode()
    assert len(report) <= LARGEST_BODY
    messages = accepted("sendgrid", signed("sendgrid", report))
    assert len(messages) == 410
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES


def test_one_event_that_fits_no_message_is_too_large() -> None:
    report = b'[{"event": "open", "x": "' + rb"\"" * (LARGEST_BODY // 2 - 100) + b'"}]'
    with pytest.raises(TooLarge):
        accepted("sendgrid", signed("sendgrid", report))


def test_events_of_several_emails_and_a_broken_one_are_all_accounted_for() -> None:
    event = next(example for example in EXAMPLES if example.provider == "sendgrid").report[0]
    without_id = {name: value for name, value in event.items() if name != "email_id"}
    (message,) = accepted("sendgrid", signed("sendgrid", [event, without_id, {"no": "event"}, event]))
    with pytest.raises(PartlyInvalid) as raised:
        parse_callback(message)
    assert [event.email_id for event in raised.value.events] == [EMAIL_ID, EMAIL_ID]
    assert raised.value.reason in ("NoEmailId", "InvalidCallback")


def test_the_same_request_again_is_the_same_event() -> None:
    for example in ONE_EACH:
        request = signed(example.provider, example.report)
        (first,), (second,) = accepted(example.provider, request), accepted(example.provider, request)
        assert parse_callback(first) == parse_callback(second)


def test_the_reports_order_does_not_matter_to_the_worst_status() -> None:
    messages = [accepted("postmark", signed("postmark", e.report))[0] for e in EXAMPLES if e.provider == "postmark"]
    random.Random(1).shuffle(messages)
    statuses = {event.status for message in messages for event in parse_callback(message)}
    assert {example.status for example in EXAMPLES if example.provider == "postmark"} == statuses


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(SCHEMES)), st.binary(max_size=60), st.dictionaries(st.text(max_size=9), st.text()))
def test_no_request_of_a_stranger_is_accepted_or_breaks_the_receiver(
    provider: str, body: bytes, headers: dict[str, str]
) -> None:
    names = ("authorization", "signature", "mailtrap-signature", "x-mandrill-signature", "x-postal-signature")
    value = next(iter(headers.values()), "Basic \u00e9")
    svix = {"svix-id": value, "svix-timestamp": value, "svix-signature": f"v1,{value}"}
    twilio = "x-twilio-email-event-webhook"
    theirs = {**headers, **dict.fromkeys(names, value), **svix, f"{twilio}-signature": value}
    with pytest.raises(NotVerified):
        accepted(provider, WebhookRequest({**theirs, f"{twilio}-timestamp": value}, body))


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_report_with_anything_in_it_becomes_events_or_a_reason(example: Example, data: st.DataObject) -> None:
    report = _with_one_change(json.loads(json.dumps(example.report)), data)
    _parses(_text_of(example.provider, report))


@given(st.sampled_from(sorted(SCHEMES)), JSON)
def test_anything_in_json_becomes_events_or_a_reason(provider: str, report: Any) -> None:
    _parses(_text_of(provider, report))


@given(JSON, JSON, JSON)
def test_anything_in_an_envelope_becomes_events_or_a_reason(provider: Any, received: Any, body: Any) -> None:
    for headers in ({}, body):
        _parses(json.dumps({"provider": provider, "received": received, "headers": headers, "body": body}))
        _parses(json.dumps({"provider": "postmark", "received": AT.isoformat(), "headers": headers, "body": body}))


def _text_of(provider: str, report: Any) -> str:
    body = json.dumps(report)
    if provider == "mandrill":
        body = signed("mandrill", report).body.decode()
    return json.dumps({"provider": provider, "received": AT.isoformat(), "headers": {}, "body": body})


def _parses(message: str) -> None:
    try:
        events = parse_callback(message)
    except PartlyInvalid as error:
        events = error.events
    except InvalidMessage:
        return
    for event in events:
        assert event.occurred_at.tzinfo
        json.dumps([event.recipient, event.description, event.diagnostic, event.provider_message_id]).encode()
        event.recipient.encode()
        event.diagnostic.encode()


def _with_one_change(report: Any, data: st.DataObject) -> Any:
    """Replace one value somewhere in the report."""
    if not isinstance(report, dict | list) or not report or data.draw(st.integers(0, 5)) == 0:
        return data.draw(JSON)
    key = data.draw(st.sampled_from(sorted(report) if isinstance(report, dict) else range(len(report))))
    report[key] = _with_one_change(report[key], data)
    return report


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"postmark_webhook_secret": "only-a-password"}, "user:password"),
        ({"postmark_webhook_secret": "reports:short"}, "16 characters"),
        ({"postmark_webhook_secret": f"{LOGIN},"}, "user:password"),
        ({"mailgun_webhook_signing_key": "short"}, "at least 8"),
        ({"resend_signing_secret": "whsec_?"}, "base64"),
        ({"mandrill_webhook_key": KEY}, "EMAIL_MANDRILL_WEBHOOK_KEY needs it"),
    ],
)
def test_a_wrong_secret_is_named_but_not_shown(given: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as raised:
        WebhookSettings.read(**given)
    assert not any(value in str(raised.value) for value in given.values() if value != KEY)


def test_without_the_extra_a_worker_with_a_secret_does_not_start_and_a_report_is_a_dead_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("emails.callbacks.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"EMAIL_POSTMARK_WEBHOOK_SECRET.*uv sync --extra anymail"):
        check_reader(WebhookSettings.read(postmark_webhook_secret=LOGIN))
    check_reader(WebhookSettings.read())
    (message,) = accepted("postmark", signed("postmark", EXAMPLES[0].report))
    with pytest.raises(InvalidMessage, match="uv sync --extra anymail") as raised:
        parse_callback(message)
    assert raised.value.reason == "ExtraMissing"


def _options(provider: str) -> dict[str, str]:
    """Return the options with which anymail's view of the service gets the test's secrets."""
    given = secrets()
    if SCHEMES[provider].verify is basic:
        return {"webhook_secret": LOGIN}
    if provider == "unisender_go":
        return {"api_key": KEY}
    return {
        name.removeprefix(f"{provider}_"): value for name, value in given.items() if name.startswith(f"{provider}_")
    }


@pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailWarning")
@pytest.mark.parametrize("example", ONE_EACH, ids=str)
def test_anymail_accepts_what_we_accept(example: Example) -> None:
    provider = example.provider
    request = signed(provider, example.report)
    assert accepted(provider, request)
    headers = {name: value for name, value in request.headers.items() if name != "content-type"}
    posted = RequestFactory().post("/", request.body, content_type=request.headers["content-type"], headers=headers)
    view = getattr(import_module(f"anymail.webhooks.{provider}"), FORMATS[provider].view)
    view(**_options(provider)).run_validators(posted)
