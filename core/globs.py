"""Shell patterns that cut the beginning or the end off a text, in time that their length bounds.

``*`` stands for any text, ``?`` for one character, ``[a-z]`` and ``[^a-z]`` (or ``[!a-z]``) for one
of a set or none of it, a backslash takes the next character's meaning away. Python's fnmatch knows
no shortest match and, as every backtracking matcher, can be made to run for ever.

All places of the pattern that a text may have reached are the bits of one number, which a
character moves on: bit n is set when the first n parts of the pattern are matched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_PARTS = 1000
_RANGE = re.compile(r"\\?(.)-\\?(.)|\\?(.)", re.DOTALL)
_PART = re.compile(
    r"(?P<star>\*+)|(?P<any>\?)|\[(?P<not>[!^]?)(?P<set>(?:\\.|[^\]\\])+)\]|\\(?P<plain>.)"
    r"|(?P<wrong>[\[\\])|(?P<char>.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class _Part:
    """What one character has to be; without ranges: anything."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False

    def takes(self, character: str) -> bool:
        found = not self.ranges or any(a <= character <= b for a, b in self.ranges)
        return found is not self.negated


class Glob:
    """A pattern that was read.

    Raises:
        ValueError: it is none; why.
    """

    def __init__(self, pattern: str) -> None:
        self._parts: list[_Part] = []
        self._loops = 0
        """Bits where a star stands: any character leaves them set."""
        for match in _PART.finditer(pattern):
            if match["wrong"]:
                raise ValueError(f"the {match['wrong']!r} in it is not closed")
            if match["star"]:
                self._loops |= 1 << len(self._parts)
            else:
                self._parts.append(_part(match))
        if len(self._parts) > MAX_PARTS:
            raise ValueError(f"it is longer than {MAX_PARTS} characters")

    def cut(self, text: str, *, end: bool, longest: bool) -> str:
        """``text`` without what matches at its beginning or ``end``: the longest or the shortest
        piece, which has one character at least; unchanged where none does."""
        length = self._match(text[::-1] if end else text, end, longest)
        return text[: len(text) - length] if end else text[length:]

    def _match(self, text: str, backwards: bool, longest: bool) -> int:
        """How many characters match at the beginning of ``text``; 0 if none do."""
        last = len(self._parts)
        parts, loops = self._parts, self._loops
        if backwards:
            parts = parts[::-1]
            loops = sum(1 << (last - n) for n in range(last + 1) if loops >> n & 1)
        masks: dict[str, int] = {}
        state, found = 1, 0
        for position, character in enumerate(text, 1):
            if character not in masks:
                taken = (1 << n for n, part in enumerate(parts) if part.takes(character))
                masks[character] = sum(taken)
            state = (state & masks[character]) << 1 | state & loops
            if not state:
                break
            if state >> last & 1:
                found = position
                if not longest:
                    break
        return found


def _part(match: re.Match[str]) -> _Part:
    if match["any"]:
        return _Part(())
    if match["set"]:
        found = ((each[1] or each[3], each[2] or each[3]) for each in _RANGE.finditer(match["set"]))
        return _Part(tuple(found), negated=bool(match["not"]))
    character = match["plain"] or match["char"]
    return _Part(((character, character),))
