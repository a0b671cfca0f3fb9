"""DynamoDB tables in memory, for the stand-in, with the actions that the bench needs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bench.errors import ApiError
from bench.expressions import holds, updated
from bench.statements import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.expressions import Item
    from bench.statements import Update

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

    def execute(self, update: Update, parameters: list[dict[str, Any]]) -> Item:
        """Make the update of a PartiQL statement, and return the item."""
        found = self._items.get(self._key(update.key(parameters)))
        if found is None or not update.holds(found, parameters):
            raise ApiError("ConditionalCheckFailed", "The conditional request failed")
        item = update.updated(found, parameters)
        self.put(item)
        return item

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
    """All tables, with counts of each action's requests, and of the updates in them."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.updates: Counter[str] = Counter()  # by table
        self._tables: dict[str, Table] = {}

    def answer(self, action: str, request: Request) -> Result:
        self.requests[action] += 1
        if action == "CreateTable":
            return self._create_table(request)
        if action == "BatchWriteItem":
            return self._batch_write_item(request)
        if action == "BatchGetItem":
            return self._batch_get_item(request)
        if action == "BatchExecuteStatement":
            return {"Responses": [self._execute(statement) for statement in request["Statements"]]}
        if action not in ACTIONS:
            raise ApiError("UnknownOperationException", f"the stand-in does not support {action}")
        result = ACTIONS[action](self._table(request["TableName"]), request)
        if action == "UpdateItem":
            self.updates[request["TableName"]] += 1
        return result

    def _create_table(self, request: Request) -> Result:
        name = request["TableName"]
        if name in self._tables:
            raise ApiError("ResourceInUseException", f"Table already exists: {name}")
        indexes = [index | {"IndexStatus": "ACTIVE"} for index in request.get("GlobalSecondaryIndexes", [])]
        description = {"TableName": name, "KeySchema": request["KeySchema"], "TableStatus": "ACTIVE"}
        self._tables[name] = Table(description | {"GlobalSecondaryIndexes": indexes})
        return {"TableDescription": self._tables[name].description}

    def _batch_write_item(self, request: Request) -> Result:
        for name, writes in request["RequestItems"].items():
            for write in writes:
                self._table(name).put(write["PutRequest"]["Item"])
        return {"UnprocessedItems": {}}

    def _batch_get_item(self, request: Request) -> Result:
        found: dict[str, list[Item]] = {}
        for name, wanted in request["RequestItems"].items():
            table = self._table(name)
            answers = [table.get_item({"Key": key}) for key in wanted["Keys"]]
            found[name] = [answer["Item"] for answer in answers if answer]
        return {"Responses": found, "UnprocessedKeys": {}}

    def _execute(self, statement: Request) -> Result:
        """Execute one statement of a batch. Its error is its own, and not the batch's."""
        try:
            update = parse(statement["Statement"])
            item = self._table(update.table).execute(update, statement["Parameters"])
        except ApiError as error:
            return {"Error": {"Code": error.code, "Message": error.message}}
        self.updates[update.table] += 1
        return {"TableName": update.table, **({"Item": item} if update.returns_item else {})}

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            raise ApiError("ResourceNotFoundException", f"Requested resource not found: Table: {name} not found")
        return self._tables[name]
