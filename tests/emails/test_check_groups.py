"""`provision --check` notices whatever a grouped request needs and DynamoDB does not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from emails.store import GroupsRefused, check_groups
from settings.aws import client
from tests.support.stage import new_stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from settings import Settings

    Answer = dict[str, Any]


@pytest.fixture(scope="module")
def settings(emulator: str) -> Settings:
    return new_stage(emulator, "check")


def answer_every_statement(response: Answer) -> Callable[[Answer], None]:
    return lambda answer: answer.update(Responses=[response for _ in answer["Responses"]])


def without_items(answer: Answer) -> None:
    for response in answer["Responses"]:
        response.pop("Item", None)


# (the action, the number of its request that is answered wrongly, how, what is said)
WRONG: list[tuple[str, int, Callable[[Answer], Any], str]] = [
    ("BatchGetItem", 1, lambda answer: answer["Responses"].clear(), "did not return the row that exists"),
    ("BatchExecuteStatement", 1, without_items, "the answer to a claim does not contain the updated row"),
    (
        "BatchExecuteStatement",
        1,
        answer_every_statement({"Error": {"Code": "AccessDenied", "Message": "no"}}),
        "a claim failed: AccessDenied: no",
    ),
    ("BatchExecuteStatement", 1, lambda answer: answer["Responses"].pop(), "did not answer every statement"),
    (
        "BatchExecuteStatement",
        1,
        lambda answer: answer["Responses"].__setitem__(1, {"TableName": "t"}),
        "a claim of a missing row ended with success",
    ),
    ("BatchExecuteStatement", 2, answer_every_statement({}), "a claim of a claimed row ended with success"),
    ("BatchExecuteStatement", 3, answer_every_statement({}), "a record under another claim ended with success"),
    ("BatchExecuteStatement", 4, without_items, "the answer to a record does not contain the updated row"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[each[3] for each in WRONG])
def test_what_dynamodb_does_not_do_is_named_and_the_scratch_row_is_deleted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, int, Callable[[Answer], Any], str]
) -> None:
    action, number, change, said = wrong
    dynamodb = client("dynamodb", settings)
    asked = []

    def answer(parsed: Answer, **_: Any) -> None:
        asked.append(action)
        if len(asked) == number:
            change(parsed)

    dynamodb.meta.events.register(f"after-call.dynamodb.{action}", answer)
    monkeypatch.setattr("emails.store.check.client", lambda *_: dynamodb)
    with pytest.raises(GroupsRefused, match=said):
        list(check_groups(settings))
    assert dynamodb.scan(TableName=settings.table)["Items"] == []


@pytest.mark.parametrize("method", ["batch_get_item", "batch_execute_statement"])
def test_a_request_that_is_denied_is_named_with_what_aws_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    dynamodb = client("dynamodb", settings)

    def deny(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "User: ada may not"}}, method)

    monkeypatch.setattr(dynamodb, method, deny)
    monkeypatch.setattr("emails.store.check.client", lambda *_: dynamodb)
    with pytest.raises(GroupsRefused, match=r"failed: .*AccessDeniedException.* User: ada may not"):
        list(check_groups(settings))
    assert dynamodb.scan(TableName=settings.table)["Items"] == []


def test_what_works_is_said(settings: Settings) -> None:
    assert len(list(check_groups(settings))) == 2
