"""Draws the newspaper's year: SVG, so that it can be read in a browser and compared in git."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pygal
from pygal.style import CleanStyle

if TYPE_CHECKING:
    from bench.year import Year

_BAD = {"build": "cannot be built", "test": "its test fails", "never healthy": "never healthy"}
_MOST = 300
"""Points of a line: more cannot be told apart."""


def year(seen: Year, restores: Sequence[float], path: Path, *, by_hand: float) -> None:
    """Releases over time with the bad ones on the line; memory, disk and functions below each
    other in a second file beside it."""
    done = sorted(seen.done, key=lambda each: each.begun + each.seconds)
    ends = [(each.begun + each.seconds - seen.begun) / 60 for each in done]
    minutes = max(ends)
    chart = _chart(
        f"A year of {len(done):,} releases in {minutes:.0f} minutes", "minutes", "releases decided"
    )
    line = [(at, number) for number, at in enumerate(ends, 1)]
    chart.add("decided", _thinned(line), show_dots=False)
    chart.add("by hand, one after another", [(0, 0), (minutes, minutes * 60 / by_hand)])
    for kind, told in _BAD.items():
        points = [point for point, each in zip(line, done, strict=True) if each.bad == kind]
        chart.add(f"{told}: nobody saw it", points, stroke=False, dots_size=3)
    points = [point for point, each in zip(line, done, strict=True) if each.bad == "errors"]
    restored = f", restored in {sorted(restores)[len(restores) // 2]:.1f} s" if restores else ""
    chart.add(f"errors after the switch{restored}", points, stroke=False, dots_size=4)
    chart.render_to_file(str(path))

    chart = _chart("What the platform itself needs meanwhile", "minutes", "MB, and functions")
    for number, name, unit in ((1, "memory (PSS), MB", 2**20), (2, "disk, MB", 2**20)):
        chart.add(name, [(each[0] / 60, each[number] / unit) for each in seen.samples])
    chart.add("functions that run", [(each[0] / 60, each[3]) for each in seen.samples])
    chart.render_to_file(str(path.with_name(f"{path.stem}-resources.svg")))


def _chart(title: str, x: str, y: str) -> pygal.XY:
    return pygal.XY(
        title=title,
        x_title=x,
        y_title=y,
        style=CleanStyle,
        js=[],  # no script from elsewhere
        width=900,
        height=500,
        dots_size=2,
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        x_value_formatter=lambda value: f"{value:.0f}",
        value_formatter=lambda value: f"{value:,.0f}",
    )


def _thinned(points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    step = max(len(points) // _MOST, 1)
    return [*points[::step], points[-1]]
