"""The stack file: which functions a repository has, and how each is to be built and run.

Format: OpenFaaS' stack.yml, version 1.0 (https://docs.openfaas.com/reference/yaml/). Values keep
the text they were written with. All mistakes are told at once with their lines; what is only
unknown or has no effect here is a warning. Nothing is looked up: whether a handler or a template
exists is the builder's to say (builder/check.py).
"""

from __future__ import annotations

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
"""Where the stack file may lie: the first one that exists counts."""


class StackFunction(Struct, frozen=True):
    """One function as its repository describes it. What was absent is None or empty."""

    name: str
    lang: str
    handler: str
    """Folder within the repository, normalised: no ``./``, no ``..``; ``.`` is all of it."""
    lines: dict[str, int]
    """Line of each key that was written, and of the name itself under ``name``."""
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
    platforms: str | None = None

    def line(self, key: str) -> int:
        """The line that speaks of ``key``, else the function's own."""
        return self.lines.get(key, self.lines["name"])


class Stack(Struct, frozen=True):
    """A stack file without mistakes."""

    path: str
    functions: list[StackFunction]


def parse(
    data: bytes, path: str, *, max_functions: int, variables: Mapping[str, str] | None = None
) -> tuple[Stack, list[Mistake]]:
    """Reads a stack file: what it says, and warnings of what has no effect.

    ``variables`` (the owner's own) are all that ``${NAME}`` can see.

    Raises:
        InvalidStack: with every mistake found, each with its line.
    """
    text = substitute(yamlnodes.text_of(data, path), variables or {}, max_length=MAX_BYTES)
    if text.mistakes:
        raise InvalidStack(path, text.mistakes)
    document = yamlnodes.compose(text.text, path)
    reader = _Reader(document.mistakes, text.warnings)
    stack = reader.stack(document.root, path, max_functions)
    if reader.mistakes:
        raise InvalidStack(path, sorted(reader.mistakes, key=lambda mistake: mistake.line))
    return stack, sorted(reader.warnings, key=lambda warning: warning.line)


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
        copies, line = self._configuration(top)
        functions = self._functions(top, max_functions)
        if copies:
            functions = [_with_copies(function, copies, line) for function in functions]
        return Stack(path=path, functions=functions)

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

    def _configuration(self, top: Entries) -> tuple[list[str], int]:
        if "configuration" not in top:
            return [], 0
        configuration = self.mapping(top["configuration"][1], "configuration")
        self.unknown(configuration, ("copy", "templates"), "configuration.")
        if "templates" in configuration:
            told = "configuration.templates: nothing is fetched, the templates are the server's own"
            self.warn(configuration["templates"][0].line, told)
        if "copy" not in configuration:
            return [], 0
        key, node = configuration["copy"]
        return self.copies(node, "configuration.copy"), key.line

    def _functions(self, top: Entries, max_functions: int) -> list[StackFunction]:
        if "functions" not in top:
            self.mistake(0, "there is no 'functions:': name at least one function below it")
            return []
        key, node = top["functions"]
        entries = self.mapping(node, "functions")
        if not entries:
            if isinstance(node, yamlnodes.Mapping) or absent(node):
                self.mistake(key.line, "'functions:' is empty: name at least one function below it")
            return []
        if len(entries) > max_functions:
            told = f"{len(entries)} functions are more than the {max_functions} allowed here"
            self.mistake(key.line, f"{told}: split them over several repositories")
            return []
        read = (self._function(name, value) for name, value in entries.values())
        return [function for function in read if function]

    def _function(self, name: Scalar, node: Node) -> StackFunction | None:
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
        for key, what in (("lang", "a template"), ("handler", "its folder")):
            if key not in values:
                self.mistake(name.line, f"{shown} has no '{key}:': name {what}")
        if self.mistakes:
            return None  # this one's or an earlier one's: nothing of the file will be used
        lines = {key: written.line for key, (written, _) in entries.items()} | {"name": name.line}
        known = {
            key: value for key, value in values.items() if key in StackFunction.__struct_fields__
        }
        return StackFunction(name=name.text, lines=lines, **known)  # type: ignore[arg-type]  # by table

    # Keys that are known and do nothing, or not yet.

    def image(self, node: Node, what: str) -> str | None:
        value = self.word(node, what)
        host, slash, _ = (value or "").partition("/")
        if slash and _REGISTRY.fullmatch(host):
            told = f"{what}: nothing is pushed to {host[:80]}, what is built stays on this server"
            self.warn(node.line, told)
        return value

    def platforms(self, node: Node, what: str) -> str | None:
        self.warn(node.line, f"{what} has no effect: builds are for this server's own platform")
        return self.word(node, what)

    def skip_build(self, node: Node, what: str) -> bool | None:
        value = self.boolean(node, what)
        if value:
            told = f"{what}: ready-made images cannot be run here yet: give a lang and a handler"
            self.mistake(node.line, told)
        return value

    def build_secrets(self, node: Node, what: str) -> None:
        told = f"{what}: builds get no secrets in this version: remove it, or vendor what needs it"
        self.mistake(node.line, told)


def _with_copies(function: StackFunction, copies: list[str], line: int) -> StackFunction:
    lines = {"copy": line, **function.lines}
    copy = list(dict.fromkeys([*copies, *function.copy]))
    return msgspec.structs.replace(function, copy=copy, lines=lines)


_FUNCTION_KEYS: dict[str, Callable[[_Reader, Node, str], object]] = {
    "lang": _Reader.word,
    "handler": _Reader.path,
    "image": _Reader.image,
    "namespace": _Reader.namespace,
    "fprocess": _Reader.word,
    "environment": _Reader.environment,
    "environment_file": _Reader.paths,
    "secrets": _Reader.secrets,
    "labels": _Reader.texts,
    "annotations": _Reader.annotations,
    "constraints": _Reader.words,
    "limits": _Reader.resources,
    "requests": _Reader.resources,
    "readonly_root_filesystem": _Reader.boolean,
    "build_args": _Reader.build_args,
    "build_options": _Reader.words,
    "build_secrets": _Reader.build_secrets,
    "copy": _Reader.copies,
    "platforms": _Reader.platforms,
    "skip_build": _Reader.skip_build,
}
