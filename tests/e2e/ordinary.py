"""``python -m tests.e2e.ordinary <program> [argument…]``: run by root, becomes an ordinary user.

The user is ``nobody``, and what our programs need may lie where only root can read it (an
interpreter or a checkout in root's home). So that they need not be copied, the process gets a mount
namespace of its own in which the closed folder is replaced by an empty one with just those in it.
The process stays the same one: a signal to it reaches the program.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

from core.settings import ROOT

NOBODY = 65534
BECOME = (sys.executable, "-m", "tests.e2e.ordinary") if os.geteuid() == 0 else ()
"""What stands before a program that an ordinary user shall run; nothing if we are one."""

_NEWNS, _BIND, _REC, _PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


def show(needed: list[Path]) -> None:
    """Makes folders readable to others, in this process' view of the file system only."""
    if closed := {each: top for each in needed if (top := _closed(each))}:
        _call("unshare", _NEWNS)
        _call("mount", None, b"/", None, _REC | _PRIVATE, None)
        held = {each: os.open(each, os.O_PATH) for each in closed}
        for top in sorted(set(closed.values())):
            _call("mount", b"tmpfs", os.fsencode(top), b"tmpfs", 0, b"mode=0755")
        for each, descriptor in held.items():
            each.mkdir(parents=True, exist_ok=True)
            source = f"/proc/self/fd/{descriptor}".encode()
            _call("mount", source, os.fsencode(each), None, _BIND | _REC, None)


def _closed(folder: Path) -> Path | None:
    """The topmost folder on the way that others may not enter."""
    for each in [*reversed(folder.parents), folder]:
        if not each.stat().st_mode & stat.S_IXOTH:
            return each
    return None


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def main() -> None:
    os.umask(0o022)
    show([Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT])
    os.chdir(ROOT)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
