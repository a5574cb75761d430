"""What a release's log says of each function while it goes on: the step it is at, what failed."""

from __future__ import annotations

from core.models import LogLine
from core.store import LogEnd, Store
from core.store.logs import LOG_LINES
from gateway.progress import one_line

MOST = 2 * LOG_LINES
"""Lines that are read in one look: all there are, whoever goes on writing."""


class Following:
    """Follows one release's log; small, whatever is in it."""

    def __init__(self) -> None:
        self.steps: dict[str, str] = {}
        """Function → what is being done with it; '' → with the whole release."""
        self.failures: dict[str, str] = {}
        """Function → what its step failed with, empty where nothing more was said."""
        self._position = "0"

    def read(self, store: Store, id_: str) -> bool:
        """Reads on; whether anything was new of what is kept here."""
        news = False
        read = 0
        while read < MOST:
            lines = list(store.read_log(id_, self._position))
            if not lines:
                break
            read += len(lines)
            for position, line in lines:
                self._position = position
                news |= isinstance(line, LogEnd) or self._take(line)
        return news

    def _take(self, line: LogLine | LogEnd) -> bool:
        if not isinstance(line, LogLine) or line.stream != "step":
            return False
        text = line.text.strip()
        if text == "failed" or text.startswith("failed:"):
            self.failures[line.function] = one_line(text.removeprefix("failed").lstrip(": "))
        else:
            self.failures.pop(line.function, None)  # it is tried again
            self.steps[line.function] = one_line(text)
        return True
