"""What nobody is doing although somebody should: found, and done, by one worker for all.

Every second, in little time whatever the number of repositories (``Sweep``):

- A release whose worker died (it has the turn, but no lease and no job that waits) is queued again.
- A repository whose waiting release has no turn, because a crash came between, gets it.

What may take long (``Upkeep``):

- Heads at forges, likewise: a power cut may take an event that was answered with 202.
- What killed builds left half-made goes: folders of layers, bundles, releases and their secrets,
  and what the build engine knows of.
- What no build needs any more goes (``pruning``), on a schedule and when it is asked for.

Heads of our own git remote are the gateway's to compare: a worker may be on another machine.
"""

from __future__ import annotations

import secrets
import time

from redis.exceptions import RedisError

from builder import dependencies, diskbound, pruning, registrygarbage
from builder.engines import engine_for
from builder.mirror import Mirror, clone_url
from core import keys, logging, queues
from core.errors import Conflict, NotFound, SlipwayError
from core.models import Repository, State
from core.pruning import Answer, prune
from core.settings import Settings
from core.store import Store

HALF_MADE_EVERY = 60.0
PRUNE_EVERY = 600.0
PART = "builder"
FORGE_EVERY = 300.0
"""Seconds between two looks at one repository of a forge."""
FORGE_TIMEOUT = 10.0
ATTEMPTS = 3
"""A build that killed its worker so often is not tried again."""
GRACE = 2.0
"""Seconds that a job may take from the queue to its lease."""

log = logging.get()


class Duty:
    """What one worker does at a time. Who falls silent for ``seconds`` loses it to another."""

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
    """The slow duties, a little of them each turn: a forge gets one question."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._duty = Duty(store, "upkeep", 30.0)
        self._swept_at = 0.0
        self._pruned_at = time.monotonic()
        self._looked_at: dict[str, float] = {}

    def run(self) -> None:
        """One turn; does nothing while another worker has the duty."""
        if not self._duty.mine():
            return
        now = time.monotonic()
        # At the start all are due; of a repository that comes later, the event has just come.
        unseen = now if self._swept_at else now - FORGE_EVERY
        forges = [
            each
            for each in self.store.repositories()
            if each.source != "git" and each.deploy_branch
        ]
        for each in forges:
            self._looked_at.setdefault(each.key, unseen)
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
        oldest = min(forges, key=lambda each: self._looked_at[each.key], default=None)
        if oldest and now - self._looked_at[oldest.key] >= FORGE_EVERY and self._duty.mine():
            self._looked_at[oldest.key] = now
            self._forge_head(oldest)

    def _prune(self, *, dry: bool = False, pressed: bool = False) -> Answer:
        found = pruning.candidates(self.settings, self.store, pressed=pressed)
        return prune(found, dry=dry, go_on=self._duty.mine)

    def _collect(self, *, pressed: bool) -> None:
        registrygarbage.collect(self.settings, pressed=pressed, check=self._duty.mine)

    def _forge_head(self, repository: Repository) -> None:
        try:
            url = clone_url(self.settings, repository)
            mirror = Mirror(self.settings, repository.namespace, repository.name)
            _, head = mirror.head(url, repository.deploy_branch, timeout=FORGE_TIMEOUT)
        except SlipwayError as error:  # away, or private: its events tell us
            log.warning("head_unknown", repository=repository.key, reason=str(error))
            return
        if head != self._released(repository):
            _found(self.store, repository, head)

    def _released(self, repository: Repository) -> str:
        """The branch's head when it was last released, which may not be what the event said."""
        for release in self.store.releases(repository.namespace, repository.name, limit=20):
            if not self.store.pinned(release.id):  # those are the admin's own choice
                return release.commit
        return self.store.head(repository.key)


def _found(store: Store, repository: Repository, head: str) -> None:
    log.warning("push_found", repository=repository.key, commit=head)
    store.create_release(repository, head, repository.deploy_branch)
    queues.dispatch(store, repository.key)
