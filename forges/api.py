"""One forge's REST API over HTTPS: JSON in, JSON out, within bounds.

A client library for each forge (PyGithub, python-gitlab) would bring three ways to retry, to follow
redirects and to tell errors; what is asked here is some twenty calls, which need one.
No redirect is followed: it could lead to an inside address, or take the token elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import requests

from core import web
from core.errors import (
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotFound,
    SlipwayError,
    TooLarge,
    Unavailable,
)
from core.trust import distrust

CONNECT_SECONDS, READ_SECONDS, WHOLE_SECONDS = 5.0, 15.0, 30.0
"""For the head of an answer, and for its body."""
MAX_ANSWER = 8 * 2**20
"""Bytes."""
T = TypeVar("T")
_MAX_WAIT = 3600.0
"""Seconds: GitHub's limits are counted by the hour."""


class Later(Unavailable):
    """The forge is away, or has had enough of us for now."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds, as the forge says; 0: it does not."""


class Answer(msgspec.Struct, frozen=True):
    """What came back. ``status`` 304 has no body; others have one where something is expected."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: Any


class Api:
    """``base``: the API's address, without ``/`` at the end; the administrator's word."""

    def __init__(self, base: str, who: str) -> None:
        self.base = base
        self._who = who
        self._session = web.session()

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        expect: type[Any] = object,
    ) -> Answer:
        """``path`` begins with ``/``; its parts are quoted by the caller. ``expect``: what the
        answer's JSON is read as (msgspec). ``form``: sent instead of JSON, as OAuth has it.

        Raises:
            Later: it does not answer, says 5xx, or limits how often it may be asked.
            NotAllowed: 401, 403.
            NotFound: 404, 410, 451.
            Conflict: 409.
            InvalidRequest: other 4xx; a redirect (renamed); an answer that is not as ``expect``, or
                is empty where that was given.
        """
        told = {"Accept": "application/json", "User-Agent": "slipway", **(headers or {})}
        data = None
        if body is not None:
            told["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
        elif form is not None:
            told["Content-Type"] = "application/x-www-form-urlencoded"
            data = urlencode(form).encode()
        try:
            with self._session.request(
                method,
                self.base + path,
                params=dict(query) if query else None,
                data=data,
                headers=told,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
                auth=_nobody,
            ) as answer:
                content = web.whole(answer, MAX_ANSWER, WHOLE_SECONDS)
        except (web.Late, TooLarge) as error:
            raise Later(f"{self._who} answers with more than is read, or too slowly") from error
        except requests.RequestException as error:
            why = distrust(error) or type(error).__name__
            raise Later(f"{self._who} does not answer ({why})") from error
        self._refuse(method, path, answer, content)
        if not content and expect is not object and answer.status_code != 304:
            raise InvalidRequest(f"{self._who} answers with nothing")
        return Answer(answer.status_code, answer.headers, self._read(content, expect))

    def _read(self, content: bytes, expect: type[Any]) -> Any:
        if not content:
            return None
        try:
            return msgspec.json.decode(content, type=expect)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"{self._who} answers with what is not understood") from error

    def _refuse(self, method: str, path: str, answer: requests.Response, content: bytes) -> None:
        status = answer.status_code
        if status < 300 or status == 304:
            return
        told = f"{self._who} answers {method} {path.partition('?')[0]} with {status}"
        if said := _message(content):
            told += f": {said}"
        wait = _wait(answer)
        if status >= 500 or status in (408, 425, 429) or (status == 403 and wait):
            raise Later(told, wait)
        kinds: dict[int, type[SlipwayError]] = {
            **dict.fromkeys((401, 403), NotAllowed),
            **dict.fromkeys((404, 410, 451), NotFound),
            409: Conflict,
        }
        raise kinds.get(status, InvalidRequest)(told)


def listed(
    page: Callable[[int], list[T]],
    ends: Callable[[list[T], list[T]], bool],
    number: Callable[[T], int],
) -> list[T]:
    """A list that comes in pages, which are counted from 1; ``ends(last page, all so far)``.

    Raises Later: it changed meanwhile, so that something may have slipped to a page that was read.
    """
    first = last = page(1)
    found, at = list(first), 1
    while not ends(last, found):
        at += 1
        last = page(at)
        found += last
    if at > 1 and [number(each) for each in page(1)] != [number(each) for each in first]:
        raise Later("a list changed while its pages were read")
    return found


def _wait(answer: requests.Response) -> float:
    """Seconds until it may be asked again, as it says; 0: it says nothing of limits."""
    given = answer.headers.get("Retry-After", "")
    if given.isdecimal():
        return min(float(given), _MAX_WAIT)
    for prefix in ("X-RateLimit", "RateLimit"):
        reset = answer.headers.get(f"{prefix}-Reset", "")
        if answer.headers.get(f"{prefix}-Remaining") == "0" and reset.isdecimal():
            return min(max(float(reset) - time.time(), 1.0), _MAX_WAIT)
    return 0.0


def _message(content: bytes) -> str:
    """What the forge says in words: GitHub, GitLab and Gitea all have a ``message``."""
    try:
        said = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    told = said.get("message", "") if isinstance(said, dict) else ""
    return " ".join(str(told).split())[:300]


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps a .netrc from adding credentials of its own."""
    return request
