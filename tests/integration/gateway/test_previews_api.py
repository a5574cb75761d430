"""``/system/previews``, its commands, and what the gateway lets a preview's builder hand over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import requests
from click.testing import CliRunner, Result

from cli.main import main
from core.bundle import PREFIX
from core.models import Artifact, Artifacts, FunctionSpec, Release, State
from core.signing import secret_file
from core.store import Store
from gateway import previews
from tests.integration.gateway.harness import Gateway, go_live
from tests.integration.requests_of import BASE, commit, event

FORK = "666"
PATH = "/system/previews"


@pytest.fixture(autouse=True)
def _base(store: Store) -> None:
    store.claim_namespace("alice", "https://github.com#1", BASE)
    store.save_repository(BASE)


def tell(gateway: Gateway, store: Store, **told: Any) -> Release | None:
    digit = str(told.pop("digit", "a"))
    return previews.apply(gateway.settings, store, event(digit, **told), BASE)[0]


def listed(gateway: Gateway, **query: str) -> list[dict[str, Any]]:
    answer = gateway.call("GET", PATH, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def approve(gateway: Gateway, number: object, body: Any) -> requests.Response:
    return gateway.call("POST", f"{PATH}/alice/shop/{number}/approve", json=body)


def test_all_previews_are_listed(gateway: Gateway, store: Store) -> None:
    assert listed(gateway) == []
    release = tell(gateway, store, number=5)
    assert release is not None
    go_live(store, release, ["web"])
    tell(gateway, store, number=6, head=FORK, digit="b")
    tell(gateway, store, number=7)
    tell(gateway, store, number=7, open_=False)
    gone, waiting, running = listed(gateway, namespace="alice")
    assert (running["number"], running["state"], running["commit"]) == (5, "live", commit("a"))
    assert running["functions"] == ["http://slipway.test/function/web.alice--pr-5"]
    assert running["url"] == "https://github.com/Alice/shop/pull/5"
    assert (running["release"], running["needsApproval"]) == (release.id, False)
    assert (waiting["state"], waiting["fork"], waiting["needsApproval"]) == ("waiting", True, True)
    assert f"--commit {commit('b')}" in waiting["reason"]
    assert (gone["state"], gone["reason"]) == ("gone", "the request was closed")
    assert listed(gateway, namespace="bob") == []
    assert len(listed(gateway, namespace="alice--pr-5")) == 1
    assert gateway.call("GET", PATH, params={"namespace": "A b"}).status_code == 400


def test_where_no_further_request_has_a_preview_it_is_told(
    gateway: Gateway, store: Store, run: Callable[..., Result]
) -> None:
    for number in range(1, 10):
        tell(gateway, store, number=number, head=FORK)
    tell(gateway, store, number=20)
    assert {each["full"] for each in listed(gateway)} == {""}
    tell(gateway, store, number=10, head=FORK)
    fork, own = listed(gateway)[-1], listed(gateway)[0]
    assert fork["full"].startswith("10 requests of forks wait, and more may not: approve or close")
    assert own["full"] == ""
    assert f"alice/shop: {fork['full']}" in run("previews").stderr


def test_an_approval_is_of_one_commit(gateway: Gateway, store: Store) -> None:
    tell(gateway, store, head=FORK, digit="a")
    tell(gateway, store, head=FORK, digit="b")
    stale = approve(gateway, 5, {"commit": commit("a")})
    assert stale.status_code == 409
    assert commit("b") in stale.text
    assert store.newest_release("alice--pr-5/shop") is None
    done = approve(gateway, 5, {"commit": commit("b")})
    assert done.status_code == 202
    made = store.newest_release("alice--pr-5/shop")
    assert made is not None
    assert (done.json()["release"], done.json()["state"]) == (made.id, "building")
    assert (made.commit, store.pinned(made.id)) == (commit("b"), True)
    assert approve(gateway, 5, {"commit": commit("b")}).status_code == 202, "once more"
    assert len(store.releases("alice--pr-5", "shop")) == 1


@pytest.mark.parametrize(
    ("number", "body", "status"),
    [
        (5, {"commit": "abc"}, 400),
        (5, {"commit": commit("a"), "more": 1}, 400),
        (5, [], 400),
        (9, {"commit": commit("a")}, 404),
        ("x", {"commit": commit("a")}, 400),
        ("\u0665", {"commit": commit("a")}, 400),
        ("5" * 11, {"commit": commit("a")}, 400),
    ],
)
def test_what_is_no_approval_is_refused(
    gateway: Gateway, store: Store, number: object, body: Any, status: int
) -> None:
    tell(gateway, store, head=FORK)
    assert approve(gateway, number, body).status_code == status
    assert store.newest_release("alice--pr-5/shop") is None


def test_nobody_else_approves(gateway: Gateway, store: Store) -> None:
    tell(gateway, store, head=FORK)
    path, body = f"{PATH}/alice/shop/5/approve", {"commit": commit("a")}
    assert gateway.anonymous("POST", path, json=body).status_code == 401
    builder = {"Authorization": f"Bearer {gateway.token}"}
    assert gateway.anonymous("POST", path, json=body, headers=builder).status_code == 403
    assert gateway.anonymous("GET", PATH, headers=builder).status_code == 403


# ------------------------------------------------------------------------------- the commands


@pytest.fixture
def run(gateway: Gateway) -> Callable[..., Result]:
    def run(*arguments: str, given: str | None = None) -> Result:
        env = {
            "SLIPWAY_STATE": str(gateway.settings.state),
            "SLIPWAY_GATEWAY_URL": gateway.url,
            "SLIPWAY_ADMIN_PASSWORD_FILE": str(gateway.settings.password_file),
        }
        return CliRunner().invoke(main, arguments, input=given, env=env)

    return run


def test_the_commands(gateway: Gateway, store: Store, run: Callable[..., Result]) -> None:
    tell(gateway, store, head=FORK, title="Adds a \x1b]0;colour\x07")
    shown = run("previews")
    assert shown.exit_code == 0, shown.output
    assert "alice/shop" in shown.stdout
    assert "waiting" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert run("approve", "alice/shop", "5", given="n\n").exit_code == 1
    other = run("approve", "alice/shop", "5", "--commit", commit("b"))
    assert (other.exit_code, commit("a") in other.stderr) == (1, True)
    assert run("approve", "alice/shop", "5", "--commit", "a").exit_code == 1
    assert run("approve", "alice/shop", "8", "--commit", commit("a")).exit_code == 1
    assert store.newest_release("alice--pr-5/shop") is None
    done = run("approve", "alice/shop", "5", given="y\n")
    assert done.exit_code == 0, done.output
    assert commit("a") in done.stderr, "what is approved is shown"
    assert "https://github.com/Alice/shop/pull/5" in done.stderr.splitlines(), "a line to click at"
    made = store.newest_release("alice--pr-5/shop")
    assert made is not None
    assert done.stdout.strip() == made.id
    assert run("approve", "alice/shop", "5", "--commit", "aaaaaaa").exit_code == 0


# ------------------------------------------------------------------- what is handed over


def hand_over(gateway: Gateway, store: Store, release: Release, **says: Any) -> requests.Response:
    """What a builder that was made to believe anything would hand over."""
    digest = "0" * 64
    owner = store.repository(release.namespace, release.repository).artifacts_namespace
    folder = gateway.settings.bundles / (owner or release.namespace) / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.json").write_bytes(
        b'{"template":"python3-http","process":["true"],"layers":[]}'
    )
    store.move(release.id, [State.QUEUED], State.BUILDING)
    spec = FunctionSpec(
        name="web",
        namespace=release.namespace,
        artifacts_namespace=owner,
        artifact=PREFIX + digest,
        key="k",
        repository=release.repository,
        commit=release.commit,
        **says,
    )
    artifact = Artifact(name="web", key="k", artifact=spec.artifact, spec=spec)
    return gateway.anonymous(
        "PUT",
        f"/system/releases/{release.id}/artifacts",
        data=msgspec.json.encode(Artifacts(commit=release.commit, functions=[artifact])),
        headers={
            "Authorization": f"Bearer {secret_file(gateway.settings.token_file)}",
            "Content-Type": "application/json",
        },
    )


def test_a_fork_is_bound_whatever_its_builder_says(gateway: Gateway, store: Store) -> None:
    key = store.sealing_key(gateway.settings.secrets_key)
    store.create_secret(key, "alice", "token", b"production's")
    tell(gateway, store, head=FORK)
    approved = previews.approve(gateway.settings, store, BASE.key, 5, commit("a"))
    release = previews.released(gateway.settings, store, approved)
    assert release is not None
    answer = hand_over(
        gateway,
        store,
        release,
        secrets=["token"],
        sealed={"other": "AAAA"},
        secrets_namespace="alice",
        repository_id="100",
        labels={"com.openfaas.scale.min": "20"},
        annotations={
            "com.slipway.egress": "true",
            "topic": "cron-function",
            "schedule": "* * * * *",
        },
    )
    assert answer.status_code == 200, answer.text
    (made,) = store.artifacts(release.id)
    spec = made.spec
    assert (spec.secrets, spec.sealed, spec.secrets_namespace, spec.repository_id) == (
        None,
        None,
        "",
        "",
    )
    assert spec.labels == {"com.openfaas.scale.zero": "true", "com.openfaas.scale.max": "1"}
    assert spec.annotations == {"com.slipway.egress": "false", "schedule": "* * * * *"}
    secret = gateway.anonymous(
        "GET",
        f"/internal/releases/{release.id}/secrets?name=token",
        headers={"Authorization": f"Bearer {gateway.token}"},
    )
    assert secret.status_code in (403, 409), secret.text


def test_a_fork_s_build_reads_no_secret(gateway: Gateway, store: Store) -> None:
    key = store.sealing_key(gateway.settings.secrets_key)
    store.create_secret(key, "alice", "token", b"production's")
    tell(gateway, store, head=FORK)
    release = store.create_release(_the(store), commit("a"), "refs/pull/5/head")
    store.move(release.id, [State.QUEUED], State.BUILDING)
    answer = gateway.anonymous(
        "GET",
        f"/internal/releases/{release.id}/secrets?name=token",
        headers={"Authorization": f"Bearer {gateway.token}"},
    )
    assert (answer.status_code, "gets no secrets" in answer.text) == (403, True)


def test_nothing_is_taken_of_a_fork_that_nobody_approved(gateway: Gateway, store: Store) -> None:
    tell(gateway, store, head=FORK)
    release = store.create_release(_the(store), commit("a"), "refs/pull/5/head")
    answer = hand_over(gateway, store, release)
    assert (answer.status_code, "nobody has approved" in answer.text) == (409, True)
    assert store.artifacts(release.id) == []


def test_nothing_is_taken_of_a_request_that_was_closed(gateway: Gateway, store: Store) -> None:
    release = tell(gateway, store)
    assert release is not None
    store.change_preview(BASE.key, 5, lambda found: previews.closed(found, previews.CLOSED))
    answer = hand_over(gateway, store, release)
    assert answer.status_code == 409, answer.text


def test_a_preview_s_secrets_are_those_of_previews(gateway: Gateway, store: Store) -> None:
    key = store.sealing_key(gateway.settings.secrets_key)
    store.create_secret(key, "alice", "token", b"production's")
    release = tell(gateway, store)
    assert release is not None
    missing = hand_over(gateway, store, release, secrets=["token"])
    assert missing.status_code == 404
    assert "slipway secret create token --namespace alice--preview" in missing.text
    store.create_secret(key, "alice--preview", "token", b"of previews")
    again = tell(gateway, store, digit="b")
    assert again is not None
    assert hand_over(gateway, store, again, secrets=["token"]).status_code == 200
    (made,) = store.artifacts(again.id)
    assert made.spec.secrets_namespace == "alice--preview"
    assert made.spec.secret_versions == store.secret_versions("alice--preview", ["token"])


def test_the_namespace_of_previews_secrets_can_be_made_before_them(
    gateway: Gateway, store: Store
) -> None:
    body = {"name": "alice--preview", "labels": {"openfaas": "1"}}
    assert gateway.call("POST", "/system/namespace/", json=body).status_code == 201
    given = {"name": "token", "namespace": "alice--preview", "value": "x"}
    assert gateway.call("POST", "/system/secrets", json=given).status_code == 201
    tell(gateway, store)
    assert store.secrets("alice--preview") == ["token"]
    for name in ("nobody--preview", "alice--pr-6", "alice--pr-5--preview"):
        other = {"name": name, "labels": {"openfaas": "1"}}
        assert gateway.call("POST", "/system/namespace/", json=other).status_code == 400, name


def _the(store: Store) -> Any:
    found = store.preview(BASE.key, 5)
    assert found is not None
    return found
