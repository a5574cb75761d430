"""Asks forges about repositories of which an event said something new, and acts on the answer: on
what is so now, and not on what a delivery says, which may be late.

A look that was asked for waits in the store until it was taken; whatever dies in between, it is
taken again, with the same result. Where a forge has told us of no way to ask it (no token, and the
repository is private), the event itself has to do: it was signed.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import msgspec
from redis.exceptions import RedisError

from core import logging, queues
from core.errors import NotAllowed, NotFound, SlipwayError, Unavailable
from core.models import Repository
from core.store import Store
from core.store.forges import Look
from forges import Forge
from forges.events import ForgeRepository
from forges.github.app import stored_app
from gateway import adoption, arrivals
from gateway.policy import require_allowed

if TYPE_CHECKING:
    from gateway.context import Gateway

EVERY = 2.0
"""Seconds between two looks into the list; at once when it is asked to."""
APP_EVERY = 300.0
"""Seconds between two questions where our App is installed: its events may be lost, too."""
FIRST, MOST = 2.0, 600.0
"""Seconds until a forge that is away is asked again: twice as many each time."""
ATTEMPTS = 12

log = logging.get()


def watch(gateway: Gateway) -> None:
    """Runs for ever, in a thread of its own."""
    due = 0.0
    while True:
        try:
            gateway.look.wait(EVERY)
            gateway.look.clear()
            if time.monotonic() >= due:
                due = time.monotonic() + APP_EVERY
                compare_installations(gateway)
            for look in gateway.store.looks():
                take(gateway, look)
        except RedisError as error:
            log.warning("looks_not_taken", reason=str(error))
            time.sleep(EVERY)
        except Exception:
            log.exception("looks_not_taken")
            time.sleep(EVERY)


def compare_installations(gateway: Gateway) -> None:
    """Has everything looked at where what our GitHub App has is not what is known here."""
    if not stored_app(gateway.settings).pem:
        return
    from forges.github.client import GitHub  # it brings what signs: only where there is an App

    github = GitHub(gateway.settings)
    store = gateway.store
    known = {
        each.forge_id: each
        for each in store.repositories()
        if each.source == "github" and not each.parent and not each.gone
    }
    there: dict[str, tuple[ForgeRepository, str]] = {}
    try:
        for each in github.installations():
            if not each.suspended:
                found = github.repositories(each.id)
                there |= {said.id: (said, each.id) for said in found}
    except SlipwayError as error:  # what is missing may only not have been told
        log.warning("installations_unknown", reason=str(error))
        return
    for said, installation in there.values():
        have = known.get(said.id)
        if have is None or arrivals.differs(have, said, installation):
            _ask(store, said, installation)
    for have in known.values():
        if have.installation and have.forge_id not in there:
            said = adoption.said_of(have, have.full_name.partition("/")[0])
            _ask(store, said, have.installation, why="the App has it no more")


def _ask(store: Store, said: ForgeRepository, installation: str, why: str = "") -> None:
    store.ask_to_look(
        Look(
            forge=said.forge,
            forge_id=said.id,
            said=msgspec.json.encode(said),
            installation=installation,
            why=why,
        )
    )


def take(gateway: Gateway, look: Look) -> None:
    """Asks once, and forgets the look unless the forge is away."""
    again = None
    try:
        _act(gateway, look, gateway.forge(look.forge))
    except Unavailable as error:
        again = _later(look, getattr(error, "retry_after", 0.0))
        log.info("look_later", forge=look.forge, id=look.forge_id, reason=str(error))
    except SlipwayError as error:  # a namespace that is somebody else's, say: the admin's to solve
        log.warning("look_refused", forge=look.forge, id=look.forge_id, reason=str(error))
    gateway.store.looked(look, again)


def _later(look: Look, wait: float) -> Look | None:
    if look.tries >= ATTEMPTS:
        return None
    pause = max(wait, min(FIRST * 2**look.tries, MOST) * random.uniform(0.8, 1.2))
    return msgspec.structs.replace(look, due=time.time() + pause, tries=look.tries + 1)


def _act(gateway: Gateway, look: Look, forge: Forge) -> None:
    store = gateway.store
    said = msgspec.json.decode(look.said, type=ForgeRepository)
    there = store.repository_at(look.forge, look.forge_id)
    asked = there or _stranger(said, look)
    try:
        now = forge.describe(asked)
        if asked.installation and not forge.installation(asked):
            raise NotFound("no installation of the App has it any more")
    except NotFound as error:
        if there and not there.gone:
            adoption.take_down(store, there, look.why or str(error))
        return
    except NotAllowed as error:
        log.info("look_not_allowed", forge=look.forge, id=look.forge_id, reason=str(error))
        if look.why:
            if there and not there.gone:
                adoption.take_down(store, there, look.why)
            return
        now = said
    require_allowed(gateway, now.forge, now.owner, now.owner_id)
    record = adoption.adopt(gateway, now, look.installation, there)
    # Of one that is as it was, the events and the sweep tell.
    if look.commit or there is None or record != there:
        changed = there is not None and record != there
        _release(gateway, record, look.commit or _head(forge, record), again=changed)


def _head(forge: Forge, record: Repository) -> str:
    """'': nobody can tell now; the sweep of branch heads will."""
    try:
        found = forge.head(record, f"refs/heads/{record.deploy_branch}")
    except (NotAllowed, NotFound):
        return ""
    return found.commit if found else ""


def _release(gateway: Gateway, record: Repository, commit: str, *, again: bool) -> None:
    """``again``: also where a release of the commit is under way, which may be failing just now
    because it looks where the repository was."""
    if not commit or not record.deploy_branch:
        log.info("repository_without_head", repository=record.key)
        return
    gateway.store.create_release(record, commit, record.deploy_branch, again=again)
    queues.dispatch(gateway.store, record.key)


def _stranger(said: ForgeRepository, look: Look) -> Repository:
    """A repository that is not known yet, as far as its forge's client needs it."""
    return Repository(
        namespace=said.owner.lower(),
        name=said.name,
        source=said.forge,
        full_name=said.full_name,
        forge_id=said.id,
        owner_id=said.owner_id,
        deploy_branch=said.default_branch,
        public=said.public,
        installation=look.installation,
    )
