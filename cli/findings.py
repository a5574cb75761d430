"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass

import click

OK, WARN, FAIL = "ok", "warn", "FAIL"
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` says what to do where the state is not ok."""

    name: str
    state: str
    text: str
    advice: str = ""

    def line(self) -> str:
        mark = click.style(f"{self.state:<4}", fg=_COLOURS[self.state])
        advice = f"\n{'':19}→ {self.advice}" if self.advice else ""
        return f"{mark}  {self.name:<12} {self.text}{advice}"
