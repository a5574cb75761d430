"""Builds of requests: which commit, with what of the owner's, and what a fork's may not; with a
real store, real git over HTTP and real builds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import pytest

from builder import forgeheads, jobs, origins, pipeline
from builder.forgeheads import ForgeHeads
from builder.handover import Opened
from builder.lease import Lease
from core import queues
from core.models import Artifact, FunctionSpec, Release, State
from core.previews import ForkRules
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from gateway import previews
from tests.e2e.forge import Forge, Project, serving
from tests.integration.requests_of import BASE, event

pytestmark = pytest.mark.network

FORK = "666"
STACK = (
    "provider: {name: openfaas}\nfunctions:\n  web:\n    lang: python3-http\n    handler: ./web\n"
)
WEB = "def handle(event, context):\n    return 'v1'\n"
FILES = {"stack.yml": STACK, "web/handler.py": WEB}


@pytest.fixture
def forge(settings: Settings) -> Iterator[Forge]:
    with serving(settings.state / "forge") as there:
        yield there


@pytest.fixture
def hub(settings: Settings, forge: Forge) -> Settings:
    return replace(settings, github_url=forge.url)


@pytest.fixture
def project(store: Store, forge: Forge) -> Project:
    store.claim_namespace("alice", "https://github.com#1")
    base = msgspec.structs.replace(BASE, public=True)
    store.save_repository(base)
    made = forge.repository(BASE.full_name)
    made.commit(FILES)
    return made


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gateway says of each repository: it is where it was, and for everybody to read."""
    monkeypatch.setattr(origins, "opened_by_gateway", lambda *_, **__: Opened())
    monkeypatch.setattr(pipeline, "check_standing", lambda *_: None)


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[FunctionSpec]:
    """What the builder hands over."""
    specs: list[FunctionSpec] = []

    def hand_over(
        _: Settings, __: Release, artifacts: Sequence[Artifact], ___: Mapping[str, str]
    ) -> None:
        specs[:] = [each.spec for each in artifacts]

    monkeypatch.setattr(pipeline, "hand_over", hand_over)
    return specs


def base(store: Store) -> Repository:
    return store.repository("alice", "shop")


def the(store: Store) -> Repository:
    found = store.preview(BASE.key, 5)
    assert found is not None
    return found


def requested(hub: Settings, store: Store, full: str, head: str | None = None) -> Release | None:
    return previews.apply(hub, store, event(full=full, head=head), base(store))[0]


def build(hub: Settings, store: Store, release: Release | None) -> Release:
    assert release is not None
    with Lease(store, release.id) as lease:
        jobs._build(release.id, hub, store, lease)
    return store.release(release.id)


def told(store: Store, release: Release) -> str:
    return "\n".join(line.text for _, line in store.read_log(release.id) if line)


def approved(hub: Settings, store: Store, commit: str) -> Release | None:
    return previews.released(hub, store, previews.approve(hub, store, BASE.key, 5, commit))


# ----------------------------------------------------------------- of the repository's own


def test_the_head_of_the_request_is_built(
    hub: Settings, store: Store, project: Project, handed: list[FunctionSpec]
) -> None:
    first = project.request(5, {"web/handler.py": WEB.replace("v1", "of five")})
    head = project.request(5, {"web/handler.py": WEB.replace("v1", "newer")})
    done = build(hub, store, requested(hub, store, first))
    assert done.reason == ""
    assert done.commit == head, "an event is a hint"
    (spec,) = handed
    assert (spec.namespace, spec.commit) == ("alice--pr-5", head)
    assert spec.labels == {"com.openfaas.scale.zero": "true", "com.openfaas.scale.max": "1"}


def test_secrets_and_variables_are_those_of_previews(
    hub: Settings, store: Store, project: Project, handed: list[FunctionSpec]
) -> None:
    key = store.sealing_key(hub.secrets_key)
    store.create_secret(key, "alice", "token", b"production's")
    store.set_variables("alice", {"HOST": "production", "ONLY": "production"})
    files = {"stack.yml": STACK + "    secrets: [token]\n    environment: {A: '${HOST:-none}'}\n"}
    head = project.request(5, files)
    release = requested(hub, store, head)
    failed = build(hub, store, release)
    assert failed.state is State.FAILED
    assert "slipway secret create token --namespace alice--preview" in failed.reason
    store.create_secret(key, "alice--preview", "token", b"of previews")
    store.set_variables("alice--preview", {"HOST": "preview"})
    again = store.create_release(the(store), head, "refs/pull/5/head", again=True)
    queues.dispatch(store, again.namespace + "/shop")
    done = build(hub, store, again)
    assert done.reason == ""
    (spec,) = handed
    assert (spec.secrets, spec.env_vars) == (["token"], {"A": "preview"})


def test_nothing_is_built_of_a_request_that_was_closed(
    hub: Settings, store: Store, project: Project, forge: Forge, handed: list[FunctionSpec]
) -> None:
    release = requested(hub, store, project.request(5, {"web/handler.py": WEB}))
    assert release is not None
    store.change_preview(BASE.key, 5, lambda found: previews.closed(found, previews.CLOSED))
    asked = len(forge.asked)
    build(hub, store, release)
    assert handed == [], "what is handed over has no functions, which the gateway refuses"
    assert len(forge.asked) == asked


# --------------------------------------------------------------------------------- forks


@pytest.mark.parametrize("pinned", [False, True])
def test_of_a_fork_nothing_is_fetched_unless_it_was_approved(
    hub: Settings, store: Store, project: Project, forge: Forge, pinned: bool
) -> None:
    """Whoever has made the release: a redeploy, a rollback, a sweep."""
    head = project.request(5, {"web/handler.py": WEB})
    assert requested(hub, store, head, FORK) is None
    release = store.create_release(the(store), head, "refs/pull/5/head", pinned=pinned)
    queues.dispatch(store, the(store).key)
    asked = len(forge.asked)
    done = build(hub, store, release)
    assert done.state is State.FAILED
    assert f"slipway approve alice/shop 5 --commit {head}" in done.reason
    assert len(forge.asked) == asked
    assert not hub.mirrors.exists()


def test_of_a_fork_that_commit_is_built_that_was_approved(
    hub: Settings, store: Store, project: Project, handed: list[FunctionSpec]
) -> None:
    seen = project.request(5, {"web/handler.py": WEB.replace("v1", "harmless")})
    assert requested(hub, store, seen, FORK) is None
    release = approved(hub, store, seen)
    evil = project.request(5, {"web/handler.py": WEB.replace("v1", "evil")})
    assert requested(hub, store, evil, FORK) is None
    done = build(hub, store, release)
    assert (done.reason, done.commit) == ("", seen)
    (spec,) = handed
    assert spec.commit == seen
    source = next(hub.bundles.glob("alice--pr-5/*/**/handler.py"))
    assert "harmless" in source.read_text()
    for kind in (hub.bundles, hub.layers, hub.caches, hub.mirrors):
        assert [each.name for each in kind.iterdir()] == ["alice--pr-5"], "nothing of the owner's"


def test_a_fork_gets_nothing_of_the_owner(
    hub: Settings, store: Store, project: Project, handed: list[FunctionSpec]
) -> None:
    store.create_secret(store.sealing_key(hub.secrets_key), "alice", "token", b"production's")
    store.set_variables("alice", {"HOST": "production"})
    asks = (
        "    secrets: [token]\n    environment: {A: '${HOST:-none}'}\n"
        "    labels: {com.openfaas.scale.min: '20', com.openfaas.scale.zero: 'false'}\n"
        "    annotations:\n      topic: 'cron-function,other'\n      schedule: '* * * * *'\n"
        "      com.slipway.preview.schedule: 'true'\n      com.slipway.takes-over: shop\n"
        "      com.slipway.egress: 'true'\n"
    )
    head = project.request(5, {"stack.yml": STACK + asks})
    requested(hub, store, head, FORK)
    done = build(hub, store, approved(hub, store, head))
    assert done.reason == ""
    (spec,) = handed
    assert (spec.secrets, spec.env_vars) == (None, {"A": "none"})
    assert spec.labels == {"com.openfaas.scale.zero": "true", "com.openfaas.scale.max": "1"}
    assert spec.annotations == {
        "topic": "other",
        "schedule": "* * * * *",
        "com.slipway.egress": "false",
    }
    log = told(store, done)
    for what in (
        "its secrets are left",
        "com.slipway.takes-over has no effect",
        "its schedule is left",
    ):
        assert f"web: {what}" in log


def test_a_fork_fetches_no_packages(
    hub: Settings, store: Store, project: Project, handed: list[FunctionSpec]
) -> None:
    head = project.request(5, {"web/requirements.txt": "requests==2.32.3\n"})
    requested(hub, store, head, FORK)
    done = build(hub, store, approved(hub, store, head))
    assert (done.state, handed) == (State.FAILED, [])
    assert "fetches no packages while it is built" in done.reason
    assert "fork-network" in done.reason


def test_a_fork_fetches_no_npm_packages(
    hub: Settings, store: Store, project: Project, handed: list[FunctionSpec]
) -> None:
    files = {
        "stack.yml": STACK.replace("python3-http", "node"),
        "web/handler.js": "module.exports = async (event, context) => context.succeed('v1')\n",
        "web/package.json": '{"dependencies": {"left-pad": "1.3.0"}}',
    }
    head = project.request(5, files)
    requested(hub, store, head, FORK)
    done = build(hub, store, approved(hub, store, head))
    assert (done.state, handed) == (State.FAILED, [])
    assert "fork-network" in done.reason


def test_where_the_policy_says_so_its_head_is_built_unasked(
    hub: Settings,
    store: Store,
    project: Project,
    handed: list[FunctionSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = ForkRules(fork_previews="always", fork_network=True)
    monkeypatch.setattr(Store, "fork_rules", lambda *_: rules)
    head = project.request(5, {"stack.yml": STACK + "    secrets: [token]\n"})
    done = build(hub, store, requested(hub, store, head, FORK))
    assert done.reason == ""
    (spec,) = handed
    assert spec.secrets is None
    assert "com.slipway.egress" not in (spec.annotations or {})


# ----------------------------------------------------------------- what the hooks missed


@pytest.fixture
def look(hub: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has the builder look at all heads."""
    monkeypatch.setattr(forgeheads, "LAG", 0.0)
    monkeypatch.setattr(forgeheads, "WAIT", 30.0)
    heads = ForgeHeads(replace(hub, sweep=1e-9), store)

    def turns() -> None:
        for _ in range(4):
            heads.run()

    return turns


@pytest.mark.parametrize("head", [None, FORK])
def test_a_push_that_no_hook_told_is_noted(
    hub: Settings, store: Store, project: Project, look: Callable[[], None], head: str | None
) -> None:
    older = project.request(5, {"web/handler.py": WEB})
    requested(hub, store, older, head)
    if head:
        previews.approve(hub, store, "alice/shop", 5, older)
    newer = project.request(5, {"web/handler.py": WEB.replace("v1", "v2")})
    look()
    request = the(store).request
    assert request is not None
    assert request.commit == newer
    release = previews.released(hub, store, the(store))
    assert (release is None) == (head == FORK), "a fork's waits"
    assert release is None or release.commit == newer


def test_a_reference_that_is_gone_ends_its_preview(
    hub: Settings, store: Store, project: Project, look: Callable[[], None]
) -> None:
    requested(hub, store, project.request(5, {"web/handler.py": WEB}))
    look()
    assert the(store).gone == ""
    (project.bare / "refs/pull/5/head").unlink()
    look()
    assert "has the head of the request no more" in the(store).gone
    back = project.request(5, {"web/handler.py": WEB})
    look()
    request = the(store).request
    assert request is not None
    assert (the(store).gone, request.commit, request.open) == ("", back, True)
