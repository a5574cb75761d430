"""A reporter at work on a real store, and a forge that remembers what it was shown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from core import queues
from core.models import Artifact, Build, FunctionRow, FunctionSpec, LogLine, Release, State, now
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from forges import Deployment, Head, Report
from forges.events import ForgeRepository, PullRequest
from gateway.reports.reporting import Reporter
from tests.waiting import until

BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)
FNS = Repository(
    namespace="ann",
    name="fns",
    source="github",
    full_name="Ann/fns",
    forge_id="7",
    owner_id="1",
    deploy_branch="main",
)


@dataclass
class Thing:
    """One check, deployment or comment as the forge has it."""

    id: str
    of: Repository
    what: Report | Deployment | str
    """As it was shown last."""
    states: list[str] = field(default_factory=list)
    """All that it was shown as, one after the other, each once in a row."""
    times: list[float] = field(default_factory=list)


class Recorder:
    """A forge, as ``forges.Forge`` has it. Like the real ones it finds what it made by its name
    and commit, where it is not told."""

    name = "github"

    def __init__(self) -> None:
        self.things: list[Thing] = []
        self.asked = 0
        self.refuses: Callable[[Repository, str], None] = lambda *_: None
        """(repository, kind) → raises what the forge says instead."""
        self._lock = threading.Lock()

    # What is shown

    def report(self, repository: Repository, report: Report, known: str = "") -> str:
        name = f"{report.context} {report.commit}"
        return self._shown("report", repository, name, report, report.progress.value, known)

    def deployment(self, repository: Repository, deployment: Deployment, known: str = "") -> str:
        name = f"{deployment.environment} {deployment.commit}"
        state = "gone" if deployment.gone else deployment.progress.value
        return self._shown("deployment", repository, name, deployment, state, known)

    def comment(self, repository: Repository, number: int, text: str, known: str = "") -> str:
        return self._shown("comment", repository, f"#{number}", text, text, known)

    def _shown(
        self,
        kind: str,
        repository: Repository,
        name: str,
        what: Report | Deployment | str,
        state: str,
        known: str,
    ) -> str:
        self.asked += 1
        self.refuses(repository, kind)
        id_ = f"{kind} {repository.full_name} {name}"
        assert known in ("", id_), f"what was given for {id_} was {known}"
        with self._lock:
            thing = next((each for each in self.things if each.id == id_), None)
            if thing is None:
                thing = Thing(id_, repository, what)
                self.things.append(thing)
            thing.what = what
            thing.times.append(time.monotonic())
            if thing.states[-1:] != [state]:
                thing.states.append(state)
        return id_

    # What the tests ask

    def find(self, what: str) -> Thing | None:
        """The newest of which the id begins so, behind ``Ann/fns``."""
        with self._lock:
            return next(
                (
                    each
                    for each in reversed(self.things)
                    if each.id.replace(f" {each.of.full_name}", "", 1).startswith(what)
                ),
                None,
            )

    def check(self, context: str = "slipway", commit: str = "") -> Report:
        thing = self.find(f"report {context} {commit}")
        assert thing, f"{context} in {[each.id for each in self.things]}"
        assert isinstance(thing.what, Report)
        return thing.what

    def states(self, what: str) -> list[str]:
        thing = self.find(what)
        return list(thing.states) if thing else []

    # What is not asked here

    def clone_credential(self, repository: Repository) -> str:
        raise NotImplementedError

    def head(self, repository: Repository, reference: str, etag: str = "") -> Head | None:
        raise NotImplementedError

    def describe(self, repository: Repository) -> ForgeRepository:
        raise NotImplementedError

    def installation(self, repository: Repository) -> str:
        raise NotImplementedError

    def requests(self, repository: Repository) -> Sequence[PullRequest]:
        raise NotImplementedError


@contextmanager
def reporting(settings: Settings, store: Store, forge: Recorder) -> Iterator[Reporter]:
    """A reporter until the end of the block."""
    reporter = Reporter(settings, store, lambda _: forge)
    thread = threading.Thread(target=reporter.run)
    thread.start()
    try:
        yield reporter
    finally:
        reporter.stop()
        thread.join(20)
        assert not thread.is_alive()


def told_all(store: Store) -> None:
    """Waits until there is nothing left to tell."""
    until(lambda: not store.reporting(), 15, lambda: f"left: {store.reporting()}")


def begun(store: Store, commit: str, *names: str, repository: Repository = FNS) -> Release:
    """A release that is built, its functions waiting."""
    store.save_repository(repository)
    release = store.create_release(repository, commit * 40, "main")
    assert queues.dispatch(store, repository.key) == release.id
    release = store.move(release.id, BUILDER, State.BUILDING)
    store.save_rows(release.id, [FunctionRow(name=name, folder=f"fns/{name}") for name in names])
    return release


def write(store: Store, release: str, function: str, step: str, *texts: str) -> None:
    """A step begins, and prints something."""
    told = [(texts[0], "step"), *((text, "stdout") for text in texts[1:])]
    lines = [
        LogLine(time=now(), function=function, step=step, stream=stream, text=text)
        for text, stream in told
    ]
    store.append_log(release, lines)


def go_live(store: Store, release: Release, *names: str) -> None:
    artifacts = []
    for name in names:
        bundle = f"bundle:sha256:{release.commit[0] * 64}"
        spec = FunctionSpec(
            name=name,
            namespace=release.namespace,
            artifact=bundle,
            key="k",
            repository=release.repository,
        )
        artifacts.append(Artifact(name=name, key="k", artifact=bundle, spec=spec))
        store.save_row(release.id, FunctionRow(name=name, build=Build.BUILT, seconds=1.5))
    store.put_artifacts(release.id, release.commit, artifacts)
    store.switch(release.id, lambda _: 1)
    store.finish(release.id, "http://x")


def live(store: Store, commit: str, *names: str, repository: Repository = FNS) -> Release:
    release = begun(store, commit, *names, repository=repository)
    go_live(store, release, *names)
    return release


def changed(repository: Repository, **values: object) -> Repository:
    return msgspec.structs.replace(repository, **values)
