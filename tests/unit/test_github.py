"""GitHub's signature and push event, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadCredentials, InvalidRequest
from forges.github import webhooks as github

EXAMPLES = Path(__file__).resolve().parents[1] / "projects" / "github"
PUSHES: list[dict[str, Any]] = json.loads((EXAMPLES / "push.json").read_text())
PUSH = next(each for each in PUSHES if each["ref"] == "refs/heads/master")

# The example of GitHub's documentation, "Validating webhook deliveries".
SECRET = "It's a Secret to Everybody"
BODY = b"Hello, World!"
SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def parse(**changes: Any) -> github.Push:
    return github.parse_push(json.dumps({**PUSH, **changes}).encode())


def named(full_name: str) -> github.Push:
    name = full_name.rpartition("/")[2]
    return parse(repository={**PUSH["repository"], "full_name": full_name, "name": name})


def test_the_documented_signature_is_accepted() -> None:
    github.check_signature(SECRET, BODY, SIGNATURE)


@pytest.mark.parametrize(
    ("secret", "body", "signature"),
    [
        ("", BODY, SIGNATURE),
        (SECRET, BODY, ""),
        (SECRET, BODY + b"\n", SIGNATURE),
        (SECRET + " ", BODY, SIGNATURE),
        (SECRET, BODY, SIGNATURE.upper()),
        (SECRET, BODY, SIGNATURE[:-2]),
        (SECRET, BODY, SIGNATURE + "00"),
        (SECRET, BODY, SIGNATURE.removeprefix("sha256=")),
        (SECRET, BODY, SIGNATURE.replace("sha256", "sha1")),
        (SECRET, BODY, "sha256=é"),
    ],
)
def test_anything_else_is_refused(secret: str, body: bytes, signature: str) -> None:
    with pytest.raises(BadCredentials):
        github.check_signature(secret, body, signature)


def test_a_push_is_read() -> None:
    push = parse()
    assert (push.owner, push.name, push.full_name) == (
        "Codertocat",
        "Hello-World",
        "Codertocat/Hello-World",
    )
    assert (push.branch, push.default_branch, push.deleted) == ("master", "master", False)
    assert (push.owner_id, push.repository_id) == (21031067, PUSH["repository"]["id"])
    assert push.commit == PUSH["after"]


@pytest.mark.parametrize("payload", PUSHES, ids=lambda each: each["ref"])
def test_tags_and_deletions_are_told(payload: dict[str, Any]) -> None:
    push = github.parse_push(json.dumps(payload).encode())
    assert bool(push.branch) is payload["ref"].startswith("refs/heads/")
    assert push.deleted is payload["deleted"]


@pytest.mark.parametrize(
    "full_name",
    ["a/b/c", "a", "/b", "a/", "../b", "a/..", "a b/c", "a/b.git", "-a/b", "a/b\n", "a/é", "a:b/c"],
)
def test_a_name_that_is_none_is_refused(full_name: str) -> None:
    with pytest.raises(InvalidRequest):
        named(full_name)


def test_a_full_name_must_be_of_the_repository() -> None:
    with pytest.raises(InvalidRequest, match="full name"):
        parse(repository={**PUSH["repository"], "full_name": "Codertocat/Other"})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"ref": "x"}', b"\xff", b"payload=%7B%7D", b"[" * 100_000]
)
def test_what_is_no_push_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        github.parse_push(body)


def test_a_commit_must_be_one() -> None:
    for after in ("HEAD", "--upload-pack=x", "a" * 39, "A" * 40):
        with pytest.raises(InvalidRequest, match="full commit id"):
            parse(after=after)


def test_delivery_ids() -> None:
    guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    assert github.delivery_id(guid) == guid
    assert github.delivery_id("a:b") == github.delivery_id("x" * 65) == ""
