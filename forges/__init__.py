"""Forges: what GitHub, GitLab and Gitea tell us, and what we ask of them.

    events.py       what an event says, in words that all forges share
    github/ …       one folder for each: its webhooks, its API

An event is a hint (docs/architecture.md): which commit is released and from where it is fetched is
decided elsewhere. ``Webhooks`` reads events, ``Forge`` asks; each implementation's own module
names the published description that it follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from core.repositories import Repository
from forges.events import Event, ForgeRepository, PullRequest

MAX_BODY = 25_000_000
"""Bytes of an event: GitHub caps payloads at 25 MB, as GitLab does by default."""


class Webhooks(Protocol):
    """One forge's events. All of its methods are quick and ask nobody."""

    name: str
    """``github``: the source of its repositories, the last part of the webhook's path."""
    setting: str
    """The setting that holds the secret of the installation's own webhook."""

    def check_configured(self, secret: str, headers: Mapping[str, str]) -> None:
        """What can be refused before the body is read. ``headers``: case-insensitive.

        Raises:
            BadCredentials: there is no secret to check with, or nothing to check.
        """
        ...

    def check(self, secret: str, headers: Mapping[str, str], body: bytes | bytearray) -> None:
        """Checks signature or token in constant time. Raises BadCredentials."""
        ...

    def read(self, headers: Mapping[str, str], body: bytes | bytearray) -> Event:
        """What the event says; ``Ignored`` where it is of a kind that means nothing here.

        Raises:
            InvalidRequest: not JSON, or not what the forge sends for this kind of event; a name in
                it that is none.
        """
        ...

    def delivery(self, headers: Mapping[str, str]) -> str:
        """The delivery's id, or '': it saves work, it proves nothing."""
        ...


class Progress(StrEnum):
    """What is shown of a release, or of one function in it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    """Superseded counts as well: nothing is wrong with it."""
    NOTHING = "nothing"
    """There was nothing to release, and never was: no stack file."""


class Annotation(msgspec.Struct, frozen=True):
    """A mistake at its place in the repository."""

    path: str
    line: int
    """1-based."""
    message: str


class Report(msgspec.Struct, frozen=True):
    """What a forge shall show beside a commit: a check run or a commit status."""

    context: str
    """``slipway`` for the release, ``slipway/<function>`` for a function; an environment's or
    preview's with its name."""
    commit: str
    progress: Progress
    title: str
    """One line; what a commit status says."""
    summary: str = ""
    text: str = ""
    """Markdown; the end of the build's log in ``text``."""
    url: str = ""
    """Where more is to be seen."""
    started: str = ""
    finished: str = ""
    """RFC 3339, or '' for not yet."""
    annotations: Sequence[Annotation] = ()


class Deployment(msgspec.Struct, frozen=True):
    """What a forge shall show as an environment's state."""

    environment: str
    """``production``, ``staging``, ``pr-5``."""
    commit: str
    progress: Progress
    url: str = ""
    """Where what was deployed answers."""
    log_url: str = ""
    transient: bool = False
    """A preview: it goes again."""
    gone: bool = False
    """It is taken down."""
    followed: bool = False
    """Where it is gone: another one is live in the environment, which stays."""


class Head(msgspec.Struct, frozen=True):
    """What a branch is at now."""

    commit: str
    """Empty: there is no such branch."""
    etag: str = ""
    """To be given with the next question."""


class Tags(msgspec.Struct, frozen=True):
    """The tags of a repository that begin alike."""

    objects: dict[str, str]
    """Tag → the id of what it names, which may be an annotated tag."""
    etag: str = ""


class Forge(Protocol):
    """One forge's API. Every method may take seconds, and raises alike:

    Unavailable: it does not answer, or not now (rate limit): ``retry_after`` seconds may be told.
    NotAllowed: we have no token, or it may not do this.
    NotFound: what it is about is not there any more.
    InvalidRequest: it refuses what we asked for.

    Methods that show something take what they returned last for the same thing, or '', and return
    what to remember for the next time.
    """

    name: str

    def clone_credential(self, repository: Repository) -> str:
        """Value of an HTTP ``Authorization`` header that opens this repository alone for reading,
        for an hour at most where the forge can do that; '' where it is public or we have none."""
        ...

    def head(self, repository: Repository, reference: str, etag: str = "") -> Head | None:
        """What ``refs/heads/…`` is at; None: the same as when ``etag`` was given.

        Raises NotAllowed as well where the API cannot be asked without a token: git can."""
        ...

    def tags(self, repository: Repository, below: str, etag: str = "") -> Tags | None:
        """The tags below such as ``refs/tags/promote/``; as ``head``.

        Raises NotSupported as well where the forge does not tell whether they are the same."""
        ...

    def describe(self, repository: Repository) -> ForgeRepository:
        """What the forge says of it now, found by its id: it may have another name, another owner.

        Raises NotFound: it was deleted, or is hidden from us."""
        ...

    def installation(self, repository: Repository) -> str:
        """Id of the App's installation that has this repository now; '' where none has. Of forges
        without Apps, and of GitHub where we are none, '' always."""
        ...

    def requests(self, repository: Repository) -> Sequence[PullRequest]:
        """The pull or merge requests that are open, the newest first, a hundred at most: where
        there are fewer, there is no other."""
        ...

    def report(self, repository: Repository, report: Report, known: str = "") -> str:
        """Shows a check or status."""
        ...

    def deployment(self, repository: Repository, deployment: Deployment, known: str = "") -> str:
        """Shows the state of an environment."""
        ...

    def comment(self, repository: Repository, number: int, text: str, known: str = "") -> str:
        """Writes one comment (Markdown) on a request, or changes the one it wrote. It ends with a
        mark of ours, by which it is found where ``known`` was lost."""
        ...
