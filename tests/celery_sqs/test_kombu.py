"""The undocumented names that celery_sqs uses from kombu, Celery and other libraries still exist."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import sys
from functools import cache
from importlib.metadata import version
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery.events.event import EVENT_EXCHANGE_NAME
from celery.worker.control import Panel
from celery.worker.request import Request, create_request_cls
from kombu import compression as kombus_compression
from kombu.pidbox import Mailbox
from kombu.transport import SQS

from celery_sqs import compression
from celery_sqs.patches import celery as celery_patches
from celery_sqs.patches.names import NAMES, SEEN_IN

LISTED = [
    (pkgutil.resolve_name(entry.owner), name.lstrip("*"), name.startswith("*"))
    for entry in NAMES
    for name in entry.names.split()
]
LISTED_NAMES = {name for _, name, _ in LISTED}


def is_theirs(thing: Any) -> bool:
    module = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or ""
    return module.partition(".")[0] in SEEN_IN


def names_of_class(node: ast.ClassDef) -> set[str]:
    """Return the names that the class defines, including attributes that its methods set on `self`."""
    return names_in_body(node) | names_set(node, "self")


def names_set(node: ast.AST, *owners: str) -> set[str]:
    """Return the attributes that are set in the node, on these variables or, if none are given, on any object."""
    found = [each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)]
    return {each.attr for each in found if not owners or ast.unparse(each.value) in owners}


def names_in_body(node: ast.ClassDef) -> set[str]:
    found: set[str] = set()
    for each in node.body:
        match each:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                found.add(name)
            case ast.Assign(targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(ast.Name(name)):
                found.add(name)
    return {name for name in found if not name.startswith("__")}


@cache
def names_set_by(base: type) -> set[str]:
    """Return the attributes that the methods of a class set on any object."""
    tree = ast.parse(inspect.getsource(sys.modules[base.__module__]))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == base.__name__]
    return {name for node in found for name in names_set(node)}


def has(owner: object, name: str) -> bool:
    if hasattr(owner, name):
        return True
    return inspect.isclass(owner) and any(name in names_set_by(base) for base in owner.__mro__ if is_theirs(base))


def test_every_name_has_a_reason() -> None:
    assert [entry.owner for entry in NAMES if not (entry.names.strip() and entry.reason.strip())] == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, name, _ in LISTED],
    ids=[f"{owner.__name__}.{name}" for owner, name, _ in LISTED],
)
def test_every_name_of_the_list_is_there(owner: object, name: str) -> None:
    assert has(owner, name)


def test_the_versions_are_those_in_which_the_names_were_seen() -> None:
    assert {library: version(library).rsplit(".", 1)[0] for library in SEEN_IN} == SEEN_IN


def test_the_signatures_that_are_overridden_are_as_they_were() -> None:
    signatures = {
        SQS.Channel._handle_sts_session: "(self, queue: 'str', q)",
        SQS.Channel._put: "(self, queue, message, **kwargs)",
        SQS.Channel._update_queue_cache: "(self, queue_name_prefix)",
        SQS.Channel._resolve_queue_url: "(self, queue)",
        SQS.Channel._envelope_payload: "(self, payload, raw_text, message, q_url)",
        SQS.Channel._prepare_json_payload: "(self, text)",
        celery_patches._celerys_on_decode_error: "(self, message, exc)",
        celery_patches._celerys_on_unknown_message: "(self, body, message)",
        Request.execute_using_pool: "(self, pool: celery.concurrency.base.BasePool, **kwargs)",
        Request.on_accepted: "(self, pid, time_accepted)",
        Request.reject: "(self, requeue=False)",
        Request.on_failure: "(self, exc_info, send_failed_event=True, return_ok=False)",
    }
    assert {method: str(inspect.signature(method)) for method in signatures} == signatures


def test_every_method_of_kombus_is_one_that_we_bound() -> None:
    assert set(kombus_compression._decoders.values()) == set(compression._BOUNDED)


def test_the_class_that_celery_derives_for_each_task_overrides_what_it_did() -> None:
    task, pool = (
        SimpleNamespace(time_limit=None, soft_time_limit=None, acks_late=True),
        SimpleNamespace(apply_async=None),
    )
    derived = create_request_cls(Request, task, pool, "host", None, app=SimpleNamespace(use_fast_trace_task=True))
    assert derived.__module__ == Request.__module__
    assert {"execute_using_pool", "on_success"} == {name for name in vars(derived) if not name.startswith("__")}


def test_the_commands_that_are_answered_otherwise_are_there() -> None:
    assert {"pool_grow", "pool_shrink", "autoscale", "time_limit", "terminate", "revoke"} <= Panel.data.keys()


def test_the_names_of_the_exchanges_are_as_they_were() -> None:
    assert (EVENT_EXCHANGE_NAME, Mailbox.exchange_fmt) == ("celeryev", "%s.pidbox")
    assert Mailbox.reply_exchange_fmt == "reply.%s.pidbox"
