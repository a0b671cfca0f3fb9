from __future__ import annotations

from decimal import Decimal

import pytest
from boto3.dynamodb.types import Binary

from emails.status import RANKED, TRANSITIONS, EmailStatus, status_of


@pytest.mark.parametrize(
    ("value", "status"),
    [
        *((status.value, status) for status in EmailStatus),
        *((empty, None) for empty in (None, "", [], {}, set(), Binary(b""))),
        ("Waiting", "Waiting"),
        ("pending", "pending"),
        (Decimal(5), "Decimal('5')"),
        (Binary(b"x"), "Binary(b'x')"),
        (["Pending"], "['Pending']"),
        ({"Pending"}, "{'Pending'}"),
    ],
    ids=repr,
)
def test_a_status_is_ours_or_the_producer_s_or_missing(value: object, status: object) -> None:
    assert status_of({"EmailStatus": value}) == status
    assert isinstance(status_of({"EmailStatus": value}), EmailStatus) == isinstance(status, EmailStatus)
    assert status_of({}) is None


def test_the_arrows_are_those_of_the_design() -> None:
    pending, sending, unknown = EmailStatus.PENDING, EmailStatus.SENDING, EmailStatus.UNKNOWN
    failed = EmailStatus.FAILED
    assert {(t.sources, t.target, t.after_lease) for t in TRANSITIONS} == {
        (frozenset({pending}), sending, False),
        (frozenset({sending, unknown}), sending, False),
        (frozenset({pending, None}), failed, False),
        (frozenset({sending, unknown, EmailStatus.SENT}), EmailStatus.SENT, False),
        (frozenset({sending}), pending, False),
        (frozenset({sending}), failed, False),
        (frozenset({sending}), unknown, False),
        (frozenset({sending}), unknown, True),
        (frozenset({unknown, failed}), EmailStatus.SENT, False),
        (frozenset({unknown, failed}), pending, False),
        # Callbacks may come in any status, but never move the row to a lower one.
        (frozenset({pending, sending, failed, unknown}), EmailStatus.SENT, False),
        (frozenset({pending, sending, failed, unknown, *RANKED[:1]}), EmailStatus.DELIVERED, False),
        (frozenset({pending, sending, failed, unknown, *RANKED[:2]}), EmailStatus.BOUNCED, False),
        (frozenset({pending, sending, failed, unknown, *RANKED[:3]}), EmailStatus.COMPLAINED, False),
        # A claim's holder adds its receipt after a callback has already set the status.
        *((frozenset({status}), status, False) for status in RANKED[1:]),
    }
    assert RANKED == (EmailStatus.SENT, EmailStatus.DELIVERED, EmailStatus.BOUNCED, EmailStatus.COMPLAINED)
