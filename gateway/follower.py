"""One connection that reads a function's log, after its request's thread has left it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from core.names import join_function
from gateway.logreading import Reading, Wanted


class Follower:
    """A socket that never waits, what it has not taken yet, and how far in the log it is."""

    def __init__(
        self, connection: socket.socket, wanted: Wanted, chunked: bool, done: Callable[[], None]
    ) -> None:
        self.socket = connection
        self.wanted = wanted
        self.function = join_function(wanted.name, wanted.namespace)
        self.chunked = chunked
        self.done = done
        self.reading: Reading | None = None
        """None until its turn to begin."""
        self.ending = False
        """Whether nothing comes after what is pending."""
        self.moved = time.monotonic()
        """When it was last given something, or took it."""
        self.pending = memoryview(b"")
        """What it was given and has not taken yet."""
        self.awaited = False
        """Whether the followers' thread wants to know when it takes more."""

    def give(self, data: bytes) -> None:
        """Sends it now, as far as that goes. Raises OSError where the client is gone."""
        self.pending = memoryview(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        self.moved = time.monotonic()
        self.flush()

    def end(self) -> None:
        if not self.ending and self.chunked:
            self.pending = memoryview(bytes(self.pending) + b"0\r\n\r\n")
        self.ending = True
        self.flush()

    def flush(self) -> None:
        with suppress(BlockingIOError):
            while self.pending:
                self.pending = self.pending[self.socket.send(self.pending) :]
                self.moved = time.monotonic()

    def gone(self) -> bool:
        """Reads what a client sends, though nobody asked; whether it has left."""
        try:
            return not self.socket.recv(2**14)
        except BlockingIOError:
            return False
        except OSError:
            return True
