"""Repositories of forges as they come, change and go: their namespace, their record, their end.

What a forge told is held against what is known under the forge's own id of the repository, which
outlives names. Everything may be repeated.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from core import logging, names, queues
from core.errors import InvalidRequest, NotFound
from core.names import NO_COMMIT
from core.repositories import Repository
from core.store import Store
from forges.events import ForgeRepository
from forges.github.app import stored_app
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
    """The namespace that the admin gave the owner, else the one that it has, whatever its login was
    then, else its login in lower case, where that is one.

    Raises:
        InvalidRequest: it is not, naming the rule.
    """
    if given := store.owner_namespace(holder) or store.held_by(holder):
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

    Of a new owner it is another repository, whatever its id is: once that is here, what the old one
    had deployed is taken down. An owner with a new login is the same.

    Raises:
        Conflict: the namespace, or the name in it, belongs to somebody else.
        InvalidRequest: the owner has no namespace.
    """
    store = gateway.store
    former = holder_of(gateway, said.forge, "", said.owner)
    holder = holder_of(gateway, said.forge, said.owner_id, said.owner)
    if known and said.owner_id and known.owner_id == said.owner_id:
        namespace = known.namespace
    else:
        namespace = namespace_of(store, said.owner, holder)
    old = known if known and known.namespace != namespace else None
    app = str(stored_app(gateway.settings).id) if said.forge == "github" else ""
    before = known if known and not old else None
    installed = installation or (before.installation if before and before.app == app else "")
    record = Repository(
        namespace=namespace,
        name=before.name if before else said.name,
        source=said.forge,
        full_name=said.full_name,
        forge_id=said.id,
        owner_id=said.owner_id or (before.owner_id if before else ""),
        deploy_branch=said.default_branch or (before.deploy_branch if before else ""),
        public=said.public,
        installation=installed,
        app=app if installed else "",
    )
    if record == known:
        return record
    store.adopt_repository(record, holder, former)
    if old:
        take_down(store, old, f"it belongs to {said.owner} now, as {said.full_name}")
    log.info("repository", repository=record.key, forge=said.forge, full_name=said.full_name)
    return record


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


def take_down(store: Store, repository: Repository, why: str) -> None:
    """Marks a repository as gone, with its environments (previews follow by themselves); nothing of
    it stays deployed, and what is being built of it ends at once. The mark is what counts: whatever
    dies after it, nothing more is handed over, and the reconcilers of environments find what is
    still deployed (``environments.settle``)."""
    for child in store.children(repository.key):
        if child.request is None:
            take_down(store, child, why)
    with suppress(NotFound):
        store.change_repository(
            repository.key, lambda found: msgspec.structs.replace(found, gone=why)
        )
        log.info("repository_gone", repository=repository.key, reason=why)
        store.call_off(repository.key, why)
        if store.newest_release(repository.key):
            store.create_release(repository, NO_COMMIT, repository.deploy_branch, again=True)
            queues.dispatch(store, repository.key)
