"""One request, as far as it has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway_watchdog.answers import Answer

if TYPE_CHECKING:
    import asyncio

    from slipway_watchdog.http1 import Connection


class Request:
    """What arrived. ``body`` is whole when the handler sees it."""

    __slots__ = (
        "abandoned",
        "body",
        "complete",
        "connection",
        "counted",
        "deadline",
        "expects",
        "head_done",
        "headers",
        "http10",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_path",
        "refusal",
        "running",
        "started",
        "target",
    )

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | bytearray = b""
        self.method = ""
        self.raw_path = b"/"
        self.path = "/"
        self.query = ""
        self.http10 = False
        self.keep_alive = False
        self.expects = False
        self.head_done = False
        self.complete = False
        self.refusal: Answer | None = None
        """Answer of what cannot be understood or is too large; given when its turn comes."""
        # The watchdog's own.
        self.started = 0.0
        self.deadline: asyncio.TimerHandle | None = None
        self.counted = False
        self.running = False
        self.abandoned = False

    def header(self, name: bytes) -> bytes:
        """The last value of a header by its lower-case name, or nothing."""
        found = b""
        for key, value in self.headers:
            if key.lower() == name:
                found = value
        return found

    def refuse(self, status: int, text: str) -> None:
        if self.refusal is None:
            self.refusal = Answer.plain(status, text)
