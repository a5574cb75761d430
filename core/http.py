"""One small HTTP request to a function's address: ``unix@/path`` or ``host:port``."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

FULL_AGAIN = 0.01
"""Seconds after which a full queue of connections is tried again."""
_LENGTH = re.compile(r"[0-9]{1,18}")


class UnclearLength(http.client.HTTPException):
    """An answer whose end two readers could see at different places."""


class Answer(http.client.HTTPResponse):
    """One that is read past what was only meant for the meantime (RFC 9110 §15.2), and whose
    length is clear (RFC 9112 §6.3). An endless meantime is cut off by ``deadline``."""

    def begin(self) -> None:
        """Reads the head.

        Raises:
            UnclearLength: several lengths, or one that is no number.
        """
        super().begin()
        while 101 < self.status < 200:
            self.headers = None  # type: ignore[assignment]  # how begin knows that it has to read
            super().begin()
        lengths = {each.strip(" \t") for each in self.headers.get_all("Content-Length", ())}
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            told = ", ".join(sorted(lengths))[:80]
            raise UnclearLength(f"Content-Length: {told}")


class Connection(http.client.HTTPConnection):
    """An HTTP/1.1 connection to an address in the edge's notation."""

    response_class = Answer

    def __init__(self, address: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.address = address

    def connect(self) -> None:
        if self.address.startswith("unix@"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            try:
                self._connect_unix(self.address.removeprefix("unix@"))
            except OSError:
                self.sock.close()
                raise
        else:
            host, _, port = self.address.rpartition(":")
            self.sock = socket.create_connection((host.strip("[]"), int(port)), self.timeout)

    def _connect_unix(self, path: str) -> None:
        """Waits for a place where many connect at once: by TCP the kernel does, here it says EAGAIN
        to whoever has bounded its time (connect(2))."""
        deadline = time.monotonic() + (self.timeout or 0)
        while True:
            try:
                self.sock.connect(path)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError("its queue of connections is full") from None
                time.sleep(FULL_AGAIN)


def request(
    address: str, method: str, path: str, *, timeout: float, limit: int = 4096
) -> tuple[int, bytes]:
    """Returns (status, the first ``limit`` bytes of the body).

    ``timeout`` bounds the whole of it, in seconds: a peer that sends a byte now and then gets no
    more.

    Raises:
        OSError: nothing answered in time, or not in HTTP.
    """
    connection = Connection(address, timeout)
    begun = time.monotonic()
    try:
        connection.connect()
        with deadline(connection.sock, timeout - (time.monotonic() - begun)) as late:
            try:
                connection.request(method, path, headers={"Connection": "close"})
                answer = connection.getresponse()
                return answer.status, answer.read(limit)
            except (OSError, http.client.HTTPException) as error:
                if late():
                    raise TimeoutError(f"no whole answer within {timeout:g} s") from error
                raise
    except http.client.HTTPException as error:
        raise OSError(f"it does not speak HTTP: {type(error).__name__}") from error
    finally:
        connection.close()


@contextmanager
def deadline(sock: socket.socket, seconds: float) -> Iterator[Callable[[], bool]]:
    """Cuts a connection off after ``seconds``, whatever comes over it until then; gives a function
    that tells whether it did.

    By its socket: a connection forgets its own once an answer says that it is the last.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(AttributeError, OSError):  # closed; TLS within a proxy's has no such thing
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(seconds, 0), cut)
    timer.daemon = True
    timer.start()
    try:
        yield late.is_set
    finally:
        timer.cancel()
