"""GitHub's webhooks, with GitHub's own example payloads, over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from core import queues
from core.models import Promotion, State
from core.store import Store
from tests.integration.gateway.conftest import SECRET
from tests.integration.gateway.harness import BUILDER, Gateway, artifact, memory_mb, running

EXAMPLES = Path(__file__).resolve().parents[2] / "projects" / "github"
PUSHES: list[dict[str, Any]] = json.loads((EXAMPLES / "push.json").read_text())
PINGS: list[dict[str, Any]] = json.loads((EXAMPLES / "ping.json").read_text())
PUSH = next(each for each in PUSHES if each["ref"] == "refs/heads/master")


def signature(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def send(gateway: Gateway, event: str, payload: object, **headers: str | None) -> requests.Response:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    told: dict[str, str | None] = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature-256": signature(body),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return gateway.anonymous("POST", "/webhooks/github", data=body, headers=told)


def test_a_push_makes_a_release(gateway: Gateway, store: Store) -> None:
    answer = send(gateway, "push", PUSH)
    assert answer.status_code == 202
    release = store.release(answer.json()["release"])
    assert (release.namespace, release.repository) == ("codertocat", "Hello-World")
    assert (release.branch, release.commit) == ("master", PUSH["after"])
    assert release.state is State.QUEUED
    assert store.turn("codertocat/Hello-World") == release.id, "it was dispatched"
    assert not store.pinned(release.id), "the builder looks for the branch's head itself"
    known = store.repository("codertocat", "Hello-World")
    assert (known.source, known.full_name) == ("github", "Codertocat/Hello-World")
    assert known.forge_id == str(PUSH["repository"]["id"])


def test_a_delivery_that_comes_again_makes_no_second_release(
    gateway: Gateway, store: Store
) -> None:
    first = send(gateway, "push", PUSH).json()["release"]
    store.move(first, [State.QUEUED], State.CANCELLED, "x")
    assert send(gateway, "push", PUSH).json()["release"] == first
    other = send(gateway, "push", PUSH, X_GitHub_Delivery="another").json()["release"]
    assert other != first
    store.move(other, [State.QUEUED], State.FAILED, "x")
    again = send(gateway, "push", PUSH, X_GitHub_Delivery="another").json()["release"]
    assert again != other, "whoever redelivers a failed one wants another try"


def test_a_branch_of_an_environment_is_released_there(gateway: Gateway, store: Store) -> None:
    send(gateway, "push", PUSH)
    parent = store.repository("codertocat", "Hello-World")
    store.save_environment(parent, "staging", "develop")
    pushed = {**PUSH, "ref": "refs/heads/develop", "after": "d" * 40}
    answer = send(gateway, "push", pushed, X_GitHub_Delivery="another")
    release = store.release(answer.json()["release"])
    assert (release.namespace, release.repository) == ("codertocat--staging", "Hello-World")
    assert (release.branch, release.commit) == ("develop", "d" * 40)
    assert store.turn("codertocat--staging/Hello-World") == release.id


def test_a_tag_promotes_what_was_live(gateway: Gateway, store: Store) -> None:
    send(gateway, "push", PUSH)
    parent = store.repository("codertocat", "Hello-World")
    child = store.save_environment(parent, "staging", "develop")
    commit = "d" * 40
    live = store.create_release(child, commit, "develop")
    queues.dispatch(store, child.key)
    store.move(live.id, BUILDER, State.BUILDING)
    store.put_artifacts(live.id, commit, [artifact(live, "hello")])
    store.switch(live.id, lambda _: 1)
    store.finish(live.id, "http://here")

    annotated = {
        **PUSH,
        "ref": "refs/tags/promote/production/1",
        "after": "e" * 40,
        "head_commit": {**PUSH["head_commit"], "id": commit},
    }
    answer = send(gateway, "push", annotated, X_GitHub_Delivery="one")
    made = store.release(answer.json()["release"])
    assert made.promoted_from == Promotion(environment="staging", release=live.id)
    assert (made.namespace, made.commit, store.pinned(made.id)) == ("codertocat", commit, True)
    again = send(gateway, "push", annotated, X_GitHub_Delivery="two")
    assert again.json()["release"] == made.id, "the same tag as it was"
    plain = {**annotated, "after": "f" * 40, "head_commit": None}
    told = send(gateway, "push", plain, X_GitHub_Delivery="three")
    assert (told.status_code, told.text[:38]) == (202, "not promoted: ffffffffffff was live in"), (
        told.text
    )
    gone = {**annotated, "after": "0" * 40, "deleted": True, "head_commit": None}
    told = send(gateway, "push", gone, X_GitHub_Delivery="four")
    assert told.text.startswith("not deployed: refs/tags/promote/production/1 is not a branch")
    wrong = {**annotated, "head_commit": {"id": "../x"}}
    assert send(gateway, "push", wrong, X_GitHub_Delivery="five").status_code == 400


@pytest.mark.parametrize("payload", PUSHES, ids=lambda each: each["ref"])
def test_every_example_is_understood(
    gateway: Gateway, store: Store, payload: dict[str, Any]
) -> None:
    answer = send(gateway, "push", payload)
    assert answer.status_code == 202
    made = payload["ref"] == "refs/heads/master"
    assert bool(store.releases()) is made
    assert made or answer.text.startswith("not deployed: ")


@pytest.mark.parametrize("payload", PINGS)
def test_a_ping_is_answered(gateway: Gateway, store: Store, payload: dict[str, Any]) -> None:
    assert send(gateway, "ping", payload).status_code == 200
    assert store.releases() == []


def test_other_events_are_acknowledged(gateway: Gateway, store: Store) -> None:
    for payload in json.loads((EXAMPLES / "star.json").read_text()):
        assert send(gateway, "star", payload).status_code == 202
    assert store.releases() == []


def test_other_branches_and_deletions_make_no_release(gateway: Gateway, store: Store) -> None:
    for change, said in (
        ({"ref": "refs/heads/feature"}, "not the default branch (master)"),
        ({"deleted": True, "after": "0" * 40}, "was deleted"),
    ):
        answer = send(gateway, "push", {**PUSH, **change})
        assert (answer.status_code, said in answer.text) == (202, True)
    assert store.releases() == []


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        signature(json.dumps(PUSH).encode())[:-1],
        signature(json.dumps(PUSH).encode(), "another secret"),
        signature(json.dumps(PUSH).encode()).replace("sha256=", "sha1="),
        signature(json.dumps(PUSH).encode() + b" "),
        "sha256=\xff\xfe",
    ],
)
@pytest.mark.parametrize("event", ["push", "ping"])
def test_a_wrong_signature_is_refused(
    gateway: Gateway, store: Store, given: str | None, event: str
) -> None:
    answer = send(gateway, event, PUSH, X_Hub_Signature_256=given)
    assert answer.status_code == 401
    assert "SLIPWAY_GITHUB_WEBHOOK_SECRET" in answer.text
    assert "WWW-Authenticate" not in answer.headers
    assert store.releases() == []
    assert store.find_repository("codertocat/Hello-World") is None


def test_the_signature_comes_before_the_content(gateway: Gateway) -> None:
    assert send(gateway, "push", b"{", X_Hub_Signature_256="sha256=x").status_code == 401
    assert send(gateway, "push", b"{").status_code == 400
    assert send(gateway, "push", b"payload=%7B%7D").status_code == 400
    assert send(gateway, "push", {**PUSH, "ref": 1}).status_code == 400


def test_what_it_names_as_clone_url_counts_for_nothing(gateway: Gateway, store: Store) -> None:
    forged = {
        **PUSH["repository"],
        "clone_url": "file:///etc",
        "ssh_url": "ext::sh -c id",
        "url": "http://169.254.169.254/",
    }
    answer = send(gateway, "push", {**PUSH, "repository": forged})
    assert answer.status_code == 202
    assert store.repository("codertocat", "Hello-World").full_name == "Codertocat/Hello-World"
    assert "169.254" not in repr(store.repositories())


@pytest.mark.parametrize(
    ("full_name", "name"),
    [
        ("../../etc", "etc"),
        ("Codertocat/../../x", "x"),
        ("Codertocat/..", ".."),
        ("Codertocat/x.git", "x.git"),
        ("Codertocat/a b", "a b"),
        ("a@b/x", "x"),
        ("Codertocat", "Codertocat"),
        ("openfaas/x", "x"),
        ("Under_score/x", "x"),
        ("a" * 80 + "/x", "x"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    gateway: Gateway, store: Store, full_name: str, name: str
) -> None:
    repository = {**PUSH["repository"], "full_name": full_name, "name": name}
    answer = send(gateway, "push", {**PUSH, "repository": repository})
    assert answer.status_code == 400
    assert store.releases() == []


def test_a_namespace_belongs_to_one_owner(gateway: Gateway, store: Store) -> None:
    assert send(gateway, "push", PUSH).status_code == 202
    owner = {**PUSH["repository"]["owner"], "id": 1}
    other = {**PUSH["repository"], "owner": owner, "id": 2}
    answer = send(gateway, "push", {**PUSH, "repository": other}, X_GitHub_Delivery="2")
    assert answer.status_code == 409
    assert "https://github.com#21031067" in answer.text
    assert len(store.releases()) == 1


def test_an_event_that_says_another_owner_is_asked_about(gateway: Gateway, store: Store) -> None:
    assert send(gateway, "push", PUSH).status_code == 202
    owner = {**PUSH["repository"]["owner"], "id": 1}
    other = {**PUSH["repository"], "owner": owner}
    answer = send(gateway, "push", {**PUSH, "repository": other}, X_GitHub_Delivery="2")
    assert (answer.status_code, "is asked for" in answer.text) == (202, True)
    assert len(store.releases()) == 1


def test_a_body_over_the_cap_is_refused(gateway: Gateway) -> None:
    assert send(gateway, "push", b" " * 25_000_001).status_code == 413
    chunks = (b" " * 1_000_000 for _ in range(26))
    answer = gateway.anonymous(
        "POST", "/webhooks/github", data=chunks, headers={"X-Hub-Signature-256": "sha256=x"}
    )
    assert answer.status_code == 413


def test_without_a_secret_all_are_refused(valkey: str, store: Store, short_tmp: Path) -> None:
    with running(short_tmp, valkey) as gateway:
        answer = send(gateway, "push", PUSH, X_Hub_Signature_256=signature(b"", ""))
        assert answer.status_code == 401
        assert "no secret is set" in answer.text
    assert store.releases() == []


def rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1000), b""))


def large(payload: dict[str, Any]) -> bytes:
    """The same event with more than a megabyte."""
    return json.dumps({**payload, "commits": ["x" * 1000] * 1100}).encode()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("length", "places", "seconds"), [(1_000, 16, 3), (20_000_000, 3, 10), (None, 3, 10)]
)
def test_stalled_bodies_leave_room_for_others(
    gateway: Gateway, length: int | None, places: int, seconds: int
) -> None:
    """More senders that stall than there are places: the next is told at once what to do, and
    bodies of the other class are taken all the same."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = (
        "POST /webhooks/github HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=x\r\n"
        f"{framing}\r\n\r\n1\r\n"
    )
    with ExitStack() as senders:
        begun = time.monotonic()
        stalled = [
            senders.enter_context(
                socket.create_connection(("127.0.0.1", gateway.settings.port), 30)
            )
            for _ in range(places + 2)
        ]
        for sender in stalled:
            sender.sendall(head.encode())
        time.sleep(0.5)
        small, big = send(gateway, "push", PUSH), send(gateway, "push", large(PUSH))
        refused, taken = (small, big) if places == 16 else (big, small)
        assert gateway.anonymous("GET", "/").ok
        assert (refused.status_code, taken.status_code) == (503, 202)
        assert f"all {places} places for webhooks" in refused.text
        assert "redeliver it" in refused.text
        assert time.monotonic() - begun < 2.5
        answers = [rest(sender) for sender in stalled]
        assert time.monotonic() - begun < seconds + 3
    told = sorted(answer.split()[1] for answer in answers)
    assert told == [b"400"] * places + [b"503"] * 2
    late = [answer for answer in answers if b" 400 " in answer]
    assert all(answer.endswith(b"the body did not come within %d s" % seconds) for answer in late)
    assert send(gateway, "push", PUSH).status_code == 202


@pytest.mark.usefixtures("store")
def test_a_body_is_held_once_and_only_until_its_signature_is_checked(gateway: Gateway) -> None:
    size = 24_000_000
    worker = gateway.worker()
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak begins anew
    before = memory_mb(worker)
    for _ in range(3):
        answer = send(gateway, "push", bytes(size), X_Hub_Signature_256="sha256=" + "0" * 64)
        assert answer.status_code == 401
    assert memory_mb(worker) - before < 36


def test_json_of_any_depth_is_no_accident_of_ours(gateway: Gateway) -> None:
    for body in (b"[" * 99_999, b'{"deep": ' + b"[" * 99_999, b'{"a":' * 99_999):
        answer = send(gateway, "push", body)
        assert (answer.status_code, "not such an event" in answer.text) == (400, True)
