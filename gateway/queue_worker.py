"""Makes the asynchronous calls: ``python -m gateway.queue_worker``, settings from the environment.

Each goes to ``/function/…`` as any caller's does, so that it is routed, counted and bounded like
theirs. What came of it is tried again later (outcomes.py) or kept for who asks; then who named a
callback gets it there. What the worker was at when it died is made again by the next one, or only
told again where the answer was kept already (core/store/callscripts.py).

Nobody may hold all of it: a call whose function, owner or callback has its share (shares.py) waits
aside, and callbacks have threads of their own.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

from redis.exceptions import RedisError

from core import keys, logging
from core.alive import place
from core.readiness import tell_ready
from core.settings import Settings
from core.store import Store, connect
from core.store.calls import Answered, Taken
from gateway.attempts import Attempts
from gateway.bodies import Bodies
from gateway.environment import read_settings
from gateway.making import Line
from gateway.shares import Shares, of_callback, of_making

BEAT, BEAT_LIFE = 1.0, 10.0
KEEP_EVERY = 5.0
"""Seconds between two signs that a call is being made."""
WAIT = 1.0
"""Seconds of one wait for a call: the longest that a stop of an idle worker takes."""
SWEEP_EVERY = 60.0
"""Seconds between two looks for what is kept too long; one worker does it for all."""
log = logging.get()


class QueueWorker:
    """``settings.queue_workers`` threads that make calls, one for each answer that is posted (as
    many as shares.py allows), and one that tells that we live."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.name = f"queue:{place()}:{os.getpid()}"
        self._bodies = Bodies(settings.calls)
        self._attempts = Attempts(settings, store, self._bodies)
        self._stop = threading.Event()
        self._making: dict[str, tuple[str, Line]] = {}
        """Entries of calls that are being made, or whose answer is being posted: the call's id, and
        the connection to its function."""
        self._shares = Shares(settings.queue_workers)
        self._parked: set[str] = set()
        """What calls wait for, as far as we know."""

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Until ``stop``; what was begun by then has ``settings.drain_timeout`` to end."""
        threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(self.settings.queue_workers)
        ]
        for thread in threads:
            thread.start()
        kept = swept = 0.0
        tell_ready()
        while not self._stop.wait(BEAT):
            if all(thread.is_alive() for thread in threads):  # else somebody shall see it
                kept = self._tell(kept)
            swept = self._sweep(swept)
        until = time.monotonic() + self.settings.drain_timeout
        while self._busy(threads) and time.monotonic() < until:
            kept = self._tell(kept)
            time.sleep(BEAT / 10)
        with suppress(RedisError):
            self.store.beat(self.name, 0)

    def _busy(self, threads: list[threading.Thread]) -> bool:
        return bool(self._making) or any(thread.is_alive() for thread in threads)

    def _tell(self, kept: float) -> float:
        """Says that we live, and from time to time which calls we are at."""
        try:
            self.store.beat(self.name, BEAT_LIFE, place())
            self.store.move_due_calls(time.time())
            self._end_cancelled()
            if time.monotonic() - kept > KEEP_EVERY:
                self.store.keep_calls(list(self._making))
                self._parked |= self.store.parked()  # also by one that died
                kept = time.monotonic()
        except RedisError as error:
            log.warning("store_unavailable", reason=str(error))
        return kept

    def _end_cancelled(self) -> None:
        making = dict(list(self._making.values()))
        for id_ in self.store.cancelled_calls(making):
            making[id_].end()

    def _sweep(self, swept: float) -> float:
        if time.monotonic() - swept < SWEEP_EVERY:
            return swept
        try:
            if self.store.take(keys.lock("calls"), self.name, SWEEP_EVERY / 2):
                self._bodies.remove(self.store.sweep_calls(self.settings))
                if removed := self._bodies.sweep(self.store.call_files):
                    log.info("bodies_without_a_call", removed=removed)
        except (RedisError, OSError) as error:
            log.warning("not_swept", reason=str(error))
        return time.monotonic()

    def _work(self) -> None:
        looked = 0.0
        while not self._stop.is_set():
            try:
                self._unpark()
                look = time.monotonic() - looked > WAIT
                taken = self.store.next_call(WAIT, overdue=look)
                if look and not (taken and taken.times > 1):  # else there may be more of those
                    looked = time.monotonic()
                if taken and self._stop.is_set():
                    self.store.give_back_call(taken)
                elif taken and taken.id not in self._making:  # else the store was away for long
                    self._begin(taken)
            except RedisError as error:
                log.warning("store_unavailable", reason=str(error))
                self._stop.wait(WAIT)
            except Exception:  # the thread lives on, whatever the store holds
                log.exception("no_call_taken")
                self._stop.wait(WAIT)

    def _unpark(self) -> None:
        for why in list(self._parked):
            if self._shares.free(why) and not self.store.unpark_call(why):
                self._parked.discard(why)

    def _begin(self, taken: Taken) -> None:
        """Makes a call, or lets it wait for what it has no share of."""
        making = [] if taken.answered else of_making(taken.call)
        posting = of_callback(taken.call)
        if used_up := self._shares.take([*making, *posting]):
            self.store.park_call(taken, used_up)
            self._parked.add(used_up)
            return
        line = Line()
        self._making[taken.id] = taken.call.id, line
        try:
            if told := taken.answered or self._attempts.make(taken, line):
                threading.Thread(target=self._tell_caller, args=(taken, told), daemon=True).start()
            else:
                self._end(taken)
        except Exception:  # nobody speaks for it any more: it is tried again
            log.exception("call_failed", call=taken.call.id)
            self._end(taken)
        finally:
            self._shares.give_back(making)

    def _end(self, taken: Taken) -> None:
        self._shares.give_back(of_callback(taken.call))
        self._making.pop(taken.id, None)

    def _tell_caller(self, taken: Taken, told: Answered) -> None:
        try:
            self._attempts.post(taken, told)
            self._attempts.surely(lambda: self.store.forget_call(taken))
        except Exception:  # as above
            log.exception("call_failed", call=taken.call.id)
        finally:
            self._end(taken)


def main() -> None:
    settings = read_settings(os.environ)
    logging.configure("queue", settings.log_format)
    worker = QueueWorker(settings, Store(connect(settings.store_url)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    with suppress(KeyboardInterrupt):
        worker.run()


if __name__ == "__main__":
    main()
