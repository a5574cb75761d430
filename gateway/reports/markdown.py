"""Markdown of text that users and their builds wrote: it shows as it is, and does nothing.

Forges notify whoever is mentioned, load images, and hide what stands in HTML comments: so no such
text stands outside of code.
"""

from __future__ import annotations

import re

from gateway.progress import printable

_TICKS = re.compile("`+")


def code(text: str, most: int = 200) -> str:
    """Text in one line as a code span, also in a cell of a table; nothing for nothing."""
    told = " ".join(printable(text).split()).replace("`", "'")
    told = told if len(told) <= most else f"{told[: most - 1]}…"
    return f"`{told}`".replace("|", "\\|") if told else ""


def block(text: str) -> str:
    """Text as a code block, whatever is in it: its fence is longer than any in the text
    (CommonMark, "fenced code blocks")."""
    ticks = max((len(found) for found in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}text\n{text}\n{fence}"
