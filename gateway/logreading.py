"""What one request gets of a function's log: first what is kept, by time, then what comes.

Both are read from the same files (``gateway/logchain.py``): the kept lines are those before an
offset, the live ones those after it. So none is lost or doubled between the two, and a follower who
is slow waits in the files, which are bounded, and not in memory.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from core.models import FunctionLogLine, Struct, now
from gateway.logchain import BLOCK, Chain, LogFile

_HEAD = re.compile(rb'^\{"time":"([^"]*)","instance":"([^"]*)"', re.MULTILINE)
_OFFSET_BITS = 48
_decoder = msgspec.json.Decoder(FunctionLogLine)
_encoder = msgspec.json.Encoder()


class Wanted(Struct, frozen=True):
    """What is asked for."""

    name: str
    namespace: str
    instance: str = ""
    """Empty: of all."""
    since: datetime | None = None
    tail: int = 0
    """The last so many of the kept lines; 0: all."""
    follow: bool = False

    @property
    def earliest(self) -> str:
        """``since`` as a log's times compare with it."""
        if self.since is None:
            return ""
        text = self.since.astimezone(UTC).isoformat(timespec="microseconds")[:26]
        return text.rstrip("0").rstrip(".")  # so that it is no later than itself with fewer digits


class Message(Struct, frozen=True):
    """One line as OpenFaaS' clients read it (faas-provider, ``logs.Message``)."""

    name: str
    namespace: str
    instance: str
    timestamp: str
    text: str


class Reading:
    """Gives a log block by block, from where it was asked for."""

    def __init__(self, chain: Chain, wanted: Wanted) -> None:
        """Settles what is kept, and where the live part begins; some 10 ms for each megabyte."""
        self.chain = chain
        self.wanted = wanted
        self.ended = False
        """Whether nothing comes any more."""
        self._earliest = wanted.earliest
        places, end = _places(chain.files, wanted.instance, self._earliest)
        self._kept = self._kept_lines(list(chain.files), places[-wanted.tail :])
        self._file = chain.last
        self._offset = end if chain.files else chain.last.size

    def next(self) -> bytes:
        """Returns a block of NDJSON; empty: there is nothing now."""
        for block in self._kept:
            if block:
                return block
        if not self.wanted.follow:
            self.ended = True
            return b""
        if self._earliest and self._earliest <= now():
            self._earliest = ""  # what is written from now on is late enough
        return self._live()

    def _live(self) -> bytes:
        while True:
            if self._offset == self._file.size and self._file.next is None:
                return b""
            if self._file.closed and self._offset < self._file.size:
                return self._skip()
            key = (self._file, self._offset, self.wanted.instance, self._earliest)
            block, end = self.chain.cached(key, self._block)
            if end > self._offset:
                self._offset = end
                if block:
                    return block
            elif self._file.next is None:
                return b""
            else:
                self._file, self._offset = self._file.next, 0
                if self._file.gap:
                    return self._note("lines may be missing: the log was dropped while it came")

    def _block(self) -> tuple[bytes, int]:
        """What is at this offset, and the offset behind it."""
        data = self._file.read(self._offset, self._file.size)
        return self._encoded(data, self.wanted.instance, self._earliest), self._offset + len(data)

    def _skip(self) -> bytes:
        """Goes on with what is still there."""
        missed = 0
        while self._file.closed:
            missed += self._file.size - self._offset
            if self._file.next is None:
                self._offset = self._file.size
                break
            self._file, self._offset = self._file.next, 0
        return self._note(f"{missed} bytes of log left out: read too slowly")

    def _kept_lines(self, files: Sequence[LogFile], places: Sequence[int]) -> Iterator[bytes]:
        """The lines at these places, in blocks."""
        which, begin, data = -1, 0, b""
        lines: list[bytes] = []
        size = missed = 0
        for place in places:
            number, offset = place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1
            if number != which or not begin <= offset < begin + len(data):
                which, begin = number, offset
                data = files[which].read(offset, files[which].size)
            if not data:
                missed += 1
                continue
            line = data[offset - begin : data.find(b"\n", offset - begin) + 1 or None]
            lines.append(line)
            size += len(line)
            if size >= BLOCK:
                yield self._encoded(b"".join(lines))
                lines, size = [], 0
        yield self._encoded(b"".join(lines))
        if missed:
            yield self._note(f"{missed} lines left out: read too slowly")

    def _encoded(self, data: bytes, instance: str = "", earliest: str = "") -> bytes:
        """Lines of a log as messages; those that a crash tore are passed over."""
        try:
            lines = _decoder.decode_lines(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            lines = [line for text in data.splitlines() for line in _decoded(text)]
        return _encoder.encode_lines(
            self._message(line)
            for line in lines
            if (not instance or line.instance == instance)
            and (not earliest or line.time.removesuffix("Z") >= earliest)
        )

    def _message(self, line: FunctionLogLine) -> Message:
        return Message(
            name=self.wanted.name,
            namespace=self.wanted.namespace,
            instance=line.instance,
            timestamp=line.time,
            text=line.text,
        )

    def _note(self, text: str) -> bytes:
        line = FunctionLogLine(time=now(), instance="", text=f"[slipway: {text}]")
        return _encoder.encode(self._message(line)) + b"\n"


def _places(files: Sequence[LogFile], instance: str, earliest: str) -> tuple[Sequence[int], int]:
    """Where the kept lines are, by time: number of the file and offset in one; and the offset
    behind the last file's last whole line.

    One process writes for all replicas, but the engine's lines come with its times: a little late,
    or much after a restart.
    """
    found = []
    who, least = instance.encode(), earliest.encode()
    end = 0
    for number, file in enumerate(files):
        end = 0
        while block := file.read(end, file.size):
            base = (number << _OFFSET_BITS) + end
            for head in _HEAD.finditer(block):
                time, of = head.groups()
                time = time.removesuffix(b"Z")
                if time >= least and (not who or of == who):
                    found.append((time, base + head.start()))
            end += len(block)
    found.sort()
    return array("Q", [place for _, place in found]), end


def _decoded(text: bytes) -> Iterator[FunctionLogLine]:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        yield _decoder.decode(text)
