"""DynamoDB tables in memory, for the stand-in, with the actions that the bench needs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bench.errors import ApiError
from bench.expressions import holds, updated

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.expressions import Item

Request = dict[str, Any]
Result = dict[str, Any]


class Table:
    """A table, which finds its items by the type and value of each key attribute."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self._items: dict[tuple[Any, ...], Item] = {}

    def get_item(self, request: Request) -> Result:
        item = self._items.get(self._key(request["Key"]))
        return {} if item is None else {"Item": item}

    def put_item(self, request: Request) -> Result:
        self._check(request["Item"], request)
        self.put(request["Item"])
        return {}

    def update_item(self, request: Request) -> Result:
        found = self._check(request["Key"], request) or request["Key"]
        item = updated(request["UpdateExpression"], found, request.get("ExpressionAttributeValues", {}))
        self.put(item)
        return {"Attributes": item} if request.get("ReturnValues") == "ALL_NEW" else {}

    def put(self, item: Item) -> None:
        self._items[self._key(item)] = item

    def _key(self, item: Item) -> tuple[Any, ...]:
        return tuple(next(iter(item[schema["AttributeName"]].items())) for schema in self.description["KeySchema"])

    def _check(self, key: Item, request: Request) -> Item:
        """Return the item with this key, or raise an ApiError if the request's condition is false for it."""
        item = self._items.get(self._key(key), {})
        condition = request.get("ConditionExpression")
        if condition and not holds(condition, item, request.get("ExpressionAttributeValues", {})):
            wanted = item and request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
            members = {"Item": item} if wanted else {}
            raise ApiError("ConditionalCheckFailedException", "The conditional request failed", **members)
        return item


ACTIONS: dict[str, Callable[[Table, Request], Result]] = {
    "DescribeTable": lambda table, _: {"Table": table.description},
    "DescribeTimeToLive": lambda _, __: {
        "TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED"}
    },  # nothing lives long enough to expire
    "GetItem": Table.get_item,
    "PutItem": Table.put_item,
    "UpdateItem": Table.update_item,
}


class Tables:
    """All tables, with counts of each action's requests."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self._tables: dict[str, Table] = {}

    def answer(self, action: str, request: Request) -> Result:
        self.requests[action] += 1
        if action == "CreateTable":
            return self._create_table(request)
        if action == "BatchWriteItem":
            return self._batch_write_item(request)
        if action not in ACTIONS:
            raise ApiError("UnknownOperationException", f"the stand-in does not support {action}")
        return ACTIONS[action](self._table(request["TableName"]), request)

    def _create_table(self, request: Request) -> Result:
        name = request["TableName"]
        if name in self._tables:
            raise ApiError("ResourceInUseException", f"Table already exists: {name}")
        self._tables[name] = Table({"TableName": name, "KeySchema": request["KeySchema"], "TableStatus": "ACTIVE"})
        return {"TableDescription": self._tables[name].description}

    def _batch_write_item(self, request: Request) -> Result:
        for name, writes in request["RequestItems"].items():
            for write in writes:
                self._table(name).put(write["PutRequest"]["Item"])
        return {"UnprocessedItems": {}}

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            raise ApiError("ResourceNotFoundException", f"Requested resource not found: Table: {name} not found")
        return self._tables[name]
