"""An answer that leaves its request's thread: the worker's side of ``gateway/followers.py``.

Nothing heavy is imported here: gunicorn's master reads it with the worker.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

Take = Callable[[socket.socket, Callable[[], None]], None]
"""Takes a connection, and what is to be called once its answer has ended."""


class Detached(OSError):
    """Ends a request's thread in the middle of its answer: ``take`` goes on with the connection.

    An OSError, since gunicorn's worker lets these through without a word.
    """

    def __init__(self, take: Take) -> None:
        super().__init__("the answer goes on elsewhere")
        self.take = take


class Answer:
    """The body of an answer that leaves its thread as soon as the server has sent the head."""

    def __init__(self, take: Take, cancel: Callable[[], None]) -> None:
        """``cancel``: called where it does not come to that."""
        self._take = take
        self._cancel = cancel
        self._left = False

    def __iter__(self) -> Iterator[bytes]:
        yield b""  # gunicorn sends the head now
        self._left = True
        raise Detached(self._take)

    def close(self) -> None:
        if not self._left:
            self._cancel()
