"""What a platform has of everything that it makes and must take away again, counted from outside.

Not the platform's own word: the kernel's groups and processes, folders, HAProxy and the store.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import redis

from bench import processes
from bench.harness import Platform
from core import cgroup, keys
from core.sandbox.process import WARM
from runtime.edge import config
from runtime.edge.admin import AdminSocket

_HISTORY = re.compile(
    r"(release|repository|namespace|traffic|call-token):"
    r"|(releases|sequence|counts|functions|observed|unneeded|rollbacks:sequence|disk-used)$"
)
"""Keys of what is kept on purpose: releases, what can be gone back to, counters of functions; and
those of functions, which are counted with them."""
_OTHER_GROUPS = ("-builds", "-edge", "-control", "-containers")
"""Ends of the names of control groups in which no function runs as a process (core/cgroup.py)."""
_POOLS = 50
"""Descriptors that a part may have more of: its pools of connections have grown to their size."""
_DESCRIPTORS = 3
"""Of the controller for each function: two pidfds and the pipe of its output."""


def functions(platform: Platform) -> Counter[str]:
    """What there is of each function that runs, and should be as many as there are functions."""
    settings = platform.settings
    groups = cgroup.discover(settings.mark, top=os.geteuid() == 0)
    socket = AdminSocket(config.admin_socket(settings))
    folder = groups.hierarchies[0].folder
    states = socket.send("show servers state").splitlines()
    return Counter(
        {
            "instances' folders": _entries(settings.instances),
            "sockets": _entries(settings.run / "f"),
            "control groups": len(_members(folder)),
            "processes": sum(len(each.read_text().split()) for each in _members(folder)),
            "routes": sum(bool(e.strip()) for e in config.map_file(settings).open()),
            "servers of the edge": sum(" unix" in f" {e}" or ".sock" in e for e in states),
            "store: functions": _length(platform, keys.FUNCTIONS),
            "store: observed": _length(platform, keys.OBSERVED),
        }
    )


def function_processes(platform: Platform) -> list[int]:
    """All that runs for functions, awake or not: in whichever group of this installation that is
    not one of its other parts', and bubblewrap outside of it."""
    settings = platform.settings
    folder = cgroup.of_functions(settings.mark, top=os.geteuid() == 0).hierarchies[0].folder
    found: set[int] = set()
    for group in [folder, *folder.parent.glob(f"{folder.name}-*")]:
        if group.name.removeprefix(folder.name) not in _OTHER_GROUPS:
            for each in group.rglob("cgroup.procs"):
                found.update(map(int, each.read_text().split()))
    return sorted(found | set(filter(processes.sandboxed, map(processes.parent, found))))


def others(platform: Platform) -> Counter[str]:
    """What there should be as much of as before: nothing of it belongs to a function."""
    settings = platform.settings
    found: Counter[str] = Counter()
    for part, pids in platform.parts().items():
        found[f"processes of {part}"] = len(pids)
        found[f"descriptors of {part}"] = sum(_entries(Path(f"/proc/{pid}/fd")) for pid in pids)
    builds = cgroup.of_builds(settings.mark, top=os.geteuid() == 0).hierarchies[0].folder
    found["control groups of builds"] = sum(each.is_dir() for each in builds.iterdir())
    found["half-made folders"] = _entries(settings.state / "work") + sum(
        len(list(settings.state.glob(f"{kind}/**/.new-*"))) for kind in ("bundles", "caches")
    )
    with redis.Redis.from_url(settings.store_url) as store:
        for key in store.scan_iter(count=1000):
            name = key.decode().removeprefix("slipway:")
            # What has an end goes by itself: rq notes jobs that it saw between queue and worker so.
            if not _HISTORY.match(name) and store.ttl(key) < 0:
                found[f"store: {_kind(name)}"] += _size(store, key)
    return found


def leaked(
    before: tuple[Counter[str], Counter[str]],
    after: tuple[Counter[str], Counter[str]],
    functions_before: int,
    functions_after: int,
) -> dict[str, int]:
    """What there is more of than there should be."""
    grown = functions_after - functions_before
    allowed = Counter({"descriptors of controller": _DESCRIPTORS * grown})
    found = {
        name: count - round(before[0][name] / functions_before * functions_after)
        for name, count in after[0].items()
    }
    for name, count in after[1].items():
        more = count - before[1][name] - allowed[name]
        found[name] = 0 if name.startswith("descriptors") and more <= _POOLS else more
    return {name: more for name, more in found.items() if more > 0}


def disk(folder: Path) -> int:
    """Bytes that are allocated in a folder; a file with two names counts once."""
    seen: set[int] = set()
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(f"{root}/{name}")
            except OSError:  # removed meanwhile
                continue
            if stat.st_ino not in seen:
                seen.add(stat.st_ino)
                total += stat.st_blocks * 512
    return total


def memory(platform: Platform) -> int:
    """Bytes (PSS) of the platform's own processes."""
    return sum(processes.pss(pid) for pids in platform.parts().values() for pid in pids)


def cpu(platform: Platform) -> dict[str, float]:
    """Seconds of CPU so far, by part; builds and functions by their control groups, so that what
    ended long ago counts as well."""
    settings = platform.settings
    top = os.geteuid() == 0
    found = {}
    for name, groups in (
        ("functions", cgroup.discover(settings.mark, top=top)),
        ("builds", cgroup.of_builds(settings.mark, top=top)),
    ):
        used = cgroup.Cgroup(each.folder for each in groups.hierarchies).used()
        found[name] = used[0] if used else 0.0
    for part, pids in platform.parts().items():
        if part != "workers":  # their group is that of builds
            found[part] = sum(map(_cpu, pids))
    return found


def _waits(members: Path) -> bool:
    called = [processes.arguments(int(pid)) for pid in members.read_text().split()]
    return any(words and words[0].startswith(WARM) for words in called)


def _cpu(pid: int) -> float:
    try:
        return processes.cpu_seconds(pid)
    except RuntimeError:  # it ended, and its parent has its time
        return 0.0


def _length(platform: Platform, key: str) -> int:
    with redis.Redis.from_url(platform.settings.store_url) as store:
        return int(store.hlen(key))


def _kind(name: str) -> str:
    """A key without what tells it from others of its kind; rq's queues are few, each a kind."""
    parts = name.split(":")
    if parts[:2] == ["rq", "queue"]:
        return name
    return ":".join(parts[: 2 if parts[0] == "rq" else 1])


def _members(folder: Path) -> list[Path]:
    """Of the functions' groups; not of warm parents, and of children that are no function yet."""
    found = [each for each in folder.glob("**/cgroup.procs") if each.parent != folder]
    return [each for each in found if not _waits(each)]


def _entries(folder: Path) -> int:
    try:
        return len(os.listdir(folder))  # noqa: PTH208 - only how many
    except OSError:
        return 0


def _size(store: redis.Redis, key: bytes) -> int:
    kind = store.type(key)
    if kind == b"hash":
        return int(store.hlen(key))
    if kind == b"set":
        return int(store.scard(key))
    if kind == b"zset":
        return int(store.zcard(key))
    if kind == b"stream":
        return int(store.xlen(key))
    if kind == b"list":
        return int(store.llen(key))
    return 1
