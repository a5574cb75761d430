"""Bodies that flow: reading a request's piece by piece or whole, and answering piece by piece."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import msgspec

from core import logging
from core.errors import InvalidRequest, TooLarge

CHUNK = 2**16
_DIGITS = 18
"""Of a length that fits into 64 bits."""
LINGER = 5.0
"""Seconds in which a client may finish sending a body that nobody wants any more."""

T = TypeVar("T")
log = logging.get()


class BrokenOff(InvalidRequest):
    """The client went away, or stalled, in the middle of its body."""


def content_length(environ: dict[str, Any]) -> int | None:
    """Bytes of the body if the client told, else None: no body, or a chunked one.

    Raises:
        InvalidRequest: it cannot be true, and others might read another number.
    """
    given = str(environ.get("CONTENT_LENGTH") or "")
    if len(given) > _DIGITS:
        raise InvalidRequest(f"the Content-Length has {len(given)} digits: no body is that long")
    return int(given) if given.isdecimal() else None


def has_body(environ: dict[str, Any]) -> bool:
    return content_length(environ) is not None or "HTTP_TRANSFER_ENCODING" in environ


def pieces(environ: dict[str, Any]) -> Iterator[bytes]:
    """The request's body, at most 64 KiB at a time. A client that expects 100 Continue gets it
    with the first.

    Raises:
        BrokenOff: it ended before its announced end.
    """
    length = content_length(environ)
    stream = environ["wsgi.input"]
    got = 0
    try:
        if invite := getattr(stream, "invite", None):  # gateway/worker.py: it waits for this
            stream.invite = None
            invite()
        for data in _chunks(stream) if length is None else _counted(stream):
            got += len(data)
            yield data
        if length is not None and got < length:
            raise EOFError
    except Exception as error:  # the server's parser has errors of its own
        stream.failed = True  # gunicorn's word for: no next request can follow it
        of = f" of {length}" if length is not None else ""
        raise BrokenOff(f"the body broke off after {got}{of} bytes") from error


def _counted(stream: Any) -> Iterator[bytes]:
    """A body of known length as it comes in. gunicorn's ``read(n)`` waits for n bytes, and copies
    what it read ahead each time."""
    reader: Any = getattr(stream, "reader", None)
    if not hasattr(reader, "unreader"):
        yield from iter(lambda: stream.read(CHUNK), b"")
        return
    while reader.length and (data := reader.unreader.read(None, min(reader.length, CHUNK))):
        if len(data) > reader.length:  # what follows is the next request
            reader.unreader.unread(data[reader.length :])
            data = data[: reader.length]
        reader.length -= len(data)
        yield data


def _chunks(stream: Any) -> Iterator[bytes]:
    """A chunked body as it comes in, for the same reason by gunicorn's chunk parser."""
    parser = getattr(getattr(stream, "reader", None), "parser", None)
    if parser is None:
        yield from iter(lambda: stream.read(CHUNK), b"")
        return
    for data in parser:
        for start in range(0, len(data), CHUNK):
            yield bytes(data[start : start + CHUNK])


def whole(environ: dict[str, Any], limit: int, seconds: float = 10.0) -> bytearray:
    """The request's body in memory, once.

    Raises:
        TooLarge, BrokenOff: as ``bounded``.
    """
    length = content_length(environ) or 0
    body = bytearray(min(length, limit))  # what grows may have to move, and be there twice
    got = 0
    for piece in bounded(environ, limit, seconds):
        body[got : got + len(piece)] = piece
        got += len(piece)
    return body


def bounded(environ: dict[str, Any], limit: int, seconds: float, pace: int = 0) -> Iterator[bytes]:
    """The pieces of the request's body, of which there may be none.

    ``pace``: a second more for each so many bytes that came; 0: none.

    Raises:
        TooLarge: it has more than ``limit`` bytes.
        BrokenOff: it did not come in its time.
    """
    length = content_length(environ)
    too_large = TooLarge(f"the body has more than {limit} bytes, which is the limit here")
    if length is not None and length > limit:
        raise too_large
    if not has_body(environ):
        return
    begun, got = time.monotonic(), 0

    def left() -> float:
        return begun + seconds + (got / pace if pace else 0) - time.monotonic()

    with nullcontext() if _is_here(environ, length) else _cut_off(environ, left):
        try:
            for piece in pieces(environ):
                got += len(piece)
                if got > limit:
                    raise too_large
                yield piece
        except BrokenOff as error:
            if left() > 0:
                raise
            raise BrokenOff(
                f"the body did not come within {time.monotonic() - begun:.0f} s"
            ) from error


def _is_here(environ: dict[str, Any], length: int | None) -> bool:
    """Whether all of a body was read from the socket already: nothing is to be waited for."""
    unreader = getattr(getattr(environ["wsgi.input"], "reader", None), "unreader", None)
    return bool(unreader and length and unreader.buf.getbuffer().nbytes >= length)


@contextmanager
def _cut_off(environ: dict[str, Any], left: Callable[[], float]) -> Iterator[None]:
    """Reads no more of a request once no seconds are left, which may grow meanwhile."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(max(left(), 0.0)):
            if left() <= 0:
                _stop_reading(environ)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def decoded(environ: dict[str, Any], type_: type[T], limit: int = 2**20) -> T:
    """The request's JSON body as ``type_``; what is of another type is told with its place.

    Raises:
        InvalidRequest: it is not JSON, or not of that shape.
    """
    try:
        return msgspec.json.decode(whole(environ, limit), type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not the JSON that this takes: {error}") from error


def _stop_reading(environ: dict[str, Any]) -> None:
    client = environ.get("gunicorn.socket")
    if client is not None:
        with suppress(OSError):
            client.shutdown(socket.SHUT_RD)


class Pump:
    """Carries a request's body to somewhere in a thread of its own, so that the answer can come
    before the body has ended. When the other side takes no more, the rest is read and dropped: a
    client that still sends would not see the answer.

    Args:
        write: takes a piece; an OSError means that no more is wanted.
        close: called once: with True at the body's proper end, with False when it broke off.
    """

    def __init__(
        self,
        environ: dict[str, Any],
        write: Callable[[bytes], object],
        close: Callable[[bool], object],
    ) -> None:
        self.broken = False
        """Whether the client's body ended before its end."""
        self.moved = 0
        """Bytes so far: who waits for an answer can see that the client still sends."""
        self._environ = environ
        self._write = write
        self._close = close
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        """Returns once the request's body is not read any more."""
        self._thread.join(LINGER)
        if self._thread.is_alive():
            _stop_reading(self._environ)
            self._thread.join()

    def _run(self) -> None:
        wanted = True
        try:
            for piece in pieces(self._environ):
                self.moved += len(piece)
                if wanted:
                    try:
                        self._write(piece)
                    except (OSError, ValueError):
                        wanted = False
        except BrokenOff:
            self.broken = True
        with suppress(OSError, ValueError):
            self._close(not self.broken)


def guarded(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Passes an answer's parts on; an error in the middle breaks the connection off, so that the
    client does not take what it got for all."""
    try:
        yield from parts
    except Exception as error:
        log.warning("answer_broken_off", reason=f"{type(error).__name__}: {error}")
        raise ConnectionResetError(errno.ECONNRESET, f"broken off: {error}") from error
