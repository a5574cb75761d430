"""What the heads of deployed branches at forges are, asked again and again: a webhook is only a
hint, so whatever became of it, every repository comes to its branch's head.

Each repository is asked about every ``SLIPWAY_SWEEP`` seconds, at a moment of its own, so that the
questions are spread out; one that cannot be asked, less and less often. Each forge has a line of
its own (``forgeline``): one that hangs holds up no other. Where the gateway may ask the forge's API
it does, on the condition that something changed, which costs a forge next to nothing; else git asks
(``ls-remote``). Requests of forks that wait for approval are not asked about: anybody can open as
many as they like.

Where there are environments the tags that promote are asked for in the same way, by a question of
their own: each is given to the gateway, which knows what it has looked at.

A head that was released before, and is in the history of what was released last, may be shown by a
server of the forge that lags: it has to stay for ``LAG`` seconds to count as a forced push.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from builder.duty import Duty
from builder.forgeline import Line
from builder.handover import have_looked_at, head_by_gateway, tags_by_gateway, tell_tags
from builder.mirror import Mirror, NoBranch
from builder.origins import origin
from core import logging, queues
from core.errors import CheckoutFailed, NotFound, SlipwayError
from core.models import Release
from core.names import NO_COMMIT
from core.previews import pushed, refusal
from core.repositories import Repository, Request
from core.settings import Settings
from core.store import Store

TIMEOUT = 10.0
"""Seconds that one question may take."""
WAIT = 1.0
"""Seconds that a turn waits for its answers: what takes longer goes on beside the next turns."""
AWAY, REFUSED = 60.0, 600.0
"""Most seconds until what is away, or refuses us, is asked again."""
BY_GIT = 3600.0
"""Seconds that git asks where the gateway said that it cannot."""
LAG = 10.0
"""Seconds in which a forge may show what was."""
TAGS = "refs/tags/promote/"
_OF_TAGS = " tags"
"""End of the key of a question for tags: no repository's has a space."""

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
    tags: dict[str, str] | None = None
    """Those that promote, as the gateway was told them last: tag → commit."""
    back: str = ""
    """An older head that was shown, and when."""
    back_since: float = 0.0


class ForgeHeads:
    """One worker does it for all."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._duty = Duty(store, "forge-heads", 30.0)
        self._watched: dict[str, Repository] = {}
        self._asked: dict[str, _Asked] = {}
        self._lines: dict[str, Line] = {}
        """By forge."""
        self._begun = False

    def run(self) -> None:
        """One turn; asks nothing more while another worker has the duty."""
        if not self.settings.sweep or not self._duty.mine():
            for line in self._lines.values():
                line.put(())
            return
        self._watched = _questions(self.store.repositories())
        now = time.monotonic()
        self._asked = {
            key: self._asked.get(key) or _Asked(self._first(key, now)) for key in self._watched
        }
        self._begun = True
        due: dict[str, list[str]] = {each.source: [] for each in self._watched.values()}
        for key in sorted(self._asked, key=lambda each: self._asked[each].due):
            if self._asked[key].due <= now:
                due[self._watched[key].source].append(key)
        for forge, keys in due.items():
            if forge not in self._lines:
                self._lines[forge] = Line(f"heads-{forge}", self._ask)
            self._lines[forge].put(keys)
        for forge in due:
            self._lines[forge].wait(now + WAIT)

    def _first(self, key: str, now: float) -> float:
        """At our start all are due; of a repository that comes later, the event has just come. Its
        tags are looked at as soon as it has environments: those that are there then are old."""
        if not self._begun or key.endswith(_OF_TAGS):
            return now
        phase = zlib.crc32(key.encode()) % 1000 / 1000
        return now + self.settings.sweep * phase

    def _ask(self, key: str) -> bool | None:
        """Whether its forge answered, whatever it said; None: it was not asked."""
        repository, asked = self._watched.get(key), self._asked.get(key)
        if repository is None or asked is None or asked.due > time.monotonic():
            return None  # gone, or asked about, since it was put in line
        every = self.settings.sweep
        answered: bool | None = None
        try:
            if self._waits(repository):
                asked.due = time.monotonic() + every
                return None
            if key.endswith(_OF_TAGS):
                self._look_at_tags(repository, asked)
            else:
                self._look_at_head(repository, asked)
            answered = True
        except RedisError:
            log.warning("head_unknown", repository=repository.key, reason="the store is away")
        except SlipwayError as error:
            asked.failures = min(asked.failures + 1, 10)
            away = error.retryable and not isinstance(error, NotFound)
            answered = not away
            every = min(every * 2**asked.failures, max(every, AWAY if away else REFUSED))
            log.warning("head_unknown", repository=repository.key, reason=str(error)[:300])
            if isinstance(error, CheckoutFailed) and not error.retryable:
                self._have_looked_at(repository)
        except Exception:
            log.exception("head_unknown", repository=repository.key)
        asked.due = max(asked.due + every, time.monotonic())
        if asked.back:
            asked.due = min(asked.due, asked.back_since + LAG)
        return answered

    def _waits(self, repository: Repository) -> bool:
        """Whether it is a fork's, and whatever its head is may not be built."""
        request = repository.request
        if request is None or not request.fork:
            return False
        rules = self.store.fork_rules(self.settings.policy, repository)
        return bool(refusal(repository, request.commit, rules))

    def _have_looked_at(self, repository: Repository) -> None:
        """It may have another name, or be gone, without an event that came through."""
        try:
            have_looked_at(self.settings, repository, patience=0.0)
        except SlipwayError as error:
            log.info("not_looked_at", repository=repository.key, reason=str(error)[:300])

    def _look_at_head(self, repository: Repository, asked: _Asked) -> None:
        if repository.request and asked.seen != repository.request.commit:
            asked.etag = ""
        head, etag = self._head(repository, asked)
        asked.failures = 0
        asked.seen = head or asked.seen
        if head and repository.request:
            self._request(repository, repository.request, head, asked)
        elif head and self._counts(repository, head, asked):
            self._release(repository, head)
        # What was shown and is not released yet is to be told again.
        asked.etag = "" if asked.back else etag

    def _look_at_tags(self, repository: Repository, asked: _Asked) -> None:
        objects, etag = None, ""
        if self._by_api(repository, asked):
            told = tags_by_gateway(self.settings, repository, asked.etag)
            if told.unchanged:
                asked.failures = 0
                return
            asked.by_git_until = time.monotonic() + BY_GIT if told.by_git else 0.0
            objects, etag = told.objects, told.etag
        where = origin(self.settings, repository)
        mirror = Mirror(self.settings, repository.namespace, repository.name)
        found = mirror.tags(where.url, TAGS, credential=where.credential, timeout=TIMEOUT)
        asked.failures = 0
        there = {tag: commit for tag, (_, commit) in found.items()}
        if there != asked.tags and tell_tags(self.settings, repository, there):
            asked.tags = there
        # Only where git shows the very same the answer is not to be told again: servers lag.
        same = there == asked.tags and objects == {tag: id_ for tag, (id_, _) in found.items()}
        asked.etag = etag if same else ""

    def _by_api(self, repository: Repository, asked: _Asked) -> bool:
        known_to_api = repository.installation or not repository.public
        return bool(known_to_api) and time.monotonic() >= asked.by_git_until

    def _head(self, repository: Repository, asked: _Asked) -> tuple[str, str]:
        """(head, what to remember for the next question). '': it is the same as last time.
        NO_COMMIT: there is no such branch."""
        if self._by_api(repository, asked):
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
            if self.store.follows_branch(release.id):
                return release
        return None

    def _counts(self, repository: Repository, head: str, asked: _Asked) -> bool:
        """Whether the branch is at ``head`` for sure, and it is not what was released last."""
        last = self._last(repository)
        released = (last.commit if last else self.store.head(repository.key)) or NO_COMMIT
        if head == released or last is None or not self._is_back(repository, head, released):
            asked.back = ""
            return head != released
        return _stays(asked, head)

    def _request(self, repository: Repository, request: Request, head: str, asked: _Asked) -> None:
        """Notes what a request's head is: whether that is built is the gateway's to say. Forges
        keep the head of a request that was closed, some for ever and some for a while."""
        if head == request.commit:
            asked.back = ""
        elif _stays(asked, head):
            log.warning("push_found", repository=repository.key, commit=head)
            self.store.change_preview(
                repository.parent, request.number, lambda found: pushed(found, head)
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


def _questions(repositories: Sequence[Repository]) -> dict[str, Repository]:
    """Key of each question → what it is about: everyone's head, and the tags of those that have
    environments."""
    watched = {each.key: each for each in repositories if _is_watched(each)}
    homes = {each.parent for each in repositories if each.environment and not each.gone}
    return watched | {key + _OF_TAGS: each for key, each in watched.items() if key in homes}


def _is_watched(repository: Repository) -> bool:
    if repository.source == "git" or not repository.deploy_branch:
        return False
    # A preview that was too old comes back with the next push, of which an event or the forge's
    # list of requests tells.
    # One whose head was not shown does with its head.
    request = repository.request
    if request is None:
        return not repository.gone
    return request.open and (not repository.gone or request.commit == NO_COMMIT)


def _stays(asked: _Asked, head: str) -> bool:
    """Whether a head that may be one of before was shown for ``LAG`` seconds."""
    if asked.back != head:
        asked.back, asked.back_since = head, time.monotonic()
        return False
    if time.monotonic() - asked.back_since < LAG:
        return False
    asked.back = ""
    return True
