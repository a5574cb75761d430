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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench import elsewhere
from bench.harness import BenchError

_THREADS = 16
_TIMEOUT = 30.0
_IDLE = 10.0
"""Seconds after which a connection is not used again: less than the edge keeps one (30 s)."""


@dataclass
class Measured:
    """What a run saw."""

    seconds: list[float] = field(default_factory=list)
    """From when each good answer was due to its last byte."""
    late: float = 0.0
    """Seconds by which the client itself began a request too late, at most."""
    bad: list[str] = field(default_factory=list)
    """What came instead of an answer with 200."""

    def percentile(self, share: float) -> float:
        """The smallest time that at least this share of the answers took no longer than.

        Raises:
            BenchError: too few answers for that, or some failed.
        """
        if self.bad:
            raise BenchError(f"{len(self.bad)} requests failed, the first: {self.bad[0]}")
        if len(self.seconds) * (1 - share) < 1:
            raise BenchError(f"{len(self.seconds)} answers are too few for their {share:.0%}")
        return sorted(self.seconds)[math.ceil(len(self.seconds) * share) - 1]


def run(url: str, path: str, *, rate: float, seconds: float) -> Measured:
    """Asks ``rate`` times a second for so long, on kept-alive connections; from a process that
    everything else gives way to, so that what is measured is not the client."""
    with multiprocessing.get_context("spawn").Pool(1, elsewhere.ahead) as pool:
        return pool.apply(_run, (url, path, rate, seconds))


def _run(url: str, path: str, rate: float, seconds: float) -> Measured:
    measured = Measured()
    lock = threading.Lock()
    own = threading.local()
    host = urllib.parse.urlsplit(url).netloc

    def ask(due: float) -> None:
        late = time.perf_counter() - due
        told = ""
        try:
            if not hasattr(own, "connection"):
                own.connection, own.used = http.client.HTTPConnection(host, timeout=_TIMEOUT), 0.0
            if time.perf_counter() - own.used > _IDLE:
                own.connection.close()  # the next request opens it again
            own.connection.request("GET", path)
            answer = own.connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                told = f"{answer.status} {body[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            own.connection.close()
            told = f"{type(error).__name__}: {error}"
        own.used = time.perf_counter()
        took = own.used - due
        with lock:
            measured.late = max(measured.late, late)
            if told:
                measured.bad.append(told)
            else:
                measured.seconds.append(took)

    with ThreadPoolExecutor(_THREADS) as pool:
        begun = time.perf_counter()
        for due in _times(begun, rate, seconds):
            if (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            pool.submit(ask, due)
    return measured


def _times(begun: float, rate: float, seconds: float) -> Sequence[float]:
    return [begun + number / rate for number in range(int(rate * seconds))]
