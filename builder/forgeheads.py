"""What the heads of deployed branches at forges are, asked again and again: a webhook is only a
hint, so whatever became of it, every repository comes to its branch's head.

Each repository is asked about every ``SLIPWAY_SWEEP`` seconds, at a moment of its own, so that the
questions are spread out; one that cannot be asked, less and less often. Where the gateway may ask
the forge's API it does, on the condition that something changed, which costs a forge next to
nothing; else git asks (``ls-remote``).

A head that was released before, and is in the history of what was released last, may be shown by a
server of the forge that lags: it has to stay for ``LAG`` seconds to count as a forced push.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from redis.exceptions import RedisError

from builder.duty import Duty
from builder.handover import have_looked_at, head_by_gateway
from builder.mirror import Mirror, NoBranch, origin
from core import logging, queues
from core.errors import CheckoutFailed, NotFound, SlipwayError
from core.models import Release, Repository, Request
from core.names import NO_COMMIT
from core.previews import closed, pushed
from core.settings import Settings
from core.store import Store

TIMEOUT = 10.0
"""Seconds that one question may take."""
AT_ONCE = 4
"""Questions side by side: git is a process, and the builder gives way to what is live."""
AWAY, REFUSED = 60.0, 600.0
"""Most seconds until what is away, or refuses us, is asked again."""
BY_GIT = 3600.0
"""Seconds that git asks where the gateway said that it cannot."""
LAG = 10.0
"""Seconds in which a forge may show what was."""

log = logging.get()


@dataclass
class _Asked:
    """What is known of one repository's questions. Times are monotonic."""

    due: float
    failures: int = 0
    etag: str = ""
    seen: str = ""
    """The head that it is of."""
    by_git_until: float = 0.0
    back: str = ""
    """An older head that was shown, and when."""
    back_since: float = 0.0


class ForgeHeads:
    """One worker does it for all."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._duty = Duty(store, "forge-heads", 30.0)
        self._asked: dict[str, _Asked] = {}
        self._begun = False

    def run(self) -> None:
        """One turn; does nothing while another worker has the duty."""
        if not self.settings.sweep or not self._duty.mine():
            return
        found = [each for each in self.store.repositories() if _is_watched(each)]
        now = time.monotonic()
        self._asked = {
            each.key: self._asked.get(each.key) or _Asked(self._first(each, now)) for each in found
        }
        self._begun = True
        due = [each for each in found if self._asked[each.key].due <= now]
        if due:
            self._ask_all(sorted(due, key=lambda each: self._asked[each.key].due))

    def _first(self, repository: Repository, now: float) -> float:
        """At our start all are due; of a repository that comes later, the event has just come."""
        if not self._begun:
            return now
        phase = zlib.crc32(repository.key.encode()) % 1000 / 1000
        return now + self.settings.sweep * phase

    def _ask_all(self, due: Sequence[Repository]) -> None:
        with ThreadPoolExecutor(min(AT_ONCE, len(due))) as pool:
            for _ in pool.map(self._ask, due):
                if not self._duty.mine():
                    pool.shutdown(cancel_futures=True)
                    return

    def _ask(self, repository: Repository) -> None:
        asked = self._asked[repository.key]
        every = self.settings.sweep
        try:
            if repository.request and asked.seen != repository.request.commit:
                asked.etag = ""
            head, etag = self._head(repository, asked)
            asked.failures = 0
            asked.seen = head or asked.seen
            if head and repository.request:
                self._request(repository, repository.request, head)
            elif head and self._counts(repository, head):
                self._release(repository, head)
            # What was shown and is not released yet is to be told again.
            asked.etag = "" if asked.back else etag
        except RedisError:
            log.warning("head_unknown", repository=repository.key, reason="the store is away")
        except SlipwayError as error:
            asked.failures = min(asked.failures + 1, 10)
            every = min(every * 2**asked.failures, max(every, _most(error)))
            log.warning("head_unknown", repository=repository.key, reason=str(error)[:300])
            if isinstance(error, CheckoutFailed) and not error.retryable:
                self._have_looked_at(repository)
        except Exception:
            log.exception("head_unknown", repository=repository.key)
        asked.due = max(asked.due + every, time.monotonic())
        if asked.back:
            asked.due = min(asked.due, asked.back_since + LAG)

    def _have_looked_at(self, repository: Repository) -> None:
        """It may have another name, or be gone, without an event that came through."""
        try:
            have_looked_at(self.settings, repository, patience=0.0)
        except SlipwayError as error:
            log.info("not_looked_at", repository=repository.key, reason=str(error)[:300])

    def _head(self, repository: Repository, asked: _Asked) -> tuple[str, str]:
        """(head, what to remember for the next question). '': it is the same as last time.
        NO_COMMIT: there is no such branch."""
        known_to_api = repository.installation or not repository.public
        if known_to_api and time.monotonic() >= asked.by_git_until:
            told = head_by_gateway(self.settings, repository, asked.etag)
            if not told.by_git:
                return "" if told.unchanged else told.commit or NO_COMMIT, told.etag
            asked.by_git_until = time.monotonic() + BY_GIT
        where = origin(self.settings, repository)
        mirror = Mirror(self.settings, repository.namespace, repository.name)
        try:
            _, head = mirror.head(
                where.url, repository.deploy_branch, credential=where.credential, timeout=TIMEOUT
            )
        except NoBranch:
            head = NO_COMMIT
        return head, ""

    def _last(self, repository: Repository) -> Release | None:
        """The newest release that was to follow the branch, and not the admin's own choice."""
        for release in self.store.releases(repository.namespace, repository.name, limit=20):
            if not self.store.pinned(release.id):
                return release
        return None

    def _counts(self, repository: Repository, head: str) -> bool:
        """Whether the branch is at ``head`` for sure, and it is not what was released last."""
        asked = self._asked[repository.key]
        last = self._last(repository)
        released = (last.commit if last else self.store.head(repository.key)) or NO_COMMIT
        if head == released or last is None or not self._is_back(repository, head, released):
            asked.back = ""
            return head != released
        return _stays(asked, head)

    def _request(self, repository: Repository, request: Request, head: str) -> None:
        """Notes what a request's head is: whether that is built is the gateway's to say. Forges
        keep the head of a request that was closed, some for ever and some for a while."""
        asked = self._asked[repository.key]
        if head == request.commit:
            asked.back = ""
        elif _stays(asked, head):
            log.warning("push_found", repository=repository.key, commit=head)
            gone = head == NO_COMMIT
            why = "its forge has the head of the request no more"
            self.store.change_preview(
                repository.parent,
                request.number,
                lambda found: closed(found, why) if gone else pushed(found, head),
            )

    def _is_back(self, repository: Repository, head: str, released: str) -> bool:
        """Whether ``head`` is gone, or is in the history of what was released last."""
        if released == NO_COMMIT:
            return False
        if head == NO_COMMIT:
            return True
        try:
            where = origin(self.settings, repository)
            mirror = Mirror(self.settings, repository.namespace, repository.name)
            return mirror.leads_to(where.url, head, released, credential=where.credential)
        except SlipwayError as error:
            log.info("history_unknown", repository=repository.key, reason=str(error)[:300])
            return False

    def _release(self, repository: Repository, head: str) -> None:
        log.warning("push_found", repository=repository.key, commit=head)
        self.store.create_release(repository, head, repository.deploy_branch)
        queues.dispatch(self.store, repository.key)


def _is_watched(repository: Repository) -> bool:
    if repository.source == "git" or not repository.deploy_branch:
        return False
    request = repository.request  # a preview that was too old comes back with the next push
    return request.open if request else not repository.gone


def _stays(asked: _Asked, head: str) -> bool:
    """Whether a head that may be one of before was shown for ``LAG`` seconds."""
    if asked.back != head:
        asked.back, asked.back_since = head, time.monotonic()
        return False
    if time.monotonic() - asked.back_since < LAG:
        return False
    asked.back = ""
    return True


def _most(error: SlipwayError) -> float:
    return AWAY if error.retryable and not isinstance(error, NotFound) else REFUSED
