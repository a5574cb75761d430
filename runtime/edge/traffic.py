"""How functions answer: counts, errors and times to the first byte, of the last minute or since a
moment.

Times are kept in classes that are a tenth wider each, so a percentile is at most so much too high.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from core.models import Traffic

if TYPE_CHECKING:
    from runtime.edge.collector import Line

_UPLOAD = 2**16
"""Bytes of a request from which on the time to the first byte of its answer is not the function's
alone."""
LEAST_TIMED = 20
"""Requests below which a percentile says nothing."""
MINUTE = 60.0
"""Seconds of traffic that are remembered."""
_WIDTH = math.log(1.1)
_LEAST = 1e-4
"""Seconds: what is quicker counts as this."""


class Answers:
    """What one function answered in a stretch of time."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.times: Counter[int] = Counter()
        """Class of the time to the first byte → requests, uploads left out."""

    def add(self, line: Line) -> None:
        """A request that its client gave up says nothing of the function."""
        if line.code == 499:
            return
        self.requests += 1
        self.errors += line.code >= 500
        if line.uploaded <= _UPLOAD:  # else it is the client's line that is timed
            waited = max(line.answered - line.arrived, _LEAST)
            self.times[math.ceil(math.log(waited / _LEAST) / _WIDTH)] += 1

    def merge(self, other: Answers) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.times.update(other.times)

    def traffic(self) -> Traffic:
        """Its percentiles are 0 where too few requests were timed."""
        return Traffic(
            requests=self.requests,
            errors=self.errors,
            p50_ms=self._percentile(0.5),
            p95_ms=self._percentile(0.95),
        )

    def _percentile(self, share: float) -> float:
        """Milliseconds."""
        timed = self.times.total()
        if timed < LEAST_TIMED:
            return 0.0
        left = share * timed
        for place in sorted(self.times):
            left -= self.times[place]
            if left <= 0:
                return round(_LEAST * math.exp(place * _WIDTH) * 1000, 1)
        return 0.0


class Recent:
    """The last minute of each function, by seconds."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[tuple[int, Answers]]] = {}

    def add(self, line: Line) -> None:
        second = int(line.answered)
        kept = self._seconds.setdefault(line.function, deque())
        if not kept or kept[-1][0] < second:
            kept.append((second, Answers()))
            while kept[0][0] < second - MINUTE:
                kept.popleft()
        kept[-1][1].add(line)

    def only(self, functions: Iterable[str]) -> None:
        """Forgets all others, and what is older than a minute."""
        wanted, oldest = set(functions), time.time() - MINUTE
        for function, kept in list(self._seconds.items()):
            if function not in wanted or kept[-1][0] < oldest:
                del self._seconds[function]

    def traffic(self, function: str) -> Traffic:
        """Of the minute before now."""
        whole = Answers()
        for second, answers in self._seconds.get(function, ()):
            if second >= time.time() - MINUTE:
                whole.merge(answers)
        return whole.traffic()


class Since:
    """The answers of some functions to requests that came after its making. Times count only of
    those after ``timed_from`` (Unix time): first requests are slow."""

    def __init__(self, functions: Iterable[str], timed_from: float) -> None:
        self.functions = frozenset(functions)
        self.timed_from = timed_from
        self._since: dict[str, float] = {}
        self._whole: dict[str, Answers] = {}
        self._timed: dict[str, Answers] = {}
        self.restart(self.functions)

    def restart(self, functions: Iterable[str]) -> None:
        """Forgets what these have answered."""
        for function in functions:
            self._since[function] = time.time()
            self._whole[function], self._timed[function] = Answers(), Answers()

    def add(self, line: Line) -> None:
        since = self._since[line.function]
        if line.arrived >= since:
            self._whole[line.function].add(line)
        if line.arrived >= max(since, self.timed_from):
            self._timed[line.function].add(line)

    def traffic(self, function: str) -> Traffic:
        whole, times = self._whole[function].traffic(), self._timed[function].traffic()
        return msgspec.structs.replace(whole, p50_ms=times.p50_ms, p95_ms=times.p95_ms)
