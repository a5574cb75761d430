"""What is done about an event of a forge, once it is known who sent it. An event tells us to look,
no more: deliveries may be lost, doubled, shuffled or late.

- A push of a branch that is deployed makes a release of the repository, or of an environment of
  it; which commit is released is asked of the forge when the build begins. A tag may promote what
  was live.
- A pull or merge request has a preview (``previews``).
- Where an event says anything else than what is known of the repository (another name, another
  owner, gone), the forge is asked before anything is done (``looks``): a late delivery changes
  nothing.
"""

from __future__ import annotations

import msgspec

from core import queues
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound, Unavailable
from core.models import Release
from core.names import NO_COMMIT
from core.repositories import Repository
from core.store.forges import Look
from forges.events import (
    Event,
    ForgeRepository,
    Ignored,
    InstallationChanged,
    Ping,
    PullRequest,
    Push,
    RepositoryChange,
    RepositoryChanged,
)
from gateway import adoption, previews, promotions
from gateway.context import Gateway
from gateway.policy import require_allowed

PONG = "pong: pushes to the default branch will be released"


class Told(msgspec.Struct, frozen=True):
    """What whoever looks at the delivery is told; ``releases``: those that it made."""

    text: str = ""
    releases: tuple[Release, ...] = ()


def arrived(
    gateway: Gateway, event: Event, delivery: tuple[str, str] | None, only: str | None = None
) -> Told:
    """``delivery``: (forge, its id). ``only``: id of the one repository that the sender may speak
    for; None: of all.

    Raises:
        NotAllowed: it speaks of another repository, or its owner may not deploy.
        Conflict, InvalidRequest: as ``adoption.adopt``.
        Unavailable: too much waits to be asked of the forge.
    """
    hook = only is not None
    if only is not None:
        _speaks_for(event, only)
    if isinstance(event, Push):
        return _pushed(gateway, event, delivery, hook=hook)
    if isinstance(event, RepositoryChanged):
        return _changed(gateway, event, hook=hook)
    if isinstance(event, InstallationChanged):
        return _installed(gateway, event)
    if isinstance(event, PullRequest):
        return _requested(gateway, event, hook=hook)
    return Told(PONG if isinstance(event, Ping) else event.why)


def _speaks_for(event: Event, only: str) -> None:
    if isinstance(event, InstallationChanged) or (
        not isinstance(event, Ignored | Ping) and event.repository.id != only
    ):
        raise NotAllowed(
            "the secret that signed this is of another repository's hook: it counts for that "
            "repository alone"
        )


def _pushed(gateway: Gateway, event: Push, delivery: tuple[str, str] | None, *, hook: bool) -> Told:
    said, store = event.repository, gateway.store
    tag = event.ref.startswith(promotions.TAGS) and not event.deleted
    if not event.branch and not tag:
        return Told(f"not deployed: {event.ref} is not a branch")
    if not event.deleted:  # whoever may not deploy may still take down
        require_allowed(gateway, said.forge, said.owner, said.owner_id)
    known = store.repository_at(said.forge, said.id)
    if tag:
        return _tagged(gateway, event, known)
    if known is None:
        if event.branch != said.default_branch:
            return _not_deployed(event, said.default_branch)
        if event.deleted:
            told = f"{event.ref} was deleted, and nothing of {said.full_name} is here"
            return Told(f"not deployed: {told}")
        if not said.owner_id:
            return _look(gateway, said, event.installation, commit=event.commit, hook=hook)
        known = adoption.adopt(gateway, said, event.installation, None)
    elif differs(known, said, event.installation) or known.gone:
        return _look(gateway, said, event.installation, commit=event.commit, hook=hook)
    targets = store.for_branch(known, event.branch)
    if not targets:
        return _not_deployed(event, known.deploy_branch)
    commit = NO_COMMIT if event.deleted else event.commit
    made = []
    for number, each in enumerate(targets):
        again = (delivery[0], f"{delivery[1]} {each.key}") if delivery and number else delivery
        made.append(store.create_release(each, commit, event.branch, delivery=again))
        queues.dispatch(store, each.key)
    return Told(releases=tuple(made))


def _requested(gateway: Gateway, event: PullRequest, *, hook: bool) -> Told:
    """Of a repository that is not known yet the forge is asked first, and then which requests it
    has (``previewwatch``)."""
    said = event.repository
    if event.open:
        require_allowed(gateway, said.forge, said.owner, said.owner_id)
    known = gateway.store.repository_at(said.forge, said.id)
    if known is None:
        return _look(gateway, said, event.installation, hook=hook)
    if differs(known, said, event.installation):
        _look(gateway, said, event.installation, hook=hook)
    release, told = previews.handle(gateway, event, known)
    return Told(told, (release,) if release else ())


def _not_deployed(event: Push, deployed: str) -> Told:
    if event.deleted:
        return Told(f"not deployed: {event.ref} was deleted")
    return Told(f"not deployed: {event.branch} is not the default branch ({deployed})")


def _tagged(gateway: Gateway, event: Push, known: Repository | None) -> Told:
    """A tag promotes only what was live already: nothing is fetched for it."""
    if known is None or known.gone:
        return Told(f"not promoted: nothing of {event.repository.full_name} is here")
    tag = event.ref.removeprefix("refs/tags/")
    try:
        commit = event.tagged or event.commit
        return Told(releases=(promotions.take_tag(gateway.store, known, tag, commit, commit),))
    except (Conflict, InvalidRequest, NotFound) as error:
        return Told(f"not promoted: {error}")


def differs(known: Repository, said: ForgeRepository, installation: str) -> bool:
    """Whether an event says of a repository what is not known of it."""
    return (
        known.full_name != said.full_name
        or (said.owner_id not in ("", known.owner_id))
        or (said.default_branch not in ("", known.deploy_branch))
        or known.public != said.public
        or (installation not in ("", known.installation))
    )


def _changed(gateway: Gateway, event: RepositoryChanged, *, hook: bool) -> Told:
    said = event.repository
    if gateway.store.repository_at(said.forge, said.id) is None:
        return Told(f"nothing of {said.full_name} is here")
    gone = event.change is RepositoryChange.DELETED
    why = "the repository was deleted" if gone else ""
    return _look(gateway, said, event.installation, why=why, hook=hook)


def _installed(gateway: Gateway, event: InstallationChanged) -> Told:
    store = gateway.store
    gone = [store.repository_at("github", id_) for id_ in event.removed]
    if event.uninstalled:
        gone += [
            each
            for each in store.repositories()
            if each.installation == event.installation and not each.parent
        ]
    why = "the App was uninstalled, or this repository was taken from it"
    for known in filter(None, gone):
        _look(gateway, adoption.said_of(known, event.owner), event.installation, why=why)
    if event.added:
        require_allowed(gateway, "github", event.owner, event.owner_id)
    for said in event.added:
        _look(gateway, said, event.installation)
    return Told(f"{len(event.added)} repositories added, {len(gone)} removed: they are looked at")


def _look(
    gateway: Gateway,
    said: ForgeRepository,
    installation: str,
    *,
    commit: str = "",
    why: str = "",
    hook: bool = False,
) -> Told:
    unknown = hook and gateway.store.repository_at(said.forge, said.id) is None
    look = Look(
        forge=said.forge,
        forge_id=said.id,
        said=msgspec.json.encode(said),
        installation=installation,
        commit=commit,
        why=why,
        hook=hook,
        unknown=said.full_name.lower() if unknown else "",
    )
    if not gateway.store.ask_to_look(look):
        raise Unavailable("too many repositories wait to be looked at: redeliver this later")
    gateway.look.set()
    return Told(f"{said.forge} is asked for {said.full_name} first: what is new there is released")
