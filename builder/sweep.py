"""What nobody is doing although somebody should: found every second, and done.

- A release whose worker died (it has the turn, but no lease and no job that waits) is queued again.
- A repository whose waiting release has no turn, because a crash came between, gets it.
- Once a minute, and at the start: branch heads without a release get one, so that no stored push
  is lost when everything died between the push and its release; and what killed builds left
  half-made in the folders of layers and bundles goes.
"""

from __future__ import annotations

import secrets
import time

from builder import dependencies
from builder.mirror import Mirror, local_url
from core import keys, logging, queues
from core.errors import Conflict, NotFound, SlipwayError
from core.models import Repository, State
from core.settings import Settings
from core.store import Store

HEADS_EVERY = 60.0
ATTEMPTS = 3
"""A build that killed its worker so often is not tried again."""
GRACE = 2.0
"""Seconds that a job may take from the queue to its lease."""

log = logging.get()


class Sweep:
    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._token = secrets.token_hex(8)
        self._heads_at = 0.0
        self._missing: dict[str, float] = {}

    def run(self) -> None:
        """One sweep; does nothing while another worker has the duty."""
        if not self.store.take(keys.lock("sweep"), self._token, 3.0):
            return
        repositories = self.store.repositories()
        for repository in repositories:
            try:
                self._builds(repository)
            except (Conflict, NotFound) as error:  # decided while we looked
                log.info("sweep_overtaken", repository=repository.key, reason=str(error))
        if time.monotonic() - self._heads_at > HEADS_EVERY or not self._heads_at:
            self._heads_at = time.monotonic()
            dependencies.sweep(self.settings)
            for repository in repositories:
                self._head(repository)

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

    def _head(self, repository: Repository) -> None:
        if repository.source != "git" or not repository.deploy_branch:
            return
        try:
            mirror = Mirror(self.settings, repository.namespace, repository.name)
            _, head = mirror.head(
                local_url(self.settings, repository), repository.deploy_branch, local=True
            )
        except SlipwayError as error:
            log.warning("head_unknown", repository=repository.key, reason=str(error))
            return
        if head and head != self.store.head(repository.key):
            log.warning("push_found", repository=repository.key, commit=head)
            self.store.create_release(repository, head, repository.deploy_branch)
            queues.dispatch(self.store, repository.key)
