"""Steady traffic on many functions, each answer held against the versions that it may be of.

A client whose request ends between a push and its decision may see the version before or the one
pushed; afterwards, the one that the platform said. Releases that fail may never be seen at all.
"""

from __future__ import annotations

import http.client
import math
import queue
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["good", "broken", "other version", "lost"]
_THREADS = 24
_TIMEOUT = 15.0
_CLOSE = 0.5
"""Share of requests on a connection of their own."""
_EYES = 0.6
"""Share of requests to functions that are being released: whoever pushes looks at them."""


@dataclass(frozen=True)
class Seen:
    """One request: its function, when it began and ended (monotonic), and what came of it."""

    function: str
    begun: float
    ended: float
    kind: Kind
    text: str = ""


@dataclass
class _Window:
    """From when until when clients may see a version."""

    answer: str
    since: float
    until: float = math.inf


@dataclass
class _Function:
    windows: list[_Window] = field(default_factory=list)
    asked: bool = True
    releasing: int = 0


class Traffic:
    """Asks known functions ``rate`` times a second in all, until it is left."""

    def __init__(self, url: str, path: Callable[[str], str], *, rate: float, seed: int) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        self._path = path
        self._rate = rate
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._functions: dict[str, _Function] = {}
        self._due: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask_all) for _ in range(_THREADS)]
        self._clock = threading.Thread(target=self._tick)
        self.seen: list[Seen] = []

    def __enter__(self) -> Traffic:
        for thread in [*self._threads, self._clock]:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._clock.join()
        for _ in self._threads:
            self._due.put(None)
        for thread in self._threads:
            thread.join()

    # What may be seen

    def serves(self, function: str, answer: str) -> None:
        """From now on it is asked, and says this."""
        with self._lock:
            each = self._functions.setdefault(function, _Function())
            each.asked = True
            each.windows.append(_Window(answer, time.monotonic()))

    def releases(self, function: str, answer: str | None) -> None:
        """A release of it begins, in which ``answer`` may be seen; None: nothing new."""
        with self._lock:
            each = self._functions[function]
            each.releasing += 1
            if answer is not None:
                each.windows.append(_Window(answer, time.monotonic()))

    def released(self, function: str, answer: str) -> None:
        """That release is decided: ``answer`` is what is live, and nothing else."""
        now = time.monotonic()
        with self._lock:
            each = self._functions[function]
            each.releasing -= 1
            for window in each.windows:
                if window.answer != answer:
                    window.until = min(window.until, now)

    def leaves(self, function: str) -> None:
        """It is about to be removed: it is asked no more."""
        with self._lock:
            self._functions[function].asked = False

    def stays(self, function: str) -> None:
        """It was not removed after all."""
        with self._lock:
            self._functions[function].asked = True

    # Asking

    def _tick(self) -> None:
        """Puts a function on the list as each request is due."""
        begun = time.monotonic()
        number = 0
        while not self._ended.is_set():
            number += 1
            if (left := begun + number / self._rate - time.monotonic()) > 0:
                self._ended.wait(left)
            with self._lock:
                known = [name for name, each in self._functions.items() if each.asked]
                new = [name for name in known if self._functions[name].releasing]
            if new and self._dice.random() < _EYES:
                known = new
            if known:
                self._due.put(self._dice.choice(known))

    def _ask_all(self) -> None:
        dice = random.Random(self._dice.random())
        kept = http.client.HTTPConnection(self._host, timeout=_TIMEOUT)
        while (function := self._due.get()) is not None:
            fresh = dice.random() < _CLOSE
            connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT) if fresh else kept
            seen = self._ask(connection, function)
            if fresh or seen.kind == "lost":
                connection.close()  # the kept one opens again
            self.seen.append(seen)
        kept.close()

    def _ask(self, connection: http.client.HTTPConnection, function: str) -> Seen:
        begun = time.monotonic()
        try:
            connection.request("GET", self._path(function))
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            told = f"{type(error).__name__}: {error}"
            return Seen(function, begun, time.monotonic(), "lost", told)
        ended = time.monotonic()
        kind: Kind = "lost"
        if self._allowed(function, text, begun, ended):
            kind = "good" if answer.status == 200 else "broken"
        elif answer.status == 200:
            kind = "other version"
        told = text if kind in ("good", "broken") else f"{answer.status} {text[:200]}"
        return Seen(function, begun, ended, kind, told)

    def _allowed(self, function: str, text: str, begun: float, ended: float) -> bool:
        with self._lock:
            return any(
                window.answer == text and window.since <= ended and window.until >= begun
                for window in self._functions[function].windows
            )


def longest_restore(seen: Iterable[Seen], function: str, answer: str) -> float | None:
    """Seconds from the first broken answer of a version to the first good one after its last; None:
    nobody saw it."""
    own = sorted((each for each in seen if each.function == function), key=lambda e: e.ended)
    broken = [each.ended for each in own if each.kind == "broken" and each.text == answer]
    if not broken:
        return None
    good = [each.ended for each in own if each.kind == "good" and each.ended > broken[-1]]
    return good[0] - broken[0] if good else math.inf
