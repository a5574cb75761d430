"""Promotion: what is live in one environment of a repository is released in another as it is, the
very same artifacts at the same commit, with the settings and secrets that the other has.

By ``POST /system/promote``, or by a tag ``promote/<environment>/<anything>``: as it is pushed, here
or at a forge, and where nobody looked at it then by a look at all tags: of our own remote every
minute, of a forge as the builder asks it again and again (builder/forgeheads.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from flask import Blueprint, Response, request
from redis.exceptions import RedisError

from core import logging, names, queues
from core.errors import Conflict, InvalidRequest, NotFound, SlipwayError
from core.models import Promotion, Release, State
from core.repositories import Repository
from core.scopes import Scope
from core.settings import Settings
from core.store import Store, of_repository
from core.store.releases import no_release
from gateway import bare
from gateway.callers import caller, owners
from gateway.context import here
from gateway.streams import decoded

bp = Blueprint("promotions", __name__)
log = logging.get()

TAGS = "refs/tags/promote/"
MOST = 20
"""Tags that are looked at of one push, or of one repository in one pass."""
_TAG = re.compile(r"promote/([^/]+)/.+")
_CAME_TO_NOTHING = (State.FAILED, State.CANCELLED, State.SUPERSEDED)
LOOKED_AT = 100
"""Newest releases of an environment among which a tagged commit is looked for, while an event waits
for it; so many are kept by default (SLIPWAY_KEEP_REVISIONS)."""


class Promote(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /system/promote``."""

    namespace: str
    repository: str
    from_: str | None = msgspec.field(default=None, name="from")
    """Name of an environment; by default that of the namespace, or the only other one."""
    to: str = names.PRODUCTION
    """Name of an environment, or ``production``: the deploy branch's."""
    release: str | None = None
    """Id of one that was live there; by default the one that is."""


@bp.post("/system/promote")
@owners(Scope.DEPLOY)
def promote() -> Response:
    """Begins the release; what becomes of it is told by ``/system/releases/<id>``."""
    wanted = decoded(request.environ, Promote)
    names.namespace(wanted.namespace)
    names.repository_name(wanted.repository)
    if wanted.release is not None:
        names.release_id(wanted.release)
    store = here().store
    caller().require(Scope.DEPLOY, wanted.namespace)
    given = store.repository(wanted.namespace, wanted.repository)
    home = _home(store, given)
    target = store.environment(home, wanted.to)
    if wanted.release:
        release = store.release(wanted.release)
        caller().require(Scope.DEPLOY, release.namespace, no_release(release.id))
        source = _whose(store, home, release)
        if wanted.from_ is not None and wanted.from_ != source.place:
            raise InvalidRequest(f"{release.id} is of {source.place}, not of {wanted.from_[:80]}")
    else:
        source = _source(store, home, given, target, wanted.from_)
        release = _live(store, source)
    made = _begin(store, source, release, target)
    response = Response(msgspec.json.encode(made), 202, content_type="application/json")
    response.headers["Location"] = f"/system/releases/{made.id}"
    return response


def by_tag(store: Store, home: Repository, tag: str, commit: str, object_: str) -> Release:
    """What a tag ``promote/<environment>/<anything>`` asks for: the newest release of its commit
    that is or was live in another environment. Asked again, the release that it made.

    Args:
        home: the repository, not one of its environments.
        commit: what the tag stands for in the end.
        object_: id of what it names, which may be an annotated tag.

    Raises:
        InvalidRequest: it has no such form.
        NotFound: there is no such environment.
        Conflict: the commit was not live in another one lately, or a newer one was promoted
            already: in whichever order tags are heard of, it ends in the same way.
    """
    match = _TAG.fullmatch(tag)
    if not match:
        raise InvalidRequest(f"{tag[:80]!r} is not of the form promote/<environment>/<anything>")
    target = store.environment(home, match[1])
    found = [
        (release, each)
        for each in [home, *store.environments(home)]
        if each.key != target.key
        for release in store.newest_releases(each.key, LOOKED_AT)
        if release.commit == commit and release.state in (State.LIVE, State.REPLACED)
    ]
    if not found:
        raise Conflict(
            f"{commit[:12]} was live in no other environment of {home.key} than {target.place}, "
            f"by the last {LOOKED_AT} releases of each: have its branch released there first, then "
            "push another tag; or name an older one by 'slipway promote --release'"
        )
    release, source = max(found, key=lambda each: each[0].number)
    last = store.newest_release(target.key)
    came = last.promoted_from if last and last.state not in _CAME_TO_NOTHING else None
    if came and came.environment == source.place and came.number > release.number:
        raise Conflict(
            f"{came.release}, which is newer than {release.id}, was promoted already, and tags may "
            "come late: 'slipway promote --release' goes back"
        )
    delivery = ("tag", f"{home.key} {tag} {object_}")
    return _begin(store, source, release, target, delivery)


def take_tag(store: Store, home: Repository, tag: str, commit: str, object_: str) -> Release:
    """The same, and the tag is noted as looked at, also where nothing comes of it. ``commit`` '':
    there is none. Raises as ``by_tag``."""
    try:
        if not commit:
            raise InvalidRequest("it is not the tag of a commit")
        release = by_tag(store, home, tag, commit, object_)
    except SlipwayError as error:
        if not error.retryable:
            store.note_promotion_tag(home.key, tag, object_)
        raise
    store.note_promotion_tag(home.key, tag, object_)
    return release


def compare_tags(settings: Settings, store: Store) -> None:
    """Takes the tags of our own remote that nobody looked at yet.

    Raises:
        RedisError: the store is away.
    """
    with_environments = {each.parent for each in store.repositories() if each.environment}
    for home in store.repositories():
        if home.key not in with_environments or home.source != "git":
            continue
        try:
            there = bare.tags(settings, home, TAGS)
            _compare(store, home, there, partial(bare.resolve, settings, home))
        except RedisError:
            raise
        except Exception as error:  # one repository's trouble is not the others'
            log.warning("tags_unknown", repository=home.key, reason=str(error))


def compare_forge_tags(store: Store, home: Repository, there: Mapping[str, str]) -> bool:
    """The same with those that a forge has of one repository: tag → the commit that it stands for.
    What is there at the first look is only noted: it may be years old, and whatever it asked for
    was done or is not wanted any more.

    A tag counts once for its commit, and not for its object: not every forge's events tell that.

    Returns whether all were looked at.
    """
    if store.begin_promotion_tags(home.key, there):
        return True
    return _compare(store, home, there, lambda commit: commit)


def _compare(
    store: Store, home: Repository, there: Mapping[str, str], commit_of: Callable[[str], str]
) -> bool:
    """Takes what is new of all the tags there are, and forgets those that are gone; returns whether
    nothing new is left."""
    known = store.promotion_tags(home.key)
    new = [tag for tag, object_ in there.items() if known.get(tag) != object_]
    left = len(new) > MOST
    for tag in new[:MOST]:
        try:
            release = take_tag(store, home, tag, commit_of(there[tag]), there[tag])
            log.warning("tag_found", repository=home.key, tag=tag, release=release.id)
        except SlipwayError as error:
            left |= error.retryable
            log.warning("tag_not_taken", repository=home.key, tag=tag, reason=str(error))
    for tag in known.keys() - there.keys():
        store.forget_promotion_tag(home.key, tag)
    return not left


def _home(store: Store, given: Repository) -> Repository:
    if given.request:
        raise InvalidRequest(f"{given.key} is a preview: merge it to have it released")
    found = store.find_repository(given.home)
    if found is None:
        raise NotFound(f"there is no repository {given.home} any more")
    return found


def _whose(store: Store, home: Repository, release: Release) -> Repository:
    """Of which environment a release is."""
    for each in [home, *store.environments(home)]:
        if (each.namespace, each.name) == (release.namespace, release.repository):
            return each
    raise InvalidRequest(f"{release.id} is not of {home.key} or one of its environments")


def _source(
    store: Store, home: Repository, given: Repository, target: Repository, name: str | None
) -> Repository:
    if name is not None:
        return store.environment(home, name)
    if given.environment:
        return store.environment(home, given.environment)
    others = [each for each in store.environments(home) if each.key != target.key]
    if len(others) != 1:
        told = ", ".join(sorted(each.environment for each in others)) or "none beside the target"
        raise InvalidRequest(f"name the environment to promote from; {home.key} has {told}")
    return others[0]


def _live(store: Store, source: Repository) -> Release:
    """What is live, all of it of one release. Raises Conflict."""
    id_ = store.live_release(source.key)
    if not id_:
        raise Conflict(f"nothing of {source.key} is live: push {source.deploy_branch}")
    records = of_repository(store.functions(), source.namespace, source.name)
    for record in records.values():
        if record.release != id_:
            raise Conflict(
                f"{record.spec.name} of {source.place} is not of {id_}, as it was rolled back "
                "alone: have one release live there first, or name one with 'release'"
            )
    return store.release(id_)


def _begin(
    store: Store,
    source: Repository,
    release: Release,
    target: Repository,
    delivery: tuple[str, str] | None = None,
) -> Release:
    if source.key == target.key:
        raise InvalidRequest(
            f"{source.place} cannot be promoted to itself: 'slipway rollback' goes back there"
        )
    if not store.brought(release):
        raise Conflict(
            f"{release.id} cannot be promoted: it is {release.state}, and only what was live, has "
            "functions and is still kept can (SLIPWAY_KEEP_REVISIONS)"
        )
    made = store.create_release(
        target,
        release.commit,
        release.branch,
        delivery=delivery,
        again=True,
        pinned=True,
        promoted_from=Promotion(environment=source.place, release=release.id),
    )
    queues.dispatch(store, target.key)
    log.info("promotion", release=made.id, of=release.id, repository=target.key)
    return made
