"""The way of a body's pieces from a handler's thread to the client."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway_watchdog.http1 import Connection


class Stream:
    """The way of a body's pieces from a handler's thread to the connection, no faster than it goes.

    ``send`` is called by the thread, everything else in the event loop.
    """

    AHEAD = 8
    """Pieces that may be on their way."""

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._credits = threading.Semaphore(self.AHEAD)
        self._held = 0
        self._holding = False
        self._gone = False

    def send(self, data: bytes) -> bool:
        """Gives a piece on, waiting for the client to read; False once there is no use in it."""
        if not self._credits.acquire(timeout=self._timeout) or self._gone:
            return False
        connection = self._connection
        connection._loop.call_soon_threadsafe(connection.write_piece, self, data)
        return True

    def written(self) -> None:
        if self._holding:
            self._held += 1
        else:
            self._credits.release()

    def hold(self) -> None:
        self._holding = True

    def release(self) -> None:
        self._holding = False
        if self._held:
            self._credits.release(self._held)
            self._held = 0

    def gone(self) -> None:
        self._gone = True
        self._credits.release(self.AHEAD)
