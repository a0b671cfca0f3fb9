"""What a worker does before it consumes: says what it works on, and stops where that is missing."""

from __future__ import annotations

import logging
import math
import sys
from typing import Any

from celery.signals import celeryd_init

from emails.resources import ResourcesMissing, check_resources
from settings import SettingsError, get_settings

LEAST_PREFETCH = 20


@celeryd_init.connect
def prepare(conf: Any, options: dict[str, Any] | None = None, **_: Any) -> None:
    """Print the settings in one line, check queues and table, and prefetch at least 20 messages."""
    # At DEBUG it logs every request, and with it what is in the emails.
    logging.getLogger("botocore").setLevel(logging.INFO)
    settings = get_settings()
    print(settings, file=sys.stderr)  # noqa: T201 (no logging is set up yet)
    try:
        check_resources(settings)
    except ResourcesMissing as error:
        raise SettingsError(str(error)) from None
    concurrency = (options or {}).get("concurrency") or conf.worker_concurrency
    conf.worker_prefetch_multiplier = max(conf.worker_prefetch_multiplier, math.ceil(LEAST_PREFETCH / concurrency))
