"""Asking a part to look for what can be removed, and its answer: through the store, as parts share
no other place. Each part takes an ask once; what nobody takes is gone in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import msgspec

from core import keys
from core.pruning import Answer, Ask
from core.store.base import Base, encode, text

ASK_SECONDS = 30
"""An ask that nobody took is forgotten."""
ANSWER_SECONDS = 600


class Pruning(Base):
    def ask_to_prune(self, part: str, ask: Ask) -> None:
        self._pipeline(
            [
                ("SET", keys.ask_to_prune(ask.id, part), encode(ask), "EX", ASK_SECONDS),
                ("RPUSH", keys.asks_to_prune(part), ask.id),
                ("EXPIRE", keys.asks_to_prune(part), ASK_SECONDS),
            ]
        )

    def take_prune(self, part: str) -> Ask | None:
        """What the part is asked, each ask once."""
        while (id_ := cast("bytes | None", self.redis.lpop(keys.asks_to_prune(part)))) is not None:
            raw = cast("bytes | None", self.redis.get(keys.ask_to_prune(text(id_), part)))
            if raw is not None and self.redis.delete(keys.ask_to_prune(text(id_), part)):
                return msgspec.json.decode(raw, type=Ask)
        return None

    def answer_prune(self, part: str, ask: Ask, answer: Answer) -> None:
        self.redis.set(keys.pruned(ask.id, part), encode(answer), ex=ANSWER_SECONDS)

    def await_prune(
        self, part: str, ask: Ask, seconds: float, check: Callable[[], None] = lambda: None
    ) -> Answer | None:
        """Asks, and waits for the answer; None: there is none in time, or nobody takes the ask.
        ``check`` is asked meanwhile: what it raises ends the waiting."""
        self.ask_to_prune(part, ask)
        deadline = time.monotonic() + seconds
        while True:
            check()
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
