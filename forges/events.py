"""What an event of a forge says, checked: the same words for all forges.

Nothing of an event is trusted but who sent it. Names are such that they are safe in paths and URLs;
ids are texts, as forges differ in what they count by.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ForgeRepository(msgspec.Struct, frozen=True):
    """A repository as its forge describes it."""

    forge: str
    id: str
    full_name: str
    """``owner/name``; at GitLab with all groups in between."""
    owner: str
    """Login, or at GitLab the path of the outermost group, as it is written there."""
    owner_id: str
    """Empty where the event does not say; see ``Forge.describe``."""
    name: str
    """What it is called here, within its owner's namespace: ``names.repository_name``."""
    default_branch: str = ""
    public: bool = False


class Push(msgspec.Struct, frozen=True):
    """A reference was moved."""

    repository: ForgeRepository
    ref: str
    commit: str
    """The new head: a hint. All zeros where the reference was deleted; of an annotated tag the
    tag's own id."""
    tagged: str = ""
    """The commit that a tag stands for, where the event tells it."""
    deleted: bool = False
    installation: str = ""
    """Of GitHub's App, whose secret signed; likewise below."""

    @property
    def branch(self) -> str:
        """The branch that was pushed; empty for tags."""
        return self.ref.removeprefix("refs/heads/") if self.ref.startswith("refs/heads/") else ""


class PullRequest(msgspec.Struct, frozen=True):
    """A pull or merge request is opened, has new commits, or is closed."""

    repository: ForgeRepository
    """Into which it is to go."""
    number: int
    title: str
    url: str
    commit: str
    """Its head: a hint."""
    reference: str
    """Where the repository itself has the head: ``refs/pull/5/head``."""
    base: str
    """The branch into which it is to go."""
    head_repository: str
    """Id of the repository that the head lies in; empty: it is gone."""
    open: bool
    installation: str = ""
    updated_at: str = ""
    """When it was last changed, by the forge's clock, as it writes that. Empty: it does not say."""

    @property
    def fork(self) -> bool:
        """By the ids, whatever the names are."""
        return self.head_repository != self.repository.id


class RepositoryChange(StrEnum):
    """What became of a repository."""

    CHANGED = "changed"
    """Renamed, transferred, made public or private, another default branch: see the description."""
    DELETED = "deleted"


class RepositoryChanged(msgspec.Struct, frozen=True):
    repository: ForgeRepository
    change: RepositoryChange
    installation: str = ""


class InstallationChanged(msgspec.Struct, frozen=True):
    """The App was installed, uninstalled, or has more or fewer repositories."""

    installation: str
    owner: str
    owner_id: str
    added: tuple[ForgeRepository, ...] = ()
    """Their default branches are not told."""
    removed: tuple[str, ...] = ()
    """Ids of repositories."""
    uninstalled: bool = False
    """Or suspended: nothing of it may be deployed any more."""


class Ignored(msgspec.Struct, frozen=True):
    """Nothing to do; ``why`` is told to who looks at the delivery."""

    why: str


class Ping(msgspec.Struct, frozen=True):
    """The webhook was made."""


Event = Push | PullRequest | RepositoryChanged | InstallationChanged | Ignored | Ping
