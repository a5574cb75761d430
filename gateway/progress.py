"""A release's log as the lines that a pushing client sees.

A line as each stage begins; of a step's output only the end, and only if the step fails; the last
line says what became of the release, in a form that tools may rely on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator

from core.models import Build, LogLine, Release, State
from core.names import function_url
from core.store import LogEnd

TAIL = 50
"""Lines of a failing step's output that are shown."""
_WIDTH = 500
_CAUSE = 400
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Progress:
    """Turns log lines into shown lines; remembers the end of each running step's output."""

    def __init__(self) -> None:
        self._step: dict[str, str] = {}
        self._tails: dict[str, deque[str]] = {}
        self._after: dict[tuple[str, str], int] = {}

    def lines(self, line: LogLine) -> Iterator[str]:
        """What one log line adds."""
        if line.stream == "step":
            yield from self._stage(line)
        elif self._after.get((line.function, line.step), 0):
            self._after[line.function, line.step] -= 1
            yield _output(line.function, line.text[:_WIDTH])
        elif line.step == "plan" and line.stream == "stderr":  # a warning of the stack file
            yield printable(line.text)
        else:
            self._tail(line.function, line.step).append(line.text[:_WIDTH])

    def _stage(self, line: LogLine) -> Iterator[str]:
        text = line.text.strip()
        if text != "failed" and not text.startswith("failed:"):
            yield _named(line.function, text)
            self._tail(line.function, line.step)
            return
        message = text.removeprefix("failed").removeprefix(":").strip()
        tail = self._tail(line.function, line.step)
        for output in tail:
            if output.strip() and output.strip() not in message:
                yield _output(line.function, output)
        tail.clear()
        told = f"{line.step} failed"
        yield _named(line.function, f"{told}: {message}" if message else told)
        # Where a step fails outside of it, as a replica that does not start, its output follows.
        self._after[line.function, line.step] = TAIL

    def _tail(self, function: str, step: str) -> deque[str]:
        """The last lines of a function's current step; another step begins anew."""
        if self._step.get(function) != step:
            self._step[function] = step
            self._tails[function] = deque(maxlen=TAIL)
        return self._tails[function]


def follow(log: Iterable[LogLine | LogEnd | None]) -> Iterator[str | LogEnd]:
    """Shown lines of a whole log, then its end if it has one; ``''`` while there is none to show:
    whoever follows can look whether it still shall."""
    progress = Progress()
    for line in log:
        if line is None:
            yield ""
        elif isinstance(line, LogEnd):
            yield line
            return
        else:
            yield from list(progress.lines(line)) or [""]


def closing(release: Release, end: LogEnd, base: str) -> Iterator[str]:
    """The last lines: every function's URL where the release went live, what the switch cost, and
    what became of it."""
    if receipt := release.receipt:
        yield (
            f"receipt: {receipt.requests} requests, {receipt.failed} failed, "
            f"longest gap {receipt.longest_gap_ms:g} ms"
        )
    elif end.state is State.REPLACED:
        yield f"receipt: still counted, as the next release is live: slipway release {release.id}"
    if end.state in (State.LIVE, State.REPLACED):
        for row in release.functions:
            if row.build is Build.REMOVED:
                yield f"{row.name}: removed"
            else:
                url = row.url or function_url(base, row.name, release.namespace)
                yield f"{row.name}: {url}"
        yield f"slipway: live {release.id}"
    else:
        if end.state is State.FAILED:
            yield f"its whole log: slipway logs {release.id}"
        for each in release.watch.functions if release.watch else []:
            if f" {each.name}: " in end.reason:
                yield f"what {each.name} wrote: slipway logs {each.name}.{release.namespace}"
        cause = one_line(end.reason)
        yield f"slipway: {end.state} {release.id}" + (f": {cause}" if cause else "")


def one_line(reason: str) -> str:
    """A reason of several lines as one, cut to a length that a terminal can show."""
    parts = [printable(part).strip() for part in reason.splitlines() if part.strip()]
    told = ""
    for part in parts:
        told += ("" if not told else " " if told.endswith(":") else "; ") + part
    return told if len(told) <= _CAUSE else f"{told[:_CAUSE]}…"


def printable(text: str) -> str:
    """Text that cannot steer a terminal: what users' builds print is shown to others."""
    return _UNPRINTABLE.sub("", text)


def _named(function: str, text: str) -> str:
    first, *rest = printable_lines(text) or [""]
    head = f"{function}: {first}" if function else first
    return "\n".join([head, *(f"    {line}" for line in rest)])


def _output(function: str, text: str) -> str:
    return f"  {function} | {printable(text)}" if function else f"  | {printable(text)}"


def printable_lines(text: str) -> list[str]:
    return [printable(line) for line in text.splitlines()]
