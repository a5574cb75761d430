"""What one may hold of the queue worker: without it, a function that sleeps or a callback that says
nothing would stop everybody's asynchronous calls.

A share has a name, ``<kind> <whose>``.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from urllib.parse import urlsplit

from core import names
from core.models import Call

CALLBACKS = 32
"""Answers that are posted side by side, or will be once their function answered."""


def of_making(call: Call) -> list[str]:
    """Shares that a call takes until its function answered."""
    function, namespace = names.split_function(call.name)
    return [f"function {names.join_function(function, namespace)}", f"owner {namespace}"]


def of_callback(call: Call) -> list[str]:
    """Shares that it takes until its answer was posted, if anybody wants that.

    A host's is of one owner: calls of others shall not close somebody's own. And an owner's are
    bounded, as hosts may have any number of names.
    """
    if not call.callback:
        return []
    _, namespace = names.split_function(call.name)
    return [
        "callbacks",
        f"answers {namespace}",
        f"host {namespace} {urlsplit(call.callback).hostname}",
    ]


class Shares:
    """For several threads.

    Args:
        calls: made side by side: half of them of one owner, a quarter of one function.
    """

    def __init__(self, calls: int) -> None:
        self._most = {
            "function": max(calls // 4, 1),
            "owner": max(calls // 2, 1),
            "callbacks": CALLBACKS,
            "answers": CALLBACKS // 2,
            "host": CALLBACKS // 4,
        }
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, shares: Collection[str]) -> str:
        """Takes all of them, or none, and returns the one that is used up."""
        with self._lock:
            for share in shares:
                if not self._has_room(share):
                    return share
            self._taken.update(shares)
        return ""

    def give_back(self, shares: Collection[str]) -> None:
        with self._lock:
            self._taken -= Counter(shares)  # and forgets who has none

    def free(self, share: str) -> bool:
        """Whether some of it is left."""
        with self._lock:
            return self._has_room(share)

    def _has_room(self, share: str) -> bool:
        # One that nobody knows is of another version: what waits for it is free to go.
        return self._taken[share] < self._most.get(share.partition(" ")[0], CALLBACKS)
