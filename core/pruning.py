"""What can be removed because nothing needs it: found, told, and removed by whoever owns it.

A dry run and a real one walk over the same candidates in the same order, and only the last step
differs: so what a dry run tells is what a real run right after it removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from redis.exceptions import RedisError

from core import logging
from core.models import Struct

MOST = 2000
"""Things that one look removes of each part: whatever piled up, it ends within minutes."""

log = logging.get()

T = TypeVar("T")


class Pruned(Struct, frozen=True):
    """One thing that was removed, or would be."""

    kind: str
    name: str
    bytes: int = 0
    """On disk, as far as it can be told; 0 where it lies in the store."""


class Answer(Struct, frozen=True):
    """What one part says of its own."""

    pruned: list[Pruned] = msgspec.field(default_factory=list)
    more: bool = False
    """There is more to remove: ask again."""


class Ask(Struct, frozen=True):
    """That a part is to look at once."""

    id: str
    dry: bool = False
    pressed: bool = False
    """The disk is too full: what is kept for convenience is kept less long."""


@dataclass(frozen=True)
class Candidate:
    """One thing that nothing seems to need."""

    kind: str
    name: str
    remove: Callable[[], bool]
    """Looks again whether nothing needs it, as it is not alone; False where it stays."""
    bytes: Callable[[], int] = int


def prune(
    candidates: Iterable[Candidate], *, dry: bool = False, go_on: Callable[[], bool] = lambda: True
) -> Answer:
    """Removes them, or only tells them. One that cannot be removed stays, and holds up no other.

    ``go_on`` is asked before each.
    """
    done: list[Pruned] = []
    for each in candidates:
        if len(done) >= MOST or not go_on():
            return Answer(pruned=done, more=True)
        try:
            size = each.bytes()
            if dry or each.remove():
                done.append(Pruned(kind=each.kind, name=each.name, bytes=size))
                if not dry:
                    log.info("pruned", kind=each.kind, name=each.name, bytes=size)
        except RedisError:
            raise
        except Exception as error:
            log.warning("not_pruned", kind=each.kind, name=each.name, reason=repr(error))
    return Answer(pruned=done)


def of_each(
    kind: str, places: Iterable[T], find: Callable[[T], Iterable[Candidate]]
) -> Iterator[Candidate]:
    """The candidates that ``find`` finds in each place. Where it fails the rest of that place
    stays, and those of all others are found.

    Raises RedisError: the store is away.
    """
    for place in places:
        try:
            yield from find(place)
        except RedisError:
            raise
        except Exception as error:
            log.warning("not_pruned", kind=kind, name=str(place), reason=repr(error))


def together(answers: Iterable[Answer]) -> Answer:
    """Several answers as one."""
    all_ = list(answers)
    return Answer(
        pruned=[each for answer in all_ for each in answer.pruned],
        more=any(answer.more for answer in all_),
    )
