"""What is left on the disk of previews that were forgotten: folders of their namespaces.

Bundles are the controller's to remove, layers go when no bundle stands on them, mirrors when their
repository is gone (builder/pruning.py). What stays of that is here: caches, templates, locks, and
the empty folders themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builder import folders
from core import disk
from core.pruning import Candidate
from core.settings import Settings
from core.store import Store

IDLE = 600.0
"""Seconds since something was put into a folder or taken out of it: a build that was called off may
still end there."""
_LOCKS = (".lock", ".use")
"""Of mirrors that are gone."""


def candidates(settings: Settings, store: Store) -> Iterator[Candidate]:
    """Folders of derived namespaces (``<owner>--…``) in which there is nothing any more."""
    kinds = (settings.caches, settings.templates, settings.mirrors, settings.layers)
    places = [place for kind in (*kinds, settings.bundles) for place in sorted(kind.glob("*--*"))]
    if not places:
        return
    known = {
        *store.namespaces(),
        *(each.namespace for each in store.repositories()),
        *(record.spec.namespace for record in store.functions().values()),
    }
    whole = (settings.caches, settings.templates)
    for place in places:
        if place.name in known or not place.is_dir() or not _idle(place):
            continue
        if place.parent in whole:
            remove = partial(folders.retire, place, _idle)
        elif all(each.suffix in _LOCKS for each in place.iterdir()):
            remove = partial(_emptied, place)
        else:
            continue
        name = f"{place.parent.name}/{place.name}"
        yield Candidate("preview", name, remove, partial(disk.usage, place))


def _emptied(place: Path) -> bool:
    """Removes a folder in which there are locks only; False: somebody has just come to use it."""
    for each in place.iterdir():
        if each.suffix in _LOCKS:
            each.unlink(missing_ok=True)
    try:
        place.rmdir()
    except OSError:
        return False
    return True


def _idle(place: Path) -> bool:
    return time.time() - place.stat().st_mtime > IDLE
