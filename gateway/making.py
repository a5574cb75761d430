"""Makes one asynchronous call, as any caller would: by ``/function/…``."""

from __future__ import annotations

import http.client
import time
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.http import deadline
from core.models import Call
from core.origin import SANDBOX
from core.settings import Settings
from gateway import callbacks
from gateway.headers import response_headers

AGENT = "slipway/queue-worker"
"""User-Agent of calls whose caller sent none."""
EDGE_SECONDS = 60.0
"""In which an edge that refuses connections may come back."""
CHUNK = 2**16


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


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
                return failed(503, f"the edge could not be reached: {type(error).__name__}")
            time.sleep(0.5)
    with closing(connection), deadline(connection.sock, patience) as late:
        connection.sock.settimeout(patience + 1)
        try:
            headers = _headers(call)
            callbacks.send(connection, f"/function/{call.name}{call.target}", headers, call.body)
            answer = connection.getresponse()
            body = _body(answer, settings.async_max_body)
            if late():  # an answer without a length looks whole when it is cut off
                raise TimeoutError
        except (OSError, ValueError, http.client.HTTPException) as error:
            if late():
                return failed(504, f"the call took over {patience:g} s: it was given up")
            return failed(502, f"no whole answer came: {type(error).__name__}")
        headers = [
            header
            for header in response_headers("POST", answer, "", sandboxed=False)
            if header != ("Content-Security-Policy", SANDBOX)  # the edge's, for browsers
        ]
        if body is None:
            told = f"the answer has more than {settings.async_max_body} bytes, which is the limit"
            return failed(502, f"{told} of a callback (SLIPWAY_ASYNC_MAX_BODY)")
        return Answer(answer.status, headers, body)


def _headers(call: Call) -> list[tuple[str, str]]:
    headers = {name.lower(): (name, value) for name, value in call.headers}
    headers["x-call-id"] = ("X-Call-Id", call.id)
    headers.setdefault("user-agent", ("User-Agent", AGENT))
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


def failed(status: int, reason: str) -> Answer:
    """What is told instead of an answer."""
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("X-OpenFaaS-Internal", "proxy")]
    return Answer(status, headers, reason.encode())
