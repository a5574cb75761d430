"""The first byte of a streamed answer: through the edge, and through the gateway, against direct.

A real python3-http function yields one piece, is idle for a moment, and yields another: a hop that
waits for more than what there is shows the moment. The three ways are asked in turns, each over a
kept connection of its own, so that what is measured is the hop and not its set-up.
"""

from __future__ import annotations

import socket
import statistics
import time
from pathlib import Path

from bench import harness
from bench.figures import Figure, Result, most
from bench.harness import BenchError, Platform
from bench.repository import OWNER, Repository
from core.store import Store, connect

REQUESTS = 200
"""Of each way in one round."""
IDLE = 0.005
"""Seconds between the first piece and the last."""
HANDLER = f"""
import time

def pieces():
    yield "data: first\\n\\n"
    time.sleep({IDLE})
    yield "data: last\\n\\n"

def handle(event, context):
    return pieces(), 200, {{"Content-Type": "text/event-stream"}}
"""
_END = b"0\r\n\r\n"


class Way:
    """A kept connection to the function."""

    def __init__(self, address: tuple[str, int] | Path, target: str) -> None:
        family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(address) if isinstance(address, Path) else address)
        self._request = f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self.p50: list[float] = []
        self.p99: list[float] = []

    def ask(self) -> float:
        """Milliseconds from the request to the first byte of the answer's body."""
        begun = time.perf_counter()
        self.socket.sendall(self._request)
        got = b""
        while b"data: first" not in got:
            got += self._receive(got)
        took = time.perf_counter() - begun
        while not got.endswith(_END):
            got += self._receive(got)
        if b"data: last" not in got:
            raise BenchError(f"an answer without its end: {got!r}")
        return took * 1000

    def keep(self, took: list[float]) -> None:
        self.p50.append(statistics.median(took))
        self.p99.append(statistics.quantiles(took, n=100)[98])

    def _receive(self, got: bytes) -> bytes:
        data = self.socket.recv(65536)
        if not data or not (got or data).startswith(b"HTTP/1.1 200"):
            raise BenchError(f"no answer of the function: {(got + data)[:300]!r}")
        return data


def run(repeat: int) -> Result:
    """One round that warms up, then ``repeat`` rounds."""
    with harness.scratch() as folder, harness.running(folder) as platform:
        repository = Repository(folder, platform, "streams")
        repository.write_stack(["stream"])
        (repository.folder / "stream").mkdir()
        (repository.folder / "stream" / "handler.py").write_text(HANDLER)
        repository.commit()
        repository.finish(repository.push())
        direct, edge, gateway = ways = _ways(platform, repository.path("stream"))
        for number in range(repeat + 1):
            took: list[list[float]] = [[] for _ in ways]
            for _ in range(REQUESTS):
                for way, times in zip(ways, took, strict=True):
                    times.append(way.ask())
            if number:
                for way, times in zip(ways, took, strict=True):
                    way.keep(times)
        for way in ways:
            way.socket.close()
    return Result(
        figures=[
            _figure("edge, p50", edge.p50, direct.p50),
            _figure("edge, p99", edge.p99, direct.p99),
            _figure("gateway, p50", gateway.p50, direct.p50),
            _figure("gateway, p99", gateway.p99, direct.p99),
            Figure(
                name="what the edge adds, p50",
                unit="ms",
                samples=[own - other for own, other in zip(edge.p50, direct.p50, strict=True)],
                aim=most(1),
            ),
        ],
        notes=[
            f"{REQUESTS} requests of each way in a round, in turns; the function is idle for "
            f"{IDLE * 1000:g} ms after its first piece."
        ],
    )


def _ways(platform: Platform, path: str) -> list[Way]:
    store = Store(connect(platform.settings.store_url))
    observed = store.observed(f"stream.{OWNER}")
    store.redis.close()
    if observed is None or not observed.endpoints:
        raise BenchError("the function has no endpoint")
    return [
        Way(Path(observed.endpoints[0].removeprefix("unix@")), "/"),
        Way(("127.0.0.1", platform.port), path),
        Way(platform.settings.gateway_socket, path),
    ]


def _figure(name: str, samples: list[float], reference: list[float]) -> Figure:
    return Figure(
        name=f"first byte through the {name}",
        unit="ms",
        samples=samples,
        reference="direct",
        reference_samples=reference,
    )
