"""HAProxy's admin socket: one short connection per command, so that its end frames the reply.

Facts of HAProxy 2.8 that this module is built on: a command line or payload over its buffer
(16 kB) hangs or kills the whole process, so what is sent at once is bounded by MAX_BYTES;
commands joined by ``;`` run in order and each reply ends with an empty line.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.errors import Unavailable

MAX_BYTES = 8000
_TIMEOUT = 5.0
"""Seconds a command may take; they take less than a millisecond."""


class AdminSocket:
    """Sends commands to the HAProxy whose socket is at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def send(self, command: str, payload: str = "", *, most: int = MAX_BYTES) -> str:
        """Runs one line of commands, with the lines of ``payload`` below it, and returns the reply.

        ``most``: bytes that may be sent; never more than HAProxy's buffer holds.

        Raises:
            Unavailable: nobody listens there, or it does not answer.
        """
        text = f"{command} <<\n{payload}\n\n" if payload else command + "\n"
        data = text.encode()
        if len(data) > most + 200:
            raise ValueError("a command this long would bring HAProxy down: send it in chunks")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_TIMEOUT)
                connection.connect(str(self.path))
                connection.sendall(data)
                reply = bytearray()
                while more := connection.recv(65536):
                    reply += more
        except OSError as error:
            raise Unavailable(
                f"the edge does not answer on its admin socket {self.path} ({error}): it is "
                "starting or was ended; it is tried again"
            ) from error
        if not reply:
            raise Unavailable("the edge closed its admin socket: it is being ended")
        return reply.decode("utf-8", "replace")

    def run(self, commands: Iterable[str]) -> list[str]:
        """Runs commands that answer nothing or one message; returns one reply for each.

        Raises:
            Unavailable: as ``send``, or the replies cannot be told apart.
        """
        replies = []
        for chunk in chunks(commands, ";"):
            # Silence is one empty line, a message is followed by one.
            parts = re.findall(r"(.*)\n(?:(?<=.\n)\n)?", self.send(";".join(chunk)))
            if len(parts) != len(chunk):
                raise Unavailable(
                    f"the edge gave {len(parts)} replies to {len(chunk)} commands: {parts[:5]}"
                )
            replies.extend(parts)
        return replies


def chunks(items: Iterable[str], separator: str) -> Iterator[list[str]]:
    """Splits items into lists that, joined, HAProxy's buffer can take."""
    chunk: list[str] = []
    length = 0
    for item in items:
        more = len((item + separator).encode())
        if chunk and length + more > MAX_BYTES:
            yield chunk
            chunk, length = [], 0
        chunk.append(item)
        length += more
    if chunk:
        yield chunk
