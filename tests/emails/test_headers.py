"""Which headers a row may bring, and which together."""

from __future__ import annotations

from typing import Any

import pytest

from emails.headers import ONE_CLICK, RESERVED_HEADERS
from emails.model import Email, InvalidRow

HTTPS = "<https://example.com/u/1>"
MAILTO = "<mailto:u@example.com?subject=unsubscribe>"


def problem(row: dict[str, Any], headers: dict[str, str]) -> str:
    with pytest.raises(InvalidRow) as raised:
        Email.from_row({**row, "Headers": headers})
    return str(raised.value)


@pytest.mark.parametrize("name", [*sorted(RESERVED_HEADERS), "Subject", "BCC", "Content-Type", "content-id"])
def test_a_header_that_the_service_writes_is_refused(row: dict[str, Any], name: str) -> None:
    assert problem(row, {name: "x"}) == f"Headers.{name}: is written by the service"


@pytest.mark.parametrize("name", ["X-SES-CONFIGURATION-SET", "X-SES-MESSAGE-TAGS", "x-ses-source-arn", "X-Ses-New"])
def test_a_header_that_amazon_ses_obeys_is_refused(row: dict[str, Any], name: str) -> None:
    said = problem(row, {name: "secret"})
    assert said == f"Headers.{name}: is an instruction to Amazon SES, which the deployment gives"


def test_a_header_is_there_once_whatever_its_case(row: dict[str, Any]) -> None:
    said = problem(row, {"X-A": "secret", "X-Campaign": "secret", "x-campaign": "secret"})
    assert said == "Headers: has x-campaign twice: a header's name is the same in any case"


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
