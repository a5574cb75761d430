"""Why a step failed, in a few words: what happened, and the end of what a program printed.

A release's reason is shown in one line of bounded length. What a program says of its failure stands
at the end of its output, so that is what is kept; all of it is in the release's log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 320
"""Characters of a reason: with the function and the step before it, it fits the closing line."""
_LEAST, _WIDEST, _READ = 40, 160, 320
"""Characters of a line that is cut, and that are looked at: some patterns take their square."""
_JOINT = 2
"""Characters between two lines where they are shown as one."""

_RULE = re.compile(r"^[=\-_]{3,}\s*|\s*[=\-_]{3,}$")
_EMPTY = re.compile(
    r"\W*|E"
    r"|at .*:\d+:\d+\)?( \{)?"  # a frame of node's
    r"|(generatedMessage|code|operator|diff): .*"  # what node prints of every AssertionError
    r"|\N{INFORMATION SOURCE} \w+ [\d.]+"  # its counts
    r"|short test summary info"
    r"|npm error( code \S+| \d{3})?"
    r"|npm error (Log files were not written|404 Note that you can|404 tarball, folder).*"
)
"""Lines that say nothing of the cause."""
_USAGE = re.compile(r"npm error (Usage:|Clean install a project)")
"""From here on npm lists its options."""


def reason(what: str, output: Iterable[str]) -> str:
    """``what``, and below it as many of the last lines that tell something as there is room for."""
    room = LONGEST - len(what)
    kept: list[str] = []
    for line in reversed(_telling(output)):
        width = min(_WIDEST, room - _JOINT)
        if width < min(len(line), _LEAST):
            break
        kept.append(cut(line, width))
        room -= len(kept[-1]) + _JOINT
    return "\n".join([what, *reversed(kept)])


def cut(text: str, width: int) -> str:
    """The first ``width`` characters, the last of them a mark if there were more."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _telling(output: Iterable[str]) -> list[str]:
    found = []
    for line in output:
        if _USAGE.match(line):
            break
        text = _RULE.sub("", " ".join(line[:_READ].split()))
        if not _EMPTY.fullmatch(text):
            found.append(text)
    return found
