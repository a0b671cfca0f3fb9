"""What `put` checks beyond the row's types, and what it warns of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from emails.store import EmailStore

UNKNOWN = " is not an attribute that workers know, so they ignore it."
IN_S3 = {"name": "a.pdf", "content_type": "application/pdf", "s3_uri": "s3://bucket/mail/a.pdf"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SendVia": "pigeon"}, "SendVia: is not one of the providers stub"),
        ({"Attachments": [IN_S3]}, "Attachments[0].s3_uri: does not begin with any of EMAIL_ATTACHMENT_PREFIXES"),
        ({"ExpiresAt": "2020-01-01T00:00:00Z"}, "expired"),
        ({"EmailId": "x" * 191}, "EmailId: email_id is longer than 190 bytes in UTF-8"),
        ({"EmailId": " "}, "EmailId: email_id is blank"),
    ],
    ids=["provider", "prefix", "expired", "long id", "blank id"],
)
def test_it_refuses_what_a_worker_would_not_send(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore, changes: dict[str, Any], reason: str
) -> None:
    result = run("put", input=json.dumps(row | changes))
    assert (result.exit_code, result.output) == (1, f"Error: This row would fail: {reason}\n")
    assert store.get((row | changes)["EmailId"]) is None


def test_it_takes_what_the_settings_allow(
    run: Callable[..., Result], row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_SEND_VIA", "pigeon")
    monkeypatch.setenv("EMAIL_ATTACHMENT_PREFIXES", "s3://bucket/mail/")
    get_settings.cache_clear()
    result = run("put", input=json.dumps(row | {"SendVia": "pigeon", "Attachments": [IN_S3]}))
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"BodyHTML": "<p>"},
            f"BodyHTML{UNKNOWN} Did you mean BodyHtml?",
        ),
        (
            {"Attachements": []},
            f"Attachements{UNKNOWN} Did you mean Attachments?",
        ),
        ({"Customer": 7}, f"Customer{UNKNOWN}"),
        (
            {"Attachments": [{"name": "a", "content_type": "text/plain", "body": "", "contentid": "a@b.example"}]},
            f"Attachments[0].contentid{UNKNOWN} Did you mean content_id?",
        ),
    ],
    ids=["case", "misspelt", "unknown", "attachment"],
)
def test_an_attribute_that_workers_ignore_is_kept_with_a_warning(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore, changes: dict[str, Any], warning: str
) -> None:
    result = run("put", input=json.dumps(row | changes))
    assert (result.exit_code, result.stderr) == (0, f"Warning: {warning}\n")
    assert (store.get(row["EmailId"]) or {}).items() >= changes.items()


def test_what_the_service_and_older_producers_write_gives_no_warning(
    run: Callable[..., Result], row: dict[str, Any]
) -> None:
    attachment = {"name": "a", "content_type": "text/plain", "body": "", "last_modified": "2026-01-31"}
    changes = {"Provider": "stub", "ProviderResponse": "accepted", "UpdatedAt": "2026-01-31", "FailureReason": "none"}
    result = run("put", input=json.dumps(row | changes | {"Attachments": [attachment]}))
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_misspelt_name_is_named_beside_the_attribute_that_is_missing(
    run: Callable[..., Result], row: dict[str, Any]
) -> None:
    del row["Subject"]
    result = run("put", input=json.dumps(row | {"Subjct": "Hello"}))
    assert result.stderr.splitlines() == [
        f"Warning: Subjct{UNKNOWN} Did you mean Subject?",
        "Error: This row would fail: Subject: is missing",
    ]


@pytest.mark.parametrize("attachments", [7, "a", {"a": 1}, [7], [None], [[]]], ids=str)
def test_attachments_of_any_type_are_refused_in_one_sentence(
    run: Callable[..., Result], row: dict[str, Any], attachments: object
) -> None:
    result = run("put", input=json.dumps(row | {"Attachments": attachments}))
    assert result.exit_code == 1
    assert result.output.startswith("Error: This row would fail: Attachments")
