"""What the environment asks of the watchdog; the names are of-watchdog's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_LONGEST = 32
"""Characters of a duration: a caller's X-Timeout is one, and this runs in the event loop."""
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)\s*(b|kb|mb|gb)?", re.I)
_BYTES = {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30}


class BadOption(Exception):
    """A variable of the function's environment does not make sense."""


@dataclass(frozen=True)
class Options:
    """Times are in seconds; 0 turns a bound off, except for write_timeout."""

    read_timeout: float = 30.0
    """From the first byte of a request to its last; then 408."""
    write_timeout: float = 30.0
    """How long a client may leave an answer unread, and how long draining may take."""
    exec_timeout: float = 30.0
    """How long the handler may take; then 504."""
    healthcheck_interval: float = 0.0
    """How long after SIGTERM new connections are taken in any case. of-watchdog waits for the
    length of write_timeout here; Slipway's edge has turned away before it sends SIGTERM."""
    max_inflight: int = 0
    """Requests at once; more get 429. 0: no bound, and 32 handlers at once."""
    max_raw_size: int = 0
    """Bytes of a request's body; more get 413. 0: no bound but the function's memory."""
    port: int = 8080
    ready_path: str = ""
    """Path of the handler that answers /_/ready."""
    suppress_lock: bool = False

    @property
    def workers(self) -> int:
        return self.max_inflight or 32


def read(environment: Mapping[str, str] = os.environ) -> Options:
    """Reads the options; what is absent or empty keeps its default.

    Raises:
        BadOption: naming the variable, its value and what would be right.
    """
    found: dict[str, object] = {}
    for field in fields(Options):
        name = "MAX_RAW_SIZE" if field.name == "max_raw_size" else field.name
        text = environment.get(name, "").strip()
        if text:
            found[field.name] = _parse(name, text, type(field.default))
    options = Options(**found)  # type: ignore[arg-type]
    if options.write_timeout == 0:
        raise BadOption("write_timeout is 0: give the time that an answer may take, like 30s")
    if options.ready_path and not options.ready_path.startswith("/"):
        raise BadOption(f"ready_path={options.ready_path!r} is no path: it has to begin with /")
    return options


def duration(text: str) -> float | None:
    """Seconds of a Go duration (``1m30s``, ``500ms``) or of plain digits; None for others."""
    if len(text) > _LONGEST:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def _parse(name: str, text: str, kind: type) -> object:
    if name == "MAX_RAW_SIZE":
        size = _SIZE.fullmatch(text)
        if size is None:
            raise BadOption(f"{name}={text!r} is not a size: write 512kb, 10mb or bytes")
        return int(size[1]) * _BYTES[(size[2] or "b").lower()]
    if kind is float:
        seconds = duration(text)
        if seconds is None:
            raise BadOption(f"{name}={text!r} is not a time: write 30s, 1m30s, 500ms or seconds")
        return seconds
    if kind is int:
        if not (text.isascii() and text.isdigit()) or int(text) > 65535:
            raise BadOption(f"{name}={text!r} is not a whole number between 0 and 65535")
        return int(text)
    if kind is bool:
        return text.lower() in ("1", "true", "yes", "on")
    return text
