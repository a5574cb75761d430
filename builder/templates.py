"""Language templates: what surrounds a handler.

    templates/<language>/template.yml     language, fprocess, handler_folder, build_options, …
    templates/<language>/…                the function's server, its requirements, a Dockerfile
    templates/<language>/<handler_folder>/…   a sample handler; see builder/context.py

Format: OpenFaaS' templates (faas-cli's template.yml). These are the installation's own; those of
others (``templatesources``) are read by the same ``described``, and are not ``ours``: what is wrong
in them is their author's mistake, and their Dockerfile is trusted no more than a user's.
In templates/ a symbolic link stands for the file or folder it names, as long as that lies within.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from builder.source import MAX_DEPTH
from core import yamlnodes
from core.errors import ConfigError, InvalidRequest, InvalidStack, Mistake, NotSupported
from core.models import Struct
from core.settings import ROOT
from core.stackvalues import Values, absent

FOLDER = ROOT / "templates"
_LEFT_OVER = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".git"})
"""What tools leave behind in a checkout; never part of a template."""
ALIASES = {
    "python3": "python3-flask",
    "python3-debian": "python3-flask",
    "python3-flask-debian": "python3-flask",
    "python3-http-debian": "python3-http",
    **dict.fromkeys(("node18", "node20", "node22"), "node"),
}
"""Templates of OpenFaaS whose handlers one of ours takes unchanged; its name counts last."""
LABEL = b"com.slipway.template="
"""In its Dockerfile: the template's server takes its socket as our own templates do (adr 0005)."""


_HANDLER_FOLDER = "function"
_SAMPLES = ("handler.*", "test_*", "*_test.*", "*.test.*")


class Template(Struct, frozen=True):
    """One language template."""

    name: str
    folder: Path
    language: str
    fprocess: str
    """The command line of the function's server, as written; of others' templates perhaps none."""
    digest: str
    """SHA-256 of names, modes and contents of all files that become part of a function."""
    handler_folder: str = _HANDLER_FOLDER
    build_options: dict[str, list[str]] = msgspec.field(default_factory=dict)
    """Packages that each named option adds."""
    welcome_message: str = ""
    files: dict[str, Path] = msgspec.field(default_factory=dict)
    """Path in the template → the real file, sorted."""
    ours: bool = True
    """Whether it is the installation's own: its Dockerfile then gets our arguments and secrets."""
    place: str = ""
    """Where it was found, for people; empty where it is the installation's."""

    @property
    def foreign(self) -> bool:
        """Whether it is a template of somebody else's."""
        return bool(self.place)

    @property
    def process(self) -> list[str]:
        """``fprocess`` as an argument vector: split as a shell would, never given to one."""
        return shlex.split(self.fprocess)

    @property
    def deployed_process(self) -> str | None:
        """What is deployed as ``fprocess`` where the function names none: as in OpenFaaS that of
        template.yml. Our own images have theirs already."""
        return None if self.ours else self.fprocess or None

    def told(self) -> str:
        """Its name and place, as errors name it."""
        return f"the template {self.name}" + (f" ({self.place})" if self.place else "")

    def packages(self, options: Sequence[str]) -> list[str]:
        """The packages that a function's ``build_options`` add, sorted.

        Raises:
            InvalidRequest: an option is not one of this template.
        """
        for option in options:
            if option not in self.build_options:
                known = ", ".join(sorted(self.build_options)) or "none"
                told = f"{self.name} has no build option {option[:80]!r}"
                raise InvalidRequest(f"{told}: it has {known}")
        return sorted({package for option in options for package in self.build_options[option]})


DOCKERFILE = Template(
    name="dockerfile",
    folder=Path(),
    language="dockerfile",
    fprocess="",
    digest="",
    handler_folder="",
    ours=False,
)
"""Stands for ``lang: dockerfile``: nothing surrounds the handler folder, which has its own."""


def laid_out(template: Template) -> Template | None:
    """The template whose files lie around the handler's; None where there is none."""
    return None if template is DOCKERFILE else template


def available(folder: Path = FOLDER) -> list[str]:
    """The names of all templates there are."""
    return sorted(each.parent.name for each in folder.glob("*/template.yml"))


def find_template(name: str, folder: Path = FOLDER) -> Template:
    """Reads one of the installation's own templates.

    Raises:
        InvalidRequest: there is none of that name; the message lists those there are.
        NotSupported: a ``lang`` that OpenFaaS knows and this installation cannot serve.
        ConfigError: the template itself is wrong.
    """
    if name == "dockerfile":
        raise NotSupported(
            "lang 'dockerfile' needs the docker runtime, which this installation does not have: "
            f"use one of {', '.join(available(folder))}"
        )
    plain, at, _ = name.partition("@")
    if at:
        raise NotSupported(
            f"lang {name[:80]!r} asks for one version of a template, and no source is named for "
            f"it: write {plain[:80]!r}, or give its source in configuration.templates"
        )
    name = own_name(name, folder) or name
    if name not in available(folder):  # a name of ours, so nothing of the user's becomes a path
        known = ", ".join(available(folder)) or "none"
        raise InvalidRequest(f"there is no template {name[:80]!r}: this installation has {known}")
    home = folder / name
    files = sorted(_files(home, folder.resolve()))
    # Read once, and again when a file changed: a worker may live longer than a template.
    stamps = ((real.stat().st_mtime_ns, real.stat().st_size) for _, real in files)
    return _read(home, tuple(files), tuple(stamps))


def own_name(lang: str, folder: Path = FOLDER) -> str | None:
    """The installation's template that a ``lang`` or its alias stands for; None: there is none."""
    known = available(folder)
    return next((name for name in (lang, ALIASES.get(lang)) if name in known), None)


def read_foreign(name: str, home: Path, place: str) -> tuple[Template, list[Mistake]]:
    """Reads a template of somebody else's from a folder of plain files: (it, warnings).

    Raises:
        InvalidRequest: there is no template.yml.
        InvalidStack: its template.yml is wrong; with every mistake and its line.
    """
    files = sorted(_files(home, home.resolve()))
    path = f"template.yml of the template {name} ({place})"
    real = dict(files).get("template.yml")
    if real is None:
        raise InvalidRequest(f"there is no {path}: a template's folder has to have one")
    with real.open("rb") as file:
        found, warnings = described(file.read(yamlnodes.MAX_BYTES + 1), path, ours=False)
    digest = _digest(files, found)
    files_ = dict(files)
    return Template(name, home, digest=digest, files=files_, ours=False, place=place, **found), (
        warnings
    )


@functools.lru_cache(maxsize=64)
def _read(
    home: Path, files: tuple[tuple[str, Path], ...], _: tuple[tuple[int, int], ...]
) -> Template:
    """Reads template.yml; a mistake in it is the installation's, not the user's."""
    path = home / "template.yml"
    try:
        found, _warnings = described(path.read_bytes(), path.name, ours=True)
    except InvalidStack as error:
        raise ConfigError(f"the template {home.name} cannot be used: {error}") from error
    return Template(home.name, home, digest=_digest(files, found), files=dict(files), **found)


def described(data: bytes, path: str, *, ours: bool) -> tuple[dict[str, Any], list[Mistake]]:
    """What a template.yml says, as fields of ``Template``; and warnings.

    Of our own everything has to be there and known; others' may leave out all, as in OpenFaaS.

    Raises:
        InvalidStack: with every mistake and its line.
    """
    document = yamlnodes.compose(yamlnodes.text_of(data, path), path)
    reader = Values(document.mistakes, [])
    top = reader.mapping(document.root, path) if document.root else {}
    reader.unknown(top, _KEYS, "")
    found: dict[str, Any] = dict.fromkeys(_TEXTS, "")
    found |= {key: reader.text(top[key][1], key) or "" for key in _TEXTS if key in top}
    for key in ("language", "fprocess"):
        if ours and not found[key]:
            reader.mistake(0, f"there is no '{key}:'")
    if found["fprocess"] and not _is_command(found["fprocess"]):
        reader.mistake(top["fprocess"][0].line, "fprocess is not a command line")
    where = top.get(_WHERE)
    if where and not absent(where[1]):
        found[_WHERE] = reader.path(where[1], _WHERE) or ""
        if found[_WHERE] == ".":
            reader.mistake(where[0].line, f"{_WHERE} has to be a folder below the template's own")
    if _OPTIONS in top and not absent(top[_OPTIONS][1]):
        found[_OPTIONS] = _build_options(reader, top[_OPTIONS][1])
    if _SSH in top and reader.boolean(top[_SSH][1], _SSH):
        told = f"{_SSH}: builds have no ssh agent; fetch over https, or vendor what needs it"
        reader.mistake(top[_SSH][0].line, told)
    mistakes = [*reader.mistakes, *(reader.warnings if ours else [])]
    if mistakes:
        raise InvalidStack(path, mistakes)
    return found, reader.warnings


_WHERE, _OPTIONS, _SSH = "handler_folder", "build_options", "mount_ssh"
_TEXTS = ("language", "fprocess", "welcome_message")
_KEYS = (*_TEXTS, _WHERE, _OPTIONS, _SSH)


def _is_command(text: str) -> bool:
    try:
        return bool(shlex.split(text))
    except ValueError:  # a quote that is not closed
        return False


def _build_options(reader: Values, node: yamlnodes.Node) -> dict[str, list[str]]:
    """A list of ``{name, packages}``."""
    if not isinstance(node, yamlnodes.Sequence):
        reader.mistake(node.line, "build_options has to be a list")
        return {}
    options = {}
    for item in node.items:
        entries = reader.mapping(item, "an item of build_options")
        if not {"name", "packages"} <= set(entries):
            if isinstance(item, yamlnodes.Mapping):
                told = "an item of build_options has to have a name and packages"
                reader.mistake(item.line, told)
            continue
        reader.unknown(entries, ("name", "packages"), "build_options.")
        name = reader.word(entries["name"][1], "build_options.name")
        options[name or ""] = reader.words(entries["packages"][1], "build_options.packages")
    return options


def _files(folder: Path, inside: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """All files below ``folder``, links followed while they stay ``inside``."""
    if prefix.count("/") > MAX_DEPTH:  # of others' templates none comes here: they have no links
        raise ConfigError(f"the template folder {folder} holds a link to itself")
    with os.scandir(folder) as found:
        entries = list(found)
    for each in entries:
        real = Path(each.path).resolve()
        if each.name in _LEFT_OVER or each.name.endswith(".pyc"):
            continue
        if inside not in real.parents:
            raise ConfigError(f"the template file {each.path} is a link that leads out of {inside}")
        if real.is_dir():
            yield from _files(real, inside, f"{prefix}{each.name}/")
        elif real.is_file():
            yield prefix + each.name, real


def is_sample(path: str, handler_folder: str) -> bool:
    """Whether a file of a template is its sample handler, or a test of that: these never become
    part of a function."""
    name = path.rpartition("/")[2].lower()
    inside = path.startswith(f"{handler_folder}/")
    return inside and any(fnmatch.fnmatchcase(name, each) for each in _SAMPLES)


def _digest(files: Sequence[tuple[str, Path]], found: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for path, real in files:
        if is_sample(path, found.get(_WHERE, _HANDLER_FOLDER)):
            continue
        content = hashlib.sha256(real.read_bytes()).hexdigest()
        executable = bool(real.stat().st_mode & stat.S_IXUSR)
        digest.update(f"{path}\0{executable:d}\0{content}\n".encode())
    return digest.hexdigest()
