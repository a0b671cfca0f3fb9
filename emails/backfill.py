"""Puts the emails that need a person into the index if they got their status before their table had it.

It also corrects the rows whose attributes for the index are not those of their status, as workers of an older version
leave them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emails.store import Attention, Conflict
from emails.store.attention import FOR_CORRECTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from emails.store import EmailStore


@dataclass
class Report:
    """How many rows were looked at and corrected, and the read units that it took."""

    found: int = 0
    corrected: int = 0
    read_units: float = 0


def backfill(
    store: EmailStore, attention: Attention, read_units_per_second: float, progress: Callable[[Report], object]
) -> Report:
    """Scan the table, and correct each row that needs it. It may be interrupted and repeated at any time."""
    report = Report()
    for rows, units in store.scan(FOR_CORRECTION, read_units_per_second):
        report.read_units += units
        for row in rows:
            report.found += 1
            report.corrected += _correct(attention, row)
        progress(report)
    return report


def _correct(attention: Attention, row: dict[str, object]) -> bool:
    try:
        return attention.correct(row)
    except Conflict:  # a worker has just changed the row, and with it the attributes
        return False
