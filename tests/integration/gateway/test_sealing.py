"""Sealing keys over HTTP, and what a handed over function may have sealed."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from click.testing import CliRunner, Result

from builder.secrets import build_secret
from cli.main import main
from core import queues, sealedfile
from core.bundle import Bundle, bundle_folder
from core.errors import SlipwayError
from core.models import Artifact, Artifacts, FunctionSpec, Release, State
from core.repositories import Repository, Request
from core.sealedbox import KEY_BYTES, KeyPair, Place, decoded, parse, seal
from core.store import Store
from core.store.repositories import identified
from runtime.sealingkeys import SealingKeys
from tests.integration.gateway.harness import BUILDER, Gateway, artifact
from tests.waiting import until

SESAME = "Open Sesame 77aa"
NAME = "db-password"


@pytest.fixture
def held(gateway: Gateway, store: Store) -> SealingKeys:
    """The runtime's keys, as it has them."""
    shutil.rmtree(gateway.settings.sealing_keys, ignore_errors=True)
    made = SealingKeys(gateway.settings.sealing_keys)
    made.tend(store)
    return made


@pytest.fixture
def runtime(held: SealingKeys, store: Store) -> Iterator[SealingKeys]:
    """The same, looked after."""
    stop = threading.Event()
    keeper = threading.Thread(target=held.follow, args=[store, stop], daemon=True)
    keeper.start()
    yield held
    stop.set()
    keeper.join()


@pytest.fixture
def fns(store: Store) -> Repository:
    store.claim_namespace("ann", "git")
    known = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
    store.save_repository(identified(known))
    return store.repository("ann", "fns")


def building(store: Store, repository: Repository) -> Release:
    release = store.create_release(repository, "a" * 40, "main", again=True)
    queues.dispatch(store, repository.key)
    return store.move(release.id, BUILDER, State.BUILDING)


def sealed(store: Store, repository: Repository, name: str = NAME) -> str:
    place = Place(repository.secrets_namespace, store.repository_id(repository), name)
    return seal(decoded(store.sealing_key_of().key), place, SESAME.encode())


def hand_over(gateway: Gateway, release: Release, **fields: Any) -> requests.Response:
    made = artifact(release, "hello")
    folder = bundle_folder(gateway.settings, release.namespace, made.artifact)
    if not folder.exists():
        (folder / "app").mkdir(parents=True)
        bundle = Bundle(template="python3-http", process=["python3", "index.py"])
        (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
    spec: FunctionSpec = msgspec.structs.replace(made.spec, **fields)
    whole: Artifact = msgspec.structs.replace(made, spec=spec)
    return gateway.anonymous(
        "PUT",
        f"/system/releases/{release.id}/artifacts",
        headers={"Authorization": f"Bearer {gateway.token}"},
        data=msgspec.json.encode(Artifacts(commit=release.commit, functions=[whole])),
    )


def slipway(gateway: Gateway, *arguments: str, given: bytes = b"") -> Result:
    told = ["--state", str(gateway.settings.state), "--url", gateway.url, *arguments]
    return CliRunner().invoke(main, told, input=given)


# Keys.


def test_the_public_key_is_everybody_s(gateway: Gateway, store: Store) -> None:
    missing = gateway.anonymous("GET", "/sealing-key")
    assert (missing.status_code, "ask again" in missing.text) == (503, True)
    SealingKeys(gateway.settings.sealing_keys).tend(store)
    found = gateway.anonymous("GET", "/sealing-key")
    assert found.status_code == 200
    assert set(found.json()) == {"fingerprint", "key", "createdAt"}
    assert found.json()["key"] == store.sealing_key_of().key


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/system/sealing-key?namespace=ann&repository=fns"),
        ("GET", "/system/sealing-keys"),
        ("POST", "/system/sealing-keys"),
        ("DELETE", "/system/sealing-keys/0123456789abcdef"),
    ],
)
@pytest.mark.usefixtures("held")
def test_the_rest_is_the_admins(gateway: Gateway, method: str, path: str) -> None:
    assert gateway.anonymous(method, path).status_code == 401
    builder = {"Authorization": f"Bearer {gateway.token}"}
    assert gateway.anonymous(method, path, headers=builder).status_code == 403


@pytest.mark.usefixtures("held")
def test_a_repository_s_address(gateway: Gateway, store: Store, fns: Repository) -> None:
    path = "/system/sealing-key"
    found = gateway.call("GET", path, params={"namespace": "ann", "repository": "fns"}).json()
    assert (found["namespace"], found["repositoryId"]) == ("ann", f"git:{fns.forge_id}")
    assert found["fingerprint"] == store.sealing_key_of().fingerprint
    wanted = {"namespace": "ann", "repository": "fns", "environment": "staging"}
    staging = gateway.call("GET", path, params=wanted).json()
    assert (staging["namespace"], staging["repositoryId"]) == (
        "ann--staging",
        found["repositoryId"],
    )
    child = Repository(namespace="ann--staging", name="fns", source="git", parent=fns.key)
    preview = msgspec.structs.replace(child, namespace="ann--pr-5", request=Request(number=5))
    for each, space in ((child, "ann--staging"), (preview, "ann--preview")):
        store.save_repository(each)
        its = gateway.call("GET", path, params={"namespace": each.namespace, "repository": "fns"})
        assert its.json() == {**found, "namespace": space}
    for params, status in (
        ({"namespace": "ann", "repository": "gone"}, 404),
        ({"namespace": "ann"}, 400),
        ({"namespace": "../x", "repository": "fns"}, 400),
        ({**wanted, "environment": "a--b"}, 400),
    ):
        assert gateway.call("GET", path, params=params).status_code == status


def test_a_key_is_renewed_and_an_old_one_removed(
    gateway: Gateway, store: Store, runtime: SealingKeys, fns: Repository
) -> None:
    old = store.sealing_key_of().fingerprint
    release = building(store, fns)
    done = hand_over(gateway, release, secrets=[NAME], sealed={NAME: sealed(store, fns)})
    assert done.status_code == 200, done.text
    made = gateway.call("POST", "/system/sealing-keys")
    assert (made.status_code, made.json()) == (202, {"number": 2})
    until(lambda: store.sealing_key_of().number == 2, 10)
    new = store.sealing_key_of().fingerprint
    assert new != old
    listed = gateway.call("GET", "/system/sealing-keys").json()
    assert [(each["fingerprint"], each["current"], each["functions"]) for each in listed] == [
        (old, False, ["hello.ann"]),
        (new, True, []),
    ]
    path = f"/system/sealing-keys/{old}"
    needed = gateway.call("DELETE", path)
    assert (needed.status_code, "still needed by hello.ann" in needed.text) == (409, True)
    current = gateway.call("DELETE", f"/system/sealing-keys/{new}")
    assert (current.status_code, "sealing-keys rotate" in current.text) == (409, True)
    store.cancel(release.id, "not wanted")
    assert gateway.call("DELETE", path).status_code == 202
    until(lambda: {each.name for each in runtime.folder.iterdir()} == {new}, 10)
    for unknown in (old, "0" * 16, "x", "0123456789abcdeF"):
        assert gateway.call("DELETE", f"/system/sealing-keys/{unknown}").status_code == 404


# What is handed over.


@pytest.mark.usefixtures("held")
def test_the_address_is_never_the_builders_word(
    gateway: Gateway, store: Store, fns: Repository
) -> None:
    text = sealed(store, fns)
    forged = {"repository_id": "git:of-somebody-else", "secrets_namespace": "bob"}
    release = building(store, fns)
    done = hand_over(gateway, release, secrets=[NAME], sealed={NAME: text}, **forged)
    assert done.status_code == 200, done.text
    (staged,) = store.artifacts(release.id)
    assert staged.spec.repository_id == f"git:{fns.forge_id}"
    assert staged.spec.secrets_namespace == ""
    assert staged.spec.sealed == {NAME: text}
    assert staged.spec.secret_versions is None
    repeated = hand_over(gateway, release, secrets=[NAME], sealed={NAME: text})
    assert repeated.status_code == 200
    assert store.artifacts(release.id) == [staged]
    store.switch(release.id, lambda _: 1)
    store.finish(release.id, "http://slipway.test")
    for path in ("/system/functions", "/system/function/hello?namespace=ann"):
        shown = gateway.call("GET", path)
        assert shown.status_code == 200
        for kept_inside in ("sealed", "repositoryId", text[40:80]):
            assert kept_inside not in shown.text


@pytest.mark.usefixtures("held")
def test_what_is_not_as_it_has_to_be_is_refused(
    gateway: Gateway, store: Store, fns: Repository
) -> None:
    text = sealed(store, fns)
    stranger = KeyPair(b"\7" * KEY_BYTES)
    theirs = seal(stranger.public, Place("ann", f"git:{fns.forge_id}", NAME), b"x")
    release = building(store, fns)
    for fields, why in (
        ({"secrets": [NAME], "sealed": {NAME: "hunter2"}}, "no sealed value"),
        ({"secrets": [NAME], "sealed": {NAME: theirs}}, f"the key {stranger.fingerprint}, which"),
        ({"secrets": [], "sealed": {NAME: text}}, "does not name it in its secrets"),
        ({"secrets": ["../../x"], "sealed": {"../../x": text}}, "not a secret's name"),
    ):
        refused = hand_over(gateway, release, **fields)
        assert (refused.status_code, why in refused.text) == (400, True), refused.text
        assert "hunter2" not in refused.text
    assert "slipway seal" in hand_over(gateway, release, secrets=[NAME], sealed={NAME: theirs}).text
    assert store.release(release.id).state is State.BUILDING


@pytest.mark.usefixtures("fns")
def test_a_deploy_by_api_has_nothing_sealed(gateway: Gateway, store: Store) -> None:
    body = {
        "service": "x",
        "namespace": "ann",
        "image": "ghcr.io/me/x:1",
        "secrets": [NAME],
        "sealed": {NAME: "sealed:1:0123456789abcdef:AAAA"},
        "repositoryId": "git:1",
    }
    answer = gateway.call("POST", "/system/functions", json=body)
    assert answer.status_code >= 400
    assert store.function("x.ann") is None


@pytest.mark.usefixtures("held")
def test_a_request_of_a_fork_gets_none_and_another_one_those_of_previews(
    gateway: Gateway, store: Store, fns: Repository
) -> None:
    key = store.sealing_key(gateway.settings.secrets_key)
    store.create_secret(key, "ann", "api-key", SESAME.encode())
    preview = Repository(
        namespace="ann--pr-5",
        name="fns",
        source="git",
        deploy_branch="refs/pull/5/head",
        parent=fns.key,
        request=Request(number=5, fork=True, approved="a" * 40),
    )
    store.claim_namespace(preview.namespace, "git")
    store.claim_namespace("ann--preview", "git")
    store.create_secret(key, "ann--preview", "api-key", b"of previews")
    store.save_repository(preview)
    text = sealed(store, msgspec.structs.replace(preview, request=Request(number=5)))
    for fields in ({"secrets": ["api-key"]}, {"secrets": [NAME], "sealed": {NAME: text}}):
        release = building(store, preview)
        with pytest.raises(SlipwayError, match="403"):
            build_secret(gateway.settings, release, "api-key")
        assert hand_over(gateway, release, **fields).status_code == 200
        (staged,) = store.artifacts(release.id)
        assert (staged.spec.secrets, staged.spec.sealed, staged.spec.repository_id) == (
            None,
            None,
            "",
        )
        store.cancel(release.id, "again")
    release = building(store, preview)

    own = msgspec.structs.replace(preview, request=Request(number=5))
    store.save_repository(own)
    assert build_secret(gateway.settings, release, "api-key") == b"of previews"
    done = hand_over(gateway, release, secrets=["api-key", NAME], sealed={NAME: text})
    assert done.status_code == 200, done.text
    (staged,) = store.artifacts(release.id)
    assert staged.spec.secrets_namespace == "ann--preview"
    assert staged.spec.repository_id == f"git:{fns.forge_id}"
    assert staged.spec.secret_versions == store.secret_versions("ann--preview", ["api-key"])


# The command.


def test_a_value_is_sealed_asked_for_or_offline(
    gateway: Gateway, store: Store, held: SealingKeys, fns: Repository, tmp_path: Path
) -> None:
    file, pub = tmp_path / "sealed.yml", tmp_path / "pub.json"
    one = ["seal", NAME, "--repository", "ann/fns", "--file", str(file)]
    done = slipway(gateway, *one, given=f"{SESAME}\n".encode())
    assert done.exit_code == 0, done.output
    assert f"{file}, line 2: {NAME} is sealed for ann (git:{fns.forge_id})" in done.output
    assert SESAME not in done.output
    shown = slipway(gateway, "sealing-keys", "show", "ann/fns", "--environment", "staging")
    pub.write_text(shown.output)
    value = tmp_path / "value"
    value.write_bytes(b"two\n")
    offline = ["--url", "http://127.0.0.1:9", "seal", NAME, "--key-file", str(pub)]
    arguments = [*offline, "--file", str(file), "--from-file", str(value), "--verbatim"]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0, told.output
    bare = {each: json.loads(shown.output)[each] for each in ("key", "fingerprint")}
    pub.write_text(json.dumps(bare))
    arguments = [*offline, "--file", str(file), "--repository", "bob/x"]
    incomplete = CliRunner().invoke(main, arguments, input=b"three")
    assert (incomplete.exit_code, "--repository-id" in incomplete.output) == (2, True)
    third = CliRunner().invoke(main, [*arguments, "--repository-id", "gitlab:9"], input=b"three")
    assert third.exit_code == 0, third.output

    found = sealedfile.read(file.read_bytes())
    for space, id_, plain in (
        ("ann", f"git:{fns.forge_id}", SESAME.encode()),
        ("ann--staging", f"git:{fns.forge_id}", b"two\n"),
        ("bob", "gitlab:9", b"three"),
    ):
        assert held.open(found[space][NAME].text, Place(space, id_, NAME)) == plain
    assert parse(found["ann"][NAME].text).fingerprint == store.sealing_key_of().fingerprint
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["pub.json", "sealed.yml", "value"]


@pytest.mark.usefixtures("held", "fns")
def test_what_cannot_be_sealed_is_told_and_changes_nothing(
    gateway: Gateway, tmp_path: Path
) -> None:
    file = tmp_path / "sealed.yml"
    at = ["--file", str(file)]
    for arguments, status, why in (
        (["seal", NAME, *at], 2, "--repository <namespace>/<name>"),
        (["seal", "Not A Name", "-r", "ann/fns", *at], 1, "not a secret's name"),
        (["seal", NAME, "-r", "ann/gone", *at], 1, "there is no repository ann/gone"),
        (["seal", NAME, "-r", "ann/fns", "--repository-id", "git:1", *at], 2, "--key-file"),
        (["seal", NAME, "-r", "ann/fns", "--file", str(tmp_path / "x" / "y")], 1, "be written"),
        (["seal", NAME, "-r", "ann/fns", "--from-file", "/nowhere", *at], 1, "cannot be read"),
        (["sealing-keys", "remove", "x"], 2, "16 hex digits"),
    ):
        done = slipway(gateway, *arguments, given=b"value")
        assert (done.exit_code, why in done.output) == (status, True), done.output
    assert slipway(gateway, "seal", NAME, "-r", "ann/fns", *at, given=b"\n").exit_code == 1
    assert not file.exists()
    file.write_text("ann:\n  db-password: hunter2\n")
    done = slipway(gateway, "seal", "other", "-r", "ann/fns", *at, given=b"value")
    assert (done.exit_code, "no sealed value" in done.output) == (1, True)
    assert file.read_text() == "ann:\n  db-password: hunter2\n"
    pub = tmp_path / "pub.json"
    for content, why in (
        ("[]", "is no key file"),
        ('{"fingerprint": "0123456789abcdef", "key": "AAAA"}', "is not the one of the fingerprint"),
    ):
        pub.write_text(content)
        file.unlink(missing_ok=True)
        told = [*("--key-file", str(pub), "-r", "a/b", "--repository-id", "git:1"), *at]
        done = slipway(gateway, "seal", NAME, *told, given=b"value")
        assert (done.exit_code, why in done.output) == (1, True), done.output


@pytest.mark.usefixtures("runtime")
def test_keys_are_listed_renewed_and_removed(gateway: Gateway, store: Store) -> None:
    old = store.sealing_key_of().fingerprint
    made = slipway(gateway, "sealing-keys", "rotate")
    assert made.exit_code == 0, made.output
    new = made.output.split()[-1]  # after what the keeper, in this process, logs
    assert new == store.sealing_key_of().fingerprint != old
    listed = slipway(gateway, "sealing-keys", "list").output.splitlines()
    assert [line.split()[0] for line in listed] == ["KEY", old, new]
    removed = slipway(gateway, "sealing-keys", "remove", old)
    assert (removed.exit_code, f"the key {old} is removed" in removed.output) == (0, True)
    told = slipway(gateway, "sealing-keys", "list", "--output", "json")
    assert [each["fingerprint"] for each in json.loads(told.output)] == [new]
