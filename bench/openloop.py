"""Requests at a fixed rate, whether or not those before have been answered.

Each is timed from when it was due, not from when it was sent: a client that waits for a slow answer
before it asks again would leave out the very requests that had to wait (coordinated omission).
"""

from __future__ import annotations

import http.client
import math
import multiprocessing
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench import elsewhere
from bench.figures import percentile
from bench.harness import BenchError

_THREADS = 16
_TIMEOUT = 30.0
_IDLE = 10.0
"""Seconds after which a connection is not used again: less than the edge keeps one (30 s)."""


@dataclass(frozen=True)
class Stretch:
    """Seconds in which the rate goes evenly from ``rate`` to ``to`` requests a second."""

    seconds: float
    rate: float
    to: float

    def times(self) -> Iterator[float]:
        """When each request is due, in seconds from its beginning."""
        slope = (self.to - self.rate) / self.seconds
        for number in range(int((self.rate + self.to) / 2 * self.seconds)):
            if slope:
                # So many were due: rate * t + slope * t² / 2.
                yield (math.sqrt(self.rate**2 + 2 * slope * number) - self.rate) / slope
            else:
                yield number / self.rate


@dataclass
class Measured:
    """What a run saw."""

    begun: float = 0.0
    """Monotonic time, which all processes of a machine have in common."""
    answered: list[tuple[float, float]] = field(default_factory=list)
    """When each good answer was due, from the beginning, and the seconds to its last byte."""
    failed: list[tuple[float, str]] = field(default_factory=list)
    """When it was due, and what came instead of an answer with 200."""
    late: float = 0.0
    """Seconds by which the client itself began a request too late, at most."""

    @property
    def seconds(self) -> list[float]:
        return [took for _, took in self.answered]

    @property
    def bad(self) -> list[str]:
        return [told for _, told in self.failed]

    def percentile(self, share: float) -> float:
        """The smallest time that at least this share of the answers took no longer than.

        Raises:
            BenchError: too few answers for that, or some failed.
        """
        if self.bad:
            raise BenchError(f"{len(self.bad)} requests failed, the first: {self.bad[0]}")
        if len(self.answered) * (1 - share) < 1:
            raise BenchError(f"{len(self.answered)} answers are too few for their {share:.0%}")
        return percentile(self.seconds, share)


def run(url: str, path: str, *, rate: float, seconds: float) -> Measured:
    """Asks ``rate`` times a second for so long, on kept-alive connections; from a process that
    everything else gives way to, so that what is measured is not the client."""
    return follow(url, path, [Stretch(seconds, rate, rate)])


def follow(
    url: str, path: str, stretches: Iterable[Stretch], *, threads: int = _THREADS
) -> Measured:
    """The same at the rates of stretches one after another. ``threads``: requests that can be under
    way at once; what is beyond that waits, and its waiting counts."""
    dues: list[float] = []
    begins = 0.0
    for each in stretches:
        dues += [begins + due for due in each.times()]
        begins += each.seconds
    with multiprocessing.get_context("spawn").Pool(1, elsewhere.ahead) as pool:
        return pool.apply(_run, (url, path, dues, threads))


def _run(url: str, path: str, dues: Sequence[float], threads: int) -> Measured:
    measured = Measured()
    lock = threading.Lock()
    own = threading.local()
    host = urllib.parse.urlsplit(url).netloc

    def ask(due: float) -> None:
        late = time.monotonic() - measured.begun - due
        told = ""
        try:
            if not hasattr(own, "connection"):
                own.connection, own.used = http.client.HTTPConnection(host, timeout=_TIMEOUT), 0.0
            if time.monotonic() - own.used > _IDLE:
                own.connection.close()  # the next request opens it again
            own.connection.request("GET", path)
            answer = own.connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                told = f"{answer.status} {body[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            own.connection.close()
            told = f"{type(error).__name__}: {error}"
        own.used = time.monotonic()
        took = own.used - measured.begun - due
        with lock:
            measured.late = max(measured.late, late)
            if told:
                measured.failed.append((due, told))
            else:
                measured.answered.append((due, took))

    with ThreadPoolExecutor(threads) as pool:
        measured.begun = time.monotonic()
        for due in dues:
            if (left := measured.begun + due - time.monotonic()) > 0:
                time.sleep(left)
            pool.submit(ask, due)
    return measured
