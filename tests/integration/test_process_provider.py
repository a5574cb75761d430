"""What only the process provider has: a start that is cut off, control groups of version 2."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from core.bundle import PREFIX, Bundle
from core.cgroup import discover
from core.errors import Unavailable
from core.models import FunctionSpec
from core.sandbox import Cell, Sandbox
from core.settings import Settings
from runtime.providers.process import ProcessProvider
from tests.contracts.test_provider import House, ask, find, make_house

CHECKOUT = Path(__file__).resolve().parents[2]
ARTIFACT = PREFIX + "a" * 64

# Dies, as by kill -9, at the moment that its first argument names.
STARTER = """
import os, sys
from pathlib import Path
from core.models import FunctionSpec
from core.settings import Settings
from runtime.providers import process, records
when, state, artifact = sys.argv[1:]
provider = process.ProcessProvider(Settings(state=Path(state)), b"key")
def die(*_, **__): os._exit(9)
if when == "before the process": provider._sandbox.start = die
if when == "before the document": provider._records.replace = die
if when == "after the document":
    keep = provider._records.replace
    provider._records.replace = lambda record: (keep(record), die())
provider.start(FunctionSpec(name="cut", namespace="demo", artifact=artifact))
if when == "after the start": die()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(state=tmp_path, function_memory=2**26)
    folder = settings.bundles / "demo" / ("a" * 64)
    (folder / "app").mkdir(parents=True)
    bundle = Bundle(template="test", process=["sleep", "67"])
    (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
    yield settings
    shutil.rmtree(settings.run)


def processes(needle: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if needle in command and "-c" not in command.split():
            found.append(command)
    return found


@pytest.mark.parametrize(
    "when",
    ["before the process", "before the document", "after the document", "after the start"],
)
def test_start_that_was_cut_off_is_found_or_ended(settings: Settings, when: str) -> None:
    argv = [sys.executable, "-c", STARTER, when, str(settings.state), ARTIFACT]
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"}
    starter = subprocess.run(argv, env=environment, check=False, timeout=60)
    assert starter.returncode == 9
    provider = ProcessProvider(settings, b"key", Sandbox.from_settings(settings))
    try:
        found = provider.instances()
        if when == "after the start":
            assert [each.phase for each in found] == ["running"]
            assert processes("slipway:cut.demo")
        else:
            assert list(found) == []
            assert not processes("slipway:cut.demo")
        for each in found:
            provider.remove(each)
        assert provider.instances() == []
        assert not processes("slipway:cut.demo")
        assert list(settings.instances.iterdir()) == []
        assert list((settings.run / "f").iterdir()) == []
        assert not [each.folder for each in provider._sandbox.cgroups.hierarchies
                    if each.folder.exists()]  # fmt: skip
    finally:
        provider.close()


@pytest.fixture
def process_house(tmp_path: Path) -> Iterator[House]:
    yield from make_house("process", tmp_path)


def test_what_is_not_signed_by_us_is_left_alone(process_house: House) -> None:
    house = process_house
    provider = house.provider()
    instance = provider.start(house.spec())
    ours = ask(instance, "/me")
    document = house.settings.instances / instance.id / "instance"
    genuine = document.read_bytes()
    victim = provider.start(house.spec())
    forged = genuine.replace(b"echo", b"evil")
    assert forged != genuine
    document.write_bytes(forged)
    assert find(provider, instance.id) is None
    stranger = house.settings.instances / "stranger.demo-000000000000-00000000"
    stranger.mkdir()
    (stranger / "instance").write_bytes(genuine)  # signed, but another one's

    provider.remove(instance)
    provider.terminate(instance)
    fresh = house.provider()
    assert [each.id for each in fresh.instances()] == [victim.id]
    assert ask(instance, "/me") == ours, "what does not verify must not be signalled"
    assert document.exists()
    assert stranger.exists()
    document.write_bytes(genuine)
    assert find(fresh, instance.id) is not None


def test_the_end_of_the_controller_waits_for_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process would be left that no document tells of."""
    provider = ProcessProvider(settings, b"key")
    launch, begun = provider._sandbox.start, threading.Event()

    def slow(*arguments: object, **options: object) -> object:
        begun.set()
        time.sleep(0.5)
        return launch(*arguments, **options)  # type: ignore[arg-type]  # handed on as they are

    monkeypatch.setattr(provider._sandbox, "start", slow)
    spec = FunctionSpec(name="late", namespace="demo", artifact=ARTIFACT)
    with ThreadPoolExecutor() as pool:
        started = pool.submit(provider.start, spec)
        begun.wait(5)
        provider.close()
        assert started.result().id
    with pytest.raises(Unavailable, match="is stopping"):
        provider.start(spec)
    again = ProcessProvider(settings, b"key")
    try:
        (found,) = again.instances()
        assert found.phase == "running"
        again.remove(found)
        assert not processes("slipway:late.demo")
    finally:
        again.close()


def test_a_start_that_fails_at_its_very_end_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = ProcessProvider(settings, b"key")

    def failing(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    try:
        monkeypatch.setattr(provider._processes, "_watch", failing)
        with pytest.raises(OSError, match="Too many"):
            provider.start(FunctionSpec(name="full", namespace="demo", artifact=ARTIFACT))
        assert not processes("slipway:full.demo")
        assert list(settings.instances.iterdir()) == []
    finally:
        monkeypatch.undo()
        provider.close()


def test_without_a_descriptor_nothing_is_taken_for_dead(settings: Settings) -> None:
    provider = ProcessProvider(settings, b"key")
    made = provider.start(FunctionSpec(name="alive", namespace="demo", artifact=ARTIFACT))
    provider.close()
    again = ProcessProvider(settings, b"key")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for known in again._processes.running():
            again._processes.forget(known)  # so that it is looked at anew
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises((Unavailable, OSError)):
            again.instances()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [(each.id, each.phase) for each in again.instances()] == [(made.id, "running")]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in again.instances():
            again.remove(each)
        again.close()


def unified() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return Path(line.split()[4])
    return None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes control groups at the top")
def test_control_groups_of_version_2_on_this_kernel(tmp_path: Path) -> None:
    """With whatever controller this machine's version 2 still has: the paths are the same."""
    root = unified()
    if root is None:
        pytest.skip("no hierarchy of version 2 is mounted")
    offered = (root / "cgroup.controllers").read_text().split()
    if not offered:
        pytest.skip("the hierarchy of version 2 has no controllers on this machine")
    busy = root / f"slwtest{os.getpid()}"
    busy.mkdir()
    sleeper = subprocess.Popen(["sleep", "60"])
    handed_down = offered[0] in (root / "cgroup.subtree_control").read_text().split()
    try:
        (root / "cgroup.subtree_control").write_text(f"+{offered[0]}")
        (busy / "cgroup.procs").write_text(str(sleeper.pid))
        own = tmp_path / "own"
        own.write_text(f"0::/{busy.name}\n")
        # A user's own group has processes in it, which version 2 does not allow beside children.
        groups = discover("test", top=False, own=own, wanted=offered[:1])
        assert groups.controllers == {offered[0]: "cgroup v2"}
        assert (busy / "slipway-main" / "cgroup.procs").read_text().split() == [str(sleeper.pid)]
        group = groups.create("cell", memory=2**26, cpus=1, pids=10)
        group.join(sleeper.pid)
        assert group.pids() == [sleeper.pid]
        sleeper.kill()
        sleeper.wait()
        group.remove()
        assert not (busy / "slipway-test").exists()
        again = groups.create("cell", memory=2**26, cpus=1, pids=10)
        again.remove()
    finally:
        sleeper.kill()
        sleeper.wait()
        for name in ("slipway-test/cell", "slipway-test", "slipway-main", ""):
            folder = busy / name
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
                    continue
                break
        if not handed_down:
            (root / "cgroup.subtree_control").write_text(f"-{offered[0]}")
    assert not busy.exists()


def test_a_policy_that_changed_holds_for_the_next_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet: set[str] = set()
    sandbox = Sandbox.from_settings(settings)
    provider = ProcessProvider(settings, b"key", sandbox, is_quiet=quiet.__contains__)
    networks: list[str] = []

    def start(cell: Cell, *_: object, **__: object) -> None:
        networks.append(cell.network)
        raise Unavailable("it is only looked at")

    monkeypatch.setattr(sandbox, "start", start)
    spec = FunctionSpec(name="f", namespace="demo", artifact=ARTIFACT)
    try:
        for changed in (set(), {"other"}, {"demo"}):
            quiet |= changed
            with pytest.raises(Unavailable, match="only looked at"):
                provider.start(spec)
    finally:
        provider.close()
    assert networks == ["egress", "egress", "none"]
