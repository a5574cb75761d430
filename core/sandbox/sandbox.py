"""The sandbox of this process: finds out what can be enforced here, starts and runs cells.

See launch.py for how a cell is started and in what order it is bound.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from core import cgroup
from core.errors import ConfigError, NotFound, Unavailable
from core.sandbox import bare, bwrap, seccomp
from core.sandbox.cell import Cell, Outcome, Process, Result
from core.sandbox.forks import kernel
from core.sandbox.launch import RUN, START_TIMEOUT, Launcher, Wiring, readable
from core.sandbox.network import Network
from core.sandbox.outlets import Outlets
from core.sandbox.process import ended, kill, kill_orphans
from core.sandbox.warm import Parent, Seed, Unforkable, end_all
from core.settings import Settings

log = logging.getLogger(__name__)

_LINE = 8192
"""Longest line handed on, in bytes; a longer one comes in pieces."""
_ASK_EVERY = 0.1
"""Seconds between two askings whether to stop."""


def _nothing(_: Process) -> None:
    """Writes nothing down."""


class Sandbox:
    """What this process can start cells with; made once, used from any thread."""

    def __init__(
        self, mark: str, network: Network, *, builds: bool = False, unsafe: bool = False
    ) -> None:
        """``mark`` tells installations on one host apart; ``builds``: cells are not functions, and
        shall not hurt these; ``unsafe``: without where need be.

        Raises:
            ConfigError: no sandbox can be made here, and the settings do not allow to go without.
        """
        self.network = network
        self.root = os.geteuid() == 0
        self._mark = mark
        if builds:
            self.cgroups = cgroup.of_builds(mark, top=self.root)
        else:
            self.cgroups = cgroup.of_functions(mark, top=self.root)
        kill_orphans(RUN)
        self.cgroups.sweep()
        self.refused = ""
        """Why there is no sandbox; empty: there is one."""
        try:
            self._launcher = Launcher(bwrap.find(), self.cgroups, network, self.root)
            seccomp.program()
            self._try()
        except (ConfigError, Unavailable) as error:
            if not unsafe:
                raise ConfigError(
                    f"functions cannot be fenced in: {error}. Repair that, or accept that every "
                    "function can do what this user can: SLIPWAY_UNSAFE_NO_SANDBOX=1"
                ) from error
            self.refused = str(error)
            log.warning("NO SANDBOX: functions can do what this user can: %s", error)

    @classmethod
    def from_settings(cls, settings: Settings, *, builds: bool = False) -> Sandbox:
        network = Network.from_settings(settings)
        return cls(settings.mark, network, builds=builds, unsafe=settings.unsafe_no_sandbox)

    def start(
        self,
        cell: Cell,
        name: str,
        *,
        output: int,
        listener: int | None = None,
        status: int | None = None,
        record: Callable[[Process], None] = _nothing,
        parent: Parent | None = None,
    ) -> Process:
        """Starts a cell that outlives us; returns once its program is released to run.

        ``name``: unique, part of file names. ``output``: descriptor for stdout and stderr.
        ``listener``: handed in as descriptor 3. ``status``: descriptor of a file into which
        bubblewrap writes how it ended (see ``exit_status``). ``record`` is called before the
        program runs: what it writes down is true whenever we are killed. ``parent``: forks it,
        where it can.

        Raises:
            NotFound: a mount's source is not there.
            Unavailable: the kernel refused for now.
        """
        return self._launch(cell, name, Wiring(output, listener, status), record, parent=parent)

    def warm(self, seed: Seed, name: str, outlets: Outlets | None = None) -> Parent:
        """Starts a parent that forks cells; see warm.py.

        Raises:
            Unforkable: there can be none here.
        """
        if reason := self.cold():
            raise Unforkable(reason)
        return Parent(seed, name, self._mark, self._launcher, outlets)

    def cold(self) -> str:
        """Why cells cannot be forked here; empty: they can."""
        if not self.root:
            return "only root can fork a function into a sandbox"
        if self.refused:
            return "there is no sandbox"
        return _kernel_lacks()

    def end_parents(self) -> None:
        """Ends those that an earlier process of this installation left."""
        if not self.cold():
            end_all(self._mark, self.cgroups)

    def run(
        self,
        cell: Cell,
        name: str,
        *,
        timeout: float,
        max_output: int,
        on_line: Callable[[str], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> Result:
        """Runs a cell to its end and hands on its output line by line.

        Everything it started is ended after ``timeout`` seconds, after ``max_output`` bytes, when
        ``stop()`` (asked again and again) is true or raises, and when we die.

        Raises:
            NotFound, Unavailable: see ``start``.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.fchmod(writer, 0o622)  # so that the cell's own user may open /dev/stdout
        begun = time.monotonic()
        try:
            try:
                process = self._launch(cell, name, Wiring(writer), _nothing, to_the_end=True)
            finally:
                os.close(writer)
            group = self.group(process)
            try:
                outcome: Outcome
                outcome, size = _follow(reader, begun + timeout, max_output, on_line, stop)
                if outcome == "exited":
                    left = max(begun + timeout - time.monotonic(), 0.1)
                    if not _await_exit(process, left, stop):
                        outcome = "timeout"
                if outcome == "exited" and group.out_of_memory():
                    outcome = "memory"
            finally:
                status = kill(process)
                group.remove()
        finally:
            os.close(reader)
        return Result(
            128 + 9 if status is None else status, outcome, time.monotonic() - begun, size
        )

    @staticmethod
    def group(process: Process) -> cgroup.Cgroup:
        """The control group of a started cell."""
        return cgroup.Cgroup(Path(folder) for folder in process.cgroups)

    def end(self, process: Process) -> None:
        """Ends a cell with all it started and removes its control group.

        Raises:
            Unavailable: a process does not end.
        """
        kill(process)
        group = self.group(process)
        if self.refused:  # nothing but the group holds together what it forked
            for pid in group.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        group.remove()

    def enforced(self) -> dict[str, str]:
        """What is bounded here and by what, for people."""
        by = self.cgroups.controllers
        missing = "not bounded: no control group can be made here"
        if self.refused:
            files = identity = calls = f"NOT bounded: {self.refused}"
        elif self.root:
            files = "bubblewrap: own mounts, read-only but /tmp"
            identity = "a uid of its own, no capabilities, no new privileges"
            calls = "seccomp"
        else:
            files = "bubblewrap: own mounts, read-only but /tmp"
            identity = "a user namespace of its own; outside it is this user"
            calls = "seccomp"
        processes = by.get("pids") or ("RLIMIT_NPROC" if not self.refused else missing)
        return {
            "files": files,
            "identity": identity,
            "system calls": calls,
            "memory": by.get("memory", missing),
            "cpu": by.get("cpu", missing),
            "processes": processes,
            "network": self._network_told(),
            "builds": self._builds_told(),
            "starts": f"every function is started by itself: {cold}"
            if (cold := self.cold())
            else "Python functions are forked of a warm parent of their owner's",
        }

    def _builds_told(self) -> str:
        """What keeps them from hurting functions."""
        if version := self.cgroups.controllers.get("cpu"):
            return f"1 of the CPU beside {cgroup.HIGH:g} for functions: {version}"
        return "nice, for the workers alone: no control group can be made here"

    def _network_told(self) -> str:
        if self.refused:
            return "NOT bounded"
        if not self.root:
            return "none but loopback: only root can give functions a way outside"
        if not self.network.available():
            return "none but loopback: the functions' network is not set up"
        told = f"bridge {self.network.bridge}, {self.network.subnet}, NAT, nftables"
        if not self.network.nameservers:
            told += "; no names: every resolver of this host is on its loopback address"
        return told

    def _try(self) -> None:
        """Starts the smallest cell, so that what is missing is told once and whole."""
        cell = Cell(argv=["/bin/true"], memory=64 * 2**20, cpus=1, pids=16)
        lines: list[str] = []
        result = self.run(
            cell,
            f"try-{os.getpid()}-{random.getrandbits(32):08x}",
            timeout=START_TIMEOUT,
            max_output=65536,
            on_line=lines.append,
        )
        if not result.ok:
            told = " ".join(lines)[:500] or f"status {result.status}"
            hint = (
                "a container needs CAP_SYS_ADMIN for it"
                if self.root
                else "the kernel must allow user namespaces: "
                "sysctl kernel.unprivileged_userns_clone=1 or "
                "kernel.apparmor_restrict_unprivileged_userns=0"
            )
            raise ConfigError(f"bubblewrap cannot make a sandbox ({told}); {hint}")

    def _launch(
        self,
        cell: Cell,
        name: str,
        wiring: Wiring,
        record: Callable[[Process], None],
        *,
        to_the_end: bool = False,
        parent: Parent | None = None,
    ) -> Process:
        for mount in cell.mounts:
            if not mount.source.exists():
                raise NotFound(f"{mount.source}, which {name} needs, is not there")
        if parent:
            try:
                return parent.fork(cell, name, wiring, record)
            except Unforkable as error:
                log.warning("%s is started, as it could not be forked: %s", name, error)
        init = 0 if self.refused else 1
        group = self.cgroups.create(name, memory=cell.memory, cpus=cell.cpus, pids=cell.pids + init)
        try:
            if self.refused:
                return bare.launch(cell, group, wiring, record)
            return self._launcher.launch(cell, name, group, wiring, record, to_the_end=to_the_end)
        except BaseException:
            group.remove()
            raise


@functools.cache
def _kernel_lacks() -> str:
    """What a kernel before 5.12 has not, or another sandbox around us forbids."""
    try:
        os.close(kernel.detached_mount("/usr"))
    except OSError as error:
        return f"mounts cannot be handed over ({error})"
    return ""


def _follow(
    reader: int,
    deadline: float,
    max_output: int,
    on_line: Callable[[str], None],
    stop: Callable[[], bool],
) -> tuple[Outcome, int]:
    """Hands on lines until nobody can write any more; returns how it ended and how many bytes."""
    size, rest = 0, b""
    outcome: Outcome = "exited"
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or stop():
            outcome = "timeout"
            break
        if not readable(reader, min(left, _ASK_EVERY)):
            continue
        piece = os.read(reader, 65536)
        size += len(piece)
        if not piece:
            break
        if size > max_output:
            piece = piece[: max(len(piece) - (size - max_output), 0)]
            outcome = "output"
        *lines, rest = (rest + piece).split(b"\n")
        for line in _pieces(lines):
            on_line(line)
        while len(rest) > _LINE:
            on_line(rest[:_LINE].decode(errors="replace"))
            rest = rest[_LINE:]
        if outcome == "output":
            break
    for line in _pieces([rest] if rest else []):
        on_line(line)
    return outcome, size


def _pieces(lines: Sequence[bytes]) -> Iterator[str]:
    for line in lines:
        for start in range(0, len(line) or 1, _LINE):
            yield line[start : start + _LINE].decode(errors="replace")


def _await_exit(process: Process, timeout: float, stop: Callable[[], bool]) -> bool:
    """Waits for bubblewrap, which is our child; tells whether it has ended."""
    descriptor = os.pidfd_open(process.monitor)
    deadline = time.monotonic() + timeout
    try:
        while (left := deadline - time.monotonic()) > 0 and not stop():
            if ended(descriptor, min(left, _ASK_EVERY)):
                return True
        return False
    finally:
        os.close(descriptor)
