"""Logs of releases: one stream each, ended by the release's final state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.models import LogLine, State
from core.store.base import Base, encode, text

LOG_LINES = 20_000
"""Lines kept of one release's log; older ones go first."""


LOG_SECONDS = 30 * 24 * 3600
"""Life of the log of a release that was decided."""
_PAGE = 500
"""Entries that are read at once."""


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
                {keys.log(id_): after}, count=_PAGE, block=int(block * 1000) if block else None
            ),
        )
        for _, entries in raw or ():
            for position, fields in entries:
                if b"end" in fields:
                    yield text(position), msgspec.json.decode(fields[b"end"], type=LogEnd)
                else:
                    yield text(position), msgspec.json.decode(fields[b"line"], type=LogLine)

    def last_lines(self, id_: str, most: int = LOG_LINES) -> Iterator[LogLine]:
        """A release's log from its end on backwards, ``most`` lines."""
        before = "+"
        while most > 0:
            entries = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self.redis.xrevrange(keys.log(id_), max=before, count=min(most, _PAGE)),
            )
            for position, fields in entries:
                before = f"({text(position)}"
                most -= 1
                if b"line" in fields:
                    yield msgspec.json.decode(fields[b"line"], type=LogLine)
            if len(entries) < _PAGE:
                return

    def add_note(self, id_: str, line: LogLine) -> None:
        """Adds a line to a log that may have ended: before its end, which stays the last entry."""
        key = keys.log(id_)

        def change(pipe: Pipeline) -> None:
            last = cast("list[tuple[bytes, dict[bytes, bytes]]]", pipe.xrevrange(key, count=1))
            ended = [(at, fields) for at, fields in last if b"end" in fields]
            pipe.multi()
            pipe.xadd(key, {"line": encode(line)})
            if not last:  # or not kept any more: nobody would remove it
                pipe.expire(key, LOG_SECONDS)
            for at, fields in ended:
                pipe.xdel(key, at)
                pipe.xadd(key, {"end": fields[b"end"]})

        self._transaction(change, key)

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
