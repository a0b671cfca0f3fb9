"""celery_sqs uses, overrides and replaces only those private names of other libraries that are on the list.

The list is celery_sqs/patches/names.py. test_kombu.py checks that each of its names exists.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import celery_sqs
from celery_sqs.patches import names
from tests.celery_sqs.test_kombu import LISTED, LISTED_NAMES, has, is_theirs, names_in_body, names_of_class

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = [found.name for found in pkgutil.walk_packages(celery_sqs.__path__, "celery_sqs.")]
SOURCES = {name: Path(inspect.getfile(importlib.import_module(name))).read_text() for name in MODULES}
SOURCES.pop(names.__name__)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def classes(module: str) -> Iterator[tuple[type, ast.ClassDef]]:
    for node in ast.parse(SOURCES[module]).body:
        if isinstance(node, ast.ClassDef):
            yield getattr(importlib.import_module(module), node.name), node


# The names in our classes that extend classes of other libraries. Our other modules use them, too.
EXTENSIONS = {
    name
    for module in SOURCES
    for extension, node in classes(module)
    if any(map(is_theirs, extension.__mro__))
    for name in names_of_class(node)
}


def foreign_names(source: str) -> set[str]:
    """Return the private names in the source that neither its module nor one of `EXTENSIONS` defines."""
    defined, used, imported = set(EXTENSIONS), set(), set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ClassDef(name):
                defined |= {name, *names_of_class(node)}
            case ast.FunctionDef(name) | ast.Name(name, ast.Store()):
                defined.add(name)
            case ast.Attribute(ast.Name(module), _) if module in sys.stdlib_module_names:
                pass
            case ast.Attribute(_, name):
                used.add(name)
            case ast.Call(ast.Name("getattr" | "hasattr" | "setattr"), [_, ast.Constant(str(name)), *_]):
                used.add(name)
            case ast.ImportFrom(module, names) if module != "__future__" and not str(module).startswith("celery_sqs"):
                from_private = any(map(is_private, str(module).split(".")))
                imported |= {each.name for each in names if from_private or is_private(each.name)}
    return imported | {name for name in used - defined if is_private(name)}


def replaced(source: str, namespace: dict[str, Any]) -> Iterator[tuple[object, str]]:
    """Yield what the source replaces in classes and modules of others, as in `Consumer.on_ready = ...`."""
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            place = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(place, ast.Attribute):
                try:
                    owner = eval(ast.unparse(place.value), namespace)
                except NameError:  # it is a local variable of a function
                    continue
                if (inspect.isclass(owner) or isinstance(owner, ModuleType)) and is_theirs(owner):
                    yield owner, place.attr


@pytest.mark.parametrize("module", SOURCES)
def test_a_private_name_of_another_library_is_listed(module: str) -> None:
    assert foreign_names(SOURCES[module]) - LISTED_NAMES == set()


@pytest.mark.parametrize("module", SOURCES)
def test_what_a_class_overrides_is_listed_as_overridden(module: str) -> None:
    unlisted = [
        f"{base.__module__}:{base.__name__}.{name}"
        for extension, node in classes(module)
        for name in names_in_body(node)
        for base in extension.__mro__[1:]
        if is_theirs(base) and name in vars(base)
        if not any((owner, name, True) in LISTED for owner in extension.__mro__[1:])
    ]
    assert unlisted == []


@pytest.mark.parametrize("module", SOURCES)
def test_no_attribute_of_ours_has_by_chance_the_name_of_one_of_theirs(module: str) -> None:
    taken = [
        f"{extension.__name__}.{name}"
        for extension, node in classes(module)
        for name in names_of_class(node) - LISTED_NAMES
        for base in extension.__mro__[1:]
        if is_theirs(base) and is_private(name) and has(base, name)
    ]
    assert taken == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_of_theirs_is_replaced_but_in_the_folder_of_patches_and_listed(module: str) -> None:
    found = list(replaced(SOURCES[module], vars(importlib.import_module(module))))
    assert module.startswith("celery_sqs.patches") or not found
    assert [each for each in found if (*each, True) not in LISTED] == []


def test_what_is_marked_as_changed_is_overridden_or_replaced() -> None:
    changed = {name for module in SOURCES for _, node in classes(module) for name in names_in_body(node)}
    for module, source in SOURCES.items():
        if module.startswith("celery_sqs.patches"):
            changed |= set(re.findall(r"\.(\w+)(?:\[.*\])? \+?= ", source))
    assert {name for _, name, is_changed in LISTED if is_changed} <= changed


def test_every_name_of_the_list_is_used() -> None:
    words = set(re.findall(r"\w+", "\n".join(SOURCES.values())))
    assert words >= LISTED_NAMES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("pool._pool", {"_pool"}),
        ("getattr(pool, '_pool', None)", {"_pool"}),
        ("pool._flush = None", {"_flush"}),
        ("from celery._state import current_app", {"current_app"}),
        ("from kombu.utils.url import _parse_url", {"_parse_url"}),
        ("class Ours(Theirs):\n def f(self): return self._theirs", {"_theirs"}),
        ("class Ours(Theirs):\n def f(self): self._ours = 1; return self._ours", set()),
        ("channel._new_boto_client", set()),
        ("import os\nos._exit(1)", set()),
        ("Theirs.__name__", set()),
    ],
)
def test_the_check_finds_private_names(source: str, found: set[str]) -> None:
    assert foreign_names(source) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("pkg.Patched.method = None", ["method"]),
        ("pkg.Patched.data['x'] = None", ["data"]),
        ("pkg.attribute = None", ["attribute"]),
        ("pkg.instance.attribute = None", []),
        ("variable.attribute = None", []),
    ],
)
def test_the_check_finds_replacements(source: str, found: list[str]) -> None:
    package = ModuleType("kombu.example")
    package.Patched = type("Patched", (), {"__module__": "kombu.example"})  # type: ignore[attr-defined]  # the attribute is new
    package.instance = package.Patched()  # type: ignore[attr-defined]  # the attribute is new
    assert [name for _, name in replaced(source, {"pkg": package})] == found
