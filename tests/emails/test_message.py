"""Every body is data. It is read as an id, or refused with a reason that quotes nothing of it."""

from __future__ import annotations

import base64
import json
import pickle
import time
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emails.message import MAX_EMAIL_ID_BYTES, InvalidMessage, check_email_id, parse_message
from tests.emails.callbacks.notifications import CONFIRMATIONS, confirmation

# These are all the sentences that a dead letter may have as its reason. They have no room for content.
DETAILS = {
    "NotJson": {"the body is not JSON", "the SNS envelope's Message is not JSON"},
    "NotAnObject": {"the body is JSON, but not an object", "the SNS envelope's Message is JSON, but not an object"},
    "InvalidEnvelope": {
        "the SNS envelope's Message is not a string",
        "the EventBridge envelope's detail is not an object",
    },
    "NoEmailId": {'there is no "email_id"'},
    "SubscriptionConfirmation": {
        (
            "an SNS topic asks whether it may send to this queue: if you recognize the TopicArn in the body, visit"
            " the SubscribeURL next to it to confirm the subscription"
        )
    },
    "UnsubscribeConfirmation": {
        (
            "this queue's subscription to an SNS topic was ended: if you recognize the TopicArn in the body, visit"
            " the SubscribeURL next to it to restore the subscription"
        )
    },
    "InvalidEmailId": {
        *(f"email_id is a {kind}, not a string" for kind in ("dict", "list", "int", "float", "bool")),
        "email_id is blank",
        "email_id has a control character or a lone surrogate",
        "email_id is longer than 190 bytes in UTF-8",
    },
}


def sns(message: Any) -> dict[str, Any]:
    """Return what SNS sends to a queue without raw message delivery."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:eu-west-1:123456789012:emails",
        "Subject": "email_id",
        "Message": message,
        "Timestamp": "2026-01-31T12:00:00.000Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLE",
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/cert.pem",
        "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
    }


def event_bridge(detail: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "email",
        "source": "shop",
        "account": "123456789012",
        "time": "2026-01-31T12:00:00Z",
        "region": "eu-west-1",
        "resources": [],
        "detail": detail,
    }


def celery(task: str, *arguments: Any) -> dict[str, Any]:
    """Return a Celery message as kombu puts it on SQS, in protocol 2."""
    return {
        "body": base64.b64encode(json.dumps([arguments, {}, {"callbacks": None}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": "17793124", "argsrepr": repr(arguments), "kwargsrepr": "{}"},
        "properties": {"delivery_tag": "1", "body_encoding": "base64", "delivery_info": {"routing_key": "celery"}},
    }


def pickled_celery() -> dict[str, Any]:
    body = base64.b64encode(pickle.dumps((["secret"], {}, {}))).decode()
    return celery("tasks.send_email") | {"body": body, "content-type": "application/x-python-serialize"}


@pytest.mark.parametrize(
    "body",
    [
        {"email_id": "test-1"},
        {"email_id": "test-1", "Message": "x", "TopicArn": "y", "detail": {}, "detail-type": "z", "task": "tasks.x"},
        sns('{"email_id": "test-1", "else": 1}'),
        event_bridge({"email_id": "test-1", "else": 1}),
        celery("tasks.send_email", "other") | {"email_id": "test-1"},
    ],
    ids=["bare", "with unknown keys", "SNS", "EventBridge", "Celery's keys"],
)
def test_an_email_id_is_found_bare_or_in_an_envelope(body: dict[str, Any]) -> None:
    assert parse_message(json.dumps(body)) == "test-1"
    assert parse_message(json.dumps(body, ensure_ascii=False, indent=2) + "\n") == "test-1"


@pytest.mark.parametrize(
    "email_id",
    [
        "1",
        " 1 ",
        "Ünïcode 😀",
        '"quoted"',
        "a" * MAX_EMAIL_ID_BYTES,
        "ä" * (MAX_EMAIL_ID_BYTES // 2),
        "../../x",
        "%s{}",
    ],
)
def test_an_email_id_is_any_text_of_190_bytes(email_id: str) -> None:
    assert parse_message(json.dumps({"email_id": email_id})) == email_id
    assert check_email_id(email_id) == email_id
    assert len(base64.urlsafe_b64encode(email_id.encode())) <= 256, "SES's limit for a tag's value"


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        ("", "NotJson", "the body is not JSON"),
        ("secret", "NotJson", "the body is not JSON"),
        ("{'email_id': 'secret'}", "NotJson", "the body is not JSON"),
        ('{"email_id": "secret"', "NotJson", "the body is not JSON"),
        ('{"email_id": "secret"} {}', "NotJson", "the body is not JSON"),
        ('\ufeff{"email_id": "secret"}', "NotJson", "the body is not JSON"),
        ('"secret"', "NotAnObject", "the body is JSON, but not an object"),
        ('["secret"]', "NotAnObject", "the body is JSON, but not an object"),
        ("null", "NotAnObject", "the body is JSON, but not an object"),
        ("NaN", "NotAnObject", "the body is JSON, but not an object"),
        ("{}", "NoEmailId", 'there is no "email_id"'),
        ('{"emailId": "secret", "detail": {"email_id": "secret"}}', "NoEmailId", 'there is no "email_id"'),
        ('{"Message": "{\\"email_id\\": \\"secret\\"}"}', "NoEmailId", 'there is no "email_id"'),
        (sns("secret"), "NotJson", "the SNS envelope's Message is not JSON"),
        (sns('"secret"'), "NotAnObject", "the SNS envelope's Message is JSON, but not an object"),
        (sns({"email_id": "secret"}), "InvalidEnvelope", "the SNS envelope's Message is not a string"),
        (sns('{"id": "secret"}'), "NoEmailId", 'there is no "email_id"'),
        (sns(json.dumps(sns('{"email_id": "secret"}'))), "NoEmailId", 'there is no "email_id"'),
        (event_bridge("secret"), "InvalidEnvelope", "the EventBridge envelope's detail is not an object"),
        (event_bridge({"id": "secret"}), "NoEmailId", 'there is no "email_id"'),
        ({"email_id": {"email_id": "secret"}}, "InvalidEmailId", "email_id is a dict, not a string"),
        ({"email_id": ["secret"]}, "InvalidEmailId", "email_id is a list, not a string"),
        ({"email_id": 5}, "InvalidEmailId", "email_id is a int, not a string"),
        ({"email_id": True}, "InvalidEmailId", "email_id is a bool, not a string"),
        ({"email_id": float("nan")}, "InvalidEmailId", "email_id is a float, not a string"),
        ({"email_id": ""}, "InvalidEmailId", "email_id is blank"),
        ({"email_id": " \u3000\u00a0"}, "InvalidEmailId", "email_id is blank"),
        ({"email_id": "a\nsecret"}, "InvalidEmailId", "email_id has a control character or a lone surrogate"),
        ({"email_id": "a\x00"}, "InvalidEmailId", "email_id has a control character or a lone surrogate"),
        ({"email_id": "a\x9f"}, "InvalidEmailId", "email_id has a control character or a lone surrogate"),
        ({"email_id": "a\u2028"}, "InvalidEmailId", "email_id has a control character or a lone surrogate"),
        ({"email_id": "a\ud800"}, "InvalidEmailId", "email_id has a control character or a lone surrogate"),
        ({"email_id": "a" * 191}, "InvalidEmailId", "email_id is longer than 190 bytes in UTF-8"),
        ({"email_id": "ä" * 96}, "InvalidEmailId", "email_id is longer than 190 bytes in UTF-8"),
        (celery("tasks.send_email", "secret"), "NoEmailId", 'there is no "email_id"'),
        (celery("os.system", "secret"), "NoEmailId", 'there is no "email_id"'),
        (pickled_celery(), "NoEmailId", 'there is no "email_id"'),
        (celery("tasks.bridge") | {"body": "%%%"}, "NoEmailId", 'there is no "email_id"'),
        (base64.b64encode(json.dumps(celery("tasks.send_email")).encode()).decode(), "NotJson", "the body is not JSON"),
    ],
)
def test_a_body_that_is_not_understood_has_a_reason_and_a_detail(body: object, reason: str, detail: str) -> None:
    with pytest.raises(InvalidMessage) as raised:
        parse_message(body if isinstance(body, str) else json.dumps(body))
    assert (raised.value.reason, raised.value.detail) == (reason, detail)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("kind", CONFIRMATIONS)
@pytest.mark.parametrize("message", ["You have chosen to subscribe", '{"email_id": "test-1"}'])
def test_what_sns_asks_of_a_person_advises_to_visit_the_url_and_does_not_quote_it(kind: str, message: str) -> None:
    with pytest.raises(InvalidMessage) as raised:
        parse_message(confirmation(kind, message, token="secret"))
    assert raised.value.reason == kind
    assert "visit the SubscribeURL" in raised.value.detail
    assert "secret" not in str(raised.value)


def test_an_envelope_of_a_type_that_is_new_to_us_is_read_as_a_notification() -> None:
    for kind in ("Notification", "Teleport", None, ["SubscriptionConfirmation"]):
        assert parse_message(json.dumps(sns('{"email_id": "test-1"}') | {"Type": kind})) == "test-1"


@pytest.mark.parametrize(
    "body",
    [
        {"email_id": "test-1", "Message": None, "TopicArn": None, "detail": None, "detail-type": None, "Type": None},
        sns('{"email_id": "test-1", "else": null}') | {"email_id": None, "Subject": None, "Type": None},
        event_bridge({"email_id": "test-1", "else": None}) | {"email_id": None, "Message": None, "TopicArn": None},
        event_bridge({"email_id": "test-1"}) | {"Message": "secret", "TopicArn": None},
        sns('{"email_id": "test-1"}') | {"detail": {}, "detail-type": None},
    ],
)
def test_a_null_is_as_good_as_missing(body: dict[str, Any]) -> None:
    assert parse_message(json.dumps(body)) == "test-1"


@pytest.mark.parametrize(
    "body",
    [{"email_id": None}, sns(None), event_bridge(None), sns('{"email_id": null}'), event_bridge({"email_id": None})],
)
def test_an_id_or_an_envelope_s_content_that_is_null_is_missing(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage, match="NoEmailId"):
        parse_message(json.dumps(body))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("[" * 100_000, "NotJson"),
        ('{"a":' * 100_000, "NotJson"),
        ('{"email_id":' + "[" * 100_000 + "]" * 100_000 + "}", "NotJson"),
        (json.dumps(sns("[" * 100_000)), "NotJson"),
        ("9" * 100_000, "NotJson"),
        (f'{{"email_id": {"9" * 5_000}}}', "NotJson"),
        ('{"email_id": 1e999}', "InvalidEmailId"),
        ('{"email_id": "' + "a" * (2**20 - 16) + '"}', "InvalidEmailId"),
        ('{"a": "' + "ä" * 2**19 + '"}', "NoEmailId"),
        ("\x00" * 2**20, "NotJson"),
        (" " * 2**20, "NotJson"),
    ],
    ids=[
        "arrays",
        "objects",
        "in email_id",
        "in SNS",
        "digits",
        "digits in email_id",
        "inf",
        "id",
        "text",
        "NUL",
        "blanks",
    ],
)
def test_a_body_as_large_as_sqs_takes_is_told_apart_at_once(body: str, reason: str) -> None:
    assert len(body.encode()) <= 2**20 + 16
    started = time.process_time()
    with pytest.raises(InvalidMessage) as raised:
        parse_message(body)
    assert raised.value.reason == reason
    assert time.process_time() - started < 2


def test_an_email_id_beside_a_mebibyte_of_other_keys_is_found() -> None:
    assert parse_message(json.dumps({"other": "x" * 1_000_000, "email_id": "test-1"})) == "test-1"


def test_of_keys_that_stand_there_twice_the_last_counts() -> None:
    assert parse_message('{"email_id": "first", "email_id": "last"}') == "last"


keys = st.text(max_size=5) | st.sampled_from(
    ["email_id", "Message", "TopicArn", "Type", "detail", "detail-type", "body", "headers"]
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["SubscriptionConfirmation", "UnsubscribeConfirmation"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(keys, json_values, max_size=5)


@hypothesis.settings(deadline=None, max_examples=200)
@given(
    st.text()
    | json_values.map(json.dumps)
    | objects.map(json.dumps)
    | objects.map(lambda value: json.dumps(sns(json.dumps(value))))
    | st.builds(sns, json_values).map(json.dumps)
    | st.builds(event_bridge, json_values).map(json.dumps)
    | st.builds(lambda text, cut: text[:cut], objects.map(json.dumps), st.integers(0, 30))
)
def test_any_body_ends_in_an_id_or_in_a_known_sentence(body: str) -> None:
    try:
        email_id = parse_message(body)
    except InvalidMessage as error:
        reason, detail = error.reason, error.detail
    else:
        assert check_email_id(email_id) == email_id
        return
    assert detail in DETAILS[reason]
