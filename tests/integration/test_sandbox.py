"""Attacks from inside a cell, as root's cells and as an ordinary user's: all of them fail.

The probes are Python programs that run in the cell and print one JSON value. An ordinary user's
sandbox is tried by a helper process that has given up root (``user``). What is forked of a warm
parent runs them as the function's own code, when its handler is imported (``forked``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from core.bundle import HOME
from core.cgroup import HIGH, Cgroup
from core.errors import ConfigError, NotFound
from core.sandbox import (
    PATH,
    Cell,
    Mount,
    Network,
    Parent,
    Process,
    Result,
    Sandbox,
    alive,
    exit_status,
    kill_marked,
)
from core.sandbox.launch import marker
from core.sandbox.sandbox import _follow
from runtime.providers.seeds import seed
from tests.waiting import PATIENCE, until

ROOT = os.geteuid() == 0
NOBODY = 65534
CHECKOUT = Path(__file__).resolve().parents[2]
MEMORY = 96 * 2**20

# Makes the sandbox of an ordinary user and runs one cell; in and out: one JSON document.
HELPER = """
import json, sys
from core.sandbox import *
asked = json.load(sys.stdin)
sandbox = Sandbox("user", Network("user", "10.98.0.0/24", 8080))
lines = []
mounts = [Mount(__import__("pathlib").Path(a), b) for a, b in asked.pop("mounts")]
timeout = asked.pop("timeout")
asked["secrets"] = {name: value.encode() for name, value in asked.pop("secrets", {}).items()}
result = sandbox.run(Cell(mounts=mounts, **asked), "probe-%d" % __import__("os").getpid(),
                     timeout=timeout, max_output=2**20, on_line=lines.append)
json.dump({"lines": lines, "status": result.status, "outcome": result.outcome,
           "enforced": sandbox.enforced()}, sys.stdout)
"""


class Probes:
    """Runs programs in cells of one kind of user."""

    def __init__(self, kind: str, sandbox: Sandbox | None, python: str) -> None:
        self.kind = kind
        self.sandbox = sandbox
        self._python = python
        self.enforced: dict[str, str] = sandbox.enforced() if sandbox else {}

    def run(self, code: str, *, timeout: float = 20, **cell: Any) -> tuple[Result, list[str]]:
        program = ["python3", "-c", textwrap.dedent(code)]
        whole: dict[str, Any] = {
            "argv": program,
            "env": {"PATH": PATH},
            "memory": MEMORY,
            "cpus": 1.0,
            "pids": 20,
        }
        whole |= cell
        lines: list[str] = []
        if self.sandbox:
            result = self.sandbox.run(
                Cell(**whole),
                f"probe-{time.monotonic_ns()}",
                timeout=timeout,
                max_output=2**20,
                on_line=lines.append,
            )
            return result, lines
        mounts = [(str(each.source), each.target) for each in whole.pop("mounts", ())]
        asked = json.dumps({**whole, "mounts": mounts, "timeout": timeout})
        told = subprocess.run(
            as_nobody([self._python, "-W", "error", "-c", HELPER]),
            input=asked,
            env=helper_environment(),
            cwd="/tmp",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout + 30,
        )
        assert told.returncode == 0, told.stderr
        answer = json.loads(told.stdout)
        self.enforced = answer["enforced"]
        return Result(answer["status"], answer["outcome"], 0.0, 0), answer["lines"]

    def ask(self, code: str, **cell: Any) -> Any:
        """What the program printed last, as JSON; it must have ended well."""
        result, lines = self.run(code, **cell)
        assert result.ok, (result, lines)
        return json.loads(lines[-1])


class ForkedProbes(Probes):
    """Runs programs as handlers of functions that are forked."""

    def __init__(self, sandbox: Sandbox, parent: Parent, folder: Path) -> None:
        super().__init__("root", sandbox, "")
        self._parent = parent
        self._folder = folder

    def run(self, code: str, *, timeout: float = 20, **cell: Any) -> tuple[Result, list[str]]:
        assert self.sandbox
        name = f"probe-{time.monotonic_ns()}"
        mounts = list(cell.pop("mounts", ()))
        if all(each.target != HOME for each in mounts):
            mounts.append(Mount(self._folder / name, HOME))
        (app,) = [each.source for each in mounts if each.target == HOME]
        (app / "function").mkdir(parents=True)
        (app / "function" / "handler.py").write_text(
            f"{textwrap.dedent(code)}\nimport os\nos._exit(0)\n"
        )
        bounds: dict[str, Any] = {"memory": MEMORY, "cpus": 1.0, "pids": 20, "uid": 1_950_000_009}
        whole = {"env": {"PATH": PATH}, **bounds, **cell}
        cell_ = Cell(argv=["python3", "index.py"], cwd=HOME, mounts=mounts, **whole)
        status = self._folder / f"{name}.status"
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.fchmod(writer, 0o622)
        lines: list[str] = []
        with status.open("w") as told:
            process = self.sandbox.start(
                cell_, name, output=writer, status=told.fileno(), parent=self._parent
            )
        os.close(writer)
        assert process.monitor == 0, "it was started, not forked"
        try:
            outcome, _ = _follow(reader, time.monotonic() + timeout, 2**20, lines.append, bool)
            if outcome == "exited":
                until(lambda: not alive(process))
                if self.sandbox.group(process).out_of_memory():
                    outcome = "memory"
        finally:
            os.close(reader)
            self.sandbox.end(process)
        code_ = exit_status(status)
        return Result(137 if code_ is None else code_, outcome, 0.0, 0), lines


def as_nobody(argv: list[str]) -> list[str]:
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--", *argv]


def helper_environment() -> dict[str, str]:
    packages = [str(CHECKOUT), *(path for path in sys.path if path.endswith("site-packages"))]
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def python_for_nobody() -> str:
    """A Python of our version that an ordinary user may run; empty: there is none."""
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin") or ""):
        if not python:
            continue
        tried = subprocess.run(
            as_nobody(
                [python, "-c", "import core.sandbox, sys; print(*sys.version_info[:2], sep='.')"]
            ),
            env=helper_environment(),
            cwd="/tmp",
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.stdout.strip() == wanted:
            return python
    return ""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    """The sandbox of this very user, without a network."""
    return Sandbox("test", Network("test", "10.98.0.0/24", 8080))


@pytest.fixture(scope="module")
def parent(sandbox: Sandbox) -> Iterator[Parent]:
    """A warm parent of functions."""
    if not ROOT:
        pytest.skip("only root forks functions")
    parent = sandbox.warm(seed("python3-http"), "test")
    yield parent
    parent.close()


@pytest.fixture(scope="module", params=["own", "forked", "user"])
def probes(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Probes:
    if request.param == "own":
        return Probes("root" if ROOT else "user", sandbox, sys.executable)
    if request.param == "forked":
        folder = tmp_path_factory.mktemp("forked")
        for each in (folder, *folder.parents[:3]):
            each.chmod(0o755)
        return ForkedProbes(sandbox, request.getfixturevalue("parent"), folder)
    if not ROOT:
        pytest.skip("we are an ordinary user already")
    python = python_for_nobody()
    if not python:
        pytest.skip("no Python that an ordinary user can run with our packages")
    return Probes("user", None, python)


T = TypeVar("T")


def on_host(needle: str) -> list[int]:
    """Processes of the host whose arguments include this text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


# ---------------------------------------------------------------------------------------- files


def test_root_only_files_are_not_there(probes: Probes, tmp_path: Path) -> None:
    secret = tmp_path / "admin-password"
    secret.write_text("secret")
    secret.chmod(0o600)
    tried = ["/etc/shadow", str(secret), "/root/.ssh", "/proc/1/environ", "/proc/1/root/etc/shadow"]
    tried += ["/proc/kcore", "/proc/kmsg", "/dev/mem", "/sys/kernel", str(CHECKOUT / "core")]
    code = f"""
    import json, os
    def look(path):
        try:
            return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(16).hex()
        except OSError as error:
            return error.errno
    print(json.dumps({{path: look(path) for path in {tried!r}}}))
    """
    found = probes.ask(code)
    assert found.pop("/proc/1/environ") in (13, ""), "the init has no environment"
    assert {path: what for path, what in found.items() if not isinstance(what, int)} == {}


def test_nothing_but_tmp_can_be_written(probes: Probes, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir(mode=0o755)
    (app / "handler.py").write_text("print(1)")
    # pytest's own folders are closed to others; the sandbox of a user sees them as that user.
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    code = """
    import json, os, sys
    def attempt(path):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT)); return True
        except OSError: return False
    def change(call, *arguments):
        try:
            call(*arguments); return True
        except OSError: return False
    folders = ["/", "/etc", "/usr", "/home", "/home/app", "/dev", "/run", "/var",
               "/opt/slipway/bin", "/var/openfaas/secrets", "/proc/sys/kernel"]
    folders += [sys.prefix, sys.prefix + "/lib"]
    found = {folder: attempt(folder + "/slipway-test") for folder in folders}
    found["handler"] = attempt("/home/app/handler.py")
    found["chmod"] = change(os.chmod, "/home/app/handler.py", 0o777)
    found["unlink"] = change(os.unlink, "/home/app/handler.py")
    found["rename"] = change(os.rename, "/home/app", "/home/other")
    found["hostname"] = attempt("/proc/sys/kernel/hostname")
    found["sysrq"] = attempt("/proc/sysrq-trigger")
    found["passwd"] = attempt("/etc/passwd")
    assert attempt("/tmp/mine") and attempt("/dev/shm/mine") and attempt("/dev/null")
    print(json.dumps(found))
    """
    found = probes.ask(code, mounts=[Mount(app, "/home/app")])
    assert {path for path, written in found.items() if written} == set()
    assert (app / "handler.py").read_text() == "print(1)"


def test_secrets_of_an_ordinary_users_cell_are_the_programs_alone(probes: Probes) -> None:
    if probes.kind == "root":
        pytest.skip("as root they come as a mount: tests/contracts/test_provider.py")
    code = """
    import json, os
    path = "/var/openfaas/secrets/api-key"
    def refused(call, *arguments):
        try: call(*arguments)
        except OSError: return True
    status, folder = os.stat(path), os.stat(os.path.dirname(path))
    print(json.dumps({
        "value": open(path).read(),
        "mode": oct(status.st_mode),
        "mine": status.st_uid == os.getuid(),
        "folder": oct(folder.st_mode),
        "others": all(
            open(os.path.dirname(path) + "/more-%d" % n).read() == str(n) for n in range(150)
        ),
        "fixed": [refused(open, path, "a"), refused(os.chmod, path, 0o777)],
    }))
    """
    value = "sesame" * 1000
    given: dict[str, Any] = {f"more-{number}": f"{number}" for number in range(150)}
    given["api-key"] = value
    if probes.sandbox:  # else they go to another process, as JSON
        given = {name: each.encode() for name, each in given.items()}
    assert probes.ask(code, secrets=given) == {
        "value": value,
        "mode": "0o100400",
        "mine": True,
        "folder": "0o40500",
        "others": True,
        "fixed": [True, True],
    }


def test_tmp_is_bounded(probes: Probes) -> None:
    code = """
    import errno, json
    written = 0
    try:
        with open("/tmp/big", "wb") as out:
            for _ in range(64):
                out.write(bytes(2**20)); out.flush(); written += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    print(json.dumps(written))
    """
    assert 6 <= probes.ask(code, tmp_size=8 * 2**20) <= 8


def test_unix_sockets_of_the_host_are_out_of_reach(probes: Probes, tmp_path: Path) -> None:
    store = tmp_path / "redis.sock"
    name = f"\0slipway-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as abstract:
        by_path.bind(str(store))
        abstract.bind(name)
        for listener in (by_path, abstract):
            listener.listen()
        code = f"""
        import json, socket
        def reach(address):
            with socket.socket(socket.AF_UNIX) as client:
                try: client.connect(address); return True
                except OSError: return False
        print(json.dumps([reach({str(store)!r}), reach({name!r})]))
        """
        assert probes.ask(code) == [False, False]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)


# ------------------------------------------------------------------------------------- identity


def test_identity_and_descriptors(probes: Probes) -> None:
    code = """
    import json, os
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(json.dumps({
        "ids": os.getresuid() + os.getresgid(), "groups": os.getgroups(),
        "capabilities": [int(status["Cap" + kind], 16) for kind in "Inh Prm Eff Bnd Amb".split()],
        "privileges": int(status["NoNewPrivs"]), "seccomp": int(status["Seccomp"]),
        "fds": [fd for fd in range(1024) if os.path.exists(f"/proc/self/fd/{fd}")],
        "environment": dict(os.environ), "tty": os.isatty(0), "hostname": os.uname().nodename,
        "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    }))
    """
    found = probes.ask(code, hostname="probe", uid=1_900_000_777)
    assert set(found["ids"]) == {1_900_000_777}
    assert set(found["groups"]) <= ({1_900_000_777, NOBODY} if probes.kind == "user" else set())
    assert found["capabilities"] == [0, 0, 0, 0, 0]
    assert found["privileges"] == 1
    assert found["seccomp"] == 2
    assert found["fds"] == [0, 1, 2]
    assert not found["tty"]
    assert found["hostname"] == "probe"
    assert found["pids"] == [1, 2]
    assert set(found["environment"]) <= {"PATH", "PWD", "LC_CTYPE"}


def test_system_calls_that_lead_out_are_refused(probes: Probes) -> None:
    code = """
    import ctypes, errno, json, os, platform, resource, socket, sys
    libc = ctypes.CDLL(None, use_errno=True)
    arm = platform.machine() == "aarch64"
    def call(name, *arguments):
        result = getattr(libc, name)(*arguments)
        return errno.errorcode.get(ctypes.get_errno()) if result == -1 else "DONE"
    def number(x86, arm64, *arguments):
        return call("syscall", ctypes.c_long(arm64 if arm else x86), *arguments)
    def raised(function, *arguments):
        try: function(*arguments)
        except OSError as error: return errno.errorcode[error.errno]
        return "DONE"
    def family(*arguments):
        def make(): socket.socket(*arguments).close()
        return raised(make)
    NEWUSER, NEWNS, NEWNET = 0x10000000, 0x20000, 0x40000000
    buffer = ctypes.create_string_buffer(256)
    print(json.dumps({
        "mount": call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "umount": call("umount2", b"/tmp", 2),
        "chroot": call("chroot", b"/tmp"),
        "pivot_root": number(155, 41, b"/tmp", b"/tmp"),
        "unshare user": call("unshare", NEWUSER),
        "unshare mount": call("unshare", NEWNS),
        "unshare user+net": call("unshare", NEWUSER | NEWNET),
        "setns": call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0),
        "clone user": number(56, 220, NEWUSER | 17, 0, 0, 0, 0),
        "clone3": number(435, 435, buffer, 64),
        "fsopen": number(430, 430, b"tmpfs", 0),
        "io_uring": number(425, 425, 8, buffer),
        "keyctl": number(250, 219, 0, -3, 0),
        "add_key": number(248, 217, b"user", b"x", b"y", 1, -3),
        "bpf": number(321, 280, 0, buffer, 64),
        "perf": number(298, 241, buffer, 0, -1, -1, 0),
        "userfaultfd": number(323, 282, 0),
        "ptrace": call("ptrace", 0, 0, 0, 0),
        "process_vm_readv": number(310, 270, os.getpid(), None, 0, None, 0, 0),
        "personality": call("personality", 0x0040000),
        "open_by_handle_at": number(304, 265, 0, buffer, 0),
        "kexec": number(246, 104, 0, 0, 0, 0),
        "init_module": number(175, 105, buffer, 0, b""),
        "settimeofday": call("settimeofday", buffer, None),
        "mknod": raised(os.mknod, "/tmp/disk", 0o60600, os.makedev(8, 0)),
        "vsock": family(40, socket.SOCK_STREAM),
        "packet": family(17, socket.SOCK_RAW),
        "raw": family(socket.AF_INET, socket.SOCK_RAW, 1),
        "alg": family(38, socket.SOCK_SEQPACKET),
        "nftables": family(socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "hidden vsock": number(41, 198, ctypes.c_long((1 << 32) | 40), 1, 0),
        "TIOCSTI": call("ioctl", 0, ctypes.c_ulong(0x5412), buffer),
        "setuid": raised(os.setuid, 0),
        "setgroups": raised(os.setgroups, [0]),
        "nice": raised(os.nice, -5),
        "real time": raised(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
        "route socket": family(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    }))
    """
    found = probes.ask(code)
    assert found.pop("route socket") == "DONE", "listing one's own addresses needs it"
    assert found.pop("clone3") == "ENOSYS"
    refused = {"EPERM", "EACCES", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "EINVAL"}
    assert {name: told for name, told in found.items() if told not in refused} == {}
    by_filter = {
        name: found[name] for name in ("io_uring", "keyctl", "bpf", "ptrace", "clone user")
    }
    assert set(by_filter.values()) == {"EPERM"}
    assert found["vsock"] == found["hidden vsock"] == "EAFNOSUPPORT"


def test_ordinary_programs_work(probes: Probes) -> None:
    code = """
    import asyncio, json, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    async def connect():
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port)
        assert await reader.read() == b""
        writer.close(); server.close()
    asyncio.run(connect())
    assert subprocess.run(["sh", "-c", "echo hi | cat"], capture_output=True).stdout == b"hi\\n"
    with ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, range(10))) == 45
    with ProcessPoolExecutor(2) as pool: assert sum(pool.map(abs, range(10))) == 45
    database = sqlite3.connect(tempfile.mktemp()); database.execute("create table t (x)")
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 0
    assert socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
    import pwd; assert pwd.getpwuid(os.getuid()).pw_name == "app"
    open("/dev/stdout", "w").write("by name\\n")
    print(json.dumps("works"))
    """
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        code = code.replace("assert ssl", "ssl")
    result, lines = probes.run(code, memory=256 * 2**20)
    assert result.ok, lines
    assert lines[-1] == '"works"'


def test_node_works(sandbox: Sandbox) -> None:
    script = """
    const { Worker } = require("worker_threads");
    new Worker("require('worker_threads').parentPort.postMessage(1)", { eval: true })
      .on("message", () => require("fs").promises.readdir("/").then(() => console.log("done")));
    """
    lines: list[str] = []
    cell = Cell(
        argv=["node", "-e", script], env={"PATH": PATH}, memory=512 * 2**20, cpus=2, pids=50
    )
    result = sandbox.run(cell, "node", timeout=30, max_output=2**16, on_line=lines.append)
    assert result.ok, lines
    assert lines == ["done"]


# --------------------------------------------------------------------------------------- bounds


def test_other_cells_cannot_be_touched(probes: Probes, sandbox: Sandbox) -> None:
    other = sandbox.start(
        Cell(argv=["sleep", "60"], memory=MEMORY, cpus=1, pids=20), "victim", output=1
    )
    try:
        pids = [other.pid, other.monitor, *until(lambda: on_host("60"))]
        code = f"""
        import ctypes, json, os, signal
        libc = ctypes.CDLL(None, use_errno=True)
        reached = []
        for pid in {pids!r} + list(range(3, 400)):
            try: os.kill(pid, 0); reached.append(pid)
            except OSError: pass
            if os.path.exists(f"/proc/{{pid}}/status"): reached.append(pid)
            if libc.ptrace(16, pid, 0, 0) == 0: reached.append(pid)
        try: os.kill(-1, signal.SIGKILL)
        except OSError: pass
        print(json.dumps(reached))
        """
        assert probes.ask(code) == []
        assert alive(other)
    finally:
        sandbox.end(other)
    assert not alive(other)


def test_fork_bomb_stays_inside(probes: Probes) -> None:
    code = """
    import errno, json, os, time
    made = 0
    while made < 500:
        try:
            if os.fork() == 0:
                time.sleep(30); os._exit(0)
            made += 1
        except OSError as error:
            assert error.errno == errno.EAGAIN
            break
    print(json.dumps(made))
    """
    started = time.monotonic()
    assert 10 <= probes.ask(code) <= 20
    assert time.monotonic() - started < 15, "its children must end with it"


def test_memory_is_bounded(probes: Probes) -> None:
    probes.run("pass")
    if "cgroup" not in probes.enforced["memory"]:
        pytest.skip(f"as {probes.kind}: {probes.enforced['memory']}")
    result, _ = probes.run("x = bytearray(400 * 2**20)\nfor i in range(0, len(x), 4096): x[i] = 1")
    assert (result.outcome, result.status) == ("memory", 137)


def test_timeout_ends_whatever_was_forked(probes: Probes) -> None:
    mark = f"61.{os.getpid()}"
    code = f"""
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: os.execvp("sleep", ["sleep", {mark!r}])
            os._exit(0)
    print("started", flush=True)
    time.sleep(60)
    """
    started = time.monotonic()
    result, lines = probes.run(code, timeout=2)
    assert result.outcome == "timeout"
    assert lines == ["started"]
    assert time.monotonic() - started < 15
    assert on_host(mark) == []


def test_program_that_ends_takes_what_it_detached_with_it(probes: Probes) -> None:
    mark = f"62.{os.getpid()}"
    code = f"""
    import os
    if os.fork() == 0:
        os.setsid()
        os.execvp("sleep", ["sleep", {mark!r}])
    print("leaving", flush=True)
    os._exit(3)
    """
    started = time.monotonic()
    result, _ = probes.run(code, timeout=20)
    assert (result.outcome, result.status) == ("exited", 3)
    assert time.monotonic() - started < 10, "a leftover must not hold the output open"
    assert on_host(mark) == []


def test_output_is_bounded(sandbox: Sandbox) -> None:
    lines: list[str] = []
    cell = Cell(argv=["yes", "a" * 99], memory=MEMORY, cpus=1, pids=20)
    result = sandbox.run(cell, "yes", timeout=20, max_output=100_000, on_line=lines.append)
    assert result.outcome == "output"
    assert sum(len(line) + 1 for line in lines) == 100_000
    assert set(lines) == {"a" * 99}


def test_run_is_stopped_on_request(sandbox: Sandbox) -> None:
    cell = Cell(argv=["sleep", "60"], memory=MEMORY, cpus=1, pids=20)
    started = time.monotonic()
    result = sandbox.run(
        cell, "stop", timeout=50, max_output=1000, on_line=print, stop=lambda: True
    )
    assert not result.ok
    assert time.monotonic() - started < 5


def test_missing_mount_is_told(sandbox: Sandbox) -> None:
    cell = Cell(
        argv=["true"], memory=MEMORY, cpus=1, pids=20, mounts=[Mount(Path("/no/such"), "/x")]
    )
    with pytest.raises(NotFound, match="/no/such"):
        sandbox.run(cell, "missing", timeout=5, max_output=1000, on_line=print)


def test_writable_mount_is_writable(sandbox: Sandbox, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    uid = 1_950_000_001
    if ROOT:
        os.chown(out, uid, uid)
    cell = Cell(
        argv=["touch", "/out/made"],
        memory=MEMORY,
        cpus=1,
        pids=20,
        uid=uid,
        mounts=[Mount(out, "/out", writable=True)],
    )
    assert sandbox.run(cell, "writable", timeout=5, max_output=1000, on_line=print).ok
    assert (out / "made").exists()


def test_it_goes_before_the_store_when_the_host_has_no_memory_left(probes: Probes) -> None:
    assert probes.ask("print(int(open('/proc/self/oom_score_adj').read()))") == 500


def test_descriptors_that_we_inherited_are_not_passed_on(sandbox: Sandbox) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        lines: list[str] = []
        cell = Cell(argv=["ls", "/proc/self/fd"], memory=MEMORY, cpus=1, pids=20)
        sandbox.run(cell, "fds", timeout=5, max_output=1000, on_line=lines.append)
        assert lines == ["0", "1", "2", "3"], "3 is the listing's own"
    finally:
        os.close(reader)
        os.close(writer)


# ------------------------------------------------------------------------ life, death, our death


def test_started_cell_outlives_nothing_but_its_end(sandbox: Sandbox, tmp_path: Path) -> None:
    written: list[Process] = []
    with (tmp_path / "output").open("w+") as output:
        process = sandbox.start(
            Cell(argv=["sh", "-c", "echo here; sleep 63"], memory=MEMORY, cpus=1, pids=20),
            "stays",
            output=output.fileno(),
            record=written.append,
        )
        assert written == [process]
        until(lambda: (tmp_path / "output").read_text() == "here\n")
    assert alive(process)
    assert all(Path(folder).is_dir() for folder in process.cgroups)
    sandbox.end(process)
    sandbox.end(process)
    assert not alive(process)
    assert not any(Path(folder).exists() for folder in process.cgroups)


def test_a_cell_of_a_build_has_its_bounds_within_the_small_share_of_all_builds(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    if "cpu" not in sandbox.cgroups.controllers:
        pytest.skip("no control group bounds the CPU here")
    builds = Sandbox("test", sandbox.network, builds=True)
    cell = Cell(argv=["sleep", "63"], memory=MEMORY, cpus=0.5, pids=20)
    with (tmp_path / "output").open("w") as output:
        started = [each.start(cell, "shares", output=output.fileno()) for each in (sandbox, builds)]
    try:
        shares = {}
        for process, which in zip(started, ("function", "build"), strict=True):
            for folder in map(Path, process.cgroups):
                for name in ("cpu.shares", "cpu.weight"):
                    if (folder / name).exists():
                        shares[which] = int((folder.parent / name).read_text())
                for name in ("cpu.cfs_quota_us", "cpu.max"):
                    if (folder / name).exists():
                        assert (folder / name).read_text().split()[0] == "50000"
        assert shares["build"] * HIGH == shares["function"]
    finally:
        for process in started:
            sandbox.end(process)
    assert not any(Path(folder).exists() for each in started for folder in each.cgroups)


def test_what_is_ended_is_not_held_back_by_its_bound_on_the_cpu(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """What it used beyond its bound, in the kernel, its processes would have to wait for."""
    if "cpu" not in sandbox.cgroups.controllers:
        pytest.skip("no control group bounds the CPU here")
    many = "for i in $(seq 60); do (while :; do :; done) & done; echo all; wait"
    cell = Cell(argv=["sh", "-c", many], memory=MEMORY, cpus=1, pids=100)
    with (tmp_path / "output").open("w") as output:
        process = sandbox.start(cell, "debt", output=output.fileno())
    try:
        until(lambda: (tmp_path / "output").read_text() == "all\n", 20)
        for folder in map(Path, process.cgroups):
            for name, value in (("cpu.cfs_quota_us", "1000"), ("cpu.max", "1000 100000")):
                if (folder / name).exists():
                    (folder / name).write_text(value)
        time.sleep(0.3)
    finally:
        begun = time.monotonic()
        sandbox.end(process)
    assert time.monotonic() - begun < 1 * PATIENCE


DRIVER = """
import os, sys
from core.sandbox import *
sandbox = Sandbox("test", Network("test", "10.98.0.0/24", 8080))
cell = Cell(argv=["sleep", sys.argv[2]], memory=2**26, cpus=1, pids=20)
if sys.argv[1] == "run":
    print("ready", flush=True)
    sandbox.run(cell, "driver", timeout=60, max_output=1000, on_line=print)
elif sys.argv[1] == "die":
    type(sandbox._launcher)._bind = lambda *_: os._exit(9)
    sandbox.run(cell, "driver", timeout=60, max_output=1000, on_line=print)
else:
    sandbox.start(cell, "driver", output=1, record=lambda process: os._exit(9))
"""


def driver(*arguments: str) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, "-c", DRIVER, *arguments]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)


def test_run_dies_with_its_runner(sandbox: Sandbox) -> None:
    mark = f"64.{os.getpid()}"
    with driver("run", mark) as runner:
        until(lambda: on_host(mark))
        runner.send_signal(signal.SIGKILL)
    until(lambda: not on_host(mark))
    until(lambda: not on_host(marker("driver")))
    remove_group(sandbox, "driver")


def remove_group(sandbox: Sandbox, name: str) -> None:
    Cgroup(hierarchy.folder / name for hierarchy in sandbox.cgroups.hierarchies).remove()
    assert not any((each.folder / name).exists() for each in sandbox.cgroups.hierarchies)


def test_nothing_runs_when_we_die_before_the_release(sandbox: Sandbox) -> None:
    mark = f"65.{os.getpid()}"
    with driver("start", mark) as starter:
        assert starter.wait(20) == 9
        try:
            assert len(on_host(marker("driver"))) == 2, "bubblewrap waits, outside and inside"
            time.sleep(0.3)
            running = [
                pid for pid in on_host(mark) if Path(f"/proc/{pid}/exe").readlink().name == "sleep"
            ]
            assert running == [], "it must not run without its document"
        finally:
            kill_marked(marker("driver"))
    until(lambda: not on_host(marker("driver")))
    remove_group(sandbox, "driver")


def test_a_run_whose_runner_died_before_the_release_is_ended_by_the_next_sandbox(
    sandbox: Sandbox,
) -> None:
    with driver("die", "66") as runner:
        assert runner.wait(20) == 9
    assert on_host(f"slipway-run:{runner.pid}:driver"), "bubblewrap waits"
    Sandbox("test", sandbox.network)
    assert not on_host(f"slipway-run:{runner.pid}:driver")
    remove_group(sandbox, "driver")


# --------------------------------------------------------------------------- without a sandbox


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which bubblewrap is there but may not make a sandbox."""
    monkeypatch.setattr("core.sandbox.bwrap.find", lambda: "/bin/false")


@pytest.mark.usefixtures("nowhere")
def test_without_a_sandbox_functions_are_refused() -> None:
    with pytest.raises(ConfigError, match="SLIPWAY_UNSAFE_NO_SANDBOX"):
        Sandbox("test", Network("test", "10.98.0.0/24", 8080))


@pytest.mark.usefixtures("nowhere")
def test_without_a_sandbox_on_the_admins_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = Sandbox("bare", Network("bare", "10.98.0.0/24", 8080), unsafe=True)
    assert "NO SANDBOX" in caplog.text
    assert sandbox.enforced()["files"].startswith("NOT bounded")
    (tmp_path / "main.py").write_text("import os; print(os.getcwd(), os.environ['WHERE'])")
    cell = Cell(
        argv=["python3", "/home/app/main.py"],
        env={"PATH": PATH, "WHERE": "/home/app/x"},
        cwd="/home/app",
        memory=MEMORY,
        cpus=1,
        pids=20,
        mounts=[Mount(tmp_path, "/home/app")],
    )
    lines: list[str] = []
    result = sandbox.run(cell, "bare", timeout=20, max_output=1000, on_line=lines.append)
    assert result.ok
    assert lines == [f"{tmp_path} {tmp_path}/x"]
    sleeper = Cell(argv=["sleep", "66"], env={"PATH": PATH}, memory=MEMORY, cpus=1, pids=20)
    result = sandbox.run(sleeper, "bare", timeout=1, max_output=1000, on_line=print)
    assert result.outcome == "timeout"


# Named here so that a reader finds it: threads are what run() and start() are called from.
def test_runs_from_many_threads(sandbox: Sandbox) -> None:
    results: list[Result] = []
    cell = Cell(argv=["sh", "-c", "echo $$"], memory=MEMORY, cpus=1, pids=20)

    def run(number: int) -> None:
        name = f"thread-{number}"
        results.append(sandbox.run(cell, name, timeout=30, max_output=1000, on_line=lambda _: None))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.ok for result in results] == [True] * 8
