"""An empty function through the edge, against an empty Flask application on gunicorn.

Of the one everything counts that the platform runs: edge, function, collector and all others. The
other has no platform, as many workers as the function has processes, and as many threads. Then the
function's own processes alone, and the same for Node against its bare http server. Rounds of all
four alternate.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import census, figures, harness, processes, sleeping, wrk
from bench.figures import Figure, Result, least, most
from bench.harness import Platform
from bench.repository import Repository
from core.sandbox.interpreters import interpreters

SECONDS = 3
"""Length of one round."""
THREADS = 32
"""Requests that a function without max_inflight handles at once (slipway_watchdog/options.py)."""
_NODE = f"""\
module.exports = async (event, context) => context.status(200).succeed('{sleeping.TEXT}')
"""
_FLASK = f"""\
from flask import Flask

app = Flask(__name__)


@app.route("/")
def empty():
    return {sleeping.TEXT!r}
"""
_BARE = f"""\
require('node:http')
  .createServer((request, response) => response.end('{sleeping.TEXT}'))
  .listen(Number(process.argv[2]), '127.0.0.1')
"""


@dataclass
class Side:
    """One of those that are compared."""

    url: str
    cpu: Callable[[], dict[str, float]]
    """Seconds of CPU so far, by what used them."""
    rates: list[float] = field(default_factory=list)
    used: list[dict[str, float]] = field(default_factory=list)
    """For 100,000 requests."""

    def measure(self) -> None:
        before = self.cpu()
        done = wrk.run(self.url, SECONDS)
        per = 100_000 / done.requests
        self.rates.append(done.rate)
        self.used.append({name: (now - before[name]) * per for name, now in self.cpu().items()})

    def forget(self) -> None:
        """Drops the round that warmed up."""
        self.rates.clear()
        self.used.clear()

    @property
    def all(self) -> list[float]:
        return [sum(each.values()) for each in self.used]

    @property
    def own(self) -> list[float]:
        return [each["functions"] for each in self.used]


def run(repeat: int) -> Result:
    """Measures all sides, ``repeat`` rounds each after one that warms up."""
    with (
        harness.scratch() as folder,
        harness.running(folder) as platform,
        contextlib.ExitStack() as held,
    ):
        ours = _function(folder, platform, "python3-http", "handler.py", sleeping.HANDLER)
        workers = sum(not processes.sandboxed(pid) for pid in census.function_processes(platform))
        node = _function(folder, platform, "node", "handler.js", _NODE)
        flask = held.enter_context(_flask(folder / "flask", workers))
        bare = held.enter_context(_bare(folder / "bare"))
        sides = [ours, flask, node, bare]
        for side in sides:
            side.measure()
            side.forget()
        for number in range(repeat):
            for side in sides if number % 2 else reversed(sides):
                side.measure()
    gunicorn, http = "Flask on gunicorn", "Node's bare http server"
    return Result(
        figures=[
            Figure(
                name="requests, python3-http",
                unit="/s",
                samples=ours.rates,
                reference=gunicorn,
                reference_samples=flask.rates,
                aim=least(1, "ratio"),
            ),
            Figure(
                name="CPU for 100,000 requests, all of the platform",
                unit="s",
                samples=ours.all,
                reference=gunicorn,
                reference_samples=flask.all,
                aim=most(1, "ratio"),
            ),
            Figure(
                name="of that the function's own",
                unit="s",
                samples=ours.own,
                reference=gunicorn,
                reference_samples=flask.all,
                aim=most(25),
            ),
            Figure(
                name="requests, node",
                unit="/s",
                samples=node.rates,
                reference=http,
                reference_samples=bare.rates,
            ),
            Figure(
                name="CPU for 100,000 requests, node's own",
                unit="s",
                samples=node.own,
                reference=http,
                reference_samples=bare.all,
                aim=most(25),
            ),
        ],
        notes=[
            f"wrk: {wrk.CONNECTIONS} kept-alive connections, {wrk.THREADS} threads, {SECONDS} s a "
            f"round; load and server share the CPUs. gunicorn: gthread, workers: {workers}, "
            f"threads of each: {THREADS}.",
            f"CPU seconds, python3-http: {_shares(ours)}; node: {_shares(node)}.",
        ],
    )


def _function(folder: Path, platform: Platform, lang: str, file: str, code: str) -> Side:
    """Pushes an empty function of a language."""
    name = lang.partition("-")[0]
    repository = Repository(folder, platform, name)
    repository.write_stack([name], lang=lang)
    repository.write_code(name, code, file)
    repository.commit()
    repository.finish(repository.push())
    sleeping.call(platform.url, sleeping.path(name))
    return Side(platform.url + sleeping.path(name), lambda: census.cpu(platform))


@contextlib.contextmanager
def _flask(folder: Path, workers: int) -> Iterator[Side]:
    folder.mkdir()
    (folder / "app.py").write_text(_FLASK)
    port = harness.free_port()
    argv = [sys.executable, "-m", "gunicorn", "--worker-class=gthread", f"--workers={workers}"]
    argv += [f"--threads={THREADS}", f"--bind=127.0.0.1:{port}", "app:app"]
    with _serving(argv, folder, port) as side:
        yield side


@contextlib.contextmanager
def _bare(folder: Path) -> Iterator[Side]:
    folder.mkdir()
    (folder / "server.js").write_text(_BARE)
    port = harness.free_port()
    # The one that functions find.
    (node,) = (here for here, there in interpreters().binds if Path(there).name == "node")
    with _serving([str(node), "server.js", str(port)], folder, port) as side:
        yield side


@contextlib.contextmanager
def _serving(argv: Sequence[str], folder: Path, port: int) -> Iterator[Side]:
    url = f"http://127.0.0.1:{port}"
    env = harness.clean_environment(folder / "home")
    with (folder / "output").open("wb") as out:
        server = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )

    def cpu() -> dict[str, float]:
        return {"all": sum(map(processes.cpu_seconds, processes.tree([server.pid])))}

    try:
        harness.await_answer(url, "/", sleeping.TEXT)
        yield Side(url + "/", cpu)
    finally:
        server.terminate()
        server.wait(30)


def _shares(side: Side) -> str:
    shares = sorted(figures.breakdown(side.used).items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in shares)
