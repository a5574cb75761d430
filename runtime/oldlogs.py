"""Removes the logs of functions that are long gone: each is bounded, their number is not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from core import disk
from core.pruning import Candidate

KEPT = 7 * 86400.0
"""Seconds after the last line."""


def candidates(logs: Path, functions: Collection[str]) -> Iterator[Candidate]:
    """``functions``: those that exist, or of which something runs."""
    for folder in sorted(logs.iterdir()) if logs.is_dir() else ():
        if folder.name not in functions and _old(folder):
            remove, size = partial(_remove, folder), partial(disk.usage, folder)
            yield Candidate("function log", folder.name, remove, size)


def _remove(folder: Path) -> bool:
    if not _old(folder):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _old(folder: Path) -> bool:
    try:
        written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # it is just being written
        return False
    return time.time() - written >= KEPT
