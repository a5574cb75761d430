"""Repositories of forges as they come, change and go: their namespace, their record, their end.

What a forge told is held against what is known under the forge's own id of the repository, which
outlives names. Everything may be repeated.
"""

from __future__ import annotations

import msgspec

from core import logging, names, queues
from core.errors import Conflict, InvalidRequest
from core.models import Release, Repository
from core.names import NO_COMMIT
from core.store import Store
from forges.events import ForgeRepository
from gateway.context import Gateway

log = logging.get()


def holder_of(gateway: Gateway, forge: str, owner_id: str, owner: str) -> str:
    """Who holds a namespace: ``<forge URL>#<owner id>``. Where the forge cannot be asked for the
    id, its path: whoever has that at the forge."""
    url = {
        "github": gateway.settings.github_url,
        "gitlab": gateway.settings.gitlab_url,
        "gitea": gateway.settings.gitea_url,
    }[forge]
    return f"{url}#{owner_id or f'path:{owner.lower()}'}"


def namespace_of(store: Store, owner: str, holder: str) -> str:
    """The namespace that the admin gave the owner, else its login in lower case, where that is one.

    Raises:
        InvalidRequest: it is not, naming the rule.
    """
    if given := store.owner_namespace(holder):
        return given
    try:
        return names.owner_namespace(owner.lower())
    except InvalidRequest as error:
        raise InvalidRequest(
            f"the owner {owner!r} has no namespace of the same name: {error}; the admin can give "
            f"it one: 'slipway owner link {holder} <namespace>'"
        ) from error


def adopt(
    gateway: Gateway, said: ForgeRepository, installation: str, known: Repository | None
) -> Repository:
    """Records a repository as its forge describes it; ``known``: what there is of it, if anything.

    Of a new owner it is another repository, whatever its id is: what the old one had deployed is
    taken down.

    Raises:
        Conflict: the namespace, or the name in it, belongs to somebody else.
        InvalidRequest: the owner has no namespace.
    """
    store = gateway.store
    holder = holder_of(gateway, said.forge, said.owner_id, said.owner)
    namespace = namespace_of(store, said.owner, holder)
    if known and known.namespace != namespace:
        take_down(store, known, f"it belongs to {said.owner} now, as {said.full_name}")
        known = None
    name = known.name if known else said.name
    record = Repository(
        namespace=namespace,
        name=name,
        source=said.forge,
        full_name=said.full_name,
        forge_id=said.id,
        owner_id=said.owner_id,
        deploy_branch=said.default_branch or (known.deploy_branch if known else ""),
        public=said.public,
        installation=installation or (known.installation if known else ""),
    )
    if record == known:
        return known
    store.claim_namespace(namespace, holder)
    _check_name(store, record)
    store.claim_namespace(namespace, holder, record)  # nobody can delete it in between
    store.save_repository(record)
    for child in store.children(record.key):
        if child.request is None:  # previews follow by themselves (previewwatch)
            store.save_repository(_as(child, record))
    log.info("repository", repository=record.key, forge=said.forge, full_name=said.full_name)
    return record


def _check_name(store: Store, record: Repository) -> None:
    """Two of one owner may be called the same here, where groups lie between, or one took the name
    that another had: the first keeps it, while it is there."""
    there = store.find_repository(record.key)
    if there is None or there.gone or (there.source, there.forge_id) == _id(record):
        return
    if there.source != record.source or there.forge_id:
        raise Conflict(
            f"{record.key} is {there.full_name or 'a repository of the git remote'} already, and "
            f"{record.full_name} would be called the same: rename one of them"
        )


def _id(record: Repository) -> tuple[str, str]:
    return record.source, record.forge_id


def _as(child: Repository, parent: Repository) -> Repository:
    """An environment, where its repository is now."""
    return msgspec.structs.replace(
        child,
        full_name=parent.full_name,
        owner_id=parent.owner_id,
        public=parent.public,
        installation=parent.installation,
    )


def said_of(known: Repository, owner: str) -> ForgeRepository:
    """What is known of a repository, as if its forge had told it; ``owner``: its login."""
    return ForgeRepository(
        forge=known.source,
        id=known.forge_id,
        full_name=known.full_name,
        owner=owner,
        owner_id=known.owner_id,
        name=known.name,
        default_branch=known.deploy_branch,
        public=known.public,
    )


def take_down(store: Store, repository: Repository, why: str) -> Release | None:
    """Marks a repository as gone, and has nothing deployed of it any more, nor of its environments;
    its previews go by themselves (``previewwatch``). None where nothing of it was here."""
    for child in store.children(repository.key):
        if child.request is None:
            take_down(store, child, why)
    gone = msgspec.structs.replace(repository, gone=why)
    store.save_repository(gone)
    log.info("repository_gone", repository=repository.key, reason=why)
    if not store.newest_release(repository.key):
        return None
    release = store.create_release(gone, NO_COMMIT, repository.deploy_branch)
    queues.dispatch(store, repository.key)
    return release
