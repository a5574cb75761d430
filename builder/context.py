"""A function's files, laid out for its build as OpenFaaS does (faas-cli's "shrink-wrap").

    <destination>/…                        the template's files
    <destination>/<handler_folder>/…       the handler folder's content
    <destination>/<handler_folder>/<path>  what ``copy`` names, under its path from the stack file

Later ones win. As in faas-cli, entries named ``build`` and ``template`` at the handler folder's
own level are left out, and ``dockerfile`` functions lie at the root without a template. Unlike
there, a template's sample handler and its tests never become part of a function: a repository
that forgot its handler is told so instead of serving the sample.

The same commit gives the same bytes, modes and times, whoever writes it and when.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from builder.folders import disk_trouble, full, room
from builder.source import Entry, Source, quoted, too_long
from builder.templates import Template, is_sample
from core.errors import BuildFailed, TooLarge
from core.stackfile import StackFunction, inner

MODIFIED = 315532800
"""Time of every file, Unix seconds: 1980-01-01, the earliest that archives can write."""

LEFT_OUT = ("build", "template")
"""Entries of the handler folder's own level."""
POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 1024

Content = Entry | Path


def write_context(
    source: Source, function: StackFunction, template: Template | None, destination: Path
) -> str:
    """Fills ``destination`` (which must not exist) and returns a digest of all it holds.

    ``template`` is None for ``lang: dockerfile``. Counts and sizes are checked first.

    Raises:
        BuildFailed: links, submodules, impossible names, or a file where a folder should be.
        NotFound: the handler or a copied path is not in the commit.
        TooLarge: more than a function may have.
        Damaged: the commit cannot be read; the next fetch starts anew.
        Unavailable: the disk is full.
    """
    try:
        files = layout(source, function, template)
        with disk_trouble(destination.parent):
            return _write(source, files, destination)
    except BuildFailed as error:
        error.function = error.function or function.name
        raise


def layout(
    source: Source, function: StackFunction, template: Template | None
) -> dict[str, Content]:
    """What goes where: path in the context → file of the template or of the commit, sorted."""
    folder = f"{template.handler_folder}/" if template else ""
    files: dict[str, Content] = {}
    if template:
        own = template.handler_folder
        files.update((p, f) for p, f in template.files.items() if not is_sample(p, own))
    entries = source.files(function.handler, without=LEFT_OUT)
    files.update((folder + entry.path, entry) for entry in entries)
    count, size = len(entries), sum(entry.size for entry in entries)
    for path in function.copy:
        place = inner(function, path)
        under = f"{place}/" if source.is_folder(path) else place[: place.rfind("/") + 1]
        entries = source.files(path)
        files.update((folder + under + entry.path, entry) for entry in entries)
        count, size = count + len(entries), size + sum(entry.size for entry in entries)
        if count > source.max_files or size > source.max_bytes:
            raise TooLarge(
                f"with what it copies, up to {quoted(path)}, the function has {count} files and "
                f"{size} bytes; {source.max_files} and {source.max_bytes} are allowed: copy less"
            )
    _check(files)
    return dict(sorted(files.items()))


def _check(files: dict[str, Content]) -> None:
    """Each path could be part of a build; together they have to be as well."""
    for path in files:
        if trouble := too_long(path):
            raise BuildFailed(f"{quoted(path)}, as it is laid out, {trouble}", step="context")
        for end, character in enumerate(path):
            if character == "/" and path[:end] in files:
                raise BuildFailed(
                    f"{path[:end]!r} is a file in one place and a folder in another (template, "
                    "handler, copied paths): rename one of them",
                    step="context",
                )


def _write(source: Source, files: dict[str, Content], destination: Path) -> str:
    digest = hashlib.sha256()
    destination.mkdir(mode=0o755)
    folders = {destination}
    left = sum(content.size for content in files.values() if isinstance(content, Entry))
    for path, content in files.items():
        if not room(destination, left):
            raise full(destination)
        left -= content.size if isinstance(content, Entry) else 0
        target = destination / path
        for folder in reversed(target.relative_to(destination).parents):
            if (place := destination / folder) not in folders:
                place.mkdir(mode=0o755)
                folders.add(place)
        executable, checksum = _write_file(source, path, content, target)
        digest.update(f"{path}\0{executable:d}\0{checksum}\n".encode())
    for place in sorted(folders, reverse=True):  # a folder's time changes as it is filled
        place.chmod(0o755)
        os.utime(place, (MODIFIED, MODIFIED))
    return digest.hexdigest()


def _write_file(source: Source, path: str, content: Content, target: Path) -> tuple[bool, str]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o600), "w+b") as file:
        if isinstance(content, Entry):
            executable = content.executable
            checksum = source.copy(content, file).hex()
            if content.size <= MAX_POINTER:
                file.seek(0)
                if file.read(len(POINTER)) == POINTER:
                    raise BuildFailed(
                        f"{path!r} is only a pointer to a Git LFS file, and those are not "
                        "fetched: commit the file itself, or fetch it when the function starts",
                        step="context",
                    )
        else:
            data = content.read_bytes()
            executable = bool(content.stat().st_mode & stat.S_IXUSR)
            checksum = hashlib.sha256(data).hexdigest()
            file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o755 if executable else 0o644)
        os.utime(file.fileno(), (MODIFIED, MODIFIED))
    return executable, checksum
