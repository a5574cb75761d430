"""Where the template of a ``lang`` comes from; the first place that has it counts:

    template/<lang>/           in the commit, beside the stack file, else at its root
    configuration.templates    template/<lang>/ of the git repository that is listed by that name
    templates/                 the installation's own
    configuration.templates    any other repository that is listed
    templates/                 the installation's own, by the names that OpenFaaS has for it

What is not ours is kept as plain files, read-only, by git's address of its content, for each owner
by itself: ``<state>/templates/<namespace>/<tree>/``. What of it counts for the build's key is that
content: another commit that has the same is no reason to build.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builder import folders
from builder.context import MAX_POINTER, POINTER
from builder.source import TREE, Entry, Source, disk_size, quoted
from builder.templaterepositories import UNUSED, Place, Repositories
from builder.templates import FOLDER, Template, available, find_template, own_name, read_foreign
from core import disk
from core.errors import (
    BuildFailed,
    CheckoutFailed,
    Conflict,
    InvalidRequest,
    NotFound,
    SlipwayError,
    TooLarge,
)
from core.pruning import Candidate, of_each
from core.settings import Settings
from core.stackfile import Stack, TemplateSource

_KEPT = 4
"""Folders as large as a function's may be: disk that the templates of one owner may take."""
_IN_USE = 6 * 3600
"""Seconds for which a template that was found stays in any case: a release may be building with it.
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class Templates:
    """The templates that one stack file can name. What was found is not looked for again."""

    def __init__(
        self,
        source: Source,
        stack: Stack,
        namespace: str,
        repositories: Repositories,
        *,
        folder: Path = FOLDER,
    ) -> None:
        """``folder``: the installation's own."""
        self._source = source
        self._stack = stack
        self._repositories = repositories
        self._settings = repositories.settings
        self._kept_in = self._settings.templates / namespace
        self._folder = folder
        self._found: dict[str, Template | SlipwayError] = {}

    def find(self, lang: str) -> Template:
        """The template of a ``lang``.

        Raises:
            InvalidRequest, NotFound: there is none, or no source of it.
            InvalidStack: its template.yml has mistakes.
            BuildFailed, TooLarge: it holds what a function's folder may not.
            CheckoutFailed, NotAllowed, Unavailable: it cannot be fetched.
            NotSupported: ``dockerfile``, which is none.
            ConfigError: our own is wrong.
        """
        if lang not in self._found:
            try:
                self._found[lang] = self._find(lang)
            except SlipwayError as error:
                if error.retryable:
                    raise
                self._found[lang] = error
        found = self._found[lang]
        if isinstance(found, SlipwayError):
            raise found
        return found

    def _find(self, lang: str) -> Template:
        name, at, ref = lang.partition("@")
        if lang == "dockerfile" or not _NAME.fullmatch(name):  # before it is part of a path
            return find_template(lang, self._folder)
        if not at and (found := self._of_commit(name)):
            return found
        named = [e for e in self._stack.templates if e.name.partition("@")[0] == name]
        named.sort(key=lambda entry: entry.name != lang)  # name@ref: the one of that ref first
        for entry in named:
            if entry.source:
                wanted = ref or entry.name.partition("@")[2]
                if found := self._of_repository(entry, name, wanted):
                    return found
                raise NotFound(
                    f"{self._line(entry)}{Place.of(entry.source, self._settings).at(wanted)} has "
                    f"no folder template/{name}: templates lie in the folder template/ of their "
                    "repository"
                )
        if at:
            raise self._without_source(name, named)
        own = own_name(name, self._folder)
        if own == name:
            return find_template(name, self._folder)
        for entry in self._stack.templates:
            if entry.source and (found := self._of_repository(entry, name)):
                return found
        if own:
            self._repositories.say(f"lang {name} is built with our template {own}")
            return find_template(own, self._folder)
        if named:
            raise self._without_source(name, named)
        raise InvalidRequest(
            f"there is no template {name!r}: this installation has "
            f"{', '.join(available(self._folder)) or 'none'}; others are found in the commit's "
            f"folder template/{name}, or where configuration.templates names a 'source:' such as "
            f"{_likely(name)}"
        )

    def _of_commit(self, name: str) -> Template | None:
        for above in dict.fromkeys((self._stack.folder, ".")):
            path = posixpath.normpath(f"{above}/template/{name}")
            node = self._source.find(path)
            if node is not None and node.kind == TREE:
                return self._kept(self._source, path, name, f"{path} of the commit")
        return None

    def _of_repository(self, entry: TemplateSource, name: str, ref: str = "") -> Template | None:
        """A repository may hold more templates than the one that it is listed for."""
        try:
            place = Place.of(entry.source, self._settings).at(ref)
            source = self._repositories.open(place)
            path = f"template/{name}"
            node = source.find(path)
            if node is None or node.kind != TREE:
                return None
            return self._kept(source, path, name, f"{place} at commit {source.commit}")
        except SlipwayError as error:
            raise _with(error, f"{self._line(entry)}the template {name}: {error}") from error

    def _kept(self, source: Source, path: str, name: str, place: str) -> Template:
        home = self._kept_in / source.tree_id(path)
        try:
            os.utime(home)  # tells the sweep that it is used
        except FileNotFoundError:
            files = source.files(path)
            with folders.making(home.parent) as new:
                self._make_room(sum(map(disk_size, (file.size for file in files))))
                for entry in files:
                    _write(source, entry, new / entry.path)
                folders.settle(new, home)
        template, warnings = read_foreign(name, home, place)
        for warning in warnings:
            told = f"warning: template.yml of the template {name} ({place}): {warning!r}"
            self._repositories.say(told)
        return template

    def _make_room(self, size: int) -> None:
        """For ``size`` bytes more of this owner's: what he has not used lately goes, oldest first.

        Raises:
            TooLarge: he used too much lately.
            Unavailable: the disk is full.
        """
        total = size + _weight(self._kept_in)
        largest = self._settings.max_context + self._settings.max_files * disk_size(0)
        allowed = _KEPT * largest
        for home in sorted(self._kept_in.glob("[0-9a-f]*"), key=_used):
            if total <= allowed or time.time() - _used(home) < _IN_USE:
                break
            total -= _weight(home)
            folders.remove(home)
        if total > allowed:
            raise TooLarge(
                f"the templates that you used within {_IN_USE // 3600} hours take {total} bytes "
                f"together, and {allowed} are allowed: leave out of them what is not needed, or "
                "ask the administrator (SLIPWAY_MAX_CONTEXT, SLIPWAY_MAX_FILES)"
            )
        if not folders.room(self._kept_in, size):
            raise folders.full(self._kept_in)

    def _without_source(self, name: str, named: list[TemplateSource]) -> NotFound:
        return NotFound(
            f"{self._line(named[0]) if named else ''}no 'source:' is given for the template "
            f"{name!r}, and nothing is looked up in a store: write name: {name} and source: "
            f"{_likely(name)} below configuration.templates"
        )

    def _line(self, entry: TemplateSource) -> str:
        return f"{self._stack.path} line {entry.line}: "


def unused(settings: Settings) -> Iterator[Candidate]:
    """Templates that no build has used for a week."""

    def old(home: Path) -> bool:
        return time.time() - _used(home) > UNUSED

    def of(home: Path) -> Iterator[Candidate]:
        if old(home):
            name = f"{home.parent.name}/{home.name}"
            remove, size = partial(folders.retire, home, old), partial(disk.usage, home)
            yield Candidate("template", name, remove, size)

    return of_each("template", sorted(settings.templates.glob("*/[0-9a-f]*")), of)


def _used(home: Path) -> float:
    """When it was used last, in seconds as of ``time.time``; now where it just went."""
    try:
        return home.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _weight(folder: Path) -> int:
    """Bytes on disk of the files below a folder that others may be changing."""
    total = 0
    for inner, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += disk_size(Path(inner, name).stat().st_size)
    return total


def _write(source: Source, entry: Entry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("x+b") as file:
        source.copy(entry, file)
        if entry.size <= MAX_POINTER:
            file.seek(0)
            if file.read(len(POINTER)) == POINTER:
                raise BuildFailed(
                    f"{quoted(entry.path)} is only a pointer to a Git LFS file, and those are not "
                    "fetched: the template has to hold the file itself"
                )
    target.chmod(0o755 if entry.executable else 0o644)


def _likely(name: str) -> str:
    """The repository of OpenFaaS that probably has a template."""
    for prefix, repository in (("python", "python-flask-template"), ("go", "golang-http-template")):
        if name.startswith(prefix):
            return f"https://github.com/openfaas/{repository}"
    return "https://github.com/openfaas/templates"


def _with(error: SlipwayError, text: str) -> SlipwayError:
    """The same kind of error with another text."""
    if isinstance(error, Conflict):  # the release's own end
        return error
    kinds = (InvalidRequest, CheckoutFailed)  # theirs are made in other ways
    kind = next((kind for kind in kinds if isinstance(error, kind)), type(error))
    told = kind(text)
    told.retryable = error.retryable
    return told
