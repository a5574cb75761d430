"""Our own logs: a constant event, data in fields, ids bound once.

JSON where nobody looks (or ``SLIPWAY_LOG_FORMAT=json``), columns at a terminal.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

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
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Log(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(part=part)
    # A fork may come while another thread writes: its copy of the lock would stay locked for ever.
    os.register_at_fork(after_in_child=structlog._output.WRITE_LOCKS.clear)


class _Log(io.TextIOBase):
    """What cannot be written is left out, as where its disk is full: whoever tells of that, or of
    anything else, goes on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def get(**values: Any) -> Any:
    """A logger with these fields bound."""
    return structlog.get_logger(**values)
