"""Asynchronous calls: how many are taken a second, and how many are made, against callers who wait.

Two ``python3-http`` functions of two owners, as nobody gets more than half of the queue worker. It
makes two calls at a time; the reference is the same calls by two callers on kept connections, one
of each function. Rounds of the two alternate. A call counts as made once its answer can be read.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import harness
from bench.figures import Figure, Result
from bench.harness import BenchError, Platform
from bench.repository import Repository
from core.store import Store, connect

CALLS = 1000
"""In one round."""
LARGE_CALLS = 200
SENDERS = 4
SMALL, LARGE = b"x" * 200, b"x" * 64 * 1024
"""Bodies: in the store, and in a file."""
OWNERS = ("ann", "bob")
SECONDS = 120.0
"""The longest that a round may take."""
_own = threading.local()


def run(repeat: int) -> Result:
    """One round that warms up, then ``repeat`` rounds."""
    taken: list[float] = []
    large: list[float] = []
    made: list[float] = []
    waited: list[float] = []
    env = {"SLIPWAY_QUEUE_WORKERS": "2", "SLIPWAY_ASYNC_QUEUE": "256Mi"}
    with harness.scratch() as folder, harness.running(folder, env) as platform:
        functions = [_push(folder, platform, owner) for owner in OWNERS]
        store = Store(connect(platform.settings.store_url))
        for number in range(repeat + 1):
            rates = (
                *_later(platform, store, functions, SMALL, CALLS),
                _at_once(platform, functions),
                _later(platform, store, functions, LARGE, LARGE_CALLS)[0],
            )
            if number:
                for samples, rate in zip((taken, made, waited, large), rates, strict=True):
                    samples.append(rate)
        store.redis.close()
    return Result(
        figures=[
            Figure(name="calls taken (202), 200 bytes", unit="/s", samples=taken),
            Figure(name="calls taken (202), 64 KiB", unit="/s", samples=large),
            Figure(
                name="calls made, from the first 202 to the last answer",
                unit="/s",
                samples=made,
                reference="two callers who wait",
                reference_samples=waited,
            ),
        ],
        notes=[
            f"{CALLS} calls a round ({LARGE_CALLS} large ones), by {SENDERS} senders on kept "
            "connections; they are made while others are taken. SLIPWAY_QUEUE_WORKERS=2."
        ],
    )


def _push(folder: Path, platform: Platform, owner: str) -> str:
    """``name.namespace`` of a function that is live."""
    repository = Repository(folder, platform, f"{owner}-calls", owner=owner)
    repository.write_stack(["called"])
    repository.write_function("called", "done")
    repository.commit()
    repository.finish(repository.push())
    return f"called.{owner}"


def _later(
    platform: Platform, store: Store, functions: Sequence[str], body: bytes, calls: int
) -> tuple[float, float]:
    """(calls taken a second, calls made a second)."""
    begun = time.perf_counter()
    _spread(
        SENDERS,
        calls,
        lambda number: _post(
            platform, f"/async-function/{functions[number % len(functions)]}", body, 202
        ),
    )
    taken = calls / (time.perf_counter() - begun)
    while store.waiting_calls():
        if time.perf_counter() - begun > SECONDS:
            raise BenchError(f"{store.waiting_calls()} calls still wait after {SECONDS:g} s")
        time.sleep(harness.POLL)
    return taken, calls / (time.perf_counter() - begun)


def _at_once(platform: Platform, functions: Sequence[str]) -> float:
    """Calls a second of callers who wait, one of each function."""
    begun = time.perf_counter()
    _spread(
        len(functions),
        CALLS,
        lambda number: _post(
            platform, f"/function/{functions[number % len(functions)]}", SMALL, 200
        ),
    )
    return CALLS / (time.perf_counter() - begun)


def _spread(callers: int, calls: int, call: Callable[[int], None]) -> None:
    """Has so many callers make the calls side by side: each every so many-th of them."""

    def some(first: int) -> None:
        for number in range(first, calls, callers):
            call(number)

    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(some, first) for first in range(callers)]:
            done.result()


def _post(platform: Platform, path: str, body: bytes, wanted: int) -> None:
    connection = getattr(_own, "connection", None)
    if connection is None:
        connection = _own.connection = http.client.HTTPConnection(
            "127.0.0.1", platform.port, timeout=30
        )
    connection.request("POST", path, body)
    answer = connection.getresponse()
    told = answer.read()
    if answer.status != wanted:
        raise BenchError(f"{path} answered {answer.status}: {told[:300]!r}")
