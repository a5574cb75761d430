"""Texts as forges show them, and the mark by which a comment of ours is found again."""

from __future__ import annotations

import hashlib


def line(text: str, most: int) -> str:
    """One line of at most so many characters."""
    told = " ".join(text.split())
    return told if len(told) <= most else f"{told[: most - 1]}…"


def mark(installation: str) -> str:
    """What forges do not show of Markdown; ``installation``: the URL that tells us from others."""
    return f"<!-- slipway {hashlib.sha256(installation.encode()).hexdigest()[:12]} -->"


def marked(text: str, mark: str, most: int) -> str:
    """A comment of at most so many bytes, with its mark at the end."""
    room = most - len(mark) - 10
    content = text.encode()
    if len(content) > room:
        text = content[:room].decode(errors="ignore") + "…"
    return f"{text}\n\n{mark}"
