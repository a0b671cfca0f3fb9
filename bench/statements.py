"""The PartiQL statements that emails/store/ uses. Anything else is refused, never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.errors import ApiError

if TYPE_CHECKING:
    from bench.expressions import Item

NAME = r'"(\w+)"'
SET = re.compile(rf" SET {NAME} = \?")
CONDITION = re.compile(rf"(?: AND)? {NAME} (= \?|IS MISSING)")
UPDATE = re.compile(
    rf'UPDATE "([\w.-]+)"((?:{SET.pattern})+) WHERE((?:{CONDITION.pattern})+)( RETURNING ALL NEW \*)?',
)


@dataclass(frozen=True)
class Update:
    """An update of one item. Its parameters are those of the assignments and then those of the conditions."""

    table: str
    assigned: tuple[str, ...]
    conditions: tuple[tuple[str, bool], ...]  # each attribute, and whether it has to have a value or to be missing
    returns_item: bool

    def key(self, parameters: list[dict[str, Any]]) -> Item:
        """Return what the item has to have. It includes the key, as every update's conditions do."""
        wanted = [name for name, has_value in self.conditions if has_value]
        return dict(zip(wanted, parameters[len(self.assigned) :], strict=True))

    def holds(self, item: Item, parameters: list[dict[str, Any]]) -> bool:
        missing = [name for name, has_value in self.conditions if not has_value]
        wanted = self.key(parameters)
        return not item.keys() & set(missing) and all(item.get(name) == value for name, value in wanted.items())

    def updated(self, item: Item, parameters: list[dict[str, Any]]) -> Item:
        return {**item, **dict(zip(self.assigned, parameters, strict=False))}


@cache
def parse(statement: str) -> Update:
    """Parse an update.

    Raises:
        ApiError: the stand-in does not support the statement.
    """
    parts = UPDATE.fullmatch(statement)
    if not parts:
        raise ApiError("ValidationError", f"the stand-in does not support the statement {statement!r}")
    assigned = tuple(SET.findall(parts[2]))
    conditions = tuple((name, test == "= ?") for name, test in CONDITION.findall(parts[4]))
    return Update(parts[1], assigned, conditions, parts[7] is not None)
