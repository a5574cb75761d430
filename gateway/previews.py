"""Pull and merge requests: which preview an event makes, changes or ends.

An event is a hint: which commit is built is the builder's to find out, at the base repository's own
reference of the request, so that a fork's address is never used. Of a fork exactly the commit is
built that somebody approved. What an event leaves half done, and what no event told, is looked
after in ``gateway.previewwatch``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial

import msgspec

from core import logging, names, queues
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound
from core.models import Release, now
from core.previews import ForkRules, closed, refusal
from core.repositories import Repository, Request
from core.settings import Settings
from core.store import Store
from forges.events import PullRequest
from gateway.context import Gateway

CLOSED = "the request was closed"
MOST, MOST_WAITING = 50, 10
"""Previews of one repository: of its own requests and of those of forks, each; of forks' requests
that wait for approval."""
_TITLE, _URL = 200, 2000
"""Characters that are kept."""

log = logging.get()


def handle(
    gateway: Gateway, event: PullRequest, repository: Repository
) -> tuple[Release | None, str]:
    """The release that an event makes, or none, and what is told to who looks at the delivery.

    To be called once the signature, the owner and its claim were checked. ``repository``: what we
    know of the repository that the request is to go into.

    Raises:
        InvalidRequest: the event names no request of that repository.
        Conflict: the namespaces that the preview could have are somebody else's.
    """
    return apply(gateway.settings, gateway.store, event, repository)


def apply(
    settings: Settings,
    store: Store,
    event: PullRequest,
    repository: Repository,
    *,
    asked: bool = False,
) -> tuple[Release | None, str]:
    """As ``handle``. ``asked``: the forge has just said so, so that it is open however old its
    last change."""
    which = f"request {event.number}"
    if names.request_number(event.reference) != event.number:
        raise InvalidRequest(f"{event.reference[:80]!r} is not where the head of {which} lies")
    names.commit(event.commit)
    if event.repository.id != repository.forge_id or repository.parent:
        raise InvalidRequest(f"{which} is none of the repository {repository.key}")
    if not event.open:
        return None, _ended(store, event, repository)
    if not settings.previews:
        return None, f"no preview of {which}: they are off here (SLIPWAY_PREVIEWS)"
    if repository.gone:
        return None, f"no preview of {which}: {repository.key} is gone: {repository.gone}"
    rules = store.fork_rules(settings.policy, repository)
    if event.fork and rules.fork_previews == "never":
        return None, f"no preview of {which}: it comes from a fork, and the policy allows none"
    ended = store.closed_at(repository.source, repository.forge_id, event.number)
    if ended is not None and _stale(event.updated_at, ended, same=not asked):
        return None, f"no preview of {which}: it was closed after this event"
    try:
        preview = _saved(store, event, repository, rules, asked=asked)
    except NotAllowed as error:
        return None, f"no preview of {which}: {error}"
    release = released(settings, store, preview)
    if release:
        return release, f"{which}: {release.id} makes its preview in {preview.namespace}"
    commit = preview.request.commit if preview.request else event.commit
    return None, refusal(preview, commit, rules) or f"{which}: its preview is as it is to be"


def released(settings: Settings, store: Store, preview: Repository) -> Release | None:
    """The release that a preview still lacks, made now; None where it has it or may not have it."""
    request = preview.request
    rules = store.fork_rules(settings.policy, preview)
    if request is None or preview.gone or refusal(preview, request.commit, rules):
        return None
    if store.head(preview.key) == request.commit:
        return None
    pinned = request.fork and request.approved == request.commit
    release = store.create_release(preview, request.commit, preview.deploy_branch, pinned=pinned)
    store.note_release(preview.key, request.commit)
    queues.dispatch(store, preview.key)
    log.info("preview", repository=preview.parent, number=request.number, release=release.id)
    return release


def approve(settings: Settings, store: Store, parent: str, number: int, commit: str) -> Repository:
    """Lets exactly this commit of a fork's request be built.

    Raises:
        NotFound: there is no preview of that request.
        Conflict: the commit is not its head any more, or it needs no approval.
    """
    names.commit(commit)

    def change(preview: Repository | None) -> Repository | None:
        request = preview.request if preview else None
        if preview is None or request is None or not request.open:
            raise NotFound(f"there is no open request {number} of {parent}: see 'slipway previews'")
        if request.commit != commit:
            raise Conflict(
                f"the head of request {number} of {parent} is {request.commit} and not {commit}: "
                "look at what was pushed, then approve that"
            )
        if preview.gone:
            raise Conflict(f"the preview of request {number} is gone: {preview.gone}")
        rules = store.fork_rules(settings.policy, preview)
        if not request.fork or rules.fork_previews != "approve":
            raise Conflict(f"request {number} of {parent} needs no approval")
        return msgspec.structs.replace(
            preview, request=msgspec.structs.replace(request, approved=commit)
        )

    approved = store.change_preview(parent, number, change)
    assert approved is not None  # else it was not found
    return approved


def follow(preview: Repository, parent: Repository) -> Repository:
    """The preview with what its repository is called and who vouches for it now."""
    return msgspec.structs.replace(
        preview,
        source=parent.source,
        full_name=parent.full_name,
        forge_id=parent.forge_id,
        owner_id=parent.owner_id,
        public=parent.public,
        installation=parent.installation,
    )


def _saved(
    store: Store, event: PullRequest, repository: Repository, rules: ForkRules, *, asked: bool
) -> Repository:
    """Writes what the event says, as far as it is news. Raises NotAllowed: there is no room."""
    mark = hashlib.sha256(f"{repository.source} {repository.forge_id}".encode()).hexdigest()[:8]
    first, second = f"pr-{event.number}", f"pr-{event.number}-{mark}"

    def change(before: Repository | None, suffix: str) -> Repository | None:
        after = _changed(before, event, repository, suffix, asked)
        if after and after.request and not _counts(before):
            fork = after.request.fork
            others = [each for each in store.children(repository.key) if each.key != after.key]
            if why := full(others, rules, fork=fork):
                raise NotAllowed(why)
        return after

    try:
        done = store.change_preview(repository.key, event.number, partial(change, suffix=first))
    except Conflict:  # the request of that number of another repository of the owner has it
        done = store.change_preview(repository.key, event.number, partial(change, suffix=second))
    assert done is not None  # an open request is always written down
    return done


def _counts(preview: Repository | None) -> bool:
    """Whether it takes up room: one of a fork does so until its request is closed, as strangers can
    open any number; the others until they are too old."""
    request = preview.request if preview else None
    if preview is None or request is None or not request.open:
        return False
    return request.fork or not preview.gone


def full(there: Iterable[Repository], rules: ForkRules, *, fork: bool) -> str:
    """Why no further request has a preview beside those that are there; empty: there is room."""
    same = [each.request for each in there if each.request and _counts(each)]
    same = [each for each in same if each.fork == fork]
    if len(same) >= MOST:
        whose = "requests of forks" if fork else "requests"
        return f"{len(same)} {whose} have previews, and more may not: close some of them"
    waiting = [each.number for each in same if each.approved != each.commit]
    if fork and rules.fork_previews == "approve" and len(waiting) >= MOST_WAITING:
        told = ", ".join(map(str, sorted(waiting)))
        return f"{len(waiting)} requests of forks wait, and more may not: approve or close {told}"
    return ""


def _changed(
    before: Repository | None,
    event: PullRequest,
    repository: Repository,
    suffix: str,
    asked: bool,
) -> Repository | None:
    earlier = before.request if before else None
    if before and earlier:
        same = not earlier.open and not asked
        if _stale(event.updated_at, earlier.told_at, same=same):
            return None
    new = not earlier or earlier.commit != event.commit or not earlier.open
    request = Request(
        number=event.number,
        title=_line(event.title),
        url=_address(event.url),
        commit=event.commit,
        fork=event.fork or bool(earlier and earlier.fork),
        approved=earlier.approved if earlier else "",
        updated_at=now() if new or not earlier else earlier.updated_at,
        told_at=event.updated_at or (earlier.told_at if earlier else ""),
    )
    preview = before or Repository(
        namespace=names.derived_namespace(repository.namespace, suffix),
        name=repository.name,
        source=repository.source,
        parent=repository.key,
    )
    gone = "" if new else preview.gone  # one that was too old comes back with the next push
    return msgspec.structs.replace(
        follow(preview, repository), deploy_branch=event.reference, request=request, gone=gone
    )


def _ended(store: Store, event: PullRequest, repository: Repository) -> str:
    which = f"request {event.number}"

    def change(before: Repository | None) -> Repository | None:
        if before and before.request and _stale(event.updated_at, before.request.told_at):
            return None
        return closed(before, CLOSED, event.updated_at)

    preview = store.change_preview(repository.key, event.number, change)
    if preview is None:
        store.note_closed(repository.source, repository.forge_id, event.number, event.updated_at)
        return f"nothing of {which} is here"
    if not preview.gone:
        return f"{which} was opened again after this event"
    store.take_down(preview)
    log.info("preview_closed", repository=repository.key, number=event.number)
    return f"the preview of {which} is taken down"


def _stale(told_at: str, known: str, *, same: bool = False) -> bool:
    """Whether an event is older than what is known; ``same``: or as old. By the forge's own clock;
    where it does not say, what comes last counts."""
    new, old = _moment(told_at), _moment(known)
    if new is None or old is None:
        return False
    return new < old or (same and new == old)


def _moment(text: str) -> datetime | None:
    """RFC 3339, or as GitLab's hooks have it: ``2026-11-01 12:00:00 UTC``."""
    try:
        found = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _line(text: str) -> str:
    """A title as it may be shown: on one line, without what steers a terminal."""
    return "".join(each if each.isprintable() else " " for each in text)[:_TITLE]


def _address(url: str) -> str:
    shown = url.startswith(("https://", "http://")) and url.isprintable() and len(url) <= _URL
    return url if shown else ""
