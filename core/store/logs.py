"""Logs of releases: one stream each, ended by the release's final state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from core import keys
from core.models import LogLine, State
from core.store.base import Base, encode, text

LOG_LINES = 20_000
"""Lines kept of one release's log; older ones go first."""


class LogEnd(msgspec.Struct, frozen=True):
    """The last line of a release's log."""

    state: State
    reason: str


class Logs(Base):
    def append_log(self, id_: str, lines: Sequence[LogLine]) -> None:
        self._pipeline(
            [
                ("XADD", keys.log(id_), "MAXLEN", "~", LOG_LINES, "*", "line", encode(line))
                for line in lines
            ]
        )

    def read_log(
        self, id_: str, after: str = "0", block: float = 0.0
    ) -> Iterator[tuple[str, LogLine | LogEnd]]:
        """Yields (position, line) of what came after a position; waits ``block`` s for the first.

        A final release ends with a LogEnd.
        """
        raw = cast(
            "list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]",
            self.redis.xread(
                {keys.log(id_): after}, count=500, block=int(block * 1000) if block else None
            ),
        )
        for _, entries in raw or ():
            for position, fields in entries:
                if b"end" in fields:
                    yield text(position), msgspec.json.decode(fields[b"end"], type=LogEnd)
                else:
                    yield text(position), msgspec.json.decode(fields[b"line"], type=LogLine)

    def follow_log(self, id_: str, *, follow: bool = True) -> Iterator[LogLine | LogEnd | None]:
        """Yields every line of a release's log; None now and then while nothing happens."""
        position = "0"
        while True:
            quiet = True
            for at, line in self.read_log(id_, position, block=1.0 if follow else 0.0):
                position, quiet = at, False
                yield line
                if isinstance(line, LogEnd):
                    return
            if quiet and not follow:
                return
            if quiet:
                yield None
