"""Whom a foreign image runs as: its own user, by the rules of the engine, but as numbers.

``USER`` of a Dockerfile is ``user[:group]``, each by name or number; names stand in the image's
``/etc/passwd`` and ``/etc/group`` (passwd(5), group(5)). We look them up ourselves, before the
container is made: root is 0 however it is spelt, and secrets are given to that user.
"""

from __future__ import annotations

import io
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from core.errors import InvalidRequest, NotFound, Unavailable
from core.models import FunctionSpec
from core.settings import Settings
from engine.client import Engine
from runtime.providers.docker.images import Image

ROOT = 0
_LONGEST = 2**20
_MOST_KNOWN = 10_000
_MOST = 2**31 - 1
"""The engine takes no higher ids."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}")

Read = Callable[[str], bytes]
"""Gives a file of the image by its path; empty where there is none."""


class Users:
    """Users of images. An image never changes, so each is looked at once."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        unstarted: Callable[[FunctionSpec, Image], AbstractContextManager[str]],
    ) -> None:
        """``unstarted`` makes a container of an image for a while, to read its files."""
        self._settings = settings
        self._engine = engine
        self._unstarted = unstarted
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, int]] = {}

    def of(self, spec: FunctionSpec, image: Image) -> tuple[int, int] | None:
        """The image's own user and group; None: it gets a user of its own, since it was built here,
        or wants to be root and may not.

        Raises:
            InvalidRequest: the image has no such user or group.
        """
        if not spec.foreign:
            return None
        with self._lock:
            found = self._known.get(image.name)
            if found is None:
                if len(self._known) > _MOST_KNOWN:
                    self._known.clear()
                found = self._known[image.name] = self._look_up(spec, image)
        trusted = self._settings.allow_root and spec.repository is None
        return found if found[0] != ROOT or trusted else None

    def _look_up(self, spec: FunctionSpec, image: Image) -> tuple[int, int]:
        if not by_name(image.user):
            return identity(image.user, lambda _: b"")
        with self._unstarted(spec, image) as container:
            return identity(image.user, reader(self._engine, container))


def by_name(user: str) -> bool:
    """Whether the image's files are needed to know who that is: the group of a number, too."""
    return bool(user.partition(":")[0]) and not re.fullmatch(r"[0-9]+:[0-9]+", user)


def identity(user: str, read: Read) -> tuple[int, int]:
    """The uid and gid that ``USER user`` means; ``read`` is called only where names are in it.

    Raises:
        InvalidRequest: the image has no such user or group.
    """
    name, _, group = user.partition(":")
    if not name:
        return ROOT, ROOT
    uid = _number(user, name)
    gid = _number(user, group) if group else None
    if uid is None or (gid is None and not group):
        for row in _rows(read("/etc/passwd"), 4):
            if row[0] == name or (uid is not None and row[2] == str(uid)):
                uid = _number(user, row[2]) if uid is None else uid
                gid = _number(user, row[3]) if not group else gid
                break
    if group and gid is None:
        found = (row[2] for row in _rows(read("/etc/group"), 3) if row[0] == group)
        gid = _number(user, next(found, ""))
        if gid is None:
            raise _unknown(user, "group", "/etc/group")
    if uid is None:
        raise _unknown(user, "user", "/etc/passwd")
    return uid, gid or 0


def reader(engine: Engine, container: str) -> Read:
    """Reads files of a container that need not run."""

    def read(path: str) -> bytes:
        try:
            with engine.asking(f"{path} of the image cannot be read") as api:
                pieces, _ = api.get_archive(container, path)
                return _file(path, pieces)
        except NotFound as error:
            if "no such container" in str(error).lower():
                raise Unavailable(f"{error}: another program removed it") from error
            return b""

    return read


def _file(path: str, pieces: Iterator[bytes]) -> bytes:
    """A regular file out of the engine's tar of one; what is none counts as empty."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > _LONGEST:
            raise InvalidRequest(
                f"{path} of the image has more than {_LONGEST} bytes: name the user of its "
                "Dockerfile by number, as in USER 1000:1000"
            )
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            member: Any = tar.next()
            file = tar.extractfile(member) if member is not None and member.isreg() else None
            return file.read() if file else b""
    except tarfile.TarError:
        return b""


def _rows(data: bytes, fields: int) -> Iterator[list[str]]:
    for line in data.decode("utf-8", "replace").splitlines():
        row = line.strip().split(":")
        if len(row) >= fields and row[0]:
            yield row


def _number(user: str, text: str) -> int | None:
    """None: it is a name."""
    if not _NUMBER.fullmatch(text):
        return None
    if not 0 <= int(text) <= _MOST:
        raise InvalidRequest(f"the image's user {user[:80]!r} is no user: ids are 0 to {_MOST}")
    return int(text)


def _unknown(user: str, what: str, where: str) -> InvalidRequest:
    return InvalidRequest(
        f"the image wants to run as {user[:80]!r}, whose {what} is not in its {where}: create it "
        "there, or write numbers in its Dockerfile, as in USER 1000:1000"
    )
