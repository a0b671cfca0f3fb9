"""Says which rows a request to DynamoDB updates, whether it has one update or a group of them."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

ASSIGNED = re.compile(r'"(\w+)" = \?')


class Update(NamedTuple):
    """An update of a row. If it makes a claim, it has the claim's id."""

    email_id: str
    claim_id: str | None


def updates_in(action: str, body: bytes) -> list[Update]:
    """Return the updates of the emails' table in the request."""
    if action not in ("UpdateItem", "BatchExecuteStatement"):
        return []
    request = json.loads(body)
    if action == "UpdateItem":
        claim = request.get("ExpressionAttributeValues", {}).get(":new_ClaimedBy", {}).get("S")
        return [Update(request["Key"]["EmailId"]["S"], claim)]
    updates = []
    for each in request["Statements"]:
        assigned, _, condition = each["Statement"].partition(" WHERE ")
        names = ASSIGNED.findall(assigned)
        conditions = dict(zip(ASSIGNED.findall(condition), each["Parameters"][len(names) :], strict=True))
        values = dict(zip(names, each["Parameters"], strict=False))
        updates.append(Update(conditions["EmailId"]["S"], values.get("ClaimedBy", {}).get("S")))
    return updates
