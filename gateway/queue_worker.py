"""Makes the asynchronous calls: ``python -m gateway.queue_worker``, settings from the environment.

Each goes to ``/function/…`` as any caller's does, so that it is routed, counted and bounded like
theirs; who named a callback gets the answer there. What the worker was at when it died is made
again by the next one (core/store/calls.py).

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

from core import logging, names
from core.alive import place
from core.errors import SlipwayError
from core.models import Call
from core.patience import USUAL, patience_of
from core.readiness import tell_ready
from core.settings import Settings
from core.store import Store, connect
from core.store.calls import Taken
from gateway import callbacks
from gateway.environment import read_settings
from gateway.making import Answer, failed, make
from gateway.shares import Shares, of_callback, of_making

BEAT, BEAT_LIFE = 1.0, 10.0
KEEP_EVERY = 5.0
"""Seconds between two signs that a call is being made."""
WAIT = 1.0
"""Seconds of one wait for a call: the longest that a stop of an idle worker takes."""
MOST_TIMES = 10
"""A call that was begun so often and never ended takes its worker along: it is given up."""

_NOT_TOLD = {"host", "content-length", "connection", "x-callback-url", "authorization", "cookie"}
"""Headers of a function's answer that no callback gets: one that echoes its request could have
itself called for ever."""

log = logging.get()


class QueueWorker:
    """``settings.queue_workers`` threads that make calls, one for each answer that is posted (as
    many as shares.py allows), and one that tells that we live."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.name = f"queue:{place()}:{os.getpid()}"
        self._stop = threading.Event()
        self._making: set[str] = set()
        """Entries of calls that are being made, or whose answer is being posted."""
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
        kept = 0.0
        tell_ready()
        while not self._stop.wait(BEAT):
            if all(thread.is_alive() for thread in threads):  # else somebody shall see it
                kept = self._tell(kept)
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
            if time.monotonic() - kept > KEEP_EVERY:
                self.store.keep_calls(list(self._making))
                self._parked |= self.store.parked()  # also by one that died
                kept = time.monotonic()
        except RedisError as error:
            log.warning("store_unavailable", reason=str(error))
        return kept

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._unpark()
                taken = self.store.next_call(WAIT)
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
        making, posting = of_making(taken.call), of_callback(taken.call)
        if used_up := self._shares.take([*making, *posting]):
            self.store.park_call(taken, used_up)
            self._parked.add(used_up)
            return
        self._making.add(taken.id)
        try:
            answer, took = self._make(taken)
        except Exception:  # nobody speaks for it any more: it is tried again
            log.exception("call_failed", call=taken.call.id)
            self._end(taken)
            return
        finally:
            self._shares.give_back(making)
        if posting:
            threading.Thread(
                target=self._tell_caller, args=(taken, answer, took), daemon=True
            ).start()
        else:
            self._done(taken)
            self._end(taken)

    def _end(self, taken: Taken) -> None:
        self._shares.give_back(of_callback(taken.call))
        self._making.discard(taken.id)

    def _make(self, taken: Taken) -> tuple[Answer, float]:
        """The answer, and the seconds that it took."""
        call = taken.call
        if taken.times > MOST_TIMES:
            log.error("call_given_up", call=call.id, function=call.name, times=taken.times)
            told = f"the call was begun {MOST_TIMES} times and never ended: it was given up"
            return failed(502, told), 0.0
        begun = time.monotonic()
        answer = make(call, self.settings, self._patience(call))
        if answer.status >= 500:
            log.info("call_ended", call=call.id, function=call.name, status=answer.status)
        return answer, time.monotonic() - begun

    def _patience(self, call: Call) -> float:
        """Seconds for the whole of a call: a function that drips its answer holds one of our few
        threads."""
        record = self.store.function(names.join_function(*names.split_function(call.name)))
        return (record and patience_of(record.spec)) or USUAL

    def _tell_caller(self, taken: Taken, answer: Answer, took: float) -> None:
        try:
            self._post(taken.call, answer, took)
            self._done(taken)
        except Exception:  # as above
            log.exception("call_failed", call=taken.call.id)
        finally:
            self._end(taken)

    def _post(self, call: Call, answer: Answer, took: float) -> None:
        told = {
            "X-Call-Id": call.id,
            "X-Duration-Seconds": f"{took:.6f}",
            "X-Function-Status": str(answer.status),
            "X-Function-Name": call.name,
        }
        theirs = {name.lower() for name in told} | _NOT_TOLD
        headers = [each for each in answer.headers if each[0].lower() not in theirs]
        try:
            status = callbacks.post(
                call.callback, [*headers, *told.items()], answer.body, self.settings
            )
        except SlipwayError as error:
            log.warning("callback_failed", call=call.id, function=call.name, reason=str(error))
        else:
            if status >= 300:
                log.info("callback_answered", call=call.id, function=call.name, status=status)

    def _done(self, taken: Taken) -> None:
        """Where the store is away the call is kept alive until it is back, not made again."""
        while True:
            try:
                return self.store.done_call(taken)
            except RedisError as error:
                log.warning("store_unavailable", reason=str(error))
                time.sleep(WAIT)


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
