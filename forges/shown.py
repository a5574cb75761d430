"""Texts as forges show them, and the mark by which a comment of ours is found again."""

from __future__ import annotations

import hashlib

CUT = "…\n"
"""Where something was left out."""


def line(text: str, most: int) -> str:
    """One line of at most so many characters."""
    told = " ".join(text.split())
    return told if len(told) <= most else f"{told[: most - 1]}…"


def beginning(text: str, most: int) -> str:
    """As much of a text as fits into so many bytes, and where that is not all of it a sign."""
    content = text.encode()
    if len(content) <= most:
        return text
    return content[: most - len(CUT.encode())].decode(errors="ignore") + CUT


def mark(installation: str) -> str:
    """What forges do not show of Markdown; ``installation``: the URL that tells us from others."""
    return f"<!-- slipway {hashlib.sha256(installation.encode()).hexdigest()[:12]} -->"


def marked(text: str, mark: str, most: int) -> str:
    """A comment of at most so many bytes, with its mark at the end."""
    return f"{beginning(text, most - len(mark) - 2)}\n\n{mark}"
