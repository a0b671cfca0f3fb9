"""What OpenTelemetry's own environment says: no setting of ours (its specification, "Environment Variables")."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource


def is_exported(signal: Literal["TRACES", "METRICS"]) -> bool:
    """Whether the environment names a collector for the signal, and does not turn it off."""
    named = (os.environ.get(f"OTEL_EXPORTER_OTLP_{infix}ENDPOINT") for infix in ("", f"{signal}_"))
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return any(named) and not is_off and os.environ.get(f"OTEL_{signal}_EXPORTER") != "none"


def resource() -> Resource:
    """This process, as a collector knows it. Raises ModuleNotFoundError without the extra `telemetry`."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 (an extra)

    # Two processes' metrics are two series: without an id of its own each would overwrite the other's.
    name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "email-service")}
    return Resource.create({**name, "service.instance.id": str(uuid.uuid4())})
