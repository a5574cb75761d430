"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel signal this process when ``parent``, which forked it, ends however it may.

    To be called right after the fork, in the main thread; Linux only, elsewhere nothing happens.
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    except AttributeError:
        return
    if os.getppid() != parent:  # it died in between
        os._exit(1)
