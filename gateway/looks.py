"""Asks forges about repositories of which an event said something new, and acts on the answer: on
what is so now, and not on what a delivery says, which may be late.

A look that was asked for waits in the store until it was taken; whatever dies in between, it is
taken again, with the same result. Where a forge has told us of no way to ask it (no token, and the
repository is private), the event itself has to do: it was signed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from redis.exceptions import RedisError

from core import logging, queues
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound, SlipwayError
from core.repositories import Repository
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
"""Seconds between two questions where our App is installed: its events may be lost, too. At once
where a browser comes from its installation."""
INSTALLATIONS = "installations"
"""The thread that asks for them."""
REFUSED = 3600.0
"""Seconds until what could not be taken in is compared again: a name that is taken, say."""
FIRST, MOST = 2.0, 600.0
"""Seconds until a forge that is away is asked again: twice as many each time."""
ATTEMPTS = 40
"""Hours, then."""

log = logging.get()


def watch(gateway: Gateway) -> None:
    """Runs for ever, in a thread of its own."""
    looks, indexed = Looks(gateway), False
    while True:
        try:
            if not indexed:
                gateway.store.index_repositories()
                indexed = True
            gateway.look.wait(EVERY)
            gateway.look.clear()
            looks.run()
        except RedisError as error:
            log.warning("looks_not_taken", reason=str(error))
            time.sleep(EVERY)
        except Exception:
            log.exception("looks_not_taken")
            time.sleep(EVERY)


class Looks:
    """Each forge is asked by a thread of its own, one question after the other: one that hangs
    keeps none of the others waiting."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.busy: set[str] = set()
        """Who is asked just now."""
        self._due = 0.0
        """When our App's installations are compared again, by the monotonic clock."""
        self._refused: dict[str, float] = {}

    def run(self) -> None:
        """Begins what is due and does not wait for it."""
        installed = self._gateway.installed
        due = installed.is_set() or time.monotonic() >= self._due
        busy = set(self.busy)  # before it is read what is left to do
        if due and INSTALLATIONS not in busy:
            if installed.is_set():  # somebody waits for it, and may have mended something
                self._refused.clear()
            installed.clear()
            self._due = time.monotonic() + APP_EVERY
            self._begin(INSTALLATIONS, partial(compare_installations, self._gateway, self._refused))
        asked: dict[str, list[Look]] = {}
        for look in self._gateway.store.looks():
            asked.setdefault(look.forge, []).append(look)
        for forge, found in asked.items():
            if forge not in busy:
                self._begin(forge, partial(self._take, found))

    def _take(self, found: list[Look]) -> None:
        for look in found:
            take(self._gateway, look)

    def _begin(self, name: str, do: Callable[[], None]) -> None:
        def run() -> None:
            again = False
            try:
                do()
            except RedisError as error:
                log.warning("looks_not_taken", reason=str(error))
            except Exception:
                log.exception("looks_not_taken")
            else:
                again = True
            finally:
                self.busy.discard(name)
            if again:  # others may have come meanwhile
                self._gateway.look.set()

        self.busy.add(name)
        try:
            threading.Thread(target=run, name=f"looks-{name}", daemon=True).start()
        except RuntimeError:  # no thread is to be had now
            self.busy.discard(name)
            raise


def compare_installations(gateway: Gateway, refused: dict[str, float] | None = None) -> None:
    """Has everything looked at where what our GitHub App has is not what is known here.

    ``refused``: ids of repositories that were asked for before and did not become known → when.
    """
    app = stored_app(gateway.settings)
    if not app.pem:
        return
    from forges.github.client import GitHub  # it brings what signs: only where there is an App

    github = GitHub(gateway.settings)
    store = gateway.store
    refused = {} if refused is None else refused
    try:
        installations = github.installations()
    except SlipwayError as error:
        log.warning("installations_unknown", reason=str(error))
        return
    there: dict[str, tuple[ForgeRepository, str]] = {}
    unknown = set()
    for each in installations:
        if not each.suspended:
            try:
                there |= {said.id: (said, each.id) for said in github.repositories(each.id)}
            except SlipwayError as error:  # what is missing may only not have been told
                unknown.add(each.id)
                log.warning("installation_unknown", installation=each.id, reason=str(error))
    known = {
        each.forge_id: each
        for each in store.repositories()
        if each.source == "github" and not each.parent and not each.gone
    }
    for said, installation in there.values():
        have = known.get(said.id)
        if have is None and not _may_be_new(gateway, said, refused):
            continue
        if have is None or arrivals.differs(have, said, installation):
            _ask(store, said, installation)
    for have in known.values():
        ours = have.installation and have.app in ("", str(app.id))
        if ours and have.installation not in unknown and have.forge_id not in there:
            said = adoption.said_of(have, have.full_name.partition("/")[0])
            _ask(store, said, have.installation, why="the App has it no more")


def _may_be_new(gateway: Gateway, said: ForgeRepository, refused: dict[str, float]) -> bool:
    """Whether to ask for a repository that is not known: not for what was asked for a while ago
    and is not known even so, nor for whose owner may not deploy."""
    now = time.monotonic()
    if now - refused.get(said.id, -REFUSED) < REFUSED:
        return False
    refused[said.id] = now
    try:
        require_allowed(gateway, said.forge, said.owner, said.owner_id)
    except NotAllowed:
        return False
    return True


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
    """Asks once. What is refused for good is forgotten; anything else is tried again."""
    again = None
    try:
        _act(gateway, look, gateway.forge(look.forge))
    except (Conflict, InvalidRequest, NotAllowed) as error:  # the admin's to solve, who then pushes
        log.warning("look_refused", forge=look.forge, id=look.forge_id, reason=str(error))
        if gateway.store.policy(gateway.settings.policy).closed:  # and is not read yet
            again = _later(look, 0.0)
    except SlipwayError as error:
        again = _later(look, getattr(error, "retry_after", 0.0))
        log.info("look_later", forge=look.forge, id=look.forge_id, reason=str(error))
    except RedisError:
        raise
    except Exception:  # one answer that makes no sense holds up nobody else's
        again = _later(look, 0.0)
        log.exception("look_failed", forge=look.forge, id=look.forge_id)
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
        now = described(gateway, forge, asked)
    except NotFound as error:
        if there and not there.gone:
            adoption.take_down(store, there, look.why or unseen(there, error))
        return
    except NotAllowed as error:
        gateway.forget_forge(look.forge)  # its token may have been renewed meanwhile
        log.info("look_not_allowed", forge=look.forge, id=look.forge_id, reason=str(error))
        if look.why:
            if there and not there.gone:
                adoption.take_down(store, there, look.why)
            return
        now = _untold(look, said, there)
    if look.unknown and now.full_name.lower() != look.unknown:
        raise NotAllowed(f"the hook of {said.full_name} names the id of {now.full_name}")
    require_allowed(gateway, now.forge, now.owner, now.owner_id)
    record = adoption.adopt(gateway, now, look.installation, there)
    if look.unknown:
        store.bind_hooks(now.forge, now.full_name, now.id)
    # Of one that is as it was, the events and the sweep tell.
    if look.commit or there is None or record != there:
        changed = there is not None and record != there
        _release(gateway, record, look.commit or _head(forge, record), again=changed)


def described(gateway: Gateway, forge: Forge, repository: Repository) -> ForgeRepository:
    """What a repository is now. Raises as ``Forge.describe``; NotFound: the App lost it, too."""
    now = forge.describe(repository)
    if _is_ours(gateway, repository) and not forge.installation(repository):
        raise NotFound("no installation of the App has it any more")
    return now


def unseen(repository: Repository, error: SlipwayError) -> str:
    """What people are told of a repository that its forge does not show to us."""
    return f"{repository.full_name} is not there any more, or hidden from us: {error}"


def _is_ours(gateway: Gateway, repository: Repository) -> bool:
    """Whether an installation of the App that we are vouched for it. What one that was replaced by
    another App had, is not gone."""
    app = stored_app(gateway.settings)
    known = repository.app in ("", str(app.id))
    return bool(repository.installation and app.pem and known)


def _untold(look: Look, said: ForgeRepository, there: Repository | None) -> ForgeRepository:
    """What counts where the forge does not show a repository to us: what was signed for all
    repositories. Of what was signed for one alone its name and owner are not taken, nor is
    anything public that its forge hides."""
    if there and look.hook:
        owner = there.full_name.partition("/")[0]
        kept = adoption.said_of(there, owner)
        said = msgspec.structs.replace(kept, default_branch=said.default_branch)
    return msgspec.structs.replace(said, public=False)


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
