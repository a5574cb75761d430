"""How full the disks are that images, caches and state lie on: told before they are full."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

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
