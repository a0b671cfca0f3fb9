"""The command that finds emails that have lost their message."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
from rich.console import Console

from commands import read_units_option, say, say_json
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.store import EmailStore
from emails.sweep import Report, Sweep, WrongPosition
from settings import get_settings


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done, and write nothing.")
@read_units_option
@click.option(
    "--position",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".sweep"),
    show_default=True,
    help="The file in which an interrupted sweep saves its position, to continue from there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
def sweep(dry_run: bool, read_units: float, position: Path, as_json: bool) -> None:
    """Enqueue Pending emails that have lost their message, and end claims that expired long ago.

    The command scans the whole table at a limited rate. A Pending email counts as lost if it is not scheduled and its
    row has not changed for EMAIL_SWEEP_AFTER seconds. If a row has no UpdatedAt yet, it gets one, and a later sweep
    looks at it again. If no worker would accept a row's EmailId, the row becomes Failed. The command can run from cron,
    and two at once do nothing twice.

    \b
    Examples:
      email-service sweep --dry-run
      email-service sweep --read-units 50 --json
    """  # noqa: D301 (click looks for the control character, not for a backslash)
    settings = get_settings()
    store = EmailStore.from_settings(settings)
    queue = find_raw_queue(settings)
    work = Sweep(store, partial(enqueue_ids, queue), settings.sweep_after, dry_run=dry_run)
    report = work.report
    try:
        with Console(stderr=True).status(f"sweeping: {_sentence(report)}") as status:
            work.run(read_units, position, lambda so_far: status.update(f"sweeping: {_sentence(so_far)}"))
    except WrongPosition as error:
        raise click.ClickException(str(error)) from None
    except BaseException:  # say how far it got, even if it is interrupted
        say(f"stopped after it {'would have ' * dry_run}{_sentence(report)}", err=True)
        raise
    if as_json:
        say_json({"DryRun": dry_run, **_counts(report), "Failed": report.failed})
    else:
        say("would have " * dry_run + _sentence(report))
    if report.failed:
        named = ", ".join(f"{email_id} ({reason})" for email_id, reason in sorted(report.failed.items())[:20])
        raise click.ClickException(f"{len(report.failed)} failed; a later sweep tries them again: {named}")


def _counts(report: Report) -> dict[str, object]:
    return {
        "Enqueued": report.enqueued,
        "MarkedUnknown": report.abandoned,
        "MarkedFailed": report.discarded,
        "FoundFirstTime": report.first_seen,
        "ReadUnits": report.read_units,
    }


def _sentence(report: Report) -> str:
    return (
        f"enqueued {report.enqueued}, marked {report.abandoned} as Unknown and {report.discarded} as Failed,"
        f" found {report.first_seen} for the first time; {report.read_units:g} read units"
    )
