"""Runs replicas as processes of this host, each in the sandbox.

    start:   document without process ── pipe, socket ── sandbox.start ── document with process
    end:     processes.py
    remove:  SIGKILL to the whole tree ── socket, control group, folder gone; the log stays

One provider a state folder. Whatever it holds in memory is a cache of the documents.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
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
    is_marked,
    kill_marked,
    marker,
    released,
    terminate,
)
from core.settings import Settings
from runtime.providers import Instance, always, never
from runtime.providers.cells import (
    IsQuiet,
    cell_of,
    held_to,
    memory_limit,
    nobody_is_quiet,
)
from runtime.providers.output import Output, make_pipe
from runtime.providers.processes import Processes
from runtime.providers.records import Record, Records
from runtime.providers.secretfolders import ReadSecrets, SecretFolders, no_secrets, read_all
from runtime.providers.usage import Reading, between, totals
from runtime.providers.warm import Warmth

log = logging.getLogger(__name__)

_BACKLOG = 1024
_SPAN = 1.0
"""Seconds over which CPU time is measured."""


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
        is_quiet: IsQuiet = nobody_is_quiet,
    ) -> None:
        """``key`` signs the documents.

        Raises:
            ConfigError: functions cannot be fenced in here (see Sandbox).
        """
        self._settings = settings
        self._sandbox = sandbox or Sandbox.from_settings(settings)
        self._read_secrets = read_secrets
        self._is_quiet = is_quiet
        self._secrets = SecretFolders(settings)
        self._records = Records(settings.instances, key)
        self._sockets = settings.run / "f"
        self._sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._output = Output(settings.function_log)
        self._processes = Processes(settings, self._sandbox, self._records, self._output)
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
        bundle = read_bundle(self._settings, spec.artifacts_of, spec.artifact)
        values = self._secret_values(spec)
        settings = held_to(self._settings, spec, self._is_quiet)
        id = f"{spec.function}-{spec.revision}-{secrets.token_hex(4)}"
        with self._processes.begin(id) as uid:
            record = Record(
                id=id,
                spec=spec,
                socket=str(self._sockets / f"{secrets.token_hex(8)}.sock"),
                uid=uid,
                memory=memory_limit(self._settings, spec),
                started_at=time.time(),
            )
            cell = cell_of(settings, spec, bundle, uid=uid, edge=self._edge())
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
                self._output.add(
                    record.id, folder / "output", self._settings.logs / record.spec.function
                )
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
            return self._processes.add(made[-1], process)
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
                found.append((spec, read_bundle(self._settings, spec.artifacts_of, spec.artifact)))
        self._warmth.prepare(found)
        self._prepared = asked

    def instances(self) -> Sequence[Instance]:
        return self._processes.instances()

    def process(self, instance: Instance) -> Process | None:
        """What an instance runs as, for who measures it."""
        known = self._processes.get(instance.id)
        return known.process if known else None

    def terminate(self, instance: Instance) -> None:
        if process := self._processes.stopping(instance.id):
            terminate(process)

    def pause(self, instance: Instance) -> None:
        raise NotSupported(f"{instance.id} is a process: it ends, and is started again")

    def resume(self, instance: Instance) -> None:
        """See Provider.resume: all run."""

    def remove(self, instance: Instance) -> None:
        """See Provider.remove.

        Raises:
            Unavailable: a process does not end; trying again can help.
        """
        known = self._processes.get(instance.id)
        if known is None:
            return
        self._sandbox.end(known.process)
        failpoints.at("old-ended")
        self._processes.forget(known)
        self._output.finish(instance.id)
        Path(known.record.socket).unlink(missing_ok=True)
        self._secrets.remove(instance.id)
        self._records.remove(instance.id)

    def wait(self, timeout: float) -> None:
        self._processes.wait(timeout)

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
        found = {}
        for known in self._processes.running():
            record, process = known.record, known.process
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
        self._processes.close_starts()
        self._warmth.close()
        self._output.close()
        self._processes.close()

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
        self._processes.running()  # all that is there is watched from now on

    def _was_released(self, record: Record, process: Process) -> bool:
        """Whether the program was let go, as far as it can be told: it is there, or has ended."""
        if not is_marked(process, marker(record.id)) or not alive(process):
            return True
        return released(process) or not alive(process)

    def _edge(self) -> str:
        """Where functions reach the edge; empty where they have no network."""
        if not self._sandbox.root or not self._sandbox.network.port:
            return ""
        return f"http://{self._sandbox.network.address}:{self._sandbox.network.port}"


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
