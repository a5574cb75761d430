"""Answers of the engine that take long or never end: events, what containers write, pulls.

Read from a socket of our own, so that one thread can wait for many of them and for a time. Asked
for in HTTP/1.0: then the body is what comes, without chunks, and ends with the connection.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from urllib.parse import unquote, urlencode, urlsplit

from core.errors import Unavailable

CONNECT_SECONDS = 5.0
_MOST_HEAD = 65536


def request(
    url: str,
    version: str,
    path: str,
    query: Mapping[str, str],
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> socket.socket:
    """Connects to the engine at ``url`` and asks; returns a socket that does not block. The engine
    gives up what it does for us once that is closed.

    Raises:
        Unavailable: it takes no connection.
    """
    parts = urlsplit(url)
    unix = parts.scheme == "unix"
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    try:
        sock.settimeout(CONNECT_SECONDS)
        host = parts.hostname or ""
        sock.connect(unquote(parts.path) if unix else (host, parts.port or 2375))
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        lines = [f"{method} /v{version}{path}?{urlencode(query)} HTTP/1.0", "Host: docker"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Unavailable(f"the Docker engine at {url} does not answer ({error})") from error
    return sock


class Head:
    """Takes the head of an answer off what comes."""

    def __init__(self) -> None:
        self.status = 0
        """0: it has not come yet."""
        self._seen = b""

    def strip(self, data: bytes) -> bytes:
        """Returns what of the body is in ``data``; raises Unavailable where this is no HTTP."""
        if self.status:
            return data
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _MOST_HEAD:
                raise Unavailable("what answers is no Docker engine: a head without an end")
            return b""
        words = head.split(b" ", 2)
        if len(words) < 2 or not words[1].isdigit():
            raise Unavailable(f"what answers is no Docker engine: {head[:80]!r}")
        self.status, self._seen = int(words[1]), b""
        return body
