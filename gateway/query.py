"""Arguments of a query string that are more than text."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from flask import request

from core.errors import InvalidRequest

_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def number(name: str, default: int, least: int, most: int) -> int:
    """Raises InvalidRequest for anything but a whole number from ``least`` to ``most``."""
    given = request.args.get(name) or str(default)
    if not re.fullmatch(r"-?[0-9]{1,9}", given) or not least <= int(given) <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}")
    return int(given)


def flag(name: str) -> bool:
    """A truth value as Go's ``strconv.ParseBool`` reads it, which OpenFaaS uses; absent: no."""
    given = request.args.get(name, "")
    if given in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if given in ("", "0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidRequest(f"{name} must be true or false")


def moment(name: str) -> datetime | None:
    """A time of RFC 3339, None where none is given; raises InvalidRequest for what is none."""
    given = request.args.get(name, "")
    return rfc_3339(name, given) if given else None


def rfc_3339(name: str, given: str) -> datetime:
    """The time that a field or argument says; raises InvalidRequest."""
    try:
        if not _RFC_3339.fullmatch(given):
            raise ValueError("a date, a time to the second and an offset from UTC")
        return datetime.fromisoformat(given).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the year 1 begins earlier in UTC
        raise InvalidRequest(
            f"{name} must be a time of RFC 3339, as 2026-01-31T12:00:00Z: {error}"
        ) from error
