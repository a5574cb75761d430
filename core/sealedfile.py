"""``sealed.yml`` at a repository's root: sealed values by namespace and name.

    acme:
      db-password: sealed:1:…
    acme--staging:
      db-password: sealed:1:…

It is read with every mistake told by its line. One entry is written by changing that line alone, so
that comments and the order of the others stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from core import names, sealedbox, yamlnodes
from core.errors import InvalidRequest, InvalidStack
from core.stackvalues import Values, absent
from core.yamlnodes import Document, Node

NAME = "sealed.yml"
MAX_NAMES = 256
"""Of one namespace, as of its other secrets."""
_INDENT = "  "


class Entry(NamedTuple):
    """One sealed value, and where it stands."""

    text: str
    line: int


Sealed = dict[str, dict[str, Entry]]
"""Namespace → name → sealed value."""


def read(data: bytes, path: str = NAME) -> Sealed:
    """Raises InvalidStack: with every mistake found."""
    return _read(yamlnodes.compose(yamlnodes.text_of(data, path), path), path)


def with_entry(text: str, namespace: str, name: str, sealed: str, path: str = NAME) -> str:
    """The file's text with this entry, which is new or takes the place of an earlier one.

    Raises:
        InvalidStack: it has mistakes.
        InvalidRequest: it is written in a way in which no line can be changed by itself.
    """
    document = yamlnodes.compose(yamlnodes.text_of(text.encode(), path), path)
    expected = _texts(_read(document, path))
    expected.setdefault(namespace, {})[name] = sealed
    lines = text.removesuffix("\n").split("\n") if text else []
    root = document.root.entries if isinstance(document.root, yamlnodes.Mapping) else {}
    key, node = root.get(namespace, (None, None))
    entries = node.entries if isinstance(node, yamlnodes.Mapping) else {}
    written = f"{name}: {sealed}"
    if key is None:
        lines += [f"{namespace}:", _INDENT + written]
    elif name in entries:
        old = lines[entries[name][0].line - 1]
        lines[entries[name][0].line - 1] = old[: len(old) - len(old.lstrip())] + written
    else:
        first = next(iter(entries.values()))[0].line if entries else 0
        like = lines[first - 1] if first else _INDENT
        lines.insert(key.line, like[: len(like) - len(like.lstrip())] + written)
    changed = "\n".join(lines) + "\n"
    if _texts(_reread(changed, path)) != expected:
        raise InvalidRequest(
            f"{path} is not written as one line for each name below its namespace, so that none "
            f"can be changed by itself. Write it so, or put this below {namespace!r} yourself:\n"
            f"{written}"
        )
    return changed


def _read(document: Document, path: str) -> Sealed:
    reader = Values(document.mistakes, [])
    found: Sealed = {}
    top = reader.mapping(document.root, "the file") if document.root else {}
    for space, (key, node) in top.items():
        try:
            names.namespace(space)
        except InvalidRequest as error:
            reader.mistake(key.line, str(error))
        found[space] = _namespace(reader, space[:63], node)
    if reader.mistakes:
        raise InvalidStack(path, reader.mistakes)
    return found


def _namespace(reader: Values, space: str, node: Node) -> dict[str, Entry]:
    entries = reader.mapping(node, space)
    if len(entries) > MAX_NAMES:
        told = f"{space} has {len(entries)} names, and {MAX_NAMES} are the most"
        reader.mistake(node.line, f"{told}: remove those that no function uses")
        return {}
    found = {}
    for name, (key, value) in entries.items():
        try:
            names.secret_name(name)
            text = "" if absent(value) else reader.text(value, f"{space}.{name}") or ""
            sealedbox.parse(text)
        except InvalidRequest as error:
            reader.mistake(key.line, f"{space}.{name[:80]}: {error}")
        else:
            found[name] = Entry(text, key.line)
    return found


def _texts(sealed: Mapping[str, Mapping[str, Entry]]) -> dict[str, dict[str, str]]:
    """Without the lines, and without namespaces that have nothing."""
    return {
        space: {name: entry.text for name, entry in entries.items()}
        for space, entries in sealed.items()
        if entries
    }


def _reread(text: str, path: str) -> Sealed:
    try:
        return read(text.encode(), path)
    except InvalidStack:
        return {}
