"""The one wrapper around every stage: its lines in the log, its time, its failure, its end.

No stage reports by itself. A stage's output is written to the release's log as it comes, a few
lines at a time, bounded by ``Settings.build_output``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from core import logging
from core.errors import BuildFailed, Conflict, SlipwayError, Unavailable
from core.models import LogLine, now
from core.store import Store

LINE_LENGTH = 4096
"""A longer line is cut; in characters, as the bounds of output are here."""
RELEASE_OUTPUT = 16 * 2**20
"""Output kept of all steps of one release together: it lies in the store's memory."""
FLUSH_SECONDS = 0.1

log = logging.get()

T = TypeVar("T")


class ReleaseLog:
    """Writes a release's log; safe to use from several threads."""

    def __init__(self, store: Store, release: str, limit: int) -> None:
        self.store = store
        self.release = release
        self.limit = limit
        self._lock = threading.Lock()
        self._lines: list[LogLine] = []
        self._flushed = 0.0
        self._sizes: dict[tuple[str, str], int] = {}
        self._total = 0

    def add(
        self, function: str, step: str, stream: str, text: str, *, at_once: bool = True
    ) -> None:
        """Adds one line; output beyond the bound of its step is dropped, which is said once. Where
        many come together, ``at_once`` false leaves them to the end of the step."""
        text = text[:LINE_LENGTH]
        with self._lock:
            if stream != "step":
                used = self._sizes.get((function, step), 0)
                if used > self.limit or self._total > RELEASE_OUTPUT:
                    return
                self._total += len(text) + 1
                self._sizes[function, step] = used + len(text) + 1
                if used + len(text) + 1 > self.limit:
                    text = f"(more output than {self.limit} bytes: the rest is dropped)"
            self._lines.append(
                LogLine(time=now(), function=function, step=step, stream=stream, text=text)
            )
            due = at_once and (stream == "step" or time.monotonic() - self._flushed > FLUSH_SECONDS)
        if due:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            self._flushed = time.monotonic()
            if lines:
                self.store.append_log(self.release, lines)


class Steps:
    """What the stages of one release share: its log, its end, and how long one may take.

    ``seconds`` bounds those stages that ask ``check`` while they work.
    """

    def __init__(
        self, release_log: ReleaseLog, ended: threading.Event, seconds: float = math.inf
    ) -> None:
        self.log = release_log
        self._ended = ended
        self._seconds = seconds
        self._running = threading.local()  # each thread runs a stage of its own

    def ended(self) -> bool:
        """Whether the release was superseded or cancelled."""
        return self._ended.is_set()

    def wanted(self) -> None:
        """To be called again and again by what runs other programs, within bounds of their own.

        Raises:
            Conflict: the release was superseded or cancelled.
        """
        if self.ended():
            raise Conflict("the release was decided meanwhile: its build ends here")

    def check(self) -> None:
        """To be called again and again by whatever else may take long.

        Raises:
            Conflict: as ``wanted``.
            Unavailable: this thread's stage takes too long.
        """
        self.wanted()
        if time.monotonic() > getattr(self._running, "deadline", math.inf):
            raise Unavailable(
                f"this step took longer than {self._seconds:g} s (SLIPWAY_BUILD_TIMEOUT): the "
                "commit is too large for it, or the server's disk is slow; push less, or try again"
            )

    def pause(self, seconds: float) -> None:
        """Waits; raises as ``check``, as soon as the release is decided."""
        self._ended.wait(seconds)
        self.check()

    def patiently(self, ask: Callable[[], T], within: float = math.inf) -> T:
        """Tries a few times where a retry can help: a forge or registry that is away for a moment.
        Nothing is tried again after ``within`` seconds.

        Raises whatever ``ask`` raises at last, or as ``check``.
        """
        begun = time.monotonic()
        for pause in (1.0, 3.0):
            try:
                return ask()
            except SlipwayError as error:
                if not error.retryable or time.monotonic() - begun > within:
                    raise
                self.pause(pause)
        return ask()

    @contextmanager
    def step(
        self, name: str, function: str = "", told: str = ""
    ) -> Iterator[Callable[[str], None]]:
        """Runs one stage; gives a function that takes each line of its output.

        ``told``: what the log says as the stage begins; the name if empty.
        """
        self.check()
        begun = time.monotonic()
        self._running.deadline = begun + self._seconds
        self.log.add(function, name, "step", told or name)
        try:
            with structlog.contextvars.bound_contextvars(step=name, function=function):
                yield lambda line: self.log.add(function, name, "stdout", line)
        except BuildFailed as error:
            error.function = error.function or function
            error.step = error.step or name
            self.log.add(function, name, "step", f"failed: {error}")
            raise
        except SlipwayError as error:
            self.log.add(function, name, "step", f"failed: {error}")
            raise
        finally:
            self._running.deadline = math.inf
            self.log.flush()
            log.info(
                "step", step=name, function=function, seconds=round(time.monotonic() - begun, 3)
            )
