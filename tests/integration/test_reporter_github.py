"""The reporter as a process and a GitHub on loopback: who is killed, and what is away."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from core.alive import place
from core.models import Build, FunctionRow, State
from core.repositories import Repository, Request
from core.settings import ROOT, Settings
from core.store import Store, connect
from forges.github.app import App, store_app
from gateway.reports import standby
from gateway.reports.standby import stand_by
from tests.conftest import valkey_binary
from tests.forges import github as fake
from tests.forges.github import serving_github
from tests.integration.gateway.harness import running
from tests.integration.reporting import BUILDER, begun, go_live, live, told_all, write
from tests.waiting import until

SECRET = "a secret of GitHub's webhooks"
COMMITS = "abcdef"


@pytest.fixture
def hub(short_tmp: Path) -> Iterator[fake.GitHub]:
    with serving_github(short_tmp / "hub") as found:
        yield found


@pytest.fixture
def site(hub: fake.GitHub) -> fake.Repository:
    made = hub.repository("Ann/fns", private=True)
    made.project.commit({"stack.yml": "functions: {}\n"})
    hub.install(hub.app(), made)
    return made


@pytest.fixture
def here(settings: Settings, hub: fake.GitHub, site: fake.Repository) -> Settings:  # noqa: ARG001
    """Settings of a Slipway that is an App, which Ann has installed."""
    (app,) = hub.apps.values()
    store_app(settings, App(id=app.id, slug=app.slug, pem=app.pem, client_id=app.client_id))
    return replace(settings, github_url=hub.url)


def known(site: fake.Repository, **given: Any) -> Repository:
    told = Repository(
        namespace="ann",
        name="fns",
        source="github",
        full_name=site.full_name,
        forge_id=str(site.id),
        owner_id=str(site.owner.id),
        deploy_branch="main",
    )
    return msgspec.structs.replace(told, **given)


class Process:
    """``python -m gateway.reporter``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = settings.state / "reporter.log"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway.reporter"],
                env={**self.settings.environment(), "PATH": os.environ["PATH"]},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill_and_start(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self._start()


@contextmanager
def reporter(settings: Settings) -> Iterator[Process]:
    made = Process(settings)
    try:
        yield made
        made.process.terminate()
        assert made.process.wait(20) == 0, made.log.read_text()
    finally:
        made.process.kill()
        made.process.wait()


def checks(site: fake.Repository) -> dict[str, str]:
    """Name → status or conclusion; fails where there are two of one name."""
    found = {each["name"]: each["conclusion"] or each["status"] for each in list(site.checks)}
    assert len(found) == len(site.checks), site.checks
    return found


def test_a_release_as_github_shows_it(here: Settings, store: Store, site: fake.Repository) -> None:
    with reporter(here):
        release = begun(store, "a", "hello", repository=known(site))
        until(lambda: checks(site).get("slipway") == "in_progress")
        lines = ["E       assert 1 == 2", "test_handler.py:5: AssertionError"]
        write(store, release.id, "hello", "test", "testing", *lines)
        row = FunctionRow(name="hello", build=Build.FAILED, folder="fns/hello")
        store.save_row(release.id, row)
        store.move(release.id, BUILDER, State.FAILED, "hello test: the tests failed")
        told_all(store)
        assert checks(site) == {"slipway": "failure", "slipway/hello": "failure"}
        (check,) = [each for each in site.checks if each["name"] == "slipway/hello"]
        (note,) = check["output"]["annotations"]
        assert (note["path"], note["start_line"]) == ("fns/hello/test_handler.py", 5)
        assert "test_handler.py:5" in check["output"]["text"]
        assert check["details_url"] == f"{here.user_url}/releases/{release.id}"
        live(store, "b", "hello", repository=known(site))
        told_all(store)
        failed, good = site.deployments
        assert [each["state"] for each in failed["statuses"]][-1] == "failure"
        assert [each["state"] for each in good["statuses"]][-1] == "success"
        assert good["statuses"][-1]["environment_url"].endswith("/function/hello.ann")


def test_killed_between_sending_and_remembering_nothing_is_there_twice(
    here: Settings, store: Store, hub: fake.GitHub, site: fake.Repository
) -> None:
    number = hub.open(site, site.project.at("refs/heads/main"))
    preview = known(site, namespace="ann--pr", parent="ann/fns", request=Request(number=number))
    store.save_repository(known(site))
    hub.forge.slow = 0.15
    with reporter(here) as process:
        killed = 0

        def kill_as_it_sends(*parts: str, seen: int | None = None) -> None:
            """Once a request of this kind has come, as a rule before it is answered. ``seen``: so
            many were there before."""
            nonlocal killed
            seen = len(hub.asked) if seen is None else seen
            until(
                lambda: any(all(p in each for p in parts) for each in hub.asked[seen:]),
                20,
                lambda: f"({parts}): {hub.asked[seen:]}\n{process.log.read_text()}",
            )
            process.kill_and_start()
            killed += 1

        before = len(hub.asked)
        release = begun(store, "a", "hello", repository=preview)
        kill_as_it_sends("/check-runs")
        kill_as_it_sends("/check-runs")
        store.save_row(release.id, FunctionRow(name="hello", build=Build.BUILDING))
        kill_as_it_sends("/deployments", seen=before)  # in whichever order they come
        kill_as_it_sends("/comments", seen=before)
        go_live(store, release, "hello")
        for _ in range(4):
            kill_as_it_sends("/")
        told_all(store)
    assert killed == 8
    assert checks(site) == {"slipway/preview": "success", "slipway/preview/hello": "success"}
    (deployment,) = site.deployments
    assert deployment["statuses"][-1]["state"] == "success"
    (comment,) = site.comments
    assert "**is live**" in comment["body"]


def test_github_is_away_while_releases_come_and_go(
    here: Settings, store: Store, hub: fake.GitHub, site: fake.Repository
) -> None:
    hub.forge.away = True
    with reporter(here):
        for commit in COMMITS:
            live(store, commit, "hello", repository=known(site))
        until(lambda: len(hub.asked) > 1, 20)
        hub.forge.away = False
        until(lambda: not store.reporting(), 60)
    shown = {each["head_sha"][0]: each["conclusion"] for each in site.checks}
    assert shown == dict.fromkeys(COMMITS, "success")
    assert len(site.checks) == 2 * len(COMMITS)


def test_a_rate_limit_is_waited_for_as_long_as_github_says(
    here: Settings, store: Store, hub: fake.GitHub, site: fake.Repository
) -> None:
    hub.forge.limit(Retry_After="3")
    with reporter(here):
        live(store, "a", "hello", repository=known(site))
        until(lambda: hub.asked)
        first = time.monotonic()
        seen = len(hub.asked)
        until(lambda: len(hub.asked) > seen, 10)
        assert time.monotonic() - first > 2.5
        told_all(store)
    assert checks(site)["slipway"] == "success"


def test_the_app_is_uninstalled_in_mid_build(
    here: Settings, store: Store, hub: fake.GitHub, site: fake.Repository
) -> None:
    with reporter(here):
        release = begun(store, "a", "hello", repository=known(site))
        until(lambda: checks(site).get("slipway") == "in_progress")
        (installation,) = hub.installations.values()
        hub.uninstall(installation)
        go_live(store, release, "hello")
        told_all(store)
    notes = [
        line.text for _, line in store.read_log(release.id) if getattr(line, "step", "") == "report"
    ]
    assert notes
    assert all(each.startswith("GitHub was not told") for each in notes)
    assert len(notes) <= 2
    assert store.release(release.id).state is State.LIVE


@contextmanager
def own_store(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A store with a file, to be killed and started again."""
    process = subprocess.Popen(
        [
            valkey_binary(),
            *("--port", "0", "--unixsocket", str(folder / "s.sock"), "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ],
        stdout=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_store_is_away_for_a_while(
    here: Settings, site: fake.Repository, short_tmp: Path
) -> None:
    folder = short_tmp / "store"
    folder.mkdir()
    url = f"unix://{folder / 's.sock'}"
    connection = connect(url)
    store = Store(connection)
    with reporter(replace(here, redis_url=url)) as process:
        with own_store(folder):
            release = begun(store, "a", "hello", repository=known(site))
            until(lambda: checks(site).get("slipway") == "in_progress")
        until(lambda: "store_unavailable" in process.log.read_text(), 20)
        with own_store(folder):
            go_live(store, release, "hello")
            told_all(store)
            assert process.process.poll() is None, process.log.read_text()
            process.process.send_signal(signal.SIGTERM)
            process.process.wait(20)
    assert checks(site) == {"slipway": "success", "slipway/hello": "success"}
    connection.close()


def test_from_the_webhook_to_in_progress(
    here: Settings, store: Store, hub: fake.GitHub, site: fake.Repository, short_tmp: Path
) -> None:
    """Through a real gateway; the builder is a hand of ours, which takes the release at once."""
    commit = site.project.at("refs/heads/main")
    body = json.dumps(
        {
            "ref": "refs/heads/main",
            "before": "0" * 40,
            "after": commit,
            "deleted": False,
            "repository": {
                "id": site.id,
                "name": site.name,
                "full_name": site.full_name,
                "private": True,
                "default_branch": "main",
                "owner": {"id": site.owner.id, "login": "Ann", "name": "Ann"},
            },
        }
    ).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    told = {"X-GitHub-Event": "push", "X-Hub-Signature-256": signature}
    more = {"SLIPWAY_GITHUB_URL": hub.url, "SLIPWAY_GITHUB_WEBHOOK_SECRET": SECRET}
    store.save_repository(known(site))
    with running(short_tmp, here.redis_url, **more) as gateway, reporter(here) as process:
        until(lambda: "reporting" in process.log.read_text(), 10)
        answer = gateway.anonymous("POST", "/webhooks/github", data=body, headers=told)
        answered = time.monotonic()
        assert answer.status_code == 202, answer.text
        id_ = answer.json()["release"]
        store.move(id_, BUILDER, State.BUILDING)
        until(lambda: checks(site).get("slipway") == "in_progress")
        took = time.monotonic() - answered
        store.move(id_, BUILDER, State.FAILED, "no")
        until(lambda: id_ not in store.reporting(), 20)
    assert took < 3, "a second on a quiet machine, with the first token"


def test_until_there_is_a_forge_it_weighs_little(settings: Settings, store: Store) -> None:
    own = Repository(namespace="ann", name="fns", source="git")
    at_forge = msgspec.structs.replace(own, name="site", source="github", forge_id="7")
    with reporter(settings) as process:
        until(lambda: store.beats("reporter"))
        live(store, "a", "x", repository=own)
        memory = psutil.Process(process.pid).memory_full_info()
        assert memory.uss < 16 * 2**20, f"{memory.uss / 2**20:.1f} MiB"
        assert process.log.read_text() == ""
        release = begun(store, "b", "y", repository=at_forge)
        store.move(release.id, BUILDER, State.FAILED, "no")
        told_all(store)
        assert list(store.beats("reporter")) == [f"reporter:{place()}:{process.pid}"]
    assert store.beats("reporter") == {}
    notes = [
        line.text for _, line in store.read_log(release.id) if getattr(line, "step", "") == "report"
    ]
    assert len(notes) == 2, "there is neither an App nor a token"


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///x?db=1", "unix://:secret@/x"])
def test_a_store_that_wants_more_than_a_socket_is_left_to_its_client(url: str) -> None:
    stand_by(url, threading.Event())


def test_it_stands_by_while_the_store_comes_and_goes(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "BEAT", 0.05)
    store = short_tmp / "store"
    store.mkdir()
    url = f"unix://{store / 's.sock'}"
    stop = threading.Event()
    waiting = threading.Thread(target=stand_by, args=[url, stop])
    waiting.start()
    connection = connect(url)
    try:
        for _ in range(2):
            with own_store(store):
                until(lambda: Store(connection).beats("reporter"))
            assert waiting.is_alive()
        with own_store(store):
            Store(connection).save_repository(
                Repository(namespace="ann", name="fns", source="gitea", forge_id="7")
            )
            waiting.join(20)
            assert not waiting.is_alive()
    finally:
        stop.set()
        waiting.join()
        connection.close()
