"""Reads the administrator's policy: the document that SLIPWAY_POLICY names.

    owners: [acme, "github:initech", "gitlab:7"]
    default: {functions: 20, memory: 2Gi}
    policies:
      acme: {functions: 50}

YAML, strictly: what is not known is a mistake, as a bound that is misspelt would not hold. All
mistakes are told at once with their lines. A plain list of logins, one a line, is taken as well:
the CUSTOMERS file of OpenFaaS Cloud
(https://github.com/openfaas/openfaas-cloud/blob/master/docs/README.md).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from core import names, yamlnodes
from core.errors import InvalidRequest, InvalidStack
from core.policy import Owner, OwnerPolicy, Policy
from core.quantities import cpus, size
from core.stackvalues import Entries, Values
from core.yamlnodes import Node, Scalar, Sequence

FORGES = ("github", "gitlab", "gitea")
UNLIMITED = "unlimited"
"""In place of a bound: there is none, whatever the default says."""
_OWNER = re.compile(r"(?:([A-Za-z]+):)?([A-Za-z0-9_.-]{1,255})")
_LISTED = re.compile(r"(?:[A-Za-z]+:)?[A-Za-z0-9_.-]+")
_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_COUNT = re.compile(r"[0-9]{1,9}")
_FORK_PREVIEWS = ("approve", "always", "never")


def read(data: bytes, path: str) -> Policy:
    """``path``: what messages call the document.

    Raises:
        InvalidStack: with every mistake found, each with its line.
    """
    text = yamlnodes.text_of(data, path)
    if (listed := _list(text)) is not None:
        reader = _Reader([], [])
        policy = Policy(owners=reader.owners(listed, "the list"))
    else:
        document = yamlnodes.compose(text, path)
        reader = _Reader(document.mistakes, [])
        policy = reader.policy(document.root)
    if reader.mistakes:
        raise InvalidStack(path, sorted(reader.mistakes, key=lambda each: each.line))
    return policy


def _list(text: str) -> Sequence | None:
    """A plain list of logins; None: it is none."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    if not any(lines) or not all(_LISTED.fullmatch(line) for line in lines if line):
        return None
    return Sequence(1, [Scalar(number, line) for number, line in enumerate(lines, 1) if line])


class _Reader(Values):
    def policy(self, root: Node | None) -> Policy:
        if not isinstance(root, yamlnodes.Mapping):
            told = "it has to have 'owners:', 'default:' or 'policies:'"
            self.mistake(root.line if root else 0, f"{told}; to bound nobody write {{}}")
            return Policy()
        top = root.entries
        self.strict(top, ("owners", "default", "policies"), "")
        owners = self.owners(top["owners"][1], "owners") if "owners" in top else None
        default = OwnerPolicy()
        if "default" in top:
            default = self.bounds(top["default"][1], "default", default)
        policies: dict[str, OwnerPolicy] = {}
        lines: dict[str, int] = {}
        given = self.entries(top["policies"][1], "policies") if "policies" in top else {}
        for name, (key, value) in given.items():
            owner = self.owner_namespace(key, name)
            if owner in lines:
                told = f"policies.{name[:80]}: {owner!r} stands in line {lines[owner]} already"
                self.mistake(key.line, f"{told}: case makes no difference; remove one")
                continue
            lines[owner] = key.line
            policies[owner] = self.bounds(value, f"policies.{name[:80]}", default)
        return Policy(owners=owners, default=default, policies=policies)

    def strict(self, entries: Entries, known: tuple[str, ...], prefix: str) -> None:
        for name, (key, _) in entries.items():
            if name not in known:
                near = difflib.get_close_matches(name[:80], known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                self.mistake(key.line, f"{prefix}{name[:80]} is not known: {hint}")

    def entries(self, node: Node, what: str) -> Entries:
        """A mapping; one that was left empty is a mistake: something was to stand there."""
        if isinstance(node, yamlnodes.Mapping):
            return node.entries
        self.mistake(node.line, f"{what} has to be a mapping of 'name: value' lines")
        return {}

    # Owners

    def owners(self, node: Node, what: str) -> tuple[Owner, ...]:
        if not isinstance(node, Sequence):
            self.mistake(node.line, f"{what} has to be a list; to allow nobody write []")
            return ()
        found: dict[Owner, int] = {}
        for item in node.items:
            owner = self.owner(item, what)
            if owner is None:
                continue
            if owner in found:
                told = f"{what}: {item.text[:80]!r} stands in line {found[owner]} already"  # type: ignore[union-attr]  # owner() took it
                self.mistake(item.line, f"{told}: case makes no difference; remove one")
            found.setdefault(owner, item.line)
        return tuple(found)

    def owner(self, node: Node, what: str) -> Owner | None:
        match = _OWNER.fullmatch(node.text) if isinstance(node, Scalar) else None
        forge = (match[1] or "").lower() if match else ""
        if not match or (forge and forge not in FORGES):
            shown = repr(node.text[:80]) if isinstance(node, Scalar) else "an item"
            rule = f"write a login, <forge>:<login> or <forge>:<id>; forges are {', '.join(FORGES)}"
            self.mistake(node.line, f"{what}: {shown} is no owner: {rule}")
            return None
        who = match[2].lower()
        if forge and who.isdecimal():
            return Owner(forge=forge, id=who)
        return Owner(forge=forge, login=who)

    def owner_namespace(self, key: Scalar, name: str) -> str:
        owner = name.lower()
        try:
            if owner != names.DEFAULT_NAMESPACE:
                names.owner_namespace(owner)
        except InvalidRequest as error:
            self.mistake(key.line, f"policies: {error}")
        return owner

    # Bounds

    def bounds(self, node: Node, what: str, default: OwnerPolicy) -> OwnerPolicy:
        """``default`` with what is written instead."""
        entries = self.entries(node, what)
        self.strict(entries, tuple(_FIELDS), f"{what}.")
        changes = {}
        for name, (field, read_) in _FIELDS.items():
            if name in entries:
                value = entries[name][1]
                try:
                    changes[field] = read_(value)
                except ValueError as error:
                    self.mistake(value.line, f"{what}.{name} is {_shown(value)}: {error}")
        return msgspec.structs.replace(default, **changes)


# Readers of values: each raises ValueError, which says what to write.


def _text(node: Node) -> str:
    return node.text if isinstance(node, Scalar) and not node.null else ""


def _count(least: int) -> Callable[[Node], int | None]:
    def read_(node: Node) -> int | None:
        text = _text(node)
        if text == UNLIMITED:
            return None
        if not _COUNT.fullmatch(text) or int(text) < least:
            message = f"write a whole number from {least}, or {UNLIMITED}"
            raise ValueError(message)
        return int(text)

    return read_


def _memory(node: Node) -> int | None:
    return None if _text(node) == UNLIMITED else size(_text(node))


def _cpus(node: Node) -> float | None:
    return None if _text(node) == UNLIMITED else cpus(_text(node))


def _bool(node: Node) -> bool:
    text = _text(node)
    if text not in ("true", "false"):
        message = "write true or false"
        raise ValueError(message)
    return text == "true"


def _templates(node: Node) -> tuple[str, ...] | None:
    if _text(node) == UNLIMITED:
        return None
    found = [_text(each) for each in node.items] if isinstance(node, Sequence) else [""]
    if not all(map(_TEMPLATE.fullmatch, found)):
        message = f"write a list of templates' names, or {UNLIMITED}"
        raise ValueError(message)
    return tuple(dict.fromkeys(found))


def _fork_previews(node: Node) -> str:
    if _text(node) not in _FORK_PREVIEWS:
        message = f"write one of {', '.join(_FORK_PREVIEWS)}"
        raise ValueError(message)
    return _text(node)


def _shown(node: Node) -> str:
    if not isinstance(node, Scalar):
        return "a list or mapping"
    return "empty" if node.null else repr(node.text[:80])


_FIELDS: Mapping[str, tuple[str, Callable[[Node], Any]]] = {
    "functions": ("functions", _count(0)),
    "memory": ("memory", _memory),
    "cpus": ("cpus", _cpus),
    "replicas": ("replicas", _count(0)),
    "build-minutes": ("build_minutes", _count(0)),
    # With none, releases would wait for ever: 'build-minutes: 0' refuses them.
    "concurrent-builds": ("concurrent_builds", _count(1)),
    "templates": ("templates", _templates),
    "dockerfile": ("dockerfile", _bool),
    "skip-build": ("skip_build", _bool),
    "egress": ("egress", _bool),
    "domain": ("domain", _bool),
    "fork-previews": ("fork_previews", _fork_previews),
    "fork-network": ("fork_network", _bool),
}
