"""Makes one attempt at an asynchronous call, as any caller would: by ``/function/…``."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.errors import Unavailable
from core.http import deadline
from core.models import Call
from core.origin import SANDBOX
from core.settings import Settings
from core.store.calls import body_file
from gateway import callbacks
from gateway.bodies import Bodies, Body, Spool, answer_file
from gateway.headers import response_headers

AGENT = "slipway/queue-worker"
"""User-Agent of calls whose caller sent none."""
EDGE_SECONDS = 60.0
"""In which an edge that refuses connections may come back."""
CHUNK = 2**16
INTERNAL = "X-OpenFaaS-Internal"
"""Header of answers that the platform makes, and of-watchdog for a function that it could not
reach."""
OUR_ID = "X-Slipway-Call-Id"
"""Header that tells a function the id that we made: the same in each attempt."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: Body
    hopeless: bool = False
    """Another attempt would end in the same way."""

    def header(self, name: str) -> str:
        found = (value for header, value in self.headers if header.lower() == name.lower())
        return next(found, "")

    @property
    def of_platform(self) -> bool:
        return bool(self.header(INTERNAL))


class Line:
    """The connection of a call that is being made, for another thread that may have to end it."""

    def __init__(self) -> None:
        self.cut = False
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()

    def hold(self, sock: socket.socket) -> None:
        with self._lock:
            self._sock = sock
        if self.cut:
            self.end()

    def end(self) -> None:
        self.cut = True
        with self._lock, suppress(OSError):
            if self._sock:
                self._sock.shutdown(socket.SHUT_RDWR)


def make(
    call: Call, settings: Settings, patience: float, bodies: Bodies, line: Line | None = None
) -> Answer:
    """Calls the function, for at most ``patience`` seconds.

    What did not come about is an answer as well: 503 where nothing could be reached (as OpenFaaS
    has it), 502 where the answer broke off, 504 where it took too long, 507 where it could not be
    kept. Bodies are never held in memory but for small ones.

    Raises:
        NotFound: the body of the call is gone.
    """
    line = line or Line()
    with body_of(call, bodies).open() as body:
        base = urlsplit(settings.base_url)
        until = time.monotonic() + EDGE_SECONDS
        while True:
            try:
                connection = callbacks.connect(
                    base, [base.hostname or ""], callbacks.CONNECT_SECONDS
                )
                break
            except OSError as error:  # nothing was delivered
                if time.monotonic() > until or line.cut:
                    return failed(503, f"the edge could not be reached: {type(error).__name__}")
                time.sleep(0.5)
        line.hold(connection.sock)
        with closing(connection), deadline(connection.sock, patience) as late:
            connection.sock.settimeout(patience + 1)
            try:
                target = f"/function/{call.name}{call.target}"
                with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered
                    callbacks.send(connection, target, _headers(call), body, call.length)
                answer = connection.getresponse()
                limit = min(settings.async_max_body, settings.async_results)
                kept = _body(call, answer, limit, bodies)
                if late():  # an answer without a length looks whole when it is cut off
                    if kept:
                        bodies.remove([kept.file])
                    raise TimeoutError
            except Unavailable as error:
                # The function did what it was called for: not once more for want of room.
                return failed(507, f"the answer could not be kept: {error}", hopeless=True)
            except (OSError, ValueError, http.client.HTTPException) as error:
                if late():
                    return failed(504, f"the call took over {patience:g} s: it was given up")
                return failed(502, f"no whole answer came: {type(error).__name__}")
            headers = [
                header
                for header in response_headers("POST", answer, "", sandboxed=False)
                if header != ("Content-Security-Policy", SANDBOX)  # the edge's, for browsers
                and header[0] != "Content-Length"  # what is left of it
            ]
            if kept is None:
                told = f"the answer has more than {limit} bytes, which is the limit"
                bound = "MAX_BODY" if limit == settings.async_max_body else "RESULTS"
                return failed(502, f"{told} (SLIPWAY_ASYNC_{bound})", hopeless=True)
            return Answer(answer.status, headers, kept)


def body_of(call: Call, bodies: Bodies) -> Body:
    """Where it is, as the store has it."""
    name = body_file(call.id) if call.held is not None else ""
    return bodies.kept(name, call.body, call.length)


def failed(status: int, reason: str, *, hopeless: bool = False) -> Answer:
    """What is told instead of an answer."""
    headers = [("Content-Type", "text/plain; charset=utf-8"), (INTERNAL, "proxy")]
    return Answer(status, headers, Body.of(reason.encode()), hopeless)


def _headers(call: Call) -> list[tuple[str, str]]:
    headers = {name.lower(): (name, value) for name, value in call.headers}
    headers["x-call-id"] = ("X-Call-Id", call.given or call.id)
    headers[OUR_ID.lower()] = (OUR_ID, call.id)
    headers.setdefault("user-agent", ("User-Agent", AGENT))
    return list(headers.values())


def _body(call: Call, answer: http.client.HTTPResponse, limit: int, bodies: Bodies) -> Body | None:
    """The whole body, or None where it is larger: it is read to its end all the same, as the
    function may still be doing what it was called for.

    Raises:
        Unavailable: the disk is full.
    """
    with Spool(bodies) as spool:
        while data := answer.read1(CHUNK):
            if spool.length <= limit:
                spool.write(data)
        if answer.length:
            raise http.client.IncompleteRead(b"")
        return spool.keep(answer_file(call.id)) if spool.length <= limit else None
