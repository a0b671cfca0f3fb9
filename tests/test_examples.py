"""The rows in examples/*.json can be sent, by a worker with the default settings, and show what their names say."""

from __future__ import annotations

import json
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from commands import main

EXAMPLES = Path(__file__).parents[1] / "examples"
ROWS = sorted(EXAMPLES.glob("*.json"))


def preview(name: str) -> tuple[Any, str]:
    result = CliRunner().invoke(main, ["preview", str(EXAMPLES / name)])
    assert result.exit_code == 0, result.output
    return message_from_bytes(result.stdout_bytes, policy=default), result.stderr


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.name)
def test_each_can_be_sent_and_has_no_unknown_attribute(path: Path) -> None:
    message, said = preview(path.name)
    assert message["Subject"]
    assert "Warning" not in said


def test_each_has_an_id_of_its_own() -> None:
    ids = [json.loads(path.read_text())["EmailId"] for path in ROWS]
    assert len(set(ids)) == len(ids) >= 4


def test_the_image_is_in_the_html() -> None:
    html = preview("html-with-image.json")[0].get_body(("related",))
    image = list(html.iter_parts())[1]
    assert (image.get_content_type(), image["Content-ID"]) == ("image/png", "<logo@example.com>")
    assert image.get_content().startswith(b"\x89PNG")


def test_the_attachment_is_a_file() -> None:
    (file,) = preview("attachment.json")[0].iter_attachments()
    assert file.get_filename() == "report.csv"
    assert file.get_content().startswith("month,emails")


def test_the_scheduled_one_waits() -> None:
    assert "It would be sent at 2099-" in preview("scheduled.json")[1]
