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

from core import cores

_LEAST = 19
_GROUP = Path("/proc/self/autogroup")


@contextlib.contextmanager
def behind() -> Iterator[None]:
    """This session, and all that threads begun in here start, gives way to everything else, and
    keeps to the cores that builds have."""
    before, group = os.getpriority(os.PRIO_PROCESS, 0), _group()
    allowed = os.sched_getaffinity(0)
    os.setpriority(os.PRIO_PROCESS, 0, _LEAST)
    _set_group(_LEAST)
    cores.give_one_up()
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # root's alone; then the rest gives way as well
            os.setpriority(os.PRIO_PROCESS, 0, before)
        _set_group(group)
        os.sched_setaffinity(0, allowed)


def ahead() -> None:
    """This thread, and those that it begins, run as soon as they can, on any core; for root alone.

    The highest nice is not enough: what is owed in the end is not who is next.
    """
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _group() -> int:
    try:
        return int(_GROUP.read_text().split()[-1])
    except (OSError, ValueError):
        return 0


def _set_group(nice: int) -> None:
    with contextlib.suppress(OSError):  # the kernel has no such groups, or it is for root alone
        _GROUP.write_text(str(nice))
