"""The replicas of this host: the documents of the folder, and whether their processes live.

    begin      a uid, and nobody takes the half-made document for one that is there
    add        pidfds of the cell and of bubblewrap outside; what a controller before us left, too
    wait       a pidfd tells ── exit reason from bubblewrap's status and the control group

A cache of the folder: it follows what changes there, and a document that cannot be verified is
none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from core.errors import Unavailable
from core.sandbox import (
    Process,
    Sandbox,
    describe_exit,
    ended,
    exit_status,
    is_marked,
    kill,
    marker,
    open_process,
    reap,
)
from core.settings import Settings
from runtime.providers import Instance, Phase
from runtime.providers.cells import UIDS
from runtime.providers.output import Output
from runtime.providers.records import Record, Records

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 10.0
"""The longest that the end of this process waits for starts under way."""


class Known:
    """A verified document and what was seen of its process."""

    def __init__(self, record: Record, stamp: tuple[int, int, int], process: Process) -> None:
        self.record = record
        self.stamp = stamp
        self.process = process
        self.descriptor: int | None = None
        """A pidfd of the cell, while it runs."""
        self.monitor: int | None = None
        """A pidfd of bubblewrap outside, which ends with the program; None: there is none."""
        self.exit_reason = ""

    def instance(self) -> Instance:
        phase = Phase.STOPPING if self.record.stopping else Phase.RUNNING
        return Instance(
            id=self.record.id,
            spec=self.record.spec,
            address=f"unix@{self.record.socket}",
            phase=phase if self.descriptor is not None else Phase.EXITED,
            started_at=self.record.started_at,
            exit_reason=self.exit_reason,
        )


class Processes:
    """All of one state folder. May be used from several threads."""

    def __init__(
        self, settings: Settings, sandbox: Sandbox, records: Records, output: Output
    ) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._records = records
        self._output = output
        self._lock = threading.RLock()
        self._known: dict[str, Known] = {}
        self._starting: dict[str, int] = {}
        """Replicas that are being started here → their uids."""
        self._started = threading.Condition(self._lock)
        """Told whenever one of them is started, or is not."""
        self._closed = False
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Rung when an end was seen by another call than ``wait``."""
        self._poll.register(self._bell, select.EPOLLIN)

    @contextlib.contextmanager
    def begin(self, id: str) -> Iterator[int]:
        """Around a start: a uid that no other replica has. Raises Unavailable."""
        with self._lock:
            if self._closed:
                raise Unavailable(f"{id} is not started: the controller is stopping")
            uid = self._free_uid()
            self._starting[id] = uid
        try:
            yield uid
        finally:
            with self._started:
                del self._starting[id]
                self._started.notify_all()

    def add(self, record: Record, process: Process) -> Instance:
        """One that was started here, and is written down."""
        with self._lock:
            known = Known(record, self._stamp(record.id), process)
            self._watch(known)
            self._known[record.id] = known
            return known.instance()

    def instances(self) -> list[Instance]:
        """All, with every end there was."""
        with self._lock:
            self._collect(0)
            self._refresh()
            return [known.instance() for known in self._known.values()]

    def running(self) -> list[Known]:
        with self._lock:
            self._refresh()
            return [known for known in self._known.values() if known.descriptor is not None]

    def get(self, id: str) -> Known | None:
        with self._lock:
            self._refresh()
            return self._known.get(id)

    def stopping(self, id: str) -> Process | None:
        """Notes that one is told to end; returns what it runs as, None if it does not."""
        with self._lock:
            known = self.get(id)
            if known is None or known.descriptor is None:
                return None
            if not known.record.stopping:
                known.record = msgspec.structs.replace(known.record, stopping=True)
                try:
                    self._records.replace(known.record)
                    known.stamp = self._stamp(id)
                except OSError as error:  # the disk is full: only a later controller asks again
                    log.warning("%s is told to end, but not noted: %s", id, error)
            return known.process

    def wait(self, timeout: float) -> None:
        """Until one ends, as far as nobody was told of it, for ``timeout`` seconds at most."""
        self._collect(max(timeout, 0))
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def forget(self, known: Known) -> None:
        with self._lock:
            self._let_go(known)
            if self._known.get(known.record.id) is known:
                del self._known[known.record.id]

    def close_starts(self) -> None:
        """None begins any more; those under way are waited for."""
        with self._started:
            self._closed = True
            self._started.wait_for(lambda: not self._starting, _CLOSE_SECONDS)

    def close(self) -> None:
        """Processes live on."""
        with self._lock:
            for known in list(self._known.values()):
                self.forget(known)
            self._poll.close()
            os.close(self._bell)

    def _refresh(self) -> None:
        """Makes the cache follow the folder; only new and changed documents are read."""
        seen = dict(self._records.scan())
        for id, known in list(self._known.items()):
            if seen.get(id) != known.stamp:
                self.forget(known)
        for id, stamp in seen.items():
            if id in self._known or id in self._starting:
                continue
            record = self._records.read(id)
            if record is None or record.process is None:
                continue
            known = Known(record, stamp, record.process)
            pipe = self._records.path(id) / "output"
            try:
                self._output.add(id, pipe, self._settings.logs / record.spec.function)
            except OSError as error:
                log.warning("what %s writes is lost: %s", id, error)
            self._watch(known)
            self._known[id] = known

    def _watch(self, known: Known) -> None:
        known.descriptor = open_process(known.process)
        if known.descriptor is None:
            self._ended(known)
            return
        self._poll.register(known.descriptor, select.EPOLLIN)
        if known.process.monitor and is_marked(known.process, marker(known.record.id)):
            with contextlib.suppress(OSError):  # it is gone, or watched by the cell's end alone
                known.monitor = os.pidfd_open(known.process.monitor)
                self._poll.register(known.monitor, select.EPOLLIN)
                return
        self._monitor_ended(known)

    def _collect(self, timeout: float) -> None:
        """Waits for an end, or for the bell, and notes down every end there was."""
        ready = {descriptor for descriptor, _ in self._poll.poll(timeout)} - {self._bell}
        with self._lock:
            for known in list(self._known.values()):
                # Looked at once more: a number may have been closed and given out meanwhile.
                if known.monitor in ready and ended(known.monitor, 0):
                    self._monitor_ended(known)
                elif known.descriptor in ready and ended(known.descriptor, 0):
                    self._ended(known)

    def _monitor_ended(self, known: Known) -> None:
        """The program has ended, and what it left running shall; or bubblewrap was killed alone."""
        self._let_go(known, monitor_only=True)
        if exit_status(self._status_file(known)) is not None:
            kill(known.process)
            self._ended(known)

    def _ended(self, known: Known) -> None:
        """Finds out how it ended: from bubblewrap, if that lived to tell."""
        self._let_go(known)
        status = reap(known.process)
        told = self._told(known)
        status = status if told is None else told
        group = self._sandbox.group(known.process)
        known.exit_reason = describe_exit(
            status, out_of_memory=group.out_of_memory() > 0, memory=known.record.memory
        )
        os.eventfd_write(self._bell, 1)

    def _told(self, known: Known) -> int | None:
        """The exit status by bubblewrap's word, which comes a moment after the end."""
        for _ in range(20):
            watching = is_marked(known.process, marker(known.record.id))
            status = exit_status(self._status_file(known))
            if status is not None or not watching:
                return status
            time.sleep(0.01)
        return None

    def _status_file(self, known: Known) -> Path:
        return self._records.path(known.record.id) / "status"

    def _let_go(self, known: Known, *, monitor_only: bool = False) -> None:
        """Closes the pidfds."""
        for descriptor in (known.monitor, None if monitor_only else known.descriptor):
            if descriptor is not None:
                with contextlib.suppress(OSError):  # it could not be registered
                    self._poll.unregister(descriptor)
                os.close(descriptor)
        known.monitor = None
        known.descriptor = known.descriptor if monitor_only else None

    def _free_uid(self) -> int:
        taken = {known.record.uid for known in self._known.values()} | set(self._starting.values())
        while True:
            uid = random.choice(UIDS)
            if uid not in taken:
                return uid

    def _stamp(self, id: str) -> tuple[int, int, int]:
        stat = (self._records.path(id) / "instance").stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
