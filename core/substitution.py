"""``${NAME}`` in a stack file: the part of faas-cli's substitution that reads variables.

Format: https://github.com/drone/envsubst, which faas-cli applies to the raw text before YAML. Of
it: ``${v}``, ``${v:-default}``, ``${v:=default}``, ``${v=default}``, defaults that hold further
``${…}``, and ``$$`` for a ``$`` that is not substituted. As there, an empty variable counts as
unset, and one that is unset without a default becomes nothing (with a warning, which is ours).
The other forms (``${v^^}``, ``${v/a/b}``, ``${#v}``, …) are mistakes: to guess would be to deploy
something else than OpenFaaS does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import Mistake

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OUTSIDE = re.compile(r"\$\$|\$\{")
_INSIDE = re.compile(r"\$\{|\}")  # of a default, where `$$` has no meaning of its own
_MAX_DEPTH = 8
_MAX_MISTAKES = 20


@dataclass(frozen=True)
class Substituted:
    """The text that results, and what was noticed on the way."""

    text: str
    mistakes: list[Mistake]
    warnings: list[Mistake]


def substitute(text: str, variables: Mapping[str, str], *, max_length: int) -> Substituted:
    """Fills ``variables`` into ``text``; ``max_length`` bounds the result, in characters."""
    reader = _Reader(text, variables, max_length)
    try:
        result = reader.until(0, 0)[0] if "$" in text else text
    except _Stop:
        result = ""
    return Substituted(result, reader.mistakes, reader.warnings)


class _Stop(Exception):
    """What follows makes no sense any more; the mistake is noted."""


class _Reader:
    """One pass over the text: every character is looked at once, whatever it holds."""

    def __init__(self, text: str, variables: Mapping[str, str], max_length: int) -> None:
        self.mistakes: list[Mistake] = []
        self.warnings: list[Mistake] = []
        self._text = text
        self._variables = variables
        self._room = max_length

    def until(self, position: int, depth: int) -> tuple[str, int]:
        """Reads to the end of the text or, inside a default (depth > 0), to its ``}``."""
        parts: list[str] = []
        while mark := (_INSIDE if depth else _OUTSIDE).search(self._text, position):
            parts.append(self._text[position : mark.start()])
            position = mark.end()
            if mark[0] == "}":
                return "".join(parts), position
            if mark[0] == "$$":
                parts.append("$")
                continue
            value, position = self._form(mark.start(), depth + 1)
            parts.append(value)
        if depth:
            self._mistake(self._text.rfind("${", 0, position), "has no closing '}'")
            raise _Stop
        parts.append(self._text[position:])
        return "".join(parts), len(self._text)

    def _form(self, start: int, depth: int) -> tuple[str, int]:
        """Reads the ``${…}`` that begins at ``start``: its value and the place after it."""
        name = _NAME.match(self._text, start + 2)
        after = name.end() if name else start + 2
        operator = next((o for o in (":-", ":=", "=", "}") if self._text.startswith(o, after)), "")
        if not name or not operator or depth > _MAX_DEPTH:
            self._mistake(start, "is a form that is not substituted here")
            return "", after
        value = self._variables.get(name[0], "")
        if "\n" in value or "\r" in value:
            self._mistake(start, "has a value of several lines, which a stack file cannot take")
        default, end = "", after + 1
        if operator != "}":
            default, end = self.until(after + len(operator), depth)
        elif not value and len(self.warnings) < _MAX_MISTAKES:
            told = f"${{{name[0]}}} is not set and was read as empty"
            told = f"{told}: give it a default with ${{{name[0]}:-…}}"
            self.warnings.append(Mistake(self._line(start), told))
        self._room -= len(value)
        if self._room < 0:
            told = "the file is too large once its variables are filled in"
            self.mistakes.append(Mistake(0, told))
            raise _Stop
        return value or default, end

    def _mistake(self, start: int, why: str) -> None:
        shown = self._text[start : start + 60].splitlines()[0]
        shown = shown[: shown.find("}") + 1] or shown
        hint = "write ${NAME} or ${NAME:-default}, and $${ where you mean ${ itself"
        self.mistakes.append(Mistake(self._line(start), f"{shown} {why}: {hint}"))
        if len(self.mistakes) >= _MAX_MISTAKES:
            raise _Stop

    def _line(self, position: int) -> int:
        return self._text.count("\n", 0, position) + 1
