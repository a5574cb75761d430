"""What forges should show, held against what they show: the difference is put into the outbox."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
from redis.exceptions import RedisError

from core import logging
from core.models import Release, now
from core.names import NO_COMMIT
from core.previews import refusal
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from core.store.reports import ReportedRelease, Shown
from forges import Deployment, Progress, Report
from gateway.reports.checks import Urls, context, progress, reports
from gateway.reports.comments import comment, removed, waiting
from gateway.reports.deployments import deployment, environment
from gateway.reports.following import Following
from gateway.reports.outbox import Message, Outbox
from gateway.reports.telling import Comment, Wish

PACE = 2.0
"""Seconds between two reports of what goes on as before; another state is told at once."""
QUEUED_FOR = 1.0
"""Seconds until it is worth a report that something waits."""
DEPLOYMENT, COMMENT = "deployment", "comment"
"""Names of messages, beside the reports' contexts, which begin with ``slipway``."""
_GOING = (Progress.QUEUED, Progress.RUNNING)

log = logging.get()


@dataclass
class _Followed:
    """A release that is not told whole yet."""

    following: Following = field(default_factory=Following)
    seen: ReportedRelease | None = None
    again: bool = True
    """Whether it is to be compared although the store has nothing new of it."""
    since: dict[str, float] = field(default_factory=dict)
    """Name → when it was first to be shown: monotonic time, as below."""
    sent: dict[str, float] = field(default_factory=dict)

    def due(self, name: str, progress: Progress, was: Shown | None) -> float:
        """When it is worth a request that something is shown: monotonic time."""
        since = self.since.setdefault(name, time.monotonic())
        if was and was.progress == progress.value:
            return self.sent.get(name, 0.0) + PACE
        return since + QUEUED_FOR if progress is Progress.QUEUED else 0.0


class Looking:
    """``outbox`` is set before the first look: it tells ``sent`` what it sent."""

    outbox: Outbox

    def __init__(self, settings: Settings, store: Store) -> None:
        self.store = store
        self.settings = settings
        self._followed: dict[str, _Followed] = {}
        self._gone: set[str] = set()
        """Repositories that were found gone."""
        self._waiting: dict[str, str] = {}
        """Previews that wait for an approval → digest of what their requests are told of it."""

    @property
    def busy(self) -> bool:
        """Whether something is on its way that tells nobody of its steps."""
        return any(
            each.seen is None or not each.seen.release.state.final
            for each in self._followed.values()
        )

    def sent(self, message: Message) -> None:
        """A message is off the outbox's list: what is shown has to be compared anew."""
        wish = message.what
        assert isinstance(wish, Wish)
        if followed := self._followed.get(wish.release):
            followed.sent[message.name] = time.monotonic()
            followed.again = True

    def repositories(self) -> set[str]:
        """Looks at the repositories: what is shown of one that is gone, or back, has changed.
        Returns the forges that there are."""
        found = {each.key: each for each in self.store.repositories()}
        gone = {key for key, each in found.items() if each.gone and each.source != "git"}
        for key in gone ^ self._gone:
            if key in found:
                self._again(key)
        self._gone = gone
        self._approvals(found)
        self.store.forget_comments(found)
        return {each.source for each in found.values()} - {"git"}

    def _waits(self, preview: Repository) -> bool:
        request = preview.request
        if request is None or not request.fork or not request.open or preview.gone:
            return False
        rules = self.store.fork_rules(self.settings.policy, preview)
        waits = rules.fork_previews == "approve" and refusal(preview, request.commit, rules)
        return bool(waits) and self._ever_live(preview)

    def _approvals(self, repositories: Mapping[str, Repository]) -> None:
        """Puts the comment on requests that wait for an approval, once for each commit; where none
        is needed any more the newest release says again what it is, if there is one."""
        told: dict[str, str] = {}
        for each in repositories.values():
            if each.request is None or not self._waits(each):
                continue
            text = waiting(each, each.request, live=self.store.live_release(each.key))
            digest = _comment_digest(text)
            was = self.store.comment(each.key)
            if digest not in (self._waiting.get(each.key), was and was.digest):
                what = Comment(each.request.number, text)
                wish = Wish(each, "", each.request.updated_at or now(), what, digest)
                self._put_comment(each, wish)
            told[each.key] = digest
        for key in self._waiting.keys() - told.keys():
            if self.store.newest_release(key):
                self._again(key)
            elif found := repositories.get(key):
                self._never_approved(found)
            else:
                self.outbox.put(f"{COMMENT} {key}", [])
        self._waiting = told

    def _never_approved(self, preview: Repository) -> None:
        """It waits no more, and has no release that could say so."""
        was, text = self.store.comment(preview.key), removed(preview)
        wish = None
        if was and preview.request and (preview.gone or not preview.request.open):
            what = Comment(preview.request.number, text)
            wish = Wish(preview, "", now(), what, _comment_digest(text))
        self._put_comment(preview, wish)

    def _put_comment(self, preview: Repository, wish: Wish | None) -> None:
        """None: nothing is to be said, whatever waited."""
        group = f"{COMMENT} {preview.key}"
        self.outbox.put(group, [_to(preview, group, COMMENT, wish, rank=2)] if wish else [])

    def _again(self, repository: str) -> None:
        self.store.report_again(repository)
        for followed in list(self._followed.values()):
            seen = followed.seen
            if seen and f"{seen.release.namespace}/{seen.release.repository}" == repository:
                followed.again = True

    def look(self) -> None:
        """Compares every release that changed."""
        ids = self.store.reporting()
        for id_ in self._followed.keys() - set(ids):
            del self._followed[id_]
            self.outbox.put(id_, [])
        known: dict[str, Repository | None] = {}
        for found in self.store.reported_releases(ids).values():
            key = f"{found.release.namespace}/{found.release.repository}"
            if key not in known:
                known[key] = self.store.find_repository(key)
            try:
                self._release(found, known[key])
            except RedisError:
                raise
            except Exception:  # the others' forges are told all the same
                log.exception("not_compared", release=found.release.id)

    def _release(self, found: ReportedRelease, repository: Repository | None) -> None:
        (release,) = self.store.answering(self.settings, [found.release])
        told = found.marked or not release.state.final  # else decided before we were there
        if repository is None or repository.source == "git" or not told:
            self.store.end_reporting(release.id, found.raw)
            return
        if not found.marked:
            self.store.mark_reported(release.id)
        followed = self._followed.setdefault(release.id, _Followed())
        news = followed.following.read(self.store, release.id)
        if not (news or followed.again) and followed.seen == found:
            return
        # What is sent meanwhile asks for another look, and so does an error on the way.
        followed.seen, followed.again = None, False
        messages = list(self._messages(release, repository, followed))
        self.outbox.put(release.id, messages)
        commented = self._comment(release, repository)
        followed.seen = found
        if (
            release.state.final
            and not messages
            and not commented
            and self.store.end_reporting(release.id, found.raw)
        ):
            del self._followed[release.id]

    def _urls(self, release: Release) -> Urls:
        functions = self.store.functions_url(self.settings, release.namespace)
        return Urls(functions, f"{self.settings.user_url}/releases")

    def _messages(
        self, release: Release, repository: Repository, followed: _Followed
    ) -> Iterator[Message]:
        shown = self.store.shown(release.id)
        wanted = self._wanted(release, repository, followed.following, DEPLOYMENT in shown)
        ending = {
            name: last
            for name, was in shown.items()
            if (last := _last(name, was, wanted.get(name), release, repository))
        }
        given_up = self.store.given_up(release.id)
        rows = {f"{context(repository)}/{row.name}": row for row in release.functions}
        for name, what in (wanted | ending).items():
            if isinstance(what, Deployment) and what.gone and self._has_live(repository):
                what = msgspec.structs.replace(what, followed=True)
            was, digest = shown.get(name), _digest(what)
            if type(what).__name__.lower() in given_up or (was and was.digest == digest):
                continue
            row = rows.get(name)
            wish = Wish(
                repository=repository,
                release=release.id,
                created=release.created_at,
                what=what,
                digest=digest,
                function=row.name if row else "",
                folder=row.folder if row else "",
                reason=release.reason,
                last=name in ending,
            )
            due = followed.due(name, what.progress, was)
            rank = 0 if name == context(repository) else 1
            yield _to(repository, release.id, name, wish, due=due, rank=rank)

    def _ever_live(self, repository: Repository) -> bool:
        """Whether anything of it was released, or of what it is a preview or an environment of:
        then it is a fault where there is no stack file."""
        keys = (repository.key, repository.home)
        return any(self.store.live_release(each) for each in keys)

    def _has_live(self, repository: Repository) -> bool:
        """Whether functions of it are live: a commit's, as not where its branch was deleted."""
        live = "" if repository.gone else self.store.live_release(repository.key)
        return bool(live) and self.store.release(live).commit != NO_COMMIT

    def _wanted(
        self, release: Release, repository: Repository, following: Following, before: bool
    ) -> dict[str, Report | Deployment]:
        """Name → what is to be shown; ``before``: whether there is a deployment already."""
        urls = self._urls(release)
        live = self._ever_live(repository)
        told: dict[str, Report | Deployment] = {
            report.context: report
            for report in reports(release, repository, following, urls, live=live)
        }
        if made := deployment(release, repository, urls, before=before):
            told[DEPLOYMENT] = made
        return told

    def _comment(self, release: Release, repository: Repository) -> bool:
        """Puts the comment on a preview's request, by its newest release; whether there is
        something to say."""
        if repository.request is None or not self.store.is_newest(release):
            return False
        if repository.key in self._waiting:  # a newer commit does, which has no release
            return False
        was = self.store.comment(repository.key)
        live = self.store.live_release(repository.key)
        shown = progress(release, live=self._ever_live(repository))
        text = comment(release, repository, self._urls(release), shown, live=live)
        there = release.commit != NO_COMMIT and not repository.gone
        begun = was is not None or (there and _is_planned(release, shown))
        digest = _comment_digest(text)
        what = Comment(repository.request.number, text)
        wish = None
        said = was is not None and was.digest == digest
        if begun and not said and "comment" not in self.store.given_up(release.id):
            wish = Wish(repository, release.id, release.created_at, what, digest)
        self._put_comment(repository, wish)
        return wish is not None


def _last(
    name: str,
    was: Shown,
    what: Report | Deployment | None,
    release: Release,
    repository: Repository,
) -> Report | Deployment | None:
    """What brings to its end what is shown as going on, and is not wanted any more: the branch's
    head turned out to be another commit, or has no such function."""
    if was.progress not in _GOING or (what and what.commit == was.commit):
        return None
    if name == DEPLOYMENT:
        return Deployment(
            environment=environment(repository),
            commit=was.commit,
            progress=Progress.CANCELLED,
            transient=repository.request is not None,
            gone=True,
        )
    moved = was.commit != release.commit
    told = f"{release.commit[:7]} is released instead" if moved else "not in this commit any more"
    return Report(context=name, commit=was.commit, progress=Progress.CANCELLED, title=told)


def _to(
    repository: Repository,
    group: str,
    name: str,
    wish: Wish,
    *,
    due: float = 0.0,
    rank: int = 0,
) -> Message:
    owner = repository.installation or repository.owner_id or repository.namespace
    return Message(repository.source, owner, group, name, wish, due=due, rank=rank)


def _is_planned(release: Release, shown: Progress) -> bool:
    """Whether it is known that there is something to release; else no request is told of it."""
    return bool(release.functions) or (release.state.final and shown is not Progress.NOTHING)


def _comment_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(what: Report | Deployment) -> str:
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:16]
