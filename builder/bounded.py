"""Runs one of our own tools (uv, npm) to its end, within bounds.

For programs that we trust on input that we do not: what runs foreign code belongs into
``core.sandbox``. The whole process group is killed at the bound of time or output, and whatever
is left of it when the program itself has ended: a child that kept the pipe open holds nobody up.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from core.errors import ConfigError

Outcome = Literal["exited", "timeout", "output", "stopped"]

LINE_BYTES = 4096
"""A longer line is told in pieces."""
ASK_EVERY = 0.1
"""Seconds between two askings whether to go on: what is called off is to end at once."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Hidden:
    """Words that are not told: asterisks stand in their place. A word longer than ``LONGEST``
    counts as several."""

    LONGEST = 1024

    def __init__(self, words: Iterable[str] = ()) -> None:
        longest = sorted({part for word in words for part in _parts(word)}, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, longest))) if longest else None
        self.reach = max((len(word.encode(errors="replace")) for word in longest), default=0)
        """Bytes of the longest one: with so many more to come, it may be there in half."""

    def mask(self, text: str) -> str:
        return self._words.sub("****", text) if self._words else text


def _parts(word: str) -> Iterable[str]:
    count = -(-len(word) // Hidden.LONGEST)
    size = -(-len(word) // max(count, 1))  # about the same of each: a rest of a letter hides much
    return (word[at : at + size] for at in range(0, len(word), max(size, 1)))


NOTHING = Hidden()


class Group(Protocol):
    """A control group (``core.cgroup.Cgroup``) that bounds memory and CPU."""

    def join(self, pid: int) -> None: ...


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    """Exit status, or minus the number of the signal that ended it."""
    outcome: Outcome
    tail: tuple[str, ...]
    """The last lines of its output, cleaned."""
    seconds: float

    @property
    def ok(self) -> bool:
        return self.outcome == "exited" and self.status == 0

    @property
    def text(self) -> str:
        return "\n".join(self.tail)


def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    max_output: int,
    on_line: Callable[[str], None] = lambda _: None,
    tail: int = 60,
    stop: Callable[[], bool] = lambda: False,
    group: Group | None = None,
    hidden: Hidden = NOTHING,
) -> Ended:
    """Runs ``argv`` with exactly ``env``, standard input empty, both outputs in one stream.

    Args:
        timeout: seconds, after which everything is killed.
        max_output: bytes, beyond which everything is killed.
        on_line: gets each line as it comes; what it raises ends the program and is passed on.
        tail: lines kept for the result.
        stop: asked again and again; true ends the program, and so does what it raises, which is
            passed on.
        group: joined right after the start, before the program can have done much.
        hidden: what is not told, neither by ``on_line`` nor in the result.

    Raises:
        ConfigError: the program is not there or cannot be executed.
    """
    begun = time.monotonic()
    lines = Lines(on_line, tail, hidden)
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(
            f"{Path(argv[0]).name} cannot be started: {error.strerror}; install this project's "
            "requirements again"
        ) from error
    with process:
        try:
            if group is not None:
                group.join(process.pid)
            outcome = _follow(process, begun + timeout, max_output, lines, stop)
        finally:
            # Not reaped yet, so the number of the group is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    lines.end()
    return Ended(status, outcome, tuple(lines.tail), time.monotonic() - begun)


def _follow(
    process: subprocess.Popen[bytes],
    deadline: float,
    max_output: int,
    lines: Lines,
    stop: Callable[[], bool],
) -> Outcome:
    """Reads until the program itself has ended or reached a bound."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    written = 0
    asked = time.monotonic()
    pidfd = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            selector.register(pidfd, selectors.EVENT_READ)
            while True:
                left = max(deadline - time.monotonic(), 0)
                ready = {key.fd for key, _ in selector.select(min(left, ASK_EVERY))}
                if output in ready:
                    data = os.read(output, 65536)
                    if not data:
                        selector.unregister(output)
                    written += len(data)
                    lines.feed(data)
                    if written > max_output:
                        return "output"
                elif pidfd in ready:  # and nothing left to read just now
                    return "exited"
                now = time.monotonic()
                if now >= deadline:
                    return "timeout"
                if now - asked >= ASK_EVERY:
                    asked = now
                    if stop():
                        return "stopped"
    finally:
        os.close(pidfd)


class Lines:
    """Cuts a stream of bytes into clean lines, passes them on and keeps the last ones."""

    def __init__(self, on_line: Callable[[str], None], tail: int, hidden: Hidden = NOTHING) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=tail)
        self._on_line = on_line
        self._hidden = hidden
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._tell(line)
        if len(self._rest) > LINE_BYTES + self._hidden.reach:
            # A word that begins before a cut is here in whole, and so is gone before it is cut.
            text = self._rest.decode(errors="surrogateescape")
            self._rest = self._hidden.mask(text).encode(errors="surrogateescape")
        while len(self._rest) > LINE_BYTES + self._hidden.reach:
            self._tell(self._rest[:LINE_BYTES])
            self._rest = self._rest[LINE_BYTES:]

    def end(self) -> None:
        if self._rest:
            self._tell(self._rest)
            self._rest = b""

    def _tell(self, line: bytes) -> None:
        whole = self._hidden.mask(clean(line.decode(errors="replace"))).encode()
        for start in range(0, max(len(whole), 1), LINE_BYTES):
            text = whole[start : start + LINE_BYTES].decode(errors="replace")
            self.tail.append(text)
            self._on_line(text)


def clean(line: str) -> str:
    """A line without terminal sequences and control characters: it ends up on terminals."""
    return _CONTROL.sub("", line.rstrip("\r\n").rpartition("\r")[2])
