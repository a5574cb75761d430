"""Starts a cell's program without a sandbox, where the admin accepted that and none can be made.

The same descriptors, environment and command; but the program sees the host, so what names a place
in the cell is made to name the mount's source instead.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from core.cgroup import Cgroup
from core.errors import Unavailable
from core.sandbox.cell import Cell, Process
from core.sandbox.interpreters import interpreters
from core.sandbox.launch import LISTENER, Wiring
from core.sandbox.process import boot_id, kill, spawn, start_time


def launch(cell: Cell, group: Cgroup, wiring: Wiring, record: Callable[[Process], None]) -> Process:
    """Starts the program as a child of ours, in a session of its own.

    Raises:
        Unavailable: the system has no room for a process.
    """
    env = {  # search paths name several places
        name: ":".join(_outside(part, cell) for part in value.split(":"))
        for name, value in cell.env.items()
    }
    if "PATH" in env:
        env["PATH"] = ":".join([*_interpreter_folders(), env["PATH"]])
    argv = ["env", "-i", f"--chdir={_outside(cell.cwd, cell)}"]
    argv += [f"{name}={value}" for name, value in env.items()]
    argv += [_outside(each, cell) for each in cell.argv]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        fds = {0: null, 1: wiring.output, 2: wiring.output}
        if wiring.listener is not None:
            fds[LISTENER] = wiring.listener
        pid = spawn("/usr/bin/env", argv, fds)
    finally:
        os.close(null)
    with contextlib.suppress(Unavailable):  # it may have ended already
        group.join(pid)
    process = Process(
        pid=pid,
        started=start_time(pid) or 0,
        monitor=pid,
        boot=boot_id(),
        cgroups=[str(folder) for folder in group.folders],
    )
    try:
        record(process)
    except BaseException:
        kill(process)
        raise
    return process


def _interpreter_folders() -> list[str]:
    found = interpreters()
    folders = [str(Path(points_to).parent) for points_to, _ in found.links[:1]]
    return folders + [str(source.parent) for source, target in found.binds if "/bin/" in target]


def _outside(value: str, cell: Cell) -> str:
    """A path in the cell → on the host, where the cell's mounts are not made."""
    for mount in cell.mounts:
        if value == mount.target or value.startswith(mount.target + "/"):
            return str(mount.source) + value[len(mount.target) :]
    return value
