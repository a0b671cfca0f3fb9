"""Checks that no email is lost or sent twice: `python -m tests.support.chaos --seed 7 --emails 2000`.

Emails go through workers that are killed and restarted, over connections to SQS, DynamoDB and an SMTP server that fail.
Then the judge reads the rows, the queues, the provider's file, and which workers were killed while they held which
emails. It never reads a log. The seed decides the faults, the kills and the provider's answers. How threads and
processes interleave is still left to chance.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console
from rich.table import Table

from commands.emulator import running_emulator
from tests.conftest import free_port
from tests.support.chaos_judge import UNKNOWN_IS_EXPLAINED, judge, why_unknown
from tests.support.chaos_run import Chaos


def report(chaos: Chaos, verdict: dict[str, list[str]], seed: int, emails: int) -> Table:
    story = chaos.story
    table = Table(title=f"chaos, seed {seed}, {emails} emails", caption=f"make chaos SEED={seed} EMAILS={emails}")
    table.add_column()
    table.add_column(overflow="fold")
    kinds = Counter(str(row["EmailStatus"]) for row in story.rows.values())
    for name, counts in (
        ("rows", kinds),
        ("Unknown because", Counter(why or "?" for _, why in why_unknown(story))),
        ("resolved by the operator", {"resent": story.resent.total(), "marked sent": len(story.marked_sent)}),
        ("the provider", sum(story.provider.values(), Counter())),
        ("accepted under faults", {"": chaos.accepted_under_faults}),
        ("workers started", chaos.started),
        ("workers killed", chaos.signals),
        ("workers that gave up by themselves", {"": chaos.gave_up}),
        ("raw messages sent twice", {"": chaos.duplicates}),
        ("faults of AWS", chaos.faults),
        ("calls of remote control", Counter((chaos.folder / "calls").read_text().split())),
        ("corrected by the backfill", {"": chaos.backfilled}),
        ("seconds", chaos.seconds),
        ("dead letters", Counter(letter.reason for letter in story.letters)),
    ):
        table.add_row(name, ", ".join(f"{count} {kind}".strip() for kind, count in sorted(counts.items())))
    table.add_section()
    for promise, violations in verdict.items():
        table.add_row(
            promise, "\n".join(violations[:20]) if violations else "yes", style="red" if violations else "green"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--emails", type=int, default=2000)
    parser.add_argument("--pool", default="threads", choices=["threads", "gevent", "processes"])
    parser.add_argument(
        "--beside",
        type=lambda path: Path(path).resolve(),
        help="a checkout of another version with its .venv: this version's workers replace its workers one by one,"
        " and are then replaced by them again",
    )
    parser.add_argument("--no-hand-off", action="store_true", help="each task's message goes through SQS")
    parser.add_argument("--fail-over", action="store_true", help="a first provider in trouble, and a second one")
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="chaos-"))
    with running_emulator(free_port()) as url:
        chaos = Chaos(url, folder, options.seed, pool=options.pool, beside=options.beside, fail_over=options.fail_over)
        environment = {"CHAOS_NO_HAND_OFF": "1"} if options.no_hand_off else {}
        verdict = judge(chaos.run(options.emails, **environment))
    if options.beside:  # the other version's workers may write another journal, and its own tests judge them
        del verdict[UNKNOWN_IS_EXPLAINED]
    console = Console()
    console.print(report(chaos, verdict, options.seed, options.emails))
    console.print(f"What the judge read, and the workers' log: {folder}")
    sys.exit(any(verdict.values()))


if __name__ == "__main__":
    main()
