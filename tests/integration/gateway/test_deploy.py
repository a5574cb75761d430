"""Deploying, deleting and scaling functions by API, and namespaces, as OpenFaaS' clients do it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from core import queues
from core.bundle import Bundle, bundle_folder
from core.errors import Conflict
from core.models import Observed, Release, State
from core.repositories import Repository
from core.store import Store
from tests.integration.gateway.harness import BUILDER, Gateway, artifact, deploy, running

pytestmark = pytest.mark.usefixtures("store")

FIGLET = {"service": "figlet", "image": "ghcr.io/openfaas/figlet:0.1"}
BUNDLE = f"bundle:sha256:{'0' * 64}"


@pytest.fixture(scope="module")
def images(valkey: str) -> Iterator[Gateway]:
    """A gateway whose runtime takes images."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, valkey, SLIPWAY_RUNTIME="docker") as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)


def send(gateway: Gateway, method: str, **body: Any) -> requests.Response:
    return gateway.call(method, "/system/functions", json=body)


def read(gateway: Gateway, name: str) -> dict[str, Any]:
    answer = gateway.call("GET", f"/system/function/{name}")
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def put_bundle(gateway: Gateway, namespace: str) -> None:
    folder = bundle_folder(gateway.settings, namespace, BUNDLE)
    folder.mkdir(parents=True, exist_ok=True)
    document = Bundle(template="python3-http", process=["python3", "index.py"])
    (folder / "bundle.json").write_bytes(msgspec.json.encode(document))


# Functions


def test_a_function_is_deployed_updated_and_deleted(images: Gateway, store: Store) -> None:
    refused = send(images, "PUT", **FIGLET)
    assert (refused.status_code, "POST creates it" in refused.text) == (404, True)
    assert send(images, "POST", **FIGLET).status_code == 202
    found = read(images, "figlet")
    created = found.pop("createdAt")
    assert found == {
        "name": "figlet",
        "image": FIGLET["image"],
        "namespace": "openfaas-fn",
        "labels": {"faas_function": "figlet"},
        "annotations": {"com.slipway.trouble": "it was deployed just now"},
        "invocationCount": 0,
        "replicas": 1,
        "availableReplicas": 0,
    }
    again = send(images, "POST", **FIGLET)
    assert (again.status_code, "PUT updates it" in again.text) == (409, True)
    first = store.function("figlet.openfaas-fn")
    assert first
    assert first.previous is None
    assert send(images, "PUT", **FIGLET, envVars={"a": "on"}).status_code == 202
    assert send(images, "PUT", **FIGLET, envVars={"a": "1.10"}).status_code == 202
    last = store.function("figlet.openfaas-fn")
    assert last
    assert last.previous == first.spec, "what served first goes on until one is healthy"
    assert last.spec.revision != first.spec.revision
    found = read(images, "figlet.openfaas-fn")
    assert (found["envVars"], found["createdAt"]) == ({"a": "1.10"}, created)
    assert send(images, "DELETE", functionName="figlet").status_code == 202
    assert send(images, "DELETE", functionName="figlet").status_code == 404
    assert store.functions() == {}


def test_the_same_once_more_is_a_new_revision(images: Gateway, store: Store) -> None:
    assert send(images, "POST", **FIGLET).ok
    before = store.functions()["figlet.openfaas-fn"].spec.revision
    assert send(images, "PUT", **FIGLET).ok
    assert store.functions()["figlet.openfaas-fn"].spec.revision != before


def test_values_come_back_as_they_were_sent(images: Gateway, store: Store) -> None:
    key = store.sealing_key(images.settings.secrets_key)
    store.create_secret(key, "openfaas-fn", "api-key", b"hush")
    sent = {
        **FIGLET,
        "envProcess": "cat /etc/hosts",
        "envVars": {"mode": "0644", "empty": ""},
        "constraints": ["node.role == worker"],
        "secrets": ["api-key"],
        "labels": {"com.openfaas.scale.min": "2", "team": "a b"},
        "annotations": {"topic": "x,y", "com.slipway.release": "r1-made-up"},
        "limits": {"memory": "5Mi", "cpu": "100m"},
        "requests": {"memory": "128M"},
        "readOnlyRootFilesystem": False,
        "registryAuth": "abc",
        "network": "func_functions",
    }
    assert send(images, "POST", **sent).status_code == 202
    found = read(images, "figlet")
    del found["annotations"]["com.slipway.trouble"]
    assert found["annotations"] == {"topic": "x,y"}, "what Slipway itself tells cannot be made up"
    made_up = {"com.slipway.release": "r1-made-up", "com.slipway.repository": "fns"}
    assert send(images, "PUT", **{**sent, "annotations": made_up}).status_code == 202
    assert set(read(images, "figlet")["annotations"]) == {"com.slipway.trouble"}
    assert found["labels"] == {**sent["labels"], "faas_function": "figlet"}  # type: ignore[dict-item]  # it is one
    assert found["replicas"] == 2
    for name in ("envProcess", "envVars", "constraints", "secrets", "limits", "requests"):
        assert found[name] == sent[name], name
    assert found["readOnlyRootFilesystem"] is False
    assert "hush" not in str(found)
    spec = store.functions()["figlet.openfaas-fn"].spec
    assert spec.secret_versions == store.secret_versions("openfaas-fn", ["api-key"])


@pytest.mark.parametrize("where", ["body", "query", "both"])
def test_the_namespace_stands_in_the_body_or_in_the_query(
    images: Gateway, store: Store, where: str
) -> None:
    store.claim_namespace("ann", "git")
    query = {"body": "", "query": "?namespace=ann", "both": "?namespace=nobody"}[where]
    body = {} if where == "query" else {"namespace": "ann"}
    path = f"/system/functions{query}"
    assert images.call("POST", path, json={**FIGLET, **body}).status_code == 202
    assert read(images, "figlet.ann")["namespace"] == "ann"
    scaled = {"serviceName": "figlet", "replicas": 3, **body}
    told = images.call("POST", f"/system/scale-function/figlet{query}", json=scaled)
    assert told.status_code == 202, told.text
    assert read(images, "figlet.ann")["replicas"] == 3
    gone = images.call("DELETE", path, json={"functionName": "figlet", **body})
    assert gone.status_code == 202, gone.text
    assert store.functions() == {}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body is not the JSON"),
        (b"{", "the body is not the JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `service`"),
        (b'{"service":"x"}', "missing required field `image`"),
        (b'{"service":1,"image":"x"}', "`$.service`"),
        (b'{"service":"x","image":"x","envVars":{"A":1}}', "`$.envVars[...]`"),
        (b'{"service":"x","image":"x","secrets":"a"}', "`$.secrets`"),
        (b'{"service":"x","image":"x","limits":{"memory":5}}', "`$.limits.memory`"),
        (b'{"service":"x","image":"x","readOnlyRootFilesystem":"yes"}', "readOnlyRoot"),
        (b'{"service":"x","image":"x","labels":{"a":null}}', "`$.labels[...]`"),
        (b'{"service":"x","image":"x","namespace":"A"}', "'A' is not a namespace"),
        (b'{"service":"x","image":"x","namespace":"nobody"}', "there is no namespace nobody"),
        (b'{"service":"x","image":"x","secrets":["b","a"]}', "secrets: openfaas-fn has not"),
        (b'{"service":"x","image":"X"}', "image: 'X'"),
        (b'{"service":"x\\ud800y","image":"x"}', "surrogate"),
        (b'{"service":"\xff","image":"x"}', "utf-8"),
        (b"[" * 5000, "the body is not the JSON"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_deployment_that_makes_no_sense_is_400_and_changes_nothing(
    images: Gateway, store: Store, method: str, body: bytes, told: str
) -> None:
    answer = images.call(method, "/system/functions", data=body)
    assert (answer.status_code, told in answer.text) == (400, True), answer.text
    assert store.functions() == {}


def test_all_secrets_that_are_missing_are_named(images: Gateway, store: Store) -> None:
    key = store.sealing_key(images.settings.secrets_key)
    store.create_secret(key, "openfaas-fn", "there", b"x")
    store.claim_namespace("ann", "git")
    store.create_secret(key, "ann", "hers", b"x")
    answer = send(images, "POST", **FIGLET, secrets=["there", "hers", "gone"])
    assert answer.status_code == 400
    assert "hers, gone" in answer.text
    assert "there" not in answer.text.split(":")[1]


def test_what_this_runtime_cannot_run_is_501_with_the_reason(
    gateway: Gateway, images: Gateway, store: Store
) -> None:
    refused = send(gateway, "POST", **FIGLET)
    assert (refused.status_code, "without images" in refused.text) == (501, True)
    assert send(gateway, "PUT", **FIGLET).status_code == 404, "first what is not there"
    refused = send(images, "POST", service="x", image=BUNDLE)
    assert (refused.status_code, "name an image" in refused.text) == (501, True)
    refused = send(images, "POST", **FIGLET, limits={"nvidia.com/gpu": "1"})
    assert (refused.status_code, "GPU" in refused.text) == (501, True)
    assert store.functions() == {}


def test_without_images_a_bundle_of_the_same_namespace_is_deployed(
    gateway: Gateway, store: Store
) -> None:
    put_bundle(gateway, "ann")
    for namespace in ("ann", "bob"):
        store.claim_namespace(namespace, "git")
    foreign = send(gateway, "POST", service="x", image=BUNDLE, namespace="bob")
    assert (foreign.status_code, "bob has no" in foreign.text) == (400, True)
    assert send(gateway, "POST", service="x", image=BUNDLE, namespace="ann").status_code == 202
    assert store.functions()["x.ann"].spec.artifact == BUNDLE


def test_a_function_of_a_repository_is_scaled_and_no_more(images: Gateway, store: Store) -> None:
    store.claim_namespace("ann", "git")
    deploy(store, "hello.ann", ["unix@/x"])
    before = store.functions()["hello.ann"]
    mine = {"service": "hello", "image": "x", "namespace": "ann"}
    for answer in (
        send(images, "PUT", **mine),
        send(images, "POST", **mine),
        send(images, "DELETE", functionName="hello", namespace="ann"),
    ):
        assert (answer.status_code, "the repository ann/fns" in answer.text) == (409, True)
    assert store.functions()["hello.ann"] == before
    answer = images.call("POST", "/system/scale-function/hello.ann", json={"replicas": 4})
    assert answer.status_code == 202
    assert store.functions()["hello.ann"] == msgspec.structs.replace(before, replicas=4)
    deploy(store, "hello.ann", ["unix@/x"])
    assert store.functions()["hello.ann"].replicas == 1, "until the next release"


def built(store: Store) -> Release:
    """A release of ann/fns that is built and not handed over yet."""
    known = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
    store.save_repository(known)
    store.claim_namespace("ann", "git")
    release = store.create_release(known, "a" * 40, "main", again=True)
    queues.dispatch(store, known.key)
    return store.move(release.id, BUILDER, State.BUILDING)


def test_a_release_fails_whose_function_was_deployed_by_api(images: Gateway, store: Store) -> None:
    release = built(store)
    made = [artifact(release, "figlet")]
    store.put_artifacts(release.id, release.commit, made)
    assert send(images, "POST", **FIGLET, namespace="ann").status_code == 202
    with pytest.raises(Conflict, match=r"deployed by API: delete it first .*figlet\.ann"):
        store.switch(release.id, lambda _: 1)
    assert store.functions()["figlet.ann"].repository is None
    again = built(store)
    with pytest.raises(Conflict, match="deployed by API"):
        store.put_artifacts(again.id, again.commit, [artifact(again, "figlet")])


def test_of_two_who_deploy_at_once_one_gets_the_name(images: Gateway) -> None:
    answers: list[int] = []

    def one() -> None:
        session = requests.Session()
        answers.append(
            session.post(
                f"{images.url}/system/functions", json=FIGLET, auth=images.auth, timeout=20
            ).status_code
        )

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [202] + [409] * 7


def test_what_is_told_of_a_function_is_what_was_seen_of_this_deployment(
    images: Gateway, store: Store
) -> None:
    assert send(images, "POST", **FIGLET).ok

    def see(available: int, trouble: str = "") -> None:
        deployment = store.functions()["figlet.openfaas-fn"].spec.deployment
        seen = Observed(available=available, trouble=trouble, deployment=deployment)
        store.save_observed({"figlet.openfaas-fn": seen})

    def told() -> tuple[int, str]:
        found = read(images, "figlet")
        why = found.get("annotations", {}).get("com.slipway.trouble", "")
        return found["availableReplicas"], why

    assert told() == (0, "it was deployed just now")
    see(0, "no such image")
    assert told() == (0, "no such image")
    see(1)
    assert told() == (1, "")
    assert "annotations" not in read(images, "figlet")
    assert send(images, "PUT", **FIGLET).ok
    assert told() == (1, "it was deployed just now"), "what served before still does"
    assert send(images, "DELETE", functionName="figlet").ok
    assert send(images, "POST", **FIGLET).ok
    assert told() == (0, "it was deployed just now"), "what was deleted serves no more"


# Scaling


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("figlet", {"serviceName": "figlet", "replicas": 0}, 202),
        ("figlet.openfaas-fn", {"serviceName": "figlet", "replicas": 20}, 202),
        ("figlet", {"serviceName": "figlet.openfaas-fn", "replicas": 1}, 202),
        ("figlet", {"replicas": 1}, 202),
        ("figlet", {"serviceName": "other", "replicas": 1}, 400),
        ("figlet", {"serviceName": "figlet"}, 400),
        ("figlet", {"replicas": -1}, 400),
        ("figlet", {"replicas": 21}, 400),
        ("figlet", {"replicas": 10**30}, 400),
        ("figlet", {"replicas": "2"}, 400),
        ("figlet", {"replicas": 1.5}, 400),
        ("FIGLET", {"replicas": 1}, 400),
        ("figlet", {"replicas": 1, "namespace": "nobody"}, 404),
        ("nobody", {"replicas": 1}, 404),
    ],
)
def test_scaling(
    images: Gateway, store: Store, path: str, body: dict[str, Any], status: int
) -> None:
    assert send(images, "POST", **FIGLET).ok
    answer = images.call("POST", f"/system/scale-function/{path}", json=body)
    assert answer.status_code == status, answer.text
    count = store.functions()["figlet.openfaas-fn"].replicas
    assert count == (body["replicas"] if status == 202 else 1)


def test_a_deploy_wakes_a_function_at_zero(images: Gateway) -> None:
    assert send(images, "POST", **FIGLET).ok
    assert images.call("POST", "/system/scale-function/figlet", json={"replicas": 0}).ok
    assert read(images, "figlet")["replicas"] == 0
    assert send(images, "PUT", **FIGLET).ok
    assert read(images, "figlet")["replicas"] == 1, "a deploy wakes it"


def test_what_a_registry_said_is_not_for_everybody(images: Gateway, store: Store) -> None:
    assert send(images, "POST", **FIGLET).ok
    words = "the registry inside.example is not reached (dial tcp 10.0.0.1:5000)"
    deployment = store.functions()["figlet.openfaas-fn"].spec.deployment
    seen = Observed(available=0, trouble=words, deployment=deployment)
    store.save_observed({"figlet.openfaas-fn": seen})
    answer = images.anonymous("GET", "/function/figlet")
    assert answer.status_code == 503
    assert "slipway describe figlet.openfaas-fn" in answer.text
    assert "inside" not in answer.text
    assert read(images, "figlet")["annotations"]["com.slipway.trouble"] == words


def alert(status: str, name: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "APIHighInvocationRate", "function_name": name},
        "annotations": {},
        "startsAt": "2026-01-01T00:00:00Z",
    }


def test_alerts_scale_up_and_back(images: Gateway) -> None:
    labels = {"com.openfaas.scale.max": "10", "com.openfaas.scale.factor": "50"}
    assert send(images, "POST", **FIGLET, labels=labels).ok

    def post(*alerts: dict[str, Any]) -> requests.Response:
        body = {"receiver": "scale-up", "status": "firing", "alerts": list(alerts)}
        return images.call("POST", "/system/alert", json=body)

    assert post(alert("firing", "figlet.openfaas-fn")).status_code == 200
    assert read(images, "figlet")["replicas"] == 6
    gone = post(alert("firing", "nobody.ann"), alert("firing", "figlet"))
    assert (gone.status_code, gone.text[:3]) == (404, "[0]")
    assert read(images, "figlet")["replicas"] == 10, "one that is gone holds up no other"
    assert post(alert("resolved", "figlet")).status_code == 200
    assert read(images, "figlet")["replicas"] == 1
    for wrong in (
        {},
        {"alerts": [{}]},
        {"alerts": [{"status": "firing", "labels": {}}]},
        {"alerts": [alert("firing", "A")]},
        {"alerts": [alert("firing", "figlet")] * 1001},
    ):
        assert images.call("POST", "/system/alert", json=wrong).status_code == 400, wrong
    assert read(images, "figlet")["replicas"] == 1


# Namespaces


def test_a_namespace_is_made_described_and_deleted(images: Gateway, store: Store) -> None:
    mark = {"openfaas": "1"}
    made = {"name": "dev", "labels": mark, "annotations": {**mark, "team": "a"}}
    assert images.call("GET", "/system/namespace/dev").status_code == 404
    assert images.call("PUT", "/system/namespace/dev", json=made).status_code == 404
    assert images.call("DELETE", "/system/namespace/dev", json=made).status_code == 404
    # OpenFaaS' own library posts to a path without the name.
    assert images.call("POST", "/system/namespace/", json=made).status_code == 201
    assert images.call("POST", "/system/namespace/dev", json=made).status_code == 409
    assert images.call("GET", "/system/namespace/dev").json() == made
    assert images.call("GET", "/system/namespaces").json() == ["dev", "openfaas-fn"]
    changed = {"name": "dev", "labels": {**mark, "a": "b"}}
    assert images.call("PUT", "/system/namespace/dev", json=changed).status_code == 202
    assert images.call("GET", "/system/namespace/dev").json() == changed
    store.claim_namespace("dev", "git")  # our own remote's: the admin may push to it
    assert send(images, "POST", **FIGLET, namespace="dev").status_code == 202
    refused = images.call("DELETE", "/system/namespace/dev", json=changed)
    assert (refused.status_code, "functions figlet" in refused.text) == (409, True)
    assert send(images, "DELETE", functionName="figlet", namespace="dev").ok
    key = store.sealing_key(images.settings.secrets_key)
    store.create_secret(key, "dev", "api-key", b"x")
    known = Repository(namespace="dev", name="fns", source="git")
    store.save_repository(known)
    refused = images.call("DELETE", "/system/namespace/dev")
    assert (refused.status_code, "it has secrets api-key." in refused.text) == (409, True)
    store.delete_secret("dev", "api-key")
    assert images.call("DELETE", "/system/namespace/dev").status_code == 202
    assert images.call("GET", "/system/namespaces").json() == ["openfaas-fn"]
    assert images.call("POST", "/system/namespace/", json={**made, "annotations": {}}).ok
    assert images.call("GET", "/system/namespace/dev").json()["labels"] == mark


def test_a_namespace_that_came_with_a_push_is_read_as_openfaas_s(
    images: Gateway, store: Store
) -> None:
    store.claim_namespace("ann", "https://github.com#1")
    for name in ("ann", "openfaas-fn"):
        found = images.call("GET", f"/system/namespace/{name}").json()
        assert found == {"name": name, "labels": {"openfaas": "1"}}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "", {"name": "dev"}, 400),
        ("POST", "", {"name": "dev", "labels": {"openfaas": "true"}}, 400),
        ("POST", "", {"name": "dev", "labels": {"openfaas": 1}}, 400),
        ("POST", "", {"labels": {"openfaas": "1"}}, 400),
        ("POST", "other", {"name": "dev", "labels": {"openfaas": "1"}}, 400),
        ("POST", "", {"name": "a--b", "labels": {"openfaas": "1"}}, 400),
        ("POST", "", {"name": "system", "labels": {"openfaas": "1"}}, 400),
        ("POST", "", {"name": "kube-x", "labels": {"openfaas": "1"}}, 400),
        ("POST", "", {"name": "A", "labels": {"openfaas": "1"}}, 400),
        ("POST", "", {"name": "dev", "labels": {"openfaas": "1", "a\n": ""}}, 400),
        ("POST", "", {"name": "openfaas-fn", "labels": {"openfaas": "1"}}, 409),
        ("PUT", "there", {"name": "there"}, 400),
        ("PUT", "there", {"name": "dev", "labels": {"openfaas": "1"}}, 400),
        ("DELETE", "there", {"name": "dev"}, 400),
        ("DELETE", "there", [], 400),
        ("DELETE", "openfaas-fn", {"name": "openfaas-fn"}, 403),
        ("DELETE", "B", None, 400),
        ("GET", "B", None, 400),
        ("GET", "", None, 405),
        ("PATCH", "there", {}, 405),
    ],
)
def test_a_namespace_that_cannot_be(
    images: Gateway, store: Store, method: str, path: str, body: Any, status: int
) -> None:
    store.claim_namespace("there", "git")
    answer = images.call(method, f"/system/namespace/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert store.namespaces() == ["there"]


# The rest


def test_info_is_complete(images: Gateway) -> None:
    info = images.call("GET", "/system/info").json()
    assert set(info) == {"provider", "version", "arch"}
    assert info["provider"]["orchestration"] == "docker"
    for version in (info["version"], info["provider"]["version"]):
        assert set(version) == {"release", "sha", "commit_message"}
        assert version["release"]


def test_methods_that_a_route_has_not_are_405_and_name_those_it_has(images: Gateway) -> None:
    for path, allowed in (
        ("/system/functions", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/system/function/x", "GET, HEAD, OPTIONS"),
        ("/system/scale-function/x", "OPTIONS, POST"),
        ("/system/alert", "OPTIONS, POST"),
        ("/system/namespaces", "GET, HEAD, OPTIONS"),
        ("/system/namespace/x", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/system/info", "GET, HEAD, OPTIONS"),
    ):
        wrong = images.call("PATCH", path)
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, allowed), path
        assert sorted(images.call("OPTIONS", path).headers["Allow"].split(", ")) == allowed.split(
            ", "
        )
        assert images.anonymous("OPTIONS", path).status_code == 401
    head = images.call("HEAD", "/system/functions")
    assert (head.status_code, head.content) == (200, b"")
    assert images.call("GET", "/system/telemetry").status_code == 404
