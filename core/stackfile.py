"""The stack file: which functions a repository has, and how each is to be built and run.

Format: OpenFaaS' stack.yml, version 1.0 (https://docs.openfaas.com/reference/yaml/). Values keep
the text they were written with. All mistakes are told at once with their lines; what is only
unknown or has no effect here is a warning. Nothing is looked up: whether a handler or a template
exists is the builder's to say (builder/check.py).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from core import names, yamlnodes
from core.errors import InvalidRequest, InvalidStack, Mistake
from core.models import Resources, Struct
from core.stackvalues import Entries, Values, absent
from core.substitution import substitute
from core.yamlnodes import MAX_BYTES, Node, Scalar

STACK_FILES: Final = ("stack.yaml", "stack.yml")
"""What a stack file is called: of two in one folder the first counts."""


class StackFunction(Struct, frozen=True):
    """One function as its repository describes it. What was absent is None or empty."""

    name: str
    lines: dict[str, int]
    """Line of each key that was written (``secrets``), of the name itself under ``name``, and of
    what stands below a key (``secrets.db-password``)."""
    lang: str = ""
    """Name of a template; may carry ``@tag``, ``@branch`` or ``@sha-<hex>``. Empty where
    ``skip_build`` is set and nothing was written."""
    handler: str = "."
    """Folder within the repository, normalised: no ``./``, no ``..``; ``.`` is all of it."""
    folder: str = "."
    """Where its stack file lies in the repository."""
    namespace: str | None = None
    """Must be the owner's own where given."""
    image: str | None = None
    fprocess: str | None = None
    environment: dict[str, str] | None = None
    environment_file: list[str] = msgspec.field(default_factory=list)
    """Files within the repository, later ones win; see ``read_environment_file``."""
    secrets: list[str] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    constraints: list[str] | None = None
    limits: Resources | None = None
    requests: Resources | None = None
    readonly_root_filesystem: bool | None = None
    build_args: dict[str, str] = msgspec.field(default_factory=dict)
    build_options: list[str] = msgspec.field(default_factory=list)
    copy: list[str] = msgspec.field(default_factory=list)
    """Paths within the repository that are laid beside the handler's files: those of
    ``configuration.copy``, then the function's own."""
    build_secrets: dict[str, str] = msgspec.field(default_factory=dict)
    """Id → a path as written, or the name of a secret; see ``builder.buildsecrets``."""
    skip_build: bool = False
    """``image`` is ready-made: nothing is built."""
    platforms: str | None = None

    @property
    def takes_over(self) -> str:
        """The repository of the same owner that the function moves away from; or empty."""
        return (self.annotations or {}).get(names.TAKES_OVER, "")

    def line(self, key: str, item: str = "") -> int:
        """The line that speaks of ``key``, or of ``item`` below it; else the function's own."""
        found = self.lines.get(f"{key}.{item}") or self.lines.get(key)
        return found or self.lines["name"]


def inner(function: StackFunction, path: str) -> str:
    """A path that the function copies, as it is from its stack file's folder: there it lies beside
    the handler's files, wherever the folder is."""
    return path if function.folder == "." else path.removeprefix(f"{function.folder}/")


class TemplateSource(Struct, frozen=True):
    """One line of ``configuration.templates``: where the template ``name`` comes from."""

    name: str
    """As a function's ``lang`` names it; may carry ``@tag``, ``@branch`` or ``@sha-<hex>``."""
    source: str
    """``<git URL>[#<ref>]`` as written; empty where none was given."""
    line: int


class Stack(Struct, frozen=True):
    """What a stack file says."""

    path: str
    functions: list[StackFunction]
    templates: list[TemplateSource] = msgspec.field(default_factory=list)
    others: dict[str, int] = msgspec.field(default_factory=dict)
    """Further stack files that this one names below ``x-stacks``, from the repository's root, each
    with its line."""
    environments: dict[str, str] = msgspec.field(default_factory=dict)
    """Name → branch, of what ``x-environments`` names."""
    environment_lines: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where it lies in the repository, normalised; ``.`` is the root. All its paths are
        relative to that; those of ``functions`` are from the root."""
        return posixpath.dirname(self.path) or "."


class Reading(Struct, frozen=True):
    """What became of a stack file. With mistakes, some of its functions may be missing."""

    stack: Stack
    mistakes: list[Mistake]
    warnings: list[Mistake]


def read(
    data: bytes, path: str, *, max_functions: int, variables: Mapping[str, str] | None = None
) -> Reading:
    """Reads a stack file, as far as it can be read: its mistakes and warnings are in the order of
    their lines.

    ``variables`` (the owner's own) are all that ``${NAME}`` can see.

    Raises:
        InvalidStack: nothing of it can be read.
    """
    text = substitute(yamlnodes.text_of(data, path), variables or {}, max_length=MAX_BYTES)
    if text.mistakes:
        raise InvalidStack(path, text.mistakes)
    document = yamlnodes.compose(text.text, path, text.lines)
    reader = _Reader(document.mistakes, text.warnings, posixpath.dirname(path) or ".")
    stack = reader.stack(document.root, path, max_functions)
    mistakes = sorted(reader.mistakes, key=lambda mistake: mistake.line)
    return Reading(stack, mistakes, sorted(reader.warnings, key=lambda warning: warning.line))


def parse(
    data: bytes, path: str, *, max_functions: int, variables: Mapping[str, str] | None = None
) -> tuple[Stack, list[Mistake]]:
    """As ``read``, of a file that has to be right: what it says, and warnings.

    Raises:
        InvalidStack: with every mistake found, each with its line.
    """
    reading = read(data, path, max_functions=max_functions, variables=variables)
    if reading.mistakes:
        raise InvalidStack(path, reading.mistakes)
    return reading.stack, reading.warnings


def read_environment_file(data: bytes, path: str) -> dict[str, str]:
    """Reads the ``environment:`` map of a file that a function names in ``environment_file``.

    Nothing is substituted, as in OpenFaaS.

    Raises:
        InvalidStack: it is no such file; with every mistake found.
    """
    document = yamlnodes.compose(yamlnodes.text_of(data, path), path)
    reader = Values(document.mistakes, [])
    top = reader.mapping(document.root, "the file") if document.root else {}
    found = top.get("environment")
    if found is None and not reader.mistakes:
        reader.mistake(0, "there is no 'environment:' in it: put the variables below that key")
    environment = reader.environment(found[1]) if found else None
    if reader.mistakes:
        raise InvalidStack(path, reader.mistakes)
    return environment or {}


_REGISTRY = re.compile(r"localhost|[^/]*[.:][^/]*")
_TOP_KEYS = ("version", "provider", "functions", "configuration")
MAX_STACKS = 50
"""Stack files of one repository."""
_MAX_TEMPLATES = 100
OTHERS = "x-stacks"
ENVIRONMENTS = "x-environments"
"""Our own keys of the stack file at the root; clients of OpenFaaS pass over them."""
MAX_ENVIRONMENTS = 20


class _Reader(Values):
    """Walks the nodes of a stack file, from the top down."""

    def stack(self, root: Node | None, path: str, max_functions: int) -> Stack:
        if root is None or absent(root):
            self.mistake(0, "the file is empty: it needs 'provider:' and 'functions:'")
            return Stack(path=path, functions=[])
        top = self.mapping(root, "the file")
        if not isinstance(root, yamlnodes.Mapping):
            return Stack(path=path, functions=[])
        own = {name: entry for name, entry in top.items() if not name.startswith("x-")}
        self.unknown(own, _TOP_KEYS, "")  # x-…: where people keep what they merge from
        self._version(top)
        self._provider(top)
        copies, line, templates = self._configuration(top)
        others = self._others(top, path)
        functions = [] if others and "functions" not in top else self._functions(top, max_functions)
        if copies:
            functions = [_with_copies(function, copies, line) for function in functions]
        environments, environment_lines = self._environments(top)
        return Stack(
            path=path,
            functions=functions,
            templates=templates,
            others=others,
            environments=environments,
            environment_lines=environment_lines,
        )

    def _version(self, top: Entries) -> None:
        if "version" not in top:
            return
        key, node = top["version"]
        version = self.text(node, "version")
        if version is not None and version != "1.0":
            self.mistake(key.line, f"version {version[:40]!r} is not known: write 'version: 1.0'")

    def _provider(self, top: Entries) -> None:
        if "provider" not in top:
            self.mistake(0, "there is no 'provider:': add 'provider:' with 'name: openfaas' in it")
            return
        key, node = top["provider"]
        provider = self.mapping(node, "provider")
        self.unknown(provider, ("name", "gateway", "network"), "provider.")
        name = self.text(provider["name"][1], "provider.name") if "name" in provider else None
        if name != "openfaas":
            line = provider["name"][0].line if "name" in provider else key.line
            self.mistake(line, f"provider.name is {(name or '')[:40]!r}: it has to be openfaas")

    def _configuration(self, top: Entries) -> tuple[list[str], int, list[TemplateSource]]:
        """(copied paths, their line, templates)."""
        if "configuration" not in top:
            return [], 0, []
        configuration = self.mapping(top["configuration"][1], "configuration")
        self.unknown(configuration, ("copy", "templates"), "configuration.")
        copies, line, templates = [], 0, []
        if "templates" in configuration:
            templates = self._templates(configuration["templates"][1])
        if "copy" in configuration:
            key, node = configuration["copy"]
            copies, line = self.copies(node, "configuration.copy"), key.line
        return copies, line, templates

    def _templates(self, node: Node) -> list[TemplateSource]:
        what = "configuration.templates"
        if absent(node):
            return []
        if not isinstance(node, yamlnodes.Sequence):
            self.mistake(node.line, f"{what} has to be a list of '- name: …' entries")
            return []
        if len(node.items) > _MAX_TEMPLATES:
            told = f"{what} has {len(node.items)} entries, and {_MAX_TEMPLATES} are allowed"
            self.mistake(node.line, f"{told}: name those that are used")
            return []
        found = []
        for item in node.items:
            entries = self.mapping(item, f"an item of {what}")
            self.unknown(entries, ("name", "source"), f"{what}.")
            texts = {
                key: self.word(entries[key][1], f"{what}.{key}")
                for key in ("name", "source")
                if key in entries and not absent(entries[key][1])
            }
            if "name" not in texts:
                self.mistake(item.line, f"an item of {what} has no 'name:': name the template")
            source = texts.get("source") or ""
            found.append(TemplateSource(texts.get("name") or "", source, item.line))
        return found

    def _others(self, top: Entries, path: str) -> dict[str, int]:
        """What ``x-stacks`` names: as far as possible, read like everything else."""
        if OTHERS not in top or absent(top[OTHERS][1]):
            return {}
        key, node = top[OTHERS]
        if self.folder != ".":
            told = f"{OTHERS} counts in the stack file at the repository's root only: remove it"
            self.mistake(key.line, told)
            return {}
        items = node.items if isinstance(node, yamlnodes.Sequence) else [node]
        paths = self.paths(node, OTHERS)
        lines = {posixpath.normpath(i.text): i.line for i in items if isinstance(i, Scalar)}
        if path in paths:
            self.mistake(lines.get(path, key.line), f"{OTHERS} names {path} itself: remove it")
        if len(paths) >= MAX_STACKS:
            told = f"{OTHERS} names {len(paths)} files, and {MAX_STACKS - 1} are allowed"
            self.mistake(key.line, f"{told}: put several into one")
            return {}
        return {each: lines.get(each, key.line) for each in paths if each != path}

    def _environments(self, top: Entries) -> tuple[dict[str, str], dict[str, int]]:
        """(name → branch, name → line) of what ``x-environments`` names."""
        if ENVIRONMENTS not in top or absent(top[ENVIRONMENTS][1]):
            return {}, {}
        key, node = top[ENVIRONMENTS]
        if self.folder != ".":
            told = f"{ENVIRONMENTS} counts in the stack file at the repository's root only"
            self.mistake(key.line, f"{told}: remove it")
            return {}, {}
        entries = self.mapping(node, ENVIRONMENTS)
        if len(entries) > MAX_ENVIRONMENTS:
            told = f"{ENVIRONMENTS} names {len(entries)}, and {MAX_ENVIRONMENTS} are allowed"
            self.mistake(key.line, f"{told}: leave out what is not needed")
            return {}, {}
        found, lines = {}, {}
        for name, value in entries.values():
            branch = self.word(value, f"{ENVIRONMENTS}.{name.text[:80]}")
            try:
                names.environment_name(name.text)
                if branch is not None:
                    found[name.text] = names.branch(branch)
            except InvalidRequest as error:
                self.mistake(name.line, str(error))
            lines[name.text] = name.line
        return found, lines

    def _functions(self, top: Entries, max_functions: int) -> list[StackFunction]:
        if "functions" not in top:
            told = "there is no 'functions:': name your functions below it"
            self.mistake(0, f"{told}, or write 'functions: {{}}' to have none deployed")
            return []
        key, node = top["functions"]
        entries = self.mapping(node, "functions")
        if absent(node):  # by an oversight, as a rule: what is below it is not indented
            told = "there is nothing below 'functions:': name your functions there, indented"
            self.mistake(key.line, f"{told}, or write 'functions: {{}}' to have none deployed")
            return []
        if not entries:
            if isinstance(node, yamlnodes.Mapping):
                told = "no functions: nothing is deployed, and what was is taken down"
                self.warn(key.line, told)
            return []
        if len(entries) > max_functions:
            told = f"{len(entries)} functions are more than the {max_functions} allowed here"
            self.mistake(key.line, f"{told}: split them over several repositories")
            return []
        read = (self._function(name, value) for name, value in entries.values())
        return [function for function in read if function]

    def _function(self, name: Scalar, node: Node) -> StackFunction | None:
        before = len(self.mistakes)
        try:
            names.function_name(name.text)
        except InvalidRequest as error:
            self.mistake(name.line, str(error))
        shown = name.text if len(name.text) <= 63 else f"{name.text[:60]}..."
        entries = self.mapping(node, f"function {shown!r}")
        self.unknown(entries, _FUNCTION_KEYS, f"{shown}.")
        values = {
            key: read(self, value, f"{shown}.{key}")
            for key, read in _FUNCTION_KEYS.items()
            if key in entries and not absent(value := entries[key][1])
        }
        if values.get("skip_build"):
            if "image" not in values:
                told = f"{shown} has skip_build and no 'image:': name the ready-made image"
                self.mistake(entries["skip_build"][0].line, told)
        else:
            for key, what in (("lang", "a template"), ("handler", "its folder")):
                if key not in values:
                    self.mistake(name.line, f"{shown} has no '{key}:': name {what}")
            if values.get("image"):
                self._not_pushed(entries["image"][1], f"{shown}.image", str(values["image"]))
        if len(self.mistakes) > before:
            return None
        known = {key: value for key, value in values.items() if value is not None}
        lines = _lines(name, entries)
        return StackFunction(name=name.text, folder=self.folder, lines=lines, **known)  # type: ignore[arg-type]  # by table

    def lang(self, node: Node, what: str) -> str | None:
        """OpenFaaS' client knows ``dockerfile`` in any case, and templates as they are written."""
        word = self.word(node, what)
        return "dockerfile" if word and word.lower() == "dockerfile" else word

    # What is kept, and has no effect on one server.

    def _not_pushed(self, node: Node, what: str, image: str) -> None:
        host, slash, _ = image.partition("/")
        if slash and _REGISTRY.fullmatch(host):
            told = f"{what}: nothing is pushed to {host[:80]}, what is built stays on this server"
            self.warn(node.line, told)

    def read_only(self, node: Node, what: str) -> bool | None:
        value = self.boolean(node, what)
        if value is False:
            self.warn(node.line, f"{what}: false has no effect: only /tmp can be written to")
        return value

    def platforms(self, node: Node, what: str) -> str | None:
        self.warn(node.line, f"{what} has no effect: builds are for this server's own platform")
        return self.word(node, what)

    def constraints(self, node: Node, what: str) -> list[str]:
        self.warn(node.line, f"{what} are kept and shown; there is one server to run on")
        return self.words(node, what)


def _lines(name: Scalar, entries: Entries) -> dict[str, int]:
    """See ``StackFunction.lines``."""
    lines = {}
    for key, (written, node) in entries.items():
        lines[key] = written.line
        if isinstance(node, yamlnodes.Mapping):
            lines |= {f"{key}.{each}": item.line for each, (item, _) in node.entries.items()}
        elif isinstance(node, yamlnodes.Sequence):
            items = [item for item in node.items if isinstance(item, Scalar)]
            lines |= {f"{key}.{item.text}": item.line for item in items}
    return lines | {"name": name.line}


def _with_copies(function: StackFunction, copies: list[str], line: int) -> StackFunction:
    lines = {"copy": line, **function.lines}
    copy = list(dict.fromkeys([*copies, *function.copy]))
    return msgspec.structs.replace(function, copy=copy, lines=lines)


_FUNCTION_KEYS: dict[str, Callable[[_Reader, Node, str], object]] = {
    "lang": _Reader.lang,
    "handler": _Reader.path,
    "image": _Reader.word,
    "namespace": _Reader.namespace,
    "fprocess": _Reader.word,
    "environment": _Reader.environment,
    "environment_file": _Reader.paths,
    "secrets": _Reader.secrets,
    "labels": _Reader.labels,
    "annotations": _Reader.annotations,
    "constraints": _Reader.constraints,
    "limits": _Reader.resources,
    "requests": _Reader.resources,
    "readonly_root_filesystem": _Reader.read_only,
    "build_args": _Reader.build_args,
    "build_options": _Reader.words,
    "build_secrets": _Reader.build_secrets,
    "copy": _Reader.copies,
    "platforms": _Reader.platforms,
    "skip_build": _Reader.boolean,
}
