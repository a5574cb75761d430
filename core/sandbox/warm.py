"""Warm parents from outside: started in bubblewrap once, asked to fork a cell many times.

    Parent(...)   bubblewrap ── parent.py imports what cells begin with ── WARM
    ahead         control group made ── a child joins it, makes its namespaces ── SPARE
    fork          the group's limits ── the cell's document, mounts, network, socket ── READY
                  write down what was started (``record``); it takes its user and its filter
                  GO ─────────────────────────────────────────► the program

The order is launch.py's: bounds first, then the document, then the program. Mounts travel as
descriptors of detached ones, so a parent never has an owner's files in sight. Whatever fails before
GO is ``Unforkable``, and leaves nothing: the caller starts the cell in bubblewrap. Killed before
READY, we leave a child that ends itself; after it, one that waits under the cell's name, which
``kill_marked`` ends. Parents end with us, for their socket does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.cgroup import Cgroup, Cgroups
from core.errors import Unavailable
from core.sandbox import bwrap, seccomp
from core.sandbox.cell import Cell, Mount, Process
from core.sandbox.forks import child, kernel, parent
from core.sandbox.interpreters import BIN, interpreters
from core.sandbox.launch import (
    GOES_FIRST,
    START_TIMEOUT,
    Launcher,
    Wiring,
    marker,
    memory_file,
)
from core.sandbox.outlets import Outlet, Outlets
from core.sandbox.process import (
    WARM,
    boot_id,
    ended,
    kill,
    kill_called,
    reap_child,
    spawn,
    start_time,
)

log = logging.getLogger(__name__)

GROUP, FORKED = "warm-", "forked-"
"""How the names of control groups begin: of parents, and of what they forked."""
SPARES = 1
"""Children that a parent has forked ahead: joining a control group takes until the kernel's next
grace period, 7 ms (cgroup_threadgroup_rwsem), its forks and namespaces 4 more. Each takes 10 MB."""
_MEMORY, _CPUS, _PIDS = 256 * 2**20, 1.0, 64
"""Bounds of one parent; a child is in its own control group from its first instructions on."""
_QUIET = 0.2
"""Seconds after a fork in which none is forked ahead: while a process joins a control group, others
of the whole machine cannot fork, nor begin a thread."""
_WARM_TIMEOUT = 60.0
_AGAIN = 5.0
"""Seconds after which forking ahead is tried again."""
_COVERED = ("/tmp/", "/run/", "/proc/", "/dev/")
"""What every child mounts anew: nothing that it still needs may lie below."""
_ROOM = 300
"""Bytes for a name: more than an instance's id has."""
_CREDENTIALS = struct.Struct("=iII")
"""struct ucred of unix(7): pid, uid, gid."""


class Unforkable(Exception):
    """Nothing was forked, for this reason; nothing of the cell runs."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """What a parent is made of; all of it trusted, as root imports it."""

    argv: Sequence[str]
    """As its cells have it: the interpreter's name, a file in ``cwd``."""
    cwd: str
    env: Mapping[str, str]
    """What the interpreter reads at its start; its cells have the same of these."""
    imports: Sequence[str]
    """Modules."""
    rehearsal: str = ""
    """A module whose ``rehearse`` is given ``adapt`` of the program's file, in each process that is
    forked ahead; empty: none."""
    mounts: Sequence[Mount]
    places: Sequence[str]
    """Where its cells may have mounts."""


class Parent:
    """One warm parent. ``fork`` may be called from several threads."""

    def __init__(
        self, seed: Seed, name: str, mark: str, launcher: Launcher, outlets: Outlets | None = None
    ) -> None:
        """Starts it and waits until it is warm, about 0.3 s. ``name``: unique in the installation
        ``mark``; ``outlets``: where its cells' networks come from, if they are to be ready.

        Raises:
            Unforkable: it cannot be made here.
        """
        self._launcher = launcher
        self._outlets = outlets
        for _, target in interpreters().binds:
            if target.startswith(_COVERED):
                raise Unforkable(f"the interpreter lies in {target}, which is covered in cells")
        try:
            self._group = launcher.cgroups.create(
                f"{GROUP}{name}", memory=_MEMORY, cpus=_CPUS, pids=_PIDS
            )
        except Unavailable as error:
            raise Unforkable(str(error)) from error
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said, says = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._monitor = 0
        self._lives = -1
        self._changed = threading.Condition()
        self._spares: list[_Spare] = []
        self._closed = False
        self._hangs = False
        self._keeper = threading.Thread(target=self._keep_spares, name=f"warm-{name}", daemon=True)
        try:
            try:
                wires = _Wires(theirs.fileno(), says, self._group)
                self._monitor = _spawn(seed, f"{WARM}{mark}:{name}", launcher.program, wires)
            finally:
                theirs.close()
                os.close(says)
            self._lives = os.pidfd_open(self._monitor)
            self._await_warm()
            self._keeper.start()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | Unavailable):
                raise Unforkable(str(error)) from error
            raise

    def fork(
        self, cell: Cell, name: str, wiring: Wiring, record: Callable[[Process], None]
    ) -> Process:
        """Forks a cell into a control group of its own; ``record`` is called before it runs.

        Raises:
            Unforkable: nothing runs, and nothing is left.
            Unavailable: cells have no network now.
        """
        network = self._launcher.network
        wanted = cell.network == "egress" and network.exists()
        with contextlib.ExitStack() as held:
            outlet = self._outlets.take() if wanted and self._outlets else None
            if outlet:
                held.callback(outlet.close)
            spare = self._spare()
            held.callback(spare.hang_up)
            try:
                self._launcher.cgroups.bound(
                    spare.group, memory=cell.memory, cpus=cell.cpus, pids=cell.pids + 1
                )
                program = spare.become(*self._document(cell, name, wiring, outlet, held))
                address = outlet.address if outlet else ""
                if wanted and not outlet:
                    address = network.attach(program)
                process = spare.process(address)
                record(process)
                spare.release()
            except BaseException as error:
                spare.end()
                if isinstance(error, _Ended):
                    raise Unforkable(f"{error}; {self.last_words()}") from error
                raise
        return process

    @property
    def broken(self) -> bool:
        """Whether it has ended, or hangs: it forks no more."""
        return self._hangs or self._monitor == 0 or ended(self._lives, 0)

    def last_words(self) -> str:
        """What it wrote and nobody has read yet, for people."""
        with contextlib.suppress(OSError):  # also of a parent that is closed
            if said := os.read(self._said, 65536).decode(errors="replace").strip():
                return f"the parent said: {said[-1000:]}"
        return "the parent said nothing"

    def close(self) -> None:
        """Ends it; cells live on. May be repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        if self._monitor:
            for pid in self._group.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reap_child(self._monitor)
            self._monitor = 0
        if self._keeper.is_alive():
            self._keeper.join()
        while self._spares:
            self._spares.pop().end()
        open_ = [self._said, self._lives]
        self._said = self._lives = -1  # first: numbers are given out again
        for descriptor in open_:
            if descriptor >= 0:
                os.close(descriptor)
        self._group.remove()

    def _await_warm(self) -> None:
        self._control.settimeout(_WARM_TIMEOUT)
        with contextlib.suppress(OSError):
            if self._control.recv(16) == parent.WARM:
                self._control.settimeout(START_TIMEOUT)
                return
        raise Unforkable(f"it did not become warm; {self.last_words()}")

    def _document(
        self,
        cell: Cell,
        name: str,
        wiring: Wiring,
        outlet: Outlet | None,
        held: contextlib.ExitStack,
    ) -> tuple[bytes, list[int]]:
        """What a child is told of its cell, and the descriptors that go with it."""
        descriptors = {"output": wiring.output}
        if wiring.listener is not None:
            descriptors["listener"] = wiring.listener
        if wiring.status is not None:
            descriptors["status"] = wiring.status
        if outlet:
            descriptors["network"] = outlet.namespace
        for mount in cell.mounts:
            try:
                tree = kernel.detached_mount(str(mount.source))
            except OSError as error:
                raise _Ended(str(error)) from error
            held.callback(os.close, tree)
            descriptors[mount.target] = tree
        if cell.uid is None:
            raise _Ended("the cell has no user: it would have root's")
        uid = cell.uid
        names = self._launcher.network.nameservers if cell.network == "egress" else ()
        told = {
            "title": marker(name),
            "uid": uid,
            "hostname": cell.hostname,
            "env": {"PWD": cell.cwd, **cell.env},
            "cwd": cell.cwd,
            "tmp_size": cell.tmp_size,
            "files": bwrap.etc(uid, cell.hostname, names),
            "limits": self._launcher.limits(cell),
            "oom_score_adj": GOES_FIRST,
            "mounts": [mount.target for mount in cell.mounts],
            "descriptors": list(descriptors),
        }
        return json.dumps(told).encode(), list(descriptors.values())

    def _spare(self) -> _Spare:
        """A child that waits for its cell: one that was forked ahead, else a new one. Raises
        Unforkable."""
        with self._changed:
            spare = self._spares.pop() if self._spares else None
            self._changed.notify()
        return spare or self._new_spare(parent.FORK)

    def _new_spare(self, how: bytes) -> _Spare:
        cgroups = self._launcher.cgroups
        try:
            group = cgroups.make(f"{FORKED}{secrets.token_hex(8)}")
        except Unavailable as error:
            raise Unforkable(str(error)) from error
        asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with contextlib.ExitStack() as held:
                held.callback(theirs.close)
                asked.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                asked.settimeout(START_TIMEOUT)
                sent = [theirs.fileno()]
                for folder in group.folders:
                    sent.append(_procs(folder))
                    held.callback(os.close, sent[-1])
                socket.send_fds(self._control, [how], sent)
            return _Spare(asked, group, *_hear(asked, child.SPARE))
        except BaseException as error:
            self._hangs |= isinstance(error, TimeoutError | _Silent)
            asked.close()
            group.remove()
            if isinstance(error, OSError | _Ended):
                raise Unforkable(f"{error}; {self.last_words()}") from error
            raise

    def _keep_spares(self) -> None:
        """A thread: forks ahead, and again whenever one was taken."""
        told = ""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._spares) < SPARES)
                while not self._closed and self._changed.wait(_QUIET):
                    pass  # one more was taken
                if self._closed:
                    return
            try:
                spare = self._new_spare(parent.AHEAD)
            except Unforkable as error:
                if str(error) != told:
                    log.warning("no child is forked ahead: %s", error)
                told = str(error)
                if self.broken:
                    return
                with self._changed:
                    if not self._closed:
                        self._changed.wait(_AGAIN)
                continue
            told = ""
            with self._changed:
                if not self._closed:
                    self._spares.append(spare)
                    continue
            spare.end()
            return


class _Ended(Exception):
    """A child ended before it was released."""


class _Silent(_Ended):
    """Nothing came in time."""


@dataclass(frozen=True)
class _Spare:
    """A forked child that is not released: it waits for what it is told, or has been told."""

    asked: socket.socket
    group: Cgroup
    pid: int
    """The kernel's word, as it is called here."""
    started: int

    def become(self, document: bytes, descriptors: Sequence[int]) -> int:
        """Makes it a cell; returns its program's pid. Raises _Ended."""
        if len(document) > child.MOST_BYTES:
            raise _Ended("what it has to be told is too long")
        try:
            self.asked.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(document))
            socket.send_fds(self.asked, [document], descriptors)
        except OSError as error:
            raise _Ended(f"the child did not take its cell: {error}") from error
        pid, _ = _hear(self.asked, child.READY)
        return pid

    def release(self) -> None:
        try:
            self.asked.send(child.GO)
        except OSError as error:
            raise _Ended(f"the child ended: {error}") from error

    def process(self, address: str) -> Process:
        return Process(
            pid=self.pid,
            started=self.started,
            monitor=0,
            boot=boot_id(),
            cgroups=[str(folder) for folder in self.group.folders],
            address=address,
        )

    def hang_up(self) -> None:
        self.asked.close()

    def end(self) -> None:
        """Ends it, and its control group."""
        self.hang_up()
        kill(self.process(""))
        self.group.remove()


def end_all(mark: str, cgroups: Cgroups) -> None:
    """Ends what an earlier controller left: its parents, and children that had no name yet. They
    end by themselves; this is for one that was stopped."""
    kill_called(lambda called: called.startswith(f"{WARM}{mark}:"))
    for prefix in (GROUP, FORKED):
        cgroups.remove_empty(prefix)


@dataclass(frozen=True)
class _Wires:
    """What a parent is given: its end of the socket, where it writes, its control group."""

    control: int
    says: int
    group: Cgroup


def _spawn(seed: Seed, called: str, program: str, wires: _Wires) -> int:
    """Starts bubblewrap around a parent; returns bubblewrap's pid. Raises OSError, Unavailable."""
    files = {path: bwrap.FILES + number for number, path in enumerate(bwrap.etc(1, "", ()))}
    code = Mount(Path(parent.__file__).parent, f"{parent.CODE}/core/sandbox/forks")
    options = bwrap.parents_options([*seed.mounts, code], seed.places, interpreters(), files)
    options += ["--chdir", parent.CODE, "--clearenv"]
    for name, value in seed.env.items():
        options += ["--setenv", name, value]
    groups = dict(enumerate(wires.group.folders, parent.GROUPS))
    told = {
        "title": called,
        "groups": list(groups),
        "argv": list(seed.argv),
        "main": seed.argv[-1],
        "cwd": seed.cwd,
        "imports": list(seed.imports),
        "rehearsal": seed.rehearsal,
    }
    with contextlib.ExitStack() as held:

        def hold(descriptor: int) -> int:
            held.callback(os.close, descriptor)
            return descriptor

        fds = {
            0: hold(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)),
            1: wires.says,
            2: wires.says,
            parent.CONTROL: wires.control,
            parent.OWN_PIDS: hold(os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)),
            parent.SEED: hold(memory_file(json.dumps(told).encode())),
            parent.CALLS: hold(memory_file(seccomp.program())),
            bwrap.ARGS: hold(memory_file("\0".join([*options, ""]).encode())),
            **{number: hold(memory_file(b"")) for number in files.values()},
            **{number: hold(_procs(folder)) for number, folder in groups.items()},
        }
        # In the room of its last argument its children write their names.
        command = [f"{BIN}/python3", "-m", parent.__name__, "." * _ROOM]
        return spawn(program, [called, "--args", str(bwrap.ARGS), "--", *command], fds)


def _procs(folder: Path) -> int:
    """The file of a control group by which a process joins it, for whoever is given it."""
    return os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def _hear(asked: socket.socket, wanted: bytes) -> tuple[int, int]:
    """Waits for a child's word; returns its pid, which the kernel tells, and its start time.

    Raises:
        _Ended: it said something else, or nothing more.
    """
    try:
        data, told, _, _ = asked.recvmsg(2048, socket.CMSG_SPACE(_CREDENTIALS.size))
    except TimeoutError as error:
        raise _Silent(f"no answer within {START_TIMEOUT:g} s") from error
    except OSError as error:
        raise _Ended(f"the child did not answer: {error}") from error
    pid = _CREDENTIALS.unpack(told[0][2])[0] if told else 0
    started = start_time(pid) if pid else None
    if data != wanted or started is None:
        raise _Ended(data.decode(errors="replace") or "the child ended")
    return pid, started
