"""Language templates: what surrounds a handler.

    templates/<language>/template.yml     language, fprocess, handler_folder, build_options, …
    templates/<language>/…                the function's server, its requirements, a Dockerfile
    templates/<language>/<handler_folder>/…   a sample handler; see builder/context.py

Format: OpenFaaS' templates (faas-cli's template.yml). A symbolic link stands for the file or
folder it names, as long as that lies within templates/.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from core import yamlnodes
from core.errors import ConfigError, InvalidRequest, InvalidStack, NotSupported
from core.models import Struct
from core.settings import ROOT
from core.stackvalues import Values

FOLDER = ROOT / "templates"
_LEFT_OVER = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".git"})
"""What tools leave behind in a checkout; never part of a template."""


class Template(Struct, frozen=True):
    """One language template."""

    name: str
    folder: Path
    language: str
    fprocess: str
    """The command line of the function's server, as written."""
    digest: str
    """SHA-256 of names, modes and contents of all files."""
    handler_folder: str = "function"
    build_options: dict[str, list[str]] = msgspec.field(default_factory=dict)
    """Packages that each named option adds."""
    welcome_message: str = ""
    files: dict[str, Path] = msgspec.field(default_factory=dict)
    """Path in the template → the real file, sorted."""

    @property
    def process(self) -> list[str]:
        """``fprocess`` as an argument vector: split as a shell would, never given to one."""
        return shlex.split(self.fprocess)

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
)
"""Stands for ``lang: dockerfile``: nothing surrounds the handler folder, which has its own."""


def laid_out(template: Template) -> Template | None:
    """The template whose files lie around the handler's; None where there is none."""
    return None if template is DOCKERFILE else template


def available(folder: Path = FOLDER) -> list[str]:
    """The names of all templates there are."""
    return sorted(each.parent.name for each in folder.glob("*/template.yml"))


def find_template(name: str, folder: Path = FOLDER) -> Template:
    """Reads the template of a ``lang``.

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
            f"lang {name[:80]!r} asks for one version of a template, and templates are the "
            f"server's own here: write {plain[:80]!r}"
        )
    if name not in available(folder):  # a name of ours, so nothing of the user's becomes a path
        known = ", ".join(available(folder)) or "none"
        raise InvalidRequest(f"there is no template {name[:80]!r}: this installation has {known}")
    home = folder / name
    files = sorted(_files(home, folder.resolve()))
    # Read once, and again when a file changed: a worker may live longer than a template.
    stamps = ((real.stat().st_mtime_ns, real.stat().st_size) for _, real in files)
    return _read(home, tuple(files), tuple(stamps))


@functools.lru_cache(maxsize=64)
def _read(
    home: Path, files: tuple[tuple[str, Path], ...], _: tuple[tuple[int, int], ...]
) -> Template:
    """Reads template.yml; a mistake in it is the installation's, not the user's."""
    path = home / "template.yml"
    try:
        document = yamlnodes.compose(yamlnodes.text_of(path.read_bytes(), path.name), path.name)
        reader = Values(document.mistakes, [])
        top = reader.mapping(document.root, path.name) if document.root else {}
        reader.unknown(top, ("mount_ssh", *_KEYS), "")
        texts = {key: reader.text(top[key][1], key) or "" for key in _TEXTS if key in top}
        for key in ("language", "fprocess"):
            if not texts.get(key):
                reader.mistake(0, f"there is no '{key}:'")
        if not _is_command(texts.get("fprocess", "")):
            reader.mistake(0, "fprocess is not a command line")
        where = reader.path(top[_WHERE][1], _WHERE) if _WHERE in top else None
        options = _build_options(reader, top[_OPTIONS][1]) if _OPTIONS in top else {}
        if reader.mistakes or reader.warnings:
            raise InvalidStack(path.name, [*reader.mistakes, *reader.warnings])
    except InvalidStack as error:
        raise ConfigError(f"the template {home.name} cannot be used: {error}") from error
    return Template(
        name=home.name,
        folder=home,
        files=dict(files),
        digest=_digest(files),
        handler_folder=where or "function",
        build_options=options,
        **texts,
    )


_WHERE, _OPTIONS = "handler_folder", "build_options"
_TEXTS = ("language", "fprocess", "welcome_message")
_KEYS = (*_TEXTS, _WHERE, _OPTIONS)


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
        if set(entries) != {"name", "packages"}:
            reader.mistake(item.line, "an item of build_options has to have a name and packages")
            continue
        name = reader.word(entries["name"][1], "build_options.name")
        options[name or ""] = reader.words(entries["packages"][1], "build_options.packages")
    return options


def _files(folder: Path, inside: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """All files below ``folder``, links followed while they stay ``inside``."""
    if prefix.count("/") > 32:
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


def _digest(files: Sequence[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for path, real in files:
        content = hashlib.sha256(real.read_bytes()).hexdigest()
        executable = bool(real.stat().st_mode & stat.S_IXUSR)
        digest.update(f"{path}\0{executable:d}\0{content}\n".encode())
    return digest.hexdigest()
