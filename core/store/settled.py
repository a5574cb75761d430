"""Asynchronous calls that were made: their answers, and the dead letters, whose calls failed for
good. Both are kept for a time and within bounds; files of what goes are removed by the caller, who
gets their names (those of one that is killed before: gateway/bodies.py sweeps)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from core import keys, logging
from core.errors import Conflict, NotFound
from core.models import Call, CallState, moment, now
from core.settings import Settings
from core.store import callscripts
from core.store.base import Base, encode, text
from core.store.calls import Answered, Taken, answered_of, call_of, refused

log = logging.get()

MOST_DEAD = 10_000
"""Dead letters of all functions."""


@dataclass(frozen=True)
class KeptCall:
    """Everything that is known of a call. Times are RFC 3339, or '' for what was not yet."""

    call: Call
    sent: int
    """Bytes of its body."""
    of: str
    state: CallState
    reason: str
    attempts: int
    created: str
    started: str
    finished: str
    next: str
    status: int | None
    answered: Answered | None
    until: float
    """Unix time until which it is kept, once it is over; else 0."""

    @property
    def until_text(self) -> str:
        return moment(self.until)


class Settled(Base):
    def settle_call(
        self,
        taken: Taken,
        state: CallState,
        reason: str,
        answered: Answered,
        settings: Settings,
        *,
        dead: bool = False,
    ) -> tuple[int, list[str]]:
        """Keeps what came of a call, and takes it out of the queue; with a callback its entry
        stays until ``forget_call``.

        ``dead``: its body is kept as well, so that the admin can have it made again.

        Returns 1; 0 where it is not this worker's any more; 2 where it was cancelled meanwhile; and
        the names of files that are to go.
        """
        unix = time.time()
        headers = encode(answered.headers)
        told = (taken.id, taken.call.id, state.value, reason, "1" if taken.call.callback else "")
        answer = (answered.body, answered.file, answered.length, answered.seconds)
        found = self._script(
            callscripts.SETTLE,
            *(*told, "1" if dead else "", answered.status, headers, *answer, now(), unix),
            *(unix + settings.async_keep, settings.async_results),
            *(unix + settings.dead_letters_keep, settings.dead_letters, MOST_DEAD),
        )
        return int(found[0]), [text(name) for name in found[1:]]

    def cancel_call(self, id_: str, settings: Settings) -> tuple[str, list[str]]:
        """(the state that it was in, files that are to go): ``queued`` is never made; ``running``
        ends when its worker sees it; '' is not there; else it is over."""
        unix = time.time()
        told = (id_, now(), unix, unix + settings.async_keep, settings.async_results)
        found = self._script(callscripts.CANCEL, *told)
        return text(found[0]), [text(name) for name in found[1:]]

    def kept_call(self, id_: str) -> KeptCall | None:
        """None: there is none, or it is kept no more."""
        return _kept(cast("dict[bytes, bytes]", self.redis.hgetall(keys.call(id_))))

    def dead_letters(
        self,
        limit: int,
        namespace: str = "",
        function: str = "",
        visible: Callable[[str], bool] | None = None,
    ) -> list[KeptCall]:
        """The newest first, bodies and answers left out; ``function``: ``name.namespace``.
        ``visible``: of which namespaces; by default all."""
        ids = cast("list[bytes]", self.redis.zrevrange(keys.DEAD_LETTERS, 0, -1))
        wanted = [keys.call(text(id_)) for id_ in ids]
        if namespace or function or visible:
            owners = self._pipeline(("HGET", key, "of") for key in wanted)
            wanted = [
                key
                for key, of in zip(wanted, map(text, owners), strict=True)
                if function in ("", of)
                and namespace in ("", of.rpartition(".")[2])
                and (visible is None or visible(of.rpartition(".")[2]))
            ]
        rows = self._pipeline(("HMGET", key, *_SHORT) for key in wanted[:limit])
        shown = (
            {name: value for name, value in zip(_SHORT, row, strict=True) if value is not None}
            for row in rows
        )
        return [kept for each in shown if (kept := _kept(each))]

    def dead_letter(self, id_: str) -> KeptCall:
        """Raises NotFound: there is none of that id."""
        kept = self.kept_call(id_) if self.is_dead_letter(id_) else None
        if kept is None:
            raise no_letter(id_)
        return kept

    def replay_dead_letter(self, id_: str, bound: int) -> list[str]:
        """Has it made anew, with a new series of attempts; of several who ask at once one does.
        Returns the names of files that are to go.

        Raises:
            NotFound: there is none of that id.
            Conflict: it is on its way already.
            Unavailable: the queue has no room.
        """
        of = text(self.redis.hget(keys.call(id_), "of"))
        told, held, *gone = self._script(callscripts.REPLAY, id_, bound)
        if told == b"absent":
            raise no_letter(id_)
        if told in (b"all", b"own", b"owner"):
            raise refused(told, held, bound, of)
        if told == b"telling":
            raise Conflict(f"{id_} failed just now, and its callback is being told: try again")
        if told:
            raise Conflict(f"{id_} is no dead letter, it is {text(told)}")
        return [text(name) for name in gone if name]

    def remove_dead_letter(self, id_: str) -> list[str]:
        """Returns the names of files that are to go; raises NotFound."""
        done, *gone = self._script(callscripts.REMOVE, id_)
        if not done:
            raise no_letter(id_)
        return [text(name) for name in gone]

    def sweep_calls(self, settings: Settings) -> list[str]:
        """Forgets what is kept too long, or is too much; returns names of files that are to go."""
        unix = time.time()
        found = self._script(
            callscripts.SWEEP,
            *(unix, unix + settings.async_keep, settings.async_results),
            *(unix + settings.dead_letters_keep, settings.dead_letters, MOST_DEAD),
        )
        return [text(name) for name in found]

    def call_files(self, id_: str) -> set[str]:
        """Names of the files that belong to a call; empty where there is none."""
        body, answer = cast(
            "list[bytes | None]", self.redis.hmget(keys.call(id_), "body_file", "answer_file")
        )
        return {text(name) for name in (body, answer) if name}

    def is_dead_letter(self, id_: str) -> bool:
        return self.redis.zscore(keys.DEAD_LETTERS, id_) is not None

    def _script(self, script: str, *told: Any) -> list[Any]:
        return cast("list[Any]", self.redis.eval(script, 0, *told))


_SHORT = tuple(
    name.encode()
    for name in (
        *("call", "sent", "of", "state", "reason", "attempts", "created", "started"),
        *("finished", "next", "status", "until"),
    )
)
"""Of a dead letter in a list."""


def _kept(record: dict[bytes, bytes]) -> KeptCall | None:
    until = float(record.get(b"until", 0))
    if b"state" not in record or 0 < until < time.time():
        return None
    status = text(record.get(b"status"))
    try:
        call, answered = call_of(record), answered_of(record)
    except ValueError as error:  # another version's, which may come back
        log.warning("call_not_read", reason=str(error))
        return None
    return KeptCall(
        call=call,
        sent=int(record[b"sent"]),
        of=text(record.get(b"of")),
        state=CallState(text(record[b"state"])),
        reason=text(record.get(b"reason")),
        attempts=int(record.get(b"attempts", 0)),
        created=text(record.get(b"created")),
        started=text(record.get(b"started")),
        finished=text(record.get(b"finished")),
        next=text(record.get(b"next")),
        status=int(status) if status else None,
        answered=answered,
        until=until,
    )


def no_letter(id_: str) -> NotFound:
    return NotFound(f"there is no dead letter {id_}: see 'slipway dead-letters'")
