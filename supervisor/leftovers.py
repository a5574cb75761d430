"""What an earlier supervisor left running, because it was killed: found again and ended.

Every process that is started for a part holds a shared lock on ``<folder>/<part>``. It inherits the
descriptor, so there is no moment at which it runs unknown, whoever is killed when; nothing has to
be written down while it lives, and the kernel lets go of the lock with the last process of the
part. Functions hold none: they outlive us on purpose, and the controller adopts them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from supervisor import parts, processes

PATIENCE = 5.0
"""Seconds that leftovers have to end by themselves."""
_KILLED = 5.0
"""Seconds after which one that was killed should be gone."""
LAST = (("registry", "build-engine"), ("store",))
"""Ended after all others, which use them until they end: one group after the other."""


@dataclass(frozen=True)
class Living:
    """A process that was started for a part; those that it forked for it are not told."""

    name: str
    pid: int


class Leftovers:
    """The locks of one installation's parts, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mark(self, name: str) -> int:
        """A descriptor by which a process that inherits it is known as this part's."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def read(self) -> list[Living]:
        """Who lives, of all parts."""
        found = self._holders(self._names())
        return [
            Living(name, pid)
            for pid, name in found.items()
            if found.get(processes.parent(pid) or 0) != name
        ]

    def end(self) -> list[str]:
        """Ends them, those last that others need; returns the names of those there were.

        Only where no other supervisor of this folder runs.

        Raises:
            ConfigError: one does not end, or cannot be found.
        """
        names = [name for name in self._names() if self._held(name)]
        needed = [name for group in LAST for name in group]
        for group in ([name for name in names if name not in needed], *LAST):
            self._end([name for name in names if name in group])
        return names

    def _end(self, names: Collection[str]) -> None:
        """Asks all at once, then kills what is left."""
        for each in self.read():
            if each.name in names:
                self._ask(each)
        asked = time.monotonic()
        while held := [name for name in names if self._held(name)]:
            waited = time.monotonic() - asked
            if waited > PATIENCE:
                for pid, name in self._holders(held).items():
                    processes.kill(pid, tree=parts.ends_whole(name))
            if waited > PATIENCE + _KILLED:
                path = self.folder / held[0]
                raise ConfigError(
                    f"a process of an earlier run does not end, which holds {path}: "
                    f"'fuser -v {path}' finds it; end it (kill -9) and start again"
                )
            time.sleep(0.02)

    def _ask(self, living: Living) -> None:
        """Its number may be another's by now: a pidfd is of one process, and then we look."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(living.pid)
            try:
                if processes.opened(living.pid, self._files([living.name])):
                    signal.pidfd_send_signal(descriptor, parts.stop_signal(living.name))
            finally:
                os.close(descriptor)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*"))

    def _held(self, name: str) -> bool:
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _holders(self, names: Collection[str]) -> dict[int, str]:
        return {pid: Path(path).name for pid, path in processes.holders(self._files(names)).items()}

    def _files(self, names: Collection[str]) -> set[str]:
        """As the kernel calls them."""
        folder = self.folder.resolve()
        return {str(folder / name) for name in names}
