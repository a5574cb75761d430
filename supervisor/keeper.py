"""Keeps parts running: one thread, one loop over pidfds, signals and times.

Everything that takes time waits in ``wait``, which goes on restarting what dies meanwhile. The
first SIGINT, SIGTERM or SIGHUP makes ``wait`` raise Interrupted; another one makes ``stop`` hurry.

A part that is replaced runs on beside its successor, with what it has begun, until that has ended
or its time is up; ``stop`` waits for it as for any other.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from core.errors import ConfigError
from core.readiness import NOTIFICATION_FD
from supervisor import parts, processes
from supervisor.leftovers import Leftovers
from supervisor.logfiles import LogFiles
from supervisor.parts import Part

FIRST_DELAY, MAX_DELAY = 0.1, 10.0
"""Seconds before a part that died is started again; doubled by every further death."""
SETTLED = 3.0
"""Seconds of life after which a death counts as the first again, and is mended at once."""
_ROTATE_EVERY = 5.0
_HURRIED = 1.0
"""Seconds that parts have to end once the user has asked twice."""


class Interrupted(BaseException):
    """The user, or whoever started us, wants us to end: no failure, so no Exception."""


@dataclass(frozen=True)
class _Ready:
    """Where a child tells that it is ready."""

    child: _Child
    descriptor: int


@dataclass
class _Child:
    part: Part
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    began: float = 0.0
    deaths: int = 0
    """In a row; a long life sets it back."""
    due: float = 0.0
    """When to start it again."""
    leaving: bool = False
    until: float = float("inf")
    """When one that was replaced is ended."""
    ready: _Ready | None = None
    is_ready: bool = False
    """Whether it has told so, by ``core.readiness``."""


class Keeper:
    """Runs parts and helpers with ``env``, in ``folder``, with their output in log files."""

    def __init__(
        self,
        env: Mapping[str, str],
        folder: Path,
        logs: LogFiles,
        leftovers: Leftovers,
        tell: Callable[[str], None],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.env = dict(env)
        self.folder = folder
        self.logs = logs
        self.leftovers = leftovers
        self.tell = tell
        self.tick = tick
        self._children: dict[str, _Child] = {}
        self._replaced: list[_Child] = []
        """Those that finish what they have, beside their successors."""
        self._selector = selectors.DefaultSelector()
        self._signals = 0
        self._stopping: int | None = None
        """The number of signals when we began to stop."""
        self._rotated = time.monotonic()
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wake_end = wake
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._before: dict[int, object] = {}

    # Signals

    def __enter__(self) -> Keeper:
        """Takes over the signals; only in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._signalled)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives them back, and ends at once what was not stopped."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal() gave it
        for child in [*self._children.values(), *self._replaced]:
            self._kill(child)
        self._selector.close()
        os.close(self._wake)
        os.close(self._wake_end)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    # Starting and waiting

    def start(self, part: Part) -> None:
        """Starts a part and keeps it running.

        Raises:
            ConfigError: its program cannot be started.
        """
        self._begin(_Child(part))

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Waits until the condition holds; False if it did not within ``seconds``.

        The condition is asked at least 20 times a second and must be quick.

        Raises:
            Interrupted: once, at the first signal.
        """
        deadline = time.monotonic() + seconds
        while not until():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._turn(min(left, 0.05))
            self.tick()
        return True

    def stand_by(self, bell: socket.socket) -> None:
        """Keeps everything running until there is something to read there.

        Raises:
            Interrupted: once, at the first signal.
        """
        rung: list[object] = []
        self._selector.register(bell, selectors.EVENT_READ, rung)
        try:
            while not rung:
                self._turn(_ROTATE_EVERY)
        finally:
            self._selector.unregister(bell)

    def run(
        self,
        name: str,
        argv: Sequence[str],
        seconds: float,
        *,
        on_screen: bool = False,
        listeners: Sequence[int] = (),
    ) -> int | None:
        """Runs a helper to its end; returns its exit status, None if it took too long.

        ``on_screen``: its output goes where ours goes, else to the log of its name. ``listeners``:
        descriptors that it inherits.

        Raises:
            ConfigError: its program cannot be started.
        """
        child = _Child(Part(name=name, argv=argv, listeners=listeners), leaving=True)
        self._begin(child, on_screen=on_screen)
        process = child.process
        assert process is not None  # _spawn made it
        try:
            began = child.began
            self.wait(
                seconds,
                lambda: (
                    child.process is None
                    or (self.hurried and time.monotonic() - began > 3 * _HURRIED)
                ),
            )
        finally:
            self._kill(child)
            del self._children[name]
        return None if process.returncode < 0 else process.returncode

    # Restarting

    def replace(
        self,
        name: str,
        seconds: float,
        *,
        argv: Sequence[str] = (),
        ready: Callable[[int], bool] | None = None,
    ) -> int:
        """Starts a successor beside a part; once that is ready, the part is asked to end, and has
        the time that its ``linger`` says. Returns the successor's pid.

        ``argv``: of this one start, where it differs. ``ready``: of a pid, asked again and again;
        by default whether the process has told so (core/readiness.py).

        Raises:
            ConfigError: the successor does not come up; the part goes on as before.
            Interrupted: as ``wait``.
        """
        old = self._children[name]
        new = _Child(old.part, leaving=True)  # while it is on trial, its end is no death

        def up() -> bool:
            assert new.process is not None
            return ready(new.process.pid) if ready else new.is_ready

        try:
            self._spawn(new, argv=argv)
        except OSError as error:
            raise ConfigError(f"the {name} cannot be started: {error.strerror}") from error
        try:
            if not self.wait(seconds, lambda: new.process is None or up()):
                raise ConfigError(
                    f"the new {name} was not ready after {seconds:.0f} s, and the old one goes on: "
                    f"see {self.logs.path(name)}"
                )
            if new.process is None:
                raise ConfigError(
                    f"the new {name} ended at once, and the old one goes on: see "
                    f"{self.logs.path(name)}"
                )
        except BaseException:
            self._kill(new)
            raise
        new.leaving = False
        self._children[name] = new
        if old.process:
            old.leaving = True
            old.until = time.monotonic() + max(old.part.linger, old.part.patience)
            self._replaced.append(old)
            self._ask(old)
        return new.process.pid

    def restart(self, name: str, seconds: float) -> int:
        """Asks a part to end and starts it again; returns the new pid.

        Raises:
            ConfigError: it is not ready in time; it is kept running, and tried again.
            Interrupted: as ``wait``.
        """
        child = self._children[name]
        if child.process:
            child.leaving = True
            self._ask(child)
            if not self.wait(child.part.patience, lambda: child.process is None):
                self.tell(f"the {name} took over {child.part.patience:.0f} s: killed")
                self._kill(child)
        child.leaving, child.is_ready, child.deaths, child.due = False, False, 0, 0.0
        if not self.wait(seconds, lambda: child.is_ready):
            raise ConfigError(
                f"the {name} is not ready after {seconds:.0f} s: see {self.logs.path(name)}"
            )
        assert child.process is not None  # it has just told
        return child.process.pid

    def send(self, name: str, number: signal.Signals) -> None:
        """Signals a part, and those that it has replaced. Not one that is only starting: it does
        not know the signal yet, and would die of it."""
        for child in self._all(name):
            if child.process and child.is_ready:
                child.process.send_signal(number)

    def pid(self, name: str) -> int:
        """Of a part that runs; 0 where it does not just now."""
        child = self._children.get(name)
        return child.process.pid if child and child.process else 0

    # Ending

    def stop(self, names: Iterable[str]) -> None:
        """Asks parts to end, all at once, and ends those that take too long; returns when all
        are gone. Unknown ones are left out. It is not interrupted, but a signal hurries it.

        Those that were replaced have been asked: a second time would be taken for impatience.
        """
        self._begin_to_stop()
        names = list(names)
        leaving = [child for name in names for child in self._all(name)]
        for child in leaving:
            child.leaving = True
            if child not in self._replaced:
                self._ask(child)
        asked = time.monotonic()
        while running := [child for child in leaving if child.process]:
            for child in running:
                patience = min(child.part.patience, _HURRIED if self.hurried else 3600.0)
                if time.monotonic() - asked > patience:
                    if not self.hurried:
                        self.tell(f"the {child.part.name} took over {patience:.0f} s: killed")
                    self._kill(child)
            self._turn(0.05)
            self.tick()
        for name in names:
            self._children.pop(name, None)

    def drop(self, names: Iterable[str]) -> None:
        """Ends parts at once that are not wanted after all; all others go on."""
        for name in names:
            for child in self._all(name):
                self._kill(child)
            self._children.pop(name, None)

    @property
    def hurried(self) -> bool:
        """Whether there was a further signal after we began to stop."""
        return self._stopping is not None and self._signals > self._stopping

    @property
    def names(self) -> list[str]:
        return list(self._children)

    def deaths(self, name: str) -> int:
        """How often in a row a part has ended soon after its start."""
        child = self._children.get(name)
        return child.deaths if child else 0

    # Inside

    def _all(self, name: str) -> list[_Child]:
        """A part, and those that it has replaced."""
        current = [self._children[name]] if name in self._children else []
        return current + [each for each in self._replaced if each.part.name == name]

    def _ask(self, child: _Child) -> None:
        if child.process:
            child.process.send_signal(parts.stop_signal(child.part.name))

    def _begin_to_stop(self) -> None:
        if self._stopping is None:
            self._stopping = self._signals

    def _turn(self, timeout: float) -> None:
        """One turn of the loop: at most ``timeout`` seconds, less when something is due."""
        now = time.monotonic()
        waiting = [c.due for c in self._children.values() if c.process is None and not c.leaving]
        timeout = max(min([timeout, *(due - now for due in waiting)]), 0.0)
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, _Child):
                self._died(key.data)
            elif isinstance(key.data, _Ready):
                self._heard(key.data)
            elif isinstance(key.data, list):
                key.data.append(key.fileobj)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
        if self._signals and self._stopping is None:
            self._begin_to_stop()
            raise Interrupted
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.process is None and not child.leaving and child.due <= now:
                self._again(child)
        for child in [each for each in self._replaced if each.until <= now]:
            self.tell(f"the old {child.part.name} did not end in time: killed")
            self._kill(child)
        if now - self._rotated > _ROTATE_EVERY:
            self._rotated = now
            self.logs.rotate()

    def _begin(self, child: _Child, *, on_screen: bool = False) -> None:
        part = child.part
        try:
            self._spawn(child, on_screen=on_screen)
        except OSError as error:
            raise ConfigError(
                f"the {part.name} ({part.argv[0]}) cannot be started: {error.strerror}"
            ) from error
        self._children[part.name] = child

    def _spawn(self, child: _Child, *, on_screen: bool = False, argv: Sequence[str] = ()) -> None:
        part = child.part
        with contextlib.ExitStack() as held:

            def hold(descriptor: int) -> int:
                held.callback(os.close, descriptor)
                return descriptor

            log = None if on_screen else hold(self.logs.open(part.name))
            mark = hold(self.leftovers.mark(part.name))
            ready, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            hold(told)
            child.ready, child.is_ready = _Ready(child, ready), False
            self._selector.register(ready, selectors.EVENT_READ, child.ready)
            try:
                process = subprocess.Popen(
                    argv or part.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**self.env, **part.env, NOTIFICATION_FD: str(told)},
                    cwd=self.folder,
                    pass_fds=[*part.listeners, mark, told],
                    start_new_session=True,  # Ctrl-C is for us alone
                )
            except BaseException:
                self._forget_ready(child)
                raise
        child.process, child.began = process, time.monotonic()
        try:
            child.pidfd = os.pidfd_open(process.pid)
            self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        except OSError:  # no descriptors left: we would not see its end
            self._kill(child)
            raise
        part.started(process.pid)

    def _again(self, child: _Child) -> None:
        try:
            self._spawn(child)
        except OSError as error:  # no memory, no process numbers: that may pass
            child.deaths += 1
            child.due = time.monotonic() + MAX_DELAY
            self.tell(f"the {child.part.name} cannot be started now: {error.strerror}")

    def _died(self, child: _Child) -> None:
        assert child.process is not None  # only living children are registered
        status = child.process.wait()
        lived = time.monotonic() - child.began
        self._forget(child)
        if child.leaving:
            return
        child.deaths = 1 if lived > SETTLED else child.deaths + 1
        delay = 0.0 if lived > SETTLED else min(FIRST_DELAY * 2 ** (child.deaths - 1), MAX_DELAY)
        child.due = time.monotonic() + delay
        how = f"was ended by {_signal(-status)}" if status < 0 else f"ended with status {status}"
        log = self.logs.path(child.part.name)
        self.tell(f"the {child.part.name} {how}: it is started again (its log: {log})")

    def _kill(self, child: _Child) -> None:
        if child.process:
            processes.kill(child.process.pid, tree=parts.ends_whole(child.part.name))
            child.process.wait()
            self._forget(child)

    def _heard(self, ready: _Ready) -> None:
        """A byte: it is ready. The end: it never will be, or does not know how to tell."""
        if ready.child.ready is not ready:  # its end was seen in the same turn: closed already
            return
        ready.child.is_ready = bool(os.read(ready.descriptor, 1))
        self._forget_ready(ready.child)

    def _forget_ready(self, child: _Child) -> None:
        if child.ready:
            self._selector.unregister(child.ready.descriptor)
            os.close(child.ready.descriptor)
            child.ready = None

    def _forget(self, child: _Child) -> None:
        self._forget_ready(child)
        if child in self._replaced:
            self._replaced.remove(child)
        if child.pidfd >= 0:
            with contextlib.suppress(KeyError):  # it could not be registered
                self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
        child.process, child.pidfd = None, -1


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
