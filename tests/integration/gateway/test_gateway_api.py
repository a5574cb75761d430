"""``/system``, ``/healthz`` and what errors look like."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import requests

from core import keys, queues
from core.bundle import Bundle, bundle_folder
from core.models import Artifacts, FunctionSpec, Observed, Release, Resources, State, Usage
from core.repositories import Repository, Request
from core.settings import Settings
from core.store import Store
from core.store.metrics import Tally
from tests.conftest import valkey_binary
from tests.integration.gateway.harness import (
    BUILDER,
    Gateway,
    Hand,
    artifact,
    commit,
    deploy,
    exchange,
    go_live,
    line,
    repository,
    running,
)
from tests.waiting import until

FNS = Repository(namespace="api", name="fns", source="github", deploy_branch="main")


def started(store: Store, digit: str = "a", known: Repository = FNS) -> Release:
    """A release that is being built."""
    store.save_repository(known)
    release = store.create_release(known, digit * 40, "main")
    queues.dispatch(store, known.key)
    return store.move(release.id, BUILDER, State.BUILDING)


def put_bundle(settings: Settings, release: Release, name: str = "hello") -> Artifacts:
    """Artifacts of a release whose bundle is really there."""
    made = artifact(release, name)
    folder = bundle_folder(settings, release.namespace, made.artifact)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.json").write_bytes(
        msgspec.json.encode(Bundle(template="python3-http", process=["python3", "index.py"]))
    )
    return Artifacts(commit=release.commit, functions=[made])


def put(gateway: Gateway, id_: str, body: object, token: str = "") -> requests.Response:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return gateway.anonymous(
        "PUT",
        f"/system/releases/{id_}/artifacts",
        data=data,
        headers={"Authorization": f"Bearer {token or gateway.token}"},
    )


# Who may


def test_without_the_password_nothing_is_told(gateway: Gateway) -> None:
    for path in ("/system/functions", "/system/nothing", "/system", "/git/x", "/metrics"):
        answer = gateway.anonymous("GET", path)
        assert (answer.status_code, answer.text) == (401, "invalid credentials"), path
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="Restricted"'
    for auth in (("admin", "guess"), ("root", gateway.auth[1]), ("admin", ""), ("", "")):
        assert gateway.anonymous("GET", "/system/functions", auth=auth).status_code == 401
    for header in ("Basic", "Basic !!", "Basic /w==", "Basic \xff", "Bearer x", "Digest x", "\xff"):
        answer = gateway.anonymous("GET", "/system/info", headers={"Authorization": header})
        assert answer.status_code == 401, header


def test_the_builders_token_hands_over_artifacts_and_no_more(
    gateway: Gateway, store: Store
) -> None:
    token = {"Authorization": f"Bearer {gateway.token}"}
    for method, path in (
        ("GET", "/system/functions"),
        ("GET", "/system/releases"),
        ("DELETE", "/system/releases/r1-aaaaaaa"),
        ("POST", "/system/releases"),
        ("POST", "/git/x/y.git/git-receive-pack"),
    ):
        assert gateway.anonymous(method, path, headers=token).status_code == 403, path
    assert put(gateway, "r1-aaaaaaa", Artifacts(commit="a" * 40, functions=[])).status_code == 404
    assert store.releases() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, 404),
        ({}, 404),
    ],
)
def test_pages_of_other_sites_cannot_write(
    gateway: Gateway, headers: dict[str, str], status: int
) -> None:
    host = gateway.url.removeprefix("http://")
    told = {name: value.format(host=host) for name, value in headers.items()}
    answer = gateway.call("DELETE", "/system/releases/r9-aaaaaaa", headers=told)
    assert answer.status_code == status


def test_a_clients_header_cannot_move_a_path(gateway: Gateway) -> None:
    """Behind a unix socket gunicorn would believe SCRIPT_NAME and PATH_INFO, if we let it."""
    head = (
        "GET /function/system/info HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        "SCRIPT_NAME: /function\r\nPATH_INFO: /system/info\r\nX-Forwarded-Proto: https\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as edge:
        edge.connect(str(gateway.settings.gateway_socket))
        edge.sendall(head.encode())
        assert edge.recv(100).split()[1] == b"404", "it is a function that does not exist"


# Errors


def test_errors_are_text_or_problem_details(gateway: Gateway) -> None:
    path = "/system/function/nobody.api"
    text = gateway.call("GET", path)
    assert (text.status_code, text.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert text.text == "there is no function nobody.api: see 'slipway list'"
    problem = gateway.call("GET", path, headers={"Accept": "application/problem+json"})
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.json() == {
        "type": "about:blank",
        "title": "Not found",
        "status": 404,
        "detail": text.text,
    }


def test_what_is_not_here_is_404_or_405(gateway: Gateway) -> None:
    assert gateway.call("GET", "/system/nothing").status_code == 404
    for target, status in (("//system/info", 401), ("/%73ystem/info", 401), ("//function/x", 404)):
        head = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
        assert int(exchange(gateway, head).split()[1]) == status, target
    wrong = gateway.call("PATCH", "/system/functions")
    assert wrong.status_code == 405
    assert "GET" in wrong.headers["Allow"]
    answer = gateway.call("GET", f"/async-function/{uuid.uuid4()}")
    assert (answer.status_code, "there is no call" in answer.text) == (404, True)
    assert gateway.anonymous("GET", "/").text.startswith("This is Slipway")


def test_a_store_that_is_away_is_503(short_tmp: Path, store: Store) -> None:
    """And /healthz says so at once; both come back with the store."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir=short_tmp))
    argv = [
        valkey_binary(),
        *("--port", "0", "--unixsocket", str(folder / "s"), "--dir", str(folder), "--save", ""),
    ]
    environment = {"PATH": "/usr/bin:/bin"}
    valkey = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment)
    until((folder / "s").exists)
    try:
        with running(short_tmp, f"unix://{folder / 's'}") as gateway:
            valkey.kill()
            valkey.wait()
            begun = time.monotonic()
            health = gateway.anonymous("GET", "/healthz")
            assert time.monotonic() - begun < 5
            assert (health.status_code, "store" in health.json()["missing"]) == (503, True)
            answer = gateway.call("GET", "/system/releases")
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert "Traceback" not in answer.text
            valkey = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment)
            until(lambda: gateway.call("GET", "/system/releases").ok)
    finally:
        valkey.kill()
        valkey.wait()
    assert store.releases() == []


# Releases


def test_releases_are_listed_and_read(gateway: Gateway, store: Store) -> None:
    releases = [started(store, "a")]
    releases.append(store.create_release(FNS, "b" * 40, "main"))
    other = Repository(namespace="api", name="other", source="github", deploy_branch="main")
    releases.append(started(store, "c", other))
    listed = gateway.call("GET", "/system/releases").json()
    assert [each["id"] for each in listed] == [each.id for each in reversed(releases)]
    query = "?namespace=api&repository=fns&limit=1"
    (newest,) = gateway.call("GET", f"/system/releases{query}").json()
    assert newest == gateway.call("GET", f"/system/releases/{releases[1].id}").json()
    assert newest == {
        "id": releases[1].id,
        "namespace": "api",
        "repository": "fns",
        "branch": "main",
        "commit": "b" * 40,
        "state": "queued",
        "reason": "",
        "createdAt": releases[1].created_at,
        "finishedAt": None,
        "functions": [],
        "receipt": None,
        "watch": None,
        "promotedFrom": None,
    }
    for wrong in ("?namespace=A", "?repository=.."):
        assert gateway.call("GET", f"/system/releases{wrong}").status_code == 400, wrong
    for wrong in ("0", "x", "501", "-1", "1.0", "0000019999999", "9" * 5000, "%D9%A3"):
        answer = gateway.call("GET", f"/system/releases?limit={wrong}")
        told = "limit must be a whole number from 1 to 500"
        assert (answer.status_code, answer.text) == (400, told), wrong
    assert gateway.call("GET", "/system/releases/r99-aaaaaaa").status_code == 404
    assert gateway.call("GET", "/system/releases/R_").status_code == 400


def test_a_log_is_followed_to_its_end(gateway: Gateway, store: Store) -> None:
    release = started(store)
    store.append_log(release.id, [line("hello", "context", "step", "building")])
    path = f"/system/releases/{release.id}/logs"
    unfinished = gateway.call("GET", path)
    assert unfinished.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(each)["text"] for each in unfinished.text.splitlines()] == ["building"]
    with gateway.call("GET", f"{path}?follow=1", stream=True) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["function"] == "hello"
        store.append_log(release.id, [line("hello", "test", "stdout", "ok")])
        assert json.loads(next(lines)) | {"time": ""} == {
            "time": "",
            "function": "hello",
            "step": "test",
            "stream": "stdout",
            "text": "ok",
        }
        store.move(release.id, BUILDER, State.FAILED, "no luck")
        assert json.loads(next(lines)) == {"state": "failed", "reason": "no luck"}
        assert next(lines, None) is None
    events = gateway.call("GET", path, headers={"Accept": "text/event-stream"})
    assert events.headers["Content-Type"].startswith("text/event-stream")
    last = events.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: ")) == {"state": "failed", "reason": "no luck"}


def test_followers_are_bounded_and_dead_ones_noticed(gateway: Gateway, store: Store) -> None:
    release = started(store)
    path = f"/system/releases/{release.id}/logs?follow=1"
    followers = []
    sessions = [requests.Session() for _ in range(8)]
    store.append_log(release.id, [line("", "plan", "step", "x")])
    for session in sessions:
        session.trust_env = False
        followers.append(
            session.get(gateway.url + path, auth=gateway.auth, stream=True, timeout=10)
        )
    full = gateway.call("GET", path)
    assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
    assert gateway.call("GET", f"/system/releases/{release.id}/logs").ok
    for follower, session in zip(followers, sessions, strict=True):
        follower.close()
        session.close()

    def free() -> bool:
        with gateway.call("GET", path, stream=True) as answer:
            return answer.ok

    until(free, 20)


def test_a_release_is_started_again(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    work = repository(tmp_path / "w", {"a": "1"})
    first = subprocess.run(
        ["git", "-C", str(work), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with Hand(store, lambda release: go_live(store, release)):
        gateway.run("push", gateway.remote("again/fns"), "main", cwd=work)
        newest = commit(work, {"a": "2"})
        gateway.run("push", gateway.remote("again/fns"), "main", cwd=work)
    body: dict[str, str] = {"namespace": "again", "repository": "fns"}
    answer = gateway.call("POST", "/system/releases", json=body)
    made = answer.json()
    assert (answer.status_code, made["commit"], made["state"]) == (202, newest, "queued")
    assert answer.headers["Location"] == f"/system/releases/{made['id']}"
    assert store.turn("again/fns") == made["id"]
    older = gateway.call("POST", "/system/releases", json={**body, "commit": first}).json()
    assert older["commit"] == first
    assert store.pinned(older["id"])


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "JSON"),
        (b'{"namespace": "api"}', 400, "repository"),
        (b'{"namespace": 1, "repository": "fns"}', 400, "$.namespace"),
        (b'{"namespace": "api", "repository": "fns", "comit": "x"}', 400, "comit"),
        (b'{"namespace": "api", "repository": "fns", "commit": "abc"}', 400, "full commit id"),
        (b'{"namespace": "../x", "repository": "fns"}', 400, "namespace"),
        (b'{"namespace": "api", "repository": "nothing"}', 404, "api/nothing"),
        (b'{"namespace": "empty", "repository": "fns"}', 409, "main or master"),
        (
            b'{"namespace": "empty", "repository": "fns", "commit": "%b"}' % (b"a" * 40),
            400,
            "no commit",
        ),
        (b" " * (2**20 + 1), 413, "limit"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(
    gateway: Gateway, store: Store, body: bytes, status: int, said: str
) -> None:
    gateway.call("GET", "/git/empty/fns.git/info/refs?service=git-receive-pack")
    close = {"Connection": "close"}  # what is not read is not waited for
    answer = gateway.call("POST", "/system/releases", data=body, headers=close)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert store.releases() == []


def test_a_forges_repository_is_released_anew(gateway: Gateway, store: Store) -> None:
    release = started(store)
    body = {"namespace": "api", "repository": "fns"}
    made = gateway.call("POST", "/system/releases", json=body).json()
    assert (made["commit"], store.pinned(made["id"])) == (release.commit, False)


def test_a_release_is_cancelled_until_it_is_decided(gateway: Gateway, store: Store) -> None:
    building = started(store)
    waiting = store.create_release(FNS, "b" * 40, "main")
    answer = gateway.call("DELETE", f"/system/releases/{waiting.id}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert gateway.call("DELETE", f"/system/releases/{building.id}").ok
    assert store.turn(FNS.key) == "", "its turn is over, and no cancelled one has it"
    again = gateway.call("DELETE", f"/system/releases/{building.id}")
    assert again.status_code == 409
    assert "cancelled already" in again.text
    staged = started(store, "c")
    store.put_artifacts(staged.id, staged.commit, [artifact(staged, "hello")])
    assert gateway.call("DELETE", f"/system/releases/{staged.id}").ok
    going = started(store, "d")
    store.put_artifacts(going.id, going.commit, [artifact(going, "hello")])
    store.switch(going.id, lambda _: 1)
    assert gateway.call("DELETE", f"/system/releases/{going.id}").status_code == 409
    store.finish(going.id, "http://x")
    assert gateway.call("DELETE", f"/system/releases/{going.id}").status_code == 409
    assert store.release(going.id).state is State.LIVE


def test_cancelling_lets_the_next_one_begin(gateway: Gateway, store: Store) -> None:
    building = started(store)
    waiting = store.create_release(FNS, "b" * 40, "main")
    assert gateway.call("DELETE", f"/system/releases/{building.id}").ok
    assert store.turn(FNS.key) == waiting.id


# Artifacts


def test_artifacts_are_taken_once_and_stay_the_same(gateway: Gateway, store: Store) -> None:
    release = started(store)
    body = put_bundle(gateway.settings, release)
    for _ in range(2):
        answer = put(gateway, release.id, body)
        assert (answer.status_code, answer.json()["state"]) == (200, "staging")
    assert store.artifacts(release.id) == body.functions
    assert gateway.call("DELETE", f"/system/releases/{release.id}").ok
    assert put(gateway, release.id, body).status_code == 409


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"commit": "b" * 40}, 400, "spec.commit"),
        ({"functions": [{"name": "UPPER"}]}, 400, "not a function name"),
        ({"functions": [{"name": "other"}]}, 400, "spec.name"),
        ({"functions": [{"artifact": f"bundle:sha256:{'9' * 64}"}]}, 400, "spec.artifact"),
        ({"functions": [{"key": "x"}]}, 400, "spec.key"),
        ({"functions": [{"key": 5}]}, 400, "$.functions[0].key"),
        ({"functions": [{"spec": {"namespace": "victim"}}]}, 400, "spec.namespace"),
        ({"functions": [{"spec": {"repository": "other"}}]}, 400, "spec.repository"),
        ({"functions": [{"spec": {"artifactsNamespace": "victim"}}]}, 400, "artifactsNamespace"),
        ({"environments": {"production": "x"}}, 400, "production"),
        ({"environments": {"staging": "a..b"}}, 400, "name of a branch"),
        ({"environments": {f"e{n}": "b" for n in range(21)}}, 400, "more than there can be"),
        ({"functions": [{}, {}]}, 400, "twice"),
        ({"functions": 5}, 400, "$.functions"),
    ],
)
def test_artifacts_of_something_else_are_refused(
    gateway: Gateway, store: Store, change: dict[str, object], status: int, said: str
) -> None:
    release = started(store)
    body = json.loads(msgspec.json.encode(put_bundle(gateway.settings, release)))
    for field, value in change.items():
        if isinstance(value, list):
            (one,) = body["functions"]
            body["functions"] = [
                {**one, **each, "spec": {**one["spec"], **each.get("spec", {})}} for each in value
            ]
        else:
            body[field] = value
    answer = put(gateway, release.id, json.dumps(body).encode())
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert store.release(release.id).state is State.BUILDING


def test_artifacts_must_be_there_and_of_that_owner(gateway: Gateway, store: Store) -> None:
    other = Repository(namespace="elsewhere", name="fns", source="github", deploy_branch="main")
    put_bundle(gateway.settings, started(store, "a", other))
    release = started(store, "b")
    known = artifact(release, "hello", "7")
    missing = put(gateway, release.id, Artifacts(commit=release.commit, functions=[known]))
    assert (missing.status_code, "api has no bundle" in missing.text) == (404, True)
    image = msgspec.structs.replace(
        known, artifact="reg/x@sha256:1", spec=_with(known.spec, artifact="reg/x@sha256:1")
    )
    refused = put(gateway, release.id, Artifacts(commit=release.commit, functions=[image]))
    assert refused.status_code == 501
    assert put(gateway, "r99-aaaaaaa", put_bundle(gateway.settings, release)).status_code == 404
    for body in (b"{", b'{"deep": ' + b"[" * 99_999, b'{"a":' * 99_999, b'{"commit": "\\ud800"}'):
        assert put(gateway, release.id, body).status_code == 400, body[:20]


def test_an_environment_has_its_owner_s_artifacts_and_its_own_settings(
    gateway: Gateway, store: Store
) -> None:
    store.claim_namespace("api", "git", FNS)
    made = put_bundle(gateway.settings, started(store))
    child = store.save_environment(store.repository("api", "fns"), "staging", "develop")
    release = started(store, "b", child)
    (whole,) = made.functions
    spec = _with(whole.spec, namespace="api--staging", commit=release.commit)
    for shared, status in (("", 400), ("api", 200)):
        function = msgspec.structs.replace(whole, spec=_with(spec, artifacts_namespace=shared))
        body = Artifacts(commit=release.commit, functions=[function], environments={"demo": "demo"})
        assert put(gateway, release.id, body).status_code == status
    store.switch(release.id, lambda _: 1)
    store.finish(release.id, "http://here")
    assert store.wanted_environments() == {}, "that is for the deploy branch to say"


def test_only_what_is_promoted_is_taken(gateway: Gateway, store: Store) -> None:
    store.claim_namespace("api", "git", FNS)
    parent = store.repository("api", "fns")
    child = store.save_environment(parent, "staging", "develop")
    first = started(store, "a", child)
    (whole,) = put_bundle(
        gateway.settings, msgspec.structs.replace(first, namespace="api")
    ).functions
    spec = _with(whole.spec, namespace=child.namespace, artifacts_namespace="api")
    function = msgspec.structs.replace(whole, spec=spec)
    body = Artifacts(commit=first.commit, functions=[function])
    assert put(gateway, first.id, body).status_code == 200
    store.switch(first.id, lambda _: 1)
    store.finish(first.id, "http://here")

    asked = {"namespace": "api", "repository": "fns"}
    answer = gateway.call("POST", "/system/promote", json=asked)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["Location"] == f"/system/releases/{made['id']}"
    assert made["promotedFrom"] == {"environment": "staging", "release": first.id}
    queues.dispatch(store, "api/fns")
    store.move(made["id"], BUILDER, State.BUILDING)
    other = artifact(store.release(made["id"]), "hello", "9")
    wrong = put(gateway, made["id"], Artifacts(commit=first.commit, functions=[other]))
    assert (wrong.status_code, "not what is promoted" in wrong.text) == (400, True), wrong.text
    empty = put(gateway, made["id"], Artifacts(commit=first.commit, functions=[]))
    assert (empty.status_code, "not all functions" in empty.text) == (400, True), empty.text
    right = msgspec.structs.replace(
        whole, spec=_with(whole.spec, commit=first.commit, namespace="api")
    )
    body = Artifacts(commit=first.commit, functions=[right], environments={"demo": "demo"})
    assert put(gateway, made["id"], body).status_code == 200
    store.switch(made["id"], lambda _: 1)
    store.finish(made["id"], "http://here")
    assert store.wanted_environments() == {}, "a promotion changes none"
    assert store.functions()["hello.api"].spec.artifact == whole.artifact


def test_environments_are_listed(gateway: Gateway, store: Store) -> None:
    store.claim_namespace("api", "git", FNS)
    store.save_environment(store.repository("api", "fns"), "staging", "develop")
    store.save_environment(store.repository("api", "fns"), "demo", "demo")
    store.end_environment("api--demo/fns", "nobody wants it")
    store.claim_namespace("bob", "git", msgspec.structs.replace(FNS, namespace="bob"))
    store.redis.set(keys.live("api--staging/fns"), "r7-abcdef0")
    listed = gateway.call("GET", "/system/environments?namespace=api&repository=fns").json()
    assert [(each["environment"], each["live"], each["gone"]) for each in listed] == [
        ("production", "", ""),
        ("demo", "", "nobody wants it"),
        ("staging", "r7-abcdef0", ""),
    ]
    assert listed[2]["namespace"] == "api--staging"
    assert listed[2]["branch"] == "develop"
    everything = gateway.call("GET", "/system/environments").json()
    assert [each["namespace"] for each in everything] == ["api", "api--demo", "api--staging", "bob"]
    for wrong in ("?namespace=A", "?repository=.."):
        assert gateway.call("GET", f"/system/environments{wrong}").status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"repository": "nothing"}, 404, "api/nothing"),
        ({"from": "demo"}, 404, "no environment 'demo', it has production, staging"),
        ({"to": "demo"}, 404, "no environment 'demo'"),
        ({"from": "staging"}, 409, "nothing of api--staging/fns is live: push develop"),
        ({"from": "production"}, 409, "nothing of api/fns is live"),
        ({"to": "staging"}, 400, "name the environment to promote from"),
        ({"release": "r999-aaaaaaa"}, 404, "r999-aaaaaaa"),
        ({"release": "../x"}, 400, "release id"),
        ({"from": 1}, 400, "$.from"),
        ({"form": "staging"}, 400, "form"),
        ({"namespace": "API"}, 400, "namespace"),
    ],
)
def test_promotions_that_cannot_be(
    gateway: Gateway, store: Store, body: dict[str, object], status: int, said: str
) -> None:
    store.claim_namespace("api", "git", FNS)
    store.save_environment(store.repository("api", "fns"), "staging", "develop")
    whole = {"namespace": "api", "repository": "fns", **body}
    answer = gateway.call("POST", "/system/promote", json=whole)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert store.releases("api", "fns") == []


def test_a_release_is_promoted_by_its_id_from_where_it_is(gateway: Gateway, store: Store) -> None:
    store.claim_namespace("api", "git", FNS)
    child = store.save_environment(store.repository("api", "fns"), "staging", "develop")
    release = started(store, "a", child)
    elsewhere = started(
        store, "c", Repository(namespace="bob", name="fns", source="git", deploy_branch="main")
    )
    asked = {"namespace": "api", "repository": "fns"}
    for id_, more, status, said in (
        (release.id, {}, 409, f"{release.id} cannot be promoted: it is building"),
        (release.id, {"from": "production"}, 400, "is of staging, not of production"),
        (release.id, {"to": "staging"}, 400, "staging cannot be promoted to itself"),
        (elsewhere.id, {}, 400, "is not of api/fns or one of its environments"),
    ):
        answer = gateway.call("POST", "/system/promote", json={**asked, **more, "release": id_})
        assert (answer.status_code, said in answer.text) == (status, True), answer.text
    preview = msgspec.structs.replace(
        FNS, namespace="api--pr-1", parent="api/fns", request=Request(number=1)
    )
    store.save_repository(preview)
    refused = gateway.call(
        "POST", "/system/promote", json={"namespace": "api--pr-1", "repository": "fns"}
    )
    assert (refused.status_code, "is a preview" in refused.text) == (400, True)


def _with(spec: FunctionSpec, **changes: str) -> FunctionSpec:
    return msgspec.structs.replace(spec, **changes)


# Functions


def test_functions_are_listed_as_openfaas_does(gateway: Gateway, store: Store) -> None:
    release = started(store)
    spec = FunctionSpec(
        name="hello",
        namespace="api",
        artifact=f"bundle:sha256:{'0' * 64}",
        key="k",
        repository="fns",
        commit=release.commit,
        env_vars={"mode": "on", "version": "1.10"},
        labels={"team": "0644"},
        annotations={"topic": "a"},
        limits=Resources(memory="128Mi"),
    )
    made = msgspec.structs.replace(artifact(release, "hello"), spec=spec)
    store.put_artifacts(release.id, release.commit, [made, artifact(release, "bare")])
    store.switch(release.id, lambda _: 2)
    store.save_observed({"hello.api": Observed(available=1, endpoints=["unix@/x"])})
    tally = Tally("test")
    for _ in range(7):
        tally.add("hello.api", "200", 0.1)
    tally.hand_over(store)
    bare, hello = gateway.call("GET", "/system/functions?namespace=api").json()
    created = hello.pop("createdAt")
    assert created.endswith("Z")
    assert hello == {
        "name": "hello",
        "image": f"bundle:sha256:{'0' * 64}",
        "namespace": "api",
        "envVars": {"mode": "on", "version": "1.10"},
        "labels": {"team": "0644", "faas_function": "hello"},
        "annotations": {
            "topic": "a",
            "com.slipway.repository": "fns",
            "com.slipway.commit": release.commit,
            "com.slipway.release": release.id,
        },
        "limits": {"memory": "128Mi"},
        "invocationCount": 7,
        "replicas": 2,
        "availableReplicas": 1,
    }
    assert bare["availableReplicas"] == bare["invocationCount"] == 0
    assert "envVars" not in bare
    for path in ("hello.api", "hello?namespace=api", "hello.api?namespace=api"):
        one = gateway.call("GET", f"/system/function/{path}").json()
        assert one == {**hello, "createdAt": created}, path
    assert gateway.call("GET", "/system/function/hello").status_code == 404
    assert gateway.call("GET", "/system/function/hello.api?namespace=b").status_code == 400
    assert gateway.call("GET", "/system/functions?namespace=b").json() == []
    assert gateway.call("GET", "/system/functions?namespace=B").status_code == 400


def test_usage_is_told_to_who_asks_once_it_was_measured(gateway: Gateway, store: Store) -> None:
    release = started(store)
    store.put_artifacts(release.id, release.commit, [artifact(release, "hello")])
    store.switch(release.id, lambda _: 1)
    path = "/system/function/hello.api"

    store.save_observed({"hello.api": Observed(available=0)})
    assert "usage" not in gateway.call("GET", f"{path}?usage=1").json()
    assert store.usage_asked() == [], "nothing runs that could be measured"
    store.save_observed({"hello.api": Observed(available=1, endpoints=["unix@/x"])})
    for query in ("", "?usage=0", "?usage=", "?usage=never"):
        assert "usage" not in gateway.call("GET", path + query).json()
    assert store.usage_asked() == []

    with ThreadPoolExecutor() as pool:
        first = pool.submit(gateway.call, "GET", f"{path}?usage=1")
        assert until(store.usage_asked) == ["hello.api"]
        store.save_usage({"hello.api": Usage(cpu=12.5, total_memory_bytes=2.0**24)})
        told = {"cpu": 12.5, "totalMemoryBytes": 2**24}
        assert first.result().json()["usage"] == told, "the first waits for it"
    assert gateway.call("GET", f"{path}?usage=true").json()["usage"] == told
    assert store.usage_asked() == [], "it is known"
    assert "usage" not in gateway.call("GET", path).json()
    assert "usage" not in gateway.call("GET", "/system/functions?namespace=api&usage=1").json()[0]

    store.save_usage({"hello.api": Usage(cpu=0, total_memory_bytes=0)})
    assert "usage" not in gateway.call("GET", f"{path}?usage=1").json(), "nothing counts it here"
    assert store.usage_asked() == []
    store.redis.delete(keys.usage("hello.api"))
    assert "usage" not in gateway.call("GET", f"{path}?usage=1").json(), "no controller answers"


def test_namespaces_and_info(gateway: Gateway, store: Store) -> None:
    store.claim_namespace("zoe", "git")
    deploy(store, "x.adam", [])
    assert gateway.call("GET", "/system/namespaces").json() == ["adam", "openfaas-fn", "zoe"]
    info = gateway.call("GET", "/system/info").json()
    assert (info["provider"]["provider"], info["provider"]["orchestration"]) == (
        "slipway",
        "process",
    )
    assert info["version"]["release"]
    # One of an environment may be there before it, where its owner is.
    for name, status in (
        ("zoe--staging", 201),
        ("eve--staging", 400),
        ("zoe--pr-1", 400),
        ("zoe--production", 400),
        ("zoe--staging--x", 400),
    ):
        body = {"name": name, "labels": {"openfaas": "1"}}
        made = gateway.call("POST", "/system/namespace/", json=body)
        assert made.status_code == status, (name, made.text)
    assert info["arch"]


# Health


def test_health_names_what_is_missing(gateway: Gateway, store: Store) -> None:
    answer = gateway.anonymous("GET", "/healthz")
    assert answer.status_code == 503
    assert answer.json()["missing"] == ["worker", "queue", "reporter", "controller"]
    store.beat("worker-1", 60)
    store.beat("queue:1", 60)
    store.beat("reporter:1", 60)
    store.beat("controller", 60)
    answer = gateway.anonymous("GET", "/healthz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "missing": [],
        "parts": dict.fromkeys(
            ["gateway", "store", "worker", "queue", "reporter", "controller"], "ok"
        ),
    }


def test_a_stop_ends_followers_and_lets_requests_finish(
    valkey: str, store: Store, short_tmp: Path
) -> None:
    release = started(store)
    store.append_log(release.id, [line("", "plan", "step", "x")])
    with running(short_tmp, valkey) as gateway:
        path = f"/system/releases/{release.id}/logs?follow=1"
        with gateway.call("GET", path, stream=True) as answer:
            lines = answer.iter_lines()
            assert next(lines)
            begun = time.monotonic()
            stopper = threading.Thread(target=gateway.process.terminate)
            stopper.start()
            rest = [each for each in lines if each]
            stopper.join()
        assert rest == []
        gateway.process.wait(10)
        assert time.monotonic() - begun < 6
        assert gateway.process.returncode == 0
