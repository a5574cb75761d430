"""Removes what nothing can need any more of releases, their artifacts and functions' logs.

Releases and revisions that can be gone back to are kept (``core.store.retention``), all others
leave the store. Needed are the artifacts of those, of what runs, shall run, or goes on running for
a while. One that has been needed by nothing for an hour is removed wherever it lies; a build that
wants it again builds it again. Nothing is remembered here: the store knows since when each has been
unneeded.

An image by its bare id may be that of several owners, so what one of them needs stays for all. A
build that finds an artifact takes it from the list in the store, and then it stays: that is decided
in one transaction. Images that were not built here are the provider's to tidy up: it knows which of
them it brought.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

from redis.exceptions import RedisError

from core import disk, logging
from core.bundle import PREFIX, bundle_folder
from core.errors import Unavailable
from core.pruning import MOST, Answer, Ask, Candidate, Pruned, prune, together
from core.settings import Settings
from core.store import Store
from core.store.retention import NOTHING
from runtime import ballast, oldlogs
from runtime.providers import Provider

PART = "controller"
EVERY = 600.0
"""Seconds between two looks."""
EVERY_PRESSED = 60.0
"""The same while the disk is too full."""
ASKED_EVERY = 1.0
GRACE = 3600.0
"""Seconds that an artifact stays after the last thing that needed it."""
GRACE_PRESSED = 60.0
"""The same while the disk is too full."""

log = logging.get()


class Housekeeping:
    def __init__(self, settings: Settings, store: Store, provider: Provider) -> None:
        self.settings = settings
        self.store = store
        self.provider = provider

    def run(self, *, dry: bool = False, pressed: bool = False) -> Answer:
        """One look at everything. ``dry``: only tells what would go; ``pressed``: the disk is too
        full.

        Raises:
            Unavailable: the engine is away, so it cannot be told what runs.
        """
        grace = GRACE_PRESSED if pressed else GRACE
        running = {each.spec.function for each in self.provider.instances()}
        functions = running | self.store.functions().keys()
        releases, needed = self._releases(dry=dry)
        return together(
            [
                releases,
                prune(self._artifacts(needed, grace, dry=dry), dry=dry),
                self.provider.tidy(needed | set(self._serving()), grace, dry=dry),
                prune(oldlogs.candidates(self.settings.logs, functions), dry=dry),
            ]
        )

    def _releases(self, *, dry: bool) -> tuple[Answer, set[str]]:
        """Judges the releases of every repository, and rollbacks; also returns the artifacts that
        are needed for those that are kept."""
        known = {each.key for each in self.store.repositories()}
        _, with_releases = self.store.with_artifacts()
        answers: list[Answer] = []
        needed: set[str] = set()
        left = MOST
        for repository in sorted(known | with_releases):
            keep = self.settings.keep_revisions if repository in known else NOTHING
            retained = self.store.retain(repository, keep, most=left, dry=dry)
            if repository in known:
                needed.update(self.store.retained_artifacts(repository, retained))
            left -= len(retained.gone)
            gone = [Pruned(kind="release", name=f"{repository} {id_}") for id_ in retained.gone]
            answers.append(Answer(pruned=gone, more=retained.more))
        old = self.store.old_rollbacks()[:MOST]
        if not dry:
            self.store.forget_rollbacks(old)
        answers.append(Answer(pruned=[Pruned(kind="rollback", name=id_) for id_ in old]))
        return together(answers), needed

    def _artifacts(self, needed: set[str], grace: float, *, dry: bool) -> Iterator[Candidate]:
        """Artifacts that have been needed by nothing for ``grace`` seconds."""
        needed.update(self._serving())
        before, now = self.store.unneeded(), time.time()
        known = self._known(before)
        idle = {
            f"{namespace} {artifact}"
            for namespace, artifacts in known.items()
            for artifact in artifacts
            if artifact not in needed
        }
        if not dry:
            self.store.note_unneeded(
                {name: now for name in idle if name not in before},
                [name for name in before if name not in idle],
            )
        for name in sorted(idle & before.keys()):
            if now - before[name] < grace:
                continue
            namespace, _, artifact = name.partition(" ")
            build_keys = known[namespace][artifact]
            yield Candidate(
                kind="bundle" if artifact.startswith(PREFIX) else "image",
                name=name,
                remove=partial(self._remove, name, build_keys, before[name], needed),
                bytes=partial(self._size, namespace, artifact),
            )

    def _known(self, noted: Iterable[str]) -> dict[str, dict[str, list[str]]]:
        """Namespace → artifact → the build keys that gave it. None have bundles without a record,
        which a store that lost its last second may leave, and what was not removed to its end,
        which is still ``noted``; and images of builds that died before they could tell."""
        bundles = self.settings.bundles
        folders = list(bundles.glob("*/[0-9a-f]*")) if bundles.is_dir() else []
        spaces, _ = self.store.with_artifacts()
        known = self.store.known_artifacts(spaces)
        for folder in folders:
            known.setdefault(folder.parent.name, {}).setdefault(PREFIX + folder.name, [])
        build_keys = {key for of in known.values() for keys in of.values() for key in keys}
        try:
            for namespace, artifact in self.provider.stray(build_keys):
                known.setdefault(namespace, {}).setdefault(artifact, [])
        except Unavailable as error:  # all that is known goes meanwhile
            log.warning("stray_images_unknown", reason=str(error))
        for name in noted:
            namespace, _, artifact = name.partition(" ")
            known.setdefault(namespace, {}).setdefault(artifact, [])
        return known

    def _remove(
        self, name: str, build_keys: Collection[str], since: float, needed: set[str]
    ) -> bool:
        """Removes an artifact unless something has come to need it after all others were looked at.

        First no build finds it any more, and last it leaves the list: what is cut off in between is
        found there again.
        """
        namespace, _, artifact = name.partition(" ")
        needed.update(self._serving())
        if artifact in needed or not self.store.release_artifact(
            namespace, artifact, build_keys, since
        ):
            return False
        unneeded = partial(self.store.is_unneeded, namespace, artifact, since)
        self.provider.discard(namespace, artifact, unneeded)
        if not unneeded():  # the same was built again meanwhile
            return False
        self.store.forget_artifact(namespace, artifact, ())
        return True

    def _size(self, namespace: str, artifact: str) -> int:
        if artifact.startswith(PREFIX):
            return disk.usage(bundle_folder(self.settings, namespace, artifact))
        return self.provider.weigh(artifact)

    def _serving(self) -> Iterator[str]:
        """Artifacts of all that runs or is about to: what may change at any moment."""
        for record in self.store.functions().values():
            yield record.spec.artifact
            if record.previous:
                yield record.previous.artifact
        for warm in self.store.warm().values():
            yield warm.spec.artifact
        for release in self.store.staging():
            for artifact in self.store.artifacts(release.id):
                yield artifact.artifact
        for instance in self.provider.instances():
            yield instance.spec.artifact


def follow(
    duty: Housekeeping, stop: threading.Event, before: Callable[[], None] = lambda: None
) -> None:
    """Looks on the schedule, and when it is asked to, until ``stop``; ``before`` is called before
    each look of the schedule. Gives the ballast away when the disk is full."""
    looked = time.monotonic()
    pressed = False
    while not stop.wait(ASKED_EVERY):
        try:
            ballast.trim(duty.settings)
            if ask := duty.store.take_prune(PART):
                answer(duty, ask)
            elif time.monotonic() - looked >= (EVERY_PRESSED if pressed else EVERY):
                looked = time.monotonic()
                before()
                pressed = _pressed(duty)
                duty.run(pressed=pressed)
        except (RedisError, Unavailable) as error:
            log.warning("not_tidied", reason=str(error))
        except Exception:
            log.exception("tidy_failed")


def answer(duty: Housekeeping, ask: Ask) -> None:
    """Looks because somebody asked. Raises Unavailable: the engine."""
    duty.store.answer_prune(PART, ask, duty.run(dry=ask.dry, pressed=ask.pressed))


def _pressed(duty: Housekeeping) -> bool:
    """Whether the disk is too full: by the limit, as it was measured last, or because little is
    free."""
    limit = duty.settings.disk_limit
    over = limit and (duty.store.disk_used() or 0) > limit
    return bool(over) or disk.free(duty.settings.state) < disk.RESERVE
