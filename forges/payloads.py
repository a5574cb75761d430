"""What the events of all forges have in common: JSON into typed values, with bounds on each.

Of texts that only are shown the first part is taken; a value that decides something and is not as
the forge would send it refuses the event.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec

from core.errors import InvalidRequest

Id = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
"""What forges count by."""
AnyId = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""The same, where what is not positive stands for nothing."""
Number = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
"""Of a pull or merge request."""

_PART = r"[^\x00-\x20\x7f~^:?*\[\\/]+"
_REFERENCE = re.compile(rf"refs/{_PART}/(?!-){_PART}(?:/{_PART})*")
_BAD_IN_REFERENCE = ("..", "@{", "/.", ".lock/")
_MAX_REFERENCE = 1024
"""Bytes; a file system has no longer paths to keep one in, and most have less."""
_MAX_TITLE, _MAX_URL = 300, 2000
T = TypeVar("T")


def decoded(body: bytes | bytearray, kind: type[T]) -> T:
    """Raises InvalidRequest: it is not JSON, or not of this kind."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is not such an event in JSON: {error}; is the webhook's content type "
            "application/json?"
        ) from error


def reference(value: str) -> str:
    """A branch, tag or the like by git's rules (git-check-ref-format), which keep it from looking
    like an option.

    Raises:
        InvalidRequest: it is none.
    """
    if (
        not _REFERENCE.fullmatch(value)
        or len(value.encode()) > _MAX_REFERENCE
        or any(each in value for each in _BAD_IN_REFERENCE)
        or value.endswith((".lock", "."))
    ):
        raise InvalidRequest(f"{value[:80]!r} is not a reference such as refs/heads/main")
    return value


def branch(value: str) -> str:
    """A branch's name, checked as ``reference`` does."""
    return reference(f"refs/heads/{value}").removeprefix("refs/heads/")


def known_branch(value: str | None) -> str:
    """The same where there may be none yet: then ''."""
    return branch(value) if value else ""


def title(value: str) -> str:
    """One line that can be shown."""
    return " ".join(value[: 2 * _MAX_TITLE].split())[:_MAX_TITLE]


def web_url(value: str) -> str:
    """An address that may stand behind a link; '' where this one may not."""
    if len(value) > _MAX_URL or not value.isascii() or not value.isprintable() or " " in value:
        return ""
    try:
        parts = urlsplit(value)
    except ValueError:
        return ""
    return value if value.startswith(("http://", "https://")) and parts.netloc else ""
