"""Owners' tokens: made, kept, used, revoked; and what an owner may be tricked or trick into."""

from __future__ import annotations

import base64
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from core import keys
from core.bundle import Bundle, bundle_folder
from core.errors import Conflict, InvalidRequest, NotFound
from core.openfaas import Namespace
from core.scopes import Scope
from core.store import Store
from core.store import tokens as kept_tokens
from tests.integration.gateway.harness import (
    Gateway,
    Upstream,
    answering,
    deploy,
    git_environment,
    repository,
    running,
)
from tests.integration.gateway.places import IMAGE, Places

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def made(gateway: Gateway, **body: object) -> dict[str, Any]:
    answer = gateway.call("POST", "/system/tokens", json={"namespace": "acme", **body})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def acme(store: Store) -> str:
    store.claim_namespace("acme", "git")
    return "acme"


def test_a_token_is_told_once_and_kept_as_a_hash(gateway: Gateway, store: Store, acme: str) -> None:
    new = made(gateway, description="Ann's laptop", scopes=["push", "read"])
    token = new.pop("token")
    assert re.fullmatch(r"slipway_[0-9a-f]{12}_[0-9a-f]{64}", token)
    assert new["scopes"] == ["read", "push"]
    assert (new["namespace"], new["description"], new["expiresAt"]) == (acme, "Ann's laptop", None)
    (listed,) = gateway.call("GET", "/system/tokens").json()
    assert listed == {**new, "lastUsedAt": None}
    secret = token.rpartition("_")[2].encode()
    for key in store.redis.scan_iter():
        assert secret not in (store.redis.dump(key) or b""), key
    assert secret not in msgspec.json.encode(store.snapshot())
    log = (gateway.settings.state.parent / "gateway.log").read_bytes()
    assert secret not in log
    assert b"token_created" in log


def test_a_backup_has_tokens_hashed(gateway: Gateway, store: Store, acme: str) -> None:
    token = made(gateway)["token"]
    snapshot = store.snapshot()
    store.redis.flushall()
    store.begin_with(snapshot)
    found = store.token_of(token)
    assert found
    assert found.namespace == acme
    broken = {**snapshot.hashes, keys.TOKENS: {"0" * 12: snapshot.hashes[keys.TOKENS][found.id]}}
    with pytest.raises(InvalidRequest):
        store.begin_with(msgspec.structs.replace(snapshot, hashes=broken))


def test_a_token_works_as_bearer_and_as_a_password(gateway: Gateway, acme: str) -> None:
    token = made(gateway)["token"]
    assert acme
    for auth, status in (
        (("x", token), 200),
        (("", token), 200),
        (("admin", token), 401),
        (("x", token[:-1]), 401),
        ((token, ""), 401),
        ((token, gateway.auth[1]), 401),
    ):
        answer = gateway.anonymous("GET", "/system/functions", auth=auth)
        assert answer.status_code == status, auth
    for header in (f"bearer {token}", f"Bearer  {token}"):
        told = {"Authorization": header}
        assert gateway.anonymous("GET", "/system/functions", headers=told).status_code == 200
    for header in (f"Bearer {token} x", f"Bearer {token.upper()}", f"token {token}", token):
        told = {"Authorization": header}
        assert gateway.anonymous("GET", "/system/functions", headers=told).status_code == 401
    # Never in a URL.
    query = {"access_token": token, "token": token}
    assert gateway.anonymous("GET", "/system/functions", params=query).status_code == 401


def test_the_last_use_is_known_to_the_minute(gateway: Gateway, store: Store, acme: str) -> None:
    new = store.create_token(acme, [Scope.READ])

    def use() -> float:
        headers = bearer(new.token)
        assert gateway.anonymous("GET", "/system/functions", headers=headers).status_code == 200
        return float(store.redis.hget(keys.TOKENS_USED, new.id) or 0)

    first = use()
    assert abs(first - datetime.now(UTC).timestamp()) < 5
    for ago, changes in ((30, False), (61, True)):
        store.redis.hset(keys.TOKENS_USED, new.id, str(first - ago))
        assert (use() != first - ago) is changes
    (listed,) = store.tokens()
    assert listed.last_used_at
    store.revoke_token(new.id)
    assert store.token_of(new.token) is None
    assert not store.redis.exists(keys.TOKENS_USED)


def test_a_token_ends_with_its_time_its_revocation_or_its_namespace(
    gateway: Gateway, store: Store, acme: str
) -> None:
    def opens(token: str) -> bool:
        return gateway.anonymous("GET", "/system/info", headers=bearer(token)).status_code == 200

    soon = datetime.now(UTC) + timedelta(seconds=1)
    timed = store.create_token(acme, [Scope.READ], expires=soon).token
    revoked, other = (made(gateway) for _ in range(2))
    assert opens(timed)
    assert opens(revoked["token"])
    path = f"/system/tokens/{revoked['id']}"
    assert gateway.call("DELETE", path).status_code == 204
    assert gateway.call("DELETE", path).status_code == 404
    assert not opens(revoked["token"])
    # A token revokes itself, and no other one.
    mine = made(gateway)
    headers = bearer(mine["token"])
    path = f"/system/tokens/{other['id']}"
    assert gateway.anonymous("DELETE", path, headers=headers).status_code == 403
    path = f"/system/tokens/{mine['id']}"
    assert gateway.anonymous("DELETE", path, headers=headers).status_code == 204
    assert not opens(mine["token"])
    assert opens(other["token"])
    assert gateway.call("DELETE", f"/system/namespace/{acme}").status_code == 202
    store.create_namespace(Namespace(name=acme))
    assert not opens(other["token"])
    left = (soon - datetime.now(UTC)).total_seconds()
    store.redis.blpop(["never"], timeout=max(left, 0) + 0.05)  # until it is over
    assert not opens(timed)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"namespace": "nowhere"}, 400),
        ({"namespace": "openfaas-fn"}, 400),
        ({"namespace": "acme--staging"}, 400),
        ({"namespace": "acme", "scopes": []}, 400),
        ({"namespace": "acme", "scopes": ["all"]}, 400),
        ({"namespace": "acme", "description": "a\nb"}, 400),
        ({"namespace": "acme", "description": "a" * 201}, 400),
        ({"namespace": "acme", "expiresAt": "2020-01-01T00:00:00Z"}, 400),
        ({"namespace": "acme", "expiresAt": "2100-01-01T00:00:00"}, 400),
        ({"namespace": "acme", "expiresAt": "soon"}, 400),
        ({"namespace": "acme", "token": "x"}, 400),
        ({}, 400),
    ],
)
def test_what_makes_no_token(
    gateway: Gateway, store: Store, acme: str, body: dict[str, object], status: int
) -> None:
    assert acme
    assert gateway.call("POST", "/system/tokens", json=body).status_code == status
    assert store.tokens() == []


def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch, store: Store, acme: str) -> None:
    monkeypatch.setattr(kept_tokens, "MAX_TOKENS", 2)
    store.claim_namespace("other", "git")
    for _ in range(2):
        store.create_token(acme, list(Scope))
    with pytest.raises(Conflict):
        store.create_token(acme, list(Scope))
    store.create_token("other", list(Scope))
    with pytest.raises(NotFound):
        store.revoke_token("0" * 12)


def test_functions_never_see_a_token(
    gateway: Gateway, store: Store, acme: str, tmp_path: Path
) -> None:
    token = made(gateway)["token"]
    basic = base64.b64encode(f"x:{token}".encode()).decode()
    theirs = base64.b64encode(b"x:slipway_of-their-own").decode()
    with Upstream(tmp_path / "f.sock", answering(OK)) as upstream:
        deploy(store, f"f.{acme}", [upstream.address])
        store.revoke_token(token.split("_")[1])  # nor one that opens nothing any more
        for header, passes in (
            (f"Bearer {token}", False),
            (f"bearer {token}", False),
            (f"Basic {basic}", False),
            (f"Basic {theirs}", True),
            ("Bearer of-another", True),
        ):
            told = {"Authorization": header}
            assert gateway.anonymous("GET", f"/function/f.{acme}", headers=told).ok
            assert ("authorization" in upstream.headers()) is passes, header


# git


def test_an_owner_pushes_and_fetches_within_the_namespace(
    gateway: Gateway, store: Store, acme: str, tmp_path: Path
) -> None:
    store.claim_namespace("umbrella", "git")
    store.claim_namespace("acme-2", "git")
    work = repository(tmp_path / "work", {"a.txt": "x"}, branch="change")

    def git(token: str, *arguments: str) -> bool:
        """With the helper of the user's guide."""
        file = tmp_path / "token"
        file.write_text(token)
        helper = f'!f() {{ echo username=x; echo "password=$(cat {file})"; }}; f'
        command = ["git", "-C", str(work), "-c", f"credential.helper={helper}", *arguments]
        return _run(command, gateway.home)

    both = store.create_token(acme, [Scope.PUSH]).token
    assert git(both, "push", gateway.remote("acme/fns"), "change")
    assert git(both, "ls-remote", "--exit-code", gateway.remote("acme/fns"))
    for other in ("umbrella/fns", "acme-2/fns", "acmex/fns", "nobodys/fns"):
        assert not git(both, "push", gateway.remote(other), "change"), other
        assert not git(both, "ls-remote", gateway.remote(other)), other
    assert store.namespaces() == ["acme", "acme-2", "umbrella"]
    assert [each.key for each in store.repositories()] == ["acme/fns"]
    others = store.create_token(acme, [each for each in Scope if each is not Scope.PUSH]).token
    assert not git(others, "push", gateway.remote("acme/fns"), "change:more")
    assert not git(others, "ls-remote", gateway.remote("acme/fns"))


def _run(command: list[str], home: Path) -> bool:

    done = subprocess.run(
        command, env=git_environment(home), capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


# Ways around


@pytest.fixture
def places(gateway: Gateway, store: Store) -> Places:
    return Places(gateway, store)


def test_nobody_is_led_to_another_owner_s_things(places: Places) -> None:
    theirs, mine = places.of["umbrella"], places.of["acme"]

    def ask(method: str, path: str, **more: Any) -> requests.Response:
        return places.gateway.anonymous(method, path, headers=places.headers["all"], **more)

    def back(**body: str) -> requests.Response:
        return ask("POST", "/system/rollback", json={"namespace": "acme", **body})

    function, foreign = f"f-{mine.mark}", f"f-{theirs.mark}"
    wanted = {"service": "new", "image": IMAGE, "namespace": "acme"}
    for told, answer, status in (
        ("its release", back(repository=f"back-{mine.mark}", to=theirs.live), 404),
        ("its repository", back(repository=f"back-{theirs.mark}"), 404),
        ("its function", back(function=foreign), 404),
        (
            "two namespaces in one request",
            ask("GET", f"/system/function/{foreign}.umbrella", params={"namespace": "acme"}),
            400,
        ),
        (
            "the same the other way round",
            ask("GET", f"/system/function/{function}.acme", params={"namespace": "umbrella"}),
            400,
        ),
        ("its logs", ask("GET", "/system/logs", params={"name": f"{foreign}.umbrella"}), 404),
        (
            "logs by namespace",
            ask("GET", "/system/logs", params={"name": foreign, "namespace": "umbrella"}),
            404,
        ),
        (
            "a scale whose path says another one",
            ask(
                "POST",
                f"/system/scale-function/{foreign}.umbrella",
                json={"replicas": 3, "serviceName": function, "namespace": "acme"},
            ),
            400,
        ),
        (
            "a namespace in the query alone",
            ask(
                "POST",
                f"/system/scale-function/{foreign}",
                json={"replicas": 3},
                params={"namespace": "umbrella"},
            ),
            404,
        ),
        (
            "a deploy by the query",
            ask(
                "POST",
                "/system/functions",
                json={"service": "new", "image": IMAGE},
                params={"namespace": "umbrella"},
            ),
            404,
        ),
        (
            "a deploy without one",
            ask("POST", "/system/functions", json={**wanted, "namespace": ""}),
            404,
        ),
        (
            "its secret",
            ask("POST", "/system/functions", json={**wanted, "secrets": [f"secret-{theirs.mark}"]}),
            400,
        ),
        (
            "an image of anybody's",
            ask("POST", "/system/functions", json={**wanted, "image": "alpine:3"}),
            501,
        ),
        (
            "its dead letters by function",
            ask("POST", "/system/dead-letters/replay", params={"function": f"{foreign}.umbrella"}),
            404,
        ),
        ("its list", ask("GET", "/system/releases", params={"namespace": "umbrella"}), 404),
    ):
        assert answer.status_code == status, (told, answer.status_code, answer.text)
    assert not places.changed() - {keys.WAKE}
    own = ask("GET", "/system/releases", params={"repository": f"back-{theirs.mark}"})
    assert own.json() == []


def test_images_by_api_are_the_admin_s(valkey: str, store: Store, short_tmp: Path) -> None:
    """They may lie in anybody's registry, and run as root where the setting lets them."""
    store.claim_namespace("acme", "git")
    token = store.create_token("acme", list(Scope)).token
    body = {"service": "new", "image": "alpine:3", "namespace": "acme"}
    with running(short_tmp, valkey, SLIPWAY_RUNTIME="docker") as gateway:
        answer = gateway.anonymous("POST", "/system/functions", json=body, headers=bearer(token))
        assert (answer.status_code, "skip_build" in answer.text) == (403, True)
        assert gateway.call("POST", "/system/functions", json=body).status_code == 202


def test_a_bundle_is_its_owner_s_alone(places: Places, store: Store) -> None:
    """The same digest in another owner's folder opens nothing."""
    settings = places.gateway.settings
    digest = "bundle:sha256:" + "e" * 64
    folder = bundle_folder(settings, "umbrella", digest)
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(template="python3-http", process=["python3", "index.py"])
    (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
    body = {"service": "new", "image": digest, "namespace": "acme"}
    headers = places.headers["all"]
    answer = places.gateway.anonymous("POST", "/system/functions", json=body, headers=headers)
    assert answer.status_code == 400
    assert store.function("new.acme") is None


def test_derived_namespaces_are_the_owner_s(places: Places, store: Store) -> None:
    for space in ("acme--staging", "acme-2", "acmex"):
        store.claim_namespace(space, "git")
        store.set_variables(space, {"A": space})
    found = {
        space: places.gateway.anonymous(
            "GET",
            "/system/variables",
            params={"namespace": space},
            headers=places.headers["read"],
        ).status_code
        for space in ("acme", "acme--staging", "acme-2", "acmex")
    }
    assert found == {"acme": 200, "acme--staging": 200, "acme-2": 404, "acmex": 404}
    told = places.gateway.anonymous(
        "GET", "/system/namespaces", headers=places.headers["push"]
    ).json()
    assert told == ["acme", "acme--staging"]
