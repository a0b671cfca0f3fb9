"""Pages that a project adds to Flower, and our changes to the templates of Flower's own pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flower.options import options
from tornado.template import Loader as FileLoader
from tornado.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tornado.routing import URLSpec

TABS = """{% for tab, label in handler.application.tabs.items() %}
        <li class="nav-item">
          <a class="nav-link{% if active_tab == tab %} active{% end %}" href="{{ reverse_url(tab) }}"
            {% if active_tab == tab %}aria-current="page"{% end %}>{{ label }}</a>
        </li>
        {% end %}"""
OBSTACLE = """{% set obstacle = handler.application.why_not_resize(worker, is_open=handler.unauthenticated_api) %}
          {% if obstacle %}<p class="small text-body-secondary mb-0" id="why-not-resize">{{ obstacle }}</p>{% end %}"""
LAST_CONTROL = """type="button">Apply</button>
                      </div>
                    </div>
"""
# What is replaced in each of Flower's templates, and by what.
CHANGES: dict[str, dict[str, str]] = {
    "navbar.html": {">Broker</a>\n        </li>": f">Broker</a>\n        </li>\n        {TABS}"},
    "worker.html": {
        '<form class="worker-controls-form">': (
            f'<form class="worker-controls-form">{OBSTACLE}<fieldset {{% if obstacle %}}disabled{{% end %}}>'
        ),
        LAST_CONTROL: f"{LAST_CONTROL}</fieldset>",
    },
}


class Pages(NamedTuple):
    """Pages to add. `tabs` has the label of each route that gets a tab, by the route's name."""

    routes: list[URLSpec]
    tabs: Mapping[str, str]


def asks_for_password() -> bool:
    """Whether Flower has authentication."""
    return any(options.basic_auth or ()) or bool(options.auth)  # basic_auth is [""] if its variable is set but empty


class Loader(FileLoader):
    """Loads Flower's templates with our changes."""

    def _create_template(self, name: str) -> Template:
        source = Path(self.root, name).read_text(encoding="utf-8")
        for old, new in CHANGES.get(name, {}).items():
            if source.count(old) != 1:
                raise LookupError(f"Flower's template {name} is not the one that celery_sqs changes")
            source = source.replace(old, new)
        return Template(source, name=name, loader=self)
