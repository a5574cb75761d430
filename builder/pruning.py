"""What the builder can remove because no build and no bundle needs it any more.

    layers       of dependencies, that no bundle stands on and no build has used for a day
    templates    of others, and mirrors of their repositories: not used for a week
    mirrors      of repositories that are gone, or had no release for a month: fetched again
    caches       of uv and npm, of an owner in whose they take over a gigabyte: downloaded again
    locks        what requirements resolved to, not used for a month: resolved again
    previews     folders of derived namespaces that nobody holds any more: all that is left in them

All may go while builds run: each is taken away in one step once it is sure that nobody uses it, and
whoever wants it again makes it again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from builder import folders, previewfolders, templaterepositories, templatesources
from builder.mirror import Mirror
from core import disk, queues
from core.bundle import HALF_MADE, Bundle
from core.models import Release
from core.pruning import Candidate, of_each
from core.settings import Settings
from core.store import Store

LAYER_UNUSED = 86400.0
LAYER_UNUSED_PRESSED = queues.JOB_SECONDS + 600.0
"""Seconds since a build last used it; a build that still goes on may be about to name it."""
MIRROR_UNUSED = 30 * 86400.0
LOCK_UNUSED = 30 * 86400.0
CACHE = 2**30
"""Bytes that one owner's downloads of one tool may take."""
TOOLS = ("uv", "npm")


def candidates(settings: Settings, store: Store, *, pressed: bool = False) -> Iterator[Candidate]:
    """``pressed``: the disk is too full, so that less is kept for convenience."""
    unused = LAYER_UNUSED_PRESSED if pressed else LAYER_UNUSED
    kinds = {
        "dependencies": partial(_layers, settings, unused),
        "template": partial(templatesources.unused, settings),
        "template mirror": partial(templaterepositories.unused, settings),
        "mirror": partial(_mirrors, settings, store),
        "cache": partial(_caches, settings, 0 if pressed else CACHE),
        "lock": partial(_locks, settings),
        "preview": partial(previewfolders.candidates, settings, store),
    }
    yield from of_each("kind", kinds, lambda kind: kinds[kind]())


def _layers(settings: Settings, unused: float) -> Iterator[Candidate]:
    def old(layer: Path) -> bool:
        return time.time() - layer.stat().st_mtime > unused

    def of(owner: Path) -> Iterator[Candidate]:
        due = [layer for layer in sorted(owner.glob("[0-9a-f]*")) if old(layer)]
        named = _named(settings.bundles / owner.name) if due else set()
        for layer in due:
            if layer.name not in named:
                remove = partial(folders.retire, layer, old)
                name = f"{owner.name}/{layer.name}"
                yield Candidate("dependencies", name, remove, partial(disk.usage, layer))

    return of_each("dependencies", sorted(settings.layers.glob("*")), of)


def _named(bundles: Path) -> set[str]:
    """The layers that an owner's bundles stand on."""
    named: set[str] = set()
    for path in bundles.glob("*/bundle.json"):
        with contextlib.suppress(FileNotFoundError):  # it just went
            if not path.parent.name.startswith(HALF_MADE):
                bundle = msgspec.json.decode(path.read_bytes(), type=Bundle)
                named.update(layer.digest for layer in bundle.layers)
    return named


def _mirrors(settings: Settings, store: Store) -> Iterator[Candidate]:
    known = {each.key for each in store.repositories()}

    def of(git_dir: Path) -> Iterator[Candidate]:
        namespace, name = git_dir.parent.name, git_dir.stem
        if namespace == templaterepositories.OWNER:
            return
        newest = store.newest_release(f"{namespace}/{name}")
        moving = newest is not None and not newest.state.final
        if moving or (f"{namespace}/{name}" in known and newest and not _long_ago(newest)):
            return
        mirror = Mirror(settings, namespace, name)
        size = partial(disk.usage, git_dir)
        yield Candidate("mirror", f"{namespace}/{name}", mirror.discard, size)

    return of_each("mirror", sorted(settings.mirrors.glob("*/*.git")), of)


def _long_ago(release: Release) -> bool:
    made = datetime.fromisoformat(release.created_at)
    return (datetime.now(UTC) - made).total_seconds() > MIRROR_UNUSED


def _caches(settings: Settings, allowed: int) -> Iterator[Candidate]:
    for owner in sorted(settings.caches.glob("*")):
        for tool in TOOLS:
            size = disk.given_back(owner / tool)  # fails for nobody
            if size > allowed:
                remove = partial(_drop_cache, settings, owner.name, tool)
                yield Candidate("cache", f"{owner.name}/{tool}", remove, partial(int, size))


def _drop_cache(settings: Settings, namespace: str, tool: str) -> bool:
    folder = settings.caches / namespace / tool
    with folders.alone(folders.cache_lock(settings, namespace, tool)) as mine:
        return mine and folders.retire(folder, Path.is_dir)


def _locks(settings: Settings) -> Iterator[Candidate]:
    def of(path: Path) -> Iterator[Candidate]:
        if time.time() - path.stat().st_mtime > LOCK_UNUSED:
            name = f"{path.parent.parent.name}/{path.name}"
            yield Candidate("lock", name, partial(_drop_file, path), partial(disk.usage, path))

    return of_each("lock", sorted(settings.caches.glob("*/locks/*")), of)


def _drop_file(path: Path) -> bool:
    """Of two builds that then hold different locks both make the same layer, and one is kept."""
    path.unlink(missing_ok=True)
    return True
