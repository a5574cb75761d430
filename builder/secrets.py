"""Secrets that a build was given by name: the gateway opens them for the release being built.

The docker command wants files. Run by root they are on a tmpfs, for us alone, until the release is
over; run by a user they are in the release's work folder, on the disk: logind clears ``/dev/shm``
of what is a user's when that user logs out. The key stays with the gateway.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from builder import folders
from builder.handover import ask
from core import disk, logging
from core.bundle import HALF_MADE
from core.models import Release
from core.settings import Settings

log = logging.get()


def build_secret(settings: Settings, release: Release, name: str) -> bytes:
    """The value of one secret of the release's namespace.

    Raises:
        NotFound: the namespace has no such secret.
        Conflict: the release is not being built any more.
        Unavailable: the gateway did not come back in time.
    """
    path = f"/internal/releases/{release.id}/secrets?{urlencode({'name': name})}"
    answer = ask(settings, "GET", path)
    return msgspec.json.decode(answer, type=dict[str, bytes])[name]


def memory(settings: Settings) -> Path:
    """Where the secrets of all builds of this installation lie, swept with
    all that killed builds leave."""
    return Path(f"/dev/shm/slipway-{settings.mark}-builds")


@contextlib.contextmanager
def room(settings: Settings, work: Path) -> Iterator[Path]:
    """An empty folder for the secrets of one release: in memory, or else in ``work``."""
    folder = _in_memory(memory(settings)) if os.geteuid() == 0 else None
    if folder is None:
        folder = work / ".secrets"  # no function is called so
        folder.mkdir(mode=0o700)
        yield folder  # goes with ``work``
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # tells the sweep that somebody is at it
        yield folder
    finally:
        os.close(handle)
        folders.remove(folder)
        with contextlib.suppress(OSError):  # another release has its own there
            folder.parent.rmdir()


def _in_memory(home: Path) -> Path | None:
    """A new folder in ``home``, which is made; None where it would not be in memory, or not ours
    alone."""
    if not disk.is_tmpfs(home.parent):
        log.warning("build_secrets_on_disk", reason=f"{home.parent} is no tmpfs")
        return None
    while True:
        try:
            home.mkdir(mode=0o700, exist_ok=True)
            status = os.lstat(home)
            if (status.st_mode, status.st_uid) != (0o40700, os.geteuid()):
                raise PermissionError(f"{home} belongs to somebody else, or is open to others")
            return Path(tempfile.mkdtemp(prefix=HALF_MADE, dir=home))
        except FileNotFoundError:  # the last release before us was over just now
            continue
        except OSError as error:
            log.warning("build_secrets_on_disk", reason=str(error))
            return None
