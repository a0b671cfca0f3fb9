"""Compressed bodies are read as kombu reads them, but within a limit."""

from __future__ import annotations

import bz2
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import kombu.compression
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs.compression import CannotDecompress, decompress

MEBIBYTE = 1_048_576
METHODS = sorted(kombu.compression.encoders())
NAMES = sorted(kombu.compression._aliases)
each_method = pytest.mark.parametrize("method", METHODS)


def compressed(text: bytes, method: str) -> bytes:
    body: bytes = kombu.compression.compress(text, method)[0]
    return body


def code(body: Any, method: Any, limit: int = MEBIBYTE) -> str:
    with pytest.raises(CannotDecompress) as caught:
        decompress(body, method, limit)
    return caught.value.reason.code


def test_brotli_and_zstd_are_tested_too() -> None:
    assert {"application/x-brotli", "application/zstd"} <= set(METHODS)


@pytest.mark.parametrize("name", [*NAMES, *METHODS])
def test_every_name_that_kombu_knows_is_known(name: str) -> None:
    assert decompress(compressed(b"hello" * 100, name), name, 500) == b"hello" * 100


@given(
    method=st.sampled_from(METHODS),
    members=st.lists(st.binary(max_size=200), max_size=4),
    rest=st.binary(max_size=20),
    cut=st.integers(0, 30),
)
def test_it_accepts_what_kombu_accepts_and_reads_the_same(
    method: str, members: list[bytes], rest: bytes, cut: int
) -> None:
    """The bodies have several members, data after the last one, or a missing end."""
    body = b"".join(compressed(member, method) for member in members) + rest
    body = body[: len(body) - cut] if cut else body
    try:
        expected = kombu.compression.decompress(body, method)
    except Exception:  # noqa: BLE001 (each library raises its own errors)
        assert code(body, method) == "NotDecompressible"
    else:
        assert decompress(body, method, MEBIBYTE) == expected


@each_method
def test_a_body_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not(method: str) -> None:
    assert len(decompress(compressed(bytes(100_000), method), method, 100_000)) == 100_000
    assert code(compressed(bytes(100_001), method), method, 100_000) == "DecompressedTooLarge"


@pytest.mark.parametrize("name", ["bzip2", "lzma", "zstd"])
def test_the_limit_is_for_all_members_together(name: str) -> None:
    assert code(compressed(bytes(60_000), name) * 2, name, 100_000) == "DecompressedTooLarge"


@pytest.mark.parametrize("name", ["bzip2", "lzma", "zstd"])
def test_many_empty_members_are_read_in_time_that_grows_with_their_number(name: str) -> None:
    """At the end of each member a decompressor copies the rest of its input. Of the whole body, that would be 20 GB."""
    one = compressed(b"", name)
    assert decompress(one * (700_000 // len(one)), name, MEBIBYTE) == b""


@each_method
@pytest.mark.parametrize("body", ["a text", b"no such thing", b"", None, 7, {}, []], ids=repr)
def test_a_body_that_only_claims_to_be_compressed_is_refused_as_by_kombu(body: Any, method: str) -> None:
    try:
        expected = kombu.compression.decompress(body, method)
    except Exception:  # noqa: BLE001 (each library raises its own errors)
        assert code(body, method) == "NotDecompressible"
    else:
        assert decompress(body, method, MEBIBYTE) == expected


@pytest.mark.parametrize("method", ["rot13", "", 7, 0.5, True, ["gzip"], {"gzip": 1}, None], ids=repr)
def test_a_method_that_kombu_does_not_know_is_refused_whatever_its_type(method: Any) -> None:
    assert code(compressed(b"hello", "gzip"), method) == "UnknownCompression"


def test_what_needs_much_memory_to_decompress_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 96 * MEBIBYTE}]
    asks_for_96_mebibytes = lzma.compress(b"hello", filters=filters)
    assert code(asks_for_96_mebibytes, "lzma") == "NotDecompressible"
    assert decompress(lzma.compress(b"hello", preset=9), "lzma", MEBIBYTE) == b"hello", "the most that xz -9 needs"


def test_a_method_that_the_app_registers_is_used_and_its_result_measured() -> None:
    kombu.compression.register(lambda body: body, lambda body: body * 10, "application/x-ten", ["ten"])
    try:
        assert decompress(b"a", "ten", 10) == b"a" * 10
        assert code(b"ab", "ten", 10) == "DecompressedTooLarge"
    finally:
        del kombu.compression._encoders["application/x-ten"], kombu.compression._decoders["application/x-ten"]
        del kombu.compression._aliases["ten"]


def test_a_reason_has_nothing_of_what_the_message_says() -> None:
    for body, method in ((b"private", "gzip"), (b"", "private"), (compressed(b"private" * 9, "gzip"), "gzip")):
        with pytest.raises(CannotDecompress) as caught:
            decompress(body, method, 9)
        assert "private" not in caught.value.reason.detail


def bomb(name: str) -> bytes:
    """Return 100 MB or more of compressed zeros."""
    if name == "bzip2":
        return bz2.compress(bytes(45_000_000)) * 75
    return compressed(bytes(100_000_000), name)


MEASURE = """
import resource, sys
from celery_sqs.compression import CannotDecompress, decompress
body = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decompress(body, sys.argv[1], 4_194_304)
except CannotDecompress as error:
    print(error.reason.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brotli", "bzip2", "gzip", "lzma", "zstd"])
def test_a_bomb_takes_a_few_times_the_limit_of_memory(name: str) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MEASURE, name]
    done = subprocess.run(command, input=bomb(name), capture_output=True, check=True, cwd=root)
    reason, kilobytes = done.stdout.split()
    assert reason == b"DecompressedTooLarge"
    assert int(kilobytes) < 40_000
