"""Mistakes at their places in the repository: out of what pytest, unittest and node:test print, and
out of what is wrong with a stack file.

A trace goes through many files. Counted are those of the function's own folder: pytest and unittest
tell the error after the place, node before it; of several places the innermost one is taken.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

from core.bundle import HOME
from forges import Annotation
from gateway.progress import printable

MOST = 10
"""Of one report."""
_READ = 500
"""Characters of a line that are looked at: some patterns take their square."""
_MESSAGE = 8
"""Lines of a message."""
_HANDLER = f"{HOME}/function/"
"""Where templates have the handler's folder unless they say otherwise: OpenFaaS' default."""
_FOREIGN = {"node_modules", "site-packages", "..", ".", ""}

_PYTEST = re.compile(r"(\S[^:]*\.py):(\d{1,7}): ?(.*)")
"""``test_x.py:5: AssertionError``; ``in test_x`` or nothing where the trace goes on."""
_EXPLAINED = re.compile(r"E( {1,3}.*)?")
_FILE = re.compile(r'(?:E )? *File "([^"]+)", line (\d{1,7})')
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Failure|Exit|Warning)\b(?: *:.*)?")
"""The last line of a Python traceback."""
_RULE = re.compile(r"[_=]{3,} .*|={10,}|-{10,}")
_THROWN = re.compile(r" *((?:\w*Error|\w*Exception)(?: \[\w+\])?: .*)")
_FRAME = re.compile(r" +(?:at )?.*?\(?(?:file://)?(/[^():]+):(\d{1,7}):\d+\)?")
_TAP = re.compile(r" +error: (.*)")
_TAP_KEY = re.compile(r" +(?:code|name|stack|expected|actual|operator): ?.*")

_STACK = re.compile(r"(\S[^\n]{0,300}) has \d+ mistakes?:")
_MISTAKE = re.compile(r" +line (\d{1,7}): (.*)")


def of_tests(lines: Iterable[str], folder: str) -> list[Annotation]:
    """The failures that tests told of.

    Args:
        lines: what they printed.
        folder: the function's folder within the repository; empty: it is not known, nor are places.
    """
    found: dict[tuple[str, int], Annotation] = {}
    for path, line, message in _Reading(folder).places(lines) if folder else ():
        found.setdefault((path, line), Annotation(path=path, line=line, message=message))
        if len(found) == MOST:
            break
    return list(found.values())


def of_stack(reason: str) -> list[Annotation]:
    """The mistakes of stack files, as a release's reason has them (core.errors.InvalidStack)."""
    found = []
    path = ""
    for line in reason.splitlines():
        if stack := _STACK.fullmatch(line):
            path = stack[1]
        elif path and (mistake := _MISTAKE.fullmatch(line[:_READ])):
            found.append(Annotation(path=path, line=int(mistake[1]), message=printable(mistake[2])))
    return found[:MOST]


class _Reading:
    """One pass over the lines."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._place: tuple[str, int] | None = None
        """The innermost one of ours since the last error."""
        self._explained: list[str] = []
        """What pytest says of the error."""
        self._thrown: list[str] | None = None
        """What node says of it, until its place is known."""
        self._traced = False
        """Whether a Python traceback has begun."""

    def places(self, lines: Iterable[str]) -> Iterator[tuple[str, int, str]]:
        for raw in lines:
            line = printable(raw[:_READ]).rstrip()
            yield from self._python(line) or self._node(line)
        yield from self._told()

    def _python(self, line: str) -> list[tuple[str, int, str]]:
        if file := _FILE.match(line):
            self._traced = True
            self._at(file[1], file[2])
        elif _EXPLAINED.fullmatch(line):
            self._explained.append(line[1:].strip())
        elif place := _PYTEST.fullmatch(line):
            self._at(place[1], place[2])
            if place[3] and not place[3].startswith("in "):
                self._explained = self._explained or [place[3]]
                return self._told()
        elif _RULE.fullmatch(line):
            return self._told()
        elif self._traced and _RAISED.fullmatch(line):
            self._explained = [line]
            return self._told()
        return []

    def _node(self, line: str) -> list[tuple[str, int, str]]:
        if thrown := _THROWN.fullmatch(line) or _TAP.fullmatch(line):
            told = thrown[1].strip()
            self._thrown = [] if told in ("|-", "|") else [told]
        elif self._thrown is not None:
            if frame := _FRAME.fullmatch(line):
                self._at(frame[1], frame[2])
                if self._place:
                    self._explained, self._thrown = self._thrown, None
                    return self._told()
            elif not _TAP_KEY.fullmatch(line) and line.strip():
                self._thrown.append(line.strip())
        return []

    def _at(self, path: str, line: str) -> None:
        if (own := _within(path, self._folder)) and int(line) > 0:
            self._place = own, int(line)

    def _told(self) -> list[tuple[str, int, str]]:
        """What is known of the error that ends here."""
        place, said = self._place, [each for each in self._explained if each]
        self._place, self._explained, self._traced = None, [], False
        if not place or not said:
            return []
        return [(*place, "\n".join(said[:_MESSAGE]))]


def _within(path: str, folder: str) -> str:
    """A path that a test printed → the same within the repository; '' where it is not the
    function's own."""
    path = path.removeprefix(_HANDLER).removeprefix(f"{HOME}/")
    if path.startswith("/") or _FOREIGN & set(path.split("/")):
        return ""
    return posixpath.normpath(posixpath.join(folder, path))
