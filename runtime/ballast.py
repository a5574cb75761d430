"""Room for the store on a disk that somebody fills up.

    <state>/ballast    takes up disk and holds nothing

Builds stop while ``disk.RESERVE`` is still free, but others may write to the same disk. When it is
as good as full the ballast goes, and what the store and running functions write has its room; once
there is enough again it is made anew. It is small beside what is free, or not there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from core import disk, logging
from core.settings import Settings

SIZE = 64 * 2**20
FULL = 16 * 2**20
"""Bytes of free disk below which it goes."""

log = logging.get()


def trim(settings: Settings) -> None:
    """Makes it where there is room for it, and removes it where there is none for anything else.
    Cheap: to be called every second."""
    path = settings.state / "ballast"
    try:
        free = disk.free(settings.state)
        if free < FULL and path.exists():
            path.unlink()
            log.warning("disk_full", reason="the ballast is gone: make room", free=free)
        elif free - SIZE >= disk.RESERVE and not path.exists():
            _make(path)
    except OSError as error:
        log.warning("no_ballast", reason=str(error))


def _make(path: Path) -> None:
    draft = path.with_suffix(".new")
    try:
        with draft.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
