"""GitHub's webhooks: the signature, and what its events say.

Source of the formats: GitHub's documentation "Validating webhook deliveries" and "Webhook events
and payloads". Nothing of a payload is trusted but who sent it: which commit is released and from
where it is fetched is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping

import msgspec

from core import names
from core.errors import BadCredentials, InvalidRequest
from core.signing import same_secret
from forges import paths, payloads
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

SIGNATURE = "X-Hub-Signature-256"
EVENT = "X-GitHub-Event"
DELIVERY = "X-GitHub-Delivery"
SETTING = "SLIPWAY_GITHUB_WEBHOOK_SECRET"

_LOGIN = re.compile(r"[A-Za-z0-9](?:[-_A-Za-z0-9]{0,98}[-_A-Za-z0-9])?")
_DELIVERY = re.compile(r"[-0-9A-Za-z]{1,64}")
_MAX_REPOSITORIES = 10_000
"""Of one installation event."""


class GitHubWebhooks:
    """See ``forges.Webhooks``."""

    name = "github"
    setting = SETTING

    def check_configured(self, secret: str, headers: Mapping[str, str]) -> None:
        if not secret:
            raise BadCredentials(
                f"webhooks of GitHub are refused: no secret is set; set {SETTING} to the secret of "
                "the webhook, or make an App at /setup/github"
            )
        if not headers.get(SIGNATURE):
            raise BadCredentials(
                f"the header {SIGNATURE} is missing: give the webhook at GitHub a secret, the same "
                f"as {SETTING}"
            )

    def check(self, secret: str, headers: Mapping[str, str], body: bytes | bytearray) -> None:
        """``sha256=<hex HMAC-SHA-256 of the raw body>``."""
        self.check_configured(secret, headers)
        kind, _, given = headers.get(SIGNATURE, "").partition("=")
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if kind != "sha256" or not same_secret(given, digest):
            raise BadCredentials(
                f"the signature in {SIGNATURE} is not of this body: is the secret of the webhook "
                f"the same as {SETTING}?"
            )

    def read(self, headers: Mapping[str, str], body: bytes | bytearray) -> Event:
        kind = headers.get(EVENT, "")
        if kind == "ping":
            return Ping()
        if kind not in _READ:
            return Ignored(f"nothing to do for the event {kind[:50]!r}")
        return _READ[kind](body)

    def delivery(self, headers: Mapping[str, str]) -> str:
        given = headers.get(DELIVERY, "")
        return given if _DELIVERY.fullmatch(given) else ""


class _Owner(msgspec.Struct):
    id: payloads.Id
    login: str = ""


class _Repository(msgspec.Struct):
    id: payloads.Id
    name: str
    full_name: str
    owner: _Owner
    default_branch: str = ""
    private: bool = True


class _Installation(msgspec.Struct):
    id: payloads.Id


class _Listed(msgspec.Struct):
    """A repository as installation events list it."""

    id: payloads.Id
    full_name: str
    private: bool = True


class _Account(_Installation):
    account: _Owner


class _Commit(msgspec.Struct):
    id: str


class _Push(msgspec.Struct):
    ref: str
    after: str
    repository: _Repository
    head_commit: _Commit | None = None
    """Of what was pushed; null where that was deleted."""
    deleted: bool = False
    installation: _Installation | None = None


class _Side(msgspec.Struct):
    ref: str
    sha: str
    repo: _Installation | None = None
    """Only its id counts; null where a fork was deleted."""


class _Request(msgspec.Struct):
    number: payloads.Number
    state: str
    head: _Side
    base: _Side
    title: str = ""
    html_url: str = ""
    updated_at: str = ""


class _PullRequest(msgspec.Struct):
    action: str
    pull_request: _Request
    repository: _Repository
    installation: _Installation | None = None


class _RepositoryEvent(msgspec.Struct):
    action: str
    repository: _Repository
    installation: _Installation | None = None


class _InstallationEvent(msgspec.Struct):
    action: str
    installation: _Account
    repositories: list[_Listed] = msgspec.field(default_factory=list)
    repositories_added: list[_Listed] = msgspec.field(default_factory=list)
    repositories_removed: list[_Listed] = msgspec.field(default_factory=list)


def _push(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _Push)
    return Push(
        repository=_repository(said.repository),
        ref=payloads.reference(said.ref),
        commit=names.commit(said.after),
        tagged=names.commit(said.head_commit.id) if said.head_commit else "",
        deleted=said.deleted or not said.after.strip("0"),
        installation=_id(said.installation),
    )


def _pull_request(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _PullRequest)
    request = said.pull_request
    if said.action not in ("opened", "reopened", "synchronize", "closed", "edited"):
        return Ignored(f"nothing to do where a pull request is {said.action[:50]!r}")
    return PullRequest(
        repository=_repository(said.repository),
        number=request.number,
        title=payloads.title(request.title),
        url=payloads.web_url(request.html_url),
        commit=names.commit(request.head.sha),
        reference=f"refs/pull/{request.number}/head",
        base=payloads.branch(request.base.ref),
        head_repository=_id(request.head.repo),
        open=request.state == "open",
        installation=_id(said.installation),
        updated_at=request.updated_at,
    )


def _changed(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _RepositoryEvent)
    change = {"deleted": RepositoryChange.DELETED} | dict.fromkeys(
        ("renamed", "transferred", "privatized", "publicized", "edited"), RepositoryChange.CHANGED
    )
    if said.action not in change:
        return Ignored(f"nothing to do where a repository is {said.action[:50]!r}")
    return RepositoryChanged(
        repository=_repository(said.repository),
        change=change[said.action],
        installation=_id(said.installation),
    )


def _installation(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _InstallationEvent)
    account = said.installation.account
    listed = said.repositories + said.repositories_added + said.repositories_removed
    if len(listed) > _MAX_REPOSITORIES:
        raise InvalidRequest(f"{len(listed)} repositories in one event are more than is read")
    uninstalled = said.action in ("deleted", "suspend")
    if not uninstalled and said.action not in ("created", "unsuspend", "added", "removed"):
        return Ignored(f"nothing to do where an installation is {said.action[:50]!r}")
    added = [] if uninstalled else said.repositories + said.repositories_added
    return InstallationChanged(
        installation=_id(said.installation),
        owner=_login(account.login),
        owner_id=str(account.id),
        added=tuple(_listed(each, account) for each in added),
        removed=tuple(str(each.id) for each in said.repositories_removed),
        uninstalled=uninstalled,
    )


_READ: dict[str, Callable[[bytes | bytearray], Event]] = {
    "push": _push,
    "pull_request": _pull_request,
    "repository": _changed,
    "installation": _installation,
    "installation_repositories": _installation,
}


def _repository(said: _Repository) -> ForgeRepository:
    owner, name = _split(said.full_name)
    if said.full_name.partition("/")[2] != said.name:
        raise _no_name(said.full_name)
    return ForgeRepository(
        forge="github",
        id=str(said.id),
        full_name=said.full_name,
        owner=owner,
        owner_id=str(said.owner.id),
        name=name,
        default_branch=payloads.known_branch(said.default_branch),
        public=not said.private,
    )


def _listed(said: _Listed, account: _Owner) -> ForgeRepository:
    owner, name = _split(said.full_name)
    return ForgeRepository(
        forge="github",
        id=str(said.id),
        full_name=said.full_name,
        owner=owner,
        owner_id=str(account.id),
        name=name,
        public=not said.private,
    )


def _split(full_name: str) -> tuple[str, str]:
    """(owner, name); raises InvalidRequest where it is not the full name of a repository."""
    owner, name = paths.read(full_name)
    return _login(owner, full_name), name


def _login(login: str, shown: str = "") -> str:
    if not _LOGIN.fullmatch(login):
        raise _no_name(shown or login)
    return login


def _no_name(shown: str) -> InvalidRequest:
    return InvalidRequest(f"{shown[:100]!r} is not the full name of a repository (owner/name)")


def _id(said: _Installation | None) -> str:
    return str(said.id) if said else ""
