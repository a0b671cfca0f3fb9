"""The stand-in's PartiQL statements."""

from __future__ import annotations

import pytest

from bench.errors import ApiError
from bench.statements import parse

UPDATE = 'UPDATE "emails" SET "A" = ? SET "B" = ? WHERE "EmailId" = ? AND "C" = ? AND "D" IS MISSING'
PARAMETERS = [{"S": "a"}, {"N": "2"}, {"S": "1"}, {"S": "c"}]
ITEM = {"EmailId": {"S": "1"}, "C": {"S": "c"}, "E": {"S": "kept"}}


def test_an_update_assigns_its_parameters_and_keeps_the_rest() -> None:
    update = parse(f"{UPDATE} RETURNING ALL NEW *")
    assert (update.table, update.returns_item) == ("emails", True)
    assert update.updated(ITEM, PARAMETERS) == ITEM | {"A": {"S": "a"}, "B": {"N": "2"}}
    assert parse(UPDATE).returns_item is False


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, True), ({"C": {"S": "other"}}, False), ({"C": {"N": "1"}}, False), ({"D": {"NULL": True}}, False)],
)
def test_a_condition_holds_as_in_dynamodb(change: dict[str, dict[str, object]], expected: bool) -> None:
    assert parse(UPDATE).holds(ITEM | change, PARAMETERS) is expected


@pytest.mark.parametrize(
    "statement",
    [
        'SELECT * FROM "emails"',
        'UPDATE "emails" SET "A" = ?, "B" = ? WHERE "EmailId" = ?',
        'UPDATE "emails" SET "A" = ? REMOVE "B" WHERE "EmailId" = ?',
        'UPDATE "emails" SET "A" = "A" + ? WHERE "EmailId" = ?',
        'UPDATE "emails" SET "A" = ? WHERE "EmailId" = ? OR "B" = ?',
        'UPDATE "emails" SET "A" = ?',
        f"{UPDATE} RETURNING MODIFIED NEW *",
    ],
)
def test_a_statement_that_is_not_known_is_refused(statement: str) -> None:
    with pytest.raises(ApiError, match="ValidationError"):
        parse(statement)
