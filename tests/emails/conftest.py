from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emails.store import EmailStore


@pytest.fixture(scope="module", autouse=True)
def _one_session_for_all() -> Iterator[None]:
    """Share one boto3 session. A new one reads AWS's service models again, which takes longer than most tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("boto3.Session", cache(boto3.Session))
        yield


@pytest.fixture
def no_backoff_of_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))


def land(store: EmailStore, request: Any) -> None:
    """Send DynamoDB a request that was lost."""
    client: Any = store._client
    client._endpoint.http_session.send(request)


@pytest.fixture
def lose_the_answer(no_backoff_of_botocore: None) -> Iterator[Callable[..., list[Any]]]:
    """Return a function that lets DynamoDB take the next write but loses its answer, so that botocore retries.

    It returns the requests whose answers were lost. With `late`, DynamoDB does not get them either, until `land` sends
    one of them.
    """
    events = ["before-send.dynamodb.UpdateItem", "before-send.dynamodb.BatchExecuteStatement"]
    registered: list[tuple[Any, Callable[..., None]]] = []

    def lose(store: EmailStore, times: int = 1, *, late: bool = False) -> list[Any]:
        client: Any = store._client
        taken: list[Any] = []

        def send_and_lose(request: Any, **_: Any) -> None:
            if len(taken) < times:
                taken.append(request)
                if not late:
                    land(store, request)
                raise ReadTimeoutError(endpoint_url=request.url)

        for event in events:
            client.meta.events.register(event, send_and_lose)
        registered.append((client, send_and_lose))
        return taken

    yield lose
    for client, handler in registered:
        for event in events:
            client.meta.events.unregister(event, handler)
