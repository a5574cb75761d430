"""Hooks of single repositories, owners' namespaces, and events that say what is not known."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from typing import Any

import pytest
import requests

from core.models import Repository
from core.store import Store
from core.store.forges import MAX_LOOKS, Look
from tests.integration.gateway.harness import Gateway

HUB = "https://github.com"


def repository(id_: int = 10, full_name: str = "Ann/fns", owner: int = 2, **more: Any) -> Any:
    login, _, name = full_name.partition("/")
    return {
        "id": id_,
        "name": name,
        "full_name": full_name,
        "private": False,
        "default_branch": "main",
        "owner": {"id": owner, "login": login},
        **more,
    }


def push(said: Any, commit: str = "a" * 40, branch: str = "main") -> Any:
    return {"ref": f"refs/heads/{branch}", "after": commit, "repository": said}


def send(
    gateway: Gateway, hook: dict[str, str], payload: Any, event: str = "push", secret: str = ""
) -> requests.Response:
    body = json.dumps(payload).encode()
    digest = hmac.new((secret or hook["secret"]).encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": f"sha256={digest}",
    }
    path = f"/webhooks/github/{hook['id']}"
    return gateway.anonymous("POST", path, data=body, headers=headers)


def hook_for(gateway: Gateway, full_name: str = "Ann/fns") -> dict[str, str]:
    wanted = {"forge": "github", "repository": full_name}
    answer = gateway.call("POST", "/system/hooks", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.fixture
def hook(gateway: Gateway, store: Store) -> dict[str, str]:
    store.ping()  # emptied first
    return hook_for(gateway)


def test_a_hook_speaks_for_its_repository(
    gateway: Gateway, store: Store, hook: dict[str, str]
) -> None:
    assert hook["url"].endswith(f"/webhooks/github/{hook['id']}")
    answer = send(gateway, hook, push(repository()))
    assert answer.status_code == 202
    assert store.release(answer.json()["release"]).namespace == "ann"
    listed = gateway.call("GET", "/system/hooks").json()
    assert [(each["id"], each["bound"]) for each in listed] == [(hook["id"], True)]
    assert hook["secret"] not in gateway.call("GET", "/system/hooks").text
    assert hook["secret"].encode() not in b"".join(store.redis.hgetall("slipway:hooks").values()), (
        "sealed"
    )


def test_and_for_no_other(gateway: Gateway, store: Store, hook: dict[str, str]) -> None:
    assert send(gateway, hook, push(repository())).status_code == 202
    for other in (repository(11), repository(11, "Bob/fns", 3), repository(11, "Ann/other")):
        answer = send(gateway, hook, push(other))
        assert (answer.status_code, "that repository alone" in answer.text) == (403, True)
    assert len(store.releases()) == 1
    installation = {
        "action": "created",
        "installation": {"id": 1, "account": {"id": 3, "login": "Bob"}},
        "repositories": [{"id": 12, "full_name": "Bob/fns"}],
    }
    answer = send(gateway, hook, installation, "installation")
    assert answer.status_code == 403
    assert store.looks() == []


def test_another_secret_opens_no_hook(gateway: Gateway, store: Store, hook: dict[str, str]) -> None:
    other = hook_for(gateway, "Bob/fns")
    assert send(gateway, hook, push(repository()), secret=other["secret"]).status_code == 401
    assert send(gateway, {**hook, "id": "f" * 16}, push(repository())).status_code == 401
    assert gateway.call("DELETE", f"/system/hooks/{hook['id']}").status_code == 202
    assert send(gateway, hook, push(repository())).status_code == 401
    assert gateway.call("DELETE", f"/system/hooks/{hook['id']}").status_code == 404
    assert store.releases() == []


def test_what_an_event_says_anew_is_asked_of_the_forge(
    gateway: Gateway, store: Store, hook: dict[str, str]
) -> None:
    assert send(gateway, hook, push(repository())).status_code == 202
    for number, said in enumerate(
        (
            repository(full_name="Ann/renamed"),
            repository(full_name="Bob/fns", owner=3),
            repository(private=True),
            repository(default_branch="trunk"),
        )
    ):
        answer = send(gateway, hook, push(said, f"{number}" * 40))
        assert (answer.status_code, "is asked for" in answer.text) == (202, True), said
    assert len(store.releases()) == 1
    known = store.repository("ann", "fns")
    assert (known.full_name, known.public, known.deploy_branch) == ("Ann/fns", True, "main")


def test_a_deletion_is_asked_about(gateway: Gateway, store: Store, hook: dict[str, str]) -> None:
    deleted = {"action": "deleted", "repository": repository()}
    answer = send(gateway, hook, deleted, "repository")
    assert "nothing of Ann/fns is here" in answer.text
    assert send(gateway, hook, push(repository())).status_code == 202
    assert "is asked for" in send(gateway, hook, deleted, "repository").text
    assert not store.repository("ann", "fns").gone


def test_two_logins_that_are_one_in_lower_case(gateway: Gateway, store: Store) -> None:
    first, second = hook_for(gateway, "Ann/fns"), hook_for(gateway, "ANN/fns")
    assert send(gateway, first, push(repository())).status_code == 202
    answer = send(gateway, second, push(repository(11, "ANN/more", 9)))
    assert answer.status_code == 409
    assert f"slipway owner link {HUB}#9 ann" in answer.text
    linked = {"owner": f"{HUB}#9", "namespace": "ann"}
    assert gateway.call("PUT", "/system/owners", json=linked).status_code == 202
    assert send(gateway, second, push(repository(11, "ANN/more", 9))).status_code == 202
    assert gateway.call("GET", "/system/owners").json() == [linked]
    answer = send(gateway, second, push(repository(11, "ANN/fns", 9)))
    assert "is asked for" in answer.text, "another name than it had"
    third = hook_for(gateway, "ANN/fns")
    answer = send(gateway, third, push(repository(12, "ANN/fns", 9)))
    assert (answer.status_code, "would be called the same" in answer.text) == (409, True)
    assert {each.key for each in store.repositories()} == {"ann/fns", "ann/more"}


def test_a_login_that_is_no_namespace_is_given_one(gateway: Gateway, store: Store) -> None:
    hook = hook_for(gateway, "system/fns")
    answer = send(gateway, hook, push(repository(full_name="system/fns")))
    assert (answer.status_code, f"{HUB}#2" in answer.text) == (400, True)
    linked = {"owner": f"{HUB}#2", "namespace": "ours"}
    assert gateway.call("PUT", "/system/owners", json=linked).status_code == 202
    assert send(gateway, hook, push(repository(full_name="system/fns"))).status_code == 202
    assert store.repository("ours", "fns").full_name == "system/fns"
    unlinked = {"owner": f"{HUB}#2"}
    assert gateway.call("DELETE", "/system/owners", json=unlinked).status_code == 202
    assert gateway.call("DELETE", "/system/owners", json=unlinked).status_code == 404


@pytest.mark.parametrize("owner", ["", "#1", "https://evil.example#1", f"{HUB}#", "x" * 400])
def test_who_is_no_owner_gets_no_namespace(gateway: Gateway, store: Store, owner: str) -> None:
    linked = {"owner": owner, "namespace": "ann"}
    assert gateway.call("PUT", "/system/owners", json=linked).status_code == 400
    assert store.owners() == {}


def test_looks_are_bounded_and_the_newest_counts(store: Store) -> None:
    for number in range(MAX_LOOKS):
        store.redis.hset("slipway:repositories:looks", f"github {number}", b"{}")
    look = Look(forge="github", forge_id="1", said=b"{}")
    assert store.ask_to_look(look), "it takes the place of the one that waits"
    assert not store.ask_to_look(Look(forge="github", forge_id="new", said=b"{}"))


def test_a_look_that_was_asked_for_again_meanwhile_stays(store: Store) -> None:
    first = Look(forge="github", forge_id="1", said=b"{}")
    store.ask_to_look(first)
    store.ask_to_look(Look(forge="github", forge_id="1", said=b"{}", commit="a" * 40))
    store.looked(first)
    (left,) = store.looks()
    assert left.commit == "a" * 40
    store.looked(left)
    assert store.looks() == []


def test_the_credential_is_the_builder_s_alone(gateway: Gateway, store: Store) -> None:
    store.save_repository(Repository(namespace="ann", name="fns", source="github"))
    path = "/internal/repositories/ann/fns/credential"
    for method, each in (("GET", path), ("POST", path.replace("credential", "look"))):
        assert gateway.anonymous(method, each).status_code == 401
        assert gateway.call(method, each).status_code == 401, "nor the admin's"
