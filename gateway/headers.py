"""Headers between client and function: what one hop keeps to itself, and what OpenFaaS adds."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from typing import Any

from core.origin import OF_THE_WHOLE, OUR_COOKIES, SANDBOX
from gateway.streams import content_length, has_body

_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""RFC 9110 §7.6.1, and what older proxies send."""
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
_OURS = {"host", "content-length", "expect", "x-call-id", "x-start-time"} | {
    name.lower() for name in _FORWARDED
}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OUR_COOKIE = re.compile(OUR_COOKIES)
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def request_headers(
    environ: dict[str, Any],
    call_id: str,
    started: str,
    *,
    scheme: str,
    behind_edge: bool,
    is_ours: Callable[[str], bool],
) -> list[tuple[str, str]]:
    """What the function gets: the client's own but for one hop's, and OpenFaaS'.

    ``scheme``: by which users come. ``behind_edge``: the edge has set X-Forwarded-…; otherwise
    they are what the client claims.
    ``is_ours``: whether an Authorization header holds Slipway's own credentials: a browser may send
    them along, and they are not for functions.
    """
    dropped = _HOP_BY_HOP | _OURS | _listed(environ.get("HTTP_CONNECTION", ""))
    headers = []
    for key, value in environ.items():
        name = key.removeprefix("HTTP_").replace("_", "-").lower()
        # Proxy itself is what CGI takes for the variable HTTP_PROXY.
        if not key.startswith("HTTP_") or name in dropped or name.startswith("proxy"):
            continue
        if name == "authorization" and is_ours(value):
            continue
        headers.append((name.title(), value))
    host = environ.get("HTTP_HOST", "")
    headers.append(("Host", host or "localhost"))
    for name, known in zip(_FORWARDED, (environ.get("REMOTE_ADDR", ""), host, scheme), strict=True):
        key = "HTTP_" + name.upper().replace("-", "_")
        by_edge = environ.get(key, "") if behind_edge else ""
        headers.append((name, by_edge or known))
    headers.append(("X-Call-Id", call_id))
    headers.append(("X-Start-Time", started))
    if environ.get("CONTENT_TYPE"):
        headers.append(("Content-Type", environ["CONTENT_TYPE"]))
    length = content_length(environ)
    if length is not None:
        headers.append(("Content-Length", str(length)))
    elif has_body(environ):
        headers.append(("Transfer-Encoding", "chunked"))
    return headers


def status_line(answer: http.client.HTTPResponse) -> str:
    """``200 OK``: the function's own words where they are fit for a header."""
    reason = answer.reason if VALUE.fullmatch(answer.reason) else ""
    return f"{answer.status} {reason}".strip()


def response_headers(
    method: str, answer: http.client.HTTPResponse, request_type: str, *, sandboxed: bool
) -> list[tuple[str, str]]:
    """What the client gets. A function may send anything: what is not a header is left out.

    ``sandboxed``: the function shares its origin with /system.
    """
    dropped = _HOP_BY_HOP | _listed(answer.getheader("Connection") or "")
    dropped |= {"content-length", "x-call-id", "x-start-time"}
    if sandboxed:
        dropped |= set(OF_THE_WHOLE)
    headers = [
        (name, value)
        for name, value in answer.getheaders()
        if name.lower() not in dropped and _TOKEN.fullmatch(name) and VALUE.fullmatch(value)
        if name.lower() != "set-cookie" or not _OUR_COOKIE.match(value)
    ]
    length = answer.getheader("Content-Length") or ""
    if method == "HEAD" and length.isdecimal():
        headers.append(("Content-Length", length))
    elif method != "HEAD" and answer.length is not None:
        headers.append(("Content-Length", str(answer.length)))
    if answer.getheader("Content-Type") is None:
        headers.append(("Content-Type", request_type or "text/plain"))
    if sandboxed:
        headers.append(("Content-Security-Policy", SANDBOX))
    return headers


def _listed(connection: str) -> set[str]:
    """Headers that a ``Connection`` header names as meant for one hop."""
    return {name.strip().lower() for name in connection.split(",")}
