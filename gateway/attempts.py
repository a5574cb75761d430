"""One attempt at an asynchronous call, from its begin to what the store keeps of it, and the answer
to its callback.

Killed before the store knows what came of it, all of it is done again; killed after that, only the
callback is told again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

from core import logging, names
from core.errors import NotFound, SlipwayError
from core.models import Call, CallState, moment
from core.patience import USUAL, patience_of
from core.retries import Policy, policy_of
from core.settings import Settings
from core.store import Store
from core.store.calls import Answered, Taken
from gateway import callbacks
from gateway.bodies import Bodies
from gateway.making import OUR_ID, Answer, Line, failed, make
from gateway.outcomes import Outcome, outcome_of

WAIT = 1.0
"""Seconds between two looks for a store that is away."""
MOST_TIMES = 10
"""A call that was begun so often and never ended takes its worker along: it is given up."""

_NOT_TOLD = {"host", "content-length", "connection", "x-callback-url", "authorization", "cookie"}
"""Headers of a function's answer that no callback gets: one that echoes its request could have
itself called for ever."""

T = TypeVar("T")
log = logging.get()


class Attempts:
    """For several threads."""

    def __init__(self, settings: Settings, store: Store, bodies: Bodies) -> None:
        self.settings = settings
        self.store = store
        self.bodies = bodies

    def make(self, taken: Taken, line: Line) -> Answered | None:
        """One attempt, and what comes of it. Returns what is to be posted to the callback."""
        call = taken.call
        attempt = self.surely(lambda: self.store.begin_call(taken))
        if attempt == 0:  # another's by now, or over: whoever has its entry sees to that
            return None
        if attempt < 0:
            line.end()
        begun = time.monotonic()
        policy, patience = self._wishes(call)
        if line.cut or taken.times > MOST_TIMES:
            often = f"it was begun {MOST_TIMES} times and never ended: it was given up"
            answer = failed(502, often, hopeless=True)
        else:
            try:
                answer = make(call, self.settings, patience, self.bodies, line)
            except NotFound as error:
                answer = failed(502, str(error), hopeless=True)
        took = time.monotonic() - begun
        outcome = outcome_of(answer, policy, taken.retries)
        if outcome.state is not CallState.DONE and not line.cut:
            log.info(
                "call_failed_for_good" if outcome.state is CallState.FAILED else "call_tried_again",
                **{"call": call.id, "function": call.name, "status": answer.status},
                **{"attempt": attempt, "reason": outcome.reason, "wait": round(outcome.wait, 3)},
            )
        if outcome.state is CallState.QUEUED and not line.cut:
            due = time.time() + outcome.wait
            told = (taken, due, moment(due), answer.status, outcome.reason)
            if self.surely(lambda: self.store.retry_call(*told)):
                self.bodies.remove([answer.body.file])
                return None
        return self._settle(taken, answer, outcome, took)

    def _settle(
        self, taken: Taken, answer: Answer, outcome: Outcome, took: float
    ) -> Answered | None:
        """Keeps the answer for who asks."""
        state = CallState.DONE if outcome.state is CallState.DONE else CallState.FAILED
        body = answer.body
        kept = Answered(answer.status, answer.headers, body.data, body.file, body.length, took)
        done, gone = self.surely(
            lambda: self.store.settle_call(
                taken, state, outcome.reason, kept, self.settings, dead=state is CallState.FAILED
            )
        )
        self.bodies.remove(gone if done == 1 else [*gone, body.file])
        return kept if done == 1 and taken.call.callback else None

    def _wishes(self, call: Call) -> tuple[Policy, float]:
        """When it is tried again, and seconds for the whole of a call: a function that drips its
        answer holds one of our few threads."""
        name = names.join_function(*names.split_function(call.name))
        record = self.surely(lambda: self.store.function(name))
        if record is None:
            return Policy(), USUAL
        return policy_of(record.spec.annotations), patience_of(record.spec) or USUAL

    def post(self, taken: Taken, told: Answered) -> None:
        """Tells the callback; what becomes of it is in the log."""
        call = taken.call
        if taken.answered and taken.times > MOST_TIMES:
            log.error("callback_given_up", call=call.id, function=call.name, times=taken.times)
            return
        policy, _ = self._wishes(call)
        ours = {
            "X-Call-Id": call.given or call.id,
            OUR_ID: call.id,
            "X-Duration-Seconds": f"{told.seconds:.6f}",
            "X-Function-Status": str(told.status),
            "X-Function-Name": call.name,
            "X-Retry": str(taken.retries),
            "X-Retry-Max": str(policy.attempts),
        }
        theirs = {name.lower() for name in ours} | _NOT_TOLD
        headers = [each for each in told.headers if each[0].lower() not in theirs]
        body = self.bodies.kept(told.file, told.body, told.length)
        try:
            status = callbacks.post(call.callback, [*headers, *ours.items()], body, self.settings)
        except SlipwayError as error:
            log.warning("callback_failed", call=call.id, function=call.name, reason=str(error))
        else:
            if status >= 300:
                log.info("callback_answered", call=call.id, function=call.name, status=status)

    def surely(self, ask: Callable[[], T]) -> T:
        """Where the store is away the call is kept alive until it is back, not made again."""
        while True:
            try:
                return ask()
            except RedisError as error:
                log.warning("store_unavailable", reason=str(error))
                time.sleep(WAIT)
