"""What waits to be sent to forges: of each thing the newest alone, so that nothing piles up.

An owner's messages go one after the other, as GitHub asks for
(https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api), those of
different owners side by side, each forge by threads of its own. Where a forge is away, or says that
it was asked too often, that owner's wait: longer and longer, or as long as the forge says.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from core import logging
from core.errors import SlipwayError, Unavailable

THREADS = 4
"""Of each forge."""
IDLE = 30.0
"""Seconds until a thread without work ends."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds: doubled with each failure, of which a random half is taken off; what the forge says
itself counts as it is."""
GIVE_UP = 3600.0
"""Seconds: after so long a time of failures what has waited as long is dropped."""
MOST = 5_000
"""Messages of one owner: more are taken when these are gone."""

log = logging.get()


@dataclass(frozen=True)
class Message:
    """One thing that a forge is to show."""

    forge: str
    owner: str
    """Whose limits at the forge it counts for."""
    group: str
    """Messages of one group are replaced together: ``Outbox.put``."""
    name: str
    """Which thing of the group it is."""
    what: object
    """Where it differs from what waits, it takes its place."""
    due: float = 0.0
    """Monotonic time: not before."""
    rank: int = 0
    """Lower ones first."""

    @property
    def key(self) -> tuple[str, str]:
        return self.group, self.name


@dataclass
class _Lane:
    """One owner at one forge."""

    forge: str
    waiting: dict[tuple[str, str], Message] = field(default_factory=dict)
    since: dict[tuple[str, str], float] = field(default_factory=dict)
    """Since when something of that key waits: monotonic time, as all below."""
    busy: bool = False
    failures: int = 0
    """One after the other."""
    failing: float = 0.0
    """Since when, where there are failures."""
    not_before: float = 0.0
    served: float = 0.0

    def counts(self) -> bool:
        """Whether it is to be remembered: also that the forge wants to hear nothing for now."""
        return bool(self.waiting) or self.busy or self.not_before > time.monotonic()

    def remove(self, key: tuple[str, str]) -> Message:
        self.since.pop(key)
        return self.waiting.pop(key)

    def next(self) -> tuple[float, Message] | None:
        """(when, what) comes next; None: nothing waits, or it is at something."""
        if self.busy or not self.waiting:
            return None
        now = time.monotonic()
        message = min(self.waiting.values(), key=lambda each: (max(each.due, now), each.rank))
        return max(message.due, self.not_before), message


class Outbox:
    """``send`` shows one message; ``drop`` is told of one that is not tried again, and why: an
    Unavailable was tried for ``GIVE_UP``. ``sent``: after each that is off the list."""

    def __init__(
        self,
        send: Callable[[Message], None],
        drop: Callable[[Message, SlipwayError], None],
        sent: Callable[[Message], None],
    ) -> None:
        self._send = send
        self._drop = drop
        self._sent = sent
        self._lock = threading.Condition()
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._threads: dict[str, int] = {}
        self._stopped = False

    def put(self, group: str, messages: Collection[Message]) -> None:
        """What of a group is to be sent now; whatever else of it waits is not wanted any more."""
        wanted = {message.key for message in messages}
        with self._lock:
            for lane in self._lanes.values():
                for key in [k for k in lane.waiting if k[0] == group and k not in wanted]:
                    lane.remove(key)
            for message in messages:
                self._put(message)
            self._lanes = {k: lane for k, lane in self._lanes.items() if lane.counts()}
            self._lock.notify_all()

    def waiting(self) -> int:
        with self._lock:
            return sum(len(lane.waiting) for lane in self._lanes.values())

    def stop(self, seconds: float) -> None:
        """What is being sent has so many seconds to end; nothing more is begun."""
        deadline = time.monotonic() + seconds
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
            while any(lane.busy for lane in self._lanes.values()):
                if not self._lock.wait(max(deadline - time.monotonic(), 0.0)):
                    return

    def _put(self, message: Message) -> None:
        lane = self._lanes.setdefault((message.forge, message.owner), _Lane(message.forge))
        before = lane.waiting.get(message.key)
        if before is None and len(lane.waiting) >= MOST:
            return
        if before is None or before.what != message.what:
            lane.waiting[message.key] = message
            lane.since.setdefault(message.key, time.monotonic())
        owners = sum(each.forge == message.forge for each in self._lanes.values())
        threads = self._threads.get(message.forge, 0)
        if threads < min(owners, THREADS) and not self._stopped:
            self._threads[message.forge] = threads + 1
            threading.Thread(target=self._work, args=[message.forge], daemon=True).start()

    def _work(self, forge: str) -> None:
        while (found := self._take(forge)) is not None:
            lane, message = found
            done = False
            try:
                done = self._try(lane, message)
            finally:
                with self._lock:
                    lane.busy = False
                    if done and lane.waiting.get(message.key) is message:
                        lane.remove(message.key)
                    self._lock.notify_all()
            if done:
                self._sent(message)

    def _take(self, forge: str) -> tuple[_Lane, Message] | None:
        """Waits for what is due, of the owner who has waited longest; None: there was nothing for
        long."""
        until = time.monotonic() + IDLE
        with self._lock:
            while not self._stopped:
                now = time.monotonic()
                found = [
                    (*coming, lane)
                    for lane in self._lanes.values()
                    if lane.forge == forge and (coming := lane.next())
                ]
                due = [each for each in found if each[0] <= now]
                if due:
                    _, message, lane = min(due, key=lambda each: each[2].served)
                    lane.busy, lane.served = True, now
                    return lane, message
                if not found and now > until:
                    break
                self._lock.wait(min([at - now for at, _, _ in found] or [IDLE]))
            self._threads[forge] -= 1
            return None

    def _try(self, lane: _Lane, message: Message) -> bool:
        """Whether it is off the list."""
        try:
            try:
                self._send(message)
            except SlipwayError as error:
                if isinstance(error, Unavailable):
                    raise
                self._drop(message, error)
        except Exception as error:  # away, or a mistake of ours: nothing else suffers from it
            if not isinstance(error, Unavailable | RedisError):
                log.exception("not_reported", name=message.name)
            self._pause(lane, message, error)
            return False
        lane.failures, lane.not_before = 0, 0.0
        return True

    def _pause(self, lane: _Lane, message: Message, error: Exception) -> None:
        """Has the owner's messages wait; gives up those that have waited for too long already."""
        now = time.monotonic()
        lane.failing = lane.failing if lane.failures else now
        lane.failures += 1
        pause = min(FIRST_PAUSE * 2.0 ** min(lane.failures - 1, 10), LONGEST_PAUSE)
        pause *= random.uniform(0.5, 1.0)
        lane.not_before = now + max(pause, getattr(error, "retry_after", 0.0))
        log.warning("report_waits", name=message.name, owner=message.owner, reason=str(error))
        if isinstance(error, RedisError) or now - lane.failing < GIVE_UP:
            return
        if not isinstance(error, Unavailable):
            error = Unavailable(f"internal error ({type(error).__name__}): see the reporter's log")
        with self._lock:
            old = [key for key, since in lane.since.items() if now - since >= GIVE_UP]
            given_up = [lane.remove(key) for key in old]
        for each in given_up:
            try:
                self._drop(each, error)
            except Exception as trouble:  # then it is compared, and tried, once more
                log.warning("not_given_up", name=each.name, reason=str(trouble))
            self._sent(each)
