"""One forge's questions: who is due is asked in turn, a few side by side, beside those of the other
forges, so that one that hangs keeps nobody else waiting.

After some failures in a row the forge is left alone for a while, which doubles; then one question
goes first, and only where that is answered the others follow.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

AT_ONCE = 4
"""Questions side by side: git is a process, and the builder gives way to what is live."""
FAILURES = 5
"""In a row: then the forge itself is in trouble, and not one repository of it."""
FIRST_REST, LONGEST_REST = 2.0, 60.0
"""Seconds."""


class Line:
    """Who is asked about is told by a key. ``ask`` tells whether the forge answered at all; None:
    it was not asked."""

    def __init__(self, name: str, ask: Callable[[str], bool | None]) -> None:
        self._name = name
        self._ask = ask
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._asked: set[str] = set()
        """Right now, each by a thread."""
        self._failures = 0
        self._rest = 0.0
        """Seconds of the last one; 0: the forge is well."""
        self._rests_until = 0.0
        """By the monotonic clock."""

    def put(self, due: Iterable[str]) -> None:
        """Who is to be asked now, in this order, in place of whoever still waits."""
        with self._changed:
            self._waiting = deque(each for each in due if each not in self._asked)
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._begin()
            self._changed.notify_all()

    def wait(self, until: float) -> None:
        """Until nobody waits or is asked, or for as long as the forge is left alone; at the latest
        until then, by the monotonic clock."""
        with self._changed:
            self._changed.wait_for(self._still, max(until - time.monotonic(), 0.0))

    def _still(self) -> bool:
        return not self._asked and not (self._waiting and self._may_begin())

    def _begin(self) -> None:
        if not self._waiting or not self._may_begin():
            return
        each = self._waiting.popleft()
        self._asked.add(each)
        # A daemon: a question that hangs must not keep the worker from its end.
        threading.Thread(target=self._work, args=(each,), name=self._name, daemon=True).start()

    def _may_begin(self) -> bool:
        if self._rest:
            return not self._asked and time.monotonic() >= self._rests_until
        return len(self._asked) < AT_ONCE

    def _work(self, each: str) -> None:
        answered: bool | None = None
        try:
            answered = self._ask(each)
        finally:
            with self._changed:
                self._asked.discard(each)
                self._note(answered)
                for _ in range(AT_ONCE):
                    self._begin()
                self._changed.notify_all()

    def _note(self, answered: bool | None) -> None:
        if answered is None:
            return
        if answered:
            self._failures, self._rest = 0, 0.0
            return
        self._failures += 1
        # Those that were asked along with it when it fell ill count once.
        if self._failures >= FAILURES and time.monotonic() >= self._rests_until:
            self._rest = min(max(self._rest * 2, FIRST_REST), LONGEST_REST)
            self._rests_until = time.monotonic() + self._rest
