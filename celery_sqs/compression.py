"""Decompresses the body of a message as kombu does, but with a size limit.

kombu has no limit, so a message of 4 KB could fill a worker's memory.
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

# Decompressing the output of `xz -9` needs 65 MiB, says xz(1). liblzma allocates as much as the header asks for.
LZMA_MEMORY_BYTES = 80 * 1_048_576

# At the end of each member, a decompressor copies the rest of its input. The body is fed in small pieces, so that a
# body of many small members does not cause many large copies.
PIECE_BYTES = 4096

NOT_ACCEPTED = Reason("CompressionRefused", "the body is compressed, which this app's `accept_compression` forbids")
NOT_DECOMPRESSIBLE = Reason(
    "NotDecompressible",
    "the body is not compressed as its header `compression` says, was cut off, or needs too much memory",
)


class CannotDecompress(Exception):
    """The body cannot be decompressed, so the message is to be dead-lettered for `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.detail)
        self.reason = reason


def decompress(body: Any, method: Any, limit: int) -> bytes:
    """Decompress the body. `method` is the name or content type by which kombu knows a compression method.

    kombu's own methods stop after `limit` bytes. A method that the app registered with kombu runs to its end, and only
    then the size of its result is checked.

    Raises:
        CannotDecompress: the method is unknown, or the body is invalid or too large.
    """
    try:
        decoder = compression.get_decoder(method)
    except (KeyError, TypeError):  # it is a TypeError if the header is a list or an object
        known = ", ".join(compression.encoders())
        raise CannotDecompress(
            Reason(
                "UnknownCompression",
                f"the header `compression` names a method that this worker does not have; it has {known}",
            )
        ) from None
    read = _BOUNDED.get(decoder) or partial(_registered_by_the_app, decoder)
    try:
        return read(body, limit)
    except _TooLarge:
        reason = Reason("DecompressedTooLarge", f"the body has more than {limit} bytes when it is decompressed")
        raise CannotDecompress(reason) from None
    except Exception:  # noqa: BLE001 (each library raises its own errors, and an app's method may raise anything)
        raise CannotDecompress(NOT_DECOMPRESSIBLE) from None


class _TooLarge(Exception):
    pass


def _registered_by_the_app(decoder: Callable[[bytes], bytes], body: bytes, limit: int) -> bytes:
    found = decoder(body)
    if len(found) > limit:
        raise _TooLarge
    return found


def _zlib(body: bytes, limit: int) -> bytes:
    # Data after the end of the stream is ignored, as `zlib.decompress` does.
    found, _ = _first_member(zlib.decompressobj(), memoryview(body), limit)
    return found


def _bz2(body: bytes, limit: int) -> bytes:
    # `bz2.decompress` also accepts an empty body.
    return _members(compression.bz2.BZ2Decompressor, OSError, body, limit) if body else b""


def _lzma(body: bytes, limit: int) -> bytes:
    new = partial(compression.lzma.LZMADecompressor, memlimit=LZMA_MEMORY_BYTES)
    return _members(new, compression.lzma.LZMAError, body, limit)


def _zstd(body: bytes, limit: int) -> bytes:
    return _members(compression.zstd.ZstdDecompressor, (), body, limit)


def _brotli(body: bytes, limit: int) -> bytes:
    decompressor = compression.brotli.Decompressor()
    # brotli before 1.2 does not know this argument and raises a TypeError, so that the body is refused.
    found: bytes = decompressor.process(body, output_buffer_limit=limit + 1)
    if len(found) > limit:
        raise _TooLarge
    if not decompressor.is_finished():
        raise EOFError
    return found


def _members(new: Callable[[], Any], after_the_last: type[Exception] | tuple[()], body: bytes, limit: int) -> bytes:
    """Decompress all members of a body.

    If the data after a member raises the error `after_the_last`, it is ignored, as in Python's own functions.
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
    """Decompress the first member. Return its content and the rest of the body."""
    found = bytearray()
    read = 0
    while not stream.eof:
        piece = body[read : read + PIECE_BYTES]
        if not piece:
            raise EOFError
        read += len(piece)
        # One byte more than the limit is enough to know that the body is too large.
        found += stream.decompress(piece, limit - len(found) + 1)
        if len(found) > limit:
            raise _TooLarge
    return bytes(found), body[read - len(stream.unused_data) :]


def _bounded() -> dict[Any, Decompressor]:
    """Return our decompressors by the library function that kombu calls, for each library that is installed."""
    ours = {"zlib": _zlib, "bz2": _bz2, "lzma": _lzma, "zstd": _zstd, "brotli": _brotli}
    libraries = {name: getattr(compression, name, None) for name in ours}
    return {library.decompress: ours[name] for name, library in libraries.items() if library}


_BOUNDED = _bounded()
