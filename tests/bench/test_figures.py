"""Medians, targets, and the text that is written about them."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.chart import chart
from bench.contenders import COMMANDS, CONTENDERS, WORKER
from bench.figures import Target, as_document, as_json, billed, latency, machine, summary, tables, targets, versions
from bench.running import ROOT, Measured


def measured(seconds: float = 1, requests: int = 50) -> Measured:
    return Measured(
        emails=100,
        seconds=seconds,
        sqs={"ReceiveMessage": requests, "SendMessageBatch": 20},
        sqs_units={"ReceiveMessage": requests, "SendMessageBatch": 40},
        dynamodb={"GetItem": 100, "UpdateItem": 200},
        cpu_seconds=0.5,
        peak_rss_bytes=100 * 2**20,
    )


@pytest.fixture
def result() -> dict[str, Any]:
    runs = {name: summary([measured()]) for name in CONTENDERS}
    units = {name: billed([measured()]) for name in CONTENDERS}
    single = latency([0.01 * number for number in range(1, 31)])
    return {
        "machine": machine(),
        "versions": versions(),
        "repeats": 3,
        "runs": runs,
        "billed": units,
        "large_rows": {"runs": runs, "billed": units},
        "latency": dict.fromkeys(("stock-threads", "chain-by-sqs", "chain-threads"), single),
        "added_latency_ms": 5.0,
        "added_latency": dict.fromkeys(("stock-threads", "chain-by-sqs", "chain-threads"), single),
        "idle": {"stock-threads": 20.0, "chain-threads": 8.0, "worker": 11.0},
        "drain": {"chain-threads": {"seconds": 40.0, **runs["chain-threads"]}},
        "long_drain": [{"emails": 5000, "rss_mb": 100.0}, {"emails": 10_000, "rss_mb": 104.0}],
    }


def test_each_number_is_a_median_with_its_least_and_most_beside_it() -> None:
    one = summary([measured(2, 50), measured(1, 80), measured(4, 60)])
    assert one == {
        "emails": 100,
        "sqs_requests": 0.8,
        "sqs_requests_min": 0.7,
        "sqs_requests_max": 1.0,
        "sqs_by_action": {
            "ReceiveMessage": 0.6,
            "ReceiveMessage_min": 0.5,
            "ReceiveMessage_max": 0.8,
            "SendMessageBatch": 0.2,
            "SendMessageBatch_min": 0.2,
            "SendMessageBatch_max": 0.2,
        },
        "dynamodb_requests": 3,
        "dynamodb_requests_min": 3,
        "dynamodb_requests_max": 3,
        "cpu_ms": 5,
        "cpu_ms_min": 5,
        "cpu_ms_max": 5,
        "emails_per_s": 50,
        "emails_per_s_min": 25,
        "emails_per_s_max": 100,
        "rss_mb": 100,
        "rss_mb_min": 100,
        "rss_mb_max": 100,
    }
    assert billed([measured()])["sqs_units"] == 0.9


def test_a_latency_is_its_median_and_what_all_but_one_in_twenty_keep() -> None:
    assert latency([0.01] * 90 + [1.0] * 10) == {"emails": 100, "p50_ms": 10, "p95_ms": 1000}


@pytest.mark.parametrize(
    ("value", "at_least", "met"), [(3, True, True), (2.9, True, False), (3, False, True), (3.1, False, False)]
)
def test_a_target_says_whether_it_is_met(value: float, at_least: bool, met: bool) -> None:
    target = Target("emails/s", value, 3, at_least)
    assert target.is_met is met
    assert str(target).startswith("met" if met else "MISSED")


def test_the_targets_compare_with_others_in_the_same_run(result: dict[str, Any]) -> None:
    result["runs"] |= {
        "stock-threads": summary([measured(8)]),
        "chain-threads": summary([measured(1, 1), measured(2, 1), measured(2, 1)]),
    }
    result["latency"]["chain-threads"] = latency([1.0] * 30)
    found = {target.what: target for target in targets(result)}
    assert [what for what, target in found.items() if target.is_met] == [
        "SQS requests an email",
        "CPU of an email of 100 KB ÷ chain-by-sqs",
        "CPU of chain-gevent ÷ chain-by-sqs",
        "p50 of a single email, ms, with 5 ms added",
        "SQS requests a minute of an idle worker with all its queues",
        "peak memory after 10000 emails ÷ after 5000",
    ]
    assert str(found["emails/s ÷ stock-threads"]).endswith("4.00 ≥ 8.00 (comparing the best turns: 8.00)")


def test_the_idle_figure_is_of_the_worker_that_people_run(result: dict[str, Any]) -> None:
    (command,) = COMMANDS[WORKER]
    assert command.startswith("celery -A tasks worker ")
    assert "--queues" not in command
    assert "| worker | 11.0 |" in as_document(result, [])


def test_what_is_written_names_every_contender(result: dict[str, Any]) -> None:
    document = as_document(result, [Target("emails/s", 4, 3, at_least=True)])
    assert document.startswith("# Figures\n")
    assert "- met: emails/s" in document
    assert [len(table.header) for table in tables(result)] == [8, 8, 8, 8, 3, 5, 2, 4, 3]
    assert all(len(row) == len(table.header) for table in tables(result) for row in table.rows)
    drawn = "".join(ET.fromstring(chart(result["runs"])).itertext())
    for name in CONTENDERS:
        assert f"| {name} |" in document
        assert name in drawn
        assert f'"{name}"' in as_json(result)


def test_the_page_says_what_the_last_run_measured() -> None:
    last = json.loads((ROOT / "bench/latest.json").read_text())
    assert (ROOT / "docs/figures.md").read_text() == as_document(last, list(targets(last)))


def test_a_drain_that_was_not_asked_for_has_no_table_and_no_target(result: dict[str, Any]) -> None:
    result |= {"drain": {}, "long_drain": []}
    assert len(list(tables(result))) == 7
    assert not [target for target in targets(result) if "drain" in target.what or "memory" in target.what]
