"""Removes artifacts that no rollback can need any more.

Needed is what runs, what shall run, and what the last ``Settings.keep_releases`` releases of each
repository brought. An artifact that has been needed by nothing for an hour is removed wherever it
lies; a build that wants it again builds it again. Nothing is remembered here: the store knows since
when each has been unneeded.

An image by its bare id may be that of several owners, so what one of them needs stays for all. A
build that finds an artifact takes it from the list in the store; removing takes minutes, so this is
looked up before each. Images that were not built here are the provider's to tidy up: it knows which
of them it brought. Logs of functions that are long gone go as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from core import logging
from core.errors import SlipwayError
from core.models import State
from core.settings import Settings
from core.store import Store
from runtime import oldlogs
from runtime.providers import Provider

EVERY = 600.0
"""Seconds between two looks."""
GRACE = 3600.0
"""Seconds that an artifact stays after the last thing that needed it: a build that has just found
it made already must have the time to say so."""
LOOKED_AT = 1000
"""Most releases of a repository that are read: those that failed do not count as kept."""

_WAS_LIVE = (State.LIVE, State.REPLACED, State.ROLLED_BACK)

log = logging.get()


class Housekeeping:
    def __init__(self, settings: Settings, store: Store, provider: Provider) -> None:
        self.settings = settings
        self.store = store
        self.provider = provider

    def run(self) -> int:
        """One look at everything; returns how many artifacts were removed.

        Raises:
            Unavailable: the engine is away, so it cannot be told what runs.
        """
        namespaces = {each.namespace for each in self.store.repositories()}
        known = self.store.known_artifacts(namespaces)
        needed = set(self._needed())
        before, now = self.store.unneeded(), time.time()
        idle = {
            f"{namespace} {artifact}"
            for namespace, artifacts in known.items()
            for artifact in artifacts
            if artifact not in needed
        }
        self.store.note_unneeded(
            {name: now for name in idle if name not in before},
            [name for name in before if name not in idle],
        )
        removed = 0
        for name in sorted(idle & before.keys()):
            namespace, _, artifact = name.partition(" ")
            if now - before[name] < GRACE or self._wanted_again(name, before[name]):
                continue
            try:
                self.provider.discard(namespace, artifact)
            except (SlipwayError, OSError) as error:  # it stays on the list
                log.warning("not_discarded", artifact=artifact, reason=str(error))
                continue
            # Last: as long as the key is there, the artifact is found here again.
            self.store.forget_artifact(namespace, artifact, known[namespace][artifact])
            log.info("discarded", namespace=namespace, artifact=artifact)
            removed += 1
        running = {each.spec.function for each in self.provider.instances()}
        oldlogs.remove(self.settings.logs, running | self.store.functions().keys())
        return removed + self.provider.tidy(set(self._needed()), GRACE)

    def _wanted_again(self, name: str, since: float) -> bool:
        """Whether something has come to need it after all others were looked at."""
        if name.partition(" ")[2] in set(self._needed()):
            return True
        return self.store.unneeded().get(name) != since  # last: a build says so at any moment

    def _needed(self) -> Iterator[str]:
        """Artifacts of all that runs, shall run, or may run again."""
        for record in self.store.functions().values():
            yield record.spec.artifact
            if record.previous:
                yield record.previous.artifact
        for release in self.store.staging():
            for artifact in self.store.artifacts(release.id):
                yield artifact.artifact
        for instance in self.provider.instances():
            yield instance.spec.artifact
        for repository in self.store.repositories():
            kept = 0
            for release in self.store.releases(
                repository.namespace, repository.name, limit=LOOKED_AT
            ):
                for row in release.functions:
                    yield row.artifact
                kept += release.state in _WAS_LIVE
                if kept > self.settings.keep_releases:
                    break
