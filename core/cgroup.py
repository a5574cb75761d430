"""Bounds on memory, processes and CPU, and what is used of them: control groups of version 1 and 2
behind one interface.

The groups of one installation's functions lie in a folder of its own in each hierarchy, which has a
large share of the CPU (``HIGH``); the edge has a group with the same share, for requests come
through it; what else serves has one between (``CONTROL``); those of its builds lie in a fourth one,
which has the share of one process, however many they are.
Root's are at the top: a function outlives the service that started it, and its bounds must not go
with that service. An ordinary user's are below the user's own group, which systemd gives over where
it is told to (``systemd-run --user --scope -p Delegate=yes``). What cannot be had is left out, and
``controllers`` says so.

Files and units: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Unavailable

log = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids", "cpu")
_COUNTS = "cpuacct"
"""What counts CPU time in version 1, often in the hierarchy of ``cpu``; it bounds nothing."""
PERIOD = 100_000
"""Microseconds over which CPU time is shared out."""
_SHARES = {1: ("cpu.shares", 1024), 2: ("cpu.weight", 100)}
"""By version: the file that says how the CPU is shared out, and what others have in it."""
HIGH = 16.0
"""Share of functions, all together, and of the edge, where any other process has one. Builds have
that of one process, all together: with less they come to no end beside other work."""
CONTROL = 8.0
"""Share of gateway, controller, queue and store, all together: functions that keep every core busy
are replaced and scaled by these."""
CONTAINERS, ENGINE = 8.0, 1 / 8
"""Shares of functions as containers, all together, and of builds in an engine: the engine that runs
functions has that of any other process, and must be heard beside them."""
WORKERS = 8.0
"""Share within that of builds of what leads them, so that a lease is renewed in time."""
_STALE = 3600
"""Seconds after which an empty group was left by someone who was killed."""


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy in which we may make groups: ``folder`` is our own in it."""

    folder: Path
    version: int
    controllers: frozenset[str]
    share: float = 1.0
    """Of the CPU, of all in it together, where any other process has one."""


class Cgroup:
    """One cell's group: a folder in every hierarchy."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(folders)

    def join(self, pid: int) -> None:
        """Moves a process in; what it forks later is in it too."""
        for folder in self.folders:
            _write(folder / "cgroup.procs", str(pid))

    def lift_cpu(self) -> None:
        """Takes the bound on CPU time away. Killed processes need some to end, and what the group
        spent in the kernel beyond its bound is held back from them: for a minute, after a fork
        bomb at its memory limit (6.18)."""
        for folder in self.folders:
            for name, none in (("cpu.cfs_quota_us", "-1"), ("cpu.max", "max")):
                with contextlib.suppress(OSError):  # not this version's, or gone
                    _write_raw(folder / name, none)

    def out_of_memory(self) -> int:
        """How many of its processes the kernel killed because the memory limit was reached."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    found = re.search(r"^oom_kill (\d+)$", (folder / name).read_text(), re.M)
                    if found:
                        return int(found[1])
        return 0

    def used(self) -> tuple[float, int] | None:
        """(seconds of CPU time since it was made, bytes of memory now); None: not both are counted.

        Memory is counted without the page cache that the kernel would give up first, as
        Kubernetes' working set is.
        """
        cpu = self._value("cpuacct.usage")
        micros = self._value("cpu.stat", r"^usage_usec (\d+)$")
        first, second = self._value("memory.usage_in_bytes"), self._value("memory.current")
        seconds = cpu / 1e9 if cpu is not None else micros / 1e6 if micros is not None else None
        memory = first if first is not None else second
        if seconds is None or memory is None:
            return None
        kind = "inactive_file" if first is None else "total_inactive_file"
        idle = self._value("memory.stat", rf"^{kind} (\d+)$") or 0
        return seconds, max(memory - idle, 0)

    def _value(self, name: str, pattern: str = r"^(\d+)$") -> int | None:
        """The number in that file, of whichever hierarchy has it."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                if found := re.search(pattern, (folder / name).read_text(), re.M):
                    return int(found[1])
        return None

    def pids(self) -> list[int]:
        """The processes in it, as the caller's pid namespace numbers them."""
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
        return sorted(found - {0})

    def remove(self) -> None:
        """Removes the group, and our folder if it was the last; waits a second for processes that
        are just ending."""
        deadline = time.monotonic() + 1
        for folder in self.folders:
            while True:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if error.errno == errno.EBUSY and time.monotonic() < deadline:
                        time.sleep(0.005)
                        continue
                    log.warning("the cgroup %s cannot be removed: %s", folder, error.strerror)
                break
            with contextlib.suppress(OSError):  # others are in it
                folder.parent.rmdir()


class Cgroups:
    """Where this installation may make groups, and of which controllers."""

    def __init__(self, hierarchies: Sequence[Hierarchy]) -> None:
        self.hierarchies = hierarchies

    @property
    def name(self) -> str:
        """Of our folder, the same in each."""
        return self.hierarchies[0].folder.name if self.hierarchies else ""

    @property
    def controllers(self) -> dict[str, str]:
        """Controller → what enforces it: ``{"memory": "cgroup v1"}``; absent: nothing does."""
        return {
            controller: f"cgroup v{hierarchy.version}"
            for hierarchy in self.hierarchies
            for controller in sorted(hierarchy.controllers - {_COUNTS})
        }

    def create(
        self, name: str, *, memory: int, cpus: float, pids: int, one_fate: bool = True
    ) -> Cgroup:
        """Makes a group with its limits set: memory in bytes, CPUs as a decimal. ``one_fate``:
        where memory is out all of it ends, not one process (version 2 only).

        Raises:
            Unavailable: the kernel refused.
        """
        group = self.make(name)
        try:
            self.bound(group, memory=memory, cpus=cpus, pids=pids, one_fate=one_fate)
        except Unavailable:
            group.remove()
            raise
        return group

    def make(self, name: str) -> Cgroup:
        """Makes a group without limits; for what is forked before it is known what for.

        Raises:
            Unavailable: the kernel refused.
        """
        group = self.named(name)
        try:
            self._make(group)
        except Unavailable:
            group.remove()
            raise
        return group

    def bound(
        self, group: Cgroup, *, memory: int, cpus: float, pids: int, one_fate: bool = True
    ) -> None:
        """Sets a group's limits; see ``create``. Raises Unavailable."""
        for hierarchy, folder in zip(self.hierarchies, group.folders, strict=True):
            for file, value in _limits(hierarchy, memory, cpus, pids, one_fate):
                _write(folder / file, value)

    def join(self, name: str, pid: int, share: float = 1.0) -> None:
        """Moves a process into a group without bounds of its own, made where need be: it and all
        that it starts have our share of the CPU, but for what is moved on. ``share``: within ours,
        where each other group has one.

        Raises:
            Unavailable: the kernel refused.
        """
        group = self.named(name)
        self._make(group, share)
        group.join(pid)

    def _make(self, group: Cgroup, share: float = 1.0) -> list[tuple[Hierarchy, Path]]:
        """Makes its folders, and gives each with its hierarchy."""
        places = list(zip(self.hierarchies, group.folders, strict=True))
        try:
            for hierarchy, folder in places:
                _make(hierarchy, folder)
                _share(hierarchy, folder, share)
        except OSError as error:
            raise Unavailable(f"the kernel made no control group: {error}") from error
        return places

    def named(self, name: str) -> Cgroup:
        """The group of that name, whether it is there or not."""
        return Cgroup(hierarchy.folder / name for hierarchy in self.hierarchies)

    def remove_empty(self, prefix: str) -> None:
        """Removes those groups in which nothing is any more whose names begin so."""
        for hierarchy in self.hierarchies:
            for folder in hierarchy.folder.glob(f"{prefix}*"):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def clear(self) -> None:
        """Removes every empty group of this installation, and our folder."""
        self.sweep(age=0)
        for hierarchy in self.hierarchies:
            with contextlib.suppress(OSError):
                hierarchy.folder.rmdir()

    def sweep(self, age: float = _STALE) -> None:
        """Removes empty groups that are over ``age`` seconds old: left by a killed test run."""
        for hierarchy in self.hierarchies:
            with contextlib.suppress(OSError):
                for folder in hierarchy.folder.iterdir():
                    if folder.is_dir() and time.time() - folder.stat().st_mtime >= age:
                        with contextlib.suppress(OSError):
                            folder.rmdir()  # refused while anything is in it


def discover(
    mark: str,
    *,
    top: bool,
    share: float = 1.0,
    mountinfo: Path = Path("/proc/self/mountinfo"),
    own: Path = Path("/proc/self/cgroup"),
    wanted: Sequence[str] = (*CONTROLLERS, _COUNTS),
) -> Cgroups:
    """Finds the hierarchies in which ``slipway-<mark>`` can be made.

    ``top``: make it at the top of the hierarchy (root) or below our own group (a user). ``share``:
    of the CPU, of all in it together, where any other process has one.
    """
    groups = {}
    for line in own.read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    found: list[Hierarchy] = []
    for mount, version, offered in _mounts(mountinfo.read_text()):
        use = frozenset(wanted) & offered
        taken = {name for each in found for name in each.controllers}
        use -= taken
        if not use:
            continue
        path = "/" if top else groups.get("" if version == 2 else sorted(use)[0], "/")
        folder = mount / path.lstrip("/") / f"slipway-{mark}"
        try:
            folder.mkdir(exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if version == 2:
                use = _delegate(folder, use)
            hierarchy = Hierarchy(folder, version, use, share)
            _share(hierarchy, folder, share)
        except OSError as error:
            log.debug("no control groups in %s: %s", folder.parent, error.strerror)
            continue
        if use:
            found.append(hierarchy)
    return Cgroups(found)


def of_builds(mark: str, *, top: bool) -> Cgroups:
    """Where groups of builds are made: beside those of functions."""
    return discover(f"{mark}-builds", top=top)


def of_functions(mark: str, *, top: bool) -> Cgroups:
    """Where groups of functions are made."""
    return discover(mark, top=top, share=HIGH)


def of_containers(mark: str, *, top: bool) -> Cgroups:
    """Below which an engine makes the groups of functions."""
    return discover(f"{mark}-containers", top=top, share=CONTAINERS)


def end_containers(mark: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
    """Removes what ``of_containers`` made, once no container is in it: an engine makes its groups
    below it in every hierarchy there is."""
    for point in _all_mounts(mountinfo.read_text()):
        with contextlib.suppress(OSError):  # none, or one is still there
            (point / f"slipway-{mark}-containers").rmdir()


def of_edge(mark: str, *, top: bool) -> Cgroups:
    """Where the edge's group is made: beside those of functions."""
    return discover(f"{mark}-edge", top=top, share=HIGH)


def of_control(mark: str, *, top: bool) -> Cgroups:
    """Where groups of the parts are made that serve beside the edge."""
    return discover(f"{mark}-control", top=top, share=CONTROL)


def end(mark: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
    """Kills all that runs in root's groups of this mark and removes them, in every hierarchy there
    is: a container engine that was given one of them makes its own below it, in all of them.

    Waits two seconds for what it killed.

    Raises:
        Unavailable: a process does not end.
    """
    tops = [point / f"slipway-{mark}" for point in _all_mounts(mountinfo.read_text())]
    deadline = time.monotonic() + 2
    while left := [top for top in tops if top.is_dir()]:
        for top in left:
            for name, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    for pid in Cgroup([Path(name)]).pids():
                        os.kill(pid, signal.SIGKILL)
                    Path(name).rmdir()
        if time.monotonic() > deadline:
            raise Unavailable(f"processes in the control group {left[0]} do not end")
        time.sleep(0.01)


def _all_mounts(mountinfo: str) -> Iterable[Path]:
    """Mount points of all hierarchies, those without controllers too."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            yield _unescaped(before.split()[4])


def _unescaped(point: str) -> Path:
    return Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), point))


def _mounts(mountinfo: str) -> Iterable[tuple[Path, int, frozenset[str]]]:
    """(mount point, version, controllers) of each line of proc(5)'s mountinfo that is a cgroup."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        point = _unescaped(before.split()[4])
        if kind == "cgroup":
            yield point, 1, frozenset(options.split(","))
        elif kind == "cgroup2":
            with contextlib.suppress(OSError):
                yield point, 2, frozenset((point / "cgroup.controllers").read_text().split())


def _make(hierarchy: Hierarchy, folder: Path) -> None:
    """Makes a cell's group; another process may remove our empty folder at this very moment."""
    for _ in range(10):
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(exist_ok=True)
            return
        hierarchy.folder.mkdir(exist_ok=True)
        if hierarchy.version == 2:
            _delegate(hierarchy.folder, hierarchy.controllers)
        _share(hierarchy, hierarchy.folder, hierarchy.share)
    folder.mkdir()


def _share(hierarchy: Hierarchy, folder: Path, share: float) -> None:
    """Sets how much of the CPU all in ``folder`` get while those beside it want it as well."""
    if share != 1.0 and "cpu" in hierarchy.controllers:
        name, others = _SHARES[hierarchy.version]
        with contextlib.suppress(FileNotFoundError):  # removed just now: _make comes here again
            _write_raw(folder / name, str(round(others * share)))


def _delegate(folder: Path, use: frozenset[str]) -> frozenset[str]:
    """Hands controllers down to the groups that will be made in ``folder``; returns which."""
    for level in (folder.parent, folder):
        control = level / "cgroup.subtree_control"
        for controller in sorted(use - set(control.read_text().split())):
            try:
                _write_raw(control, f"+{controller}")
            except OSError as error:
                if error.errno != errno.EBUSY:
                    continue
                # Version 2 gives controllers only to the children of groups without processes.
                _vacate(level)
                with contextlib.suppress(OSError):
                    _write_raw(control, f"+{controller}")
    return use & set((folder / "cgroup.subtree_control").read_text().split())


def _vacate(group: Path) -> None:
    """Moves a group's processes (ours among them) into a leaf below it."""
    leaf = group / "slipway-main"
    leaf.mkdir(exist_ok=True)
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            _write_raw(leaf / "cgroup.procs", pid)


def _limits(
    hierarchy: Hierarchy, memory: int, cpus: float, pids: int, one_fate: bool
) -> Iterable[tuple[str, str]]:
    """The files to write and their values, in the order in which the kernel takes them."""
    first = hierarchy.version == 1
    quota = max(int(cpus * PERIOD), 1000)  # the kernel takes no quota under a millisecond
    if "memory" in hierarchy.controllers:
        if first:
            yield "memory.limit_in_bytes", str(memory)
            yield "memory.memsw.limit_in_bytes?", str(memory)
        else:
            yield "memory.max", str(memory)
            yield "memory.swap.max?", "0"
            yield "memory.oom.group", str(int(one_fate))
    if "pids" in hierarchy.controllers:
        yield "pids.max", str(pids)
    if "cpu" in hierarchy.controllers:
        if first:
            yield "cpu.cfs_period_us", str(PERIOD)
            yield "cpu.cfs_quota_us", str(quota)
        else:
            yield "cpu.max", f"{quota} {PERIOD}"


def _write(file: Path, value: str) -> None:
    """Writes a control file; a ``?`` at the end of its name: only where the kernel has it."""
    optional = file.name.endswith("?")
    file = file.with_name(file.name.rstrip("?"))
    if optional and not file.exists():
        return
    try:
        _write_raw(file, value)
    except OSError as error:
        raise Unavailable(f"the kernel refused {value} for {file}: {error.strerror}") from error


def _write_raw(file: Path, value: str) -> None:
    """One write(2): what control files need. Never makes a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
