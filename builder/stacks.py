"""The stack files of a commit, read together.

    stack.yaml or stack.yml at the root    counts, with those that it names below x-stacks
    none of them at the root               every one below it counts, but in folders called build,
                                           template or node_modules, and in hidden ones

Paths in a file are from its own folder. The functions of all files are one release, so no two may
have one name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from builder.source import TREE, Source
from core.errors import (
    BuildFailed,
    Conflict,
    InvalidRequest,
    InvalidStack,
    Mistake,
    NotFound,
    TooLarge,
)
from core.names import NONE_AT_ALL
from core.stackfile import ENVIRONMENTS, MAX_STACKS, OTHERS, STACK_FILES, Stack, read
from core.yamlnodes import MAX_BYTES, MAX_TOLD

_MAX_DEPTH = 8
_MAX_SEEN = 100_000
"""Folders below the root, and names in them, that are looked through for stack files."""
_PASSED_OVER = ("build", "template", "node_modules")


@dataclass(frozen=True)
class Stacks:
    """What was read."""

    stacks: list[Stack] = field(default_factory=list)
    """Those that could be read, by their paths; those with mistakes lack functions."""
    mistakes: dict[str, list[Mistake]] = field(default_factory=lambda: defaultdict(list))
    """By the path of the stack file that they are in."""
    warnings: list[tuple[str, Mistake]] = field(default_factory=list)

    @property
    def told(self) -> int:
        return sum(map(len, self.mistakes.values()))

    @property
    def environments(self) -> dict[str, str]:
        """Name → branch; only the file at the root has any."""
        return {
            name: branch for stack in self.stacks for name, branch in stack.environments.items()
        }

    def check_environments(self, deploy_branch: str, check: Callable[[str], None]) -> None:
        """Notes the mistakes of what the file at the root names; ``check`` raises Conflict where
        the owner cannot have an environment of a name."""
        for stack in self.stacks:
            for name, branch in stack.environments.items():
                told = ""
                if branch == deploy_branch:
                    told = f"{branch} is the deploy branch, which has no other: name another branch"
                else:
                    try:
                        check(name)
                    except Conflict as error:
                        told = str(error)
                if told:
                    mistake = Mistake(
                        stack.environment_lines[name], f"{ENVIRONMENTS}.{name}: {told}"
                    )
                    self.mistakes[stack.path].append(mistake)

    def refuse(self) -> None:
        """Raises where there are mistakes: InvalidStack for those of one file, InvalidRequest for
        those of several, with each file's."""
        errors: list[InvalidRequest] = []
        room = MAX_TOLD
        for path, mistakes in sorted(self.mistakes.items()):
            if mistakes and room > 0:
                each = {(mistake.line, mistake.text): mistake for mistake in mistakes}
                told = [each[place] for place in sorted(each)][:room]
                errors.append(InvalidStack(path, told))
                room -= len(told)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise InvalidRequest("\n".join(map(str, errors)))


def read_stacks(source: Source, *, max_functions: int, variables: Mapping[str, str]) -> Stacks:
    """Reads the commit's stack files; ``variables`` are the owner's.

    Raises:
        InvalidStack: there is none.
        SlipwayError: what ``source.check`` raises.
    """
    found = Stacks()
    root = next((path for path in STACK_FILES if _there(source, path)), None)
    paths = [root] if root else _below(source)
    for path in paths:  # which grows where the first names others
        stack = _read(source, path, found, max_functions, variables)
        if stack and path == root:
            paths += [each for each in stack.others if _named(source, stack, each, found)]
    _together(found, max_functions)
    return found


def _read(
    source: Source, path: str, found: Stacks, max_functions: int, variables: Mapping[str, str]
) -> Stack | None:
    source.check()
    try:
        data = source.read(path, MAX_BYTES)
        reading = read(data, path, max_functions=max_functions, variables=variables)
    except InvalidStack as error:
        found.mistakes[path] += error.mistakes
        return None
    except (BuildFailed, NotFound, TooLarge) as error:
        found.mistakes[path].append(Mistake(0, str(error)))
        return None
    found.stacks.append(reading.stack)
    found.mistakes[path] += reading.mistakes
    found.warnings.extend((path, each) for each in reading.warnings)
    return reading.stack


def _named(source: Source, stack: Stack, path: str, found: Stacks) -> bool:
    """Whether a file that ``x-stacks`` names is there; else that is a mistake in its line."""
    try:
        node = source.find(path)
        told = "" if node else f"commit {source.commit[:12]} has no {path!r}: is it committed?"
        if node and node.kind == TREE:
            told = f"{path!r} is a folder: name the stack file in it"
    except BuildFailed as error:
        told = str(error)
    if told:
        found.mistakes[stack.path].append(Mistake(stack.others[path], f"{OTHERS}: {told}"))
    return not told


def _there(source: Source, path: str) -> bool:
    try:
        return source.find(path) is not None
    except BuildFailed:  # a link: reading it says so
        return True


def _below(source: Source) -> list[str]:
    """The stack files below the root, where there is none in it.

    Raises:
        InvalidStack: there is none; or there are too many files to look through.
    """
    folders: dict[str, str] = {}
    for seen, (path, _) in enumerate(source.walk(_skipped)):
        if seen > _MAX_SEEN:
            told = f"has none at its root, and more than {_MAX_SEEN} files and folders below it"
            raise _none(source, f"{told}: add one there that names the others below {OTHERS}")
        folder, _, name = path.rpartition("/")
        if name in STACK_FILES and folder:
            folders[folder] = min(name, folders.get(folder, name))  # stack.yaml before stack.yml
    if not folders:
        raise _none(source, f"{NONE_AT_ALL}: add one that names your functions")
    if len(folders) > MAX_STACKS:
        told = f"has none at its root and {len(folders)} below, and {MAX_STACKS} are allowed"
        raise _none(source, f"{told}: add one at the root that names those that count ({OTHERS})")
    return sorted(f"{folder}/{name}" for folder, name in folders.items())


def _skipped(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") or name in _PASSED_OVER or path.count("/") > _MAX_DEPTH


def _none(source: Source, told: str) -> InvalidStack:
    return InvalidStack(
        " or ".join(STACK_FILES), [Mistake(0, f"commit {source.commit[:12]} {told}")]
    )


def _together(found: Stacks, max_functions: int) -> None:
    """What only the files together have wrong."""
    places: dict[str, tuple[str, int]] = {}
    for stack in found.stacks:
        for function in stack.functions:
            line = function.line("name")
            path, before = places.setdefault(function.name, (stack.path, line))
            if path != stack.path:
                told = f"{function.name!r} stands in {path}, line {before}, already"
                found.mistakes[stack.path].append(Mistake(line, f"{told}: rename or remove one"))
    if len(places) > max_functions and len(found.stacks) > 1:
        last = found.stacks[-1].path
        told = (
            f"the stack files have {len(places)} functions, more than the {max_functions} allowed"
        )
        found.mistakes[last].append(
            Mistake(0, f"{told} here: split them over several repositories")
        )
