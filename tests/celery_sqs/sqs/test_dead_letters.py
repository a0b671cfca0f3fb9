from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES
from celery_sqs.sqs.dead_letters import MAX_ATTRIBUTES, Reason, attribute_bytes, task_id_of, with_reason

REASON = Reason("NotJson", "the body is not JSON")

values = st.fixed_dictionaries({"DataType": st.just("String"), "StringValue": st.text(min_size=1, max_size=50)})
binaries = st.fixed_dictionaries({"DataType": st.just("Binary"), "BinaryValue": st.binary(min_size=1, max_size=50)})


@given(
    attributes=st.dictionaries(st.text(min_size=1, max_size=20), values | binaries, max_size=12),
    body_bytes=st.integers(0, MAX_MESSAGE_BYTES) | st.integers(MAX_MESSAGE_BYTES - 200, MAX_MESSAGE_BYTES),
)
def test_what_is_kept_always_fits_beside_the_body(attributes: dict[str, Any], body_bytes: int) -> None:
    kept = with_reason("x" * body_bytes, attributes, REASON)
    assert len(kept) <= MAX_ATTRIBUTES
    assert body_bytes + sum(attribute_bytes(name, value) for name, value in kept.items()) <= MAX_MESSAGE_BYTES


def test_reason_and_detail_go_beside_the_producers_own_attributes() -> None:
    own = {"trace": {"DataType": "String", "StringValue": "1"}}
    kept = with_reason("body", own, REASON)
    assert {name: value["StringValue"] for name, value in kept.items()} == {
        "Reason": "NotJson",
        "Detail": "the body is not JSON",
        "trace": "1",
    }


def test_the_producers_attributes_give_way_first() -> None:
    own = {f"a{number}": {"DataType": "String", "StringValue": "x"} for number in range(10)}
    kept = with_reason("body", own, REASON)
    assert len(kept) == MAX_ATTRIBUTES
    assert {"Reason", "Detail"} < kept.keys()
    body = "x" * (MAX_MESSAGE_BYTES - 60)
    assert with_reason(body, own, REASON).keys() == {"Reason", "Detail", "a0"}
    assert with_reason(body + "x" * 20, own, REASON).keys() == {"Reason", "a0", "a1"}


def test_a_producers_own_reason_is_overwritten() -> None:
    own = {"Reason": {"DataType": "String", "StringValue": "mine"}}
    assert with_reason("", own, REASON)["Reason"]["StringValue"] == "NotJson"


TASK = json.dumps({"body": "", "headers": {"id": "task-1"}})


@pytest.mark.parametrize(
    ("body", "task_id"),
    [
        (TASK, "task-1"),
        (base64.b64encode(TASK.encode()).decode(), "task-1"),
        ('{"headers": {}}', ""),
        ('{"headers": []}', ""),
        ("{", ""),
        ("[1]", ""),
        ("no JSON", ""),
        ("", ""),
        ("{" * 100_000, ""),
    ],
)
def test_the_id_of_a_task_is_read_from_a_message_of_celery_alone(body: str, task_id: str) -> None:
    assert task_id_of(body) == task_id
