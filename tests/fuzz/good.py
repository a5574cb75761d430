"""Requests that succeed, or fail on what is there and not on their form; and mixtures of them with
made-up ones."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from schemathesis.core import NOT_SET

from core.models import Artifacts, Release, Rollback
from forges.github import webhooks as github
from tests.integration.gateway.harness import artifact

KNOWN = "known"
"""Name of a function, a secret, a variable and a namespace that are there."""
EMPTY = "empty"
"""A namespace with nothing in it."""
CLAIMED = "claimed"
"""A namespace whose function of that name belongs to a repository."""
PROMOTED = "promoted"
"""A repository with an environment that has something to promote."""
PUBLIC = "waiting"
"""A repository that its forge shows to everybody."""
MOVED = "moved"
"""A repository with something to go back to."""
SEALING = "sealing"
"""A repository with an id, which values can be sealed for."""
CALL = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
"""Id of an asynchronous call that waits."""
LETTER = "2c5f39cb-30b2-42e3-994e-1127e4ddb538"
"""Id of one that failed for good."""
SENT, APP = "sent-to-github", "an-app-of-a-manifest"
"""State with which somebody was sent to GitHub, and the code that they come back with."""
TOKEN = "fedcba987654"
"""Id of an owner's token."""
STATE, VERIFIER, CODE = "a-state", "a-verifier", "a-code"
"""Of a sign-in that was begun with GitLab."""
HOOK = "0123456789abcdef"
"""Id of a webhook of one repository."""
ASKED = "asked"
"""A repository with a request from a fork, ``NUMBER``, that waits for approval."""
NUMBER = 5
OWNER = "https://github.com#2"
"""Who has a namespace from the admin."""
REQUEST = {"namespace": KNOWN, "repository": ASKED, "number": str(NUMBER)}
BODILESS = ("Get", "Head", "Options")
WITH_BODY = ("Post", "Put", "Patch", "Delete")
SECRET = "it is a secret to everybody"
"""Of the webhook."""
JSON = "application/json"

Parts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The parts of a request."""

    path: Parts = field(default_factory=dict)
    query: Parts = field(default_factory=dict)
    headers: Parts = field(default_factory=dict)
    body: Any = NOT_SET
    media: str | None = JSON
    anonymous: bool = False
    """Whether nobody asks, and not the admin."""


def mixed(made: Request, good: Request, chance: random.Random) -> Request:
    """Made up, or partly what is good: a made-up name is never that of something there.

    Of a webhook most are signed: nothing gets beyond a wrong signature.
    """
    how = chance.choice(("made up", "some good", "all good but one"))
    if how == "some good":
        made = _with_some(made, good, chance)
    elif how == "all good but one":
        made = _with_one(good, made, chance)
    signed = github.SIGNATURE in good.headers and made.body is not NOT_SET
    if signed and chance.random() < 0.8:
        body = made.body if isinstance(made.body, bytes) else json.dumps(made.body).encode()
        headers = {**made.headers, github.SIGNATURE: signature(body)}
        return replace(made, headers=headers, body=body, media=good.media)
    return made


def _with_some(made: Request, good: Request, chance: random.Random) -> Request:
    """``made`` with some values of ``good`` laid over it."""

    def over(below: Parts, above: Parts) -> Parts:
        return {**below, **{name: above[name] for name in above if chance.random() < 0.7}}

    body = made.body
    if isinstance(body, dict) and isinstance(good.body, dict):
        body = over(body, good.body)
    elif chance.random() < 0.5:
        body = good.body
    return Request(
        path=over(made.path, good.path),
        query=over(made.query, good.query),
        headers=over(made.headers, good.headers),
        body=body,
        media=made.media,
    )


def _with_one(good: Request, made: Request, chance: random.Random) -> Request:
    """``good`` with one value of ``made``."""
    fields = isinstance(made.body, dict) and isinstance(good.body, dict)
    parts = ("path", "query", "headers", "body") if fields else ("path", "query", "headers")
    found = [(part, name) for part in parts for name in getattr(made, part)]
    if made.body is not NOT_SET and not fields:
        found.append(("body", None))
    if not found:
        return good
    part, name = chance.choice(found)
    if name is None:
        return replace(good, body=made.body, media=made.media)
    changes: Parts = {part: {**getattr(good, part), name: getattr(made, part)[name]}}
    return replace(good, **changes)


def signature(body: bytes) -> str:
    return "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def good_requests(
    waiting: Release, building: Release, rolling: Rollback, old_key: str, cookie: str
) -> dict[str, list[Request]]:
    """Operation → requests that make each of the successes that it describes, and conflicts.
    ``cookie``: of the browser that began to sign in."""
    name, forge = {"name": KNOWN}, {"forge": "gitlab"}
    call = Request(path=name, body=b"x", media="*/*")
    below = Request(path={**name, "path": "a/b"}, body=b"x", media="*/*")
    marked = {"labels": {"openfaas": "1"}}
    built = Artifacts(commit=building.commit, functions=[_image(building)])
    found = {
        "listFunctions": Request(),
        "listSchedules": Request(query={"namespace": KNOWN}),
        "createFunction": Request(body={"service": "new", "image": "example.org/new:1"}),
        "updateFunction": Request(body={"service": KNOWN, "image": "example.org/new:1"}),
        "deleteFunction": Request(body={"functionName": KNOWN}),
        "getFunction": Request(path=name, query={"usage": "1"}),
        "whyFunction": Request(path=name),
        "scaleFunction": Request(path=name, body={"replicas": 2}),
        "alert": Request(
            body={"alerts": [{"status": "firing", "labels": {"function_name": KNOWN}}]}
        ),
        "logs": Request(query={**name, "tail": 2}),
        "listSecrets": Request(),
        "createSecret": Request(body={"name": "new", "value": "v"}),
        "updateSecret": Request(body={"name": KNOWN, "value": "v"}),
        "deleteSecret": Request(body={"name": KNOWN}),
        "getSealingAddress": Request(query={"namespace": KNOWN, "repository": SEALING}),
        "deleteSealingKey": Request(path={"id": old_key}),
        "listNamespaces": Request(),
        "createNamespace": Request(body={"name": "new", **marked}),
        "createNamedNamespace": Request(path={"name": "new"}, body={"name": "new", **marked}),
        "getNamespace": Request(path=name),
        "updateNamespace": Request(path=name, body={**name, **marked}),
        "deleteNamespace": Request(path={"name": EMPTY}),
        "getVariables": Request(query={"namespace": KNOWN}),
        "setVariables": Request(body={"namespace": KNOWN, "variables": {"NEW": "v"}}),
        "deleteVariable": Request(query={"namespace": KNOWN, **name}),
        "listReleases": Request(query={"namespace": KNOWN, "limit": 1}),
        "startRelease": Request(body={"namespace": KNOWN, "repository": KNOWN}),
        "getRelease": Request(path={"id": waiting.id}),
        "cancelRelease": Request(path={"id": waiting.id}),
        "releaseLogs": Request(path={"id": building.id}),
        "privateReleasePage": Request(path={"id": building.id}),
        "releasePage": Request(path={"id": waiting.id}),
        "releaseLogText": Request(path={"id": waiting.id}),
        "badge": Request(path={"namespace": KNOWN, "repository": PUBLIC}),
        "putArtifacts": Request(
            path={"id": building.id}, body=json.loads(msgspec.json.encode(built))
        ),
        "rollBack": Request(body={"namespace": KNOWN, "repository": MOVED}),
        "promote": Request(body={"namespace": KNOWN, "repository": PROMOTED}),
        "listRollbacks": Request(query={"namespace": KNOWN, "repository": rolling.repository}),
        "getRollback": Request(path={"id": rolling.id}),
        "prune": Request(body={"dryRun": True}),
        **{f"call{method}": Request(path=name) for method in BODILESS},
        **{f"call{method}": call for method in WITH_BODY},
        **{f"callBelow{method}": Request(path=below.path) for method in BODILESS},
        **{f"callBelow{method}": below for method in WITH_BODY},
        "callLater": call,
        "callLaterBelow": below,
        "readLater": Request(path={"name": CALL}),
        "cancelLater": Request(path={"name": CALL}),
        "listDeadLetters": Request(query={"function": KNOWN, "limit": 5}),
        "getDeadLetter": Request(path={"id": LETTER}),
        "replayDeadLetter": Request(path={"id": LETTER}),
        "replayDeadLetters": Request(query={"function": KNOWN}),
        "removeDeadLetter": Request(path={"id": LETTER}),
        "setUpGitHub": Request(query={"organization": "acme"}),
        "gitHubIsSetUp": Request(query={"state": SENT, "code": APP}),
        "getOwnerPolicy": Request(path=name),
        "listTokens": Request(),
        "createToken": Request(body={"namespace": KNOWN, "scopes": ["read"]}),
        "revokeToken": Request(path={"id": TOKEN}),
        "beginLogin": Request(path=forge, query={"next": "/system/functions"}),
        "finishLogin": Request(
            path=forge, query={"state": STATE, "code": CODE}, headers={"Cookie": cookie}
        ),
        "listHooks": Request(),
        "createHook": Request(body={"forge": "github", "repository": "ann/fns"}),
        "deleteHook": Request(path={"id": HOOK}),
        "listOwners": Request(),
        "listPreviews": Request(query={"namespace": KNOWN}),
        "approvePreview": Request(path=REQUEST, body={"commit": "a" * 40}),
        "linkOwner": Request(body={"owner": OWNER, "namespace": KNOWN}),
        "unlinkOwner": Request(body={"owner": OWNER}),
    }
    others = {
        "privateReleasePage": Request(path={"id": building.id}, anonymous=True),
        "releasePage": Request(path={"id": building.id}),
        "releaseLogText": Request(path={"id": building.id}),
        "approvePreview": Request(path=REQUEST, body={"commit": "b" * 40}),
        "createFunction": Request(body={"service": KNOWN, "image": "example.org/new:1"}),
        "updateFunction": Request(
            body={"service": KNOWN, "image": "example.org/new:1", "namespace": CLAIMED}
        ),
        "deleteFunction": Request(body={"functionName": KNOWN, "namespace": CLAIMED}),
        "createSecret": Request(body={"name": KNOWN, "value": "v"}),
        "readLater": Request(path={"name": LETTER}, query={"raw": "1"}),
        "cancelLater": Request(path={"name": LETTER}),
        "getDeadLetter": Request(path={"id": LETTER}, query={"raw": "1"}),
        "replayDeadLetter": Request(path={"id": CALL}),
        "createNamespace": Request(body={"name": KNOWN, **marked}),
        "deleteNamespace": Request(path=name),
        "cancelRelease": Request(path={"id": building.id}),
        "rollBack": Request(body={"namespace": KNOWN, "repository": rolling.repository}),
        "putArtifacts": Request(
            path={"id": waiting.id}, body=json.loads(msgspec.json.encode(built))
        ),
    }
    return {
        **{id_: [each] for id_, each in found.items()},
        **{id_: [found[id_], each] for id_, each in others.items()},
        "event": _events(),
        "eventOfHook": _events(hook=HOOK),
    }


def _image(release: Release) -> Any:
    made = artifact(release, "built")
    image = f"sha256:{'0' * 64}"
    spec = msgspec.structs.replace(made.spec, artifact=image)
    return msgspec.structs.replace(made, artifact=image, spec=spec)


def _events(**more: str) -> list[Request]:
    push = {
        "ref": "refs/heads/main",
        "after": "a" * 40,
        "deleted": False,
        "repository": {
            "id": 1,
            "name": "fns",
            "full_name": "ann/fns",
            "default_branch": "main",
            "owner": {"id": 2, "login": "ann"},
        },
    }
    body = json.dumps(push).encode()
    return [
        Request(
            path={"forge": "github", **more},
            headers={github.SIGNATURE: signature(body), github.EVENT: event},
            body=body,
            media="*/*",
        )
        for event in ("push", "ping")
    ]
