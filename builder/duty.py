"""What one worker does at a time for all of them."""

from __future__ import annotations

import secrets
import time

from core import keys
from core.store import Store


class Duty:
    """Who falls silent for ``seconds`` loses it to another."""

    def __init__(self, store: Store, name: str, seconds: float) -> None:
        self._store = store
        self._key = keys.lock(name)
        self._seconds = seconds
        self._token = secrets.token_hex(8)
        self._taken = -seconds

    def mine(self) -> bool:
        """Takes or keeps the duty; to be asked again before each piece of the work."""
        now = time.monotonic()
        if now - self._taken < self._seconds / 3:
            return True
        if not self._store.take(self._key, self._token, self._seconds):
            return False
        self._taken = now
        return True
