"""GitLab's webhooks: token or signature, and what events of projects and of the whole system say.

Source of the formats: GitLab's documentation "Webhooks", "Webhook events" and "System hooks"; of
the signature the specification "Standard Webhooks", which GitLab follows where a hook has a
signing token. Events name a project's groups, but not their ids: ``Forge.describe`` tells these.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
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
    PullRequest,
    Push,
    RepositoryChange,
    RepositoryChanged,
)

TOKEN = "X-Gitlab-Token"
EVENT = "X-Gitlab-Event"
DELIVERY = "Idempotency-Key"
"""``X-Gitlab-Event-UUID`` is no delivery's id: events that follow from one another share it."""
SIGNATURE, SIGNED_ID, SIGNED_AT = "webhook-signature", "webhook-id", "webhook-timestamp"
SETTING = "SLIPWAY_GITLAB_WEBHOOK_SECRET"
SIGNING_TOKEN = "whsec_"
"""What a signing token begins with; a secret token is sent as it is."""
SIGNED_SECONDS = 300.0
"""How far our clocks may be apart, and how long a delivery may be on its way."""

_DELIVERY = re.compile(r"[-0-9A-Za-z]{1,64}")
_MAX_SIGNATURES = 10
_PUBLIC = 20
"""The ``visibility_level`` of projects that are shown to everybody."""


class GitLabWebhooks:
    """See ``forges.Webhooks``."""

    name = "gitlab"
    setting = SETTING

    def check_configured(self, secret: str, headers: Mapping[str, str]) -> None:
        if not secret:
            raise BadCredentials(
                f"webhooks of GitLab are refused: no secret is set; set {SETTING} to the secret "
                "token or the signing token of the webhook"
            )
        kind = "signing" if secret.startswith(SIGNING_TOKEN) else "secret"
        header = SIGNATURE if kind == "signing" else TOKEN
        if not headers.get(header):
            raise BadCredentials(
                f"the header {header} is missing: give the webhook at GitLab a {kind} token, the "
                f"same as {SETTING}"
            )

    def check(self, secret: str, headers: Mapping[str, str], body: bytes | bytearray) -> None:
        """A secret token is compared; by a signing token the body must be signed, recently."""
        self.check_configured(secret, headers)
        if secret.startswith(SIGNING_TOKEN):
            _check_signature(_key(secret), headers, body)
        elif not same_secret(headers.get(TOKEN, ""), secret):
            raise BadCredentials(
                f"the token in {TOKEN} is another one: is the secret token of the webhook the same "
                f"as {SETTING}?"
            )

    def read(self, headers: Mapping[str, str], body: bytes | bytearray) -> Event:
        kind = _KINDS.get(headers.get(EVENT, ""), "")
        if kind == "system":
            said = payloads.decoded(body, _Kind)
            kind = said.event_name or said.object_kind
        if kind not in _READ:
            return Ignored(f"nothing to do for the event {(kind or headers.get(EVENT, ''))[:50]!r}")
        return _READ[kind](body)

    def delivery(self, headers: Mapping[str, str]) -> str:
        given = headers.get(DELIVERY, "")
        return given if _DELIVERY.fullmatch(given) else ""


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SIGNING_TOKEN), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise BadCredentials(
            f"webhooks of GitLab are refused: {SETTING} begins like a signing token, but what "
            f"follows {SIGNING_TOKEN} is not Base64; copy it once more"
        )
    return key


def _check_signature(key: bytes, headers: Mapping[str, str], body: bytes | bytearray) -> None:
    """``v1,<Base64 of HMAC-SHA-256 over "id.time.body">``, one of several with a space between."""
    told = headers.get(SIGNED_AT, "")
    if not re.fullmatch(r"[0-9]{1,12}", told) or abs(time.time() - int(told)) > SIGNED_SECONDS:
        raise BadCredentials(
            f"the delivery was signed at another time than now ({SIGNED_AT}): it is an old one, or "
            "a clock is wrong"
        )
    mac = hmac.new(key, f"{headers.get(SIGNED_ID, '')}.{told}.".encode(), hashlib.sha256)
    mac.update(body)
    expected = f"v1,{base64.b64encode(mac.digest()).decode()}"
    given = headers.get(SIGNATURE, "").split()[:_MAX_SIGNATURES]
    if not any(same_secret(each, expected) for each in given):
        raise BadCredentials(
            f"the signature in {SIGNATURE} is not of this body: is the signing token of the "
            f"webhook the same as {SETTING}?"
        )


class _Kind(msgspec.Struct):
    event_name: str = ""
    object_kind: str = ""


class _Project(msgspec.Struct):
    path_with_namespace: str
    default_branch: str | None = None
    visibility_level: int = 0


class _Push(msgspec.Struct):
    ref: str
    after: str
    project_id: payloads.Id
    project: _Project
    checkout_sha: str | None = None
    """The commit, also where ``after`` is an annotated tag; null where the reference is gone."""


class _Commit(msgspec.Struct):
    id: str


class _Attributes(msgspec.Struct):
    iid: payloads.Number
    state: str
    target_project_id: payloads.Id
    target_branch: str
    target: _Project
    source_project_id: payloads.Id | None = None
    """Null: the fork was deleted."""
    last_commit: _Commit | None = None
    title: str = ""
    url: str = ""
    action: str = ""
    updated_at: str | None = None


class _MergeRequest(msgspec.Struct):
    object_attributes: _Attributes


class _ProjectEvent(msgspec.Struct):
    event_name: str
    project_id: payloads.Id
    path_with_namespace: str
    project_visibility: str = ""


def _push(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _Push)
    return Push(
        repository=_repository(said.project_id, said.project),
        ref=payloads.reference(said.ref),
        commit=names.commit(said.after),
        tagged=names.commit(said.checkout_sha) if said.checkout_sha else "",
        deleted=not said.after.strip("0"),
    )


def _merge_request(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _MergeRequest).object_attributes
    if said.action not in ("open", "reopen", "update", "close", "merge"):
        return Ignored(f"nothing to do where the action is {said.action[:50]!r}")
    if said.last_commit is None:
        return Ignored("the merge request has no commit yet")
    return PullRequest(
        repository=_repository(said.target_project_id, said.target),
        number=said.iid,
        title=payloads.title(said.title),
        url=payloads.web_url(said.url),
        commit=names.commit(said.last_commit.id),
        reference=reference(said.iid),
        base=payloads.branch(said.target_branch),
        head_repository=str(said.source_project_id or ""),
        open=is_open(said.state),
        updated_at=said.updated_at or "",
    )


def _project_event(body: bytes | bytearray) -> Event:
    said = payloads.decoded(body, _ProjectEvent)
    gone = said.event_name == "project_destroy"
    project = _Project(
        said.path_with_namespace,
        visibility_level=_PUBLIC if said.project_visibility == "public" else 0,
    )
    return RepositoryChanged(
        repository=_repository(said.project_id, project),
        change=RepositoryChange.DELETED if gone else RepositoryChange.CHANGED,
    )


_KINDS = {
    "Push Hook": "push",
    "Tag Push Hook": "push",
    "Merge Request Hook": "merge_request",
    "System Hook": "system",
    "Project Hook": "system",
}
"""Kind of event by header; events of a group's projects are written as the system's."""
_READ: dict[str, Callable[[bytes | bytearray], Event]] = {
    "push": _push,
    "tag_push": _push,
    "merge_request": _merge_request,
    **dict.fromkeys(
        ("project_destroy", "project_rename", "project_transfer", "project_update"), _project_event
    ),
}


def reference(iid: int) -> str:
    """Where the project itself has the head of a merge request."""
    return f"refs/merge-requests/{iid}/head"


def is_open(state: str) -> bool:
    """Of a merge request; ``locked`` it is while it is being merged."""
    return state in ("opened", "locked")


def _repository(id_: int, said: _Project) -> ForgeRepository:
    owner, name = paths.read(said.path_with_namespace, groups=True)
    return ForgeRepository(
        forge="gitlab",
        id=str(id_),
        full_name=said.path_with_namespace,
        owner=owner,
        owner_id="",
        name=name,
        default_branch=payloads.known_branch(said.default_branch),
        public=said.visibility_level == _PUBLIC,
    )
