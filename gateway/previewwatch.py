"""Looks after previews, whatever events told: one thread of one gateway.

Every few seconds each record is held against what there is: what is gone is taken down and in the
end forgotten, what lacks its release gets it, what is too old goes, and what we ended ourselves is
back once the reason is over. And each repository's forge is asked now and then which requests are
open: hooks are lost, doubled and late.

It is the gateway that asks, since tokens and keys for forges' APIs are kept from the builder. Where
there is no token the builder's look at references (builder/forgeheads.py) finds what is pushed to
those that are built, and events alone tell the rest.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from redis.exceptions import RedisError

from core import keys, logging
from core.errors import Conflict, InvalidRequest, NotFound, SlipwayError
from core.models import now
from core.names import NO_COMMIT
from core.previews import NO_HEAD, closed, held_back
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from forges import Forge, known
from forges.api import Later
from forges.events import PullRequest
from gateway import previews
from gateway.context import Gateway

EVERY = 5.0
"""Seconds between two looks at the records."""
ASK_EVERY, ASK_QUIET = 300.0, 1800.0
"""Seconds between two questions about a repository with open previews, and one without."""
KEPT, KEPT_UNTOLD = 300.0, 3600.0
"""Seconds that the record of a closed request stays, so that the forge is told of its end; and
while it was not told yet."""
NEW = 60.0
"""Seconds in which a forge may not list a request that it told us of."""
MOST = 100
"""Requests that a forge lists at most."""
_LEASE = 15.0
"""Seconds: what dies does not hold up the next gateway for longer."""

log = logging.get()


class PreviewWatch:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        forge: Callable[[str], Forge],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.store = store
        self._forge = forge
        self._clock = clock
        self._token = secrets.token_hex(8)
        self._due: dict[str, float] = {}
        self._away: set[str] = set()
        """Repositories whose forge has had enough of us, or does not answer us."""

    def run(self) -> None:
        """One look; does nothing while another gateway has the duty."""
        if not self._mine():
            return
        for each in self.store.previews():
            try:
                self.settle(each)
            except (Conflict, NotFound) as error:  # decided while we looked
                log.info("preview_overtaken", repository=each.key, reason=str(error))
            except RedisError:
                raise
            except Exception as error:  # one preview's trouble is not the others'
                log.warning("preview_unsettled", repository=each.key, reason=str(error))
        if self._mine():
            self._ask()

    def settle(self, preview: Repository) -> None:
        """Holds one record against what there is."""
        parent = self.store.find_repository(preview.parent)
        if reason := self._ends(preview, parent):
            preview = self._change(preview, lambda found: held_back(found, reason))
        elif not preview.gone and self._too_old(preview):
            preview = self._change(preview, self._expired)
        elif self._back(preview):
            preview = self._change(preview, self._back)
        if preview.request is None:
            return
        if preview.gone:
            if self.store.take_down(preview) and self._is_over(preview, parent):
                self.store.forget_preview(preview)
            return
        if parent and previews.follow(preview, parent) != preview:
            preview = self._change(
                preview, lambda found: previews.follow(found, parent) if found else None
            )
        previews.released(self.settings, self.store, preview)

    def reconcile(self, parent: Repository, found: Sequence[PullRequest], asked_at: float) -> None:
        """Holds the records of a repository against the requests that its forge lists as open."""
        known = [each.request for each in self.store.children(parent.key) if each.request]
        heard = {each.number: _unix(each.updated_at) for each in known}
        for event in found:
            if event.open:
                asked = heard.get(event.number, 0.0) < asked_at  # else an event is newer
                self._apply(event, parent, asked=asked)
        listed = {event.number for event in found if event.open}
        oldest = min(listed, default=0) if len(found) >= MOST else 0
        for each in self.store.children(parent.key):
            request = each.request
            if request is None or not request.open or request.number in listed:
                continue
            if request.number < oldest or asked_at - _unix(request.updated_at) < NEW:
                continue
            self._change(each, lambda record: closed(record, previews.CLOSED))

    # Inside

    def _apply(self, event: PullRequest, parent: Repository, *, asked: bool) -> None:
        try:
            previews.apply(self.settings, self.store, event, parent, asked=asked)
        except (Conflict, InvalidRequest) as error:  # one request's trouble is not the others'
            number = event.number
            log.info("request_refused", repository=parent.key, number=number, reason=str(error))

    def _ends(self, preview: Repository, parent: Repository | None) -> str:
        """Why there is to be no such preview, whatever its request is."""
        if preview.request is None or not preview.request.open:
            return ""
        if not self.settings.previews:
            return "previews are off here (SLIPWAY_PREVIEWS)"
        if parent is None:
            return f"{preview.parent} is not here any more"
        if _is_of_another(preview, parent):
            return f"{preview.parent} is another repository now"
        if parent.gone:
            return f"{preview.parent} is gone: {parent.gone}"
        rules = self.store.fork_rules(self.settings.policy, preview)
        if preview.request.fork and rules.fork_previews == "never":
            return "the policy allows no previews of forks"
        return NO_HEAD if preview.request.commit == NO_COMMIT else ""

    def _back(self, preview: Repository | None) -> Repository | None:
        """What its record is once a reason of our own is over."""
        if preview is None or preview.request is None or not preview.gone:
            return None
        if not preview.request.open or self._too_old(preview):
            return None
        return msgspec.structs.replace(preview, gone="")

    def _is_over(self, preview: Repository, parent: Repository | None) -> bool:
        """Whether one that is gone is to be forgotten: its request is closed, or its repository is
        not the one it was, or what holds it back has lasted for as long as one may be old."""
        request = preview.request
        lasts = self._too_old(preview) or _is_of_another(preview, parent)
        # One that is too old alone comes back with a push.
        if request is None or (request.open and not (lasts and self._ends(preview, parent))):
            return False
        age = self._age(request.updated_at)
        return age > KEPT and (age > KEPT_UNTOLD or not self.store.is_reporting(preview.key))

    def _mine(self) -> bool:
        return self.store.take(keys.lock("previews"), self._token, _LEASE)

    def _too_old(self, preview: Repository) -> bool:
        lifetime = self.settings.preview_lifetime
        at = preview.request.updated_at if preview.request else ""
        return bool(lifetime and at) and self._age(at) > lifetime

    def _expired(self, preview: Repository | None) -> Repository | None:
        if preview is None or preview.gone or not self._too_old(preview):
            return None
        told = self.settings.describe()["SLIPWAY_PREVIEW_LIFETIME"]
        reason = f"nothing was pushed for {told} (SLIPWAY_PREVIEW_LIFETIME): push to bring it back"
        return msgspec.structs.replace(preview, gone=reason)

    def _change(
        self, preview: Repository, change: Callable[[Repository | None], Repository | None]
    ) -> Repository:
        number = preview.request.number if preview.request else 0
        return self.store.change_preview(preview.parent, number, change) or preview

    def _age(self, at: str) -> float:
        return self._clock() - _unix(at)

    def _ask(self) -> None:
        """Asks one forge about one repository, where one is due."""
        if not self.settings.previews:
            return
        at = self._clock()
        everything = self.store.repositories()
        busy = {each.parent for each in everything if each.request and each.request.open}
        parents = {
            each.key: each
            for each in everything
            if each.source in known.NAMES and not each.parent and not each.gone and each.forge_id
        }
        for key in self._due.keys() - parents.keys():
            del self._due[key]
        for key in parents:
            # Spread out from the start: all of them come at once.
            every = ASK_EVERY if key in busy else ASK_QUIET
            self._due.setdefault(key, at + zlib.crc32(key.encode()) % int(every))
            if key not in self._away:
                self._due[key] = min(self._due[key], at + every)
        key = min(self._due, key=lambda each: self._due[each], default="")
        if not key or self._due[key] > at:
            return
        self._due[key] = at + (ASK_EVERY if key in busy else ASK_QUIET)
        self._away.add(key)
        try:
            found = self._forge(parents[key].source).requests(parents[key])
            self.reconcile(parents[key], found, at)
            self._away.discard(key)
        except RedisError:
            raise
        except Later as error:
            self._due[key] = at + max(error.retry_after, ASK_EVERY)
            log.info("requests_unknown", repository=key, reason=str(error))
        except SlipwayError as error:  # no token, as a rule: then events count
            self._due[key] = at + ASK_QUIET
            log.info("requests_unknown", repository=key, reason=str(error))
        except Exception:
            self._due[key] = at + ASK_QUIET
            log.exception("requests_unknown", repository=key)


def _is_of_another(preview: Repository, parent: Repository | None) -> bool:
    here = (parent.source, parent.forge_id) if parent else ()
    return here != (preview.source, preview.forge_id)


def watch(gateway: Gateway) -> None:
    """Runs for ever, in a thread of its own."""
    duty = PreviewWatch(gateway.settings, gateway.store, gateway.forge)
    while True:
        try:
            duty.run()
        except RedisError as error:
            log.warning("previews_not_settled", reason=str(error))
        except Exception:
            log.exception("previews_not_settled")
        time.sleep(EVERY)


def _unix(at: str) -> float:
    return datetime.fromisoformat(at or now()).timestamp()
