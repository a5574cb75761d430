"""One installation that runs are done to, and its repositories."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil

from core.failpoints import VARIABLE
from core.store import Store, connect
from tests.chaos import audit
from tests.chaos.history import BASE, Accepted, Commit, Function, History
from tests.chaos.points import Points
from tests.e2e.platform import Platform, Repository, running

SETTINGS = {"SLIPWAY_HEALTH_TIMEOUT": "3s", "SLIPWAY_DRAIN_TIMEOUT": "5s"}
WATCH = {
    False: {"SLIPWAY_WATCH": "0s", "SLIPWAY_WARM": "0s"},
    True: {"SLIPWAY_WATCH": "2s", "SLIPWAY_WARM": "2s"},
}
CONVERGES = 240.0
"""Seconds after which what is wrong stays so, on a machine that others use as well. A push that is
lost is looked for every minute."""


class Subject:
    def __init__(self, platform: Platform, owner: str) -> None:
        self.platform = platform
        self.owner = owner
        self.points = Points(platform.folder / "points")
        self.store = Store(connect(platform.settings.store_url))
        self.histories: dict[tuple[str, str], History] = {}
        self.changing = platform.repository(owner, "fns")
        self.still = platform.repository(f"{owner}-still", "fns")
        """Another owner's, which is never pushed again: it must not notice anything."""

    def prepare(self) -> None:
        """Pushes the first commits."""
        for repository in (self.changing, self.still):
            self._secret(repository.owner)
            self.histories[repository.owner, repository.name] = History()
            self.push(repository, BASE)
        self.converge()

    @property
    def history(self) -> History:
        return self.histories[self.owner, self.changing.name]

    def base(self) -> Commit:
        """The commit that is live; it has the functions of BASE."""
        live = self.history.commit(audit.live(self.platform, self.owner, self.changing.name))
        assert live is not None
        if live.functions.keys() != BASE.functions.keys():
            number = str(len(self.history.pushes))
            functions = {
                name: replace(live.functions.get(name, Function(name, "0", number)), broken="")
                for name in BASE.functions
            }
            live = self.push(self.changing, Commit(functions)).commit
            self.converge()
        return live

    # What users do

    def push(self, repository: Repository, commit: Commit) -> Accepted:
        """Pushes until git has taken it; the history has it from then on."""
        commit = self._commit(repository, commit)
        deadline = time.monotonic() + 60
        what = f"{commit.id}:refs/heads/main"
        while True:
            status, told = -1, ""
            with suppress(subprocess.TimeoutExpired):  # stored, and built for longer than we look
                taken = repository.git("push", repository.url, what, check=False)
                status, told = taken.returncode, taken.stderr
            if status == 0 or self.stored(repository) == commit.id:
                return self.histories[repository.owner, repository.name].accept(commit)
            assert time.monotonic() < deadline, f"no push is taken: {told}"
            time.sleep(0.2)

    def push_and_leave(
        self, repository: Repository, commit: Commit, within: float
    ) -> Accepted | None:
        """Pushes once, and goes on as soon as git has stored it; None: it has not."""
        commit = self._commit(repository, commit)
        client = threading.Thread(
            target=repository.git,
            args=("push", repository.url, f"{commit.id}:refs/heads/main"),
            kwargs={"check": False},
        )
        client.start()
        deadline = time.monotonic() + within
        while client.is_alive() and time.monotonic() < deadline:
            if self.stored(repository) == commit.id:
                break
            time.sleep(0.02)
        if self.stored(repository) != commit.id:
            return None
        return self.histories[repository.owner, repository.name].accept(commit)

    def delete(self, repository: Repository, commit: Commit) -> Accepted:
        """Deletes the deploy branch, as ``push``."""
        deadline = time.monotonic() + 60
        while self.stored(repository):
            taken = repository.git("push", repository.url, ":refs/heads/main", check=False)
            assert time.monotonic() < deadline, f"the branch stays: {taken.stderr}"
        return self.histories[repository.owner, repository.name].accept(commit)

    def _commit(self, repository: Repository, commit: Commit) -> Commit:
        for path in repository.folder.glob("[!.]*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return replace(commit, id=repository.commit(commit.files()))

    def stored(self, repository: Repository) -> str:
        """The head of main in our own remote."""
        folder = self.platform.settings.git_folder / repository.owner / f"{repository.name}.git"
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "refs/heads/main"],
            cwd=folder,
            env={
                "PATH": "/usr/bin:/bin",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    def _secret(self, namespace: str) -> None:
        """Functions here have one each, so that what holds it is looked after as well."""
        for path, body in (
            ("/system/namespace/", {"name": namespace, "labels": {"openfaas": "1"}}),
            ("/system/secrets", {"name": "word", "namespace": namespace, "value": "x"}),
        ):
            data = json.dumps(body).encode()
            answer = self.platform.request(path, method="POST", data=data, admin=True)
            assert answer.status in (201, 202), answer.text

    # What happens to it

    def kill(self, victim: str, standing: int) -> None:
        """``kill -9``; ``standing``: pid of who stands at the step."""
        platform = self.platform
        match victim:
            case "horse":
                os.kill(standing, 9)
            case "worker":
                psutil.Process(standing).parent().kill()
            case "gateway":
                master = psutil.Process(platform.part("gateway"))
                for each in [master, *master.children()]:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            case "supervisor":
                assert platform.process is not None
                platform.process.kill()
                platform.process.wait()
            case "everything":
                platform.kill_everything()
            case _:
                os.kill(platform.part(victim), 9)

    def revive(self) -> None:
        """`slipway up` again, where it was killed."""
        assert self.platform.process is not None
        if self.platform.process.poll() is not None:
            self.platform.start()

    def converge(self) -> float:
        """Waits until the auditor has no complaint; returns after how many seconds.

        Raises:
            Wrong: it still has some.
        """
        begun = time.monotonic()
        while True:
            try:
                wrong = audit.complaints(self.platform, self.store, self.histories)
            except Exception as error:  # parts are away: an answer that is no answer yet
                wrong = [f"the auditor could not ask: {type(error).__name__}: {error}"]
            waited = time.monotonic() - begun
            if not wrong:
                return waited
            if waited > CONVERGES:
                raise Wrong(wrong)
            time.sleep(0.1 if waited < 5 else 0.5)


class Wrong(Exception):
    """What the auditor still complains about."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__("\n".join(complaints))
        self.complaints = complaints


@contextmanager
def subject(folder: Path, owner: str, runtime: str, *, watched: bool) -> Iterator[Subject]:
    extra = SETTINGS | WATCH[watched]
    extra |= {VARIABLE: str(folder / "points"), "SLIPWAY_RUNTIME": runtime}
    folder.mkdir(exist_ok=True)
    with running(folder, **extra) as platform:
        found = Subject(platform, owner)
        found.prepare()
        yield found
