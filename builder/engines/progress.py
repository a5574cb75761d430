"""BuildKit's plain progress, made readable: what is done, what it prints, what went wrong.

A line of it is ``#<step> <text>``; what a command printed has its seconds before it. Steps that
are BuildKit's own, checksums and what merely says that it ended are left out.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable

_LINE = re.compile(r"#(\d+) (?:\d+\.\d+ (.*)|(.*))")
_INSIDE = re.compile(r"\[[^\]]*internal\]|exporting |load |\[auth\]|sha256:|\[[^\]]*\d/\d+\] FROM ")
_CLIPPED = re.compile(r"\[output clipped, log limit .*iB reached\]")
"""The engine keeps so much of one step; at a limit per second it only leaves lines out."""
_TAIL = 25
_WIDEST = 400
"""Characters of a line in an error."""
_LONGEST = 120
"""Characters that are told of what a step does."""


class Progress:
    """Takes each line of the CLI's output; tells ``out`` what people want to read."""

    def __init__(self, out: Callable[[str], None], limit: int) -> None:
        self.clipped = False
        """Whether the engine dropped output of a step, or ``limit`` characters were told."""
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
        """What was told last."""
        self._out = out
        self._left = limit
        self._names: dict[str, str] = {}
        self._told: set[str] = set()
        self._ends = False
        self._error = ""
        self._all: collections.deque[str] = collections.deque(maxlen=_TAIL)

    def __call__(self, line: str) -> None:
        match = _LINE.fullmatch(line)
        if not match or self._ends:
            self._closing(line.strip())
            return
        step, printed, text = match[1], match[2], match[3]
        name = self._names.setdefault(step, text or "")
        if printed is not None:
            self.clipped = self.clipped or bool(_CLIPPED.search(printed))
            self._announce(step, name)
            self._tell(printed)
        elif text.startswith("ERROR"):
            self._error = text
        elif text.startswith("DONE") and not text.startswith("DONE 0.0"):
            self._announce(step, name)

    @property
    def error(self) -> str:
        """Why it failed, in the engine's words."""
        return re.sub(r"^(ERROR|error): ", "", self._error)

    @property
    def text(self) -> str:
        """The last lines, for an error."""
        return "\n".join(line[:_WIDEST] for line in self.tail or self._all).strip()

    def _closing(self, line: str) -> None:
        """At the end the failed step's last lines come once more, and then the cause."""
        if set(line) == {"-"}:
            self._ends = True
        elif line and not line.startswith((">", "#")) and not re.match(r"\d+ \|", line):
            if not self._ends:
                self._all.append(line)
            if not line.startswith("Dockerfile:"):
                self._error = line

    def _announce(self, step: str, name: str) -> None:
        if step not in self._told and not _INSIDE.match(name):
            self._told.add(step)
            self._tell(_short(name))

    def _tell(self, text: str) -> None:
        text = text.rstrip()
        if not text or self._left <= 0:
            self.clipped = self.clipped or self._left <= 0
            return
        self._left -= len(text) + 1
        self.tail.append(text)
        self._out(text)


def _short(name: str) -> str:
    """``[build 2/3] RUN --mount=…     make`` → ``[build 2/3] RUN make``."""
    plain = re.sub(r"\s+", " ", re.sub(r"--mount=\S+\s+", "", name))
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"
