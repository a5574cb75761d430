"""The most that builds may take of the disk: ``SLIPWAY_DISK_LIMIT``, and what stays free anyway.

Looked at before a build. Where there is too little room, everything is pruned at once, and if that
does not help, the build fails and says so; what is pushed is stored all the same, and functions run
on. Measuring walks over the folders, so one measurement serves for some seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from builder import folders, pruning, registrygarbage
from core import disk, logging
from core.bundle import HALF_MADE
from core.errors import Unavailable
from core.pruning import Ask, Candidate, of_each, prune
from core.settings import Settings
from core.store import Store

MEASURED = 30
"""Seconds for which a measurement serves."""
PATIENCE = 20.0
"""Seconds that the controller has for its part."""
_LARGEST = 4
"""Folders that an error names."""

log = logging.get()


def pressed(settings: Settings, store: Store) -> bool:
    """Whether there is too little room for builds."""
    if not folders.room(settings.state):
        return True
    return bool(settings.disk_limit) and _used(settings, store) > settings.disk_limit


def check(settings: Settings, store: Store, check: Callable[[], None] = lambda: None) -> None:
    """Makes room for a build where there is none. ``check`` is asked meanwhile: what it raises ends
    that.

    Raises:
        Unavailable: there is none.
    """
    if not pressed(settings, store):
        return
    with folders.turn(settings.state / "prune.lock", check):
        if not pressed(settings, store):  # another build has made room meanwhile
            return
        log.warning("making_room", limit=settings.disk_limit)
        _make_room(settings, store, check)
        if not folders.room(settings.state):
            raise folders.full(settings.state)
        found = disk.made_by_builds(settings)
        _note(store, sum(found.values()))
    if settings.disk_limit and sum(found.values()) > settings.disk_limit:
        largest = sorted(found.items(), key=lambda each: -each[1])[:_LARGEST]
        told = ", ".join(f"{what} {disk.human(size)}" for what, size in largest if size)
        raise Unavailable(
            f"builds may take {disk.human(settings.disk_limit)} of the disk, and what is kept "
            f"takes {disk.human(sum(found.values()))} ({told}), though all that nothing needs was "
            "removed: the administrator can raise SLIPWAY_DISK_LIMIT, keep less to go back to "
            "(SLIPWAY_KEEP_REVISIONS), or remove functions; then push again, or 'slipway "
            "redeploy': what was pushed is stored, and what is live runs on"
        )


def _make_room(settings: Settings, store: Store, check: Callable[[], None]) -> None:
    """Removes what can be; what cannot stays."""

    def go_on() -> bool:
        check()
        return True

    ask = Ask(id=secrets.token_hex(8), pressed=True)
    store.await_prune("controller", ask, PATIENCE, check)
    prune(pruning.candidates(settings, store, pressed=True), go_on=go_on)
    prune(of_each("bundle", [settings.bundles], _discarded), go_on=go_on)
    registrygarbage.collect(settings, pressed=True, check=check)


def _discarded(bundles: Path) -> Iterator[Candidate]:
    for each in bundles.glob(f"*/{HALF_MADE}*-*"):  # what builds make has no "-"
        yield Candidate("bundle", each.name, partial(_drop, each), partial(disk.usage, each))


def _drop(folder: Path) -> bool:
    folders.remove(folder)
    return True


def _used(settings: Settings, store: Store) -> int:
    known = store.disk_used()
    if known is None:
        known = sum(disk.made_by_builds(settings).values())
        _note(store, known)
    return known


def _note(store: Store, size: int) -> None:
    store.note_disk_used(size, MEASURED)
