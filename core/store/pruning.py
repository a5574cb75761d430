"""Asking a part to look for what can be removed, and its answer: through the store, as parts share
no other place. Each part takes an ask once; what nobody takes is gone in seconds."""

from __future__ import annotations

import time
from typing import cast

import msgspec

from core import keys
from core.pruning import Answer, Ask
from core.store.base import Base, encode

ASK_SECONDS = 30
"""An ask that nobody took is forgotten."""
ANSWER_SECONDS = 600


class Pruning(Base):
    def ask_to_prune(self, part: str, ask: Ask) -> None:
        self.redis.set(keys.prune(part), encode(ask), ex=ASK_SECONDS)

    def take_prune(self, part: str) -> Ask | None:
        """What the part is asked, once."""
        raw = cast("bytes | None", self.redis.get(keys.prune(part)))
        if raw is None or not self.redis.delete(keys.prune(part)):
            return None
        return msgspec.json.decode(raw, type=Ask)

    def answer_prune(self, part: str, ask: Ask, answer: Answer) -> None:
        self.redis.set(keys.pruned(ask.id, part), encode(answer), ex=ANSWER_SECONDS)

    def await_prune(self, part: str, ask: Ask, seconds: float) -> Answer | None:
        """Asks, and waits for the answer; None: there is none in time, or nobody takes the ask."""
        self.ask_to_prune(part, ask)
        deadline = time.monotonic() + seconds
        while True:
            raw = cast("bytes | None", self.redis.get(keys.pruned(ask.id, part)))
            if raw is not None:
                return msgspec.json.decode(raw, type=Answer)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.1)

    def note_disk_used(self, size: int, seconds: int) -> None:
        self.redis.set(keys.DISK_USED, size, ex=seconds)

    def disk_used(self) -> int | None:
        """Bytes, as measured in the last seconds; None: not then."""
        raw = cast("bytes | None", self.redis.get(keys.DISK_USED))
        return None if raw is None else int(raw)
