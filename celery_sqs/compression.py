"""Decompresses the body of a message as kombu does, but within a bound.

kombu decompresses without one, so a message of 4 KB can fill the memory of a worker.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu import compression

from celery_sqs.sqs.dead_letters import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    Decompressor = Callable[[bytes, int], bytes]

MAX_DECOMPRESSED_BYTES = 4 * 1_048_576

# xz(1): decompressing what `xz -9` made needs 65 MiB. liblzma allocates whatever a header asks for.
LZMA_MEMORY_BYTES = 80 * 1_048_576

# The end of a member hands out a copy of the input that follows it, so a body of many small members is fed in pieces.
PIECE_BYTES = 4096

NOT_ACCEPTED = Reason("CompressionRefused", "the body is compressed, which this app's `accept_compression` forbids")
NOT_DECOMPRESSIBLE = Reason(
    "NotDecompressible",
    "the body is not compressed as its header `compression` says, was cut short, or needs too much memory",
)


class CannotDecompress(Exception):
    """The message is a dead letter."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.detail)
        self.reason = reason


def decompress(body: Any, method: Any, limit: int) -> bytes:
    """The body, decompressed by the method that kombu knows by this name or content type.

    It stops at `limit` bytes with the methods that come with kombu. A method that the app itself registered with kombu
    is run as it is, and only its result is measured.
    """
    try:
        decoder = compression.get_decoder(method)
    except (KeyError, TypeError):  # a TypeError: the header is a list or an object
        known = ", ".join(compression.encoders())
        raise CannotDecompress(
            Reason("UnknownCompression", f"the header `compression` names no method of this worker; it has {known}")
        ) from None
    read = _BOUNDED.get(decoder) or partial(_registered_by_the_app, decoder)
    try:
        return read(body, limit)
    except _TooLarge:
        reason = Reason("DecompressedTooLarge", f"the body has more than {limit} bytes when it is decompressed")
        raise CannotDecompress(reason) from None
    except Exception:  # noqa: BLE001 (each library raises its own errors, and a registered method may raise any)
        raise CannotDecompress(NOT_DECOMPRESSIBLE) from None


class _TooLarge(Exception):
    pass


def _registered_by_the_app(decoder: Callable[[bytes], bytes], body: bytes, limit: int) -> bytes:
    found = decoder(body)
    if len(found) > limit:
        raise _TooLarge
    return found


def _zlib(body: bytes, limit: int) -> bytes:
    # `zlib.decompress` ignores what follows the stream.
    found, _ = _first_member(zlib.decompressobj(), memoryview(body), limit)
    return found


def _bz2(body: bytes, limit: int) -> bytes:
    # To `bz2.decompress` no member is an empty body.
    return _members(compression.bz2.BZ2Decompressor, OSError, body, limit) if body else b""


def _lzma(body: bytes, limit: int) -> bytes:
    new = partial(compression.lzma.LZMADecompressor, memlimit=LZMA_MEMORY_BYTES)
    return _members(new, compression.lzma.LZMAError, body, limit)


def _zstd(body: bytes, limit: int) -> bytes:
    return _members(compression.zstd.ZstdDecompressor, (), body, limit)


def _brotli(body: bytes, limit: int) -> bytes:
    decompressor = compression.brotli.Decompressor()
    # Versions before 1.2 do not know this argument. They raise a TypeError, and the body is refused.
    found: bytes = decompressor.process(body, output_buffer_limit=limit + 1)
    if len(found) > limit:
        raise _TooLarge
    if not decompressor.is_finished():
        raise EOFError
    return found


def _members(new: Callable[[], Any], after_the_last: type[Exception] | tuple[()], body: bytes, limit: int) -> bytes:
    """All the members of a body, one after the other.

    What follows a member and raises the error `after_the_last` is no other member and is ignored, as in Python's own
    functions.
    """
    found: list[bytes] = []
    size = 0
    rest = memoryview(body)
    while rest or not found:
        try:
            member, rest = _first_member(new(), rest, limit - size)
        except after_the_last:
            if not found:
                raise
            break
        found.append(member)
        size += len(member)
    return b"".join(found)


def _first_member(stream: Any, body: memoryview, limit: int) -> tuple[bytes, memoryview]:
    """One member, and what follows it."""
    found = bytearray()
    read = 0
    while not stream.eof:
        piece = body[read : read + PIECE_BYTES]
        if not piece:
            raise EOFError
        read += len(piece)
        # The stream would keep the rest of a piece that makes more than this for the next call, which does not come.
        found += stream.decompress(piece, limit - len(found) + 1)
        if len(found) > limit:
            raise _TooLarge
    return bytes(found), body[read - len(stream.unused_data) :]


def _bounded() -> dict[Any, Decompressor]:
    """By the functions that kombu calls, of the libraries that are installed."""
    ours = {"zlib": _zlib, "bz2": _bz2, "lzma": _lzma, "zstd": _zstd, "brotli": _brotli}
    libraries = {name: getattr(compression, name, None) for name in ours}
    return {library.decompress: ours[name] for name, library in libraries.items() if library}


_BOUNDED = _bounded()
