"""What ``build_secrets`` hand to a build: files of the commit, and secrets of the owner.

A value that is a path of the commit, from the stack file's folder, is that file, as OpenFaaS'
client reads it; another one is the name of a secret. In the build's key stands which content it
was: git's id of the file, or the version of the secret. The values themselves are in files for us
alone until the release is over: those of the commit beside the context, secrets in memory where
that can be (``builder.secrets``).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder.source import TREE, Node, Source
from core import names
from core.errors import InvalidRequest, NotFound, Unavailable
from core.stackfile import StackFunction

MAX_VALUE = 500 * 1024
"""Bytes of one: BuildKit takes no more."""
INPUT = "build_secrets"
"""Begins the names of these inputs in a build's key."""

Versions = Callable[[Sequence[str]], Mapping[str, str]]
"""Secrets of the owner → their versions; raises NotFound for those that are missing."""


def stamp(source: Source, function: StackFunction, id_: str, versions: Versions) -> str:
    """Which content one of them has now, without telling anything of it.

    Raises:
        NotFound: there is neither such a file nor such a secret.
        BuildFailed: it is a link.
        TooLarge: it is larger than a build takes.
    """
    value = function.build_secrets[id_]
    if node := _file(source, function, value):
        source.read(_path(function, value), MAX_VALUE)
        return f"file {node.oid}"
    try:
        names.secret_name(value)
    except InvalidRequest:
        raise NotFound(
            f"{function.name}.build_secrets.{id_}: commit {source.commit[:12]} has no file "
            f"{_path(function, value)[:200]!r}, and it is no name of a secret: commit the file, or "
            "create a secret and name that"
        ) from None
    return f"secret {versions([value])[value]}"


def write(
    source: Source,
    function: StackFunction,
    folder: Path,
    secret: Path,
    value_of: Callable[[str], bytes],
) -> dict[str, Path]:
    """Writes their values; returns id → file.

    Args:
        folder: for files of the commit; made.
        secret: for secrets, each once for all functions of the release.
        value_of: the value of one of the owner's secrets.

    Raises as ``stamp``, and what ``value_of`` does; Unavailable where ``secret`` has no room.
    """
    folder.mkdir(mode=0o700)
    files = {}
    for number, (id_, value) in enumerate(function.build_secrets.items()):
        if _file(source, function, value):
            files[id_] = folder / str(number)
            _write(files[id_], source.read(_path(function, value), MAX_VALUE))
            continue
        files[id_] = path = secret / value
        if path.exists():
            continue
        draft = secret / f".{function.name}.{number}"  # functions are built side by side
        try:
            _write(draft, value_of(value))
        except OSError as error:
            raise Unavailable(
                f"the build secret {value} cannot be laid out in {secret.parent}: {error.strerror}"
            ) from error
        draft.rename(path)
    return files


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _path(function: StackFunction, value: str) -> str:
    return posixpath.normpath(posixpath.join(function.folder, value))


def _file(source: Source, function: StackFunction, value: str) -> Node | None:
    path = _path(function, value)
    if value.startswith("/") or path.split("/")[0] == "..":  # the stack file's reader refuses it
        return None
    node = source.find(path)
    if node and node.kind == TREE:
        raise NotFound(f"{function.name}.build_secrets: {path!r} is a folder: name a file")
    return node
