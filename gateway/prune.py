"""``POST /system/prune``: what nothing needs any more is removed now, not on the schedule; or told.

Each part owns what it removes. The builder is asked first, then the controller, through the store;
branches of rollbacks in our own git remote are the gateway's. One such request is served at a time.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
from flask import Blueprint, Response, request
from redis.exceptions import RedisError

from core import keys, logging
from core.errors import SlipwayError, Unavailable
from core.models import Struct
from core.pruning import Ask, Candidate, Pruned, of_each, prune, together
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from gateway import bare
from gateway.context import here
from gateway.rollbackbranch import PREFIX
from gateway.streams import decoded

bp = Blueprint("prune", __name__)
log = logging.get()

PARTS = ("builder", "controller")
"""In this order, in a dry run and in a real one: what one removes is not the next one's to find."""
PATIENCE = 25.0
"""Seconds for each."""
BRANCHES = 20
"""Branches of rollbacks that stay of each repository."""
EVERY = 600.0
_GIT_SECONDS = 30.0


class Prune(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Body of ``POST /system/prune``."""

    dry_run: bool = False
    """Only say what would go."""


class PruneReport(Struct, frozen=True):
    """What was removed, or would be."""

    dry_run: bool
    pruned: list[Pruned]
    bytes: int
    """All of it together."""
    more: bool
    """There is more: ask again."""
    missing: list[str]
    """Parts that did not answer in time: what they remove is not in here."""


@bp.post("/system/prune")
def run() -> Response:
    gateway = here()
    dry = decoded(request.environ, Prune, 2**10).dry_run
    give_back = gateway.pools.prunes.take()
    try:
        report = _report(gateway.settings, gateway.store, dry=dry)
    finally:
        give_back()
    return Response(msgspec.json.encode(report), content_type="application/json")


def _report(settings: Settings, store: Store, *, dry: bool) -> PruneReport:
    """Raises Unavailable: somebody else asks just now, or no part answers."""
    id_ = secrets.token_hex(8)
    lock = keys.lock("prune")
    if not store.take(lock, id_, PATIENCE * (len(PARTS) + 1)):
        raise Unavailable("somebody prunes already: try again in a minute")
    try:
        found = {part: store.await_prune(part, Ask(id=id_, dry=dry), PATIENCE) for part in PARTS}
        missing = [part for part, answer in found.items() if answer is None]
        if len(missing) == len(PARTS):
            raise Unavailable(
                f"no part has answered within {PATIENCE:.0f} s: they may be busy, or starting; see "
                "'slipway doctor', and try again"
            )
        own = prune(branches(settings, store), dry=dry)
    finally:
        store.give_back(lock, id_)
    all_ = together([*(answer for answer in found.values() if answer), own])
    return PruneReport(
        dry_run=dry,
        pruned=all_.pruned,
        bytes=sum(each.bytes for each in all_.pruned),
        more=all_.more,
        missing=missing,
    )


def branches(settings: Settings, store: Store) -> Iterator[Candidate]:
    """Branches of rollbacks but for the newest of each repository."""
    repositories = store.repositories()
    own = (each for each in repositories if each.source == "git" and not each.parent)
    return of_each("branch", own, partial(_branches, settings))


def watch(settings: Settings, store: Store) -> None:
    """Removes them on the schedule, for ever, in a thread of its own."""
    while True:
        time.sleep(EVERY)
        try:
            prune(branches(settings, store))
        except (RedisError, SlipwayError, OSError) as error:
            log.warning("not_pruned", kind="branch", reason=str(error))
        except Exception:
            log.exception("not_pruned", kind="branch")


def _branches(settings: Settings, repository: Repository) -> Iterator[Candidate]:
    if not bare.there(settings, repository):
        return
    found = []
    for reference in bare.references(settings, repository):
        name = reference.removeprefix("refs/heads/")
        if match := re.fullmatch(rf"{re.escape(PREFIX)}b([0-9]+)", name):
            found.append((int(match[1]), name))
    path = bare.existing(settings, repository.namespace, repository.name)
    for _, name in sorted(found, reverse=True)[BRANCHES:]:
        remove = partial(_delete, settings, path, name)
        yield Candidate("branch", f"{repository.key} {name}", remove)


def _delete(settings: Settings, path: Path, branch: str) -> bool:
    """Raises SlipwayError where git fails."""
    try:
        subprocess.run(
            ["git", "update-ref", "-d", f"refs/heads/{branch}"],
            cwd=path,
            env=bare.environment(settings, path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SlipwayError(f"git did not delete the branch {branch}: {error}") from error
    return True
