"""Reads a Dockerfile that may be hostile, and writes it out again in one plain form.

BuildKit is given only what ``render`` wrote: one instruction a line, no comments, no directives,
each image by the name that was checked. So it does not matter where readers of Dockerfiles differ
(continued lines, comments within them, directives, variables): what was looked at is what is
built. What could still be read in two ways (control characters, a backslash at the end, heredocs)
is refused.

Libraries were tried: dockerfile-parse reads a heredoc's body and the line after ``\\\\`` wrongly;
dockerfile is BuildKit's own parser, but brings Go's runtime, which does not survive a fork.

Format: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from core.errors import BuildFailed, Mistake
from core.lazy import cached_property

MAX_BYTES = 128 * 1024
MAX_INSTRUCTIONS = 1_000
MAX_STAGES = 100
_MAX_VALUE = 4096
"""Characters of an ARG before the first FROM, its variables filled in."""
_MAX_TOLD = 20

WORDS = frozenset(
    {
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
        *("LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME"),
        "WORKDIR",
    }
)
_WITH_HEREDOCS = ("RUN", "COPY", "ADD", "ONBUILD")
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.*)")
_OURS = re.compile(r"(docker\.io/)?docker/dockerfile(-upstream)?([:@].*)?")
"""Frontends that the engine has built in, or would fetch: the built-in one is used."""
_CONTINUED = re.compile(r"(^|[^\\])\\[ \t]*$")
_SPACE = re.compile(r"[ \t]+")
_HEREDOC = re.compile(r"(?<!<)<<(?!<)")
"""Nothing in BuildKit takes ``<<<`` for one."""
_FILLED_IN = re.compile(r"\$\{(?!\w+\})")
"""A variable that BuildKit may put text in place of, while it looks for heredocs."""
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:[-+])([^${}]*))?\})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    line: int
    """Where it begins, from 1."""
    word: str
    """In upper case: ``RUN``."""
    rest: str

    @property
    def flags(self) -> list[str]:
        """The leading words that begin with ``--``, as written."""
        return _flags(self.rest)[0]

    @property
    def operands(self) -> str:
        """What follows the flags."""
        return _flags(self.rest)[1]

    def flag(self, name: str) -> str | None:
        """The value of ``--name=value``; None where it is not there."""
        values = [f.partition("=")[2] for f in self.flags if f.partition("=")[0] == f"--{name}"]
        return values[-1] if values else None


@dataclass(frozen=True)
class Stage:
    """``FROM … [AS name]`` and what follows it."""

    name: str
    """Lower case; made up where there is none."""
    base: str
    """An image's name, ``scratch``, or the name of an earlier stage."""
    instructions: tuple[Instruction, ...]
    """FROM first."""


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile without mistakes of form."""

    path: str
    arguments: tuple[Instruction, ...]
    """ARG before the first FROM."""
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage | None:
        """By its name in any case, or its number; the last one of a name counts, as in BuildKit."""
        found = self._named.get(name.lower())
        if not found and _NUMBER.fullmatch(name) and int(name) < len(self.stages):
            found = self.stages[int(name)]
        return found

    @cached_property
    def _named(self) -> dict[str, Stage]:
        return {each.name: each for each in self.stages}

    def images(self) -> list[tuple[int, str]]:
        """(line, name) of every image that is built on or copied from; ``scratch`` is none."""
        found: list[tuple[int, str]] = []
        known: set[str] = set()
        for stage in self.stages:
            if stage.base not in known and stage.base != "scratch":
                found.append((stage.instructions[0].line, stage.base))
            for each in stage.instructions[1:]:
                names = [name for name in sources(each) if self.stage(name) is None]
                found += [(each.line, name) for name in names if name != "scratch"]
            known.add(stage.name)
        return found


def parse(data: bytes, path: str, arguments: Mapping[str, str]) -> Dockerfile:
    """Reads a Dockerfile; ``arguments`` are the build's own, which override ARG's defaults.

    Raises:
        BuildFailed: naming every mistake with its line.
    """
    mistakes: list[Mistake] = []
    instructions = _instructions(_text(data, path), mistakes)
    found = _stages(path, instructions, arguments, mistakes) if not mistakes else None
    refuse(path, mistakes)
    assert found is not None
    return found


def render(dockerfile: Dockerfile) -> bytes:
    """The Dockerfile that BuildKit is given; lines stay where they were."""
    return lines_of(
        [*dockerfile.arguments, *(i for s in dockerfile.stages for i in s.instructions)]
    )


def lines_of(instructions: Iterable[Instruction]) -> bytes:
    """Instructions as a Dockerfile, each at its own line where that is still free."""
    lines: list[str] = []
    for each in instructions:
        lines += [""] * (each.line - 1 - len(lines))
        lines.append(f"{each.word} {each.rest}")
    return ("\n".join(lines) + "\n").encode()


def sources(instruction: Instruction) -> list[str]:
    """What an instruction copies or mounts from: stages or images, as written."""
    if instruction.word == "COPY":
        name = instruction.flag("from")
        return [name] if name else []
    if instruction.word == "RUN":
        return [options["from"] for options in mounts(instruction) if options.get("from")]
    return []


def mounts(instruction: Instruction) -> list[dict[str, str]]:
    """The options of every ``RUN --mount``, by lower-case name; ``type`` is always there."""
    found = []
    for flag in instruction.flags:
        name, _, value = flag.partition("=")
        if name == "--mount":
            pairs = (each.partition("=") for each in value.split(","))
            found.append({"type": "bind"} | {k.strip().lower(): v for k, _, v in pairs})
    return found


def secrets(dockerfile: Dockerfile) -> set[str]:
    """The ids of the secrets that it mounts."""
    options = [each for i in walk(dockerfile) if i.word == "RUN" for each in mounts(i)]
    return {each.get("id", "") for each in options if each["type"].lower() == "secret"}


def with_secrets(dockerfile: Dockerfile, ids: Mapping[str, str]) -> Dockerfile:
    """The Dockerfile, its RUN lines asking for secrets by the ids that ``ids`` gives for theirs,
    and finding them where they would have."""

    def mount(value: str) -> str:
        parts = [each.partition("=") for each in value.split(",")]
        options = {name.strip().lower(): text for name, _, text in parts}
        id_ = options.get("id", "")
        if options.get("type", "").lower() != "secret" or id_ not in ids:
            return value
        kept = [each for each in value.split(",") if each.partition("=")[0].strip().lower() != "id"]
        if not options.keys() & {"target", "dst", "destination", "env"}:
            kept.append(f"target=/run/secrets/{id_}")
        return ",".join([*kept, f"id={ids[id_]}"])

    def changed(each: Instruction) -> Instruction:
        if each.word != "RUN" or not each.flags:
            return each
        flags = [
            f"--mount={mount(flag.partition('=')[2])}" if flag.startswith("--mount=") else flag
            for flag in each.flags
        ]
        return _with_flags(each, flags)

    stages = (
        replace(stage, instructions=tuple(map(changed, stage.instructions)))
        for stage in dockerfile.stages
    )
    return replace(dockerfile, stages=tuple(stages))


def refuse(path: str, mistakes: Sequence[Mistake]) -> None:
    """Raises BuildFailed where there are mistakes."""
    if mistakes:
        told = "\n".join(f"  {m!r}" for m in sorted(mistakes, key=lambda m: m.line)[:_MAX_TOLD])
        count = len(mistakes)
        raise BuildFailed(f"{path} has {count} mistake{'s' if count != 1 else ''}:\n{told}")


# Reading


def _text(data: bytes, path: str) -> str:
    if len(data) > MAX_BYTES:
        raise BuildFailed(f"{path} is {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BuildFailed(f"{path} is not UTF-8 text (byte {error.start}): save it as such") from (
            error
        )
    mistakes = []
    for number, line in enumerate(text.split("\n"), 1):
        for character in line:
            if character not in " \t" and (character.isspace() or not _plain(character)):
                told = f"it has the character U+{ord(character):04X}: write plain spaces and text"
                mistakes.append(Mistake(number, told))
                break
    refuse(path, mistakes)
    return text


def _plain(character: str) -> bool:
    return ord(character) >= 32 and not 127 <= ord(character) < 160


def _instructions(text: str, mistakes: list[Mistake]) -> list[Instruction]:
    lines = text.split("\n")
    found: list[Instruction] = []
    position = _directives(lines, mistakes)
    while position < len(lines):
        number = position + 1
        joined, position = _joined(lines, position)
        if not joined:
            continue
        word, *others = _SPACE.split(joined, maxsplit=1)
        rest = others[0] if others else ""
        if not word.isascii() or word.upper() not in WORDS:
            mistakes.append(Mistake(number, f"{word[:40]!r} is not an instruction"))
            continue
        if joined.endswith("\\"):
            told = "it ends in a backslash, which engines read in different ways: leave it out"
            mistakes.append(Mistake(number, told))
        each = Instruction(number, word.upper(), rest)
        if not each.operands:
            mistakes.append(Mistake(number, f"{each.word} has nothing after it"))
        if each.word in _WITH_HEREDOCS and _may_have_heredoc(rest):
            told = "heredocs (<<) are not read here: write a script and COPY it"
            mistakes.append(Mistake(number, told))
        found.append(each)
        if len(found) > MAX_INSTRUCTIONS:
            told = f"it has more than {MAX_INSTRUCTIONS} instructions: join RUN lines with &&"
            mistakes.append(Mistake(number, told))
            break
    return found


def _directives(lines: Sequence[str], mistakes: list[Mistake]) -> int:
    """Looks at the comments before the first instruction; returns where they end."""
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t")
        if text and not text.startswith("#"):
            return number - 1
        if not (match := _DIRECTIVE.fullmatch(text)):
            continue
        name, value = match[1].lower(), match[2]
        if name == "syntax" and not _OURS.fullmatch(value):
            told = f"the frontend {value[:80]!r} is a program that the engine would run: leave the "
            mistakes.append(Mistake(number, f"{told}line out, the engine's own is used"))
        if name == "escape" and value != "\\":
            told = "another escape character is not read here: write \\ and leave the line out"
            mistakes.append(Mistake(number, told))
    return len(lines)


def _joined(lines: Sequence[str], position: int) -> tuple[str, int]:
    """One instruction from ``position`` on, its continued lines joined; '' for a line of none."""
    parts: list[str] = []
    while position < len(lines):
        line = lines[position]
        position += 1
        if not line.strip(" \t") or line.lstrip(" \t").startswith("#"):
            if not parts:
                return "", position
            continue
        match = _CONTINUED.search(line)
        parts.append(line[: match.start() + len(match[1])] if match else line)
        if not match:
            break
    return "".join(parts).strip(" \t"), position


def _may_have_heredoc(rest: str) -> bool:
    """Whether BuildKit could find a heredoc here, after which its lines are not ours.

    It looks for words that begin with ``<<`` after quotes and ``${name:-text}`` were read, and
    finds none at all where a quote is not closed: so any ``<<`` counts, and what could become one.
    """
    filled = _FILLED_IN.search(rest) and rest.count("<") > 1
    return bool(_HEREDOC.search(rest) or filled)


def _flags(rest: str) -> tuple[list[str], str]:
    found = []
    while rest.startswith("--"):
        word, *others = _SPACE.split(rest, maxsplit=1)
        rest = others[0] if others else ""
        if word == "--":
            break
        found.append(word)
    return found, rest


# Stages


def _stages(
    path: str,
    instructions: Sequence[Instruction],
    arguments: Mapping[str, str],
    mistakes: list[Mistake],
) -> Dockerfile | None:
    first = next((n for n, i in enumerate(instructions) if i.word == "FROM"), None)
    if first is None:
        mistakes.append(Mistake(0, "it has no FROM: name the image that it builds on"))
        return None
    variables: dict[str, str] = {}
    for each in instructions[:first]:
        if each.word != "ARG":
            mistakes.append(Mistake(each.line, f"{each.word} comes before the first FROM"))
        else:
            _argument(each, variables, arguments, mistakes)
    groups: list[list[Instruction]] = []
    for each in instructions[first:]:
        if each.word == "FROM":
            groups.append([])
            if len(groups) > MAX_STAGES:
                told = f"it has more than {MAX_STAGES} stages (FROM): leave out what is not needed"
                mistakes.append(Mistake(each.line, told))
                return None
        groups[-1].append(each)
    stages: dict[str, Stage] = {}
    for group in groups:
        if stage := _stage(group, stages, variables, mistakes):
            stages[stage.name] = stage
    dockerfile = Dockerfile(path, tuple(instructions[:first]), tuple(stages.values()))
    before: set[str] = set()
    for stage in dockerfile.stages:
        for each in stage.instructions:
            for name in sources(each):
                if (found := dockerfile.stage(name)) and found.name not in before:
                    told = f"it copies from {name[:60]!r}, a stage that does not come before it"
                    mistakes.append(Mistake(each.line, told))
        before.add(stage.name)
    return dockerfile


def _argument(
    instruction: Instruction,
    variables: dict[str, str],
    given: Mapping[str, str],
    mistakes: list[Mistake],
) -> None:
    """Adds what an ARG before the first FROM sets; a value that cannot be told is left out."""
    try:
        words = shlex.split(instruction.rest)
    except ValueError:
        mistakes.append(Mistake(instruction.line, "a quote of this ARG is not closed"))
        return
    for word in words:
        name, equals, value = word.partition("=")
        variables.pop(name, None)
        if name in given:
            variables[name] = given[name]
        elif equals and (resolved := _resolve(value, variables)) is not None:
            variables[name] = resolved


def _resolve(text: str, variables: Mapping[str, str]) -> str | None:
    """``text`` with its variables filled in; None where that cannot be told for certain, or is
    too long."""
    unknown = False
    room = _MAX_VALUE

    def value(match: re.Match[str]) -> str:
        nonlocal unknown, room
        found = variables.get(match[1] or match[2])
        room -= len(found or "")
        if room < 0:  # each ARG can double the one before it
            unknown = True
            return ""
        if match[3] == ":-":
            return found or match[4]
        if match[3] == ":+":
            return match[4] if found else ""
        unknown = unknown or found is None
        return found or ""

    resolved = _VARIABLE.sub(value, text)
    return None if unknown or re.search(r"[$'\"\\`]", resolved) else resolved


def _stage(
    group: list[Instruction],
    before: Mapping[str, Stage],
    variables: Mapping[str, str],
    mistakes: list[Mistake],
) -> Stage | None:
    head = group[0]
    words = _SPACE.split(head.operands) if head.operands else []
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        mistakes.append(Mistake(head.line, "FROM has the form FROM image, or FROM image AS name"))
        return None
    image = _resolve(words[0], variables)
    if not image:
        told = f"what FROM {words[0][:80]} stands for cannot be told: give its ARG, before the "
        mistakes.append(Mistake(head.line, f"{told}first FROM, a default, or write the name"))
        return None
    name = words[2] if len(words) == 3 else f"slipway-stage-{len(before)}"
    if not _NAME.fullmatch(name):
        mistakes.append(Mistake(head.line, f"{name[:60]!r} cannot be the name of a stage"))
        return None
    if name.lower() in before:
        mistakes.append(Mistake(head.line, f"there are two stages named {name.lower()!r}"))
        return None
    if image.lower() in before:
        image = image.lower()
    # Without flags: builds are for this server's own platform.
    head = replace(head, rest=f"{image} AS {name.lower()}")
    known = {str(number) for number in range(len(before))} | before.keys()
    return Stage(name.lower(), image, (head, *(_lower(each, known) for each in group[1:])))


def with_base(stage: Stage, base: str) -> Stage:
    """The stage on another base."""
    head = replace(stage.instructions[0], rest=f"{base} AS {stage.name}")
    return replace(stage, base=base, instructions=(head, *stage.instructions[1:]))


def renamed(instruction: Instruction, names: Mapping[str, str]) -> Instruction:
    """The instruction, copying and mounting from what ``names`` says instead."""
    if not set(sources(instruction)) & names.keys():
        return instruction
    flags = []
    for flag in instruction.flags:
        name, _, value = flag.partition("=")
        if instruction.word == "COPY" and name == "--from":
            value = names.get(value, value)
        elif instruction.word == "RUN" and name == "--mount":
            value = ",".join(_from(option, names) for option in value.split(","))
        flags.append(f"{name}={value}" if "=" in flag else flag)
    return _with_flags(instruction, flags)


def _with_flags(instruction: Instruction, flags: Sequence[str]) -> Instruction:
    end = ["--"] if instruction.operands.startswith("--") else []
    return replace(instruction, rest=" ".join([*flags, *end, instruction.operands]))


def _from(option: str, names: Mapping[str, str]) -> str:
    key, _, value = option.partition("=")
    return f"{key}={names.get(value, value)}" if key.strip().lower() == "from" else option


def _lower(instruction: Instruction, known: Collection[str]) -> Instruction:
    """Names of stages are written as they were declared here: in lower case."""
    names = {name: name.lower() for name in sources(instruction) if name.lower() in known}
    return renamed(instruction, names)


def trigger(text: str) -> Instruction | None:
    """Reads what an image's ONBUILD left for those who build on it; None for what is not plain."""
    mistakes: list[Mistake] = []
    try:
        found = _instructions(_text(text.encode(), "ONBUILD"), mistakes)
    except BuildFailed:
        return None
    return found[0] if len(found) == 1 and not mistakes else None


def walk(dockerfile: Dockerfile) -> Iterator[Instruction]:
    """Every instruction after the first FROM."""
    for stage in dockerfile.stages:
        yield from stage.instructions
