"""A release that was decided: whoever builds it hears of that at once, and nothing goes on."""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path

import psutil
import pytest

from builder import dependencies, folders, functiontests, lease, pipeline
from builder.lease import Lease
from builder.steps import ReleaseLog, Steps
from builder.templates import Template
from builder.work import Tools
from core.bundle import HALF_MADE
from core.errors import CheckoutFailed, Conflict
from core.models import State
from core.names import NO_COMMIT
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from tests.e2e.forge import serving

OWN = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")
HUB = Repository(
    namespace="alice",
    name="fns",
    source="github",
    full_name="Alice/fns",
    deploy_branch="master",
    public=True,
)


class CalledOffError(Exception):
    """Stands for what ``Steps.wanted`` raises."""


def template(name: str, fprocess: str) -> Template:
    return Template(name=name, folder=Path("/"), language=name, fprocess=fprocess, digest="")


PYTHON, NODE = template("python3-http", "python3 index.py"), template("node", "node index.js")


def test_a_worker_hears_of_the_end_of_its_release(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by looking again: that would take an hour here."""
    monkeypatch.setattr(lease, "RENEW", 3600.0)
    release = store.create_release(OWN, "a" * 40, "main")
    with Lease(store, release.id) as held:
        store.move(release.id, [State.QUEUED], State.BUILDING)
        assert not held.ended.wait(0.3)
        store.cancel(release.id, "enough")
        assert held.ended.wait(20)
        assert not held.lost.is_set()
    assert not store.leased(release.id), "its end waits for nothing either"


def test_a_lease_that_another_took_ends_the_build(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW", 0.05)
    release = store.create_release(OWN, "a" * 40, "main")
    with Lease(store, release.id) as held:
        store.redis.set(f"slipway:lease:{release.id}", "another")
        assert held.lost.wait(20)
        assert held.ended.is_set()
    assert store.leased(release.id), "the other one's stays"


@pytest.mark.parametrize(
    ("of", "files"),
    [
        (PYTHON, {"requirements.txt": "humanize==4.9.0\n"}),
        (NODE, {"package.json": '{"dependencies": {"left-pad": "1.3.0"}}'}),
    ],
    ids=["uv", "npm"],
)
def test_an_install_ends_while_its_registry_says_nothing(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of: Template,
    files: dict[str, str],
) -> None:
    app = tmp_path / "app"
    (app / "function").mkdir(parents=True)
    for name, text in files.items():
        (app / "function" / name).write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{url}/simple")
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", url)

        def check() -> None:
            if select.select([silent], [], [], 0)[0]:  # it was asked, and waits for the answer
                raise CalledOffError

        with pytest.raises(CalledOffError):
            dependencies.install(settings, "alice", of, app, print, check)
    assert not [each for each in settings.state.rglob(f"{HALF_MADE}*") if each.is_dir()]
    assert not children_of_this_test(str(settings.state))


def children_of_this_test(mark: str) -> list[str]:
    """What still runs below this process and works in that folder."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if mark in child.cwd():
                found.append(" ".join(child.cmdline()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def test_whoever_waits_for_anothers_install_is_called_off(tmp_path: Path) -> None:
    def check() -> None:
        raise CalledOffError

    with (
        folders.turn(tmp_path / "lock"),
        pytest.raises(CalledOffError),
        folders.turn(tmp_path / "lock", check),
    ):
        pass


@pytest.mark.root
@pytest.mark.parametrize("script", ["sleep 600", "exec >&- 2>&-; sleep 600"], ids=["", "silent"])
def test_tests_of_a_function_end(settings: Settings, tmp_path: Path, script: str) -> None:
    app = tmp_path / "app"
    (app / "function").mkdir(parents=True)
    tmp_path.chmod(0o755)
    (app / "function" / "x").write_text("")
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise CalledOffError

    args = {"TEST_COMMAND": f"sh -c '{script}'"}
    with pytest.raises(CalledOffError):
        functiontests.run_tests(settings, "alice", "hello", app, NODE, [], args, print, check=check)
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if script in (each.info["cmdline"] or [])
    ]


# A deploy branch that was deleted at a forge: an event is a hint.


class Impatient(Steps):
    """Pauses for a moment only."""

    def pause(self, seconds: float) -> None:
        super().pause(seconds / 10)


def test_a_branch_is_gone_where_the_forge_says_so(
    settings: Settings, store: Store, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Impatient(ReleaseLog(store, "r1-abcdef0", 2**20), threading.Event())
    release = store.create_release(HUB, NO_COMMIT, "master")
    with serving(short_tmp / "forge") as forge:
        object.__setattr__(settings, "github_url", forge.url)
        project = forge.repository("Alice/fns")
        head = project.commit({"x": "1"})
        tools = Tools(settings, store, said)

        def gone() -> bool:
            return pipeline.branch_gone(release, HUB, tools)

        branch = project.bare / "refs/heads/master"
        threading.Timer(1.5, branch.unlink).start()
        assert gone(), "though the forge shows it late"
        monkeypatch.setattr(pipeline, "LAG", -1.0)
        branch.write_text(f"{head}\n")
        assert not gone(), "the event is an old one, or another's"
        branch.unlink()
        assert gone()
        branch.write_text(f"{head}\n")
        aside = project.bare.with_name("aside")
        project.bare.rename(aside)
        with pytest.raises(CheckoutFailed, match="was not found"):
            gone()
        aside.rename(project.bare)
        forge.away = True
        with pytest.raises(CheckoutFailed, match="cannot be reached now"):
            gone()


def test_an_event_of_a_push_to_a_branch_that_is_gone_takes_nothing_down(
    settings: Settings, store: Store
) -> None:
    said = Steps(ReleaseLog(store, "r1-abcdef0", 2**20), threading.Event())
    release = store.create_release(HUB, "a" * 40, "master")
    assert not pipeline.branch_gone(release, HUB, Tools(settings, store, said))
    with pytest.raises(Conflict):
        store.move(release.id, [State.BUILDING], State.FAILED)
