"""One HTTP server that answers as each of the services behind django-anymail documents, and breaks as a test says."""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
from dataclasses import dataclass
from email.utils import getaddresses
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

from tests.support.api_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DRIP_SECONDS = 0.05  # between two bytes

Fate = Literal["answer", "hang", "drip", "drip the head", "reset at once", "reset", "close", "cut off"]


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    text: str = ""

    @property
    def content(self) -> bytes:
        return self.text.encode() if self.json is None else json.dumps(self.json).encode()


@dataclass(frozen=True)
class Call:
    """A request that the server got."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def form(self) -> list[tuple[str, str]]:
        """Return the fields of a form. A file's value is its content in base64, after its headers."""
        if not self.headers["Content-Type"].startswith("multipart/"):
            return parse_qsl(self.body.decode(), keep_blank_values=True)
        boundary = self.headers["Content-Type"].partition("boundary=")[2]
        fields = []
        for part in self.body.split(f"--{boundary}".encode())[1:-1]:
            head, _, content = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
            names = dict(re.findall(r'(\w+)="([^"]*)"', head.decode()))
            if "filename" in names:
                fields.append((names["name"], f"{head.decode()} {base64.b64encode(content).decode()}"))
            else:
                fields.append((names["name"], content.decode()))
        return fields


class AnymailServer(ApiServer):
    """Records requests. It accepts them as the service does whose name the path begins with, unless told otherwise."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.forget()

    def forget(self) -> None:
        """Answer as at the start."""
        self.fate: Fate = "answer"
        self.reply: Reply | None = None  # instead of the acceptance
        self.calls: list[Call] = []
        self.connections = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def verify_request(self, request: socket.socket, client_address: object) -> bool:  # type: ignore[override]
        if self.fate != "reset at once":
            return True
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def shutdown_request(self, request: Any) -> None:
        if self.fate.startswith("reset"):
            self.close_request(request)  # without a FIN before the RST
        else:
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep the test's output clean: clients that give up are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: AnymailServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        call = Call(self.path, dict(self.headers.items()), self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append(call)
        reply = self.server.reply or accepted(call)
        head = [f"HTTP/1.1 {reply.status} -", f"Content-Length: {len(reply.content)}"]
        if not any(name == "Content-Type" for name, _ in reply.headers):
            head.append("Content-Type: application/json")
        head += [f"{name}: {value}" for name, value in reply.headers]
        written = "\r\n".join([*head, "", ""]).encode()
        fate = self.server.fate
        if fate == "hang":
            self.server.hang()
        elif fate == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fate == "drip":
            self.wfile.write(written)
            self._drip(reply.content)
        elif fate == "drip the head":
            self._drip(written + reply.content)
        elif fate == "cut off":
            self.wfile.write(written + reply.content[:-1])
        elif fate == "answer":
            self.wfile.write(written + reply.content)
        self.close_connection = fate != "answer"

    def _drip(self, content: bytes) -> None:
        for byte in content:
            self.wfile.write(bytes([byte]))
            if self.server.released.wait(DRIP_SECONDS):
                return

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the standard library)
        """Keep the test's output clean."""


_ids = iter(range(1, 1_000_000_000))


def accepted(call: Call) -> Reply:
    """Return the answer by which the service of this path accepts the request for every recipient."""
    service = call.path.split("/")[1]
    number, everybody = next(_ids), recipients(service, call)
    if service == "mailersend":
        return Reply(202, headers=(("X-Message-Id", f"{number:024x}"), ("Content-Type", "text/html")))
    if service == "sendgrid":
        return Reply(202, headers=(("X-Message-Id", f"{number}"),))
    return Reply(201 if service == "brevo" else 200, ACCEPTANCES[service](number, everybody))


# What each service answers, as its API reference shows it.
ACCEPTANCES: dict[str, Callable[[int, list[str]], Any]] = {
    "brevo": lambda number, _: {"messageId": f"<{number}@smtp-relay.mailin.fr>"},
    "mailgun": lambda number, _: {"id": f"<{number}@mg.example.com>", "message": "Queued. Thank you."},
    "mailjet": lambda number, everybody: {
        "Messages": [
            {
                "Status": "success",
                "To": [{"Email": each, "MessageID": number, "MessageUUID": f"{number}"} for each in everybody],
                "Cc": [],
                "Bcc": [],
            }
        ]
    },
    "mailtrap": lambda number, everybody: {
        "success": True,
        "message_ids": [f"{number}-{each}" for each in range(len(everybody))],
    },
    "mandrill": lambda number, everybody: [
        {"email": each, "status": "sent", "_id": f"{number:032x}"} for each in everybody
    ],
    "postal": lambda number, everybody: {
        "status": "success",
        "time": 0.02,
        "flags": {},
        "data": {
            "message_id": f"{number}@rp.postal.example.com",
            "messages": {each: {"id": number, "token": "abc"} for each in everybody},
        },
    },
    "postmark": lambda number, everybody: {
        "To": ", ".join(everybody),
        "SubmittedAt": "2026-11-27T12:00:00Z",
        "MessageID": f"{number:032x}",
        "ErrorCode": 0,
        "Message": "OK",
    },
    "resend": lambda number, _: {"id": f"{number:032x}"},
    "scaleway": lambda number, everybody: {
        "emails": [{"id": f"{number}", "mail_rcpt": each, "status": "new"} for each in everybody]
    },
    "sparkpost": lambda number, everybody: {
        "results": {
            "total_rejected_recipients": 0,
            "total_accepted_recipients": len(everybody),
            "id": f"{number}",
        }
    },
    "unisender_go": lambda number, everybody: {"status": "success", "job_id": f"{number}", "emails": everybody},
}


def recipients(service: str, call: Call) -> list[str]:
    """Return the addresses that the request names, each as often as it does."""
    return RECIPIENTS[service](call)


def headers(service: str, call: Call) -> dict[str, str]:
    """Return the headers that the request sets by name."""
    return dict(HEADERS[service](call))


def message(service: str, call: Call) -> bytes:
    """Return the message that the service would send: its headers, and the rest of the request without the Bcc."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers(service, call).items())
    if service == "mailgun":
        rest: Any = [(name, value) for name, value in call.form() if name != "bcc"]
    else:
        rest = call.json
        for part in (rest, rest.get("personalizations", [{}])[0]):
            for name in ("bcc", "Bcc"):
                part.pop(name, None)
    return f"{head}\r\n{json.dumps(rest)}".encode()


def _addresses(*mailboxes: str) -> list[str]:
    return [address for _, address in getaddresses(mailboxes)]


def _objects(call: Call) -> list[str]:
    return [each["email"] for kind in ("to", "cc", "bcc") for each in call.json.get(kind, [])]


def _mailboxes(call: Call) -> list[str]:
    return _addresses(*(each for kind in ("to", "cc", "bcc") for each in call.json.get(kind, [])))


def _of_mailjet(call: Call) -> list[str]:
    sent = call.json
    lists = (sent["Messages"][0]["To"], sent["Globals"].get("Cc", []), sent["Globals"].get("Bcc", []))
    return [each["Email"] for each_list in lists for each in each_list]


def _of_sendgrid(call: Call) -> list[str]:
    (personalization,) = call.json["personalizations"]
    return [each["email"] for kind in ("to", "cc", "bcc") for each in personalization.get(kind, [])]


RECIPIENTS: dict[str, Callable[[Call], list[str]]] = {
    "brevo": _objects,
    "mailersend": _objects,
    "mailgun": lambda call: _addresses(*(value for name, value in call.form() if name in ("to", "cc", "bcc"))),
    "mailjet": _of_mailjet,
    "mailtrap": _objects,
    "mandrill": lambda call: [each["email"] for each in call.json["message"]["to"]],
    "postal": _mailboxes,
    "postmark": lambda call: _addresses(*(call.json[kind] for kind in ("To", "Cc", "Bcc") if kind in call.json)),
    "resend": _mailboxes,
    "scaleway": _objects,
    "sendgrid": _of_sendgrid,
    "sparkpost": lambda call: [each["address"]["email"] for each in call.json["recipients"]],
    "unisender_go": lambda call: [each["email"] for each in call.json["message"]["recipients"]],
}

HEADERS: dict[str, Callable[[Call], Any]] = {
    "brevo": lambda call: call.json.get("headers", {}),
    "mailersend": lambda call: {each["name"]: each["value"] for each in call.json.get("headers", [])},
    "mailgun": lambda call: {name[2:]: value for name, value in call.form() if name.startswith("h:")},
    "mailjet": lambda call: call.json["Globals"].get("Headers", {}),
    "mailtrap": lambda call: call.json.get("headers", {}),
    "mandrill": lambda call: call.json["message"].get("headers", {}),
    "postal": lambda call: call.json.get("headers", {}),
    "postmark": lambda call: {each["Name"]: each["Value"] for each in call.json.get("Headers", [])},
    "resend": lambda call: call.json.get("headers", {}),
    "scaleway": lambda call: {each["key"]: each["value"] for each in call.json.get("additional_headers", [])},
    "sendgrid": lambda call: call.json.get("headers", {}),
    "sparkpost": lambda call: call.json["content"].get("headers", {}),
    "unisender_go": lambda call: call.json["message"].get("headers", {}),
}
