"""What nobody is doing although somebody should: found, and done, by one worker for all.

Every second, in little time whatever the number of repositories (``Sweep``):

- A release whose worker died (it has the turn, but no lease and no job that waits) is queued again.
- A repository whose waiting release has no turn, because a crash came between, gets it.

What may take long (``Upkeep``):

- What killed builds left half-made goes: folders of layers, bundles, releases and their secrets,
  and what the build engine knows of.
- What no build needs any more goes (``pruning``), on a schedule and when it is asked for.

Heads at forges have a module of their own (``forgeheads``); those of our own git remote are the
gateway's to compare: a worker may be on another machine.
"""

from __future__ import annotations

import time

from redis.exceptions import RedisError

from builder import dependencies, diskbound, pruning, registrygarbage
from builder.duty import Duty
from builder.engines import engine_for
from core import logging, queues
from core.errors import Conflict, NotFound
from core.models import State
from core.pruning import Answer, prune
from core.repositories import Repository
from core.settings import Settings
from core.store import Store

HALF_MADE_EVERY = 60.0
PRUNE_EVERY = 600.0
PART = "builder"
ATTEMPTS = 3
"""A build that killed its worker so often is not tried again."""
GRACE = 2.0
"""Seconds that a job may take from the queue to its lease."""

log = logging.get()


class Sweep:
    """The quick duties."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._duty = Duty(store, "sweep", 3.0)
        self._missing: dict[str, float] = {}

    def run(self) -> None:
        """One sweep; does nothing while another worker has the duty."""
        if not self._duty.mine():
            return
        for repository in self.store.repositories():
            if not self._duty.mine():
                return
            try:
                self._builds(repository)
            except (Conflict, NotFound) as error:  # decided while we looked
                log.info("sweep_overtaken", repository=repository.key, reason=str(error))
            except RedisError:
                raise
            except Exception as error:  # one repository's trouble is not the others'
                log.warning("sweep_failed", repository=repository.key, reason=str(error))

    def _builds(self, repository: Repository) -> None:
        id_ = self.store.turn(repository.key)
        if not id_:
            queues.dispatch(self.store, repository.key)
            return
        release = self.store.release(id_)
        if not release.state.with_builder:  # cannot be: the turn goes with the state
            return
        attempt = self.store.attempts(id_)
        if self.store.leased(id_) or (attempt and queues.waits_in_queue(self.store, id_, attempt)):
            self._missing.pop(id_, None)
            return
        since = self._missing.setdefault(id_, time.monotonic())
        if time.monotonic() - since < GRACE:
            return
        self._missing.pop(id_, None)
        deaths = self.store.count_death(id_)
        if deaths >= ATTEMPTS:
            self.store.move(
                id_,
                [release.state],
                State.FAILED,
                f"its worker died {deaths} times while building: it may need more memory than "
                "there is; see the workers' log, then push again",
            )
            return
        log.warning("build_resumed", release=id_, attempt=attempt + 1)
        queues.enqueue(self.store, id_)


class Upkeep:
    """The slow duties, a little of them each turn."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._duty = Duty(store, "upkeep", 30.0)
        self._swept_at = 0.0
        self._pruned_at = time.monotonic()

    def run(self) -> None:
        """One turn; does nothing while another worker has the duty."""
        if not self._duty.mine():
            return
        now = time.monotonic()
        if ask := self.store.take_prune(PART):
            self.store.answer_prune(PART, ask, self._prune(dry=ask.dry, pressed=ask.pressed))
            if not ask.dry:  # takes longer than anybody waits for the answer
                self._collect(pressed=ask.pressed)
        elif now - self._pruned_at > PRUNE_EVERY:
            self._pruned_at = now
            pressed = diskbound.pressed(self.settings, self.store)
            self._prune(pressed=pressed)
            self._collect(pressed=pressed)
        if not self._swept_at or now - self._swept_at > HALF_MADE_EVERY:
            self._swept_at = now
            dependencies.sweep(self.settings)
            engine_for(self.settings).sweep()

    def _prune(self, *, dry: bool = False, pressed: bool = False) -> Answer:
        found = pruning.candidates(self.settings, self.store, pressed=pressed)
        return prune(found, dry=dry, go_on=self._duty.mine)

    def _collect(self, *, pressed: bool) -> None:
        registrygarbage.collect(self.settings, pressed=pressed, check=self._duty.mine)
