"""What the user sees: plain lines, and on a terminal one line below them that updates."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_CLEAR = "\r\x1b[2K"


class Screen:
    """Writes to ``out``; every line is flushed, because somebody may be waiting for it."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.terminal = self.out.isatty()
        self._doing = ""
        self._since = 0.0
        self._shown = ""

    def say(self, text: str) -> None:
        """Prints lines that stay."""
        self._write((_CLEAR if self._shown else "") + text + "\n")
        self._shown = ""
        self.tick()

    def doing(self, text: str) -> None:
        """Names what is going on until the next call; '' when nothing is."""
        self._doing, self._since = text, time.monotonic()
        if not text and self._shown:
            self._write(_CLEAR)
            self._shown = ""
        elif not self.terminal and text:
            self._write(f"slipway: {text}\n")
        self.tick()

    def tick(self) -> None:
        """Updates the line; call it while waiting."""
        if not self.terminal or not self._doing:
            return
        line = f"slipway: {self._doing} … {time.monotonic() - self._since:.0f} s"
        if line != self._shown:
            self._write(_CLEAR + line)
            self._shown = line

    def _write(self, text: str) -> None:
        try:
            self.out.write(text)
            self.out.flush()
        except OSError:  # the terminal went away; the platform goes on
            self._shown = ""
