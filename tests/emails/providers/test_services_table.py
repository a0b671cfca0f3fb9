"""The table of services in docs/providers.md says what sending through each of them shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from boto3.dynamodb.types import Binary

from emails.email import Email
from emails.encoded_id import ID_HEADER
from emails.providers.anymail_services import SERVICES
from emails.providers.contract import PermanentError
from emails.webhooks.signatures import SCHEMES, basic
from tests.emails.providers.backends import FAILURES, anymail_provider
from tests.support.anymail_server import AnymailServer, headers
from tests.support.api_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[3] / "docs" / "providers.md"
HEADING = (
    "|service|tested|headers|attachments|inline images|tags|metadata|callbacks|signature|\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)
FILE = {"name": "a.unheard-of", "content_type": "application/x-odd", "body": Binary(b"a")}
MISNAMED_FILE = FILE | {"name": "a.pdf"}
FILE_WITH_A_PARAMETER = FILE | {"content_type": "application/x-odd; method=a"}
IMAGE = {"name": "a.png", "content_type": "image/png", "content_id": "a@b", "body": Binary(b"a")}


class Probe:
    """Sends emails through one service, and says whether it takes them."""

    def __init__(self, name: str, server: AnymailServer, row: dict[str, Any]) -> None:
        self.name = name
        self._server = server
        self._row = row
        self._provider = anymail_provider(name, server.url)

    def takes(self, **attributes: Any) -> bool:
        try:
            self._provider.send(Email.from_row(self._row | attributes))
        except PermanentError:
            return False
        return True

    def line(self) -> str:
        has_metadata = self.takes(Tags={"campaign": "a"})
        cells = [
            f"`{self.name}`",
            "in full" if self.name in FAILURES else "in part",
            self._headers(),
            self._attachments(),
            "yes" if self.takes(BodyHtml="<p>", Attachments=[IMAGE]) else "no",
            "no" if has_metadata else "id",
            "`Tags`, id" if has_metadata else "no",
            *_webhooks(self.name),
        ]
        return f"|{'|'.join(cells)}|\n"

    def _headers(self) -> str:
        assert self.takes(Headers={"X-Shop": "a"})
        sent = headers(self.name, self._server.calls[-1])
        assert sent["X-Shop"] == "a"
        return "yes" if ID_HEADER in sent else "by plan"

    def _attachments(self) -> str:
        assert self.takes(Attachments=[FILE])
        if not self.takes(Attachments=[MISNAMED_FILE]):
            return "typed by name"
        return "yes" if self.takes(Attachments=[FILE_WITH_A_PARAMETER]) else "no parameters"


def _webhooks(name: str) -> tuple[str, str]:
    """Say whether the service's webhooks are read, and whether they are signed."""
    if name not in SCHEMES:
        return "no", "no"
    return "yes", "password" if SCHEMES[name].verify is basic else "yes"


@pytest.fixture(scope="module")
def server() -> Iterator[AnymailServer]:
    with running(AnymailServer()) as server:
        yield server


def test_the_table_is_current(server: AnymailServer, row: dict[str, Any]) -> None:
    table = HEADING + "".join(Probe(name, server, row).line() for name in sorted(SERVICES))
    assert table in PAGE.read_text(encoding="utf-8"), f"put this table into docs/providers.md:\n\n{table}"
