"""Gives a built function its content-addressed name, and tells whether a bundle still has it.

The digest is SHA-256 over a listing, one NUL-terminated line for each folder and file below the
bundle, sorted by path: ``d <path>`` or ``<f|x> <sha256 of the content> <path>``, ``x`` for an
executable one. Times, owners and other mode bits are no part of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

import msgspec

from builder import folders
from core import names
from core.bundle import PREFIX, Bundle, bundle_folder, digest_of
from core.errors import BuildFailed, NotFound
from core.settings import Settings


def publish(settings: Settings, namespace: str, app: Path, bundle: Bundle) -> str:
    """Moves a finished app folder into an owner's bundles; returns ``bundle:sha256:<digest>``.

    The same content gives the same name, and a bundle that is there already stays as it is.
    Nothing else may write to ``app`` any more; afterwards it is gone.

    Raises:
        BuildFailed: there is something other than files and folders in it.
        Unavailable: the disk is full; nothing half-written stays.
    """
    parent = settings.bundles / names.namespace(namespace)
    with folders.making(parent) as new:
        _move(app, new / "app")
        (new / "bundle.json").write_bytes(msgspec.json.encode(bundle, order="deterministic"))
        digest = _digest(new)
        folders.settle(new, parent / digest)
    return PREFIX + digest


def verify(settings: Settings, namespace: str, artifact: str) -> bool:
    """Reads a whole bundle and tells whether its content still is what its name says.

    Raises:
        NotFound: the owner has no such bundle.
    """
    folder = bundle_folder(settings, namespace, artifact)
    if not folder.is_dir():
        raise NotFound(f"{namespace} has no {artifact}: push its repository again")
    try:
        return _digest(folder) == digest_of(artifact)
    except BuildFailed:
        return False


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target)
        shutil.rmtree(source)


def _copy(source: Path, target: Path) -> None:
    """Copies to another file system; shutil.copytree would hide the cause of a failure."""
    target.mkdir()
    for path, entry in _walk(source, ""):
        if entry.is_dir(follow_symlinks=False):
            (target / path).mkdir()
        elif entry.is_file(follow_symlinks=False):
            shutil.copy(entry.path, target / path)
        else:
            raise _foreign(path)


def _digest(folder: Path) -> str:
    listing = hashlib.sha256()
    for path, entry in sorted(_walk(folder, "")):
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            line = f"d {path}"
        elif stat.S_ISREG(mode):
            with Path(entry.path).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            line = f"{'x' if mode & 0o100 else 'f'} {content} {path}"
        else:
            raise _foreign(path)
        listing.update(os.fsencode(line) + b"\0")
    return listing.hexdigest()


def _walk(folder: Path, above: str) -> list[tuple[str, os.DirEntry[str]]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{above}{entry.name}"
            found.append((path, entry))
            if entry.is_dir(follow_symlinks=False):
                found += _walk(Path(entry.path), f"{path}/")
    return found


def _foreign(path: str) -> BuildFailed:
    return BuildFailed(
        f"{path!r} is neither a file nor a folder: a function's files may not hold links, pipes "
        "or devices"
    )
