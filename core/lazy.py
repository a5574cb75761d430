"""Properties that are computed once, for processes that fork while their threads work."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class cached_property(functools.cached_property[T]):  # noqa: TID251 - the one that is taken
    """The library's, without its lock, which Python 3.11 holds for all instances while one is
    computed: a fork copies it, and whoever asks there would wait for ever for a thread that is not
    there. Two threads may compute the same, as with Python 3.12 and later."""

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self.lock = contextlib.nullcontext()
