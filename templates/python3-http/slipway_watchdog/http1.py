"""HTTP/1.1 of one connection: bytes in, requests out, answers back in the order of the requests.

httptools (llhttp, the parser of Node) reads; what is left here is when to answer what, and bounds.
Everything runs in the event loop's thread.

One request at a time is ``current``; those that a client pipelines behind it wait in a queue while
reading is paused. A request is admitted once its head is there, so that a refusal does not wait
for a large body, and handed to the watchdog once it is complete.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httptools

from slipway_watchdog.request import Request

if TYPE_CHECKING:
    from slipway_watchdog.stream import Stream
    from slipway_watchdog.watchdog import Watchdog

MAX_HEAD = 2**20
"""Bytes of request line and headers, as of-watchdog has it; then 431."""
IDLE_TIMEOUT = 75.0
"""Seconds between two requests of a connection: longer than any proxy's pool keeps it."""
LINGER = 2.0
"""Seconds in which a client that still sends may read why it was refused."""
FIRST_BYTES = 1.0
"""Seconds that a new connection has for its first bytes when the server ends."""


class Connection(asyncio.Protocol):
    """Protocol object of one client's connection."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._loop = watchdog.loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._incoming: Request | None = None
        """What the parser is in."""
        self._head_bytes = 0
        self.current: Request | None = None
        """Admitted and not yet answered."""
        self._waiting: deque[Request] = deque()
        self._paused = False
        self._used = False
        """Something was received."""
        self._last = False
        """No further request will be read."""
        self._eof = False
        self._lingering = False
        self._stream: Stream | None = None
        self._write_paused = False
        self._read_timer: asyncio.TimerHandle | None = None
        self._quiet_since = self._loop.time()

    @property
    def streaming(self) -> bool:
        """Whether an answer's head is sent and its body still comes."""
        return self._stream is not None

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._watchdog.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        self._transport = None
        self._stop_read_timer()
        if self._stream:
            self._stream.gone()
        self._waiting.clear()
        self._watchdog.connection_closed(self)
        # A reference circle through the parser would keep the request's body until collected.
        self._parser = None

    def data_received(self, data: bytes) -> None:
        self._used = True
        if self._last:
            return
        if self._incoming is None or not self._incoming.head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # we do not upgrade: the request is answered, what follows is unknown
        except httptools.HttpParserCallbackError:
            traceback.print_exc()  # a mistake of ours, not of the client
            self.abort()
            return
        except httptools.HttpParserError:
            if not self._last:
                self._broken(400, "This is not a valid HTTP request.")
        if self._last:
            return
        incoming = self._incoming
        if incoming is None:
            return
        if not incoming.head_done and self._head_bytes > MAX_HEAD:
            self._broken(431, f"The request's head is larger than {MAX_HEAD} bytes.")
            return
        if incoming.head_done and self.current is None:
            self._admit(incoming)
        elif incoming is self.current and incoming.refusal:
            self._refuse_current()
        if not self._last and self._read_timer is None and self._watchdog.options.read_timeout:
            seconds = self._watchdog.options.read_timeout
            self._read_timer = self._loop.call_later(seconds, self._read_timed_out)

    def eof_received(self) -> bool:
        """The client sends no more; it may still read."""
        self._eof = True
        if self._incoming is not None and not self._incoming.complete:
            return False  # half a request
        busy = self.current is not None or bool(self._waiting)
        self._last = True
        return busy

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._stream:
            self._stream.hold()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._stream:
            self._stream.release()

    # What the parser tells

    def on_message_begin(self) -> None:
        self._incoming = Request(self)

    def on_url(self, url: bytes) -> None:
        self._incoming.target += url  # type: ignore[union-attr]

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._incoming
        if not request.head_done:  # type: ignore[union-attr] - trailers are no headers
            request.headers.append((name, value))  # type: ignore[union-attr]

    def on_headers_complete(self) -> None:
        request = self._incoming
        assert request is not None
        parser = self._parser
        self._head_bytes = 0
        request.head_done = True
        request.method = parser.get_method().decode("ascii")
        request.http10 = parser.get_http_version() != "1.1"
        request.keep_alive = (
            parser.should_keep_alive() and not parser.should_upgrade() and not request.http10
        )
        self._split_target(request)
        limit = self._watchdog.options.max_raw_size
        for name, value in request.headers:
            if len(name) == 6 and name.lower() == b"expect":
                request.expects = value.lower() == b"100-continue" and not request.http10
            elif limit and len(name) == 14 and name.lower() == b"content-length":
                self._check_size(request, int(value))

    def on_body(self, body: bytes) -> None:
        request = self._incoming
        assert request is not None
        if request.refusal:
            return
        if not request.body:
            request.body = body
            size = len(body)
        else:
            if isinstance(request.body, bytes):
                request.body = bytearray(request.body)
            request.body += body
            size = len(request.body)
        if self._watchdog.options.max_raw_size:
            self._check_size(request, size)

    def on_message_complete(self) -> None:
        request = self._incoming
        assert request is not None
        request.complete = True
        self._incoming = None
        if self._last:  # the answer before said that it was the last one
            return
        self._last = not request.keep_alive
        self._stop_read_timer()
        if request is self.current and request.refusal:
            self._refuse_current()
        elif request is self.current:
            self._watchdog.dispatch(request)
        elif self.current is None and not self._waiting:
            self._admit(request)
        else:
            self._waiting.append(request)
            self._pause(True)

    # The turn of a request

    def _admit(self, request: Request) -> None:
        self.current = request
        answer = request.refusal or self._watchdog.admit(request)
        if answer is not None:
            request.keep_alive &= request.complete  # the rest of its body is not wanted
            self.respond(request, *self._watchdog.whole(answer, request))
        elif request.complete:
            self._watchdog.dispatch(request)
        elif request.expects and self._transport and not request.body:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse_current(self) -> None:
        """An admitted request turned out to be too large or broken."""
        assert self.current is not None
        self._watchdog.forget(self.current)
        self._admit(self.current)

    def respond(self, request: Request, head: bytes, body: bytes) -> None:
        """Sends a whole answer; nothing happens if the request has had one or the client left."""
        transport = self._transport
        if request is not self.current or transport is None:
            return
        close = self._ending(request)
        end = b"Connection: close\r\n\r\n" if close else b"\r\n"
        if len(body) < 65536:
            transport.write(head + end + body)
        else:
            transport.write(head + end)
            transport.write(body)
        self._answered(request, close)

    def stream(self, request: Request, head: bytes, stream: Stream) -> None:
        """Begins an answer whose body comes in pieces."""
        if request is not self.current or self._transport is None:
            stream.gone()
            return
        self._stream = stream
        if self._write_paused:
            stream.hold()
        end = b"Connection: close\r\n\r\n" if self._ending(request) else b"\r\n"
        self._transport.write(head + end)

    def write_piece(self, stream: Stream, data: bytes) -> None:
        if stream is not self._stream or self._transport is None:
            stream.gone()
            return
        self._transport.write(data)
        stream.written()

    def end_stream(self, stream: Stream, data: bytes, complete: bool) -> None:
        """The body's end; if it is not ``complete``, the client sees a broken connection."""
        if stream is not self._stream or self._transport is None or self.current is None:
            return
        self._stream = None
        if not complete:
            self.abort()
            return
        self._transport.write(data)
        self._answered(self.current, not self.current.keep_alive)

    def _ending(self, request: Request) -> bool:
        """Whether the connection ends with this answer; if so, no further request is read."""
        if self._watchdog.draining and not self._waiting and self._incoming is None:
            request.keep_alive = False
        return not request.keep_alive

    def _answered(self, request: Request, close: bool) -> None:
        self.current = None
        self._quiet_since = self._loop.time()
        if self._transport is None:
            return
        if close:
            self._close(request)
            return
        if self._waiting:
            # By the loop: a long pipeline must not become a deep recursion.
            self._loop.call_soon(self._next)
        else:
            self._pause(False)
            self._after_answer()

    def _next(self) -> None:
        if self.current is None and self._waiting and self._transport:
            self._admit(self._waiting.popleft())

    def _after_answer(self) -> None:
        incoming = self._incoming
        if incoming is not None and incoming.head_done and self.current is None:
            self._admit(incoming)
        elif self._eof and self._transport and self.current is None:
            self._transport.close()

    # The end

    def drain(self, patient: bool = True) -> None:
        """Takes nothing new: what was sent already is answered, then the connection closes.

        The socket is shut for reading, which tells the peer on a unix socket at once and gives us
        what it had sent before, and then the end of the stream. ``patient``: a connection that
        was only just made has a moment for its request.
        """
        if self._transport is None or self._lingering:
            return
        if patient and not self._used:
            self._loop.call_later(FIRST_BYTES, self.drain, False)
            return
        ours = self._transport.get_extra_info("socket")
        if self.current is None and self._incoming is None and not self._waiting and ours:
            with socket.socket(fileno=socket.dup(ours.fileno())) as copy:
                try:
                    copy.shutdown(socket.SHUT_RD)
                except OSError:  # the peer is gone already
                    self.abort()

    def sweep(self, now: float) -> None:
        """Cuts off a connection on which nothing moves; called every few seconds."""
        if self._transport is None or self.current or self._incoming or self._waiting:
            return
        unread = self._transport.get_write_buffer_size()
        limit = self._watchdog.options.write_timeout if unread else IDLE_TIMEOUT
        if now - self._quiet_since > limit:
            self.abort()

    def abort(self) -> None:
        """Closes at once; what was not sent is lost."""
        if self._transport:
            self._transport.abort()

    def _broken(self, status: int, text: str) -> None:
        """What came is no request: it is told so when its turn comes, and nothing more is read."""
        request = self._incoming or Request(self)
        self._incoming = None
        self._last = True
        if request.complete:
            return
        request.refuse(status, text)
        request.keep_alive = False
        request.head_done = True
        if request is self.current:
            self._refuse_current()
        elif self.current is None and not self._waiting:
            self._admit(request)
        else:
            self._waiting.append(request)

    def _read_timed_out(self) -> None:
        self._read_timer = None
        seconds = self._watchdog.options.read_timeout
        self._broken(408, f"The request was not complete after {seconds:g} seconds.")

    def _close(self, request: Request) -> None:
        """Closes; where the client may still be sending, in a way that lets it read the answer."""
        assert self._transport is not None
        self._last = True
        self._incoming = None
        self._stop_read_timer()
        if request.complete or self._eof:
            self._transport.close()
            return
        self._lingering = True
        self._pause(False)
        self._transport.write_eof()
        self._loop.call_later(LINGER, self.abort)

    # Helpers

    def _split_target(self, request: Request) -> None:
        target = request.target
        if not target.startswith(b"/"):
            if request.method == "CONNECT":
                request.refuse(405, "CONNECT is for proxies.")
                return
            if target != b"*":
                try:
                    url = httptools.parse_url(target)
                except httptools.HttpParserInvalidURLError:
                    request.refuse(400, "The request's target is not a valid URL.")
                    return
                target = (url.path or b"/") + (b"?" + url.query if url.query else b"")
        raw, _, query = target.partition(b"?")
        request.raw_path = raw
        request.query = query.decode("latin-1")
        path = raw.decode("latin-1")
        request.path = unquote(path) if "%" in path else path

    def _check_size(self, request: Request, size: int) -> None:
        limit = self._watchdog.options.max_raw_size
        if size > limit:
            request.body = b""
            request.refuse(413, f"The request's body is larger than {limit} bytes.")

    def _pause(self, paused: bool) -> None:
        if paused != self._paused and self._transport and not self._transport.is_closing():
            self._paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def _stop_read_timer(self) -> None:
        if self._read_timer:
            self._read_timer.cancel()
            self._read_timer = None
