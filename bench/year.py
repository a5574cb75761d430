"""The newspaper's year: 150 microservices, 2,200 releases a year, replayed at once.

Fifteen repositories of ten functions are pushed from side by side, each as soon as its last push
is decided; five of a hundred releases are bad (newspaper.py). The functions are asked all the time,
and each answer is held against the versions that it may be of. The reference is the same edit by
hand: stop, replace, start.

The newspaper is the Financial Times as Sarah Wells told of it in 2018, who had come from twelve
releases a year.
"""

from __future__ import annotations

import random
import re
import resource
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import byhand, census, harness, openloop, plot
from bench.figures import RESULTS, Figure, Result, most
from bench.harness import BenchError, Platform
from bench.newspaper import BAD, REPOSITORIES, Bad, Clone, Edit, schedule
from bench.repository import OWNER
from bench.traffic import Seen, Traffic, longest_restore

PER_YEAR, BEFORE = 2200, 12
"""Releases a year of the newspaper, and of the same before."""
SHARE = 0.05
RATE = 60.0
"""Requests a second, over all functions."""
SEED = 2018
_ENV = {"SLIPWAY_HEALTH_TIMEOUT": "3s", "SLIPWAY_WATCH": "3s", "SLIPWAY_WARM": "10s"}
_PUSHES = 12
"""At once: as many git requests as the gateway takes."""
_DECIDED = re.compile(
    r"slipway: (live|failed|rolled-back|superseded|cancelled) (r\S+?)(?::|$)", re.M
)
_ID = re.compile(r"\b(?:release|stored as) (r\d+\S*?)[ ;:]")
_AT_ONCE = 3
"""Functions that the first pushes bring at a time."""
_QUIET = 45.0
"""Seconds after the last release in which everything that it replaced has to go."""
_CLEANED = 720.0
"""Seconds in which what is left then may still go: rq's workers clean up every ten minutes."""
_SAMPLE = 15.0
_BY_HAND = 10


@dataclass(frozen=True)
class Done:
    """One release and what became of it."""

    id: str
    bad: Bad | None
    edit: Edit
    state: str
    begun: float
    seconds: float
    reason: str

    @property
    def as_expected(self) -> bool:
        wanted = {None: ("live", "replaced"), "errors": ("rolled-back",)}
        return self.state in wanted.get(self.bad, ("failed",))


@dataclass
class Year:
    """What one replay saw."""

    done: list[Done] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)
    """(seconds, bytes of memory, bytes of disk, functions that run) every so often."""
    seconds: float = 0.0
    begun: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    leaked: dict[str, int] = field(default_factory=dict)
    retries: int = 0


def run(releases: int) -> Result:
    """Replays one year of so many releases."""
    with harness.scratch() as folder, harness.running(folder, _ENV) as platform:
        year = replay(folder, platform, releases)
        hand = _by_hand(folder)
    return _told(year, *hand)


def replay(folder: Path, platform: Platform, releases: int) -> Year:
    """Sets the repositories up, releases, and looks what is left."""
    year = Year()
    clones = [Clone.make(folder, platform, number) for number in range(REPOSITORIES)]
    traffic = Traffic(platform.url, lambda f: f"/function/{f}.{OWNER}", rate=RATE, seed=SEED)
    pushes = _Pushes(platform, traffic, year)
    for clone in clones:
        pushes.first(clone)
        for name in clone.live:  # so that what counts requests has begun to
            harness.await_answer(platform.url, clone.repository.path(name), clone.live[name].answer)
    time.sleep(_QUIET / 3)
    before = census.functions(platform), census.others(platform)
    count = sum(len(clone.live) for clone in clones)
    plan = schedule(releases, SHARE, random.Random(SEED))
    left = iter(list(enumerate(plan)))
    lock = threading.Lock()

    def work(clone: Clone) -> None:
        while True:
            with lock:
                number, bad = next(left, (None, None))
            if number is None:
                return
            dice = random.Random(f"{SEED} {number} {clone.repository.name}")
            try:
                pushes.release(clone, clone.edit(dice, bad))
            except BaseException:
                with lock:
                    list(left)  # the others end as well
                raise

    cpu, own = census.cpu(platform), _own_cpu()
    year.begun = time.monotonic()
    with traffic, _Sampler(platform, year):
        _side_by_side(clones, work)
        year.seconds = time.monotonic() - year.begun
        used = {name: value - cpu.get(name, 0) for name, value in census.cpu(platform).items()}
        year.cpu = used | {"clients": _own_cpu() - own}
        time.sleep(_QUIET)
    year.seen = traffic.seen
    time.sleep(_QUIET / 3)  # without traffic, as before
    running = sum(len(clone.live) for clone in clones)
    end = time.monotonic() + _CLEANED
    while True:
        after = census.functions(platform), census.others(platform)
        year.leaked = census.leaked(before, after, count, running)
        if not year.leaked or time.monotonic() > end:
            return year
        time.sleep(_QUIET / 3)


class _Pushes:
    """Pushes releases and tells the traffic what may be seen."""

    def __init__(self, platform: Platform, traffic: Traffic, year: Year) -> None:
        self._platform = platform
        self._traffic = traffic
        self._year = year
        self._places = threading.Semaphore(_PUSHES)

    def first(self, clone: Clone) -> None:
        """The state in which the year begins: a few functions more with each push, as those of one
        release start together and have as little time to become healthy as any other."""
        wanted = list(clone.first.items())
        for count in range(_AT_ONCE, len(wanted) + _AT_ONCE, _AT_ONCE):
            clone.write(dict(wanted[:count]))
            state, _, told = self._push(clone)
            if state != "live":
                raise BenchError(f"the first push of {clone.repository.name} is {state}:\n{told}")
        clone.live = dict(clone.first)
        for name, each in clone.live.items():
            self._traffic.serves(name, each.answer)

    def release(self, clone: Clone, edit: Edit) -> None:
        """Pushes one edit and waits until it is decided."""
        traffic, before = self._traffic, edit.before
        visible = edit.bad in (None, "errors")
        for each in edit.changed:
            if each.name in before:
                traffic.releases(each.name, each.answer if visible else None)
        for name in edit.removed:
            traffic.leaves(name)
        begun = time.monotonic()
        state, id_, told = self._push(clone)
        took = time.monotonic() - begun
        live = state in ("live", "replaced")
        if live:
            clone.live = dict(edit.after)
        for each in edit.changed:
            if each.name in before:
                serves = each if live else before[each.name]
                traffic.released(each.name, serves.answer)
            elif live:
                traffic.serves(each.name, each.answer)
        if not live:
            for name in edit.removed:
                traffic.stays(name)
        done = Done(id_, edit.bad, edit, state, begun, took, told)
        self._year.done.append(done)
        if not done.as_expected:
            print(f"{id_} ({edit.bad or 'good'}) is {state}: {told[-400:]}", flush=True)
        if len(self._year.done) % 100 == 0:
            rate = len(self._year.done) / (time.monotonic() - self._year.begun) * 3600
            print(f"{len(self._year.done)} releases, {rate:,.0f} an hour", flush=True)

    def _push(self, clone: Clone) -> tuple[str, str, str]:
        """(state, id, what was said)."""
        for _ in range(20):
            with self._places:
                push = clone.repository.push()
                told, _ = push.communicate(timeout=600)
            if decided := _DECIDED.search(told):
                return decided[1], decided[2], told
            if stored := _ID.search(told):  # nobody shows it: too many are watched
                return *self._wait(stored[1]), told
            self._year.retries += 1  # no place: as a user would, again a moment later
            time.sleep(1)
        raise BenchError(f"the push is not taken:\n{told}")

    def _wait(self, id_: str) -> tuple[str, str]:
        while True:
            release = self._platform.api(f"/system/releases/{id_}")
            watch = release.get("watch") or {}
            moving = release["state"] in ("queued", "building", "testing", "staging")
            if not moving and watch.get("verdict") != "watching":
                return release["state"], id_
            time.sleep(0.3)


class _Sampler:
    """Notes memory and disk every so often."""

    def __init__(self, platform: Platform, year: Year) -> None:
        self._platform = platform
        self._year = year
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        state = self._platform.settings.state
        while True:
            self._year.samples.append(
                (
                    time.monotonic() - self._year.begun,
                    census.memory(self._platform),
                    census.disk(state),
                    len(list(self._platform.settings.instances.iterdir())),
                )
            )
            if self._ended.wait(_SAMPLE):
                return


def _side_by_side(clones: list[Clone], work: Callable[[Clone], None]) -> None:
    """Runs a thread for each repository; raises the first error when all have ended."""
    failed: list[BaseException] = []

    def one(clone: Clone) -> None:
        try:
            work(clone)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(clone,)) for clone in clones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _by_hand(folder: Path) -> tuple[list[float], list[float]]:
    """The same edit by hand: (seconds each, requests lost each, at ten a second)."""
    server = byhand.Server(folder / "byhand", harness.clean_environment(folder / "home"))
    seconds, lost = [], []
    try:
        server.write("version 0")
        server.install()
        server.start()
        harness.await_answer(server.url, "/", "version 0")
        for number in range(1, _BY_HAND + 1):
            asked: list[openloop.Measured] = []

            def ask(found: list[openloop.Measured] = asked) -> None:
                found.append(openloop.run(server.url, "/", rate=10, seconds=4))

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(0.5)
            begun = time.monotonic()
            server.stop()
            server.write(f"version {number}")
            server.start()
            seconds.append(harness.await_answer(server.url, "/", f"version {number}") - begun)
            asking.join()
            lost.append(float(len(asked[0].bad)))
    finally:
        server.stop()
    return seconds, lost


def _own_cpu() -> float:
    """Of this process and of the git clients that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _told(year: Year, by_hand: list[float], lost_by_hand: list[float]) -> Result:
    count = len(year.done)
    broken = {(each.function, each.text) for each in year.seen if each.kind == "broken"}
    failures = [d for d in year.done if any((e.name, e.answer) in broken for e in d.edit.changed)]
    restores = [
        took
        for done in failures
        for each in done.edit.changed
        if (took := longest_restore(year.seen, each.name, each.answer)) is not None
    ]
    lost = [each for each in year.seen if each.kind in ("lost", "other version")]
    unexpected = Counter(f"{d.bad or 'good'}: {d.state}" for d in year.done if not d.as_expected)
    per_hour = count / year.seconds * 3600
    total = sum(year.cpu.values())
    plot.year(year, restores, RESULTS / "year.svg", by_hand=statistics.median(by_hand))
    return Result(
        figures=[
            Figure(
                name="releases an hour",
                unit="",
                samples=[per_hour],
                reference="by hand, one after another",
                reference_samples=[3600 / statistics.median(by_hand)],
            ),
            Figure(
                name="releases after which a user saw an error",
                unit="%",
                samples=[len(failures) / count * 100],
                reference="bad releases",
                reference_samples=[sum(d.bad is not None for d in year.done) / count * 100],
            ),
            Figure(
                name="time to restore, first bad answer to first good one after the last",
                unit="s",
                samples=restores or [0.0],
                reference="stop, replace, start, once noticed",
                reference_samples=by_hand,
            ),
            Figure(
                name="requests lost or of a wrong version, each release",
                unit="",
                samples=[len(lost) / count],
                reference="by hand, at 10 requests/s",
                reference_samples=[statistics.mean(lost_by_hand)],
                aim=most(0),
            ),
            Figure(
                name="leaked resources", unit="", samples=[sum(year.leaked.values())], aim=most(0)
            ),
            Figure(name="CPU of one release", unit="s", samples=[total / count]),
            Figure(name="from push to decision", unit="s", samples=[d.seconds for d in year.done]),
        ],
        notes=[
            f"{count:,} releases in {year.seconds / 60:.1f} minutes; the newspaper had "
            f"{PER_YEAR:,} a year, before that {BEFORE}. Bad by kind: "
            + ", ".join(f"{kind} {sum(d.bad == kind for d in year.done)}" for kind in BAD)
            + f". Otherwise than expected: {_counted(unexpected)}.",
            f"{len(year.seen):,} requests at {RATE:g} a second; lost: "
            f"{_counted(Counter(e.kind + ' ' + e.text for e in lost))}.",
            f"Broken answers: {sum(e.kind == 'broken' for e in year.seen)}. Pushes that were not "
            f"taken at once and repeated: {year.retries}.",
            f"Leaked: {_counted(Counter(year.leaked))}.",
            "CPU seconds of one release: "
            + ", ".join(
                f"{name} {value / count:.2f}"
                for name, value in sorted(year.cpu.items(), key=lambda item: -item[1])
            )
            + ".",
            "Memory of the platform (PSS), disk of its state, functions that run: "
            + "; ".join(
                f"at {at / 60:.0f} min {memory / 2**20:.0f} MB, {disk / 2**20:.0f} MB, {running}"
                for at, memory, disk, running in (year.samples[0], year.samples[-1])
            )
            + ".",
        ],
    )


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in found.most_common(8)) or "nothing"
