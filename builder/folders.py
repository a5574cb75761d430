"""Folders that appear whole or not at all: bundles and layers.

A folder is made under a temporary name beside its final one, made read-only, written to disk and
renamed; those in which a release is put together have no final one. Of two that race for one name
the first wins; what a killed build left is swept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core import disk
from core.bundle import HALF_MADE
from core.errors import Unavailable
from core.settings import Settings

WORK = "work"
"""Below the state folder: where releases are put together."""
_STALE = 60
"""Seconds: a temporary folder that nobody holds and that is older was left by a killed build."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def making(parent: Path) -> Iterator[Path]:
    """Gives an empty folder in ``parent`` to be filled; it is gone afterwards unless settled.

    Raises:
        Unavailable: the disk is full, whatever of the body met it.
    """
    with disk_trouble(parent):
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=HALF_MADE, dir=parent))
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # tells the sweep that somebody is at it
            folder.chmod(0o755)
            yield folder
        finally:
            os.close(handle)
            remove(folder)


def settle(folder: Path, final: Path) -> bool:
    """Makes a folder read-only and durable and gives it its final name in the same parent.

    Returns False where that name was taken already: then this one is dropped by ``making``.
    """
    freeze(folder)
    sync(folder)
    try:
        folder.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    sync(final.parent)
    return True


def freeze(folder: Path) -> None:
    """Gives everything one of two modes: 0555 (folders, programs) or 0444."""
    for inner, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(inner, name)
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode):
                path.chmod(0o555 if mode & 0o100 else 0o444)
        Path(inner).chmod(0o555)


def sync(folder: Path) -> None:
    """Writes the folder's file system to disk: one call, whatever the number of files."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not hasattr(_libc, "syncfs"):  # not Linux
            os.sync()
        elif _libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def remove(folder: Path) -> None:
    """Removes a folder that may be read-only or not there; symlinks are not followed."""
    with contextlib.suppress(FileNotFoundError):
        folder.chmod(0o700)
        for inner, folders, _ in os.walk(folder):
            for name in folders:
                path = Path(inner, name)
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder)


def sweep(parent: Path) -> int:
    """Removes temporary folders of builds that were killed; returns how many."""
    count = 0
    for folder in parent.glob(f"{HALF_MADE}*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            if time.time() - folder.stat().st_ctime < _STALE:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
                count += 1
            finally:
                os.close(handle)
    return count


@contextlib.contextmanager
def turn(lock: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Waits for its turn among the threads and processes that name the same lock file; ``check`` is
    asked meanwhile, and what it raises ends the waiting."""
    with disk_trouble(lock.parent), _locked(lock, fcntl.LOCK_EX, check):
        yield


@contextlib.contextmanager
def _locked(lock: Path, kind: int, check: Callable[[], None]) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(0.02)
        os.utime(handle.fileno())  # so that it is kept
        yield


RESERVE = disk.RESERVE


def used(folder: Path) -> bool:
    """Whether a folder is there; if so it counts as used now, and for a while is not removed."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def retire(folder: Path, older: Callable[[Path], bool]) -> bool:
    """Removes a folder that is still ``older`` than what is kept: first of all its name. False
    where somebody has just come to use it: then it is there as before."""
    gone = folder.with_name(f"{HALF_MADE}{secrets.token_hex(8)}")
    if not older(folder):
        return False
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return False
    if older(gone):
        remove(gone)
        return True
    with contextlib.suppress(OSError):  # made anew already: that one is as good
        gone.rename(folder)
    return False


@contextlib.contextmanager
def using(lock: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock together with all others who use the same thing; waits for whoever has it
    ``alone``."""
    with disk_trouble(lock.parent), _locked(lock, fcntl.LOCK_SH, check):
        yield


def cache_lock(settings: Settings, namespace: str, tool: str) -> Path:
    """Held by all who use an owner's downloads of a tool (``using``), so that they do not go."""
    return settings.caches / namespace / f"{tool}.lock"


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Holds a lock that nobody is ``using``; gives False, at once, where somebody does."""

    def busy() -> None:
        raise BlockingIOError

    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_locked(lock, fcntl.LOCK_EX, busy))
        except BlockingIOError:
            yield False
        else:
            yield True


def nearly_full(folder: Path) -> str:
    """A warning for people where the disk of ``folder`` is nearly full; else ''."""
    free = disk.free(folder)
    if free >= disk.LOW:
        return ""
    return (
        f"the server's disk is nearly full ({free / 2**30:.1f} GiB free): builds stop below "
        f"{RESERVE / 2**30:.1f} GiB; tell whoever runs it"
    )


def room(folder: Path, size: int = 0) -> bool:
    """Whether ``size`` bytes more leave the reserve free on the disk of ``folder``."""
    return disk.free(folder) - size >= RESERVE


@contextlib.contextmanager
def disk_trouble(folder: Path) -> Iterator[None]:
    """Turns a full disk into an error that says so and that a retry can help."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full(folder) from error


def full(folder: Path) -> Unavailable:
    """The error for a disk without room."""
    free = ""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        free = f" ({usage.free // 2**20} MiB of {usage.total // 2**20} MiB are free)"
    return Unavailable(
        f"the disk of the state folder has no room for builds{free}, and {RESERVE // 2**20} MiB "
        "stay free for the store: make room there, then push again; nothing half-written was kept"
    )
