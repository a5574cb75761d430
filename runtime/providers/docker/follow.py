"""What a container writes, followed from the engine's log of it.

The engine stamps each line (and each 16 KiB of a longer one) with a time in nanoseconds, which we
keep in the function's log. So the log itself tells where an earlier process stopped: what bears no
later time is in it already.

A flood is not followed: the engine would decode all of it for us to drop. The connection is closed,
and what the engine has kept is asked for a moment later. After the engine has dropped a full log of
its own, old engines lose their place in the new one now and then: then too we ask again.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from core.errors import Unavailable
from core.logfiles import LogWriter, read_lines
from core.models import FunctionLogLine
from engine import stream
from runtime.providers.output import Source

log = logging.getLogger(__name__)

_HEADER = 8
"""Bytes before each frame: which stream, three zeros, the length, big-endian."""
_MOST_FRAME = 2**20
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_QUIET = 1.0
"""Seconds without output after which a connection that may have lost its place is made anew."""


class Followed(Source):
    """One container's output, from a socket on which the engine answers."""

    at_least = "at least "

    def __init__(self, instance: str, writer: LogWriter, sock: socket.socket, since: str) -> None:
        super().__init__(instance, writer, sock.fileno())
        self._socket = sock
        self.last = since
        """Time of the last frame that was read."""
        self.final = False
        """Whether its end is near: then all of it is read, be it a flood."""
        self._begin()

    def _begin(self) -> None:
        self.ended = False
        self._head = stream.Head()
        self._data = b""
        self._since = self.last
        """What is not later is known. (All frames of one line bear one time.)"""
        self._stream = 0
        self._torn = False
        """Whether the last frame, which was of that stream, was no whole line."""
        self._read = 0
        """Bytes since the connection was made, and when the last came."""
        self._read_at = time.monotonic()

    def renew(self, sock: socket.socket) -> None:
        """Goes on from another connection."""
        if self._torn:
            self.finish_line()
        self._socket.close()
        self._socket, self.fd = sock, sock.fileno()
        self._begin()

    def stale(self) -> bool:
        return self._read > self.writer.longest and time.monotonic() - self._read_at > _QUIET

    def receive(self, most: int) -> Sequence[tuple[str, bytes]]:
        read = 0
        try:
            # Small frames fill the socket long before their bytes do: more than one look a turn.
            while read < most and not self.ended:
                data = self._socket.recv(most - read)
                read += len(data)
                self._data += self._head.strip(data)
                self.ended = not data or self._head.status not in (0, 200)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.ended = True
        except Unavailable as error:
            log.warning("what %s writes cannot be followed: %s", self.instance, error)
            self.ended = True
        if read:
            self._read += read
            self._read_at = time.monotonic()
        frames = self._frames()
        if self.flooding and not self.final and not self.ended:
            self.ended = True
            self._socket.shutdown(socket.SHUT_RDWR)
        return frames

    def close(self) -> None:
        super().close()  # closes the descriptor
        self._socket.detach()

    def _frames(self) -> Sequence[tuple[str, bytes]]:
        """Whole frames, as (time, bytes); what is left of the data waits for more."""
        data, begin = self._data, 0
        frames: list[tuple[str, bytes]] = []
        while len(data) - begin >= _HEADER:
            length = int.from_bytes(data[begin + 4 : begin + _HEADER])
            if length > _MOST_FRAME:
                self.ended = True  # no frames: not what was asked for
                break
            end = begin + _HEADER + length
            if end > len(data):
                break
            stamp, _, text = data[begin + _HEADER : end].partition(b" ")
            when = stamp.decode("ascii", "replace")
            if not _TIME.fullmatch(when):  # of the engine: "Error grabbing logs: unexpected EOF"
                told = data[begin + _HEADER : end].decode("utf-8", "replace").strip()
                log.warning("the engine says of what %s writes: %s", self.instance, told)
            elif when > self._since:
                self.last = when
                if self._torn and data[begin] != self._stream:
                    text = b"\n" + text  # the other stream begins a line of its own
                self._stream, self._torn = data[begin], not text.endswith(b"\n")
                frames.append((when, text))
            begin = end
        self._data = data[begin:]
        return frames


def follow(url: str, version: str, container: str, since: str) -> socket.socket:
    """Asks for all that a container wrote after ``since``, and will write.

    Raises:
        Unavailable: the engine takes no connection.
    """
    query = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1"}
    if since:
        query["since"] = _unix(since)
    return stream.request(url, version, f"/containers/{container}/logs", query)


def last_time(folder: Path, instance: str) -> str:
    """When an instance wrote the last line that is in its function's log; '' where none is.

    The instance's name is looked for as it stands in a record: no text can hold that, since its
    quotes are escaped.
    """
    mark = b'","instance":' + msgspec.json.encode(instance) + b","
    found = ""
    for line in read_lines(folder):
        if mark in line:
            with contextlib.suppress(msgspec.MsgspecError):  # torn by a crash
                found = msgspec.json.decode(line, type=FunctionLogLine).time
    return found


def _unix(text: str) -> str:
    """RFC 3339 with nanoseconds → seconds since 1970 as the engine reads them."""
    whole, _, rest = text.partition(".")
    nanoseconds = rest.rstrip("Z").ljust(9, "0")[:9] if rest else "0" * 9
    seconds = int(datetime.fromisoformat(f"{whole.rstrip('Z')}+00:00").timestamp())
    return f"{seconds}.{nanoseconds}"
