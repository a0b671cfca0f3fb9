"""When OpenTelemetry's own environment variables ask for an export."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest

from settings.telemetry import is_exported

ALL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
TRACES = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}


@pytest.mark.parametrize(
    ("environment", "traces", "metrics"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False, False),
        (ALL, True, True),
        (TRACES, True, False),
        (ALL | {"OTEL_METRICS_EXPORTER": "none"}, True, False),
        (ALL | {"OTEL_SDK_DISABLED": "True"}, False, False),
        (ALL | {"OTEL_SDK_DISABLED": "false"}, True, True),
    ],
)
def test_a_signal_is_exported_to_the_collector_that_is_named_for_it(
    environment: dict[str, str], traces: bool, metrics: bool
) -> None:
    with patch.dict(os.environ, environment, clear=True):
        assert (is_exported("TRACES"), is_exported("METRICS")) == (traces, metrics)
