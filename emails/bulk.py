"""Resolves many emails, in batches, so that it can be interrupted and repeated."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from emails.message import InvalidMessage, check_email_id
from emails.raw_queue import enqueue_ids
from emails.status import EmailStatus, status_of
from emails.store import Conflict, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore

# If the process is killed, at most so many emails are Pending without a message, until a sweep finds them.
BATCH = 50
THREADS = 8


@dataclass(frozen=True)
class Result:
    """What became of an email: it was resolved if there is no `why`. It `failed` if it should be tried again."""

    email_id: str
    why: str = ""
    failed: bool = False


def resolve_all(
    store: EmailStore,
    queue: Queue,
    emails: Iterable[tuple[str, EmailStatus]],
    *,
    resend: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Resolve each email as sent, or send it again, if it still has the status that is given with it.

    It ends early if `stopped` says so after a batch, or if everything in a batch fails.
    """
    emails = iter(emails)
    with ThreadPoolExecutor(THREADS) as pool:
        while not stopped() and (batch := list(islice(emails, BATCH))):
            results = list(pool.map(partial(_resolve, store, resend), batch))
            # If DynamoDB gave no answer, the email may be Pending now. If it is not, its message does nothing.
            to_send = [result.email_id for result in results if result.failed or not result.why] if resend else []
            refused = enqueue_ids(queue, to_send)
            for result in results:
                if code := refused.get(result.email_id):
                    yield replace(result, why=f"SQS did not accept its message: {code}", failed=True)
                else:
                    yield result
            if all(result.failed for result in results):
                return


def _resolve(store: EmailStore, resend: bool, email: tuple[str, EmailStatus]) -> Result:
    email_id, status = email
    try:
        if resend:
            check_email_id(email_id)
            store.resend(email_id, {status})
        else:
            store.resolve_sent(email_id, {status})
    except InvalidMessage as error:
        return Result(email_id, f"no worker would take it: {error.detail}")
    except Conflict as conflict:
        if conflict.row is None:
            return Result(email_id, "it has no row")
        found = status_of(conflict.row)
        if resend and found == EmailStatus.PENDING:  # this or another command has just done it; a message does no harm
            return Result(email_id)
        return Result(email_id, f"it is {found or 'without a status'} now")
    except (StoreUnavailable, StoreRefused) as error:
        return Result(email_id, str(error), failed=True)
    return Result(email_id)
