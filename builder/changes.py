"""Why a function is released anew: what differs from what was live before, by name.

Of what may be a secret only the name is told: never the value of a variable, a label, a build
argument or a secret.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from builder.context import LEFT_OUT
from builder.key import BuildKey, why
from builder.source import TREE, Source, quoted
from core.models import Change, ChangeKind, FunctionSpec
from core.stackfile import StackFunction, inner

NAMES = 5
"""Files, or names of variables, that one change tells."""
_LOOKED_AT = 20_000
"""Names, and folders, among which they are looked for: a commit can have any number of them, as
its folders may all be one and the same."""
_SHORT, _LONGEST = 12, 100
"""Characters of a content address, and of anything else."""
_ADDRESS = re.compile(r"[0-9a-f]{16,}")
_GIT = re.compile(r"[0-9a-f]{40}")
_FIELDS = {
    "fprocess": "env_process",
    "environment": "env_vars",
    "secrets": "secrets",
    "labels": "labels",
    "annotations": "annotations",
    "constraints": "constraints",
    "limits": "limits",
    "requests": "requests",
    "readonly_root_filesystem": "read_only_root_filesystem",
}
"""What a stack file calls it → field of ``FunctionSpec``."""

FIRST = Change(kind=ChangeKind.FIRST)


def in_words(changes: Sequence[Change] | None) -> str:
    """In one line what changed: ``handler changed (handler.py), environment changed (LEVEL)``."""
    return ", ".join(map(str, changes)) if changes else "nothing changed"


def of_build(
    key: BuildKey, before: FunctionSpec, inputs: Mapping[str, str] | None, kept: bool
) -> list[Change]:
    """What goes into the build.

    Args:
        key: of now.
        before: what was live.
        inputs: of its build; None where they are not known any more.
        kept: whether there is an artifact of this key.
    """
    if key.digest == before.key:
        return [] if kept else [_input("artifact", _short(before.artifact), "")]
    if not before.key:
        return [_input("skip_build", _short(before.artifact), "")]
    if inputs is None:
        return [_input("build key", before.key[:_SHORT], key.digest[:_SHORT])]
    return [
        _input(name, _short(inputs.get(name, "")), _short(key.inputs.get(name, "")))
        for name in why(inputs, key.inputs)
    ]


def of_image(artifact: str, before: FunctionSpec) -> list[Change]:
    """Of an image that is not built here: which one it is."""
    if artifact == before.artifact:
        return []
    return [_input("image", _short(before.artifact), _short(artifact))]


def of_configuration(now: FunctionSpec, before: FunctionSpec) -> list[Change]:
    """How the artifact is run; of ``now`` also ``secret_versions`` count, and of both what is
    sealed: the same value sealed anew counts as a change, as nobody here can tell."""
    found = []
    for told, field in _FIELDS.items():
        one, other = _plain(getattr(before, field)), _plain(getattr(now, field))
        if told == "secrets":
            one, other = _values(before) or one, _values(now) or other
        if one != other:
            names = _some(_differing(one, other))
            found.append(Change(kind=ChangeKind.CONFIGURATION, what=told, names=names))
    return found


def with_files(
    changes: Sequence[Change],
    inputs: Mapping[str, str] | None,
    source: Source,
    function: StackFunction,
) -> list[Change]:
    """Adds the names of some files to changes of folders, where the mirror still has the folder as
    it was."""
    places = {f"copy {inner(function, path)}": path for path in function.copy}
    places["handler"] = function.handler
    done = []
    for each in changes:
        oid = (inputs or {}).get(each.what, "")
        if each.what in places and _GIT.fullmatch(oid):
            without = LEFT_OUT if each.what == "handler" else ()
            files = _some(_changed(source, oid, places[each.what], without))
            done.append(msgspec.structs.replace(each, names=files))
        else:
            done.append(each)
    return done


def _input(name: str, before: str, after: str) -> Change:
    shown = name if name.isprintable() and len(name) <= _LONGEST else quoted(name)
    return Change(kind=ChangeKind.BUILD, what=shown, before=before, after=after)


def _short(value: str) -> str:
    """Content addresses within a value by their first digits."""
    told = _ADDRESS.sub(lambda match: match[0][:_SHORT], " ".join(value.split()))
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST - 1]}…"


def _plain(value: object) -> object:
    """A field so that it can be compared: what was absent and what is empty are the same."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    return value or None


def _values(spec: FunctionSpec) -> dict[str, str]:
    """Secret → which value it has, in the store or sealed."""
    return {**(spec.secret_versions or {}), **(spec.sealed or {})}


def _differing(one: object, other: object) -> Iterator[str]:
    """Names of entries that came, went or changed."""
    if isinstance(one, list) or isinstance(other, list):
        before = one if isinstance(one, list) else []
        after = other if isinstance(other, list) else []
        yield from sorted(map(str, set(before) ^ set(after)))
        return
    first = one if isinstance(one, dict) else {}
    then = other if isinstance(other, dict) else {}
    yield from sorted(n for n in {*first, *then} if first.get(n) != then.get(n))


def _changed(source: Source, oid: str, path: str, without: Collection[str]) -> Iterator[str]:
    """Files below ``path`` that came, went or changed since the folder ``oid``, but for those
    ``without`` at its own level; "…" where there is too much to look at."""
    now = source.find(path)
    waiting = deque([("", oid, now.oid if now and now.kind == TREE else "")])
    looked_at = 0
    while waiting:
        if looked_at > _LOOKED_AT:
            yield "…"
            return
        prefix, before, after = waiting.popleft()
        old = source.listing(before) if before else {}
        new = source.listing(after) if after else {}
        if old is None or new is None:
            return
        looked_at += 1 + len(old) + len(new)
        for name in sorted({*old, *new}):
            one, other = old.get(name), new.get(name)
            if one == other or (not prefix and name in without):
                continue
            was, is_ = (each.oid if each and each.kind == TREE else "" for each in (one, other))
            if was or is_:
                waiting.append((f"{prefix}{name}/", was, is_))
            if any(each and each.kind != TREE for each in (one, other)):
                yield prefix + name


def _some(names: Iterator[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if len(found) == NAMES:
            return [*found, "…"]
        found.append(name if name.isprintable() and len(name) <= _LONGEST else quoted(name))
    return found
