"""Secrets of what runs, as files on a tmpfs of the host: a folder for each instance, by root.

    <folder>                 0700 root
        <instance>/          0750 root:<the function's group>: others cannot list it
            <secret>         0400 <the function's user>

The folder is mounted read-only in the instance, and removed with it. Values are in memory
(and in swap, where the host swaps), never on a disk, in arguments or in an environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from core import disk
from core.errors import InvalidRequest, NotFound, NotSupported, Unavailable
from core.models import FunctionSpec
from core.settings import Settings

MAX_TOGETHER = 8 * 2**20
"""Bytes of all secrets of one function: each replica has a copy in the host's memory."""

ReadSecrets = Callable[[FunctionSpec], Mapping[str, bytes]]
"""The values of a function's secrets by name; see runtime.secrets."""


def no_secrets(spec: FunctionSpec) -> Mapping[str, bytes]:
    """Of a provider that only looks and ends. Raises NotFound."""
    raise NotFound(f"the secrets {', '.join(spec.secrets or ())} of {spec.function} are not read")


def read_all(read: ReadSecrets, spec: FunctionSpec) -> Mapping[str, bytes]:
    """The values of a function's secrets now; none where it names none.

    Raises:
        NotFound, ConfigError, Unavailable: see ``read``.
        InvalidRequest: as well, or they are too large together.
    """
    if not spec.secrets:
        return {}
    values = read(spec)
    if (size := sum(map(len, values.values()))) > MAX_TOGETHER:
        raise InvalidRequest(
            f"the secrets of {spec.function} have {size} bytes together, and {MAX_TOGETHER} are "
            "the most: name fewer"
        )
    return values


class SecretFolders:
    """All folders of one installation; made when the first one is needed."""

    def __init__(self, settings: Settings) -> None:
        mounted = settings.run / "secrets"
        self.in_container = mounted.is_mount()
        """In compose: a tmpfs that this container and the engine share."""
        self._lock = threading.Lock()
        """Held while the folder comes or goes."""
        self.folder = mounted if self.in_container else Path(f"/dev/shm/slipway-{settings.mark}")

    def make(self, id: str, values: Mapping[str, bytes], uid: int, gid: int) -> Path:
        """Makes an instance's folder, for the user and group that the instance runs as.

        Raises:
            NotSupported: this host has no tmpfs for it.
            Unavailable: it is full.
        """
        folder = self.folder / id
        try:
            with self._lock:
                self._ready()
                folder.mkdir(mode=0o700)
            for name, value in values.items():
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(folder / name, flags, 0o600), "wb") as out:
                    out.write(value)
                    out.flush()
                    # The mode first: once it is another's, only CAP_FOWNER could.
                    os.fchmod(out.fileno(), 0o400)
                    os.fchown(out.fileno(), uid, gid)
            folder.chmod(0o750)
            os.chown(folder, -1, gid)
        except OSError as error:
            self.remove(id)
            raise Unavailable(
                f"the secrets of {id} cannot be laid out in {self.folder}: {error.strerror}"
            ) from error
        return folder

    def remove(self, id: str) -> None:
        """Removes an instance's folder, if it has one; the last one's with all that held it."""
        shutil.rmtree(self.folder / id, ignore_errors=True)
        with self._lock, contextlib.suppress(OSError):  # not empty, not there, or a mount
            self.folder.rmdir()

    def keep_only(self, exists: Callable[[str], bool]) -> None:
        """Removes what instances left that are no more. Not while one is being started."""
        try:
            found: Collection[str] = os.listdir(self.folder)  # noqa: PTH208 - names, not paths
        except OSError:
            return
        for id in found:
            if not exists(id):
                self.remove(id)

    def _ready(self) -> None:
        """Raises NotSupported: the folder is not ours alone, or not in memory."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            status = os.lstat(self.folder)
        except OSError as error:
            raise NotSupported(f"secrets cannot lie in {self.folder}: {error.strerror}") from error
        if not self.in_container and not disk.is_tmpfs(self.folder.parent):
            raise NotSupported(
                f"secrets need a tmpfs at {self.folder.parent}, so that they reach no disk: mount "
                "one there"
            )
        if status.st_mode != 0o40700 or status.st_uid != os.geteuid():
            raise NotSupported(
                f"{self.folder} belongs to somebody else, or is open to others: remove it, so "
                "that secrets can lie there"
            )
