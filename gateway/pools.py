"""Bounds on requests that last: so many at once of each kind, so that a thread is left for the
short ones (webhooks, ``/healthz``, lists)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from core.errors import Unavailable


class Pool:
    """Slots for one kind of request.

    Args:
        share: the most that one holder may have of them; 0 for all.
        group: the most of one group of holders.
        advice: what to do when none is free.
    """

    def __init__(
        self,
        kind: str,
        slots: int,
        *,
        share: int = 0,
        group: int = 0,
        advice: str = "try again in a moment",
    ) -> None:
        self.kind = kind
        self.slots = slots
        self.share = share or slots
        self.group = group or slots
        self.advice = advice
        self._taken: Counter[str] = Counter()
        self._of_group: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, holder: str = "", group: str = "") -> Callable[[], None]:
        """Takes a slot; returns what gives it back, which may be called more than once.

        Raises:
            Unavailable: none is free, or the holder has its share.
        """
        with self._lock:
            if self._taken.total() >= self.slots:
                told = f"all {self.slots} places for {self.kind} are taken"
                raise Unavailable(f"{told}: {self.advice}")
            for who, has, most in (
                (holder, self._taken[holder], self.share),
                (group, self._of_group[group], self.group),
            ):
                if has >= most:
                    told = f"{who} has {most} of the {self.slots} places for {self.kind}"
                    raise Unavailable(f"{told}, as many as it may: {self.advice}")
            self._taken[holder] += 1
            self._of_group[group] += 1
        once = threading.Lock()

        def give_back() -> None:
            if once.acquire(blocking=False):
                with self._lock:
                    self._taken -= Counter([holder])  # and forgets who has none
                    self._of_group -= Counter([group])

        return give_back


class Pools:
    """A push takes two threads while its progress is shown: one of git, one of the hook."""

    def __init__(self) -> None:
        self.pushes = Pool("git requests", 12)
        self.progress = Pool("pushes that are watched", 8)
        self.followers = Pool("log followers", 8)
        self.invocations = Pool("invocations through the gateway", 336, share=112, group=224)
        self.waiting = Pool("requests that wait for a release", 24, share=8)
        self.calls = Pool("asynchronous calls that are being sent", 112, share=64, group=88)
        self.large_bodies = Pool("large bodies of asynchronous calls", 24, share=12, group=16)
        self.large_answers = Pool("readers of large answers", 16, share=4, group=8)
        self.metrics = Pool("readers of metrics", 2)
        self.usage = Pool("measurements that are waited for", 4)
        self.signins = Pool("sign-ins", 4)
        self.prunes = Pool("prunes", 1)
        redeliver = "the forge does not send it again by itself, redeliver it on the webhook's page"
        self.webhooks = Pool("webhooks", 16, advice=redeliver)
        self.large_webhooks = Pool("webhooks of more than 1 MB", 3, advice=redeliver)


THREADS = 580
"""Of the one worker: the slots of all pools, and 14 for what is short. A thread begins when it is
first needed."""
