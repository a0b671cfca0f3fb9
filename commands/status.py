"""The command that shows what became of an email."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from commands import say, say_json
from emails.hints import hint
from emails.pause import StagePause
from emails.report import event_report, report
from emails.store import EmailStore, EventStore
from settings import get_settings

if TYPE_CHECKING:
    from settings import Settings


@click.command()
@click.argument("email_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
def status(email_id: str | None, as_json: bool) -> None:
    """Show what became of the email ID, and what providers reported about its recipients.

    Without an ID, show whether the stage is paused.

    The email's content is not shown.
    """
    settings = get_settings()
    if email_id is None:
        _say_pause(settings, as_json=as_json)
        return
    row = EmailStore.from_settings(settings).get(email_id)
    if row is None:
        raise click.ClickException(no_row(email_id, settings))
    shown = report(email_id, row)
    events = [event_report(item) for item in EventStore.from_settings(settings).of(email_id)]
    if as_json:
        say_json(shown | {"Events": events})
        return
    width = max(map(len, shown))
    for name, value in shown.items():
        say(f"{name:<{width}}  {value}")
    for event in events:
        say(_sentence(event))


def _say_pause(settings: Settings, *, as_json: bool) -> None:
    pause = StagePause.from_settings(settings).read()
    if as_json:
        names = {"Since": pause.since, "By": pause.by, "Reason": pause.reason} if pause else {}
        say_json({"Paused": pause is not None} | names)
    else:
        say(f"The stage {settings.stage} is {pause or 'not paused'}")


def no_row(email_id: str, settings: Settings) -> str:
    """Return the text for a person who asks for an email without a row."""
    command = hint("send", "FILE")
    return (
        f"{email_id} has no row in {settings.table}. To write and enqueue one: {command}, where FILE is JSON like"
        " examples/email.json with this EmailId."
    )


def _sentence(event: dict[str, object]) -> str:
    what = f"{event.get('EventType')}{'' if event.get('Permanent', True) else ' (temporary)'}"
    recipient = event.get("Recipient", "no recipient named")
    words = [event.get("OccurredAt"), recipient, what, event.get("RejectReason"), event.get("Description")]
    return "  ".join(str(word) for word in (*words, event.get("Diagnostic")) if word)
