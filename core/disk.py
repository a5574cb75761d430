"""How full the disks are that images, caches and state lie on: told before they are full."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from core.settings import Settings

RESERVE = 512 * 2**20
"""Bytes that builds leave free on the disk of the state folder: a full one would hurt the store."""
LOW = 2 * 2**30
"""Bytes of free disk below which people are warned."""
IMAGES_LOW = 5 * 2**30
"""The same where images are built: one of them easily takes a gigabyte."""


def free(path: Path) -> int:
    """Bytes free where a file or folder lies or will lie; raises OSError."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def warnings(paths: Iterable[Path], low: int) -> Iterator[str]:
    """A line for each disk that is nearly full; those that cannot be looked at are left out."""
    told = set()
    for path in paths:
        with suppress(OSError):
            left = free(path)
            if left < low and left not in told:
                told.add(left)
                yield f"only {left / 2**30:.1f} GiB are free at {path}: make room before it is full"


def usage(folder: Path, met: set[tuple[int, int]] | None = None) -> int:
    """Bytes on disk of all below a folder, or of a file; what others change meanwhile is left out.

    What lies on another file system is no part of it. Of a file with several names the first counts
    that is met; ``met``: those of other folders that were counted already.
    """
    met = set() if met is None else met
    try:
        top = folder.lstat()
    except OSError:
        return 0
    total = top.st_blocks * 512
    left = [os.fspath(folder)] if folder.is_dir() and not folder.is_symlink() else []
    while left:
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != top.st_dev:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    elif status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in met:
                            continue
                        met.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
    return total


def given_back(folder: Path) -> int:
    """Bytes of the files below a folder that have no name elsewhere: what removing it gives back,
    at least."""
    total = 0
    for inner, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                status = os.lstat(f"{inner}/{name}")
                total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total


def made_by_builds(settings: Settings) -> dict[str, int]:
    """What counts against ``SLIPWAY_DISK_LIMIT``: what it is → its bytes. Tenths of a second for a
    hundred thousand files.
    """
    places = {
        "git": settings.git_folder,
        "mirrors": settings.mirrors,
        "bundles": settings.bundles,
        "dependencies": settings.layers,
        "caches": settings.caches,
        "templates": settings.templates,
        "builds under way": settings.state / "work",
        "registry": settings.registry_folder,
        "engine for builds": settings.build_engine_folder,
        "store": settings.state / "store",
    }
    met: set[tuple[int, int]] = set()
    return {what: usage(place, met) for what, place in places.items()}


def human(size: float) -> str:
    """``1.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def is_tmpfs(folder: Path) -> bool:
    """Whether a tmpfs is mounted there, by proc(5), mountinfo: ``… <mount point> <options> … -
    <type> <source> …``."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return False
    for line in reversed(lines):
        fields = line.split(" ")
        if fields[4] == str(folder.resolve()):
            return fields[fields.index("-") + 1] == "tmpfs"
    return False
