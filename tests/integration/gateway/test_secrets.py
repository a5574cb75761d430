"""``/system/secrets`` as OpenFaaS' clients use it, and what of a secret the builder may have."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from builder.secrets import build_secret
from core import queues
from core.bundle import Bundle, bundle_folder
from core.errors import BadCredentials, ConfigError, Conflict, NotFound, SlipwayError
from core.models import Artifact, Artifacts, FunctionSpec, Release, State
from core.repositories import Repository
from core.sealing import SealingKey
from core.store import Store, connect, secrets
from runtime.secrets import reader
from tests.integration.gateway.harness import BUILDER, Gateway, artifact, running

SESAME = "Open Sesame 7f3a9c"
SPACES = ("ann", "anna", "bob")

NAMES_IT = FunctionSpec(name="fn", namespace="ann", artifact="x", secrets=["api-key"])
Send = Callable[..., requests.Response]


@pytest.fixture
def send(gateway: Gateway, store: Store) -> Send:
    """(method, body) → answer, as the admin; these namespaces are there."""
    for space in SPACES:
        store.claim_namespace(space, "git")

    def send(method: str, body: Any = None, **more: Any) -> requests.Response:
        return gateway.call(method, "/system/secrets", json=body, **more)

    return send


def named(send: Send, namespace: str = "") -> list[dict[str, str]]:
    answer = send("GET", params={"namespace": namespace} if namespace else {})
    assert answer.headers["Content-Type"] == "application/json"
    found: list[dict[str, str]] = answer.json()
    return found


def value(gateway: Gateway, store: Store, namespace: str, name: str) -> bytes:
    key = SealingKey.read(gateway.settings.secrets_key)
    return store.secret_values(key, namespace, [name])[name]


def test_the_way_of_a_secret(gateway: Gateway, store: Store, send: Send) -> None:
    body = {"name": "api-key", "namespace": "ann", "value": SESAME}
    assert send("PUT", body).status_code == 404
    assert send("POST", body).status_code == 201
    again = send("POST", {**body, "value": "other"})
    assert (again.status_code, "exists already" in again.text) == (409, True)
    assert value(gateway, store, "ann", "api-key") == SESAME.encode()
    assert named(send, "ann") == [{"name": "api-key", "namespace": "ann"}]
    before = store.secret_versions("ann", ["api-key"])
    assert send("PUT", {**body, "value": "new"}).status_code == 200
    assert value(gateway, store, "ann", "api-key") == b"new"
    assert store.secret_versions("ann", ["api-key"]) != before
    # In the query, as older clients have it.
    gone = send("DELETE", {"name": "api-key"}, params={"namespace": "ann"})
    assert gone.status_code == 200
    assert send("DELETE", {"name": "api-key", "namespace": "ann"}).status_code == 404
    assert named(send, "ann") == []


def test_without_a_namespace_it_is_openfaas_own(gateway: Gateway, store: Store, send: Send) -> None:
    raw = base64.b64encode(b"\0\xff\n").decode()
    body = {"name": "tls.key", "rawValue": raw, "value": "not this", "unknown": 1}
    assert send("POST", body).status_code == 201
    assert (
        named(send)
        == named(send, "openfaas-fn")
        == [{"name": "tls.key", "namespace": "openfaas-fn"}]
    )
    assert value(gateway, store, "openfaas-fn", "tls.key") == b"\0\xff\n"
    assert send("DELETE", {"name": "tls.key"}).status_code == 200


def test_values_never_leave(gateway: Gateway, store: Store, send: Send) -> None:
    body = {"name": "api-key", "namespace": "ann", "value": SESAME}
    answers = [send("POST", body), send("POST", body), send("PUT", body), send("GET")]
    answers += [send("POST", {**body, "name": "Bad Name"}), send("PUT", {**body, "name": 7})]
    answers += [send("POST", {**body, "namespace": "nowhere"})]
    problem = {"Accept": "application/problem+json"}
    answers += [send("POST", {**body, "rawValue": f"{SESAME}!"}, headers=problem)]
    answers += [send("DELETE", body)]
    assert {answer.status_code for answer in answers} == {200, 201, 400, 409, 422}
    for answer in answers:
        assert SESAME not in answer.text
    log = (gateway.settings.state.parent / "gateway.log").read_text()
    assert '"api-key"' in log
    assert SESAME not in log
    for row in store.redis.hgetall("slipway:secrets").values():  # type: ignore[union-attr]  # redis' stubs
        assert SESAME.encode() not in row
        assert base64.b64encode(SESAME.encode())[:16] not in row


BAD: dict[str, tuple[Any, int, str]] = {
    "no json": (b"{", 400, "JSON"),
    "no body": (b"", 400, "JSON"),
    "a list": ([], 400, "object"),
    "no name": ({"value": "x"}, 400, "name"),
    "empty name": ({"name": "", "value": "x"}, 400, "no name"),
    "name of another type": ({"name": 7, "value": "x"}, 400, "str"),
    "no value": ({"name": "a"}, 400, "rawValue"),
    "empty value": ({"name": "a", "value": ""}, 400, "rawValue"),
    "no base64": ({"name": "a", "rawValue": "%%%"}, 400, "base64"),
    "half a character": (b'{"name": "a", "value": "\\ud800"}', 400, "JSON"),
    "upper case": ({"name": "API", "value": "x"}, 422, "lower-case"),
    "a path": ({"name": "../../etc/passwd", "value": "x"}, 422, "lower-case"),
    "a NUL": ({"name": "a\0b", "value": "x"}, 422, "lower-case"),
    "a line": ({"name": "a\n", "value": "x"}, 422, "lower-case"),
    "too long a name": ({"name": "a" * 254, "value": "x"}, 422, "253"),
    "too large": ({"name": "a", "value": "x" * (2**20 + 1)}, 422, "1048576"),
    "no such namespace": ({"name": "a", "namespace": "nowhere", "value": "x"}, 400, "no namespace"),
    "no namespace at all": ({"name": "a", "namespace": "A b", "value": "x"}, 400, "namespace"),
    "far too large": (b'{"name": "a", "value": "' + b"x" * 2**23 + b'"}', 413, "limit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bodies_are_refused_and_change_nothing(
    gateway: Gateway, store: Store, case: str
) -> None:
    body, status, told = BAD[case]
    data = body if isinstance(body, bytes) else json.dumps(body)
    for method in ("POST", "PUT"):
        answer = gateway.call(method, "/system/secrets", data=data)
        assert (answer.status_code, told in answer.text) == (status, True), answer.text
    assert store.redis.hlen("slipway:secrets") == 0


def test_bounds(
    gateway: Gateway, store: Store, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = ".".join(["a" * 63] * 4)[:253]
    most = {"name": longest, "namespace": "ann", "value": "é" * 2**19}
    assert send("POST", most).status_code == 201
    assert value(gateway, store, "ann", longest) == b"\xc3\xa9" * 2**19
    monkeypatch.setattr(secrets, "MAX_SECRETS", 2)
    key = SealingKey.read(gateway.settings.secrets_key)
    store.create_secret(key, "ann", "second", b"x")
    with pytest.raises(Conflict, match="which is the most"):
        store.create_secret(key, "ann", "third", b"x")
    store.create_secret(key, "bob", "first", b"x")
    store.update_secret(key, "ann", "second", b"y")


def test_nobody_but_the_admin_is_let_in(gateway: Gateway, send: Send) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = gateway.anonymous(method, "/system/secrets", data="{")
        assert answer.status_code == 401
        bearer = {"Authorization": f"Bearer {gateway.token}"}
        answer = gateway.anonymous(method, "/system/secrets", headers=bearer, data="{")
        assert answer.status_code == 403
    assert send("PATCH").status_code == 405


def test_one_namespace_cannot_name_anothers(gateway: Gateway, store: Store, send: Send) -> None:
    send("POST", {"name": "api-key", "namespace": "anna", "value": SESAME})
    assert named(send, "ann") == []
    for name in ("api-key", "a/api-key", "../anna/api-key", "anna/api-key"):
        with pytest.raises(SlipwayError):
            store.secret_versions("ann", [name])
    with pytest.raises(SlipwayError):
        store.secret_versions("ann/x", ["api-key"])
    # Nor does a value that is copied to another name in the store open there.
    raw = store.redis.hget("slipway:secrets", "anna/api-key")
    store.redis.hset("slipway:secrets", "ann/api-key", raw)  # type: ignore[arg-type]  # it is bytes
    with pytest.raises(ConfigError, match="copied from another name"):
        value(gateway, store, "ann", "api-key")
    assert value(gateway, store, "anna", "api-key") == SESAME.encode()


def test_deleting_a_used_secret_names_its_users(gateway: Gateway, store: Store, send: Send) -> None:
    release = building(store)
    send("POST", {"name": "api-key", "namespace": "ann", "value": SESAME})
    assert hand_over(gateway, release, ["api-key"]).status_code == 200
    store.switch(release.id, lambda _: 1)
    changed = send("PUT", {"name": "api-key", "namespace": "ann", "value": "new"})
    assert "used by hello.ann" in changed.text
    deleted = send("DELETE", {"name": "api-key", "namespace": "ann"})
    assert (deleted.status_code, "used by hello.ann" in deleted.text) == (200, True)


def building(store: Store) -> Release:
    known = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
    store.save_repository(known)
    release = store.create_release(known, "a" * 40, "main", again=True)
    queues.dispatch(store, known.key)
    return store.move(release.id, BUILDER, State.BUILDING)


def hand_over(
    gateway: Gateway, release: Release, names: list[str], **more: Any
) -> requests.Response:
    made = artifact(release, "hello")
    folder = bundle_folder(gateway.settings, release.namespace, made.artifact)
    if not folder.exists():
        (folder / "app").mkdir(parents=True)
        bundle = Bundle(template="python3-http", process=["python3", "index.py"])
        (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
    spec: FunctionSpec = msgspec.structs.replace(made.spec, secrets=names, **more)
    whole: Artifact = msgspec.structs.replace(made, spec=spec)
    return gateway.anonymous(
        "PUT",
        f"/system/releases/{release.id}/artifacts",
        headers={"Authorization": f"Bearer {gateway.token}"},
        data=msgspec.json.encode(Artifacts(commit=release.commit, functions=[whole])),
    )


def test_a_release_is_of_the_values_at_its_handover(
    gateway: Gateway, store: Store, send: Send
) -> None:
    release = building(store)
    missing = hand_over(gateway, release, ["api-key", "other"])
    assert missing.status_code == 404
    assert "ann has not the secrets api-key, other" in missing.text
    assert store.release(release.id).state is State.BUILDING
    send("POST", {"name": "api-key", "namespace": "ann", "value": SESAME})
    forged = {"api-key": "as the builder says"}
    assert hand_over(gateway, release, ["api-key"], secret_versions=forged).status_code == 200
    versions = store.secret_versions("ann", ["api-key"])
    (first,) = store.artifacts(release.id)
    assert first.spec.secret_versions == versions
    send("PUT", {"name": "api-key", "namespace": "ann", "value": "new"})
    # Repeated, as a builder does whose answer was lost: nothing changes.
    assert hand_over(gateway, release, ["api-key"]).status_code == 200
    assert store.artifacts(release.id) == [first]
    store.switch(release.id, lambda _: 1)
    store.finish(release.id, "http://slipway.test")
    queues.dispatch(store, "ann/fns")
    later = building(store)
    assert hand_over(gateway, later, ["api-key"]).status_code == 200
    (second,) = store.artifacts(later.id)
    assert second.spec.revision != first.spec.revision


def test_the_builder_reads_those_of_the_release_it_builds(
    gateway: Gateway, store: Store, send: Send
) -> None:
    for space in ("ann", "bob"):
        send("POST", {"name": "npm-token", "namespace": space, "value": f"{SESAME} of {space}"})
    send("POST", {"name": "only-bobs", "namespace": "bob", "value": SESAME})
    release = building(store)
    settings = gateway.settings
    assert build_secret(settings, release, "npm-token") == f"{SESAME} of ann".encode()
    with pytest.raises(NotFound, match="ann has not the secret only-bobs"):
        build_secret(settings, release, "only-bobs")
    for name in ("../bob/only-bobs", "bob/only-bobs", ""):
        with pytest.raises(SlipwayError, match="400"):
            build_secret(settings, release, name)
    path = f"/internal/releases/{release.id}/secrets"
    wanted = {"name": "npm-token"}
    for auth in (gateway.auth, ("admin", gateway.token), None):
        answer = gateway.anonymous("GET", path, auth=auth, params=wanted)
        assert (answer.status_code, SESAME in answer.text) == (BadCredentials.status, False)
    bearer = {"Authorization": f"Bearer {gateway.token}"}
    assert gateway.anonymous("GET", path, headers=bearer).status_code == 400
    store.move(release.id, BUILDER, State.TESTING)
    assert gateway.anonymous("GET", path, headers=bearer, params=wanted).status_code == 200
    store.cancel(release.id, "enough")
    with pytest.raises(Conflict, match="for its build alone"):
        build_secret(settings, release, "npm-token")
    log = (settings.state.parent / "gateway.log").read_text()
    assert "npm-token" in log
    assert SESAME not in log


@pytest.fixture
def another(short_tmp: Path, valkey: str, store: Store) -> Iterator[Gateway]:
    """A gateway whose key may be lost."""
    with running(short_tmp, valkey) as found:
        store.claim_namespace("ann", "git")
        yield found


def test_a_lost_or_wrong_key_is_told_and_nothing_is_lost(another: Gateway, store: Store) -> None:
    path, file = "/system/secrets", another.settings.secrets_key
    body = {"name": "api-key", "namespace": "ann", "value": SESAME}
    assert another.call("POST", path, json=body).status_code == 201
    assert file.stat().st_mode & 0o777 == 0o600
    kept = file.read_bytes()
    read = reader(another.settings, store)
    file.unlink()
    for method, name in (("POST", "second"), ("PUT", "api-key")):
        answer = another.call(method, path, json={**body, "name": name})
        assert (answer.status_code, f"{file} is not there" in answer.text) == (500, True)
    with pytest.raises(ConfigError, match="is not there"):
        read(NAMES_IT)
    assert not file.exists()
    for wrong, told in ((kept.swapcase(), "another key"), (b"rubbish\n", "no key for secrets")):
        file.write_bytes(wrong)
        with pytest.raises(ConfigError, match=f"(?s){told}.*|{file}.*{told}"):
            read(NAMES_IT)
    file.write_bytes(kept)
    assert read(NAMES_IT) == {"api-key": SESAME.encode()}
    # Whoever has lost it for good deletes what it sealed, and begins anew.
    file.unlink()
    assert another.call("DELETE", path, json=body).status_code == 200
    assert another.call("POST", path, json=body).status_code == 201
    assert read(NAMES_IT) == {"api-key": SESAME.encode()}


def test_the_runtime_waits_for_a_store_that_is_away(another: Gateway) -> None:
    gone = Store(connect("unix:///nowhere/redis.sock"))
    gone.redis.connection_pool.connection_kwargs["retry"] = None
    another.settings.secrets_key.write_text(base64.urlsafe_b64encode(bytes(32)).decode())
    with pytest.raises(SlipwayError) as told:
        reader(another.settings, gone)(NAMES_IT)
    assert told.value.retryable
