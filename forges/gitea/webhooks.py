"""The webhooks of Gitea and Forgejo: the signature, and what their events say.

Source of the formats: Gitea's documentation "Webhooks", and the definitions ``Repository`` and
``PullRequest`` of its API, which the events are made of. Forgejo sends the same, once more under
its own name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping

import msgspec

from core import names
from core.errors import BadCredentials
from core.signing import same_secret
from forges import paths, payloads
from forges.events import (
    Event,
    ForgeRepository,
    Ignored,
    Ping,
    PullRequest,
    Push,
    RepositoryChange,
    RepositoryChanged,
)

SIGNATURES = ("X-Gitea-Signature", "X-Forgejo-Signature", "X-Hub-Signature-256")
"""All of the same key and body; the last one with ``sha256=`` before it."""
EVENTS = ("X-Gitea-Event", "X-Forgejo-Event")
DELIVERIES = ("X-Gitea-Delivery", "X-Forgejo-Delivery")
SETTING = "SLIPWAY_GITEA_WEBHOOK_SECRET"

_DELIVERY = re.compile(r"[-0-9A-Za-z]{1,64}")


class GiteaWebhooks:
    """See ``forges.Webhooks``."""

    name = "gitea"
    setting = SETTING

    def check_configured(self, secret: str, headers: Mapping[str, str]) -> None:
        if not secret:
            raise BadCredentials(
                f"webhooks of Gitea are refused: no secret is set; set {SETTING} to the secret of "
                "the webhook"
            )
        if not _first(headers, SIGNATURES):
            raise BadCredentials(
                f"the header {SIGNATURES[0]} is missing: give the webhook at Gitea a secret, the "
                f"same as {SETTING}"
            )

    def check(self, secret: str, headers: Mapping[str, str], body: bytes | bytearray) -> None:
        """The hex HMAC-SHA-256 of the raw body."""
        self.check_configured(secret, headers)
        given = _first(headers, SIGNATURES).removeprefix("sha256=")
        if not same_secret(given, hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()):
            raise BadCredentials(
                f"the signature in {SIGNATURES[0]} is not of this body: is the secret of the "
                f"webhook the same as {SETTING}?"
            )

    def read(self, headers: Mapping[str, str], body: bytes | bytearray) -> Event:
        kind = _first(headers, EVENTS)
        if kind not in _READ:
            return Ignored(f"nothing to do for the event {kind[:50]!r}")
        return _READ[kind](body)

    def delivery(self, headers: Mapping[str, str]) -> str:
        given = _first(headers, DELIVERIES)
        return given if _DELIVERY.fullmatch(given) else ""


def _first(headers: Mapping[str, str], wanted: tuple[str, ...]) -> str:
    return next((headers[each] for each in wanted if headers.get(each)), "")


class Owner(msgspec.Struct):
    """``User`` in Gitea's description: a user or an organization."""

    id: payloads.Id
    visibility: str = "public"


class Repository(msgspec.Struct):
    """As in Gitea's description."""

    id: payloads.Id
    full_name: str
    owner: Owner
    default_branch: str = ""
    private: bool = True
    internal: bool = False


class Commit(msgspec.Struct):
    """``PayloadCommit`` in Gitea's description."""

    id: str


class _Push(msgspec.Struct):
    ref: str
    before: str
    after: str
    repository: Repository
    head_commit: Commit | None = None
    """The commit, also where ``after`` is an annotated tag; null where there is none."""


class _Deletion(msgspec.Struct):
    ref: str
    ref_type: str
    repository: Repository


class Side(msgspec.Struct):
    """``PRBranchInfo`` in Gitea's description."""

    ref: str
    sha: str
    repo_id: payloads.AnyId = 0
    """Not positive: the fork was deleted."""


class Request(msgspec.Struct):
    """``PullRequest`` in Gitea's description."""

    number: payloads.Number
    state: str
    head: Side
    base: Side
    title: str = ""
    html_url: str = ""
    updated_at: str | None = None


class _PullRequest(msgspec.Struct):
    action: str
    pull_request: Request
    repository: Repository


class _RepositoryEvent(msgspec.Struct):
    action: str
    repository: Repository


def _push(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _Push)
    commit, repository = names.commit(said.after), described(said.repository)
    if said.before == said.after:
        return Ping()  # a test delivery: it shows the head that there is
    return Push(
        repository=repository,
        ref=payloads.reference(said.ref),
        commit=commit,
        tagged=names.commit(said.head_commit.id) if said.head_commit else "",
        deleted=not commit.strip("0"),
    )


def _deletion(body: bytes | bytearray) -> Event:
    """A branch that goes is told as this, and not as a push."""
    said = payloads.decoded(body, _Deletion)
    if said.ref_type != "branch":
        return Ignored("nothing to do where a tag is deleted")
    return Push(
        repository=described(said.repository),
        ref=f"refs/heads/{payloads.branch(said.ref)}",
        commit=names.NO_COMMIT,
        deleted=True,
    )


def _pull_request(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _PullRequest)
    if said.action not in ("opened", "reopened", "synchronized", "edited", "closed"):
        return Ignored(f"nothing to do where a pull request is {said.action[:50]!r}")
    return request(said.pull_request, described(said.repository))


def _repository_event(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _RepositoryEvent)
    if said.action != "deleted":
        return Ignored(f"nothing to do where a repository is {said.action[:50]!r}")
    return RepositoryChanged(described(said.repository), RepositoryChange.DELETED)


_READ: dict[str, Callable[[bytes | bytearray], Event]] = {
    "push": _push,
    "delete": _deletion,
    "pull_request": _pull_request,
    "pull_request_sync": _pull_request,
    "repository": _repository_event,
}


def described(said: Repository) -> ForgeRepository:
    """Raises InvalidRequest: its name is none."""
    owner, name = paths.read(said.full_name)
    return ForgeRepository(
        forge="gitea",
        id=str(said.id),
        full_name=said.full_name,
        owner=owner,
        owner_id=str(said.owner.id),
        name=name,
        default_branch=payloads.known_branch(said.default_branch),
        public=not said.private and not said.internal and said.owner.visibility == "public",
    )


def request(said: Request, repository: ForgeRepository) -> PullRequest:
    """Raises InvalidRequest: what it says of commit or branch is none."""
    return PullRequest(
        repository=repository,
        number=said.number,
        title=payloads.title(said.title),
        url=payloads.web_url(said.html_url),
        commit=names.commit(said.head.sha),
        reference=f"refs/pull/{said.number}/head",
        base=payloads.branch(said.base.ref),
        head_repository=str(said.head.repo_id) if said.head.repo_id > 0 else "",
        open=said.state == "open",
        updated_at=said.updated_at or "",
    )
