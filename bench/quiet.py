"""Four heavy builds at once beside a function that needs 10 ms of CPU, asked 20 times a second.

That is 20 % of one CPU. Phases of idle and of building alternate; the function is asked at a fixed
rate the whole time, and each request is timed from when it was due. Who asks and who pushes would
be on other machines: the one goes before everything else, the others give way. The work is a fixed
number of steps, measured to take 10 ms on this machine at rest: what a build does to caches and
clock rates counts too. A build has many dependencies that are installed anew each time, a large
context, and a test that keeps the CPU and half of the memory it may use busy for 10 s.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import elsewhere, harness, openloop
from bench.figures import Figure, Result, most
from bench.harness import BenchError, Platform
from bench.repository import Repository

BUILDS = 4
ENV = {"SLIPWAY_WORKERS": str(BUILDS), "SLIPWAY_WATCH": "0s", "SLIPWAY_WARM": "0s"}
"""Builds follow one another at once: no push waits for a verdict."""
RATE = 20.0
WORK = 0.010
"""Seconds of CPU of one call."""
PHASE = 60.0
"""Seconds: 1,200 requests, of which twelve are slower than the 99th percentile."""
MOST_ROUNDS = 5
_SETTLE = 10.0
"""Seconds from the first push until all four builds are at work, and after the last one."""
_CONTEXT = 64 * 2**20
_PACKAGES = (
    *("numpy", "pandas", "scipy", "sqlalchemy", "django", "boto3", "cryptography", "lxml"),
    *("pillow", "aiohttp", "pydantic", "jinja2", "sympy", "networkx", "pygments", "babel"),
)

_HANDLER = """\
def work(steps):
    x = 1
    for _ in range(steps):
        x = (x * 31 + 7) % 1000003
    return x


def handle(event, context):
    return str(work({steps}))
"""

_TEST = """\
import hashlib
import multiprocessing
import time


def burn(seconds):
    ended = time.monotonic() + seconds
    block = bytearray(200 * 2**20)
    while time.monotonic() < ended:
        for at in range(0, len(block), 4096):
            block[at] = (block[at] + 1) % 256
        hashlib.sha256(block).digest()


def test_heavy():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(burn, [10, 10])
"""


def run(repeat: int) -> Result:
    """Measures idle and busy in turns, at most five rounds after a cold one."""
    with harness.scratch() as folder, harness.running(folder, ENV) as platform:
        return measure(folder, platform, min(repeat, MOST_ROUNDS))


def measure(folder: Path, platform: Platform, rounds: int) -> Result:
    """On a platform that has at least as many workers as there are builds."""
    steps = _steps()
    asked = Repository(folder, platform, "asked")
    asked.write_stack(["asked"])
    asked.write_function("asked", "")
    (asked.folder / "asked/handler.py").write_text(_HANDLER.format(steps=steps))
    asked.commit()
    asked.finish(asked.push())
    path = asked.path("asked")
    heavy = [Heavy(folder, platform, f"heavy{number}") for number in range(BUILDS)]
    idle, busy, counts, ended = [], [], [], []
    for number in range(rounds + 1):
        idle.append(openloop.run(platform.url, path, rate=RATE, seconds=PHASE))
        with elsewhere.behind(), building(heavy) as made:
            time.sleep(_SETTLE)
            before = len(made)
            busy.append(openloop.run(platform.url, path, rate=RATE, seconds=PHASE))
            counts.append(len(made) - before)
        ended.append(len(made))
        time.sleep(_SETTLE)
        _say(number, idle[-1], busy[-1], counts[-1])
    del idle[0], busy[0], counts[0], ended[0]  # the first one downloads
    return Result(
        figures=[
            Figure(
                name=f"a call of {WORK * 1000:g} ms, {word}, during {BUILDS} heavy builds",
                unit="ms",
                samples=[each.percentile(share) * 1000 for each in busy],
                reference="idle",
                reference_samples=[each.percentile(share) * 1000 for each in idle],
                aim=aim,
            )
            for word, share, aim in (
                ("p50", 0.5, None),
                ("p99", 0.99, most(1.5, of="ratio")),
            )
        ],
        notes=[
            f"{RATE:g} requests/s, {len(busy[0].seconds)} in each phase, timed from when they were "
            f"due; the client itself was late by {max(e.late for e in busy) * 1000:.1f} ms at most "
            f"while builds ran, by {max(e.late for e in idle) * 1000:.1f} ms at rest.",
            f"Builds that ended in a phase of {PHASE:g} s: {', '.join(map(str, counts))}; from a "
            f"round's first push to the end of its last: {', '.join(map(str, ended))}.",
        ],
    )


class Heavy:
    """A repository whose every push is a heavy build."""

    def __init__(self, folder: Path, platform: Platform, name: str) -> None:
        self.repository = Repository(folder, platform, name)
        self.function = name
        self.repository.write_stack([name])
        self.number = 0

    def build(self) -> None:
        """Pushes another version and waits until it is live."""
        self.number += 1
        repository, name = self.repository, self.function
        repository.write_function(name, f"version {self.number}")
        folder = repository.folder / name
        # One package less each time, so that the layer is another one each time.
        left_out = self.number % len(_PACKAGES)
        wanted = [each for number, each in enumerate(_PACKAGES) if number != left_out]
        (folder / "requirements.txt").write_text("\n".join(wanted) + "\n")
        (folder / "handler_test.py").write_text(_TEST)
        (folder / "large").write_bytes(os.urandom(_CONTEXT))
        repository.commit()
        repository.finish(repository.push())


@contextmanager
def building(heavy: list[Heavy]) -> Iterator[list[str]]:
    """Builds all of them again and again until it is left; gives the list of those that ended."""
    ended = threading.Event()
    made: list[str] = []
    failed: list[BaseException] = []

    def again_and_again(each: Heavy) -> None:
        try:
            while not ended.is_set():
                each.build()
                made.append(each.function)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=again_and_again, args=(each,)) for each in heavy]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    if failed:
        raise BenchError(f"a heavy build failed: {failed[0]}") from failed[0]


def _steps() -> int:
    """How many steps of the handler's work take ``WORK`` seconds of CPU here."""
    found: dict[str, object] = {}
    exec(_HANDLER.format(steps=0), found)
    work = found["work"]
    assert callable(work)
    tried = 100_000
    seconds = []
    for _ in range(11):
        begun = time.thread_time()
        work(tried)
        seconds.append(time.thread_time() - begun)
    return round(tried * WORK / statistics.median(seconds))


def _say(number: int, idle: openloop.Measured, busy: openloop.Measured, builds: int) -> None:
    told = []
    for share in (0.5, 0.99):
        before, then = (each.percentile(share) * 1000 for each in (idle, busy))
        told.append(f"p{share * 100:g} {before:.1f} → {then:.1f} ms")
    print(f"round {number}: {', '.join(told)}; {builds} builds ended", flush=True)
