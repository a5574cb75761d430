"""Waits until there is a repository of a forge, in a third of the memory: most of a small process
of ours is the store's client. So it speaks the store's protocol itself, two commands in two seconds
(https://redis.io/docs/latest/develop/reference/protocol-spec/).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

from core import keys
from core.alive import place
from core.readiness import tell_ready

BEAT, BEAT_LIFE = 2.0, 10.0
"""Seconds between two signs of life, and for how long each counts."""
_ANSWER = 2.0
"""Seconds for an answer; the next try comes soon."""


def place_and_name() -> tuple[str, str]:
    """(where this process is, the name of its signs of life)."""
    return place(), f"reporter:{place()}:{os.getpid()}"


def stand_by(store_url: str, stop: threading.Event) -> None:
    """Returns once there is one, or ``stop`` is set. At once where the store is not reached by a
    socket alone."""
    path = _socket(store_url)
    here, name = place_and_name()
    while path and not stop.is_set():
        with suppress(OSError, ValueError):  # it may come and go
            beat = ("HSET", keys.BEATS, name, f"{time.time() + BEAT_LIFE:.3f} {here}")
            _, found = _ask(path, beat, ("HLEN", keys.FORGE_REPOSITORIES))
            tell_ready()
            if found:
                return
        stop.wait(BEAT)
    if path:
        with suppress(OSError, ValueError):
            _ask(path, ("HDEL", keys.BEATS, name))


def _socket(url: str) -> str:
    """The path of the store's socket; '' where more than that is needed to speak with it."""
    parts = urlsplit(url)
    plain = parts.scheme == "unix" and not (parts.netloc or parts.query)
    return parts.path if plain else ""


def _ask(path: str, *commands: tuple[str, ...]) -> list[int]:
    """The numbers that the store answers these commands with. Raises OSError, ValueError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER)
        connection.connect(path)
        connection.sendall(b"".join(map(_encoded, commands)))
        with connection.makefile("rb") as answers:
            return [_number(answers.readline(512)) for _ in commands]


def _encoded(command: tuple[str, ...]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def _number(answer: bytes) -> int:
    if not answer.startswith(b":"):
        raise ValueError(f"the store answers {answer!r}")
    return int(answer[1:])
