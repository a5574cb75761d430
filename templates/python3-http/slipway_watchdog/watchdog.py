"""Admits requests, runs the handler in threads, bounds and counts it all, and drains at the end.

The contract is of-watchdog's: /_/health and /_/ready, the lock file, the timeouts, max_inflight,
X-Duration-Seconds, and X-OpenFaaS-Internal on answers that are not the handler's own.

A handler runs in a thread so that a 504 can be given while it goes on; a thread cannot be ended,
so it counts as stuck until it returns, and with every thread stuck the function is unhealthy.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import uvloop

from slipway_watchdog.answers import Answer, BadAnswer, head
from slipway_watchdog.http1 import Connection
from slipway_watchdog.options import Options, duration
from slipway_watchdog.request import Request
from slipway_watchdog.stream import Stream

Invoke = Callable[[Request], Answer]
"""Runs the handler on one complete request; called in a thread."""

BACKLOG = 4096
SETTLE = 0.02
"""Seconds between the last accept and the look at which connections there are."""
SWEEP = 5.0
"""Seconds between two looks for connections on which nothing moves."""


class Watchdog:
    """One function's server."""

    def __init__(self, options: Options, invoke: Invoke) -> None:
        self.options = options
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.connections: set[Connection] = set()
        self.draining = False
        self._invoke = invoke
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="handler")
        self._in_flight = 0
        self._overdue: set[Request] = set()
        self._lock = Path(tempfile.gettempdir(), ".lock")
        self._changed = asyncio.Event()
        self._date = (0, "")

    # The life of the server

    def run(self, listener: socket.socket) -> None:
        """Serves until SIGTERM and every request has its answer."""
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve(listener))

    def close(self) -> None:
        """Ends its threads and its loop, for who goes on in this process."""
        self._pool.shutdown()
        self.loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, told.set)
        # uvloop closes what it is given; this one stays ours until its backlog is empty.
        ours = listener.dup()
        create = self.loop.create_server
        if listener.family == socket.AF_UNIX:
            create = self.loop.create_unix_server
        server = await create(lambda: Connection(self), sock=listener, backlog=BACKLOG)
        if not self.options.suppress_lock:
            self._lock.touch(0o600)
        sweeper = self.loop.create_task(self._sweep())
        await told.wait()
        sweeper.cancel()
        await self._drain(server, ours)

    async def _drain(self, server: asyncio.AbstractServer, ours: socket.socket) -> None:
        """Ends without losing a request.

        Until the requests in flight have their answers, new ones are still served, each as the
        last one of its connection. Then no connection is taken any more, those that wait in the
        listening socket's backlog are served, and idle ones are closed.
        """
        self.draining = True
        self._lock.unlink(missing_ok=True)
        begun = self.loop.time()
        last = begun + self.options.healthcheck_interval + self.options.write_timeout
        await asyncio.sleep(self.options.healthcheck_interval)
        await self._until(lambda: not self._in_flight, last)
        await self._stop_listening(server, ours)
        await asyncio.sleep(SETTLE)  # what was accepted just before becomes a connection of ours
        for connection in list(self.connections):
            connection.drain()
        await self._until(lambda: not self.connections and not self._in_flight, last)
        if self.connections or self._in_flight:
            cut = max(self._in_flight, len(self.connections))
            _log(f"ending with {cut} unfinished: write_timeout={self.options.write_timeout:g}s")
        for connection in list(self.connections):
            connection.abort()

    async def _stop_listening(self, server: asyncio.AbstractServer, ours: socket.socket) -> None:
        server.close()
        if ours.family == socket.AF_UNIX:
            # From here on connect() is refused and what is in the backlog stays: no gap between.
            ours.shutdown(socket.SHUT_RD)
        ours.setblocking(False)
        with ours:
            while True:
                try:
                    accepted, _ = ours.accept()
                except OSError:
                    return
                await self.loop.connect_accepted_socket(lambda: Connection(self), accepted)

    async def _until(self, condition: Callable[[], bool], last: float) -> None:
        while not condition() and (left := last - self.loop.time()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            for connection in list(self.connections):
                connection.sweep(self.loop.time())

    # The way of a request; all but _work in the event loop

    def admit(self, request: Request) -> Answer | None:
        """Counts a request in, or answers it: health, readiness, too many at once."""
        if request.path == "/_/health":
            return self._health(request)
        answer = self._ready(request) if request.path == "/_/ready" else None
        if answer is not None:
            return answer
        if self._full():
            return self._too_many()
        request.counted = True
        self._in_flight += 1
        return None

    def dispatch(self, request: Request) -> None:
        """Hands a complete request to a thread."""
        request.started = time.perf_counter()
        seconds = self.options.exec_timeout
        if wish := request.header(b"x-timeout"):
            asked = duration(wish.decode("latin-1"))
            if asked and (not seconds or asked < seconds):
                seconds = asked
        if seconds:
            request.deadline = self.loop.call_later(seconds, self._timed_out, request, seconds)
        self._pool.submit(self._work, request)

    def forget(self, request: Request) -> None:
        """A request has its answer, or nobody waits for one; said twice, it counts once."""
        if request.deadline:
            request.deadline.cancel()
        if request.counted:
            request.counted = False
            self._in_flight -= 1
            self._changed.set()

    def connection_closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        request = connection.current
        if request is not None and not request.complete:
            self.forget(request)  # else the handler has it, and its end is the request's
        self._changed.set()

    def whole(self, answer: Answer, request: Request) -> tuple[bytes, bytes]:
        """Head, without the blank line, and body of an answer that is not streamed."""
        start, length = head(answer, _seconds_since(request.started), self._now())
        body = answer.body if isinstance(answer.body, bytes) else None
        if answer.status == 204:
            return start, b""
        if request.method == "HEAD" or answer.status == 304:
            if length is None and body is not None:
                length = len(body)
            return (start if length is None else start + _content_length(length)), b""
        body = body or b""
        return start + _content_length(len(body)), body

    def _timed_out(self, request: Request, seconds: float) -> None:
        request.abandoned = True
        self._overdue.add(request)
        connection = request.connection
        _log(f"{request.method} {request.path} took longer than {seconds:g} s: answered 504")
        if connection.streaming:  # the status is sent: only a broken connection tells
            connection.abort()
        else:
            text = f"The function did not answer within {seconds:g} seconds."
            connection.respond(request, *self.whole(Answer.plain(504, text), request))
        self.forget(request)

    def _finished(self, request: Request, start: bytes, body: bytes) -> None:
        self._returned(request)
        request.connection.respond(request, start, body)

    def _returned(self, request: Request) -> None:
        self._overdue.discard(request)
        self.forget(request)

    # In a thread

    def _work(self, request: Request) -> None:
        if request.abandoned:  # it waited too long for a thread
            self.loop.call_soon_threadsafe(self._returned, request)
            return
        request.running = True
        try:
            answer = self._invoke(request)
            if not isinstance(answer.body, bytes):
                if request.method != "HEAD" and answer.status not in (204, 304):
                    self._stream(request, answer, answer.body)
                    return
                _close(answer.body)
            start, body = self.whole(answer, request)
        except BaseException as error:
            start, body = self.whole(_failure(error), request)
        self.loop.call_soon_threadsafe(self._finished, request, start, body)

    def _stream(self, request: Request, answer: Answer, pieces: Iterable[bytes | str]) -> None:
        """Sends a body as it is made: chunked, or by the handler's own Content-Length."""
        connection = request.connection
        call = self.loop.call_soon_threadsafe
        try:
            start, length = head(answer, _seconds_since(request.started), self._now())
        except BadAnswer:
            _close(pieces)
            raise
        chunked = length is None and not request.http10
        if length is not None:
            start += _content_length(length)
        elif chunked:
            start += b"Transfer-Encoding: chunked\r\n"
        stream = Stream(connection, self.options.write_timeout)
        call(connection.stream, request, start, stream)
        sent = 0
        complete = False
        try:
            for piece in pieces:
                data = piece.encode() if isinstance(piece, str) else bytes(piece)
                sent += len(data)
                if length is not None and sent > length:
                    raise BadAnswer(f"the body is longer than its Content-Length of {length}")
                if data and not stream.send(
                    b"%x\r\n%b\r\n" % (len(data), data) if chunked else data
                ):
                    break
            else:
                complete = length is None or sent == length
                if not complete:
                    raise BadAnswer(f"the body ended after {sent} of {length} bytes")
        except BaseException as error:
            complete = False
            _failure(error)
        finally:
            _close(pieces)
            call(connection.end_stream, stream, b"0\r\n\r\n" if chunked else b"", complete)
            call(self._returned, request)

    # What the watchdog answers itself

    def _health(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return Answer.plain(405, "Only GET is answered here.")
        if self.draining:
            return Answer.plain(503, "The function is ending.")
        stuck = sum(request.running for request in self._overdue)
        if stuck >= self.options.workers:
            return Answer.plain(503, f"All {stuck} threads are in handlers over exec_timeout.")
        if not self.options.suppress_lock and not self._lock.exists():
            return Answer.plain(503, f"The lock file {self._lock} is gone.")
        return Answer(200, [("Content-Type", "text/plain; charset=utf-8")], b"OK")

    def _ready(self, request: Request) -> Answer | None:
        if request.method not in ("GET", "HEAD"):
            return Answer.plain(405, "Only GET is answered here.")
        if self.draining:
            return Answer.plain(503, "The function is ending.")
        if self._full():
            return self._too_many()
        if self.options.ready_path:
            request.path = self.options.ready_path
            request.raw_path = self.options.ready_path.encode()
            return None
        return self._health(request)

    def _full(self) -> bool:
        return 0 < self.options.max_inflight <= self._in_flight

    def _too_many(self) -> Answer:
        answer = Answer.plain(429, f"{self.options.max_inflight} requests are in flight already.")
        answer.headers.append(("Retry-After", "1"))
        return answer

    def _now(self) -> str:
        """The Date header, made once a second."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


def serve(options: Options, invoke: Invoke) -> None:
    """Serves a handler; returns never: the process ends with status 0 when it has drained.

    The listening socket is descriptor 3 if ``LISTEN_FDS`` is 1 (systemd's protocol, without
    ``LISTEN_PID``, which the launcher cannot know), else all interfaces at ``port``.
    """
    if os.environ.get("LISTEN_FDS") == "1":
        listener = socket.socket(fileno=3)
        listener.set_inheritable(False)
    else:
        listener = socket.create_server(("0.0.0.0", options.port), backlog=BACKLOG)
    listener.setblocking(False)
    Watchdog(options, invoke).run(listener)
    # A handler may still hang in its thread, which an ordinary exit would wait for.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _failure(error: BaseException) -> Answer:
    """The traceback for the log, a short text for the caller."""
    if isinstance(error, BadAnswer):
        _log(f"the handler's answer cannot be sent: {error}")
        return Answer.plain(500, "The function gave an answer that cannot be sent.", internal=False)
    traceback.print_exception(error)
    if isinstance(error, Exception):
        return Answer.plain(500, "The function failed; its log says why.", internal=False)
    return Answer.plain(500, "The function tried to end its process; its log says why.")


def _close(pieces: object) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        try:
            close()
        except Exception:
            traceback.print_exc()


def _content_length(length: int) -> bytes:
    return b"Content-Length: %d\r\n" % length


def _seconds_since(started: float) -> float:
    return time.perf_counter() - started if started else 0.0


def _log(text: str) -> None:
    sys.stderr.write(f"slipway: {text}\n")
