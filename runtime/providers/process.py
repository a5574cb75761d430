"""Runs replicas as processes of this host, each in the sandbox.

    start:   document without process ── pipe, socket ── sandbox.start ── document with process
    end:     pidfd tells ── exit reason from bubblewrap's status and the control group
    remove:  SIGKILL to the whole tree ── socket, control group, folder gone; the log stays

One provider a state folder. Whatever it holds in memory is a cache of the documents.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import msgspec

from core import disk, failpoints, logfiles
from core.bundle import PREFIX, discard_bundle, read_bundle
from core.errors import NotSupported, SlipwayError, Unavailable
from core.models import FunctionLogLine, FunctionSpec, Usage
from core.pruning import Answer
from core.sandbox import (
    SECRETS,
    Cell,
    Mount,
    Parent,
    Process,
    Sandbox,
    alive,
    describe_exit,
    ended,
    exit_status,
    is_marked,
    kill,
    kill_marked,
    marker,
    open_process,
    reap,
    released,
    terminate,
)
from core.settings import Settings
from runtime.providers import Instance, Phase, always, never
from runtime.providers.cells import UIDS, cell_of, memory_limit
from runtime.providers.output import Output, make_pipe
from runtime.providers.records import Record, Records
from runtime.providers.secretfolders import ReadSecrets, SecretFolders, no_secrets, read_all
from runtime.providers.usage import Reading, between, totals
from runtime.providers.warm import Warmth

log = logging.getLogger(__name__)

_BACKLOG = 1024
_CLOSE_SECONDS = 10.0
"""The longest that the end of this process waits for starts under way."""
_SPAN = 1.0
"""Seconds over which CPU time is measured."""


class _Known:
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


class ProcessProvider:
    """See runtime.providers.Provider."""

    name = "process"
    pauses = False

    def __init__(
        self,
        settings: Settings,
        key: bytes,
        sandbox: Sandbox | None = None,
        read_secrets: ReadSecrets = no_secrets,
    ) -> None:
        """``key`` signs the documents.

        Raises:
            ConfigError: functions cannot be fenced in here (see Sandbox).
        """
        self._settings = settings
        self._sandbox = sandbox or Sandbox.from_settings(settings)
        self._read_secrets = read_secrets
        self._secrets = SecretFolders(settings)
        self._records = Records(settings.instances, key)
        self._sockets = settings.run / "f"
        self._sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._output = Output(settings.function_log)
        self._lock = threading.RLock()
        self._known: dict[str, _Known] = {}
        self._starting: dict[str, int] = {}
        """Replicas that are being started here → their uids."""
        self._started = threading.Condition(self._lock)
        """Told whenever one of them is started, or is not."""
        self._closed = False
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Rung when an end was seen by another call than ``wait``."""
        self._poll.register(self._bell, select.EPOLLIN)
        self._recover()
        self._warmth = Warmth(settings, self._sandbox)
        self._prepared: frozenset[tuple[str, str]] = frozenset()
        """Artifacts for whose functions there are parents."""

    def start(
        self,
        spec: FunctionSpec,
        stop: Callable[[], bool] = never,  # noqa: ARG002 - the interface: nothing here is slow
    ) -> Instance:
        """Starts one replica; see Provider.start.

        Raises:
            InvalidRequest: a limit or a variable that cannot be.
            NotSupported: an image that was not built here.
        """
        if spec.foreign:
            raise NotSupported(
                f"{spec.function} is the image {spec.artifact[:120]}, and this installation runs "
                "functions as processes, without images: set SLIPWAY_RUNTIME=docker, or push its "
                "source"
            )
        bundle = read_bundle(self._settings, spec.namespace, spec.artifact)
        values = self._secret_values(spec)
        id = f"{spec.function}-{spec.revision}-{secrets.token_hex(4)}"
        with self._lock:
            if self._closed:
                raise Unavailable(f"{spec.function} is not started: the controller is stopping")
            uid = self._free_uid()
            self._starting[id] = uid
        try:
            record = Record(
                id=id,
                spec=spec,
                socket=str(self._sockets / f"{secrets.token_hex(8)}.sock"),
                uid=uid,
                memory=memory_limit(self._settings, spec),
                started_at=time.time(),
            )
            cell = cell_of(self._settings, spec, bundle, uid=uid, edge=self._edge())
            parent = self._warmth.parent(spec, bundle, cell)
            self._records.create(record)
            failpoints.at("document-written")
            try:
                return self._start(record, self._with_secrets(cell, record, values), parent)
            except BaseException:
                self._output.finish(id)
                Path(record.socket).unlink(missing_ok=True)
                self._secrets.remove(id)
                self._records.remove(id)
                raise
        finally:
            with self._started:
                del self._starting[id]
                self._started.notify_all()

    def _secret_values(self, spec: FunctionSpec) -> Mapping[str, bytes]:
        """Raises NotSupported: without a sandbox there is no place that is the function's alone."""
        if spec.secrets and self._sandbox.refused:
            raise NotSupported(
                f"{spec.function} wants secrets, and they are kept from others by the sandbox, "
                f"which this host does not have: {self._sandbox.refused}"
            )
        return read_all(self._read_secrets, spec)

    def _with_secrets(self, cell: Cell, record: Record, values: Mapping[str, bytes]) -> Cell:
        if not values:
            return cell
        if not self._sandbox.root:
            return replace(cell, secrets=values)
        folder = self._secrets.make(record.id, values, record.uid, record.uid)
        return replace(cell, mounts=[*cell.mounts, Mount(folder, SECRETS)])

    def _start(self, record: Record, cell: Cell, parent: Parent | None) -> Instance:
        folder = self._records.path(record.id)
        made: list[Record] = []

        def keep(process: Process) -> None:
            made.append(msgspec.structs.replace(record, process=process))
            self._records.replace(made[-1])

        with contextlib.ExitStack() as held:
            try:
                listener = held.enter_context(_listen(record.socket))
                output = make_pipe(folder / "output")
                held.callback(os.close, output)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                status = os.open(folder / "status", flags, 0o600)
                held.callback(os.close, status)
                self._output.add(record.id, folder / "output", self._log_folder(record))
            except OSError as error:
                raise Unavailable(f"{record.id} cannot be started: {error}") from error
            process = self._sandbox.start(
                cell,
                record.id,
                output=output,
                listener=listener.fileno(),
                status=status,
                record=keep,
                parent=parent,
            )
        try:
            with self._lock:
                known = _Known(made[-1], _stamp(folder), process)
                self._watch(known)
                self._known[record.id] = known
                return known.instance()
        except BaseException:  # it runs already, and without its document nobody would find it
            self._sandbox.end(process)
            raise

    def prepare(self, specs: Collection[FunctionSpec]) -> None:
        asked = frozenset((each.namespace, each.artifact) for each in specs)
        if asked == self._prepared:
            return
        found = []
        for spec in specs:
            with contextlib.suppress(SlipwayError, OSError):  # a start will say it
                found.append((spec, read_bundle(self._settings, spec.namespace, spec.artifact)))
        self._warmth.prepare(found)
        self._prepared = asked

    def instances(self) -> Sequence[Instance]:
        with self._lock:
            self._collect(0)
            self._refresh()
            return [known.instance() for known in self._known.values()]

    def process(self, instance: Instance) -> Process | None:
        """What an instance runs as, for who measures it."""
        with self._lock:
            known = self._known.get(instance.id)
        return known.process if known else None

    def terminate(self, instance: Instance) -> None:
        with self._lock:
            self._refresh()
            known = self._known.get(instance.id)
            if known is None or known.descriptor is None:
                return
            if not known.record.stopping:
                known.record = msgspec.structs.replace(known.record, stopping=True)
                try:
                    self._records.replace(known.record)
                    known.stamp = _stamp(self._records.path(instance.id))
                except OSError as error:  # the disk is full: only a later controller asks again
                    log.warning("%s is told to end, but not noted: %s", instance.id, error)
        terminate(known.process)

    def pause(self, instance: Instance) -> None:
        raise NotSupported(f"{instance.id} is a process: it ends, and is started again")

    def resume(self, instance: Instance) -> None:
        """See Provider.resume: all run."""

    def remove(self, instance: Instance) -> None:
        """See Provider.remove.

        Raises:
            Unavailable: a process does not end; trying again can help.
        """
        with self._lock:
            self._refresh()
            known = self._known.get(instance.id)
        if known is None:
            return
        self._sandbox.end(known.process)
        failpoints.at("old-ended")
        with self._lock:
            self._forget(known)
        self._output.finish(instance.id)
        Path(known.record.socket).unlink(missing_ok=True)
        self._secrets.remove(instance.id)
        self._records.remove(instance.id)

    def wait(self, timeout: float) -> None:
        self._collect(max(timeout, 0))
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def logs(self, function: str, *, tail: int = 0, since: str = "") -> Iterator[FunctionLogLine]:
        after = datetime.fromisoformat(since) if since else None
        lines = logfiles.function_lines(self._settings.logs / function, after)
        yield from deque(lines, maxlen=tail) if tail else lines

    def usage(self, functions: Collection[str]) -> Mapping[str, Usage]:
        before = self._readings(functions)
        if not before:
            return {}
        time.sleep(_SPAN)
        return totals(
            (function, between(before.get((id, function), last), last))
            for (id, function), last in self._readings(functions).items()
        )

    def _readings(self, functions: Collection[str]) -> dict[tuple[str, str], Reading]:
        """By id and function."""
        with self._lock:
            self._refresh()
            running = [known for known in self._known.values() if known.descriptor is not None]
        found = {}
        for record, process in ((each.record, each.process) for each in running):
            if record.spec.function in functions:
                at, used = time.monotonic(), self._sandbox.group(process).used()
                if used:
                    found[record.id, record.spec.function] = Reading(at, *used)
        return found

    def mend(self) -> None:
        self._sandbox.network.mend()

    def stray(
        self,
        build_keys: Collection[str],  # noqa: ARG002 - the interface's
    ) -> Iterable[tuple[str, str]]:
        return []  # bundles lie in the state folder

    def discard(self, namespace: str, artifact: str, unneeded: Callable[[], bool] = always) -> None:
        if all(each.spec.artifact != artifact for each in self.instances()):
            discard_bundle(self._settings, namespace, artifact, unneeded)

    def weigh(self, artifact: str) -> int:
        """See Provider.weigh: of all owners, as one may be several's."""
        folders = self._settings.bundles.glob(f"*/{artifact.removeprefix(PREFIX)}")
        return sum(map(disk.usage, folders))

    def tidy(
        self,
        needed: Collection[str],  # noqa: ARG002 - the interface's
        grace: float,  # noqa: ARG002
        *,
        dry: bool = False,  # noqa: ARG002
    ) -> Answer:
        """See Provider.tidy: nothing is fetched."""
        return Answer()

    def disks(self) -> Sequence[Path]:
        return []  # all of it lies in the state folder

    def enforced(self) -> dict[str, str]:
        bound = self._settings.function_log
        return {**self._sandbox.enforced(), "log": f"the last {bound} bytes of each function"}

    def close(self) -> None:
        with self._started:
            self._closed = True
            self._started.wait_for(lambda: not self._starting, _CLOSE_SECONDS)
        self._warmth.close()
        self._output.close()
        with self._lock:
            for known in list(self._known.values()):
                self._forget(known)
            self._poll.close()
            os.close(self._bell)

    def _recover(self) -> None:
        """Ends what an earlier provider had begun to start when it was killed."""
        self._records.clear_halves()
        for id, _ in list(self._records.scan()):
            record = self._records.read(id)
            if record is None or (record.process and self._was_released(record, record.process)):
                continue
            log.info("%s was being started when Slipway was killed: ended", id)
            kill_marked(marker(id))
            self._sandbox.cgroups.named(id).remove()
            if record.process:
                self._sandbox.group(record.process).remove()
            Path(record.socket).unlink(missing_ok=True)
            self._records.remove(id)
        self._sandbox.end_parents()
        self._secrets.keep_only(lambda id: self._records.path(id).exists())
        with self._lock:
            self._refresh()

    def _was_released(self, record: Record, process: Process) -> bool:
        """Whether the program was let go, as far as it can be told: it is there, or has ended."""
        if not is_marked(process, marker(record.id)) or not alive(process):
            return True
        return released(process) or not alive(process)

    def _refresh(self) -> None:
        """Makes the cache follow the folder; only new and changed documents are read."""
        seen = dict(self._records.scan())
        for id, known in list(self._known.items()):
            if seen.get(id) != known.stamp:
                self._forget(known)
        for id, stamp in seen.items():
            if id in self._known or id in self._starting:
                continue
            record = self._records.read(id)
            if record is None or record.process is None:
                continue
            known = _Known(record, stamp, record.process)
            pipe = self._records.path(id) / "output"
            try:
                self._output.add(id, pipe, self._log_folder(record))
            except OSError as error:
                log.warning("what %s writes is lost: %s", id, error)
            self._watch(known)
            self._known[id] = known

    def _watch(self, known: _Known) -> None:
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

    def _monitor_ended(self, known: _Known) -> None:
        """The program has ended, and what it left running shall; or bubblewrap was killed alone."""
        self._let_go(known, monitor_only=True)
        if exit_status(self._status_file(known)) is not None:
            kill(known.process)
            self._ended(known)

    def _ended(self, known: _Known) -> None:
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

    def _told(self, known: _Known) -> int | None:
        """The exit status by bubblewrap's word, which comes a moment after the end."""
        for _ in range(20):
            watching = is_marked(known.process, marker(known.record.id))
            status = exit_status(self._status_file(known))
            if status is not None or not watching:
                return status
            time.sleep(0.01)
        return None

    def _status_file(self, known: _Known) -> Path:
        return self._records.path(known.record.id) / "status"

    def _let_go(self, known: _Known, *, monitor_only: bool = False) -> None:
        """Closes the pidfds."""
        for descriptor in (known.monitor, None if monitor_only else known.descriptor):
            if descriptor is not None:
                with contextlib.suppress(OSError):  # it could not be registered
                    self._poll.unregister(descriptor)
                os.close(descriptor)
        known.monitor = None
        known.descriptor = known.descriptor if monitor_only else None

    def _forget(self, known: _Known) -> None:
        self._let_go(known)
        if self._known.get(known.record.id) is known:
            del self._known[known.record.id]

    def _free_uid(self) -> int:
        taken = {known.record.uid for known in self._known.values()} | set(self._starting.values())
        while True:
            uid = random.choice(UIDS)
            if uid not in taken:
                return uid

    def _edge(self) -> str:
        """Where functions reach the edge; empty where they have no network."""
        if not self._sandbox.root or not self._sandbox.network.port:
            return ""
        return f"http://{self._sandbox.network.address}:{self._sandbox.network.port}"

    def _log_folder(self, record: Record) -> Path:
        return self._settings.logs / record.spec.function


def _listen(path: str) -> socket.socket:
    """Binds a replica's socket: only the user that we and the edge are may connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)  # in a folder of mode 0700
        Path(path).chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _stamp(folder: Path) -> tuple[int, int, int]:
    stat = (folder / "instance").stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
