"""The stand-in's DynamoDB expressions that emails/store/ does not use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.errors import ApiError
from bench.expressions import holds

if TYPE_CHECKING:
    from bench.expressions import Item

ITEM: Item = {"Count": {"N": "9"}, "Name": {"S": "ada"}, "Nothing": {"NULL": True}}
VALUES = {
    ":ten": {"N": "10"},
    ":nine": {"N": "9.0"},
    ":text": {"S": "10"},
    ":ada": {"S": "ada"},
    ":null": {"S": "NULL"},
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("Count < :ten", True),  # compared as numbers; as text, 9 would be larger
        ("Count = :nine", True),
        ("Count <= :nine", True),
        ("Count < :nine", False),
        ("Count < :text", False),
        ("Nothing <= :ten", False),
        ("Missing < :ten", False),
        ("Missing = Missing", False),
        ("Name IN (:text)", False),
        ("Name IN (:text, :ada)", True),
        ("attribute_exists(Nothing) AND attribute_type(Nothing, :null)", True),
        ("attribute_type(Missing, :null)", False),
        ("Name = :ada OR Name = :ada AND Count = :ten", True),
        ("(Name = :ada OR Name = :ada) AND Count = :ten", False),
    ],
)
def test_a_condition_holds_as_in_dynamodb(condition: str, expected: bool) -> None:
    assert holds(condition, ITEM, VALUES) is expected


def test_a_value_that_is_not_given_is_refused() -> None:
    with pytest.raises(ApiError, match=":other"):
        holds("Name = :other", ITEM, VALUES)
