"""What the connections to SMTP servers and to HTTP APIs share. Deadlines are on the clock of time.monotonic()."""

from __future__ import annotations

import io
import socket
import ssl
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers. Each address gets its share of the time.

    Raises:
        OSError: no address answered in time.
    """
    # The resolver has its own time-outs (resolv.conf). If it takes too long, none of the addresses is tried.
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(time_left(deadline) / (len(addresses) - number))
            connection.connect(address)
        except OSError:
            connection.close()
            if number == len(addresses) - 1:
                raise
        else:
            # Otherwise the end of a message waits 40 ms for the acknowledgement of its start (Nagle, delayed ACK).
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise ConnectionError("the host has no address")


def time_left(deadline: float) -> float:
    """Return the seconds until the deadline.

    Raises:
        TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Incoming(io.RawIOBase):
    """The bytes that a connection receives, as a file. `receive` puts some into a buffer, and returns how many."""

    def __init__(self, receive: Callable[[memoryview], int]) -> None:
        self._receive = receive

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io passes a memoryview
        return self._receive(buffer)


def tls_context() -> ssl.SSLContext:
    """Return a TLS context that trusts the system's certificate authorities, or those in SSL_CERT_FILE."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def loss(error: OSError, deadline: float) -> str:
    """Return how the connection was lost, for a person to read."""
    if time.monotonic() >= deadline:
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    return error.strerror or str(error) or type(error).__name__
