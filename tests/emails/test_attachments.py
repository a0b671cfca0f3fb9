"""Files in S3: which may be fetched, what is fetched, and what happens to the email if a file may not be fetched."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from pydantic import HttpUrl
from urllib3.exceptions import SSLError

from emails import attachments
from emails.attachments import CHUNK_BYTES, TOO_SLOW, fetch, why_forbidden
from emails.email import Email
from emails.providers.contract import PermanentError, TemporaryError
from settings import Settings
from settings.aws import client
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

BUCKET = "attachments"
URI = f"s3://{BUCKET}/mail/a.pdf"
PDF = {"name": "a.pdf", "content_type": "application/pdf"}
HERE = {"body": "aGVyZQ=="}
NEVER = float("inf")
HELLO_E_TAG = "5d41402abc4b2a76b9719d911017c592"


@pytest.fixture(scope="module")
def s3(emulator: str) -> S3Client:
    s3 = client("s3", Settings(endpoint_url=HttpUrl(emulator)))
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="mail/a.pdf", Body=b"hello")
    return s3


@pytest.fixture
def stub(s3: S3Client) -> Iterator[Stubber]:
    """Return a stubbed client for answers that the emulator never gives."""
    with Stubber(s3) as stubber:
        yield stubber


def email(row: dict[str, Any], *files: dict[str, Any]) -> Email:
    return Email.from_row({**row, "Attachments": [{**PDF, **file} for file in files]})


def bodies(email: Email) -> list[bytes | None]:
    return [attachment.body for attachment in email.attachments]


def test_each_file_gets_what_its_object_contains_and_all_else_stays(row: dict[str, Any], s3: S3Client) -> None:
    large = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"end"
    keys = ["mail/large", "mail/Rechnung für März 100%25 #1?.pdf", "mail//a+b", "mail/empty"]
    for key, content in zip(keys, [large, b"1", b"2", b""], strict=True):
        s3.put_object(Bucket=BUCKET, Key=key, Body=content)
    before = email(row, HERE, *({"s3_uri": f"s3://{BUCKET}/{key}"} for key in keys), {"s3_uri": URI})
    assert bodies(before) == [b"here", None, None, None, None, None]
    fetched = fetch(s3, before, NEVER)
    assert bodies(fetched) == [b"here", large, b"1", b"2", b"", b"hello"]
    assert [attachment.name for attachment in fetched.attachments] == ["a.pdf"] * 6
    assert fetched.model_copy(update={"attachments": before.attachments}) == before


@pytest.mark.parametrize(
    "known", [{}, {"size": 5}, {"e_tag": HELLO_E_TAG}, {"e_tag": f'"{HELLO_E_TAG}"', "size": 5}], ids=repr
)
def test_an_object_that_is_what_the_row_says_is_fetched(
    row: dict[str, Any], s3: S3Client, known: dict[str, Any]
) -> None:
    assert bodies(fetch(s3, email(row, {"s3_uri": URI, **known}), NEVER)) == [b"hello"]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ({"s3_uri": URI, "size": 4}, "size is 4, but the object in S3 has 5 bytes"),
        ({"s3_uri": URI, "size": 6}, "size is 6, but the object in S3 has 5 bytes"),
        ({"s3_uri": URI, "e_tag": HELLO_E_TAG[::-1]}, "the object's ETag in S3 differs from e_tag"),
        ({"s3_uri": f"s3://{BUCKET}/mail/secret"}, "S3 has no such object"),
        ({"s3_uri": "s3://secret-bucket/a.pdf"}, "S3 has no such bucket"),
    ],
    ids=["smaller", "larger", "e_tag", "key", "bucket"],
)
def test_an_object_that_is_another_is_refused_for_good(
    row: dict[str, Any], s3: S3Client, file: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PermanentError) as raised:
        fetch(s3, email(row, {"s3_uri": URI}, file), NEVER)
    assert str(raised.value) == f"Attachments[1].s3_uri: {reason}"
    assert raised.value.__suppress_context__, "botocore's error says more of the object than a log may"


@pytest.mark.parametrize("e_tag", [HELLO_E_TAG, f'"{HELLO_E_TAG}"'])
def test_s3_is_asked_for_an_e_tag_in_quotes(row: dict[str, Any], s3: S3Client, stub: Stubber, e_tag: str) -> None:
    asked = {"Bucket": BUCKET, "Key": "mail/a.pdf", "IfMatch": f'"{HELLO_E_TAG}"'}
    stub.add_response("get_object", answer(io.BytesIO(b"hello"), 5), asked)
    assert bodies(fetch(s3, email(row, {"s3_uri": URI, "e_tag": e_tag}), NEVER)) == [b"hello"]


def test_files_that_are_too_large_together_are_refused(
    row: dict[str, Any], s3: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "MAX_BYTES", 12)
    assert len(bodies(fetch(s3, email(row, {"s3_uri": URI}, {"s3_uri": URI}, {"body": "MTI="}), NEVER))) == 3
    for third in ({"body": "MTIz"}, {"s3_uri": URI}):
        with pytest.raises(PermanentError, match=r"the attachments together have more than 12 bytes"):
            fetch(s3, email(row, {"s3_uri": URI}, {"s3_uri": URI}, third), NEVER)


def answer(content: io.RawIOBase | io.BytesIO, size: int) -> dict[str, Any]:
    return {"ContentLength": size, "Body": StreamingBody(content, size)}  # type: ignore[arg-type]  # it is botocore's own stub


class Unread(io.BytesIO):
    """A body that must not be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        pytest.fail("it was read")


def test_what_is_refused_by_its_size_is_not_read(row: dict[str, Any], s3: S3Client, stub: Stubber) -> None:
    for size, declared in ((attachments.MAX_BYTES + 1, None), (5, 6)):
        body = Unread()
        stub.add_response("get_object", answer(body, size))
        with pytest.raises(PermanentError):
            fetch(s3, email(row, {"s3_uri": URI, "size": declared}), NEVER)
        assert body.closed, "its connection is not kept with the rest of it"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        *((code, code) for code in ("SlowDown", "InternalError", "ExpiredToken", "KMS.DisabledException")),
        ("AccessDenied", "AccessDenied: the worker may not read the object, or the object does not exist"),
    ],
)
def test_an_answer_that_may_change_is_temporary(
    row: dict[str, Any], s3: S3Client, stub: Stubber, code: str, said: str
) -> None:
    stub.add_client_error("get_object", code, "of the secret", http_status_code=503)
    with pytest.raises(TemporaryError) as raised:
        fetch(s3, email(row, {"s3_uri": URI}), NEVER)
    assert str(raised.value) == f"Attachments[0].s3_uri: S3 answered {said}"


def test_an_archived_object_is_refused_for_good(row: dict[str, Any], s3: S3Client, stub: Stubber) -> None:
    stub.add_client_error("get_object", "InvalidObjectState", http_status_code=403)
    with pytest.raises(PermanentError, match="the object in S3 is archived"):
        fetch(s3, email(row, {"s3_uri": URI}), NEVER)


@pytest.mark.usefixtures("no_backoff_of_botocore")
def test_no_answer_is_temporary(row: dict[str, Any]) -> None:
    nobody = client("s3", Settings(endpoint_url=HttpUrl(f"http://127.0.0.1:{free_port()}")))
    with pytest.raises(TemporaryError, match=r"^Attachments\[0\].s3_uri: S3 did not answer \(EndpointConnectionError"):
        fetch(nobody, email(row, {"s3_uri": URI}), NEVER)


class Broken(io.BytesIO):
    """A body that loses its connection while it is read."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise SSLError


@pytest.mark.parametrize("body", [io.BytesIO(b"hell"), Broken()], ids=["short", "broken"])
def test_an_answer_that_breaks_off_is_temporary(
    row: dict[str, Any], s3: S3Client, stub: Stubber, body: io.BytesIO
) -> None:
    stub.add_response("get_object", answer(body, 5))
    with pytest.raises(TemporaryError, match="S3 did not answer"):
        fetch(s3, email(row, {"s3_uri": URI}), NEVER)


def test_no_request_begins_too_late(row: dict[str, Any], s3: S3Client, stub: Stubber) -> None:
    with pytest.raises(TemporaryError) as raised:
        fetch(s3, email(row, {"s3_uri": URI}), until=1)
    assert str(raised.value) == f"Attachments[0].s3_uri: {TOO_SLOW}"
    assert bodies(fetch(s3, email(row, HERE), until=1)) == [b"here"]


def test_no_body_is_read_for_too_long(
    row: dict[str, Any], s3: S3Client, stub: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def time(self) -> float:
            return self.now

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            clock.now += 10
            return super().read(1)

    clock, body = Clock(), Slow(b"hello")
    monkeypatch.setattr(attachments, "time", clock)
    stub.add_response("get_object", answer(body, 5))
    with pytest.raises(TemporaryError, match=TOO_SLOW):
        fetch(s3, email(row, {"s3_uri": URI}), until=25)
    assert clock.now == 30


ALLOWED = ("s3://attachments/mail/", "s3://whole-bucket/")


@pytest.mark.parametrize(
    "uri", [URI, "s3://attachments/mail/2026/a", "s3://attachments/mail//a", "s3://whole-bucket/a"]
)
def test_a_file_below_a_prefix_may_be_fetched(row: dict[str, Any], uri: str) -> None:
    assert not why_forbidden(email(row, HERE, {"s3_uri": uri}), ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://attachments/mailing/a",
        "s3://attachments/a",
        "s3://attachments/Mail/a",
        "s3://attachments/%6dail/a",
        "s3://attachments/x/mail/a",
        "s3://attachments//mail/a",
        "s3://whole-bucket-2/a",
        "s3://whole-bucket.secret/a",
    ],
)
def test_a_file_elsewhere_is_refused_without_saying_where(row: dict[str, Any], uri: str) -> None:
    reason = "Attachments[1].s3_uri: does not begin with any of EMAIL_ATTACHMENT_PREFIXES"
    assert why_forbidden(email(row, HERE, {"s3_uri": uri}), ALLOWED) == reason
    assert why_forbidden(email(row, HERE, {"s3_uri": uri}), ()) == reason


def test_without_prefixes_no_file_may_be_fetched(row: dict[str, Any]) -> None:
    assert why_forbidden(email(row, {"s3_uri": URI}), ())
    assert not why_forbidden(email(row, HERE), ())
