"""Clients that, in life, are on other machines: what they compute is not to hold up what is
measured, nor what is measured them.

Where the kernel groups processes by session (sched_autogroup), nice counts within a session only;
the session's own nice counts between them (sched(7)).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_LEAST, _MOST = 19, -20
_GROUP = Path("/proc/self/autogroup")


@contextlib.contextmanager
def behind() -> Iterator[None]:
    """This session, and all that threads begun in here start, gives way to everything else."""
    before, group = os.getpriority(os.PRIO_PROCESS, 0), _group()
    os.setpriority(os.PRIO_PROCESS, 0, _LEAST)
    _set_group(_LEAST)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # root's alone; then the rest gives way as well
            os.setpriority(os.PRIO_PROCESS, 0, before)
        _set_group(group)


def ahead() -> None:
    """This process begins a session that everything else gives way to, where root runs it."""
    with contextlib.suppress(PermissionError):
        os.setsid()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _MOST)
    _set_group(_MOST)


def _group() -> int:
    try:
        return int(_GROUP.read_text().split()[-1])
    except (OSError, ValueError):
        return 0


def _set_group(nice: int) -> None:
    with contextlib.suppress(OSError):  # the kernel has no such groups, or it is for root alone
        _GROUP.write_text(str(nice))
