"""Environments are brought to what the deploy branch's stack file says: made, changed, taken down.

Desired and observed are compared, at the start, every minute, and within a second of a change: a
gateway that dies between two steps leaves what the next one goes on from. A new environment has no
``head`` in the store, so that its branch's is released, as soon as there is one. One that is not
wanted any more is marked gone first; from then on its releases take down what it has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import msgspec
from flask import Blueprint, Response, request
from redis.exceptions import RedisError

from core import logging, names, queues
from core.errors import Conflict, NotFound
from core.models import FunctionRecord
from core.names import NO_COMMIT
from core.repositories import Repository
from core.scopes import Scope
from core.settings import Settings
from core.store import Store, of_repository
from core.store.environments import environment_of
from gateway import heads
from gateway.callers import caller, owners
from gateway.context import here

bp = Blueprint("environments", __name__)

EVERY = 60.0
LOOK_EVERY = 1.0
"""Seconds between two looks whether a release said something else."""

log = logging.get()


class Environment(msgspec.Struct):
    """Where something of a repository is deployed."""

    environment: str
    """Its name; ``production`` is the deploy branch's."""
    namespace: str
    repository: str
    branch: str
    """Empty until the first deploy branch is pushed."""
    live: str
    """Id of the release that is live; empty: none."""
    gone: str
    """Why nothing of it is deployed any more; empty: it is."""


@bp.get("/system/environments")
@owners(Scope.READ)
def list_environments() -> Response:
    """Of one repository, of all of an owner's (``namespace`` is the owner's), or of all."""
    namespace = request.args.get("namespace", "")
    repository = request.args.get("repository", "")
    if namespace:
        names.namespace(namespace)
    if repository:
        names.repository_name(repository)
    visible = caller().visible(namespace)
    store = here().store
    found = [
        each
        for each in store.repositories()
        if not each.parent and visible(each.namespace) and repository in ("", each.name)
    ]
    told = [each for home in found for each in _told(store, home)]
    return Response(msgspec.json.encode(told), content_type="application/json")


def _told(store: Store, home: Repository) -> Iterator[Environment]:
    children = [each for each in store.children(home.key) if each.environment]
    for each in [home, *children]:
        yield Environment(
            environment=each.place,
            namespace=each.namespace,
            repository=each.name,
            branch=each.deploy_branch,
            live=store.live_release(each.key),
            gone=each.gone,
        )


def watch(settings: Settings, store: Store) -> None:
    """Runs for ever, in a thread of its own."""
    settled: Mapping[str, Mapping[str, str]] | None = None
    due = 0.0
    while True:
        try:
            wanted = store.wanted_environments()
            if wanted != settled or time.monotonic() >= due:
                settle(settings, store)
                settled, due = wanted, time.monotonic() + EVERY
        except RedisError as error:
            log.warning("environments_not_settled", reason=str(error))
        except Exception:
            log.exception("environments_not_settled")
            due = time.monotonic() + EVERY
        time.sleep(LOOK_EVERY)


def settle(settings: Settings, store: Store, only: str = "") -> None:
    """Does what is to be done now, of all repositories or of the one of this key: makes and ends
    environments, and takes down what is gone itself.

    Raises:
        RedisError: the store is away.
    """
    wanted = store.wanted_environments()
    known = {each.key: each for each in store.repositories()}
    for key, named in wanted.items():
        parent = known.get(key)
        if parent and not parent.gone and only in ("", key):
            for name, branch in named.items():
                _wanted(settings, store, known, parent, name, branch)
    functions: dict[str, FunctionRecord] | None = None
    for each in known.values():
        if each.gone and not each.parent and only in ("", each.key):
            functions = store.functions() if functions is None else functions
            _unwanted(store, each, each.gone, functions)
        if not each.environment or only not in ("", each.parent):
            continue
        parent = known.get(each.parent)
        if parent is None or parent.gone:
            why = (parent.gone if parent else "") or f"{each.parent} is gone"
        elif each.environment in wanted.get(each.parent, {}):
            continue
        else:
            why = f"the stack file of {parent.deploy_branch} does not name it any more"
        functions = store.functions() if functions is None else functions
        _unwanted(store, each, why, functions)


def _wanted(
    settings: Settings,
    store: Store,
    known: Mapping[str, Repository],
    parent: Repository,
    name: str,
    branch: str,
) -> None:
    child = environment_of(parent, name, branch)
    try:
        if known.get(child.key) != child:
            store.save_environment(parent, name, branch)
        if store.head(child.key):
            return
        if child.source == "git":
            heads.compare_one(settings, store, child)
        else:  # its head is asked for when the build begins
            store.create_release(child, NO_COMMIT, branch, since="", again=True)
            queues.dispatch(store, child.key)
            log.info("environment_made", repository=child.key, branch=branch)
    except (Conflict, NotFound) as error:  # decided while we looked, or somebody else's namespace
        log.warning("no_environment", repository=parent.key, name=name, reason=str(error))


def _unwanted(
    store: Store, child: Repository, why: str, functions: Mapping[str, FunctionRecord]
) -> None:
    if not child.gone:
        log.info("environment_gone", repository=child.key, reason=why)
        store.end_environment(child.key, why)
    newest = store.newest_release(child.key)
    moving = newest is not None and not newest.state.final
    if newest and newest.commit == NO_COMMIT and moving:
        return
    if moving or of_repository(functions, child.namespace, child.name):
        store.create_release(child, NO_COMMIT, child.deploy_branch, again=True)
        queues.dispatch(store, child.key)
