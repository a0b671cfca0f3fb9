"""The function that receives webhooks by its function URL."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from email_lambda import webhooks
from email_lambda.webhooks import KEPT_SECONDS, Webhooks
from emails.resources import find_queue
from emails.webhooks.envelope import LARGEST_BODY
from emails.webhooks.request import WebhookRequest
from settings import SettingsError
from settings.aws import client
from tests.emails.webhooks.examples import ONE_EACH
from tests.support.proxy import Dropped, Proxy, running
from tests.support.webhooks import LOGIN, secrets, signed

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from settings import Settings

SECRETS = {f"EMAIL_{name.upper()}": value for name, value in secrets().items()}
POSTMARK = next(example for example in ONE_EACH if example.provider == "postmark")


def event(path: str, request: WebhookRequest, method: str = "POST", *, encoded: bool = False) -> dict[str, Any]:
    body = base64.b64encode(request.body).decode() if encoded else request.body.decode()
    return {
        "version": "2.0",
        "rawPath": path,
        "headers": dict(request.headers),
        "requestContext": {"http": {"method": method, "path": path}},
        "body": body,
        "isBase64Encoded": encoded,
    }


@pytest.fixture
def function(settings: Settings, sqs: SQSClient) -> Webhooks:
    return Webhooks(lambda: json.dumps(SECRETS), find_queue(sqs, settings.callbacks_queue))


@pytest.mark.parametrize("encoded", [False, True])
def test_the_report_of_each_service_is_on_the_queue_before_the_answer(
    function: Webhooks, settings: Settings, sqs: SQSClient, encoded: bool
) -> None:
    for example in ONE_EACH:
        request = signed(example.provider, example.report)
        answer = function(event(f"/webhooks/{example.provider}", request, encoded=encoded))
        assert answer["statusCode"] == 200
        queue = find_queue(sqs, settings.callbacks_queue)
        (message,) = queue.receive(10, 0, 30)
        assert json.loads(message["Body"])["body"] == request.body.decode()
        sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])


def test_other_requests_get_the_answers_that_the_docs_promise(function: Webhooks) -> None:
    wrong = signed("postmark", POSTMARK.report, login="someone:else")
    assert function(event("/webhooks/postmark", wrong))["statusCode"] == 401
    assert function(event("/webhooks/postmark", WebhookRequest({}, b"")))["statusCode"] == 401
    assert function(event("/webhooks/nobody", wrong))["statusCode"] == 404
    assert function(event("/webhooks/postmark", wrong, "HEAD"))["statusCode"] == 200
    large = WebhookRequest(wrong.headers, b"x" * (LARGEST_BODY + 1))
    assert function(event("/webhooks/postmark", large))["statusCode"] == 413


def test_without_sqs_the_service_is_asked_to_try_again(settings: Settings) -> None:
    def meddle(_service: str, action: str, _body: bytes) -> str:
        if action.startswith("SendMessage"):
            raise Dropped
        return ""

    with running(Proxy(settings.endpoint or "", meddle)) as proxy:
        sqs = client("sqs", settings.model_copy(update={"endpoint_url": proxy.url}), attempts=1)
        function = Webhooks(lambda: json.dumps(SECRETS), find_queue(sqs, settings.callbacks_queue))
        request = signed("postmark", POSTMARK.report)
        assert function(event("/webhooks/postmark", request))["statusCode"] == 503


def test_a_secret_that_is_replaced_is_read_again_after_a_while(
    settings: Settings, sqs: SQSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"EMAIL_POSTMARK_WEBHOOK_SECRET": LOGIN}
    function = Webhooks(lambda: json.dumps(given), find_queue(sqs, settings.callbacks_queue))
    given["EMAIL_POSTMARK_WEBHOOK_SECRET"] = "reports:another-long-password"
    old = event("/webhooks/postmark", signed("postmark", POSTMARK.report))
    new = event("/webhooks/postmark", signed("postmark", POSTMARK.report, login="reports:another-long-password"))
    assert (function(old)["statusCode"], function(new)["statusCode"]) == (200, 401)
    monkeypatch.setattr(function, "_read_at", function._read_at - KEPT_SECONDS)
    assert (function(old)["statusCode"], function(new)["statusCode"]) == (401, 200)
    given["EMAIL_POSTMARK_WEBHOOK_SECRET"] = "wrong"
    monkeypatch.setattr(function, "_read_at", function._read_at - KEPT_SECONDS)
    assert function(new)["statusCode"] == 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "No service's webhooks are accepted"),
        ("reports:password", "not JSON"),
        ('["EMAIL_POSTMARK_WEBHOOK_SECRET"]', "not JSON"),
        ('{"EMAIL_POSTMARK_SECRET": "x"}', "EMAIL_POSTMARK_SECRET"),
    ],
)
def test_a_wrong_secret_says_what_is_wrong(settings: Settings, sqs: SQSClient, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Webhooks(lambda: text, find_queue(sqs, settings.callbacks_queue))


def test_the_function_reads_its_secret_from_secrets_manager(
    environment: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "write_by", lambda *_: None)
    client("secretsmanager", settings).create_secret(Name=settings.webhook_secret, SecretString=json.dumps(SECRETS))
    function = webhooks._from_settings()
    assert function(event("/webhooks/postmark", signed("postmark", POSTMARK.report)))["statusCode"] == 200


def test_the_function_that_lambda_loads_reads_its_secret_from_secrets_manager(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "get_settings", lambda: settings)
    monkeypatch.setattr(webhooks, "write_by", lambda *_: None)  # the log of the other tests stays as it is
    client("secretsmanager", settings).create_secret(Name=settings.webhook_secret, SecretString=json.dumps(SECRETS))
    request = signed("postmark", POSTMARK.report)
    try:
        assert webhooks.receive_webhooks(event("/webhooks/postmark", request))["statusCode"] == 200
    finally:
        vars(webhooks).pop("receive_webhooks", None)
