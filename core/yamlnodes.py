"""YAML as a small tree of nodes that remember their lines; nothing is ever made into objects.

Scalars keep their own text, so that ``on``, ``1.10`` and ``0644`` stay as the user wrote them.
libyaml gives the events, this module the tree, because the bounds have to hold before anything is
expanded: an alias weighs as much as what it stands for, in values and in bytes, so a "billion
laughs" file is refused when its weight is known, not when it is unfolded. Merge keys (``<<``,
https://yaml.org/type/merge.html) are resolved here: keys of the mapping itself win, then the first
merged mapping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from core.errors import InvalidStack, Mistake

MAX_BYTES = 10**6
MAX_ALIASES = 100
MAX_DEPTH = 32
MAX_NODES = 100_000
"""Nodes of the whole file with every alias counted as what it stands for."""
MAX_TEXT = 2 * 10**6
"""Bytes of all names and values, counted likewise."""

MAX_TOLD = 100
"""Mistakes that one file is told: a hostile one could make a hundred thousand."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_STANDARD_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset({"str", "int", "float", "bool", "null", "map", "seq", "merge", "timestamp"})


@dataclass(slots=True)
class Scalar:
    """A value's own text, quotes and escapes resolved."""

    line: int
    text: str
    plain: bool = True
    weight: int = 1
    size: int = 0

    @property
    def null(self) -> bool:
        """Whether it was left empty, or says so without quotes."""
        return self.plain and self.text in _NULLS


@dataclass(slots=True)
class Sequence:
    line: int
    items: list[Node] = field(default_factory=list)
    weight: int = 1
    size: int = 0


@dataclass(slots=True)
class Mapping:
    """Keys in the order they were written, each with the node of its name and its value."""

    line: int
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    weight: int = 1
    size: int = 0


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Document:
    """One file: its root (None where it is empty) and the mistakes that left the rest readable."""

    root: Node | None
    mistakes: list[Mistake]


def text_of(data: bytes, path: str) -> str:
    """The text of a file, without the byte order mark that some editors write.

    Raises:
        InvalidStack: it is too large, or not UTF-8.
    """
    if len(data) > MAX_BYTES:
        told = f"the file has {len(data)} bytes, and {MAX_BYTES} are allowed: make it smaller"
        raise _refused(path, 0, told)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused(path, line, "the file is not UTF-8 text: save it as UTF-8") from error


def compose(text: str, path: str, lines: list[int] | None = None) -> Document:
    """Reads one YAML document; lines count from 1.

    ``lines``: for each line of ``text`` the one that it is told as, where they differ.

    Raises:
        InvalidStack: it is no YAML, or beyond a bound, so that nothing of it can be used.
    """

    def told(line: int) -> int:
        return lines[min(line, len(lines)) - 1] if lines else line

    composer = _Composer(path, told)
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = error.problem or error.context or "it cannot be read"
        at = told(mark.line + 1) if mark else 0
        raise _refused(path, at, f"this is not YAML: {why}") from error
    except yaml.YAMLError as error:  # characters that YAML does not allow carry no mark
        raise _refused(path, 0, f"this is not YAML: {error}") from error
    return Document(composer.root, composer.mistakes)


@dataclass(slots=True)
class _Open:
    """A sequence or mapping whose end has not come yet."""

    node: Sequence | Mapping
    anchor: str | None
    key: Node | None = None
    merged: list[tuple[int, Node]] = field(default_factory=list)


class _Composer:
    """Takes libyaml's events one by one and builds the tree, refusing as early as it can."""

    def __init__(self, path: str, told: Callable[[int], int]) -> None:
        self.path = path
        self._told = told
        self.root: Node | None = None
        self.mistakes: list[Mistake] = []
        self._anchors: dict[str, Node | None] = {}  # None: still open
        self._open: list[_Open] = []
        self._aliases = 0
        self._nodes = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        assert event.start_mark is not None  # libyaml marks every event; the stubs allow for none
        line = self._told(event.start_mark.line + 1)
        if isinstance(event, yaml.ScalarEvent):
            self._tag(event.tag, line)
            size = len(event.value.encode("utf-8", "replace"))
            self._add(Scalar(line, event.value, event.style in (None, ""), size=size), event.anchor)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(Sequence(line), event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(Mapping(line), event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor or "", line)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._refuse(line, "a second document begins here ('---'): keep one per file")

    def _begin(self, node: Sequence | Mapping, event: yaml.CollectionStartEvent) -> None:
        self._tag(event.tag, node.line)
        if len(self._open) >= MAX_DEPTH:
            raise self._refuse(node.line, f"values are nested more than {MAX_DEPTH} levels deep")
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open(node, event.anchor))

    def _end(self) -> None:
        done = self._open.pop()
        if isinstance(done.node, Mapping):
            for line, source in done.merged:
                self._merge(done.node, line, source)
        self._add(done.node, done.anchor)

    def _alias(self, name: str, line: int) -> None:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            told = f"more than {MAX_ALIASES} aliases ('*{name}'): write some of them out"
            raise self._refuse(line, told)
        if name not in self._anchors:
            raise self._refuse(line, f"'*{name}' refers to an anchor that does not exist above it")
        node = self._anchors[name]
        if node is None:
            raise self._refuse(line, f"'*{name}' lies inside what it refers to")
        self._add(node, None, line)

    def _add(self, node: Node, anchor: str | None, line: int = 0) -> None:
        """Hangs a complete node below the innermost open one; ``line``: where, if not its own."""
        self._nodes += 1
        parent = self._open[-1] if self._open else None
        weight = node.weight + (parent.node.weight if parent else 0)
        if self._nodes > MAX_NODES or weight > MAX_NODES:
            told = f"more than {MAX_NODES} values once its aliases are written out: use fewer"
            raise self._refuse(line or node.line, told)
        size = node.size + (parent.node.size if parent else 0)
        if size > MAX_TEXT:
            told = f"more than {MAX_TEXT} bytes of text once its aliases are written out"
            raise self._refuse(line or node.line, f"{told}: repeat less")
        if anchor:
            self._anchors[anchor] = node
        if parent is None:
            self.root = node
            return
        parent.node.weight, parent.node.size = weight, size
        if isinstance(parent.node, Sequence):
            parent.node.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            self._pair(parent, parent.key, node)
            parent.key = None

    def _pair(self, parent: _Open, key: Node, value: Node) -> None:
        assert isinstance(parent.node, Mapping)
        if not isinstance(key, Scalar):
            self._mistake(key.line, "a name here must be plain text")
        elif key.plain and key.text == "<<":
            parent.merged.append((key.line, value))
        elif key.text in parent.node.entries:
            first = parent.node.entries[key.text][0].line
            text = f"{key.text[:80]!r} stands here twice: it is in line {first} already"
            self._mistake(key.line, f"{text}; rename or remove one")
        else:
            parent.node.entries[key.text] = (key, value)

    def _merge(self, into: Mapping, line: int, source: Node) -> None:
        for each in source.items if isinstance(source, Sequence) else [source]:
            if not isinstance(each, Mapping):
                self._mistake(line, "'<<' merges mappings only, such as '<<: *base'")
                continue
            for name, entry in each.entries.items():
                into.entries.setdefault(name, entry)

    def _tag(self, tag: str | None, line: int) -> None:
        if tag is None or tag == "!":
            return
        if not tag.startswith(_STANDARD_TAG) or tag[len(_STANDARD_TAG) :] not in _PLAIN_TAGS:
            shown = tag.replace(_STANDARD_TAG, "!!")[:80]
            self._mistake(line, f"the tag {shown!r} has no meaning here: remove it")

    def _mistake(self, line: int, text: str) -> None:
        if len(self.mistakes) < MAX_TOLD:
            self.mistakes.append(Mistake(line, text))

    def _refuse(self, line: int, text: str) -> InvalidStack:
        return InvalidStack(self.path, [*self.mistakes, Mistake(line, text)])


def _refused(path: str, line: int, text: str) -> InvalidStack:
    return InvalidStack(path, [Mistake(line, text)])
