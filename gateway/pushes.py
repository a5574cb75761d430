"""Pushes that are under way, each with a token of its own.

git's hook runs in a process below ours and talks back over HTTP; the token in its environment says
which push it speaks for, and is worth nothing once that push is over.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass, field

from core.errors import BadCredentials


@dataclass(frozen=True)
class Push:
    """One running ``git push``."""

    namespace: str
    repository: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when nobody sees its progress any more."""


class Pushes:
    def __init__(self) -> None:
        self._running: dict[bytes, Push] = {}

    def open(self, namespace: str, repository: str) -> Push:
        push = Push(namespace, repository)
        self._running[_digest(push.token)] = push
        return push

    def close(self, push: Push) -> None:
        push.gone.set()
        self._running.pop(_digest(push.token), None)

    def to(self, namespace: str) -> set[str]:
        """Repositories of a namespace to which somebody pushes: ``<namespace>/<repository>``."""
        running = list(self._running.values())
        return {f"{p.namespace}/{p.repository}" for p in running if p.namespace == namespace}

    def find(self, token: str, namespace: str, repository: str) -> Push:
        """Raises BadCredentials where the token is not that of a running push to there."""
        # Looked up by digest: how long that takes tells nothing of the token.
        push = self._running.get(_digest(token))
        if push is None or (push.namespace, push.repository) != (namespace, repository):
            raise BadCredentials("this is for Slipway's own git hook")
        return push


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
