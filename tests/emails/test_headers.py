"""Which headers a row may have, and in which combinations."""

from __future__ import annotations

from typing import Any

import pytest

from emails.email import Email, InvalidRow
from emails.headers import ONE_CLICK, RESERVED_HEADERS

HTTPS = "<https://example.com/u/1>"
MAILTO = "<mailto:u@example.com?subject=unsubscribe>"


def problem(row: dict[str, Any], headers: dict[str, str]) -> str:
    with pytest.raises(InvalidRow) as raised:
        Email.from_row({**row, "Headers": headers})
    return str(raised.value)


def shown(name: str) -> str:
    return f"{name[: min(8, len(name) // 2)]}…"


@pytest.mark.parametrize("name", [*sorted(RESERVED_HEADERS), "Subject", "BCC"])
def test_a_header_that_the_service_writes_is_refused(row: dict[str, Any], name: str) -> None:
    said = problem(row, {name: "x"})
    assert said == f"Headers.{shown(name)}: {name.lower()} is written by the service"


@pytest.mark.parametrize("name", ["Content-Type", "content-id", "content-secret"])
def test_a_header_that_describes_a_part_is_refused(row: dict[str, Any], name: str) -> None:
    assert problem(row, {name: "x"}) == f"Headers.{shown(name)}: content-* is written by the service"


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("X-SES-CONFIGURATION-SET", "x-ses-* is an instruction to Amazon SES"),
        ("X-SES-MESSAGE-TAGS", "x-ses-* is an instruction to Amazon SES"),
        ("x-ses-source-arn", "x-ses-* is an instruction to Amazon SES"),
        ("X-SMTPAPI", "x-smtpapi is an instruction to SendGrid"),
        ("X-MC-BccAddress", "x-mc-* is an instruction to Mailchimp Transactional"),
        ("x-mc-subaccount", "x-mc-* is an instruction to Mailchimp Transactional"),
        ("X-Mailgun-Variables", "x-mailgun-* is an instruction to Mailgun"),
        ("X-PM-Message-Stream", "x-pm-* is an instruction to Postmark"),
        ("X-MSYS-API", "x-msys-api is an instruction to SparkPost"),
    ],
)
def test_a_header_that_a_relay_obeys_is_refused(row: dict[str, Any], name: str, instruction: str) -> None:
    said = problem(row, {name: "secret"})
    assert said == f"Headers.{shown(name)}: {instruction}, which only the deployment may give"


@pytest.mark.parametrize("name", ["Resent-To", "RESENT-BCC", "resent-from", "Resent-Message-ID"])
def test_a_header_of_a_message_that_is_sent_again_is_refused(row: dict[str, Any], name: str) -> None:
    said = problem(row, {name: "eve@example.com"})
    assert said.startswith(f"Headers.{shown(name)}: resent-* means that somebody sends the message again")


@pytest.mark.parametrize("name", ["X-Campaign", "X-Mailer", "X-MSMail-Priority", "X-Priority", "Precedence"])
def test_a_header_that_only_resembles_an_instruction_is_the_producers(row: dict[str, Any], name: str) -> None:
    assert Email.from_row({**row, "Headers": {name: "x"}}).headers == {name: "x"}


def test_a_header_is_there_once_whatever_its_case(row: dict[str, Any]) -> None:
    said = problem(row, {"X-A": "secret", "X-Campaign": "secret", "x-campaign": "secret"})
    assert said == "Headers: has x-cam… twice: header names ignore case"


@pytest.mark.parametrize(
    "urls",
    [
        HTTPS,
        f"{HTTPS}, {MAILTO}",
        f"{MAILTO},{HTTPS}",
        "<HTTPS://example.com/u/1>",
        f"<https://example.com/{'u' * 880}>, {MAILTO}",
    ],
)
@pytest.mark.parametrize("name", ["List-Unsubscribe", "list-unsubscribe"])
def test_one_https_url_is_what_one_click_needs(row: dict[str, Any], name: str, urls: str) -> None:
    headers = {name: urls, "List-Unsubscribe-Post": ONE_CLICK}
    assert Email.from_row({**row, "Headers": headers}).headers == headers


@pytest.mark.parametrize("urls", [MAILTO, "http://example.com", "whatever <ü>"])
def test_without_one_click_a_list_unsubscribe_is_the_producer_s(row: dict[str, Any], urls: str) -> None:
    Email.from_row({**row, "Headers": {"List-Unsubscribe": urls}})


@pytest.mark.parametrize(
    "urls",
    [
        "",
        MAILTO,
        "<http://example.com/u>",
        f"{HTTPS}, <http://example.com/u>",
        f"{HTTPS}, <https://example.com/u/2>",
        "https://example.com/u/1",
        f"Click {HTTPS}",
        f"{HTTPS} {MAILTO}",
        "<https://example.com/u 1>",
        "<https://example.com/ü>",
        f"<https://example.com/{'u' * 881}>",
    ],
)
def test_without_one_https_url_one_click_is_refused(row: dict[str, Any], urls: str) -> None:
    for headers in ({"List-Unsubscribe": urls}, {"list-unsubscribe": urls}) if urls else ({},):
        said = problem(row, {**headers, "List-Unsubscribe-Post": ONE_CLICK})
        assert said.startswith("Headers: List-Unsubscribe-Post needs a List-Unsubscribe like <https://")
        assert "one https URL and no http one" in said


@pytest.mark.parametrize("value", ["One-Click", "list-unsubscribe=one-click", f"{ONE_CLICK}&x=y", f" {ONE_CLICK}", ""])
def test_one_click_has_one_value_alone(row: dict[str, Any], value: str) -> None:
    said = problem(row, {"List-Unsubscribe": HTTPS, "List-Unsubscribe-Post": value})
    assert said == f"Headers: List-Unsubscribe-Post can only be {ONE_CLICK} (RFC 8058)"
