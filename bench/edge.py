"""Requests a second through the edge, and what they cost, against HAProxy alone.

The edge is started and driven as the platform does it; one route leads to a static responder,
because a real function would cost many times what the proxy does. Rounds of the two alternate.
"""

from __future__ import annotations

import contextlib
import re
import socket
import string
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import harness, processes, wrk
from bench.figures import Figure, Result, least, most
from bench.harness import BenchError
from core.settings import Settings
from runtime.controller import PASS_EVERY
from runtime.edge import Route, config
from runtime.edge.collector import Collector
from runtime.edge.driver import HAProxyEdge

SECONDS = 3
"""Length of one round."""
FUNCTION = "hello.bench"
PATH = f"/function/{FUNCTION}"
TEXT = "x" * 200
BACKLOG = 4096
HERE = Path(__file__).parent


@dataclass
class Side:
    """One of the two that are compared."""

    url: str
    pid: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of the proxy's processor time for 100,000 requests."""
    collecting: list[float] = field(default_factory=list)
    """The same of this process: it reads the log lines, and drives the edge."""

    def measure(self) -> None:
        proxy, own = processes.cpu_seconds(self.pid), time.process_time()
        done = wrk.run(self.url, SECONDS)
        per = 100_000 / done.requests
        self.rates.append(done.rate)
        self.cpu.append((processes.cpu_seconds(self.pid) - proxy) * per)
        self.collecting.append((time.process_time() - own) * per)

    def forget(self) -> None:
        """Drops the round that warmed up."""
        self.rates.clear()
        self.cpu.clear()
        self.collecting.clear()


def run(repeat: int) -> Result:
    """Measures both sides, ``repeat`` rounds each after one that warms up."""
    with harness.scratch() as folder, contextlib.ExitStack() as held:
        function = folder / "function.sock"
        direct = held.enter_context(_static(folder, function))
        slipway = held.enter_context(_slipway(folder, function))
        alone = held.enter_context(_alone(folder, function))
        sides = [slipway, alone]
        for side in sides:
            side.measure()
            side.forget()
        for number in range(repeat):
            for side in sides if number % 2 else reversed(sides):
                side.measure()
        unproxied = wrk.run(direct, SECONDS)
    return Result(
        figures=[
            Figure(
                name="requests through the edge",
                unit="/s",
                samples=slipway.rates,
                reference="HAProxy alone",
                reference_samples=alone.rates,
                aim=least(0.9, "ratio"),
            ),
            Figure(
                name="proxy's CPU for 100,000 requests",
                unit="s",
                samples=slipway.cpu,
                reference="HAProxy alone",
                reference_samples=alone.cpu,
                aim=most(1.2, "ratio"),
            ),
            Figure(
                name="collector's and driver's CPU for 100,000 requests",
                unit="s",
                samples=slipway.collecting,
                reference="collector alone",
                reference_samples=alone.collecting,
            ),
        ],
        notes=[
            f"wrk: {wrk.CONNECTIONS} kept-alive connections, {wrk.THREADS} threads, {SECONDS} s a "
            "round; load, proxy, function and collector share the CPUs.",
            f"Asked without a proxy, the static function gives {unproxied.rate:,.0f} requests/s.",
        ],
    )


@contextlib.contextmanager
def _static(folder: Path, function: Path) -> Iterator[str]:
    """The static responder, on ``function`` and on a port; gives that port's URL."""
    port = harness.free_port()
    text = _template("static.cfg.tmpl", function_socket=function, port=port, text=TEXT)
    path = folder / "static.cfg"
    path.write_text(text)
    url = f"http://127.0.0.1:{port}"
    with _haproxy(config.command(path)):
        harness.await_answer(url, "/", TEXT, timeout=10)
        yield url


@contextlib.contextmanager
def _slipway(folder: Path, function: Path) -> Iterator[Side]:
    """The edge as the supervisor starts it, driven and listened to as the controller does."""
    state = folder / "slipway"
    settings = Settings.from_env(
        {"SLIPWAY_STATE": str(state), "SLIPWAY_PORT": str(harness.free_port())}
    )
    settings.edge_folder.mkdir(parents=True)
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", settings.port))
        listener.listen(BACKLOG)
        held.enter_context(_collector(settings))
        path = config.write(settings, listener=listener.fileno())
        pid = held.enter_context(_haproxy(config.command(path), listener.fileno()))
        edge = HAProxyEdge(settings)
        routes = {FUNCTION: Route(revision="static", endpoints=[f"unix@{function}"])}
        deadline = time.monotonic() + 10
        while not edge.alive():
            if time.monotonic() > deadline:
                raise BenchError("the edge's admin socket did not answer within 10 s")
            time.sleep(0.05)
        held.enter_context(_driving(edge, routes))
        harness.await_answer(settings.base_url, PATH, TEXT, timeout=10)
        yield Side(settings.base_url + PATH, pid)


@contextlib.contextmanager
def _alone(folder: Path, function: Path) -> Iterator[Side]:
    """HAProxy with the configuration written by hand, its log read by a collector of its own."""
    state = folder / "alone"
    settings = Settings.from_env(
        {"SLIPWAY_STATE": str(state), "SLIPWAY_PORT": str(harness.free_port())}
    )
    settings.edge_folder.mkdir(parents=True)
    text = _template(
        "haproxy-alone.cfg.tmpl",
        function=FUNCTION,
        function_socket=function,
        log_format=_log_format(settings),
        log_socket=config.log_socket(settings),
        port=settings.port,
    )
    path = folder / "alone.cfg"
    path.write_text(text)
    with _collector(settings), _haproxy(config.command(path)) as pid:
        harness.await_answer(settings.base_url, PATH, TEXT, timeout=10)
        yield Side(settings.base_url + PATH, pid)


@contextlib.contextmanager
def _collector(settings: Settings) -> Iterator[None]:
    collector = Collector(settings)
    collector.only([FUNCTION])
    collector.start()
    try:
        yield
        # Lines that nobody reads would make the comparison one of nothing.
        if not collector.counts().get(FUNCTION):
            raise BenchError("the collector saw no request: the log line does not reach it")
    finally:
        collector.stop()


@contextlib.contextmanager
def _driving(edge: HAProxyEdge, routes: dict[str, Route]) -> Iterator[None]:
    """Passes as the controller does while nothing changes."""
    ended = threading.Event()

    def passes() -> None:
        while not ended.wait(PASS_EVERY):
            edge.apply(routes)

    edge.apply(routes)
    thread = threading.Thread(target=passes)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _haproxy(argv: Sequence[str], listener: int | None = None) -> Iterator[int]:
    handed = () if listener is None else (listener,)
    process = subprocess.Popen(
        argv,
        env={"LANG": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=handed,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def _template(name: str, **values: object) -> str:
    return string.Template((HERE / name).read_text()).substitute(values)


def _log_format(settings: Settings) -> str:
    """The log line of the edge's own configuration, so that the two cannot drift apart."""
    found = re.search(r"^\s*(log-format .*)$", config.render(settings, listener=0), re.MULTILINE)
    if found is None:
        raise BenchError("the edge's configuration has no log-format line any more")
    return found[1]
