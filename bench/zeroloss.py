"""What releases cost those who call meanwhile, and how soon a killed edge serves again.

A steady load, half of it on kept-alive connections and half on fresh ones, goes to one function
while it is released again and again: another value of a variable, so that nothing is built, and
another revision. The reference is the same function by hand, under the same load, stopped and
started again.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import byhand, elsewhere, harness
from bench.figures import Figure, Result, most, percentile
from bench.harness import BenchError, Platform
from bench.repository import Repository
from supervisor.leftovers import Leftovers

_ENV = {"SLIPWAY_WATCH": "0s"}
"""So that a push ends with the switch, which is what is measured, and not ten seconds later."""
RELEASES = 20
"""In each round."""
RATE = 100.0
"""Requests a second."""
AFTER = 0.5
"""Seconds after a release that still count as its switch; then so long is between two."""
BETWEEN = 1.0
SETTLE = 4.0
"""Seconds between two kills of the edge: one that dies at once again is started more slowly."""
THREADS = 16
TIMEOUT = 30.0
FUNCTION = "steady"


@dataclass
class Load:
    """Asks at a fixed rate, whether or not those before have been answered. Each request is timed
    from when it was due."""

    url: str
    path: str
    answered: list[tuple[float, float]] = field(default_factory=list)
    """When it was due, and the seconds until its last byte."""
    failed: list[str] = field(default_factory=list)
    _own: threading.local = field(default_factory=threading.local)

    @contextmanager
    def running(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=[done], daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _run(self, done: threading.Event) -> None:
        elsewhere.ahead()  # this thread and those that it begins
        begun = time.perf_counter()
        number = 0
        with ThreadPoolExecutor(THREADS) as pool:
            while not done.wait(max(begun + number / RATE - time.perf_counter(), 0)):
                pool.submit(self._ask, begun + number / RATE, fresh=number % 2 > 0)
                number += 1

    def _ask(self, due: float, *, fresh: bool) -> None:
        host = urllib.parse.urlsplit(self.url).netloc
        connection = None if fresh else getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
        try:
            connection.request("GET", self.path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise http.client.HTTPException(f"{answer.status} {body[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # the next request opens it again
            self.failed.append(f"{type(error).__name__}: {error}")
        else:
            self.answered.append((due, time.perf_counter() - due))
        if fresh:
            connection.close()
        else:
            self._own.connection = connection


@dataclass
class Round:
    """What some releases did to the load."""

    requests: int
    failed: list[str]
    during: float
    """p99 in milliseconds while a release was under way."""
    between: float


def run(repeat: int) -> Result:
    """Measures ``repeat`` rounds of RELEASES releases, as many of restarts by hand, and as many
    kills of the edge."""
    with harness.scratch() as folder, harness.running(folder, _ENV) as platform:
        repository = Repository(folder, platform, FUNCTION)
        repository.write_function(FUNCTION, "steady")
        _release(repository, 0)
        server = byhand.Server(folder / "byhand", harness.clean_environment(folder / "home"))
        server.write("steady")
        server.install()
        ours, hands = [], []
        number = 0
        try:
            server.start()
            harness.await_answer(server.url, "/", "steady")
            for _ in range(repeat):
                ours.append(_round(platform, repository, number))
                number += RELEASES
                hands.append(_by_hand(server))
        finally:
            server.stop()
        kills = [_kill(platform, repository.path(FUNCTION)) for _ in range(repeat)]
    failed = [each for one in ours for each in one.failed]
    notes = [
        f"{len(ours) * RELEASES} releases under {RATE:.0f} requests/s, "
        f"{sum(each.requests for each in ours)} requests, {len(failed)} failed; by hand "
        f"{len(hands) * RELEASES} restarts, {sum(each.requests for each in hands)} requests, "
        f"{sum(len(each.failed) for each in hands)} failed."
    ]
    if failed:
        notes.append(f"The first that failed: {failed[0]}")
    return Result(
        figures=[
            Figure(
                name=f"failed requests of {len(ours) * RELEASES} releases",
                unit="",
                samples=[len(failed)],
                reference="stop, start",
                reference_samples=[sum(len(each.failed) for each in hands)],
                aim=most(0),
            ),
            Figure(
                name="p99 while a release is under way",
                unit="ms",
                samples=[each.during for each in ours],
                reference="between releases",
                reference_samples=[each.between for each in ours],
            ),
            Figure(
                name="p99 while it is restarted by hand",
                unit="ms",
                samples=[each.during for each in hands],
                reference="between restarts",
                reference_samples=[each.between for each in hands],
            ),
            Figure(
                name="edge killed, to the first answer",
                unit="s",
                samples=kills,
                aim=most(1),
            ),
        ],
        notes=notes,
    )


def _round(platform: Platform, repository: Repository, number: int) -> Round:
    load = Load(platform.url, repository.path(FUNCTION))
    changes = []
    with load.running():
        time.sleep(BETWEEN)
        for each in range(RELEASES):
            begun = time.perf_counter()
            _release(repository, number + each + 1)
            time.sleep(AFTER)
            changes.append((begun, time.perf_counter()))
            time.sleep(BETWEEN)
    return _sort(load, changes)


def _by_hand(server: byhand.Server) -> Round:
    load = Load(server.url, "/")
    changes = []
    with load.running():
        time.sleep(BETWEEN)
        for _ in range(RELEASES):
            begun = time.perf_counter()
            server.stop()
            server.start()
            harness.await_answer(server.url, "/", "steady")
            time.sleep(AFTER)
            changes.append((begun, time.perf_counter()))
            time.sleep(BETWEEN)
    if not load.failed:
        raise BenchError("restarts by hand lost nothing: the load did not reach the server")
    return _sort(load, changes)


def _sort(load: Load, changes: list[tuple[float, float]]) -> Round:
    during: list[float] = []
    between: list[float] = []
    for due, took in load.answered:
        within = any(begun <= due <= ended for begun, ended in changes)
        (during if within else between).append(took)
    return Round(
        requests=len(load.answered) + len(load.failed),
        failed=load.failed,
        during=_p99(during),
        between=_p99(between),
    )


def _p99(seconds: list[float]) -> float:
    """Milliseconds."""
    if len(seconds) < 100:
        raise BenchError(f"{len(seconds)} answers are too few for a p99")
    return 1000 * percentile(seconds, 0.99)


def _release(repository: Repository, number: int) -> None:
    repository.write_stack([FUNCTION])
    with (repository.folder / "stack.yml").open("a") as out:
        out.write(f"    environment:\n      NUMBER: '{number}'\n")
    repository.commit()
    repository.finish(repository.push())


def _kill(platform: Platform, path: str) -> float:
    """Kills the edge; seconds until a connection that is made then has its answer."""
    time.sleep(SETTLE)
    living = Leftovers(platform.state / "parts").read()
    for each in living:
        if each.name == "edge":
            os.kill(each.pid, signal.SIGKILL)
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", platform.port), TIMEOUT) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    took = time.perf_counter() - begun
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise BenchError(f"the edge that was started again answered {answer[:300]!r}")
    return took
