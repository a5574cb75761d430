"""Which containers are ours and what they do: a cache that the engine's events keep.

All of it is read from the engine at start, after every loss of the connection, and every half
minute; in between single containers are looked at when something happened to them. While the engine
is away nothing is known: whoever asks is told so, and never that there is nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from core.errors import NotFound, SlipwayError, Unavailable
from core.models import FunctionSpec
from core.sandbox import describe_exit
from engine import stream
from engine.client import Engine
from runtime.providers import Instance, Phase
from runtime.providers.docker.document import Document, ours, read

log = logging.getLogger(__name__)

_ALL_EVERY = 30.0
_SOON = 0.5
"""Seconds until a look at all where an event does not tell enough."""
_TICK = 1.0
_AGAIN = 0.5
"""Seconds between two tries to reach an engine that is away."""
_FIRST = 15.0
"""Seconds that whoever asks first waits for the engine's answer."""
_REMEMBER = 300.0
_KILLED = "137"
"""Exit status of a container that SIGKILL ended, as events tell it."""
_NOT_RUN = (126, 127)
"""Exit statuses of a container whose program could not be run."""
_EVENTS = {
    "type": ["container", "network"],
    "event": ["start", "die", "oom", "destroy", "rename", "disconnect", "pause", "unpause"],
}


@dataclass
class Known:
    """One of our containers."""

    document: Document
    container: str = ""
    """The engine's id; '' while it is being created."""
    started: bool = False
    """Only these are told of."""
    doomed: bool = False
    """Its start failed and it could not be removed: that is tried again."""
    stopping: bool = False
    paused: bool = False
    ending: bool = False
    """It is being removed: what happens to it is no news."""
    out_of_memory: bool = False
    exit_reason: str | None = None
    """None: it runs, and can be reached."""
    dead: bool = False
    """It really has ended; one that lost its network counts as ended and runs on."""
    _told: Instance | None = field(default=None, repr=False)

    def instance(self) -> Instance:
        phase = Phase.PAUSED if self.paused else Phase.RUNNING
        phase = Phase.STOPPING if self.stopping else phase
        phase = phase if self.exit_reason is None else Phase.EXITED
        reason = self.exit_reason or ""
        told = self._told
        if told is None or (told.phase, told.exit_reason) != (phase, reason):
            told = self._told = Instance(
                id=self.document.id,
                spec=self.document.spec,
                address=self.document.address,
                phase=phase,
                started_at=self.document.started_at,
                exit_reason=reason,
            )
        return told


class Containers:
    """The cache and the thread that keeps it.

    ``found`` is called, in that thread, with each container that an earlier process started,
    ``ended`` with each that has ended; ``gone`` with each that is no more, by whichever thread.
    """

    def __init__(
        self,
        engine: Engine,
        key: bytes,
        mark: str,
        *,
        stopping: Callable[[str], bool],
        found: Callable[[Known], None],
        ended: Callable[[Known], None],
        gone: Callable[[Known], None],
        tick: Callable[[], None],
    ) -> None:
        """``stopping``: whether a container was told to end by an earlier process. ``tick`` is
        called about every second while the engine is there."""
        self._engine = engine
        self._key = key
        self._mark = mark
        self._was_told = stopping
        self._found = found
        self._ended = ended
        self._forgotten = gone
        self._tick = tick
        self._changed = threading.Condition()
        self._known: dict[str, Known] = {}
        self._gone: dict[str, float] = {}
        """Ids of those that are no more → since when: an answer under way may still name them."""
        self._away = ""
        """Why nothing is known; empty: all is."""
        self._read_once = False
        self._ends = self._seen_ends = 0
        self._closed = False
        self._soon = 0.0
        """When all is looked at next, monotonic."""
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="engine-events", daemon=True)
        self._thread.start()

    # What is known.

    def instances(self) -> list[Instance]:
        """Raises Unavailable: the engine is away."""
        with self._changed:
            self._require()
            return [known.instance() for known in self._known.values() if known.started]

    def get(self, id: str) -> Known | None:
        """Raises Unavailable: the engine is away."""
        with self._changed:
            self._require()
            return self._known.get(id)

    def image_of(self, spec: FunctionSpec) -> str:
        """The foreign image that a replica of this revision has; '' where there is none.

        Raises:
            Unavailable: the engine is away.
        """
        if not spec.foreign:
            return ""
        with self._changed:
            self._require()
            documents = [known.document for known in self._known.values()]
        same = (
            each.image
            for each in documents
            if (each.spec.function, each.spec.revision) == (spec.function, spec.revision)
        )
        return next(same, "")

    def wait(self, timeout: float) -> None:
        """Returns when one has ended, or the engine came or went, since the last call."""
        with self._changed:
            self._changed.wait_for(lambda: self._ends != self._seen_ends or self._closed, timeout)
            self._seen_ends = self._ends

    def lost(self, reason: str) -> None:
        """The engine did not answer someone: nothing is known until it does."""
        with self._changed:
            if not self._away:
                self._away = reason
                self._ring()
        self._look_soon(0.0)

    def running(self) -> list[Known]:
        """Those whose output comes; none while the engine is away."""
        with self._changed:
            if self._away:
                return []
            return [
                each for each in self._known.values() if each.started and each.exit_reason is None
            ]

    def strand(self) -> None:
        """All that run now lost their connection with their network."""
        for known in self.running():
            self._strand(known)

    # What this process does itself.

    def reserve(self, make: Callable[[Collection[str], Collection[int]], Document]) -> Known:
        """Takes note of a container that is going to be created. ``make`` is given the addresses
        and users that are taken."""
        with self._changed:
            self._require()
            documents = [known.document for known in self._known.values()]
            document = make({each.ip for each in documents}, {each.uid for each in documents})
            known = self._known[document.id] = Known(document)
            return known

    def started(self, known: Known) -> Instance:
        """It runs, or has ended already."""
        with self._changed:
            known.started = True
            if known.exit_reason is not None:
                self._ring()
            return known.instance()

    def drop(self, known: Known) -> None:
        """It is no more."""
        with self._changed:
            self._drop(known)

    # The thread.

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        os.write(self._waker, b"x")
        self._thread.join()
        os.close(self._wake)
        os.close(self._waker)

    def _run(self) -> None:
        while not self._closed:
            try:
                self._follow()
            except SlipwayError as error:
                self._lose(str(error))
            except Exception:
                log.exception("the engine's events cannot be followed")
                self._lose("internal error while the engine's events were read")
            if not self._closed:
                select.select([self._wake], [], [], _AGAIN)

    def _follow(self) -> None:
        """Reads events until the connection is lost; raises Unavailable then."""
        with self._engine.asking("the engine's events cannot be read") as api:
            version = api.api_version
        query = {"filters": json.dumps(_EVENTS)}
        with contextlib.closing(
            stream.request(self._engine.url, version, "/events", query)
        ) as sock:
            self._look()  # after the events are asked for, so that nothing is missed
            head, rest, ticked = stream.Head(), b"", time.monotonic()
            while not self._closed:
                patience = min(max(self._soon - time.monotonic(), 0.0), _TICK)
                ready, _, _ = select.select([sock.fileno(), self._wake], [], [], patience)
                if self._wake in ready:
                    self._drain_wake()
                if sock.fileno() in ready:
                    data = sock.recv(65536)
                    if not data:
                        raise Unavailable(f"the Docker engine at {self._engine.url} went away")
                    *lines, rest = (rest + head.strip(data)).split(b"\n")
                    for line in lines:
                        if line.strip():
                            self._event(json.loads(line))
                if time.monotonic() >= self._soon:
                    self._look()
                if time.monotonic() - ticked >= _TICK:
                    ticked = time.monotonic()
                    self._tick()

    def _event(self, event: dict[str, Any]) -> None:
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        network = event.get("Type") == "network"
        container = attributes.get("container", "") if network else actor.get("ID", "")
        with self._changed:
            known = next((k for k in self._known.values() if k.container == container), None)
        if known is None or not container:
            return
        match event.get("Action"):
            case "pause" | "unpause" as action:  # by us, or by hand
                known.paused = action == "pause"
            case "oom":
                known.out_of_memory = True
            case "die" if not known.ending:
                status = attributes.get("exitCode")
                if status == _KILLED and not known.out_of_memory:
                    self._look_soon(_SOON)  # a busy engine hears of a memory limit after the end
                else:
                    self._note_end(known, status)
            case "destroy":
                with self._changed:
                    if not known.ending:
                        log.warning("%s was removed by another program", known.document.id)
                    self._drop(known)
            case "disconnect" | "rename":
                if not known.ending and known.exit_reason is None:
                    self._look_soon(_SOON)  # most often it has just ended

    def _look(self) -> None:
        """Reads all of ours from the engine and makes the cache follow it.

        Raises:
            Unavailable: the engine does not answer.
        """
        with self._changed:
            # Those that are being started need not be in the answer yet.
            before = [each for each in self._known.values() if each.started or each.doomed]
        self._soon = time.monotonic() + _ALL_EVERY
        with self._engine.asking("the containers cannot be listed") as api:
            listed = api.containers(all=True, filters={"label": ours(self._mark)})
        seen = set()
        for each in listed:
            document = read(self._key, self._mark, each["Names"] or (), each["Labels"] or {})
            if document is not None and each["State"] != "removing":
                seen.add(document.id)
                self._meet(document, each)
        with self._changed:
            for known in before:
                if known.document.id not in seen:
                    self._drop(known)
            now = time.monotonic()
            self._gone = {id: at for id, at in self._gone.items() if now - at < _REMEMBER}
            if self._away or not self._read_once:
                if self._away and self._read_once:
                    log.info("the Docker engine answers again")
                self._away, self._read_once = "", True
                self._ring()

    def _meet(self, document: Document, listed: dict[str, Any]) -> None:
        """One container as the engine lists it."""
        with self._changed:
            known = self._known.get(document.id)
            if known is None:
                if document.id in self._gone:
                    return
                if listed["State"] == "created":  # an earlier process was killed at its start
                    known = Known(document, listed["Id"], doomed=True)
                else:
                    stopping = self._was_told(document.id)
                    known = Known(document, listed["Id"], started=True, stopping=stopping)
                self._known[document.id] = known
                fresh = True
            else:
                fresh = False
        if known.doomed:
            self._remove(known)
            return
        if fresh:
            self._found(known)
        if not known.started or known.ending:
            return
        if fresh or self._away:  # else events tell: what was listed may be over by now
            known.paused = listed["State"] == "paused"
        if listed["State"] in ("exited", "dead"):
            self._note_end(known, None)
        elif not _connected(document, listed):
            self._strand(known)

    def _note_end(self, known: Known, told: str | None) -> None:
        """It has ended; ``told``: its exit status, if an event had it."""
        if known.dead:
            return
        status = int(told) if told and told.isdecimal() else None
        out_of_memory = known.out_of_memory
        try:
            with self._engine.asking("") as api:
                state = api.inspect_container(known.container)["State"]
            out_of_memory |= bool(state.get("OOMKilled"))
            status = int(state["ExitCode"]) if status is None else status
        except NotFound:
            pass
        reason = describe_exit(status, out_of_memory=out_of_memory, memory=known.document.memory)
        if known.document.spec.foreign and status in _NOT_RUN:
            reason += f" ({self._why_not_run(known)})"
        with self._changed:
            known.dead = True
            if known.exit_reason is None:
                known.exit_reason = reason
                if known.started:
                    self._ring()
        self._ended(known)

    def _why_not_run(self, known: Known) -> str:
        """Why the program of an image may not have run: its init tells no more than a status."""
        told = "its ENTRYPOINT or CMD is not in the image, or is no program that can be run"
        with contextlib.suppress(SlipwayError), self._engine.asking("") as api:
            wanted = api.inspect_image(known.document.image).get("Architecture")
            here = api.version()["Arch"]
            if wanted and wanted != here:
                told = f"the image is for {wanted}, and this machine is {here}"
        return told

    def _remove(self, known: Known) -> None:
        """Removes what was left half-made; what cannot be removed now is met again."""
        with contextlib.suppress(SlipwayError):
            with contextlib.suppress(NotFound), self._engine.asking("") as api:
                api.remove_container(known.container, v=True, force=True)
            log.info("%s was being started and is none: removed", known.document.id)
            with self._changed:
                self._drop(known)

    def _strand(self, known: Known) -> None:
        with self._changed:
            if known.exit_reason is None:
                known.exit_reason = "lost its network: another program took it away"
                self._ring()

    def _lose(self, reason: str) -> None:
        if self._closed:
            return
        with self._changed:
            if not self._away:
                self._away = reason
                self._ring()

    def _look_soon(self, seconds: float) -> None:
        self._soon = min(self._soon, time.monotonic() + seconds)
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"x")

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)

    # With self._changed held.

    def _require(self) -> None:
        if not self._read_once:
            self._changed.wait_for(lambda: self._read_once or self._away or self._closed, _FIRST)
        if self._away or not self._read_once:
            raise Unavailable(
                f"which functions run is not known now: {self._away or 'no answer yet'}"
            )

    def _drop(self, known: Known) -> None:
        if self._known.pop(known.document.id, None) is not None:
            self._gone[known.document.id] = time.monotonic()
            if known.started and not known.ending:
                self._ring()
            self._forgotten(known)

    def _ring(self) -> None:
        self._ends += 1
        self._changed.notify_all()


def _connected(document: Document, listed: dict[str, Any]) -> bool:
    """Whether a running container still has the address of its document."""
    networks = ((listed.get("NetworkSettings") or {}).get("Networks") or {}).values()
    return any((each or {}).get("IPAddress") == document.ip for each in networks)
