"""Functions that misbehave, as they start and while they are live: none harms another."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.logfiles import read_lines
from tests.e2e.bad_input.victim import GOOD, Victim, log_of, traces
from tests.e2e.platform import Platform, handler, stack
from tests.waiting import until

pytestmark = pytest.mark.root  # memory and processes are bounded for sure

NAME = "functions"


@contextmanager
def unharmed_meanwhile(victim: Victim) -> Iterator[None]:
    """Calls the good function all the time; every answer has to be right, and soon."""
    wrong: list[str] = []
    slowest = 0.0
    done = threading.Event()

    def keep_calling() -> None:
        nonlocal slowest
        while not done.is_set():
            begun = time.monotonic()
            try:
                answer = victim.platform.call(f"{victim.name}.vic")
            except OSError as error:
                wrong.append(str(error))
            else:
                if (answer.status, answer.text) != (200, GOOD):
                    wrong.append(f"{answer.status} {answer.text}")
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.02)

    client = threading.Thread(target=keep_calling)
    client.start()
    try:
        yield
    finally:
        done.set()
        client.join()
    assert wrong == []
    assert slowest < 5


# ------------------------------------------------------------------------------------ at start

BAD_STARTS = {
    "never healthy": (
        "import time\nprint('waiting for a friend', flush=True)\ntime.sleep(3600)\n",
        (
            f"{NAME} did not become healthy within 4 s (SLIPWAY_HEALTH_TIMEOUT)",
            "what it wrote last is in the release's log",
        ),
        "waiting for a friend",
    ),
    "exits at once": (
        "import sys\nprint('no configuration', file=sys.stderr)\nsys.exit(3)\n",
        (f"{NAME} exited with status", "what it wrote last is in the release's log"),
        "no configuration",
    ),
    "dies by a signal": (
        "import os\nprint('bye', flush=True)\nos.kill(os.getpid(), 9)\n",
        (f"{NAME} killed by SIGKILL", "what it wrote last is in the release's log"),
        "bye",
    ),
    "is no Python": (
        "def handle(:\n",
        (f"{NAME} exited with status", "what it wrote last is in the release's log"),
        "the function cannot start: syntax error in function/handler.py, line 1",
    ),
    "has no handle": (
        "def handel(event, context):\n    return 'x'\n",
        (f"{NAME} exited with status", "what it wrote last is in the release's log"),
        "handle(event, context)",
    ),
    "eats memory": (
        "print('hungry', flush=True)\nhoard = [bytearray(2**20) for _ in range(500)]\n",
        (f"{NAME} killed: over its memory limit of 64Mi",),
        "hungry",
    ),
    "shuts its own listener": (
        "import socket, time\nprint('closed', flush=True)\n"
        "socket.socket(fileno=3).shutdown(socket.SHUT_RDWR)\n"
        "def handle(event, context):\n    return 'x'\n",
        (f"{NAME} ",),
        "closed",
    ),
}


@pytest.mark.parametrize("kind", BAD_STARTS)
def test_a_function_that_does_not_start(victim: Victim, kind: str) -> None:
    code, reason, wrote = BAD_STARTS[kind]
    with unharmed_meanwhile(victim):
        found = victim.refuses({f"{NAME}/handler.py": code}, *reason)
    told = [line.get("text", "") for line in log_of(victim.platform, found["id"])]
    assert any(wrote in text for text in told), told
    assert not any(GOOD in text for text in told)


def test_only_the_lines_of_the_version_that_failed_are_shown(victim: Victim) -> None:
    for text in ("first attempt", "second attempt"):
        code = f"print({text!r}, flush=True)\nraise SystemExit(1)\n"
        found = victim.refuses({f"{NAME}/handler.py": code}, f"{NAME} exited with status 1")
    told = "\n".join(line.get("text", "") for line in log_of(victim.platform, found["id"]))
    assert "second attempt" in told
    assert "first attempt" not in told


def test_a_function_that_forks_without_end_as_it_starts(victim: Victim) -> None:
    code = (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    )
    with unharmed_meanwhile(victim):
        # Memory or time: which bound it meets first is a race.
        victim.refuses({f"{NAME}/handler.py": code}, f"{NAME} ")


def test_a_function_that_prints_without_end_as_it_starts(victim: Victim) -> None:
    code = "import os\nline = b'x' * 1023 + b'\\n'\nwhile True:\n    os.write(1, line * 1024)\n"
    with unharmed_meanwhile(victim):
        found = victim.refuses(
            {f"{NAME}/handler.py": code}, f"{NAME} did not become healthy within 4 s"
        )
    kept = sum(len(line.get("text", "")) for line in log_of(victim.platform, found["id"]))
    assert kept < 2**20, "of a gigabyte or more, the last lines"
    assert log_size(victim.platform, f"{NAME}.vic") <= 256 * 2**10


# ---------------------------------------------------------------------------------- while live

ROGUE = '''
import ctypes, json, os, secrets, shutil, signal, socket, sys

BORN = secrets.token_hex(8)
HOARD = []


def flood():
    """Prints a gigabyte."""
    line = b"x" * 1023 + b"\\n"
    for _ in range(1024):
        os.write(1, line * 1024)
    return "wrote it"


def fork():
    while True:
        try:
            os.fork()
        except OSError:
            pass


def eat():
    while True:
        HOARD.append(bytearray(2**20))


def fill():
    """Writes into the only place where it may, for as long as it can."""
    with open("/tmp/full", "wb") as file:
        while True:
            file.write(bytes(2**20))


def shut():
    socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)
    return "shut"


def murder():
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass  # there is nobody else
    os.kill(os.getpid(), signal.SIGKILL)


def vandal():
    """Tells what it could do to its surroundings."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = []

    def tried(what, deed, *arguments):
        try:
            answer = deed(*arguments)
        except (OSError, ValueError):
            return
        if answer != -1:
            done.append(what)

    def write(path, flags):
        os.close(os.open(path, os.O_WRONLY | flags, 0o600))

    folders = ["/", "/home", "/home/app", "/home/app/function", "/usr", "/usr/bin", "/usr/lib",
               "/etc", "/var", "/opt", "/dev", "/proc", "/sys", "/run", "/root", "/srv"]
    for folder in folders:
        tried(f"made a file in {folder}", write, f"{folder}/rogue", os.O_CREAT)
        tried(f"made a folder in {folder}", os.mkdir, f"{folder}/rogue.d")
        tried(f"opened {folder}", os.chmod, folder, 0o777)
        tried(f"moved {folder}", os.rename, folder, f"{folder.rstrip('/')}.old")
    files = [sys.executable, "/home/app/index.py", "/home/app/function/handler.py", "/etc/passwd",
             "/etc/resolv.conf", "/etc/hosts", "/etc/ld.so.cache", "/proc/sys/kernel/core_pattern",
             "/proc/sysrq-trigger", "/proc/1/mem", "/proc/1/oom_score_adj"]
    for file in files:
        tried(f"changed {file}", write, file, 0)
        tried(f"removed {file}", os.unlink, file)
        tried(f"replaced {file}", os.link, "/home/app/index.py", file)
        tried(f"gave away {file}", os.chmod, file, 0o777)
    address = socket.socket(fileno=os.dup(3)).getsockname()
    tried(f"removed its socket {address}", os.unlink, address)
    for folder in folders[1:]:  # not /tmp: without its lock there it is unhealthy, and replaced
        shutil.rmtree(folder, ignore_errors=True)
    for pid in (1, -1):
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            tried(f"sent {number} to {pid}", lambda: os.kill(pid, number) if pid == 1 else -1)
    for call in (os.setuid, os.setgid, os.seteuid):
        tried(call.__name__, call, 0)
    tried("setgroups", os.setgroups, [0])
    tried("chroot", os.chroot, "/tmp")
    tried("sethostname", socket.sethostname, "rogue")
    tried("nice", os.setpriority, os.PRIO_PROCESS, 0, -20)
    tried("mknod", os.mknod, "/tmp/disk", 0o060600, os.makedev(8, 0))
    for kind in (0x00020000, 0x10000000, 0x40000000, 0x20000000, 0x04000000):
        tried(f"unshare {kind:x}", libc.unshare, kind)
    tried("mount", libc.mount, b"none", b"/tmp", b"tmpfs", 0, None)
    tried("bind", libc.mount, b"/tmp", b"/home/app", None, 4096, None)
    tried("remount", libc.mount, None, b"/home/app", None, 32 | 4096, None)
    tried("umount", libc.umount2, b"/home/app", 2)
    tried("pivot_root", libc.syscall, 155, b"/tmp", b"/tmp")
    tried("ptrace", libc.ptrace, 16, 1, None, None)
    return json.dumps(done)


def handle(event, context):
    deed = {f.__name__: f for f in (flood, fork, eat, fill, shut, murder, vandal)}
    name = event.path.strip("/")
    return deed[name]() if name else BORN
'''


@pytest.fixture(scope="module")
def rogue(victim: Victim) -> Platform:
    repository = victim.platform.repository("rog", "rogue")
    pushed = repository.push({"stack.yml": stack("rogue"), "rogue/handler.py": ROGUE})
    assert pushed.last.startswith("slipway: live "), pushed.text + victim.platform.logs()
    return victim.platform


def born(platform: Platform) -> str:
    """What tells one replica of the rogue from the next; waits until one answers."""
    told = ""

    def answers() -> bool:
        nonlocal told
        answer = platform.call("rogue.rog")
        told = answer.text
        return answer.status == 200

    until(answers, 30, lambda: f"it does not come back: {told}\n{platform.logs()}")
    return told


def log_size(platform: Platform, function: str) -> int:
    folder = platform.settings.logs / function
    return sum(each.stat().st_size for each in folder.iterdir())


def test_it_prints_a_gigabyte(victim: Victim, rogue: Platform) -> None:
    before = born(rogue)
    with unharmed_meanwhile(victim):
        answer = rogue.request("/function/rogue.rog/flood", timeout=90)
    assert (answer.status, answer.text) == (200, "wrote it")
    assert born(rogue) == before, "it only wrote"
    folder = rogue.settings.logs / "rogue.rog"
    until(
        lambda: any(b"bytes left out: written too fast" in line for line in read_lines(folder)),
        10,
        lambda: "the log does not tell that something is missing",
    )
    assert log_size(rogue, "rogue.rog") <= 256 * 2**10


def test_it_eats_memory(victim: Victim, rogue: Platform) -> None:
    before = born(rogue)
    with unharmed_meanwhile(victim):
        answer = rogue.call("rogue.rog", path="/eat")
        assert answer.status in (502, 503)
        after = born(rogue)
    assert after != before, "a new replica took its place"
    assert "over its memory limit of 64Mi" in rogue.logs()


def test_it_fills_its_disk(victim: Victim, rogue: Platform) -> None:
    before = _free(rogue.settings.state)
    with unharmed_meanwhile(victim):
        answer = rogue.call("rogue.rog", path="/fill")
        assert answer.status in (500, 502, 503), "no room, or no memory, for what it wrote"
        born(rogue)
    assert before - _free(rogue.settings.state) < 64 * 2**20, "it was not the host's disk"


def test_it_kills_whom_it_can(victim: Victim, rogue: Platform) -> None:
    before = born(rogue)
    with unharmed_meanwhile(victim):
        assert rogue.call("rogue.rog", path="/murder").status in (502, 503)
        assert born(rogue) != before


def test_it_shuts_its_listener(victim: Victim, rogue: Platform) -> None:
    before = born(rogue)
    with unharmed_meanwhile(victim):
        rogue.call("rogue.rog", path="/shut")
        until(lambda: born(rogue) != before, 40, lambda: "it was not replaced")
        # Connections from before may still be answered by the old one until it is gone.
        until(
            lambda: sum(each.startswith("instance rogue.rog-") for each in traces(rogue)) == 1,
            40,
            lambda: "the one without a listener stays",
        )


def test_it_replaces_and_removes_what_it_can(victim: Victim, rogue: Platform) -> None:
    before = born(rogue)
    with unharmed_meanwhile(victim):
        answer = rogue.request("/function/rogue.rog/vandal", timeout=60)
        assert answer.status == 200, answer.text
    assert json.loads(answer.text) == [], "it could do nothing"
    assert born(rogue) == before
    repository = rogue.repository("rog", "rogue")
    pushed = repository.push({"rogue/handler.py": ROGUE + "\n# again\n"})
    assert pushed.last.startswith("slipway: live "), pushed.text
    assert born(rogue) != before


def test_it_forks_without_end_until_a_good_version_is_pushed(
    victim: Victim, rogue: Platform
) -> None:
    born(rogue)
    bomb = next(each for each in traces(rogue) if each.startswith("instance rogue.rog-"))
    with unharmed_meanwhile(victim):
        # Where it meets its memory limit at once, an answer comes.
        with contextlib.suppress(TimeoutError, urllib.error.URLError):
            rogue.request("/function/rogue.rog/fork", timeout=2)
        pushed = rogue.repository("rog", "rogue").push({"rogue/handler.py": handler("repaired")})
        assert pushed.last.startswith("slipway: live "), pushed.text + rogue.logs()
        assert rogue.call("rogue.rog").text == "repaired"
        until(lambda: bomb not in traces(rogue), 30, lambda: f"{bomb} is still there")


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
