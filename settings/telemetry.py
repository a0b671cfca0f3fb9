"""Reads OpenTelemetry's own environment variables (see "Environment Variables" in its specification)."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource


def is_exported(signal: Literal["TRACES", "METRICS"]) -> bool:
    """Return whether the environment names a collector for the signal and does not turn the signal off."""
    named = (os.environ.get(f"OTEL_EXPORTER_OTLP_{infix}ENDPOINT") for infix in ("", f"{signal}_"))
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return any(named) and not is_off and os.environ.get(f"OTEL_{signal}_EXPORTER") != "none"


def resource() -> Resource:
    """Return the attributes by which a collector identifies this process.

    Raises:
        ModuleNotFoundError: The extra `telemetry` is not installed.
    """
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 (an extra)

    # Every process needs its own id. Otherwise two processes would overwrite each other's metrics.
    name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "email-service")}
    return Resource.create({**name, "service.instance.id": str(uuid.uuid4())})
