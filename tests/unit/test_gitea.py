"""Gitea's and Forgejo's signatures and events, without a server."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from requests.structures import CaseInsensitiveDict

from core.errors import BadCredentials, InvalidRequest
from forges.events import Ignored, Ping, PullRequest, Push, RepositoryChange, RepositoryChanged
from forges.gitea.webhooks import GiteaWebhooks
from tests.forges.examples import Example, examples

GITEA = GiteaWebhooks()
SECRET = "it is a secret to everybody"
BODY = b'{"ref": "refs/heads/main"}'
SIGNATURE = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()


def example(file: str, action: str = "") -> Example:
    return next(
        each
        for each in examples("gitea")
        if each.file == file and action in ("", each.payload.get("action"))
    )


def pushed(**repository: Any) -> Push:
    each = example("push")
    push = each.read({**each.payload, "repository": {**each.payload["repository"], **repository}})
    assert isinstance(push, Push)
    return push


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Gitea-Signature": SIGNATURE},
        {"x-forgejo-signature": SIGNATURE},
        {"X-Hub-Signature-256": f"sha256={SIGNATURE}"},
        {"X-Gitea-Signature": "", "X-Forgejo-Signature": SIGNATURE},
    ],
)
def test_a_signed_delivery_is_accepted(headers: dict[str, str]) -> None:
    GITEA.check(SECRET, CaseInsensitiveDict(headers), BODY)


@pytest.mark.parametrize(
    ("secret", "body", "signature"),
    [
        ("", BODY, SIGNATURE),
        ("", BODY, ""),
        (SECRET, BODY, ""),
        (SECRET, BODY + b"\n", SIGNATURE),
        (SECRET + " ", BODY, SIGNATURE),
        (SECRET, BODY, SIGNATURE.upper()),
        (SECRET, BODY, SIGNATURE[:-2]),
        (SECRET, BODY, SIGNATURE + "00"),
        (SECRET, BODY, f"sha1={SIGNATURE}"),
        (SECRET, BODY, "é"),
    ],
)
def test_anything_else_is_refused(secret: str, body: bytes, signature: str) -> None:
    with pytest.raises(BadCredentials):
        GITEA.check(secret, {"X-Gitea-Signature": signature}, body)


def test_a_push_is_read() -> None:
    push = pushed()
    assert (push.branch, push.commit) == ("develop", "bffeb74224043ba2feb48d137756c8a9331c449a")
    there = push.repository
    assert (there.forge, there.id, there.full_name) == ("gitea", "140", "gitea/webhooks")
    assert (there.owner, there.owner_id, there.name) == ("gitea", "1", "webhooks")
    assert (there.default_branch, there.public) == ("main", True)


def test_an_annotated_tag_tells_its_commit() -> None:
    each = example("push")
    commit = each.payload["commits"][0]
    tag = {"ref": "refs/tags/promote/production/1", "after": "d" * 40}
    push = each.read({**each.payload, **tag, "head_commit": commit})
    assert isinstance(push, Push)
    assert (push.commit, push.tagged) == ("d" * 40, commit["id"])
    silent = each.read({**each.payload, **tag, "head_commit": None})
    assert isinstance(silent, Push)
    assert silent.tagged == ""
    with pytest.raises(InvalidRequest):
        each.read({**each.payload, **tag, "head_commit": {"id": "HEAD"}})


def test_only_what_everybody_sees_is_public() -> None:
    owner = example("push").payload["repository"]["owner"]
    assert pushed(owner={**owner, "visibility": "public"}).repository.public
    for hidden in (
        {"private": True},
        {"internal": True},
        {"owner": {**owner, "visibility": "limited"}},
        {"owner": {**owner, "visibility": "private"}},
    ):
        assert not pushed(**hidden).repository.public


def test_a_test_delivery_is_a_ping() -> None:
    """Gitea sends a push from a commit to itself, of an empty repository from zeros to zeros."""
    each = example("push")
    for commit in ("a" * 40, "0" * 40):
        assert isinstance(each.read({**each.payload, "before": commit, "after": commit}), Ping)


def test_a_branch_that_goes_is_told() -> None:
    branch, tag = (each.read() for each in examples("gitea") if each.file == "delete")
    assert isinstance(branch, Push)
    assert (branch.branch, branch.deleted, branch.commit) == ("feature", True, "0" * 40)
    assert isinstance(tag, Ignored)


def test_a_pull_request_is_read() -> None:
    request = example("pull_request", "opened").read()
    assert isinstance(request, PullRequest)
    assert (request.number, request.base, request.open, request.fork) == (2, "main", True, False)
    assert request.reference == "refs/pull/2/head"
    assert request.url == "http://localhost:3000/gitea/webhooks/pulls/2"
    assert request.title == "Huge improvements"


def test_forks_are_told_by_their_ids() -> None:
    request = example("pull_request", "synchronized").read()
    assert isinstance(request, PullRequest)
    assert (request.fork, request.head_repository, request.open) == (True, "141", True)
    request = example("pull_request", "closed").read()
    assert isinstance(request, PullRequest)
    assert (request.fork, request.head_repository, request.open) == (True, "", False)


def test_a_repository_that_is_deleted_is_told() -> None:
    event = example("repository", "deleted").read()
    assert isinstance(event, RepositoryChanged)
    assert event.change is RepositoryChange.DELETED


def test_other_events_are_ignored() -> None:
    assert isinstance(example("pull_request", "assigned").read(), Ignored)
    assert isinstance(example("repository", "created").read(), Ignored)
    for headers in ({"X-Gitea-Event": "fork"}, {}):
        assert isinstance(GITEA.read(headers, b"\xff"), Ignored)


def test_forgejos_own_header_tells_the_event() -> None:
    with pytest.raises(InvalidRequest):
        GITEA.read({"X-Forgejo-Event": "push"}, b"{}")


def test_delivery_ids() -> None:
    guid = "f6266f16-1bf3-46a5-9ea4-602e06ead473"
    assert GITEA.delivery({"X-Gitea-Delivery": guid}) == guid
    assert GITEA.delivery({"X-Forgejo-Delivery": guid}) == guid
    assert GITEA.delivery({"X-Gitea-Delivery": "a:b"}) == ""
