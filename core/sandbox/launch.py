"""Starts a cell in bubblewrap: what binds it is in force before its first instruction.

    spawn bwrap ── it makes namespaces and mounts, then waits on BLOCK ──┐
    join the control group, set rlimits, plug in the network             │
    write down what was started (``record``)                             │
    release ─────────────────────────────────────────────────────────────┴─► seccomp, uid, exec

BLOCK is a pipe that bubblewrap holds open for reading *and* writing: if we die in between, it
waits for ever instead of reading an end of file, and the next start ends it (``kill_marked``).

Pid 1 in a cell is bubblewrap's init, not the program: as pid 1 a program without handlers would
not hear SIGTERM, nor one that has not come to install them yet, and would have to collect orphans.
bubblewrap outside ends when the program does; what the program left running is then ended with the
init. A run to the end dies with us besides.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.cgroup import Cgroup, Cgroups
from core.errors import Unavailable
from core.sandbox import bwrap, seccomp
from core.sandbox.cell import SECRETS, Cell, Process
from core.sandbox.interpreters import interpreters
from core.sandbox.network import Network
from core.sandbox.process import boot_id, kill_marked, reap_child, spawn, start_time

LISTENER = 3
"""Where a cell finds its listening socket (LISTEN_FDS of systemd's protocol)."""
START_TIMEOUT = 20.0
RUN = "slipway-run:"
"""How bubblewrap is called around a run to the end; the pid of the runner and a name follow."""
_OPEN_FILES = 16384
GOES_FIRST = "500"
"""Of -1000 to 1000; see proc(5), oom_score_adj."""
_SCRATCH_UIDS = range(1_950_000_000, 1_950_065_536)
"""For cells without a uid of their own; functions have others, see the process provider."""


@dataclass(frozen=True)
class Wiring:
    """Descriptors of ours that a cell is given."""

    output: int
    """stdout and stderr."""
    listener: int | None = None
    status: int | None = None
    """Where bubblewrap writes how the program ended; not given to the cell itself."""


@dataclass(frozen=True)
class Launcher:
    """What every start in bubblewrap needs."""

    program: str
    cgroups: Cgroups
    network: Network
    root: bool

    def launch(
        self,
        cell: Cell,
        name: str,
        group: Cgroup,
        wiring: Wiring,
        record: Callable[[Process], None],
        *,
        to_the_end: bool,
    ) -> Process:
        """Starts a cell in its (empty) control group; ``record`` is called before it runs.

        Raises:
            Unavailable: the kernel or bubblewrap refused; nothing is left of the cell.
        """
        uid = random.choice(_SCRATCH_UIDS) if cell.uid is None else cell.uid
        with contextlib.ExitStack() as held:

            def hold(descriptor: int) -> int:
                held.callback(os.close, descriptor)
                return descriptor

            null = hold(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            info, told = os.pipe2(os.O_CLOEXEC)
            hold(info)
            # Only bubblewrap shall keep it, else the end of what it says would never come.
            close_told = held.enter_context(contextlib.ExitStack())
            close_told.callback(os.close, told)
            block = hold(_two_way_pipe())
            names = self.network.nameservers if cell.network == "egress" else ()
            etc = bwrap.etc(uid, cell.hostname, names)
            contents = {path: text.encode() for path, text in etc.items()}
            contents |= {f"{SECRETS}/{name}": value for name, value in cell.secrets.items()}
            files = {path: bwrap.FILES + index for index, path in enumerate(contents)}
            options = bwrap.options(
                cell,
                uid,
                interpreters(),
                files,
                root=self.root,
                to_the_end=to_the_end,
                status=wiring.status is not None,
            )
            fds = {
                0: null,
                1: wiring.output,
                2: wiring.output,
                bwrap.ARGS: hold(memory_file("\0".join([*options, ""]).encode())),
                bwrap.INFO: told,
                bwrap.BLOCK: block,
                bwrap.SECCOMP: hold(memory_file(seccomp.program())),
            }
            for path, content in contents.items():
                fds[files[path]] = hold(memory_file(content))
            if wiring.listener is not None:
                fds[LISTENER] = wiring.listener
            if wiring.status is not None:
                fds[bwrap.STATUS] = wiring.status
            command = bwrap.command(cell, uid, root=self.root)
            # A run whose runner dies before the release is known by the runner's pid.
            called = f"{RUN}{os.getpid()}:{name}" if to_the_end else marker(name)
            argv = [called, "--args", str(bwrap.ARGS), "--", *command]
            monitor = spawn(self.program, argv, fds)
            close_told.close()
            try:
                process = self._bind(cell, group, _child_pid(info), monitor)
                record(process)
                os.write(block, b"x")
            except BaseException:
                kill_marked(called)
                reap_child(monitor)
                raise
        return process

    def limits(self, cell: Cell) -> dict[str, int]:
        """Resource limits of a cell, by setrlimit(2)'s names: the most that it may have."""
        limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": _OPEN_FILES}
        if "pids" not in self.cgroups.controllers:
            limits["RLIMIT_NPROC"] = cell.pids
        return limits

    def _bind(self, cell: Cell, group: Cgroup, pid: int, monitor: int) -> Process:
        """Puts the waiting child of bubblewrap in its bounds; returns it as it is to be kept."""
        address = ""
        try:
            group.join(pid)
            # When the host itself runs out of memory, a function goes before the store does.
            Path(f"/proc/{pid}/oom_score_adj").write_text(GOES_FIRST)
            for name, most in self.limits(cell).items():
                limit = getattr(resource, name)
                _, hard = resource.prlimit(pid, limit)
                if hard != resource.RLIM_INFINITY:
                    most = min(most, hard)
                resource.prlimit(pid, limit, (most, most))
        except OSError as error:
            raise Unavailable(f"a cell's limits cannot be set: {error}") from error
        if cell.network == "egress" and self.network.exists():
            address = self.network.attach(pid)
        started = start_time(pid)
        if started is None:
            raise Unavailable("bubblewrap could not make the sandbox: its words are in the log")
        return Process(
            pid=pid,
            started=started,
            monitor=monitor,
            boot=boot_id(),
            cgroups=[str(folder) for folder in group.folders],
            address=address,
        )


def marker(name: str) -> str:
    """How bubblewrap is called in the process list: by it a half-started cell is found."""
    return f"slipway:{name}"


def exit_status(file: Path) -> int | None:
    """Reads what bubblewrap wrote to ``Wiring.status``; None: nothing yet, or it was killed, or
    the program was ended before it began."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            code = json.loads(line).get("exit-code")
            if isinstance(code, int):
                return code
    return None


def readable(descriptor: int, timeout: float) -> bool:
    """Waits at most so many seconds for something to read, or its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(timeout, 0) * 1000))


def memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("slipway", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _two_way_pipe() -> int:
    """A pipe's only descriptor, open for reading and writing: it never tells an end of file."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        return os.open(f"/proc/self/fd/{reader}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(reader)
        os.close(writer)


def _child_pid(info: int) -> int:
    """Reads bubblewrap's word of its child, which comes in several writes, to the end."""
    text = b""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if not readable(info, deadline - time.monotonic()):
            raise Unavailable("bubblewrap did not answer: this machine is probably overloaded")
        piece = os.read(info, 4096)
        if not piece:
            break
        text += piece
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError) as error:
        raise Unavailable("bubblewrap made no sandbox: its words are in the log") from error
