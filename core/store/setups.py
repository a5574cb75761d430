"""What is set up in a browser by way of another site: who comes back is who was sent."""

from __future__ import annotations

import hashlib
import secrets
from typing import cast

from core import keys
from core.store.base import Base

SECONDS = 3600
"""As long as GitHub's codes are good."""


class Setups(Base):
    def begin_setup(self, note: str) -> str:
        """Keeps a note for whoever comes back within the hour; returns by what it is told."""
        state = secrets.token_urlsafe(32)
        self.keep_setup(state, note)
        return state

    def keep_setup(self, state: str, note: str) -> None:
        """The same under a state that is there: it was taken, and did not come to its end."""
        self.redis.set(_key(state), note, ex=SECONDS)

    def take_setup(self, state: str) -> str | None:
        """The note, once; None: nobody was sent with this state, or they were here already."""
        found = self.redis.getdel(_key(state))
        return None if found is None else cast(bytes, found).decode()


def _key(state: str) -> str:
    return keys.setup(hashlib.sha256(state.encode("utf-8", "replace")).hexdigest())
