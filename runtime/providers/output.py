"""What functions write: read from their pipes by one thread, stamped, kept within bounds.

Each instance has a named pipe for stdout and stderr. It is opened for reading and writing on both
sides, so that nobody ever meets an end of file or SIGPIPE when this process dies; what is written
meanwhile waits in the pipe (1 MiB, then the function waits too).

A function that floods its log harms only itself. ``_RATE`` bounds what its log grows by; what comes
faster is read but not kept, except for its last lines, and a note says how much is missing. Until
the log may grow again, the pipe is only emptied now and then, all of it at once: reading it as
fast as it is written would burn a core, and not reading it would make a request last as long as
its output takes at that rate. So a flood waits for some milliseconds whenever its pipe is full.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from core.logfiles import LogWriter
from core.models import FunctionLogLine, now

log = logging.getLogger(__name__)

PIPE_SIZE = 2**20
"""Bytes; the most that an ordinary user may ask for."""
_ROUND = 0.01
"""Seconds between two rounds through the pipes: writing byte by byte wakes us no more often, and a
line reaches the log so much later."""
_TURN, PIECE = 65536, 4096
"""Bytes read of a pipe in a round, and those whose fate is one: few, since a piece of nothing but
newlines makes half a megabyte of records."""
_LONGEST = 16384
"""Bytes of a line that are kept."""
_ESCAPED, _RECORD = 6, 512
"""The most bytes of JSON that a byte becomes, and that a record has besides its text."""
_RATE, _BURST = 512 * 1024, 2**20
"""Bytes a second that one instance adds to its log in the long run, and at once."""
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


class Source:
    """One instance's output on its way into its function's log; see ``receive``."""

    at_least = ""
    """Before the number of bytes that are left out: more may be missing."""

    def __init__(self, instance: str, writer: LogWriter, fd: int) -> None:
        """``fd``: becomes readable when there is something; closed by ``close``."""
        self.instance = instance
        self.writer = writer
        self.fd = fd
        self.ended = False
        """Whether nothing can come any more."""
        self._longest = max(min(_LONGEST, (writer.longest - _RECORD) // _ESCAPED), 0)
        self._rest = b""
        self._cut = 0
        """Bytes left out of the line that is being read."""
        self._burst = min(_BURST, writer.longest)
        """No more than the log keeps: else the note of what is missing would be pushed out."""
        self._budget = float(self._burst)
        """Below 0: a debt, which has to be paid back first."""
        self._refilled = time.monotonic()
        self._dropped = 0
        self._tail = b""
        self._time = ""
        """When the instance wrote what was read last, RFC 3339; empty: just now."""

    @property
    def flooding(self) -> bool:
        """Whether what comes is not kept just now."""
        return self._dropped > 0

    def receive(self, most: int) -> Sequence[tuple[str, bytes]]:
        """Reads at most ``most`` bytes without waiting; returns them in pieces, each with the time
        at which it was written (empty: now). None of them: there is nothing."""
        raise NotImplementedError

    def stale(self) -> bool:
        """Whether it may have missed that there is more, and should be resumed."""
        return False

    def read(self) -> bool:
        """Takes one turn; False: there was nothing."""
        self._refill()
        if self._budget >= self._burst / 4:
            self._settle()
        pieces = self.receive(PIPE_SIZE if self.flooding else _TURN)
        for number, (time_, data) in enumerate(pieces):
            if self.flooding or self._budget <= 0:
                self._time = pieces[-1][0]
                self._drop(b"".join(data for _, data in pieces[number:]))
                break
            self._time = time_
            self._take(data)
        return bool(pieces)

    def close(self) -> None:
        """Reads what is still there and lets go of it."""
        for _ in range(2 * PIPE_SIZE // _TURN):
            if not self.read():
                break
        self._settle()
        self.finish_line()
        os.close(self.fd)

    def _refill(self) -> None:
        moment = time.monotonic()
        self._budget = min(self._burst, self._budget + (moment - self._refilled) * _RATE)
        self._refilled = moment

    def _drop(self, data: bytes) -> None:
        """Keeps no more than what is missing of the last line, if a flood begins in its middle."""
        end = data.find(b"\n") + 1 if self._rest and not self.flooding else 0
        self._take(data[:end])
        self._dropped += len(data) - end
        self._tail = (self._tail + data[end:][-_TAIL:])[-_TAIL:]

    def _settle(self) -> None:
        """Writes the note and the last lines of a flood."""
        if not self.flooding:
            return
        tail = self._tail
        if self._dropped > len(tail):
            tail = tail.partition(b"\n")[2]
        left_out = self._dropped - len(tail)
        self._dropped, self._tail = 0, b""
        if left_out:
            self.finish_line()
            self._write([f"[slipway: {self.at_least}{left_out} bytes left out: written too fast]"])
        self._take(tail)

    def _take(self, data: bytes) -> None:
        """Keeps it, and pays for what was read or for what became of it, whichever is more."""
        *lines, rest = data.split(b"\n")
        texts = []
        for line in lines:
            self._gather(line)
            texts.append(self._line())
        self._gather(rest)
        self._budget -= max(len(data), self._write(texts))

    def _gather(self, piece: bytes) -> None:
        room = self._longest - len(self._rest)
        self._rest += piece[:room]
        self._cut += max(len(piece) - room, 0)

    def _line(self) -> str:
        text = self._rest.decode(errors="replace").removesuffix("\r")
        if self._cut:
            text += f" [slipway: {self._cut} bytes of this line left out]"
        self._rest, self._cut = b"", 0
        return text

    def finish_line(self) -> None:
        """Keeps a line without its newline: no more of it comes."""
        if self._rest:
            self._write([self._line()])

    def _write(self, texts: list[str]) -> int:
        """Returns the bytes of log that it came to."""
        time_ = self._time or now()
        lines = [FunctionLogLine(time=time_, instance=self.instance, text=text) for text in texts]
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        try:
            self.writer.append(data)
        except OSError as error:
            log.warning("the log of %s cannot be written: %s", self.instance, error.strerror)
        return len(data)


class _Pipe(Source):
    def __init__(self, instance: str, pipe: Path, writer: LogWriter) -> None:
        super().__init__(instance, writer, os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))

    def receive(self, most: int) -> Sequence[tuple[str, bytes]]:
        try:
            data = os.read(self.fd, most)
        except BlockingIOError:
            return ()
        return [("", data[begin : begin + PIECE]) for begin in range(0, len(data), PIECE)]


class Output:
    """The thread that reads every source."""

    def __init__(self, bound: int) -> None:
        """``bound``: bytes kept of one function."""
        self._bound = bound
        self._lock = threading.Condition()
        """Told whenever a source has ended."""
        self._sources: dict[str, Source] = {}
        self._floods: deque[Source] = deque()
        """Those over their budget: out of the selector, one of them is read in each round."""
        self._writers: dict[Path, LogWriter] = {}
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = os.pipe2(os.O_CLOEXEC)
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._loop, name="function-output", daemon=True)
        self._thread.start()

    def add(self, instance: str, pipe: Path, folder: Path) -> None:
        """Begins to read an instance's pipe into the log in ``folder``; raises OSError."""
        self.add_source(instance, folder, lambda writer: _Pipe(instance, pipe, writer))

    def add_source(self, instance: str, folder: Path, make: Callable[[LogWriter], Source]) -> None:
        """Begins to read what ``make`` opens, unless the instance has a source; it may raise
        OSError."""
        with self._lock:
            if instance in self._sources:
                return
            if folder not in self._writers:
                self._writers[folder] = LogWriter(folder, self._bound)
            source = make(self._writers[folder])
            self._sources[instance] = source
            self._selector.register(source.fd, selectors.EVENT_READ, source)

    def resume(self, instance: str, renew: Callable[[Source], None]) -> None:
        """Goes on with a source that has ended or is stale; ``renew`` gives it a new descriptor."""
        with self._lock:
            source = self._sources.get(instance)
            if source is None or not (source.ended or source.stale()):
                return
            self._leave(source)
            renew(source)
            if source not in self._floods:
                self._selector.register(source.fd, selectors.EVENT_READ, source)

    def source(self, instance: str) -> Source | None:
        with self._lock:
            return self._sources.get(instance)

    def ended(self, instance: str) -> bool:
        """Whether nothing comes from it now: there is no source, or it has to be resumed."""
        with self._lock:
            source = self._sources.get(instance)
            return source is None or source.ended or source.stale()

    def finish(self, instance: str, patience: float = 0.0) -> None:
        """Keeps what an ended instance still had to say and stops reading it.

        ``patience``: seconds that the end of its source is waited for.
        """
        with self._lock:
            source = self._sources.get(instance)
            if source is None:
                return
            self._lock.wait_for(lambda: source.ended, patience)
            if self._sources.get(instance) is not source:
                return
            del self._sources[instance]
            self._close(source)
            if all(each.writer is not source.writer for each in self._sources.values()):
                source.writer.close()
                del self._writers[source.writer.folder]

    def _close(self, source: Source) -> None:
        if source in self._floods:
            self._floods.remove(source)
        self._leave(source)
        source.close()

    def _leave(self, source: Source) -> None:
        with contextlib.suppress(KeyError):  # it is flooding, or has ended
            self._selector.unregister(source.fd)

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
            ready = self._selector.select(0 if self._floods else None)
            with self._lock:
                for key, _ in ready:
                    if key.fd == self._stop:
                        return
                    # An instance may have been finished since the selector saw it.
                    source: Source = key.data
                    if self._sources.get(source.instance) is source:
                        source.read()
                        if source.flooding:
                            self._floods.append(source)
                        if source.flooding or source.ended:
                            self._leave(source)
                        self._note_end(source)
                if self._floods:
                    self._read_flood(self._floods.popleft())
            time.sleep(_ROUND)

    def _read_flood(self, source: Source) -> None:
        source.read()
        if source.flooding:
            self._floods.append(source)
        elif not source.ended:
            self._selector.register(source.fd, selectors.EVENT_READ, source)
        self._note_end(source)

    def _note_end(self, source: Source) -> None:
        if source.ended:
            self._lock.notify_all()
