"""`slipway up` with every real part, on a state folder and a port of its own."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import requests

from builder.secrets import memory as secrets_of_builds
from core import cgroup
from core.sandbox import nft
from core.sandbox.network import Network
from core.sandbox.process import start_time
from core.settings import ROOT, Settings
from supervisor import parts, processes
from supervisor.leftovers import Leftovers
from tests.conftest import missing
from tests.integration.followed import Followed
from tests.waiting import until

PARTS = {"store", "gateway", "workers", "queue", "reporter", "controller", "edge"}
SUPERVISOR_MB = 20.0
"""The supervisor's own share of memory (PSS)."""


def leftovers(settings: Settings) -> Leftovers:
    return Leftovers(settings.state / "parts")


class Up(Followed):
    """One running `slipway up`."""

    def __init__(self, settings: Settings, *arguments: str, **changed: str) -> None:
        super().__init__(settings, [*parts.python("cli.main"), "up", *arguments], **changed)

    def children(self) -> dict[str, int]:
        """Part → pid, of those that live."""
        living = leftovers(self.settings).read()
        # For a moment the supervisor holds the mark of what it is about to start.
        return {each.name: each.pid for each in living if each.pid != self.process.pid}

    def kill(self, name: str) -> None:
        """Kills a part and waits for its successor."""
        pid = self.children()[name]
        family = {pid, *processes.descendants(pid)}  # what it forked ends a moment later
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self.children().get(name, pid) in family:
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def await_health(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        told: object = ""
        while time.monotonic() < deadline:
            try:
                answer = requests.get(f"{self.settings.base_url}/healthz", timeout=5)
                if answer.ok:
                    return
                told = answer.text
            except requests.RequestException as error:
                told = error
            time.sleep(0.05)
        pytest.fail(f"not healthy: {told}\n{self.output}")


@pytest.fixture
def settings(short_tmp: Path) -> Settings:
    """Nothing of it is another Slipway's on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # Below 10.109 and 10.110, which benches take: tests run them meanwhile.
    subnet = f"10.{random.randrange(64, 109)}.{random.randrange(256)}.0/24"
    return Settings.from_env(
        {
            "SLIPWAY_STATE": str(short_tmp / "state"),
            "SLIPWAY_PORT": str(port),
            "SLIPWAY_SUBNET": subnet,
            "SLIPWAY_WORKERS": "1",
            "SLIPWAY_RUNTIME": "process",
        }
    )


@pytest.fixture
def started(settings: Settings) -> Iterator[list[Up]]:
    """Put what you start in here: whatever is left of it is ended."""
    ups: list[Up] = []
    yield ups
    for each in ups:
        if each.process.poll() is None:
            each.end()
        elif each.process.stdout and not each.process.stdout.closed:
            leftovers(settings).end()
            each.await_end()
    leftovers(settings).end()
    if ups and os.geteuid() == 0:
        run_chore(settings, "network-down")


def run_chore(settings: Settings, *arguments: str) -> None:
    env = parts.environment(os.environ, settings)
    subprocess.run(parts.python("supervisor.chores", *arguments), env=env, check=True, timeout=60)


def up(started: list[Up], settings: Settings, *arguments: str, **changed: str) -> Up:
    started.append(Up(settings, *arguments, **changed))
    return started[-1]


def ready(started: list[Up], settings: Settings, **changed: str) -> Up:
    made = up(started, settings, "--no-demo", **changed)
    made.await_line("slipway: ready")
    return made


def refused(settings: Settings, **changed: str) -> str:
    """What a start that cannot be says; it must leave nothing behind."""
    made = Up(settings, "--no-demo", **changed)
    assert made.await_end() == 1, made.output
    assert made.children() == {}
    return made.output


def bridge(settings: Settings) -> Path:
    from core.sandbox import Sandbox

    return Path("/sys/class/net", Sandbox.from_settings(settings).network.bridge)


def memory(pid: int) -> float:
    """PSS in MB; of a process that must be there."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+) kB", text, re.M)
    assert found
    return int(found[1]) / 1024


def test_up_serves_and_ctrl_c_leaves_nothing(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings)
    assert made.output.endswith("slipway: ready\n")
    made.await_health()
    children = made.children()
    assert set(children) == PARTS
    assert memory(made.process.pid) < SUPERVISOR_MB
    if os.geteuid() == 0:
        until(bridge(settings).exists)  # it is laid beside the other parts
    for name in ("", "lock", "run", "log", "store"):
        assert (settings.state / name).stat().st_mode & 0o077 == 0, name
    assert made.end() == 0, made.output
    assert "killed" not in made.output
    assert all(start_time(pid) is None for pid in children.values())
    assert not bridge(settings).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", settings.port), timeout=1).close()


def test_sigterm_ends_it_like_ctrl_c(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings)
    made.process.terminate()
    assert made.await_end() == 0, made.output


def test_a_second_start_on_the_same_state_is_refused(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings)
    second = Up(settings, "--no-demo")
    assert second.await_end() == 1
    assert f"process {made.process.pid}" in second.output
    assert str(settings.state) in second.output
    made.await_health()


def test_a_taken_port_is_refused(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.port)):
        told = refused(settings)
    assert f"127.0.0.1:{settings.port}" in told
    assert "SLIPWAY_PORT" in told


def test_what_a_part_cannot_do_is_told_in_its_own_words(settings: Settings) -> None:
    folder = settings.state / "store" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("no manifest\n")
    told = refused(settings)
    assert "the store keeps ending" in told
    assert "AOF manifest" in told


def test_docker_without_an_engine_is_refused(settings: Settings) -> None:
    nowhere = "unix:///nonexistent/docker.sock"
    told = refused(settings, SLIPWAY_RUNTIME="docker", SLIPWAY_ENGINE=nowhere)
    assert f"SLIPWAY_RUNTIME=docker, but no Docker engine answers at {nowhere}" in told
    assert "Traceback" not in told


def test_a_redis_that_does_not_answer_is_told(settings: Settings) -> None:
    told = refused(settings, SLIPWAY_REDIS_URL="unix:///nowhere/redis.sock")
    assert "SLIPWAY_REDIS_URL" in told
    assert "Traceback" not in told


def test_a_wrong_setting_is_told(settings: Settings) -> None:
    told = refused(settings, SLIPWAY_PROT="80")
    assert "SLIPWAY_PROT is not a setting: did you mean SLIPWAY_PORT?" in told


def test_every_child_may_be_killed(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings)
    for name in made.children():
        made.kill(name)
        made.await_health()
        assert f"the {name} was ended by SIGKILL" in made.output


def test_connections_wait_while_the_edge_is_away(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings)
    statuses = []
    for _ in range(3):
        os.kill(made.children()["edge"], signal.SIGKILL)
        statuses.append(requests.get(settings.base_url, timeout=20).status_code)
        made.await_health()
    assert statuses == [200, 200, 200]


@pytest.mark.parametrize("part", ["edge", "gateway", "controller"])
def test_what_serves_has_a_large_share_of_the_cpu(
    part: str, settings: Settings, started: list[Up]
) -> None:
    """However it was started, and as long as it runs: functions may keep every core busy."""
    made_in = cgroup.of_edge if part == "edge" else cgroup.of_control
    groups = made_in(settings.mark, top=os.geteuid() == 0)
    if "cpu" not in groups.controllers:
        missing("a control group for the CPU")
    made = ready(started, settings)
    group = groups.named(part)
    until(lambda: made.children()[part] in group.pids(), 10, "it is elsewhere")
    made.kill(part)
    until(lambda: made.children()[part] in group.pids(), 10, "the new one is elsewhere")
    argv = [*parts.python("cli.main"), "--state", str(settings.state), "restart", part]
    subprocess.run(argv, env=parts.passed(os.environ), check=True, timeout=60)
    until(lambda: made.children()[part] in group.pids(), 10, "the next is elsewhere")
    assert made.end(signal.SIGTERM) == 0
    assert not any(each.folder.exists() for each in groups.hierarchies)


def test_requests_wait_while_the_gateway_is_away(settings: Settings, started: list[Up]) -> None:
    """A forge sends its event once: it must not meet a 503 because we restart."""
    made = ready(started, settings)
    for number in (signal.SIGKILL, signal.SIGTERM):
        os.kill(made.children()["gateway"], number)
        assert requests.get(settings.base_url, timeout=20).status_code == 200
        made.await_health()


@pytest.mark.parametrize("everything", [False, True], ids=["supervisor alone", "everything"])
def test_it_comes_back_from_kill_9(settings: Settings, started: list[Up], everything: bool) -> None:
    made = ready(started, settings)
    with redis.Redis.from_url(settings.store_url) as store:
        store.set("kept", "yes")
        if everything:
            time.sleep(1.2)  # appendfsync everysec
    before = made.children()
    made.process.kill()
    made.process.wait()
    if everything:
        for pid in before.values():
            processes.kill(pid, tree=True)
    again = ready(started, settings)
    assert ("ended its" in again.output) is not everything
    again.await_health()
    assert all(start_time(pid) is None for pid in before.values())
    assert not set(again.children().values()) & set(before.values())
    with redis.Redis.from_url(settings.store_url) as store:
        assert store.get("kept") == b"yes"
    assert again.end() == 0


DIES_AT_A_BIRTH = """
import os, signal, subprocess, sys

class Popen(subprocess.Popen):
    def __init__(self, argv, **more):
        super().__init__(argv, **more)
        if sys.argv[1] in " ".join(argv):
            os.kill(os.getpid(), signal.SIGKILL)

subprocess.Popen = Popen
from supervisor import up
up.main()
"""


@pytest.mark.parametrize(("name", "program"), [("store", "appendonly"), ("controller", "runtime.")])
def test_what_was_born_when_the_supervisor_was_killed_is_ended(
    settings: Settings, started: list[Up], name: str, program: str
) -> None:
    """Else two stores would write to one file, and two controllers would rule."""
    env = parts.passed(os.environ) | settings.environment()
    first = subprocess.run(
        [sys.executable, "-P", "-c", DIES_AT_A_BIRTH, program],
        env=env,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
    assert first.returncode == -signal.SIGKILL
    born = {each.name: each.pid for each in leftovers(settings).read()}[name]
    again = ready(started, settings)
    assert start_time(born) is None
    assert re.search(rf"an earlier run was killed; ended its .*\b{name}\b", again.output)
    again.await_health()
    assert again.end() == 0


def test_it_ends_in_order_though_nothing_can_be_started_any_more(
    settings: Settings, started: list[Up]
) -> None:
    """Without a descriptor to be had the functions cannot be stopped; all else is."""
    made = ready(started, settings)
    children = made.children()
    resource.prlimit(made.process.pid, resource.RLIMIT_NOFILE, (3, 3))
    assert made.end() == 0, made.output
    assert "could not stop functions in order" in made.output
    assert "Too many open files" in made.output
    assert all(start_time(pid) is None for pid in children.values())


@pytest.mark.root
def test_a_fence_that_was_taken_away_is_made_anew(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings)
    network = Network.from_settings(settings)
    assert network.available()
    with nft.Firewall() as firewall:
        for table in firewall.tables():
            if table.startswith(f"slipway_{settings.mark}_"):
                firewall.delete_table(table)
    assert not network.available()
    deadline = time.monotonic() + 10
    while not network.available():
        assert time.monotonic() < deadline, made.output
        time.sleep(0.05)
    assert made.end() == 0
    assert not bridge(settings).exists()
    with nft.Firewall() as firewall:
        assert not [name for name in firewall.tables() if settings.mark in name]


@pytest.mark.root
def test_a_full_disk_strands_nobody(settings: Settings, started: list[Up]) -> None:
    settings.state.mkdir()
    disk = str(settings.state)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    try:
        made = ready(started, settings)
        with (settings.state / "full").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            assert os.statvfs(disk).f_bfree == 0
        for name in ("edge", "gateway"):
            made.kill(name)
        children = made.children()
        assert set(children) == PARTS
        assert made.end() == 0, made.output
        assert all(start_time(pid) is None for pid in children.values())
    finally:
        for each in started:
            each.process.kill()
            each.await_end()
        leftovers(settings).end()
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_without_an_edge_the_gateway_has_the_socket(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings, SLIPWAY_EDGE="none")
    assert "edge" not in made.children()
    made.await_health()
    os.kill(made.children()["gateway"], signal.SIGKILL)
    assert requests.get(settings.base_url, timeout=20).status_code == 200
    assert made.end() == 0


def test_a_bind_beyond_loopback_warns(settings: Settings, started: list[Up]) -> None:
    made = ready(started, settings, SLIPWAY_BIND="0.0.0.0")
    assert "WARNING" in made.output
    made.await_health()
    if os.geteuid() == 0:
        assert "functions have no network" not in made.output
        address = str(Network("x", settings.functions_subnet, 1).address)
        inside = requests.get(f"http://{address}:{settings.port}/healthz", timeout=5)
        assert inside.status_code == 403, "functions reach the public listener"


def test_the_demo_goes_live_and_outlives_restarts(settings: Settings, started: list[Up]) -> None:
    if not (ROOT / "stack.yml").exists():
        missing("the checkout's stack.yml")
    made = up(started, settings)
    made.await_line("slipway: ready", 170)
    assert made.output.endswith("slipway: ready\n"), made.output
    assert re.search(r"^remote: slipway: live r\d+-[0-9a-f]{7}", made.output, re.M)
    found = re.search(r"^\$ curl (\S+)$", made.output, re.M)
    assert found
    url = found[1]
    assert url.startswith(f"{settings.base_url}/function/")
    password = settings.password_file.read_text().strip()
    assert password not in made.output

    replicas = {each.name for each in settings.instances.iterdir()}
    made.process.kill()  # the functions and all the rest live on
    made.process.wait()
    assert requests.get(url, timeout=20).ok
    again = live_already(started, settings)
    assert requests.get(url, timeout=20).ok
    assert replicas == {each.name for each in settings.instances.iterdir()}, "ended as leftovers"
    assert again.end() == 0  # which ends the functions too
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
    last = live_already(started, settings)
    assert requests.get(url, timeout=20).ok
    assert replicas.isdisjoint(each.name for each in settings.instances.iterdir())
    assert last.end() == 0


def test_stopped_while_it_pushes_and_builds_it_leaves_no_password_and_no_secret(
    settings: Settings, started: list[Up]
) -> None:
    made = up(started, settings)
    until(lambda: (settings.demo_folder / "credentials").exists(), 60)
    cut_off = secrets_of_builds(settings) / ".new-release"
    if os.geteuid() == 0:  # what the build of a killed worker had there
        cut_off.mkdir(parents=True)
        (cut_off / "token").write_text("sesame")
    assert made.end() == 0
    assert not settings.demo_folder.exists()
    assert not cut_off.parent.exists()


def live_already(started: list[Up], settings: Settings) -> Up:
    """A start that finds the demo as it left it."""
    made = up(started, settings)
    made.await_line("slipway: ready", 60)
    assert "nothing changed since the last push" in made.output, made.output
    assert made.output.endswith("slipway: ready\n"), made.output
    return made
