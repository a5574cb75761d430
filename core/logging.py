"""Our own logs: a constant event, data in fields, ids bound once.

JSON where nobody looks (or ``SLIPWAY_LOG_FORMAT=json``), columns at a terminal.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress
from typing import Any

import structlog


def configure(part: str, form: str = "auto") -> None:
    """Sets up logging of this process to standard error; ``part`` names it in every line."""
    columns = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        # The plain one: with rich installed, tracebacks would tell what variables hold.
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if columns
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(part=part)


class _Lines:
    """Writes lines whole. What cannot be written is left out, as where its disk is full: whoever
    tells of that, or of anything else, goes on.

    Not the library's loggers, nor ``sys.stderr``: each has a lock, and a fork that comes while
    another thread writes copies it, so that the child's first line would wait for ever."""

    lock = threading.Lock()

    def msg(self, line: str) -> None:
        rest = f"{line}\n".encode(errors="backslashreplace")
        with _Lines.lock, suppress(OSError):
            while rest:
                rest = rest[os.write(sys.stderr.fileno(), rest) :]

    debug = info = warning = error = critical = exception = msg


def _renew_lock() -> None:
    _Lines.lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def get(**values: Any) -> Any:
    """A logger with these fields bound."""
    return structlog.get_logger(**values)
