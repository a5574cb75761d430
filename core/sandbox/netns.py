"""Work in another network namespace, in a thread that ends with it: ours stays where it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from core.sandbox.forks import kernel

T = TypeVar("T")


def in_namespace(namespace: int, work: Callable[[], None]) -> None:
    """Runs ``work()`` in the network namespace of a descriptor; raises what it does, and OSError
    if that is none."""

    def inside() -> None:
        kernel.setns(namespace, kernel.NEWNET)
        work()

    _apart(inside)


def new_namespace() -> int:
    """A descriptor of a new one with its loopback up. Raises OSError."""

    def make() -> int:
        kernel.unshare(kernel.NEWNET)
        kernel.loopback_up()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _apart(make)


def _apart(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1, thread_name_prefix="netns") as thread:
        return thread.submit(work).result()
