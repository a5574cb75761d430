"""10,000 pushes whose events are all dropped, all doubled, or all shuffled: how long until every
repository's head is live, and whether a wrong version ever is.

Repositories of one function each lie behind smart HTTP, as at a forge. Every push moves a branch by
one commit; each function answers the number of its commit, so that who asks sees which version is
live. A version is wrong where it is lower than one that was seen before of the same function, or
another than the head's once everything had converged.
"""

from __future__ import annotations

import http.client
import random
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench import events, harness
from bench.events import Source
from bench.figures import Figure, Result, most
from bench.harness import BenchError, Platform
from tests.e2e.forge import serving

REPOSITORIES, VERSIONS = 50, 201
PUSHES = REPOSITORIES * (VERSIONS - 1)
RATE = 50
"""Pushes a second, of all repositories together."""
LATE = 20.0
"""Seconds by which a shuffled event comes late, at most."""
AFTERWARDS = 40.0
"""Seconds that are watched once all have converged: longer than a sweep."""
PATIENCE = 300.0
SEED = 7
KINDS = ("dropped", "doubled", "shuffled")


@dataclass
class Watcher:
    """Asks every function again and again which version it answers."""

    platform: Platform
    sources: list[Source]
    seen: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    settled: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watcher:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def await_heads(self) -> None:
        """Returns once every function was seen at its head."""
        deadline = time.monotonic() + PATIENCE
        while behind := [each for each in self.sources if self.seen.get(each.number) != each.at]:
            if time.monotonic() > deadline:
                raise BenchError(f"{len(behind)} of {len(self.sources)} did not come to their head")
            time.sleep(0.05)

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for source in self.sources:
                self._look(source)

    def _look(self, source: Source) -> None:
        try:
            status, body = harness.get(self.platform.url, source.path)
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(f"{source.name}: {type(error).__name__}")
            return
        if status != 200:
            self.wrong.append(f"{source.name}: {status}")
            return
        version = int(body)
        before = self.seen.get(source.number, 0)
        if version < before or (self.settled and version != source.at):
            self.wrong.append(f"{source.name}: {version} after {before}, the head is {source.at}")
        self.seen[source.number] = max(version, before)


def run(repeat: int) -> Result:  # noqa: ARG001 - measured once, as it takes half an hour
    """One run of each kind, on a platform of its own."""
    figures, notes = [], []
    for kind in KINDS:
        took, alone, wrong, releases = _measure(kind)
        figures += [
            Figure(
                name=f"{PUSHES:,} pushes, events {kind}: from the last one until all are live",
                unit="s",
                samples=[took],
                reference="one push with its event, nothing else",
                reference_samples=[alone],
                aim=most(60),
            ),
            Figure(
                name=f"the same: wrong versions seen live, events {kind}",
                unit="",
                samples=[float(len(wrong))],
                aim=most(0),
            ),
        ]
        told = f"{kind}: the last release has number {releases:,}, as each delivery takes one."
        notes.append(f"{told} {'; '.join(wrong[:5])}".strip())
    return Result(
        figures=figures,
        notes=[f"{REPOSITORIES} repositories, {RATE} pushes a second.", *notes],
    )


def _measure(kind: str) -> tuple[float, float, list[str], int]:
    """(seconds to converge, of one push alone, what was wrong, releases)."""
    secret = secrets.token_hex(16)
    with harness.scratch() as folder, serving(folder / "forge") as forge:
        sources = _sources(folder / "forge")
        env = {"SLIPWAY_GITHUB_WEBHOOK_SECRET": secret, "SLIPWAY_GITHUB_URL": forge.url}
        with harness.running(folder, env) as platform, Watcher(platform, []) as watcher:
            for each in sources:
                _accepted(platform, secret, each.event())
            for each in sources:
                harness.await_answer(platform.url, each.path, "0", timeout=PATIENCE)
            watcher.sources = sources
            sources[0].move(1)
            begun = time.monotonic()
            _accepted(platform, secret, sources[0].event())
            alone = harness.await_answer(platform.url, sources[0].path, "1") - begun
            _push_all(kind, platform, secret, sources)
            begun = time.monotonic()
            watcher.await_heads()
            took = time.monotonic() - begun
            watcher.settled = True
            time.sleep(AFTERWARDS)
            releases = platform.api("/system/releases?limit=1")[0]["id"]
        return took, alone, watcher.wrong, int(releases[1:].split("-")[0])


def _sources(folder: Path) -> list[Source]:
    home = folder / events.OWNER
    home.mkdir(parents=True)
    sources = [Source(number, home / f"app{number}.git") for number in range(REPOSITORIES)]
    for each in sources:
        each.make(VERSIONS)
    return sources


def _push_all(kind: str, platform: Platform, secret: str, sources: list[Source]) -> None:
    """Moves every branch to its last commit, and sends what is sent of it; returns when the last
    event was delivered, or of those that are dropped, would have been."""
    chance = random.Random(SEED)
    begun = time.monotonic()
    due: list[tuple[float, bytes]] = []
    order = [each for each in sources for _ in range(VERSIONS - 1 - each.at)]
    chance.shuffle(order)
    sent = []
    with ThreadPoolExecutor(16) as pool:
        for number, source in enumerate(order):
            at = begun + number / RATE
            time.sleep(max(at - time.monotonic(), 0))
            source.move(source.at + 1)
            body = source.event()
            if kind == "doubled":
                delivery = secrets.token_hex(8)
                for _ in range(2):
                    sent.append(pool.submit(_accepted, platform, secret, body, delivery))
            elif kind == "shuffled":
                due.append((at + chance.uniform(0, LATE), body))
                due.sort(key=lambda each: each[0])
                while due and due[0][0] < time.monotonic():
                    sent.append(pool.submit(_accepted, platform, secret, due.pop(0)[1]))
        for at, body in due:
            time.sleep(max(at - time.monotonic(), 0))
            sent.append(pool.submit(_accepted, platform, secret, body))
    for each in sent:
        each.result()


def _accepted(platform: Platform, secret: str, body: bytes, delivery: str = "") -> None:
    status, answer = events.send(platform, secret, body, delivery)
    if status != 202:
        raise BenchError(f"an event was answered with {status}: {answer[:300]!r}")
