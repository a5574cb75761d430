"""Makes the asynchronous calls: ``python -m gateway.queue_worker``, settings from the environment.

Each goes to ``/function/…`` as any caller's does, so that it is routed, counted and bounded like
theirs; who named a callback gets the answer there. What the worker was at when it died is made
again by the next one (core/store/calls.py).
"""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from core import logging, names
from core.alive import place
from core.errors import SlipwayError
from core.http import deadline
from core.models import Call
from core.patience import USUAL, patience_of
from core.settings import Settings
from core.store import Store, connect
from core.store.calls import Taken
from gateway import callbacks
from gateway.environment import read_settings
from gateway.headers import SANDBOX, response_headers

AGENT = "slipway/queue-worker"
"""User-Agent of calls whose caller sent none."""
BEAT, BEAT_LIFE = 1.0, 10.0
KEEP_EVERY = 5.0
"""Seconds between two signs that a call is being made."""
WAIT = 1.0
"""Seconds of one wait for a call: the longest that a stop of an idle worker takes."""
EDGE_SECONDS = 60.0
"""In which an edge that refuses connections may come back."""
STOP_SECONDS = 8.0
"""For calls that are being made when we are told to stop; what takes longer is made again."""
MOST_TIMES = 10
"""A call that was begun so often and never ended takes its worker along: it is given up."""
CHUNK = 2**16

_NOT_TOLD = {"host", "content-length", "connection", "x-callback-url", "authorization", "cookie"}
"""Headers of a function's answer that no callback gets: one that echoes its request could have
itself called for ever."""

log = logging.get()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class QueueWorker:
    """``settings.queue_workers`` threads that make calls, and one that tells that we live."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.name = f"queue:{place()}:{os.getpid()}"
        self._stop = threading.Event()
        self._making: set[str] = set()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(self.settings.queue_workers)
        ]
        for thread in threads:
            thread.start()
        kept = 0.0
        while not self._stop.wait(BEAT):
            kept = self._tell(kept)
        deadline_ = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(deadline_ - time.monotonic(), 0))
        with suppress(RedisError):
            self.store.beat(self.name, 0)

    def _tell(self, kept: float) -> float:
        """Says that we live, and from time to time which calls we are at."""
        try:
            self.store.beat(self.name, BEAT_LIFE, place())
            if time.monotonic() - kept > KEEP_EVERY:
                self.store.keep_calls(list(self._making))
                kept = time.monotonic()
        except RedisError as error:
            log.warning("store_unavailable", reason=str(error))
        return kept

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                taken = self.store.next_call(WAIT)
            except RedisError as error:
                log.warning("store_unavailable", reason=str(error))
                self._stop.wait(WAIT)
                continue
            except Exception:  # the thread lives on, whatever the store holds
                log.exception("no_call_taken")
                self._stop.wait(WAIT)
                continue
            if taken and taken.id not in self._making:  # else the store was away for long
                self._making.add(taken.id)
                try:
                    self._make(taken)
                except Exception:  # nobody speaks for it any more: it is tried again
                    log.exception("call_failed", call=taken.call.id)
                finally:
                    self._making.discard(taken.id)

    def _make(self, taken: Taken) -> None:
        call = taken.call
        if taken.times > MOST_TIMES:
            log.error("call_given_up", call=call.id, function=call.name, times=taken.times)
        else:
            begun = time.monotonic()
            answer = make(call, self.settings, self._patience(call))
            took = time.monotonic() - begun
            if answer.status >= 500:
                log.info("call_ended", call=call.id, function=call.name, status=answer.status)
            if call.callback:
                self._call_back(call, answer, took)
        self._done(taken)

    def _patience(self, call: Call) -> float:
        """Seconds for the whole of a call: a function that drips its answer holds one of our few
        threads."""
        record = self.store.function(names.join_function(*names.split_function(call.name)))
        return (record and patience_of(record.spec)) or USUAL

    def _call_back(self, call: Call, answer: Answer, took: float) -> None:
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


def make(call: Call, settings: Settings, patience: float) -> Answer:
    """Calls the function, for at most ``patience`` seconds.

    What did not come about is an answer as well: 503 where nothing could be reached (as OpenFaaS
    has it), 502 where the answer broke off, 504 where it took too long.
    """
    base = urlsplit(settings.base_url)
    until = time.monotonic() + EDGE_SECONDS
    while True:
        try:
            connection = callbacks.connect(base, [base.hostname or ""], callbacks.CONNECT_SECONDS)
            break
        except OSError as error:  # nothing was delivered
            if time.monotonic() > until:
                return _failed(503, f"the edge could not be reached: {type(error).__name__}")
            time.sleep(0.5)
    with closing(connection), deadline(connection.sock, patience) as late:
        connection.sock.settimeout(patience + 1)
        try:
            headers = _headers(call, settings)
            callbacks.send(connection, f"/function/{call.name}{call.target}", headers, call.body)
            answer = connection.getresponse()
            body = _body(answer, settings.async_max_body)
            if late():  # an answer without a length looks whole when it is cut off
                raise TimeoutError
        except (OSError, ValueError, http.client.HTTPException) as error:
            if late():
                return _failed(504, f"the call took over {patience:g} s: it was given up")
            return _failed(502, f"no whole answer came: {type(error).__name__}")
        headers = [
            header
            for header in response_headers("POST", answer, "", sandboxed=False)
            if header != ("Content-Security-Policy", SANDBOX)  # the edge's, for browsers
        ]
        if body is None:
            told = f"the answer has more than {settings.async_max_body} bytes, which is the limit"
            return _failed(502, f"{told} of a callback (SLIPWAY_ASYNC_MAX_BODY)")
        return Answer(answer.status, headers, body)


def _headers(call: Call, settings: Settings) -> list[tuple[str, str]]:
    headers = {name.lower(): (name, value) for name, value in call.headers}
    headers["x-call-id"] = ("X-Call-Id", call.id)
    headers.setdefault("user-agent", ("User-Agent", AGENT))
    host = urlsplit(f"//{headers['host'][1]}").hostname or "" if "host" in headers else ""
    if settings.domain and host.endswith(f".{settings.domain}"):
        # The whole path would be the function's there, /function/ and all.
        headers["host"] = ("Host", urlsplit(settings.base_url).netloc)
    return list(headers.values())


def _body(answer: http.client.HTTPResponse, limit: int) -> bytes | None:
    """The whole body, or None where it is larger: it is read to its end all the same, as the
    function may still be doing what it was called for."""
    kept = bytearray()
    while data := answer.read1(CHUNK):
        if len(kept) <= limit:
            kept += data
    if answer.length:
        raise http.client.IncompleteRead(bytes(kept))
    return bytes(kept) if len(kept) <= limit else None


def _failed(status: int, reason: str) -> Answer:
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("X-OpenFaaS-Internal", "proxy")]
    return Answer(status, headers, reason.encode())


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
