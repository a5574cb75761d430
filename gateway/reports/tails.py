"""The end of a release's log as a report shows it, read from the end on backwards."""

from __future__ import annotations

from core.models import LogLine
from core.store import Store
from gateway.progress import printable
from gateway.reports.markdown import block

LINES = 120
"""That are shown; newer ones are kept."""
WIDTH = 300
"""Characters of a line: all of it stays far below the 65,535 that GitHub takes."""
READ = 500
"""Lines of a function that are read, for what its tests say."""


def last_of(store: Store, release: str, function: str) -> list[LogLine]:
    """The last lines of one function, the oldest first; without a function the steps of all, and
    what belongs to none."""
    found: list[LogLine] = []
    for line in store.last_lines(release):
        if line.function == function or (not function and line.stream == "step"):
            found.append(line)
            if len(found) == READ:
                break
    return found[::-1]


def shown(lines: list[LogLine], function: str) -> str:
    """Markdown of the last of them; empty where there are none."""
    told = [_line(line, function) for line in lines[-LINES:]]
    return block("\n".join(told)) if told else ""


def _line(line: LogLine, function: str) -> str:
    text = " ".join(printable(line.text).splitlines())[:WIDTH]
    if line.stream != "step":
        return f"  {text}"
    return f"{line.function}: {text}" if line.function and not function else text
