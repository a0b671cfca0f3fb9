"""The Emails tab and the page of an email."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from tornado import web

from emails import operate
from emails.message import InvalidMessage, check_email_id
from emails.raw_queue import find_raw_queue
from emails.report import event_report, masked, report
from emails.status import EmailStatus
from emails.store import IndexMissing
from emails.store.attention import Tally
from settings import get_settings
from tasks.flower import seen
from tasks.flower.page import Page, Unavailable, services

if TYPE_CHECKING:
    from emails.store import Entry, Row
    from tasks.flower.seen import Seen

ON_A_PAGE = 25
MOST_COUNTED = 5000  # emails that need a person; the newest ones are read, and the others are not counted
REASONS = 10
NO_INDEX = "The table has no index of the emails that need a person. To add it: email-service provision --backfill"
BADGES = {
    EmailStatus.FAILED: "text-bg-danger",
    EmailStatus.UNKNOWN: "text-bg-danger",
    EmailStatus.BOUNCED: "text-bg-warning",
    EmailStatus.COMPLAINED: "text-bg-warning",
    EmailStatus.SENT: "text-bg-success",
    EmailStatus.DELIVERED: "text-bg-success",
}


@dataclass
class Attention:
    """The emails that need a person: one page of them, and the counts."""

    entries: list[Entry]
    by_status: Counter[str]
    tally: Tally
    more: bool  # there are more than are counted

    @property
    def reasons(self) -> list[tuple[str, int]]:
        return self.tally.by_reason.most_common(REASONS)


class SeenRow(NamedTuple):
    """An email that Flower has seen, and what is shown of its row: None if there is none or it was not read."""

    seen: Seen
    row: dict[str, object] | None


class EmailsPage(Page):
    """The Emails tab: first the emails that need a person, then those that Flower has seen."""

    @web.authenticated
    async def get(self) -> None:
        page, seen_page, reason = self.number("page"), self.number("seen"), self.text("reason")
        tasks = list(self.application.events.state.tasks.data.values())
        attention, recent = await asyncio.gather(self._attention(reason, page), self._recent(tasks, seen_page))
        (needing, no_attention), (found, count, no_rows) = attention, recent
        self.show(
            "emails.html",
            attention=needing,
            no_attention=no_attention,
            page=page,
            reason=reason,
            recent=found,
            seen_count=count,
            no_rows=no_rows,
            seen_page=seen_page,
            most=MOST_COUNTED,
            size=ON_A_PAGE,
            badge=badge,
            moment=moment,
            outcome_of=seen.outcome_of,
        )

    async def _attention(self, reason: str, page: int) -> tuple[Attention | None, str]:
        try:
            return await self.ask(read_attention, reason, page), ""
        except Unavailable as error:
            return None, str(error)

    async def _recent(self, tasks: list[Any], page: int) -> tuple[list[SeenRow], int, str]:
        emails = await self.ask(seen.newest, tasks)
        shown = emails[(page - 1) * ON_A_PAGE : page * ON_A_PAGE]
        try:
            rows = await self.ask(read_rows, [each.email_id for each in shown]) if shown else {}
        except Unavailable as error:
            return [SeenRow(each, None) for each in shown], len(emails), str(error)
        return [SeenRow(each, rows.get(each.email_id)) for each in shown], len(emails), ""


class EmailPage(Page):
    """The page of an email, which is read from DynamoDB."""

    @web.authenticated
    async def get(self) -> None:
        await self._show(self.text("id"))

    @web.authenticated
    async def post(self) -> None:
        email_id, action = self.text("id"), self.text("action")
        if action not in ACTIONS:
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, "There is no such action")
        try:
            done, refused = await self.ask(ACTIONS[action], email_id), ""
        except (operate.Refused, Unavailable) as error:
            done, refused = "", str(error)
        await self._show(email_id, done=done, refused=refused)

    async def _show(self, email_id: str, *, done: str = "", refused: str = "") -> None:
        found: dict[str, object] = {}
        history: list[dict[str, object]] = []
        try:
            email_id, row, items = await self.ask(read_email, email_id)
            if row is not None:
                found, history = masked(report(email_id, row)), [masked(event_report(item)) for item in items]
            else:
                self.set_status(HTTPStatus.NOT_FOUND)
                refused = refused or f"{email_id} has no row in {get_settings().table}."
        except InvalidMessage as error:
            self.set_status(HTTPStatus.NOT_FOUND)
            refused = f"This is not the id of an email: {error.detail}."
        except Unavailable as error:
            self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
            refused = refused or str(error)
        tasks = list(self.application.events.state.tasks.data.values())
        self.show(
            "email.html",
            email_id=email_id,
            report=found,
            status=found.get("EmailStatus"),
            history=history,
            tasks=await self.ask(seen.tasks_of, email_id, tasks),
            done=done,
            refused=refused,
            badge=badge,
            moment=moment,
            outcome_of=seen.outcome_of,
        )


def read_attention(reason: str, page: int) -> Attention:
    entries = services().attention.newest(reason=reason)
    found = Attention([], Counter(), Tally(), more=False)
    try:
        for number, entry in enumerate(islice(entries, MOST_COUNTED + 1)):
            if number == MOST_COUNTED:
                found.more = True
                break
            found.tally.add(entry.reason)
            found.by_status[str(entry.status)] += 1
            if (page - 1) * ON_A_PAGE <= number < page * ON_A_PAGE:
                found.entries.append(entry)
    except IndexMissing:
        raise Unavailable(NO_INDEX) from None
    return found


def read_rows(email_ids: list[str]) -> dict[str, dict[str, object]]:
    rows = services().store.summaries(email_ids)
    return {email_id: masked(report(email_id, row)) for email_id, row in rows.items()}


def read_email(text: str) -> tuple[str, Row | None, list[Row]]:
    """Return the id, the row and the history of the email that the text names. People paste ids with spaces."""
    stripped = check_email_id(text.strip())
    for email_id in (text, stripped) if text.isprintable() else (stripped,):
        if (row := services().store.get(check_email_id(email_id))) is not None:
            return email_id, row, services().events.of(email_id)
    return stripped, None, []


def cancel(email_id: str) -> str:
    return operate.cancel(services().store, email_id)


def mark_sent(email_id: str) -> str:
    return operate.mark_sent(services().store, email_id)


def resend(email_id: str) -> str:
    return operate.resend(services().store, find_raw_queue(get_settings()), email_id)


ACTIONS = {"cancel": cancel, "sent": mark_sent, "resend": resend}


def badge(status: object) -> str:
    """Return the class of a status's badge."""
    return BADGES.get(status, "text-bg-secondary")  # type: ignore[call-overload, no-any-return]  # any text is looked up


def moment(seconds: float) -> str:
    """Return a time in UTC, or "" if there is none."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds else ""
    except (ValueError, OverflowError, OSError):
        return ""
