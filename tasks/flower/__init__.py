"""Pages about emails in Flower: the tabs Emails and Dead letters, and the page of an email."""

from __future__ import annotations

from flower.options import options
from tornado.web import url

import celery_sqs.flower
from tasks.flower.dead_letters import DeadLettersPage
from tasks.flower.emails import EmailPage, EmailsPage

# The result says how the email's step ended, and `args` has the email's id.
COLUMNS = "name,args,result,state,uuid,received,runtime,worker"


def install() -> None:
    """Prepare Flower. Call this once in the process, before Flower reads its options."""
    celery_sqs.flower.install()
    options.tasks_columns = COLUMNS
    routes = [
        url(r"/emails", EmailsPage, name="emails"),
        url(r"/email", EmailPage, name="email"),
        url(r"/dead-letters", DeadLettersPage, name="dead-letters"),
    ]
    celery_sqs.flower.add_pages(routes, {"emails": "Emails", "dead-letters": "Dead letters"})
