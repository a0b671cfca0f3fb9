"""A client of one service's HTTP API. It makes one attempt and ends by a deadline, whatever the network does.

The time-outs of requests start again with each byte that the server sends. It also repeats a POST if it is redirected,
and finds proxies and credentials in the environment. Here, requests only writes the request.
"""

from __future__ import annotations

import io
import os
import time
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from requests import Response
from urllib3.util.wait import wait_for_read

from emails.providers.connection import Incoming, connect, loss, time_left, tls_context
from emails.providers.contract import TemporaryError, UnknownResultError

if TYPE_CHECKING:
    import socket

    from requests import PreparedRequest

# Servers close idle connections, and a request that crosses the close has an unknown outcome. Node's default is 5
# seconds, which is shorter than that of other common servers.
LONGEST_IDLE_SECONDS = 4
LONGEST_ANSWER = 1_000_000  # bytes; an answer has one line for each recipient


def body(request: PreparedRequest) -> bytes:
    """Return the request's content, which anymail's payloads give as text or bytes."""
    return request.body if isinstance(request.body, bytes) else str(request.body or "").encode()


class ApiClient:
    """Keeps idle connections for the next request. Each is used by one request at a time."""

    def __init__(self, url: str, service: str) -> None:
        parts = urlsplit(url)
        self._service = service
        self._netloc, self._host = parts.netloc, parts.hostname or ""
        self._context = tls_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._context else 80)
        self._idle: list[_Connection] = []
        os.register_at_fork(after_in_child=self.close)  # the parent goes on using its connections

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().end()

    def post(self, request: PreparedRequest, deadline: float) -> Response:
        """Return the service's answer, whatever its status.

        Raises:
            TemporaryError: the service cannot have got the whole request.
            UnknownResultError: the request was sent, but the answer did not arrive.
        """
        try:
            connection = self._kept() or self._opened(deadline)
        except OSError as error:
            raise TemporaryError(f"no connection to {self._service}: {loss(error, deadline)}") from None
        try:
            answer = self._exchange(connection, request, deadline)
        except BaseException:
            connection.end()
            raise
        if connection.is_reusable:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.end()
        return answer

    def _exchange(self, connection: _Connection, request: PreparedRequest, deadline: float) -> Response:
        connection.timed.deadline = deadline
        try:
            connection.request("POST", request.path_url, body(request), {"Host": self._netloc, **request.headers})
        except OSError as error:
            # The last bytes did not leave, so the service cannot act on the request (RFC 9112, section 8).
            raise TemporaryError(f"the connection to {self._service} was lost: {loss(error, deadline)}") from None
        try:
            return connection.answer()
        except OSError as error:
            raise UnknownResultError(f"no answer from {self._service}: {loss(error, deadline)}") from None
        except HTTPException as error:  # its text quotes the server
            raise UnknownResultError(f"no answer from {self._service}: {type(error).__name__}") from None

    def _kept(self) -> _Connection | None:
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        # An idle connection has nothing to read except its end.
        if time.monotonic() - connection.idle_since < LONGEST_IDLE_SECONDS and not connection.timed.is_readable():
            return connection
        connection.end()
        self.close()  # the others have been idle for longer
        return None

    def _opened(self, deadline: float) -> _Connection:
        connected = connect(self._host, self._port, deadline)
        if self._context:
            try:
                connected.settimeout(time_left(deadline))
                connected = self._context.wrap_socket(connected, server_hostname=self._host)
            except BaseException:
                connected.close()
                raise
        return _Connection(self._host, _TimedSocket(connected, deadline))


class _Connection(HTTPConnection):
    """A connection that is open from the start and is never opened again."""

    auto_open = 0

    def __init__(self, host: str, timed: _TimedSocket) -> None:
        super().__init__(host)
        self.timed = timed
        self.sock = timed
        self.idle_since = 0.0
        self.is_reusable = False

    def answer(self) -> Response:
        """Return the whole answer.

        Raises:
            OSError: the connection was lost, or the deadline has passed.
            HTTPException: the answer is not HTTP, too long or cut off.
        """
        self.is_reusable = False
        incoming = self.getresponse()
        content = incoming.read(LONGEST_ANSWER)
        if incoming.read(1) or incoming.length:
            raise HTTPException
        self.is_reusable = not incoming.will_close
        answer = Response()
        answer.status_code = incoming.status
        answer.reason = incoming.reason
        answer.headers.update(incoming.getheaders())
        answer.encoding = "utf-8"
        answer._content = content  # noqa: SLF001 (as requests' own adapters and test doubles set it)
        return answer

    def end(self) -> None:
        self.timed.end()


class _TimedSocket:
    """What http.client needs of a socket. Every operation ends by `deadline`, or raises TimeoutError."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self.deadline = deadline

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._socket.settimeout(time_left(self.deadline))
            left = left[self._socket.send(left) :]

    def recv_into(self, buffer: memoryview) -> int:
        self._socket.settimeout(time_left(self.deadline))
        return self._socket.recv_into(buffer)

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        return io.BufferedReader(Incoming(self.recv_into))

    def is_readable(self) -> bool:
        return bool(wait_for_read(self._socket, timeout=0))

    def close(self) -> None:
        """Leave the connection open: http.client closes it before it reads an answer that ends with it."""

    def end(self) -> None:
        self._socket.close()
