"""Texts within the bounds that GitHub sets for them.

Cut is by bytes of UTF-8 where it counts characters: that is never more, and holds where it counts
as its database does. What all forges need lies in ``forges.shown``.
"""

from __future__ import annotations

import re

from forges.shown import CUT

MOST = 65_535
"""Of a check run's summary, and of its text."""
MOST_STATUS = 140
"""Characters of a commit status' description."""
MOST_COMMENT = 65_000
MOST_TITLE = 255
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")


def end(text: str, most: int = MOST) -> str:
    """The end of a Markdown text, from the beginning of a line on where there is one: that of a log
    says what went wrong. A code block that the cut goes through is opened again."""
    content = text.encode()
    if len(content) <= most:
        return text
    room = most - len(CUT.encode()) - 200  # a fence
    kept = content[-room:].decode(errors="ignore")
    first, newline, rest = kept.partition("\n")
    if newline and rest and len(first) < room // 2:
        kept = rest
    opened = _open(text[: len(text) - len(kept)])
    return CUT + (f"{opened}\n" if opened else "") + kept


def _open(text: str) -> str:
    """The fence of the code block that is open at the end of a text (CommonMark §4.5)."""
    opened = ""
    for each in text.split("\n"):
        match = _FENCE.match(each)
        if not match:
            continue
        fence, told = match.groups()
        if not opened:
            if fence[0] == "~" or "`" not in told:
                opened = fence
        elif fence[0] == opened[0] and len(fence) >= len(opened) and not told.strip():
            opened = ""
    return opened[:150]
