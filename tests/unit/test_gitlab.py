"""GitLab's tokens, signatures and events, without a server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

import pytest
from requests.structures import CaseInsensitiveDict

from core.errors import BadCredentials, InvalidRequest
from forges.events import (
    Event,
    Ignored,
    PullRequest,
    Push,
    RepositoryChange,
    RepositoryChanged,
)
from forges.gitlab.webhooks import GitLabWebhooks
from tests.forges.examples import Example, examples

GITLAB = GitLabWebhooks()
SECRET = "it is a secret to everybody"
KEY = b"k" * 32
SIGNING = f"whsec_{base64.b64encode(KEY).decode()}"
BODY = b'{"object_kind": "push"}'


def example(file: str, kind: str = "") -> Example:
    return next(
        each
        for each in examples("gitlab")
        if each.file == file and kind in ("", each.payload.get("event_name"))
    )


def read(file: str, **attributes: Any) -> Event:
    each = example(file)
    place = "object_attributes"
    return each.read({**each.payload, place: {**each.payload[place], **attributes}})


def signed(key: bytes = KEY, body: bytes = BODY, at: float | None = None) -> dict[str, str]:
    told = str(int(time.time() if at is None else at))
    mac = hmac.new(key, b"msg_1." + told.encode() + b"." + body, hashlib.sha256)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": told,
        "webhook-signature": f"v1,{base64.b64encode(mac.digest()).decode()}",
    }


def test_the_token_is_compared() -> None:
    GITLAB.check(SECRET, CaseInsensitiveDict({"x-gitlab-token": SECRET}), BODY)


@pytest.mark.parametrize(
    ("secret", "token"),
    [
        ("", ""),
        ("", SECRET),
        (SECRET, ""),
        (SECRET, SECRET + " "),
        (SECRET, SECRET.upper()),
        (SECRET, "é"),
        ("whsec_", "whsec_"),
    ],
)
def test_another_token_is_refused(secret: str, token: str) -> None:
    with pytest.raises(BadCredentials):
        GITLAB.check(secret, {"X-Gitlab-Token": token}, BODY)


def test_a_signed_delivery_is_accepted() -> None:
    headers = signed()
    GITLAB.check(SIGNING, headers, BODY)
    several = {**headers, "webhook-signature": f"v1,eA== {headers['webhook-signature']}"}
    GITLAB.check(SIGNING, several, bytearray(BODY))


def test_the_specifications_own_example_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the Standard Webhooks' reference libraries."""
    monkeypatch.setattr(time, "time", lambda: 1614265330.0)
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    GITLAB.check("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", headers, b'{"test": 2432232314}')


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Gitlab-Token": SIGNING},
        signed(key=b"x" * 32),
        signed(body=BODY + b" "),
        signed(at=time.time() - 1000),
        signed(at=time.time() + 1000),
        {**signed(), "webhook-timestamp": ""},
        {**signed(), "webhook-timestamp": "9" * 30},
        {**signed(), "webhook-timestamp": "-1"},
        {**signed(), "webhook-id": "msg_2"},
        {**signed(), "webhook-signature": signed()["webhook-signature"].replace("v1", "v1a")},
        {**signed(), "webhook-signature": "v1,é"},
    ],
)
def test_any_other_signature_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadCredentials):
        GITLAB.check(SIGNING, headers, BODY)


def test_a_push_is_read() -> None:
    push = example("push").read()
    assert isinstance(push, Push)
    assert (push.branch, push.deleted) == ("master", False)
    assert push.commit == "da1560886d4f094c3e6c9ef40349f7d38b5d27d7"
    there = push.repository
    assert (there.forge, there.id, there.full_name) == ("gitlab", "15", "mike/diaspora")
    assert (there.owner, there.owner_id, there.name) == ("mike", "", "diaspora")
    assert (there.default_branch, there.public) == ("master", False)


def test_groups_lie_between_owner_and_name() -> None:
    each = example("push")
    project = each.payload["project"] | {
        "path_with_namespace": "Acme/shop/back-end/fns",
        "visibility_level": 20,
        "default_branch": None,
    }
    push = each.read({**each.payload, "project": project})
    assert isinstance(push, Push)
    there = push.repository
    assert (there.owner, there.name) == ("Acme", "shop--back-end--fns")
    assert (there.full_name, there.public) == ("Acme/shop/back-end/fns", True)
    assert there.default_branch == ""


def test_a_branch_that_goes_is_told() -> None:
    each = example("push")
    push = each.read({**each.payload, "after": "0" * 40, "checkout_sha": None})
    assert isinstance(push, Push)
    assert push.deleted


def test_a_tag_is_no_branch() -> None:
    for tag in (example("tag_push").read(), example("system", "tag_push").read()):
        assert isinstance(tag, Push)
        assert (tag.ref, tag.branch) == ("refs/tags/v1.0.0", "")


def test_an_annotated_tag_tells_its_commit() -> None:
    tag = example("system", "tag_push").read()
    assert isinstance(tag, Push)
    assert tag.commit == "82b3d5ae55f7080f1e6022629cdb57bfae7cccc7", "the tag's own id"
    assert tag.tagged == "5937ac0a7beb003549fc5fd26fc247adbce4a52e"
    each = example("tag_push")
    gone = each.read({**each.payload, "after": "0" * 40, "checkout_sha": None})
    assert isinstance(gone, Push)
    assert (gone.deleted, gone.tagged) == (True, "")
    with pytest.raises(InvalidRequest):
        each.read({**each.payload, "checkout_sha": "--evil"})


def test_a_merge_request_is_read() -> None:
    request = example("merge_request").read()
    assert isinstance(request, PullRequest)
    assert (request.number, request.base, request.open) == (1, "master", True)
    assert request.reference == "refs/merge-requests/1/head"
    assert (request.repository.id, request.repository.full_name) == (
        "14",
        "awesome_space/awesome_project",
    )
    assert (request.head_repository, request.fork) == ("14", False)
    assert request.url == "http://example.com/diaspora/merge_requests/1"
    assert request.commit == "da1560886d4f094c3e6c9ef40349f7d38b5d27d7"
    assert [each for each in examples("gitlab") if isinstance(each.read(), PullRequest)][1:]


def test_a_fork_is_told_by_its_id() -> None:
    for source in (15, None):
        request = read("merge_request", source_project_id=source)
        assert isinstance(request, PullRequest)
        assert request.fork
        assert request.head_repository == ("15" if source else "")


@pytest.mark.parametrize(
    ("action", "state", "open_"),
    [
        ("update", "opened", True),
        ("reopen", "opened", True),
        ("update", "locked", True),
        ("close", "closed", False),
        ("merge", "merged", False),
    ],
)
def test_a_merge_request_that_ended_is_closed(action: str, state: str, open_: bool) -> None:
    request = read("merge_request", action=action, state=state)
    assert isinstance(request, PullRequest)
    assert request.open is open_


def test_what_changes_nothing_of_a_merge_request_is_ignored() -> None:
    assert isinstance(read("merge_request", action="approved"), Ignored)
    assert isinstance(read("merge_request", last_commit=None), Ignored)


def test_only_the_webs_addresses_are_linked() -> None:
    for url in ("javascript:alert(1)", "http://a b", "//a", "http://[", "é", "http://"):
        request = read("merge_request", url=url)
        assert isinstance(request, PullRequest)
        assert request.url == ""


@pytest.mark.parametrize(
    ("kind", "change", "full_name"),
    [
        ("project_destroy", RepositoryChange.DELETED, "jsmith/underscore"),
        ("project_rename", RepositoryChange.CHANGED, "jsmith/underscore"),
        ("project_transfer", RepositoryChange.CHANGED, "scores/underscore"),
        ("project_update", RepositoryChange.CHANGED, "jsmith/storecloud"),
    ],
)
def test_changes_of_projects_are_told(kind: str, change: RepositoryChange, full_name: str) -> None:
    event = example("system", kind).read()
    assert isinstance(event, RepositoryChanged)
    assert (event.change, event.repository.full_name) == (change, full_name)
    assert not event.repository.public


def test_a_projects_visibility_is_read() -> None:
    each = example("system", "project_update")
    event = each.read({**each.payload, "project_visibility": "public"})
    assert isinstance(event, RepositoryChanged)
    assert event.repository.public


@pytest.mark.parametrize("kind", ["project_create", "group_rename", "repository_update"])
def test_other_events_of_the_system_are_ignored(kind: str) -> None:
    event = example("system", kind).read()
    assert isinstance(event, Ignored)
    assert kind in event.why


def test_events_of_other_kinds_are_ignored() -> None:
    for headers in ({"X-Gitlab-Event": "Note Hook"}, {}):
        assert isinstance(GITLAB.read(headers, b"\xff"), Ignored)


def test_delivery_ids() -> None:
    guid = "7ef28c1a-2a3f-4d5d-9b7e-1a2b3c4d5e6f"
    assert GITLAB.delivery({"Idempotency-Key": guid}) == guid
    assert GITLAB.delivery({"X-Gitlab-Event-UUID": guid}) == ""
    assert GITLAB.delivery({"Idempotency-Key": "a:b"}) == ""
