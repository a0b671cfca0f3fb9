from __future__ import annotations

from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs.sqs.batches import MAX_ENTRIES, MAX_MESSAGE_BYTES, entry_codes, numbered, pack, try_batch


@given(sizes=st.lists(st.integers(1, MAX_MESSAGE_BYTES) | st.integers(1, 1000), max_size=60))
def test_every_batch_is_one_that_sqs_takes_and_nothing_is_lost_or_reordered(sizes: list[int]) -> None:
    batches = list(pack([{"size": size} for size in sizes], size=lambda entry: entry["size"]))
    assert [entry["size"] for batch in batches for entry in batch] == sizes
    assert all(1 <= len(batch) <= MAX_ENTRIES for batch in batches)
    assert all(sum(entry["size"] for entry in batch) <= MAX_MESSAGE_BYTES for batch in batches)


def test_small_entries_fill_their_batches() -> None:
    batches = list(pack([{"a": 1}] * 25, size=len))
    assert [len(batch) for batch in batches] == [10, 10, 5]


def test_each_entry_of_a_batch_has_its_own_code() -> None:
    batch = [{"Body": "a"}, {"Body": "b"}, {"Body": "c"}]
    assert [entry["Id"] for entry in numbered(batch)] == ["0", "1", "2"]
    answer = {"Successful": [{"Id": "0"}], "Failed": [{"Id": "1", "Code": "InternalError", "SenderFault": False}]}
    assert entry_codes(batch, answer) == ["", "InternalError", "Missing"]


def test_where_sqs_refuses_a_whole_request_for_good_each_entry_is_tried_by_itself() -> None:
    requests: list[list[int]] = []

    def request(batch: list[int]) -> list[str]:
        requests.append(batch)
        if 2 in batch:
            raise ClientError({"Error": {"Code": "InvalidMessageContents"}}, "SendMessageBatch")
        return [""] * len(batch)

    assert try_batch(request, [1, 2, 3], lambda code: code == "InvalidMessageContents") == [
        "",
        "InvalidMessageContents",
        "",
    ]
    assert requests == [[1, 2, 3], [1], [2], [3]]
    assert try_batch(request, [1, 2, 3]) == ["InvalidMessageContents"] * 3
