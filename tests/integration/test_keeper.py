"""The supervisor's machinery on small real processes: restarts, ends, leftovers, claims, logs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from core import queues
from core.errors import ConfigError
from core.sandbox.process import start_time
from core.settings import ROOT, Settings
from supervisor import claims, parts, processes
from supervisor.keeper import Interrupted, Keeper
from supervisor.leftovers import Leftovers, Living
from supervisor.logfiles import LogFiles
from supervisor.parts import Part
from tests.waiting import until

SLEEP = ["/bin/sleep", "120"]
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(120)
"""
SERVER = """
import socket, sys, time
listener = socket.socket(fileno=int(sys.argv[1]))
time.sleep(float(sys.argv[2]))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"hello")
    connection.close()
"""


class Told(list[str]):
    """What the keeper said."""


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def keeper(tmp_path: Path, told: Told) -> Iterator[Keeper]:
    (tmp_path / "log").mkdir()
    made = Keeper(
        {"PATH": "/usr/bin:/bin"},
        tmp_path,
        LogFiles(tmp_path / "log"),
        Leftovers(tmp_path / "parts"),
        told.append,
    )
    with made:
        yield made
        made.stop(made.names)
    until(lambda: Leftovers(tmp_path / "parts").read() == [])  # what a child forked ends later


def pid_of(keeper: Keeper, name: str) -> int:
    found = [each for each in keeper.leftovers.read() if each.name == name]
    return found[0].pid if found else 0


def python(name: str, code: str, *arguments: str, **more: object) -> Part:
    return Part(name=name, argv=[sys.executable, "-c", code, *arguments], **more)  # type: ignore[arg-type]  # Part's own fields


def printed(keeper: Keeper, name: str) -> list[str]:
    return keeper.logs.tail(name).split()


def test_a_part_that_dies_is_started_again(keeper: Keeper, told: Told) -> None:
    keeper.start(Part(name="sleeper", argv=SLEEP))
    first = pid_of(keeper, "sleeper")
    os.kill(first, signal.SIGKILL)
    begun = time.monotonic()
    assert keeper.wait(5, lambda: pid_of(keeper, "sleeper") not in (0, first))
    assert time.monotonic() - begun < 3
    assert "the sleeper was ended by SIGKILL" in told[0]
    assert str(keeper.logs.path("sleeper")) in told[0]


def test_restarts_are_further_and_further_apart(keeper: Keeper, told: Told) -> None:
    keeper.start(Part(name="failing", argv=["/bin/false"]))
    keeper.wait(2)  # 0, 0.1, 0.3, 0.7, 1.5 s
    assert 3 <= len(told) <= 5
    assert "ended with status 1" in told[0]
    assert keeper.deaths("failing") == len(told)


def test_a_program_that_is_not_there_is_told_at_once(keeper: Keeper) -> None:
    with pytest.raises(ConfigError, match=r"the ghost \(/no/such/program\) cannot be started"):
        keeper.start(Part(name="ghost", argv=["/no/such/program"]))
    assert keeper.names == []


def test_connections_wait_in_the_socket_while_their_part_is_away(keeper: Keeper) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        server = python("server", SERVER, str(number), "0.3", listeners=[number])
        keeper.start(server)
        first = pid_of(keeper, "server")
        os.kill(first, signal.SIGKILL)
        with socket.create_connection(listener.getsockname(), timeout=10) as client:
            keeper.wait(10, lambda: _readable(client))
            assert client.recv(16) == b"hello"
        assert pid_of(keeper, "server") != first


def _readable(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_what_does_not_end_when_asked_is_killed_with_its_tree(keeper: Keeper, told: Told) -> None:
    keeper.start(python("stubborn", STUBBORN, patience=0.5))
    assert keeper.wait(10, lambda: bool(printed(keeper, "stubborn")))
    child = int(printed(keeper, "stubborn")[0])
    assert processes.parent(child)
    begun = time.monotonic()
    keeper.stop(["stubborn"])
    assert 0.4 < time.monotonic() - begun < 5
    assert told == ["the stubborn took over 0 s: killed"]
    assert keeper.names == []
    assert _gone(child)


def test_what_must_outlive_its_part_is_left_alone(keeper: Keeper) -> None:
    keeper.start(python("controller", STUBBORN, patience=0.2))
    assert keeper.wait(10, lambda: bool(printed(keeper, "controller")))
    child = int(printed(keeper, "controller")[0])
    keeper.stop(["controller"])
    try:
        assert not _gone(child, 0.2)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_first_signal_interrupts_and_a_second_one_hurries(keeper: Keeper) -> None:
    keeper.start(python("stubborn", STUBBORN, patience=60.0))
    assert keeper.wait(10, lambda: bool(printed(keeper, "stubborn")))
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted):
        keeper.wait(10)
    keeper.wait(0.1)  # only once
    os.kill(os.getpid(), signal.SIGINT)
    begun = time.monotonic()
    keeper.stop(["stubborn"])
    assert time.monotonic() - begun < 10


def test_a_helper_is_run_to_its_end_and_not_beyond_its_time(keeper: Keeper) -> None:
    assert keeper.run("good", ["/bin/sh", "-c", "echo done"], 10) == 0
    assert printed(keeper, "good") == ["done"]
    assert keeper.run("bad", ["/bin/false"], 10) == 1
    assert keeper.run("slow", SLEEP, 0.3) is None
    assert keeper.names == []


def test_parts_get_an_environment_of_their_own(tmp_path: Path) -> None:
    settings = Settings.from_env({"SLIPWAY_STATE": str(tmp_path), "SLIPWAY_PORT": "9"})
    env = {
        "PATH": "/bin",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_PRELOAD": "/evil.so",
        "SLIPWAY_PORT": "10",
        "SSL_CERT_FILE": "/ca",
        "UV_DEFAULT_INDEX": "https://index.example",
        "https_proxy": "http://proxy.example",
    }
    given = parts.environment(env, settings)
    ours = {name: value for name, value in given.items() if not name.startswith("SLIPWAY_")}
    assert ours == {
        "PATH": "/bin",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "SSL_CERT_FILE": "/ca",
        "UV_DEFAULT_INDEX": "https://index.example",
        "https_proxy": "http://proxy.example",
    }
    told = {name: value for name, value in given.items() if name.startswith("SLIPWAY_")}
    assert Settings.from_env(told) == settings


# Leftovers


@pytest.fixture
def leftovers(tmp_path: Path) -> Leftovers:
    return Leftovers(tmp_path / "parts")


@pytest.fixture
def sleeper(leftovers: Leftovers) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process for a part of a name, as the keeper does."""
    made: list[subprocess.Popen[bytes]] = []

    def start(name: str, argv: Sequence[str] = SLEEP) -> subprocess.Popen[bytes]:
        mark = leftovers.mark(name)
        made.append(
            subprocess.Popen(
                argv, stdout=subprocess.PIPE, env={}, pass_fds=[mark], start_new_session=True
            )
        )
        os.close(mark)
        return made[-1]

    yield start
    for each in made:
        each.kill()
        each.wait()
        assert each.stdout
        each.stdout.close()


def test_leftovers_are_ended_and_nobody_else(
    leftovers: Leftovers, sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ours = sleeper("gateway")
    with subprocess.Popen(SLEEP) as other:
        assert leftovers.read() == [Living("gateway", ours.pid)]
        assert leftovers.end() == ["gateway"]
        assert ours.wait(1) == -signal.SIGTERM
        assert other.poll() is None
        other.kill()
    assert leftovers.read() == []
    assert leftovers.end() == []


def test_each_leftover_is_asked_in_its_own_way_and_what_others_need_last(
    leftovers: Leftovers, sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    slow = "import signal, time; signal.signal(15, lambda *_: (time.sleep(0.5), exit(0)))"
    workers = sleeper(
        "workers", [sys.executable, "-c", f"{slow}; print(flush=True); time.sleep(99)"]
    )
    assert workers.stdout
    assert workers.stdout.readline()
    edge, store, builds = sleeper("edge"), sleeper("store"), sleeper("build-engine")
    started = {"workers": workers, "edge": edge, "store": store, "build-engine": builds}
    ends: list[str] = []
    threads = [
        threading.Thread(target=lambda n=name, p=process: (p.wait(), ends.append(n)))
        for name, process in started.items()
    ]
    for thread in threads:
        thread.start()
    assert leftovers.end() == ["build-engine", "edge", "store", "workers"]
    for thread in threads:
        thread.join()
    assert ends == ["edge", "workers", "build-engine", "store"], "builds go on until they end"
    assert (edge.returncode, workers.returncode, store.returncode) == (
        -signal.SIGUSR1,
        0,
        -signal.SIGTERM,
    )


ORPHANING = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
time.sleep(120)
"""


def test_what_a_part_forked_is_found_without_it_and_killed(
    leftovers: Leftovers,
    sleeper: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.leftovers.PATIENCE", 0.3)
    parent = sleeper("gateway", [sys.executable, "-c", ORPHANING])
    assert parent.stdout
    orphan = int(parent.stdout.readline())
    parent.wait()
    assert leftovers.read() == [Living("gateway", orphan)]
    assert leftovers.end() == ["gateway"]
    assert start_time(orphan) is None


DIES_AT_A_BIRTH = """
import os, signal, sys
from pathlib import Path
from supervisor.keeper import Keeper
from supervisor.leftovers import Leftovers
from supervisor.logfiles import LogFiles
from supervisor.parts import Part

def die(*_):  # the first thing that is done with a process that was started
    os.kill(os.getpid(), signal.SIGKILL)

os.pidfd_open = die
folder = Path(sys.argv[1])
keeper = Keeper({}, folder, LogFiles(folder / "log"), Leftovers(folder / "parts"), print)
with keeper:
    if sys.argv[2] == "part":
        keeper.start(Part(name="store", argv=["/bin/sleep", "120"]))
    else:
        keeper.run("store", ["/bin/sleep", "120"], 60)
"""
DIES_BEFORE_EXEC = """
import os, signal, sys, time
from pathlib import Path
from supervisor.leftovers import Leftovers

Leftovers(Path(sys.argv[1]) / "parts").mark("store")
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(120)
"""


@pytest.mark.parametrize(
    ("code", "what"),
    [(DIES_AT_A_BIRTH, "part"), (DIES_AT_A_BIRTH, "helper"), (DIES_BEFORE_EXEC, "")],
)
def test_a_supervisor_killed_at_a_birth_leaves_nobody_unknown(
    tmp_path: Path, leftovers: Leftovers, code: str, what: str
) -> None:
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path), what], timeout=30)
    assert died.returncode == -signal.SIGKILL
    (left,) = leftovers.read()
    assert start_time(left.pid)
    assert leftovers.end() == ["store"]
    until(lambda: start_time(left.pid) is None)  # somebody else collects it


def test_what_is_out_of_sight_is_told(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.leftovers.PATIENCE", 0.1)
    monkeypatch.setattr("supervisor.leftovers._KILLED", 0.1)
    mark = leftovers.mark("store")
    (leftovers.folder / "store").rename(leftovers.folder.parent / "store")
    (leftovers.folder / "store").hardlink_to(leftovers.folder.parent / "store")
    try:
        with pytest.raises(ConfigError, match=f"fuser -v {leftovers.folder}/store"):
            leftovers.end()
    finally:
        os.close(mark)


FILLS = 2 * 2**20


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is full as soon as ``full`` is written in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={FILLS}", "tmpfs", str(folder)], check=True
    )
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # whoever still uses it


def fill(folder: Path) -> None:
    with (folder / "full").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.root
def test_parts_are_kept_running_on_a_full_disk(full_disk: Path, told: Told) -> None:
    keeper = Keeper(
        {"PATH": "/usr/bin:/bin"},
        full_disk,
        LogFiles(full_disk / "log"),
        Leftovers(full_disk / "parts"),
        told.append,
    )
    with keeper:
        for name in ("first", "second"):
            keeper.start(Part(name=name, argv=SLEEP))
        fill(full_disk)
        for name in ("first", "second"):
            before = pid_of(keeper, name)
            os.kill(before, signal.SIGKILL)
            assert keeper.wait(5, lambda n=name, p=before: pid_of(keeper, n) not in (0, p))
        with pytest.raises(OSError, match="space"):
            (full_disk / "more").write_bytes(bytes(4096))
        assert [text.partition(":")[0] for text in told] == [
            "the first was ended by SIGKILL",
            "the second was ended by SIGKILL",
        ]
        pids = [each.pid for each in keeper.leftovers.read()]
        keeper.stop(["first"])
    assert all(start_time(pid) is None for pid in pids), "left running"


def test_a_part_runs_without_its_log(keeper: Keeper) -> None:
    keeper.start(Part(name="sleeper", argv=SLEEP))
    first = pid_of(keeper, "sleeper")
    shutil.rmtree(keeper.logs.folder)
    os.kill(first, signal.SIGKILL)
    assert keeper.wait(5, lambda: pid_of(keeper, "sleeper") not in (0, first))


# Claims


def test_one_state_folder_one_slipway(tmp_path: Path) -> None:
    settings = Settings.from_env({"SLIPWAY_STATE": str(tmp_path / "state")})
    lock = claims.claim_state(settings)
    try:
        assert settings.state.stat().st_mode & 0o777 == 0o700
        with pytest.raises(ConfigError, match=f"process {os.getpid()}.*SLIPWAY_STATE"):
            claims.claim_state(settings)
    finally:
        os.close(lock)
    os.close(claims.claim_state(settings))


def test_a_state_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings.from_env({"SLIPWAY_STATE": str(tmp_path / "file" / "state")})
    with pytest.raises(ConfigError, match="SLIPWAY_STATE"):
        claims.claim_state(settings)


def test_a_run_folder_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder of this user"):
        claims.make_run_folder(tmp_path / "link")
    claims.make_run_folder(tmp_path / "run")
    (tmp_path / "run").chmod(0o755)
    claims.make_run_folder(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def settings_for(port: int, bind: str = "127.0.0.1") -> Settings:
    return Settings.from_env({"SLIPWAY_PORT": str(port), "SLIPWAY_BIND": bind})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_told_with_its_setting(bind: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(ConfigError, match="SLIPWAY_PORT"),
    ):
        claims.claim_port(settings_for(other.getsockname()[1], bind))


def test_two_of_us_never_share_a_port() -> None:
    port = free_port()
    with (
        claims.claim_port(settings_for(port, "0.0.0.0")),
        pytest.raises(ConfigError, match="listens on"),
    ):
        claims.claim_port(settings_for(port, "0.0.0.0"))


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(ConfigError, match="SLIPWAY_BIND"):
        claims.claim_port(settings_for(free_port(), "192.0.2.1"))


def test_the_functions_listener_is_the_one_that_functions_reach() -> None:
    """The narrower address wins over a wildcard one on the same port."""
    settings = settings_for(free_port(), "0.0.0.0")
    with (
        claims.claim_port(settings) as public,
        claims.claim_inside(settings, "127.0.0.2") as inside,
        socket.create_connection(("127.0.0.2", settings.port), timeout=5),
        socket.create_connection(("127.0.0.1", settings.port), timeout=5),
    ):
        for listener in (public, inside):
            listener.settimeout(5)
        accepted, _ = inside.accept()
        assert accepted.getsockname()[0] == "127.0.0.2"
        accepted.close()
        accepted, _ = public.accept()
        assert accepted.getsockname()[0] == "127.0.0.1"
        accepted.close()


@pytest.mark.parametrize(
    ("bind", "exposed"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("::", True)]
)
def test_what_others_reach_is_known(bind: str, exposed: bool) -> None:
    assert claims.exposed(settings_for(8080, bind)) is exposed


# Logs


def test_a_log_that_grew_is_emptied_under_its_writer(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path / "log", most=1000)
    writer = logs.open("edge")
    try:
        for number in range(200):
            os.write(writer, f"line {number}\n".encode())
        logs.rotate()
        assert logs.path("edge").stat().st_size == 0
        kept = logs.path("edge").with_suffix(".log.1")
        assert kept.stat().st_size == 1000
        assert kept.read_text().endswith("line 199\n")
        os.write(writer, b"and on\n")
        assert logs.tail("edge") == "and on"
    finally:
        os.close(writer)


def _gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if start_time(pid) is None:
            return True
        time.sleep(0.02)
    return False


# Restarts.

READY = """
import os, signal, sys, time
from core.readiness import tell_ready
ended = []
def asked(*_):
    ended.append(1)
    print("asked", flush=True)
signal.signal(signal.SIGTERM, asked)
print(os.getpid(), flush=True)
time.sleep(float(sys.argv[1]))
tell_ready()
while not ended or sys.argv[2] == "busy":
    time.sleep(0.02)
"""

FORKING = """
import os, sys, time
from pathlib import Path
from core.readiness import tell_ready
above = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == above:
    time.sleep(0.01)
tell_ready()
Path(sys.argv[1]).touch()
"""


def telling(name: str, delay: float = 0.1, then: str = "ends", **more: object) -> Part:
    """Says that it is ready after a while; ``busy``: does not end when it is asked."""
    env = {"PYTHONPATH": str(ROOT)}
    return python(name, READY, str(delay), then, env=env, **more)


def pids_of(keeper: Keeper, name: str) -> set[int]:
    return {each.pid for each in keeper.leftovers.read() if each.name == name}


def test_a_successor_is_ready_before_the_old_one_is_asked(keeper: Keeper, told: Told) -> None:
    keeper.start(telling("server", 0.3, linger=30))
    old = keeper.pid("server")
    seen: list[set[int]] = []

    def look() -> None:
        seen.append(pids_of(keeper, "server"))

    keeper.tick = look
    new = keeper.replace("server", 30)
    assert new == keeper.pid("server") != old
    assert {old, new} in seen
    assert {new} not in seen, "the old one lived until the new one was ready"
    assert keeper.wait(30, lambda: pids_of(keeper, "server") == {new})
    os.kill(new, signal.SIGKILL)  # and is kept running as the old one was
    assert keeper.wait(30, lambda: keeper.pid("server") not in (0, new))
    assert len(told) == 1


def test_a_successor_that_does_not_come_up_changes_nothing(keeper: Keeper) -> None:
    keeper.start(telling("server"))
    old = keeper.pid("server")
    with pytest.raises(ConfigError, match="ended at once, and the old one goes on"):
        keeper.replace("server", 30, argv=["/bin/false"])
    with pytest.raises(ConfigError, match="not ready after 0 s"):
        keeper.replace("server", 0.2, argv=SLEEP)
    with pytest.raises(ConfigError, match="cannot be started"):
        keeper.replace("server", 30, argv=["/no/such/program"])
    assert pids_of(keeper, "server") == {old} == {keeper.pid("server")}


def test_a_failure_while_a_successor_is_awaited_ends_it(keeper: Keeper) -> None:
    keeper.start(telling("server"))
    old = keeper.pid("server")

    def fail() -> None:
        raise OSError("what a part's log says")

    keeper.tick = fail
    with pytest.raises(OSError, match="log says"):
        keeper.replace("server", 30)
    keeper.tick = lambda: None
    assert pids_of(keeper, "server") == {old}


def test_one_that_was_replaced_has_its_time_and_no_more(keeper: Keeper, told: Told) -> None:
    keeper.start(telling("server", 0.0, "busy", linger=1.0, patience=0.2))
    old = keeper.pid("server")
    assert keeper.wait(30, lambda: bool(printed(keeper, "server")))
    keeper.replace("server", 30)
    assert old in pids_of(keeper, "server"), "it is busy"
    assert keeper.wait(30, lambda: old not in pids_of(keeper, "server"))
    assert told == ["the old server did not end in time: killed"]


def test_the_end_takes_those_along_that_were_replaced(keeper: Keeper) -> None:
    keeper.start(telling("server", 0.0, "busy", linger=100, patience=0.3))
    assert keeper.wait(30, lambda: bool(printed(keeper, "server")))
    keeper.replace("server", 30)
    assert len(pids_of(keeper, "server")) == 2
    keeper.stop(["server"])
    assert pids_of(keeper, "server") == set()
    asked = printed(keeper, "server").count("asked")
    assert asked == 2, "rq's workers would take a second time for the order to drop their build"


def test_only_those_that_are_ready_are_signalled(keeper: Keeper, told: Told) -> None:
    """A process that is only starting has no handler yet, and would die of it."""
    keeper.start(telling("server", 120, patience=0.3))
    starting = keeper.pid("server")
    assert keeper.wait(30, lambda: bool(printed(keeper, "server")))
    keeper.send("server", signal.SIGUSR1)
    keeper.wait(0.3)
    assert keeper.pid("server") == starting
    keeper.start(telling("other", 0))
    keeper.replace("other", 30)
    keeper.send("other", signal.SIGUSR1)
    assert keeper.wait(30, lambda: bool(told)), "and no handler ever"
    assert "the other was ended by SIGUSR1" in told[0]


def test_word_of_readiness_that_comes_after_the_end(
    keeper: Keeper, told: Told, tmp_path: Path
) -> None:
    """From a child's child: the keeper sees the end first, and the word in the same turn."""
    over = tmp_path / "over"
    keeper.start(python("forking", FORKING, str(over), env={"PYTHONPATH": str(ROOT)}))
    until(over.exists)
    assert keeper.wait(30, lambda: bool(told))
    assert "the forking ended with status 0" in told[0]


def test_a_builds_time_is_left_to_workers_that_were_replaced() -> None:
    assert parts.workers().linger > queues.JOB_SECONDS


def test_a_replaced_gateway_has_the_drain_timeout() -> None:
    settings = Settings.from_env({"SLIPWAY_DRAIN_TIMEOUT": "90s"})
    assert parts.gateway(settings, []).linger > 90


def test_what_cannot_run_twice_ends_first(keeper: Keeper, told: Told) -> None:
    keeper.start(telling("single"))
    old = keeper.pid("single")
    assert keeper.wait(30, lambda: bool(printed(keeper, "single")))
    most: list[int] = []

    def look() -> None:
        most.append(len(pids_of(keeper, "single")))

    keeper.tick = look
    new = keeper.restart("single", 30)
    assert new not in (0, old)
    assert max(most) == 1
    assert told == [], "that was no death"


def test_standing_by_ends_when_the_bell_rings(keeper: Keeper) -> None:
    bell, rope = socket.socketpair()
    with bell, rope:
        timer = threading.Timer(0.2, rope.send, [b"."])
        timer.start()
        keeper.stand_by(bell)
        timer.join()
        assert bell.recv(1) == b"."
