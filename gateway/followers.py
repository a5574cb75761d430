"""All who read functions' logs, in one thread.

A follower may stay for hours with nothing to be told. A thread for each would cost little until a
line wakes all of them at once, and webhooks wait for their turn. So the worker hands a connection
over once its request is understood, and gets it back when the answer has ended. The thread sleeps
while nobody reads; else it looks every ``TICK`` what was written, and gives it to whoever has taken
what came before.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from core import logging
from gateway.detach import Answer
from gateway.follower import Follower
from gateway.logchain import Chain
from gateway.logreading import Reading, Wanted
from gateway.pools import Pool

PLACES = 256
TICK = 0.05
"""Seconds: a line comes so much later at most, and a stop is noticed."""
BREATH = 0.005
"""Seconds between two rounds while there is more to give: others need the interpreter too."""
HEARTBEAT = 15.0
"""Seconds of silence after which an empty line is sent, which readers of JSON pass over: a dead
client is noticed behind a proxy too, and a proxy sees that the connection is used."""
STALL = 60.0
"""A client that takes nothing for so many seconds is dropped, as everywhere in the gateway."""
STOP = 0.5
"""The same while the gateway stops, of one who follows."""
ASK_EVERY = 5.0
"""Seconds between two questions whether functions without a log still exist."""

log = logging.get()


class Followers:
    """The thread, and the places that it has."""

    def __init__(
        self, folder: Path, alive: Callable[[], bool], exists: Callable[[str], bool]
    ) -> None:
        """``folder``: where the logs are. ``alive``: false once the gateway stops. ``exists``:
        whether there is such a function; it may take its time, or raise."""
        self.places = Pool("readers of functions' logs", PLACES)
        self._folder = folder
        self._alive = alive
        self._exists = exists
        self._new: deque[Follower] = deque()
        self._followers: list[Follower] = []
        self._chains: dict[str, Chain] = {}
        self._stopping = False
        self._busy = False
        """Whether there may be more to give at once."""
        self._begun = False
        """Whether one began in this round: it takes a while, and memory, so no second one does."""
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector
        self._wake: socket.socket
        self._woken: socket.socket
        self._asker = ThreadPoolExecutor(1, "functions-exist")
        self._asked: Future[list[str]] | None = None
        self._ask_at = 0.0

    def answer(self, wanted: Wanted, *, chunked: bool) -> Answer:
        """The body that answers a request; raises Unavailable where all places are taken."""
        give_back = self.places.take()

        def take(connection: socket.socket, done: Callable[[], None]) -> None:
            def ended() -> None:
                give_back()
                done()

            self._new.append(Follower(connection, wanted, chunked, ended))
            self._begin()

        return Answer(take, give_back)

    def _begin(self) -> None:
        with self._start:
            if self._thread is None:
                self._selector = selectors.DefaultSelector()
                self._wake, self._woken = socket.socketpair()
                for end in (self._wake, self._woken):
                    end.setblocking(False)
                self._selector.register(self._woken, selectors.EVENT_READ)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="followers", daemon=True)
                self._thread.start()
        with suppress(BlockingIOError):  # then it is told already
            self._wake.send(b".")

    def _run(self) -> None:
        look_at = 0.0
        while True:
            try:
                look_at = self._round(look_at)
            except Exception:  # a mistake of ours: the next round may do better
                log.exception("followers_failed")
                time.sleep(TICK)
            time.sleep(BREATH)

    def _round(self, look_at: float) -> float:
        """Serves everybody once; ``look_at``, and what is returned: when the files are looked at
        next, in monotonic time."""
        if self._followers:
            wait = 0.0 if self._busy else max(look_at - time.monotonic(), 0.0)
        else:
            wait = None
        self._listen(wait)
        while self._new:
            self._followers.append(self._new.popleft())
            self._guard(self._followers[-1], self._admit)
        moment = time.monotonic()
        if moment >= look_at:
            look_at = moment + TICK
            self._look(moment)
        self._busy = self._begun = False
        for follower in list(self._followers):
            self._guard(follower, lambda each: self._serve(each, moment))
        return look_at

    def _guard(self, follower: Follower, do: Callable[[Follower], None]) -> None:
        """Whoever cannot be served is dropped; the others are served on."""
        try:
            do(follower)
        except OSError:  # it is gone
            self._drop(follower)
        except Exception:
            log.exception("follower_failed", function=follower.function)
            self._drop(follower)

    def _listen(self, wait: float | None) -> None:
        """Waits for clients that leave, and for those that take more."""
        for key, events in self._selector.select(wait):
            if key.data is None:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
            elif events & selectors.EVENT_READ and key.data.gone():
                self._drop(key.data)

    def _admit(self, follower: Follower) -> None:
        follower.socket.setblocking(False)
        self._selector.register(follower.socket, selectors.EVENT_READ, follower)

    def _look(self, moment: float) -> None:
        self._stopping = not self._alive()
        for function, chain in list(self._chains.items()):
            try:
                chain.look()
            except Exception:
                log.exception("log_failed", function=function)
                for follower in list(self._followers):
                    if follower.function == function:
                        self._drop(follower)
        self._ask(moment)

    def _serve(self, follower: Follower, moment: float) -> None:
        follower.flush()
        if not follower.pending and not follower.ending:
            self._feed(follower, moment)
        patience = STOP if self._stopping and follower.wanted.follow else STALL
        ended = follower.ending and not follower.pending
        if ended or (follower.pending and moment - follower.moved > patience):
            self._drop(follower)
        elif follower.awaited != bool(follower.pending):
            follower.awaited = bool(follower.pending)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if follower.awaited else 0)
            self._selector.modify(follower.socket, events, follower)

    def _feed(self, follower: Follower, moment: float) -> None:
        """Gives it what comes next, to a follower that has taken all before."""
        if self._stopping and follower.wanted.follow:  # it asks again, of the next gateway
            follower.end()
        elif follower.reading is None:
            self._busy = True
            if not self._begun:
                self._begun = True
                follower.reading = self._reading(follower)
        elif data := follower.reading.next():
            follower.give(data)
            self._busy |= not follower.pending
        elif follower.reading.ended:
            follower.end()
        elif moment - follower.moved > HEARTBEAT:
            follower.give(b"\n")

    def _reading(self, follower: Follower) -> Reading:
        function = follower.function
        if function not in self._chains:
            self._chains[function] = Chain(self._folder / function)
        self._chains[function].look()  # what was written before it asked is there
        return Reading(self._chains[function], follower.wanted)

    def _drop(self, follower: Follower) -> None:
        """Gives the connection back."""
        self._followers.remove(follower)
        with suppress(KeyError, ValueError):  # it was never admitted, or is closed
            self._selector.unregister(follower.socket)
        if all(each.function != follower.function for each in self._followers):
            chain = self._chains.pop(follower.function, None)
            if chain:
                chain.close()
        follower.done()

    def _ask(self, moment: float) -> None:
        """Ends those who follow what is gone, log and all."""
        if self._asked is None:
            bare = [function for function, chain in self._chains.items() if not chain.files]
            if bare and moment >= self._ask_at:
                self._ask_at = moment + ASK_EVERY
                self._asked = self._asker.submit(self._gone, bare)
        elif self._asked.done():
            gone = [] if self._asked.exception() else self._asked.result()
            self._asked = None
            for follower in self._followers:
                if follower.reading and follower.function in gone:
                    follower.reading.ended = not follower.reading.chain.files

    def _gone(self, functions: list[str]) -> list[str]:
        return [function for function in functions if not self._exists(function)]
