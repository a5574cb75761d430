"""Processes by id: started with exactly the descriptors that are named, ended without a mistake.

A pid is only a number that comes back. Whoever signals opens a pidfd first and then looks whether
the process is still the one that was meant.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core.cgroup import Cgroup
from core.errors import Unavailable
from core.sandbox.cell import Process

WARM = "slipway-warm:"
"""How a parent (warm.py) is called in the process list, and what it forked until that is released.
"""
_PROGRAM = 2
"""The program's pid in its namespace, where bubblewrap's init is 1."""


def spawn(program: str, argv: Sequence[str], fds: Mapping[int, int]) -> int:
    """Starts a program in a session of its own with an empty environment; returns its pid.

    ``fds``: number there → descriptor here. The program gets these and no others, whatever this
    process inherited. Signals have their default action.

    Raises:
        Unavailable: there is no such program, or the system has no room for a process.
    """
    moved = {}
    above = max(fds, default=0) + 1  # so that no target overwrites a source
    try:
        for target, source in fds.items():
            moved[target] = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, above)
        # Ours are close-on-exec; these came from whoever started us, or wait for another child.
        actions: list[tuple[int, ...]] = [
            (os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in moved
        ]
        actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in moved.items()]
        return os.posix_spawn(
            program,
            list(argv),
            {},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        raise Unavailable(f"{program} cannot be started: {error.strerror}") from error
    finally:
        for source in moved.values():
            os.close(source)


def _inheritable() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are numbers, not paths
        with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found


@functools.cache
def boot_id() -> str:
    """The id of this boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the process' start; None: it is gone or only waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name before may hold anything
    return None if state in "ZX" else int(rest[18])


def open_process(process: Process) -> int | None:
    """Returns a pidfd of a started cell's process, or None if it has ended.

    Raises:
        Unavailable: that cannot be known now: there is no descriptor to be had.
    """
    if process.boot != boot_id():
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise Unavailable(f"process {process.pid} cannot be looked at: {error.strerror}") from error
    if start_time(process.pid) != process.started:
        os.close(descriptor)
        return None
    return descriptor


def alive(process: Process) -> bool:
    """Whether the cell still runs."""
    return process.boot == boot_id() and start_time(process.pid) == process.started


def terminate(process: Process) -> None:
    """Asks the cell's program to end (SIGTERM)."""
    if process.monitor == process.pid:
        _signal(process.pid, process)
        return
    pid = program(process)
    if pid is not None:
        _signal(pid, process)
    else:
        kill(process)


def program(process: Process) -> int | None:
    """The pid of the cell's program; None: it ended, or was never released to run.

    The init forks the program within milliseconds of the release: it is waited for.
    """
    for _ in range(50):
        if not alive(process):
            return None
        for pid in _children(process.pid):
            if _inner_pid(pid) == _PROGRAM:
                return pid
        time.sleep(0.01)
    return None


def released(process: Process) -> bool:
    """Whether the program of a cell that runs was let go."""
    pid = program(process)
    return pid is not None and not _called(pid).startswith(WARM)


def kill(process: Process, timeout: float = 10) -> int | None:
    """Ends the cell and all that it started; returns its exit status when they are gone.

    In a sandbox the death of pid 1 ends its whole pid namespace, whatever was forked, detached or
    given another session. Without one, the session's process group is ended.

    Raises:
        Unavailable: it is still there after ``timeout`` seconds: stuck in the kernel.
    """
    descriptor = open_process(process)
    if descriptor is not None:
        try:
            with contextlib.suppress(ProcessLookupError):
                if process.monitor == process.pid:
                    os.killpg(process.pid, signal.SIGKILL)
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            Cgroup(map(Path, process.cgroups)).lift_cpu()
            if not ended(descriptor, timeout):
                raise Unavailable(
                    f"process {process.pid} does not end: it waits in the kernel, probably for a "
                    "disk; it is tried again"
                )
        finally:
            os.close(descriptor)
    return reap(process)


def ended(descriptor: int, timeout: float) -> bool:
    """Waits until a pidfd's process has ended, at most ``timeout`` seconds; tells whether."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def reap(process: Process, timeout: float = 1) -> int | None:
    """Collects the exit status once the cell has ended; None if it was not ours to wait for.

    bubblewrap ends just after what it watches: hence a time to wait, in seconds. A bubblewrap
    that was killed itself knows nothing.
    """
    status = reap_child(process.monitor, timeout) if process.monitor else None
    if status is None or (process.monitor != process.pid and os.WIFSIGNALED(status)):
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def reap_child(pid: int, timeout: float = 1) -> int | None:
    """Returns waitpid(2)'s status of a child of ours; None: it is none, or does not end in time."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            ended_pid, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if ended_pid:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)


def kill_marked(marker: str) -> None:
    """Ends processes of ours whose command line begins with ``marker``.

    For starts that nobody wrote down: their process still is bubblewrap, or a forked init, held
    before the cell's program. A program that took the name itself would only end itself.
    """
    kill_called(lambda called: called == marker)


def kill_orphans(prefix: str) -> None:
    """Ends processes called ``<prefix><pid>:…`` where no process has that pid any more."""

    def orphaned(called: str) -> bool:
        pid = called.removeprefix(prefix).partition(":")[0]
        return called.startswith(prefix) and pid.isdecimal() and not Path(f"/proc/{pid}").exists()

    kill_called(orphaned)


def kill_called(wanted: Callable[[str], bool]) -> None:
    """Ends every process whose name, the first word of its command line, is wanted."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(int(folder.name))
            try:
                if wanted(_called(int(folder.name))):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    ended(descriptor, 5)
            finally:
                os.close(descriptor)


def _called(pid: int) -> str:
    """The first word of its command line; empty: it is gone, or the kernel's own."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return command.partition(b"\0")[0].decode(errors="replace")


def is_marked(process: Process, marker: str) -> bool:
    """Whether bubblewrap, or its own init, still watches over a cell of this name."""
    return _called(process.monitor or process.pid) == marker


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and _status(folder.name, "PPid") == [str(pid)]
        ]


def _inner_pid(pid: int) -> int:
    """What the process is called in the innermost namespace it is in; 0 if it is gone."""
    return int((_status(pid, "NSpid") or ["0"])[-1])


def _status(pid: int | str, field: str) -> list[str]:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return line.split()[1:]
    return []


def _signal(pid: int, cell: Process) -> None:
    """SIGTERM to a process of a cell, if the cell is still the one that is meant."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        inside = pid == cell.pid or (_inner_pid(pid) == _PROGRAM and pid in _children(cell.pid))
        if inside and alive(cell):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    finally:
        os.close(descriptor)
