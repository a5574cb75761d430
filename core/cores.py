"""The cores that builds run on: all but one, where there are several.

A share of the CPU says how much builds get while functions want it too, not how soon a function
that was called gets a core from them: beside builds on all cores its slowest answer in a hundred
took five times as long as at rest (bench/quiet.py). A core without builds is there at once.
"""

from __future__ import annotations

import os


def give_one_up() -> None:
    """Keeps this thread, and all that it starts from now on, off one of the cores that it has."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:-1] or cores)


def ours() -> str:
    """Those that this thread has, as the kernel writes lists of them: ``0,1,2``."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))
