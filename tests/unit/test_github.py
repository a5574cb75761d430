"""GitHub's signature and push event, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadCredentials, InvalidRequest
from forges.events import Event, Push
from forges.github import webhooks as github

GITHUB = github.GitHubWebhooks()
EXAMPLES = Path(__file__).resolve().parents[1] / "projects" / "github"
PUSHES: list[dict[str, Any]] = json.loads((EXAMPLES / "push.json").read_text())
PUSH = next(each for each in PUSHES if each["ref"] == "refs/heads/master")

# The example of GitHub's documentation, "Validating webhook deliveries".
SECRET = "It's a Secret to Everybody"
BODY = b"Hello, World!"
SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def read(body: bytes, event: str = "push") -> Event:
    return GITHUB.read({github.EVENT: event}, body)


def parse(**changes: Any) -> Push:
    push = read(json.dumps({**PUSH, **changes}).encode())
    assert isinstance(push, Push)
    return push


def named(full_name: str) -> Push:
    name = full_name.rpartition("/")[2]
    return parse(repository={**PUSH["repository"], "full_name": full_name, "name": name})


def test_the_documented_signature_is_accepted() -> None:
    GITHUB.check(SECRET, {github.SIGNATURE: SIGNATURE}, BODY)


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
        GITHUB.check(secret, {github.SIGNATURE: signature}, body)


def test_a_push_is_read() -> None:
    push = parse()
    said = push.repository
    assert (said.owner, said.name, said.full_name) == (
        "Codertocat",
        "Hello-World",
        "Codertocat/Hello-World",
    )
    assert (push.branch, said.default_branch, push.deleted) == ("master", "master", False)
    assert (said.owner_id, said.id) == ("21031067", str(PUSH["repository"]["id"]))
    assert said.public is not PUSH["repository"]["private"]
    assert push.commit == PUSH["after"]


@pytest.mark.parametrize("payload", PUSHES, ids=lambda each: each["ref"])
def test_tags_and_deletions_are_told(payload: dict[str, Any]) -> None:
    push = read(json.dumps(payload).encode())
    assert isinstance(push, Push)
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
        read(body)


def test_a_commit_must_be_one() -> None:
    for after in ("HEAD", "--upload-pack=x", "a" * 39, "A" * 40):
        with pytest.raises(InvalidRequest, match="full commit id"):
            parse(after=after)


def delivered(guid: str) -> str:
    return GITHUB.delivery({github.DELIVERY: guid})


def test_delivery_ids() -> None:
    guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    assert delivered(guid) == guid
    assert delivered("a:b") == delivered("x" * 65) == ""
