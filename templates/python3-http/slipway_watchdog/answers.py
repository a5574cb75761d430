"""What a handler gave back → status, headers, body; and the head that goes before it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    # Framing and the connection are the server's; a handler cannot be right about them.
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "trailer")
)

HTML = ("Content-Type", "text/html; charset=utf-8")
JSON = ("Content-Type", "application/json")
TEXT = ("Content-Type", "text/plain; charset=utf-8")


class BadAnswer(Exception):
    """The handler returned what cannot be sent."""


class Answer:
    """``body``: bytes, or an iterable of bytes or str that is sent as it comes."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, headers: list[tuple[str, str]], body: bytes | Iterable[bytes | str]
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @classmethod
    def plain(cls, status: int, text: str, *, internal: bool = True) -> Answer:
        """A text of the watchdog's own; ``internal`` marks it as not the handler's."""
        headers = [TEXT, ("X-OpenFaaS-Internal", "of-watchdog")] if internal else [TEXT]
        return cls(status, headers, f"{text}\n".encode())


def from_result(result: Any) -> Answer:
    """What python3-http's ``handle(event, context)`` may return.

    None; a dict or an object with ``statusCode``, ``body``, ``headers``; or what a Flask view may
    return: text, bytes, a generator, a response object, (body, status, headers). A dict without
    any of the three keys is itself the JSON body.

    Raises:
        BadAnswer: saying what is wrong with it.
    """
    if result is None:
        return Answer(200, [HTML], b"")
    if isinstance(result, Mapping):
        if not result or "statusCode" in result or "body" in result or "headers" in result:
            return _shaped(result.get("statusCode"), result.get("body"), result.get("headers"))
        return _shaped(200, result, None)
    if isinstance(result, tuple):
        return _from_tuple(result)
    if hasattr(result, "statusCode"):
        headers = getattr(result, "headers", None)
        return _shaped(result.statusCode, getattr(result, "body", None), headers)
    if hasattr(result, "status_code") and hasattr(result, "iter_encoded"):  # Flask's Response
        return Answer(result.status_code, _pairs(result.headers.items()), result.iter_encoded())
    return _shaped(200, result, None)


def _from_tuple(result: tuple[Any, ...]) -> Answer:
    body, *rest = result if result else (None,)
    if len(rest) > 2:
        raise BadAnswer(f"a tuple of {len(result)}: (body, status, headers) was expected")
    if len(rest) == 1 and not isinstance(rest[0], int | str):
        return _shaped(200, body, rest[0])
    status, headers = [*rest, None, None][:2]
    return _shaped(status, body, headers)


def _shaped(status: Any, body: Any, headers: Any) -> Answer:
    try:
        code = 200 if status is None else int(status)
    except (TypeError, ValueError):
        raise BadAnswer(f"the status {status!r} is not a number") from None
    pairs = [] if headers is None else _pairs(headers)
    kind, content = _content(body)
    if not any(name.lower() == "content-type" for name, _ in pairs):
        pairs.append(kind)
    return Answer(code, pairs, content)


def _pairs(headers: Any) -> list[tuple[str, str]]:
    """Headers of a mapping (a list as value: several of one name) or of an iterable of pairs."""
    pairs: list[tuple[str, str]] = []
    try:
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            for each in value if isinstance(value, list | tuple) else (value,):
                pairs.append((str(name), str(each)))
    except (TypeError, ValueError):
        raise BadAnswer(
            f"headers are {type(headers).__name__}, not a dict or pairs of name and value"
        ) from None
    return pairs


def _content(body: Any) -> tuple[tuple[str, str], bytes | Iterable[bytes | str]]:
    if isinstance(body, str):
        return HTML, body.encode("utf-8", "replace")
    if isinstance(body, bytes):
        return HTML, body
    if isinstance(body, bytearray | memoryview):
        return HTML, bytes(body)
    if body is None:
        return HTML, b""
    if isinstance(body, Mapping | list | tuple):
        import json  # most handlers bring it themselves; the others start without it

        return JSON, json.dumps(body, default=_plain).encode()
    if hasattr(body, "__next__"):
        return HTML, body
    if isinstance(body, bool | int | float):
        return HTML, str(body).encode()
    raise BadAnswer(
        f"the body is of type {type(body).__name__}: give text, bytes, a dict, a list, a number, "
        "or a generator"
    )


def _plain(value: Any) -> Any:
    """JSON of what the json module does not know."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if type(value).__name__ in ("UUID", "Decimal"):
        return str(value)
    raise BadAnswer(f"{type(value).__name__} in the body has no form in JSON")


def head(answer: Answer, seconds: float, date: str) -> tuple[bytes, int | None]:
    """The status line and headers, without the blank line; and the length of a streamed body.

    The length is the handler's own Content-Length of a body that is not bytes, else None.

    Raises:
        BadAnswer: status, name or value of a header cannot be sent.
    """
    status = answer.status
    if not 200 <= status <= 599:
        raise BadAnswer(f"the status {status} is not between 200 and 599")
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n"]
    length = None
    for name, value in answer.headers:
        lower = name.lower()
        if lower in _OURS:
            continue
        if lower == "content-length":
            if not (value.isascii() and value.isdigit()):
                raise BadAnswer(f"Content-Length: {value[:40]!r} is not a number")
            length = int(value)
            continue
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadAnswer(f"the header {name[:40]!r}: {value[:80]!r} has forbidden characters")
        lines.append(f"{name}: {value}\r\n")
    lines.append(f"X-Duration-Seconds: {seconds:f}\r\nDate: {date}\r\n")
    return "".join(lines).encode("latin-1"), length
