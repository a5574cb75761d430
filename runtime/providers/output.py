"""What functions write: read from their pipes by one thread, stamped, kept within bounds.

Each instance has a named pipe for stdout and stderr. It is opened for reading and writing on both
sides, so that nobody ever meets an end of file or SIGPIPE when this process dies; what is written
meanwhile waits in the pipe (1 MiB, then the function waits too).

A function that floods its log harms only itself: every pipe has its turn, what comes faster than
``_RATE`` is read but not kept, except for its last lines, and a note says how much is missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import selectors
import threading
import time
from pathlib import Path

import msgspec

from core.logfiles import LogWriter
from core.models import FunctionLogLine, now

log = logging.getLogger(__name__)

PIPE_SIZE = 2**20
"""Bytes; the most that an ordinary user may ask for."""
_TURN = 65536
_LONGEST = 16384
"""Bytes of a line that are kept."""
_RATE, _BURST = 512 * 1024, 2**20
"""Bytes a second kept of one instance in the long run, and at once."""
_TAIL = 4096


def make_pipe(path: Path) -> int:
    """Makes an instance's pipe; returns the descriptor for the function.

    Only its folder keeps others of the host out: the function itself, which has a uid of its own,
    must be able to open /dev/stdout.
    """
    os.mkfifo(path, 0o600)
    path.chmod(0o622)
    writer = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a user's pipes may have used up their share of memory
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return writer


class _Source:
    """One instance's pipe on its way into its function's log."""

    def __init__(self, instance: str, pipe: Path, writer: LogWriter) -> None:
        self.instance = instance
        self.writer = writer
        self.fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        self._cut = 0
        """Bytes left out of the line that is being read."""
        self._budget = float(_BURST)
        self._refilled = time.monotonic()
        self._dropped = 0
        self._tail = b""

    def read(self) -> bool:
        """Takes one turn; False: there was nothing."""
        try:
            data = os.read(self.fd, _TURN)
        except BlockingIOError:
            return False
        self._refill()
        if self._dropped and self._budget >= _BURST / 4:
            self.settle()
        if self._dropped or self._budget < len(data):
            self._dropped += len(data)
            self._tail = (self._tail + data)[-_TAIL:]
        else:
            self._budget -= len(data)
            self._take(data)
        return True

    def settle(self) -> None:
        """Writes the note and the last lines of a flood that has ebbed away."""
        if not self._dropped:
            return
        left_out = self._dropped - len(self._tail)
        whole = self._tail.partition(b"\n")[2] if left_out else self._tail
        self._dropped, self._tail = 0, b""
        self._finish_line()
        if left_out:
            self._write([f"[slipway: {left_out} bytes left out: written too fast]"])
        self._take(whole)

    def close(self) -> None:
        """Reads what is still in the pipe and lets go of it."""
        for _ in range(2 * PIPE_SIZE // _TURN):
            if not self.read():
                break
        self.settle()
        self._finish_line()
        os.close(self.fd)

    def _refill(self) -> None:
        moment = time.monotonic()
        self._budget = min(_BURST, self._budget + (moment - self._refilled) * _RATE)
        self._refilled = moment

    def _take(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        texts = []
        for line in lines:
            self._gather(line)
            texts.append(self._line())
        self._gather(rest)
        self._write(texts)

    def _gather(self, piece: bytes) -> None:
        room = _LONGEST - len(self._rest)
        self._rest += piece[:room]
        self._cut += max(len(piece) - room, 0)

    def _line(self) -> str:
        text = self._rest.decode(errors="replace").removesuffix("\r")
        if self._cut:
            text += f" [slipway: {self._cut} bytes of this line left out]"
        self._rest, self._cut = b"", 0
        return text

    def _finish_line(self) -> None:
        if self._rest:
            self._write([self._line()])

    def _write(self, texts: list[str]) -> None:
        if not texts:
            return
        time_ = now()
        lines = [FunctionLogLine(time=time_, instance=self.instance, text=text) for text in texts]
        try:
            self.writer.append(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        except OSError as error:
            log.warning("the log of %s cannot be written: %s", self.instance, error.strerror)


class Output:
    """The thread that reads every pipe."""

    def __init__(self, bound: int) -> None:
        """``bound``: bytes kept of one function."""
        self._bound = bound
        self._lock = threading.Lock()
        self._sources: dict[str, _Source] = {}
        self._writers: dict[Path, LogWriter] = {}
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = os.pipe2(os.O_CLOEXEC)
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._loop, name="function-output", daemon=True)
        self._thread.start()

    def add(self, instance: str, pipe: Path, folder: Path) -> None:
        """Begins to read an instance's pipe into the log in ``folder``; raises OSError."""
        with self._lock:
            if instance in self._sources:
                return
            if folder not in self._writers:
                self._writers[folder] = LogWriter(folder, self._bound)
            source = _Source(instance, pipe, self._writers[folder])
            self._sources[instance] = source
            self._selector.register(source.fd, selectors.EVENT_READ, source)

    def finish(self, instance: str) -> None:
        """Keeps what an ended instance still had to say and stops reading it."""
        with self._lock:
            source = self._sources.pop(instance, None)
            if source is None:
                return
            self._selector.unregister(source.fd)
            source.close()
            if all(each.writer is not source.writer for each in self._sources.values()):
                source.writer.close()
                del self._writers[source.writer.folder]

    def close(self) -> None:
        """Stops the thread; the pipes keep what is written from now on."""
        os.close(self._stopped)
        self._thread.join()
        for instance in list(self._sources):
            self.finish(instance)
        self._selector.close()
        os.close(self._stop)

    def _loop(self) -> None:
        while True:
            ready = self._selector.select(0.5)
            with self._lock:
                for key, _ in ready:
                    if key.fd == self._stop:
                        return
                    # An instance may have been finished since the selector saw it.
                    source: _Source = key.data
                    if self._sources.get(source.instance) is source:
                        source.read()
                if not ready:
                    for each in self._sources.values():
                        each.settle()
