"""The part of DynamoDB's expression language that emails/store/ uses. Anything else is refused, never guessed.

A condition is checked token by token and then evaluated by Python, where `and`, `or` and parentheses mean the same. An
update consists of SET and, optionally, REMOVE. SET assigns a value, an attribute or if_not_exists, to each of which
another value may be added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.errors import ApiError

if TYPE_CHECKING:
    from types import CodeType

Item = dict[str, dict[str, Any]]  # as in the API: {"Attempts": {"N": "1"}}

NAME, VALUE = r"[A-Za-z_]\w*", r":\w+"
TOKEN = re.compile(rf"\s*(?:({NAME})|({VALUE})|(<=|[=<(),]))")
OPERAND = rf"(?:if_not_exists\(({NAME}), ?({VALUE})\)|({NAME}|{VALUE}))"
ASSIGNMENT = re.compile(rf"({NAME}) = {OPERAND}(?: \+ ({VALUE}))?")
UPDATE = re.compile(rf"SET ({ASSIGNMENT.pattern}(?:, {ASSIGNMENT.pattern})*)(?: REMOVE ({NAME}(?:, {NAME})*))?")

WORDS = {
    "AND": " and ",
    "NOT": " not ",
    "OR": " or ",
    "IN": " in choices",
    "=": "==",
    "attribute_exists": "exists",
    "attribute_not_exists": "not exists",
    "attribute_type": "has_type",
}


@dataclass(frozen=True)
class Operand:
    """A value in a comparison, which is false if the types differ or a value is missing."""

    type: str
    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operand) and self.type == other.type != "" and bool(self.value == other.value)

    def __lt__(self, other: Operand) -> bool:
        return self.type == other.type and self.type in ("N", "S") and bool(self.value < other.value)

    def __le__(self, other: Operand) -> bool:
        return self < other or self == other

    __hash__ = None  # type: ignore[assignment]  # the dataclass's own would not match this __eq__


def holds(condition: str, item: Item, values: Item) -> bool:
    """Return whether the ConditionExpression is true for the item."""
    names = {
        "attribute": lambda name: _operand(item.get(name)),
        "value": lambda name: _operand(_given(name, values)),
        "exists": lambda operand: operand.type != "",
        "has_type": lambda operand, wanted: operand.type == wanted.value,
        "choices": lambda *operands: operands,
    }
    return bool(eval(_compiled(condition), {"__builtins__": {}}, names))


def updated(update: str, item: Item, values: Item) -> Item:
    """Return the item after the UpdateExpression. Every assignment sees the item as it was before."""
    parts = UPDATE.fullmatch(update)
    if not parts:
        raise ApiError("ValidationException", f"the stand-in does not support the update {update!r}")
    result = dict(item)
    for target, fallible, default, plain, addend in ASSIGNMENT.findall(parts[1]):
        found = item.get(fallible or plain) or _given(default or plain, values)
        if addend:
            found = {"N": str(Decimal(found["N"]) + Decimal(_given(addend, values)["N"]))}
        result[target] = found
    for name in (parts[parts.re.groups] or "").split(", "):
        result.pop(name, None)
    return result


@cache
def _compiled(condition: str) -> CodeType:
    source, position, text = "", 0, condition.rstrip()
    while position < len(text):
        token = TOKEN.match(text, position)
        if not token:
            raise ApiError("ValidationException", f"the stand-in does not support {text[position:]!r} in {text!r}")
        position = token.end()
        name, value, sign = token.groups()
        if value:
            source += f"value({value!r})"
        else:
            source += WORDS.get(name or sign) or (sign or f"attribute({name!r})")
    try:
        return compile(source, "<ConditionExpression>", "eval")
    except SyntaxError:
        raise ApiError("ValidationException", f"Invalid ConditionExpression: {text!r}") from None


def _operand(value: dict[str, Any] | None) -> Operand:
    if value is None:
        return Operand("", None)
    ((kind, content),) = value.items()
    return Operand(kind, Decimal(content) if kind == "N" else content)


def _given(name: str, values: Item) -> dict[str, Any]:
    if name not in values:
        raise ApiError("ValidationException", f"{name} is neither an attribute of the item nor a value given")
    return values[name]
