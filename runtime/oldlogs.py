"""Removes the logs of functions that are long gone: each is bounded, their number is not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from pathlib import Path

from core import logging

KEPT = 7 * 86400.0
"""Seconds after the last line."""

log = logging.get()


def remove(logs: Path, functions: Collection[str]) -> int:
    """Returns how many it removed; ``functions``: those that exist, or of which something runs."""
    removed = 0
    for folder in logs.iterdir() if logs.is_dir() else ():
        if folder.name in functions or time.time() - _written(folder) < KEPT:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        log.info("old_log_removed", function=folder.name)
        removed += 1
    return removed


def _written(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # it is just being written
        return time.time()
