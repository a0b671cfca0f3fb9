"""Draws docs/images/bench.svg: three small bar charts of each contender as a multiple of stock Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.contenders import CHAIN, STOCK

if TYPE_CHECKING:
    from bench.figures import Summary

PANELS = (
    ("sqs_requests", "SQS requests an email", "less is better"),
    ("cpu_ms", "CPU an email", "less is better"),
    ("emails_per_s", "Emails a second", "more is better"),
)

WIDTH, MARGIN, LABELS, GAP = 880, 20, 110, 36
TOP, ROW, BAR = 84, 26, 16
VALUE = 50  # room for a number to the right of the longest bar
PANEL = (WIDTH - 2 * MARGIN - LABELS - 2 * GAP) / 3

STYLE = """\
  text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 13px; font-weight: 600; fill: #1f2328 }
  .ours { fill: #1f2328; font-weight: 600 }
  rect { fill: #afb8c1 }
  rect.ours { fill: #0969da }
  line { stroke: #afb8c1; stroke-dasharray: 2 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #8d96a0 }
    .title, .ours { fill: #e6edf3 }
    rect { fill: #57606a }
    rect.ours { fill: #4493f8 }
    line { stroke: #57606a }
  }"""


def chart(runs: dict[str, Summary]) -> str:
    """Return the SVG. It shows medians, and stock Celery as a dashed line."""
    height = TOP + ROW * len(runs) + MARGIN - 6
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    label = "SQS requests, CPU and emails a second as multiples of stock Celery"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">',
        f"<style>\n{STYLE}\n</style>",
        f'<text x="{MARGIN}" y="24">Multiples of {STOCK}, the dashed line</text>',
    ]
    for row, name in enumerate(runs):
        parts.append(f'<text x="{MARGIN}" y="{_baseline(row)}"{_mark(name)}>{name}</text>')
    for number, panel in enumerate(PANELS):
        parts += _panel(MARGIN + LABELS + number * (PANEL + GAP), panel, runs)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: float, panel: tuple[str, str, str], runs: dict[str, Summary]) -> list[str]:
    key, title, sense = panel
    ratios = {name: one[key] / runs[STOCK][key] for name, one in runs.items()}
    scale = (PANEL - VALUE) / max(ratios.values())
    parts = [
        f'<text x="{left:.1f}" y="50" class="title">{title}</text>',
        f'<text x="{left:.1f}" y="67">{sense}</text>',
    ]
    for row, (name, ratio) in enumerate(ratios.items()):
        top, width = TOP + row * ROW + (ROW - BAR) / 2, max(ratio * scale, 1)
        parts += [
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{BAR}" rx="2"{_mark(name)}/>',
            f'<text x="{left + PANEL:.1f}" y="{_baseline(row)}" text-anchor="end"{_mark(name)}>{ratio:.2f}</text>',
        ]
    stock, bottom = left + scale, TOP + ROW * len(runs)
    return [*parts, f'<line x1="{stock:.1f}" y1="{TOP}" x2="{stock:.1f}" y2="{bottom}"/>']


def _baseline(row: int) -> float:
    return TOP + row * ROW + ROW / 2 + 4


def _mark(name: str) -> str:
    return ' class="ours"' if name == CHAIN else ""
