"""``${NAME}`` in a stack file, as faas-cli fills it in before it reads the YAML.

Format: https://github.com/drone/envsubst, of it what its readme lists:

    ${v}  ${#v}                      the value; its length in bytes
    ${v:-text}  ${v:=text}  ${v=text}    the value, or the text where there is none
    ${v^}  ${v^^}  ${v,}  ${v,,}     first letter or all of it in upper, in lower case
    ${v:3}  ${v:3:5}                 bytes from a place on, and how many of them
    ${v#glob}  ${v##glob}            without the shortest or longest piece at the beginning
    ${v%glob}  ${v%%glob}            likewise at the end
    ${v/a/b}  ${v//a/b}              with b in place of the first or of every a
    ${v/#a/b}  ${v/%a/b}             of an a at the beginning or at the end
    $$                               a $ that is not substituted

Texts, patterns and places may hold ``${…}`` themselves. As there, an empty variable counts as
unset, and one that is unset without a text becomes nothing (with a warning, which is ours). What is
no such form is a mistake: to guess would be to deploy something else than OpenFaaS does. Two things
differ: outside of ``${…}`` a backslash is an ordinary character, and ``${v/#a/}`` takes the a away.

Libraries were looked at: expandvars, envsubst and parameter-expansion-patched follow the shell
where this format does not, and none of them knows lines, bounds, or all of these forms.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.errors import Mistake
from core.globs import Glob

_BEGIN = re.compile(r"\$\{(#?)([A-Za-z_][A-Za-z0-9_]*)")
_OPERATOR = re.compile(r":[-=]|=|\^\^?|,,?|//?(?<=/)[#%]?|##?|%%?|:(?![?+])|\}")
_OUTSIDE = re.compile(r"\$\$|\$\{")
_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
"""Where a line ends, as YAML has it."""
_ESCAPED = r"|\$\$|\\[/\\]"
_MAX_DEPTH = 8
_MAX_MISTAKES = 20


@dataclass(frozen=True)
class Substituted:
    """The text that results, and what was noticed on the way."""

    text: str
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)
    lines: list[int] | None = None
    """Of each line of ``text``, the line in which it was written; None where they are the same."""


def substitute(text: str, variables: Mapping[str, str], *, max_length: int) -> Substituted:
    """Fills ``variables`` into ``text``; ``max_length`` bounds the result, in characters, and
    with it the time this takes."""
    if "$" not in text:
        return Substituted(text)
    reader = _Reader(text, variables, max_length)
    try:
        result, lines = reader.all()
    except _Stop:
        result, lines = "", None
    return Substituted(result, reader.mistakes, reader.warnings, lines)


class _Stop(Exception):
    """What follows makes no sense any more; the mistake is noted."""


class _Reader:
    """One pass over the text: every character of it is looked at once, whatever it holds."""

    def __init__(self, text: str, variables: Mapping[str, str], max_length: int) -> None:
        self.mistakes: list[Mistake] = []
        self.warnings: list[Mistake] = []
        self._text = text
        self._variables = variables
        self._max_length = max_length
        self._work = 4 * max_length
        self._breaks = [match.end() for match in _BREAK.finditer(text)]

    def all(self) -> tuple[str, list[int]]:
        """The whole text, and where its lines come from."""
        parts: list[str] = []
        starts: list[tuple[int, int, bool]] = []  # (in the result, in the text, as it is there)
        length = position = 0

        def add(part: str, origin: int, plain: bool) -> None:
            nonlocal length
            if not part:
                return
            parts.append(part)
            starts.append((length, origin, plain))
            length += len(part)
            if length > self._max_length:
                self.mistakes.append(
                    Mistake(0, "the file is too large once its variables are filled in")
                )
                raise _Stop

        while mark := _OUTSIDE.search(self._text, position):
            add(self._text[position : mark.start()], position, True)
            position = mark.end()
            if mark[0] == "$$":
                add("$", mark.start(), False)
            else:
                value, position = self._form(mark.start(), 1)
                add(value, mark.start(), False)
        add(self._text[position:], position, True)
        result = "".join(parts)
        lines = [1]
        for match in _BREAK.finditer(result):
            end = match.end()
            at, origin, plain = starts[bisect_right(starts, (end, len(self._text), True)) - 1]
            lines.append(self._line(origin + end - at if plain else origin))
        return result, lines

    def _form(self, start: int, depth: int) -> tuple[str, int]:
        """Reads the ``${…}`` that begins at ``start``: its value and the place after it."""
        begin = _BEGIN.match(self._text, start)
        operator = _OPERATOR.match(self._text, begin.end()) if begin else None
        if not begin or not operator or depth > _MAX_DEPTH:
            deep = f"is nested more than {_MAX_DEPTH} levels deep" if begin and operator else ""
            return self._mistake(start, deep or _NO_FORM), begin.end() if begin else start + 2
        sign, end = operator[0], operator.end()
        value = self._variables.get(begin[2], "")
        self._spend(start, len(value))
        if _BREAK.search(value):
            self._mistake(start, "has a value of several lines, which a stack file cannot take")
        if begin[1] or sign == "}":
            if sign != "}":
                return self._mistake(start, _NO_FORM), end
            if not value and not begin[1]:
                self._warn(
                    start,
                    f"${{{begin[2]}}} is not set and was read as empty: give it a default with "
                    f"${{{begin[2]}:-…}}",
                )
            return str(len(value.encode())) if begin[1] else value, end
        if sign in (":-", ":=", "="):
            default, end, _ = self._until(start, end, "}", depth)
            return value or default, end
        if sign[0] in "^,":
            if not self._text.startswith("}", end):
                return self._mistake(start, _NO_FORM), end
            return _cased(value, sign), end + 1
        if sign == ":":
            return self._slice(start, value, end, depth)
        if sign[0] == "/":
            return self._replaced(start, value, sign, end, depth)
        return self._cut(start, value, sign, end, depth)

    def _slice(self, start: int, value: str, end: int, depth: int) -> tuple[str, int]:
        place, end, stop = self._until(start, end, ":}", depth)
        count = ""
        if stop == ":":
            count, end, _ = self._until(start, end, "}", depth)
        for number in [place, count] if stop == ":" else [place]:
            if not re.fullmatch(r"[-+]?[0-9]{1,9}", number):
                self._warn(start, f"{number[:40]!r} is no number, so the whole value is taken")
                return value, end
        data = value.encode()
        first = int(place) if not place.startswith("-") else max(len(data) + int(place), 0)
        length = int(count) if stop == ":" else len(data)
        if length < 0:
            return self._mistake(start, "asks for less than nothing: write a length from 0 on"), end
        try:
            return data[first : first + length].decode(), end
        except UnicodeDecodeError:
            told = "cuts a character in two: places count bytes, and it has more than one"
            return self._mistake(start, told), end

    def _replaced(self, start: int, value: str, sign: str, end: int, depth: int) -> tuple[str, int]:
        old, end, stop = self._until(start, end, "/}", depth, escapes=True)
        if stop != "/":
            return self._mistake(start, "does not say what to put: write ${NAME/this/that}"), end
        new, end, _ = self._until(start, end, "}", depth, escapes=True)
        if sign == "/#":
            return (new + value[len(old) :] if value.startswith(old) else value), end
        if sign == "/%":
            cut = value[: len(value) - len(old)]
            return (cut + new if value.endswith(old) else value), end
        times = value.count(old) if sign == "//" else 1
        self._spend(start, times * len(new))
        return value.replace(old, new, times), end

    def _cut(self, start: int, value: str, sign: str, end: int, depth: int) -> tuple[str, int]:
        pattern, end, _ = self._until(start, end, "}", depth)
        if not pattern:
            return self._mistake(start, "has no pattern: say what to take away"), end
        try:
            glob = Glob(pattern)
        except ValueError as error:
            return self._mistake(start, f"has a pattern that is none: {error}"), end
        # What it takes: a number of as many bits as the pattern has parts for each character,
        # and a look at each part for each that is another one.
        self._spend(start, len(value) * (1 + len(pattern) // 64) + len(set(value)) * len(pattern))
        return glob.cut(value, end=sign[0] == "%", longest=len(sign) == 2), end

    def _until(
        self, start: int, position: int, stops: str, depth: int, *, escapes: bool = False
    ) -> tuple[str, int, str]:
        """Reads a part of the form at ``start`` up to one of ``stops``: the part, the place after
        it, and which it was."""
        mark = re.compile(rf"\$\{{|[{stops}]{_ESCAPED if escapes else ''}")
        parts: list[str] = []
        while found := mark.search(self._text, position):
            parts.append(self._text[position : found.start()])
            position = found.end()
            if found[0] in stops:
                part = "".join(parts)
                self._spend(start, len(part))
                return part, position, found[0]
            if found[0] == "${":
                value, position = self._form(found.start(), depth + 1)
                parts.append(value)
            else:
                parts.append(found[0][1])
        self._mistake(start, f"has no closing '}}': {_ITSELF}")
        raise _Stop

    def _spend(self, start: int, work: int) -> None:
        self._work -= work
        if self._work < 0:
            self._mistake(start, "and what comes before it make more work than a stack file may")
            raise _Stop

    def _mistake(self, start: int, why: str) -> str:
        """Notes a mistake; what is read as its value."""
        shown = _BREAK.split(self._text[start : start + 60])[0]
        shown = shown[: shown.find("}") + 1] or shown
        self.mistakes.append(Mistake(self._line(start), f"{shown} {why}"))
        if len(self.mistakes) >= _MAX_MISTAKES:
            raise _Stop
        return ""

    def _warn(self, start: int, text: str) -> None:
        if len(self.warnings) < _MAX_MISTAKES:
            self.warnings.append(Mistake(self._line(start), text))

    def _line(self, position: int) -> int:
        return bisect_right(self._breaks, position) + 1


_ITSELF = "write $${ where you mean ${ itself"
_NO_FORM = (
    "is a form that is not substituted here: write ${NAME}, ${NAME:-default} or another one of "
    f"OpenFaaS', and {_ITSELF[len('write ') :]}"
)


def _cased(value: str, sign: str) -> str:
    """Letter by letter, as Go does it: none becomes two."""
    changed = value if len(sign) == 2 else value[:1]
    made = [each.upper() if sign[0] == "^" else each.lower() for each in changed]
    letters = (new if len(new) == 1 else old for old, new in zip(changed, made, strict=True))
    return "".join(letters) + value[len(changed) :]
