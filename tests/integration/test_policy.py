"""What the policy does to builds and to what runs, with a real store and real commits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from builder import jobs, meter
from builder.lease import Lease
from builder.meter import Meter
from builder.origins import local_url
from builder.sweep import Sweep
from cli import doctor
from cli.findings import FAIL, OK, WARN
from core import bounds, keys, policydocument, queues
from core.bundle import Bundle
from core.models import FunctionRecord, FunctionSpec, Release, State
from core.names import NO_COMMIT
from core.policy import Held
from core.repositories import Repository, Request
from core.settings import Settings
from core.store import Store
from core.store.policies import month
from runtime import policy as runtime_policy
from runtime.providers.cells import cell_of, held_to
from tests.unit.repositories import BareRepository, Content
from tests.waiting import until

SOURCE = "/etc/slipway/policy.yml"
FNS = Repository(namespace="acme", name="fns", source="git", deploy_branch="main")
Rule = Callable[[str], None]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, policy=SOURCE)


@pytest.fixture
def rule(store: Store) -> Rule:
    """Puts a policy in force, as the gateway does."""

    def change(text: str) -> None:
        policy = policydocument.read(text.encode(), "policy.yml")
        hold(store, Held(source=SOURCE, policy=policy))

    return change


def hold(store: Store, held: Held) -> None:
    assert store.hold_policy(store.held_policy(), held)


# At the plan


def build(
    settings: Settings, store: Store, files: dict[str, Content], repository: Repository = FNS
) -> Release:
    """What becomes of a commit."""
    store.save_repository(repository)
    bare = BareRepository(Path(local_url(settings, repository)))
    release = store.create_release(repository, bare.commit(files), "main", again=True)
    assert queues.dispatch(store, repository.key) == release.id
    with Lease(store, release.id) as lease:
        jobs._build(release.id, settings, store, lease)
    return store.release(release.id)


def stack(*functions: str) -> dict[str, Content]:
    told = "".join(f"  {each}\n" for each in functions)
    return {
        "stack.yml": f"version: 1.0\nprovider: {{name: openfaas}}\nfunctions:\n{told}",
        "fn/handler.py": "def handle(event, context):\n    return {}\n",
        "template/mine/template.yml": "language: python\nfprocess: python3 index.py\n",
        "template/mine/Dockerfile": "FROM scratch\n",
    }


def live(store: Store, name: str, repository: Repository, replicas: int = 1) -> None:
    spec = FunctionSpec(
        name=name, namespace=repository.namespace, artifact="a", repository=repository.name
    )
    record = FunctionRecord(spec=spec, release="r0", replicas=replicas, created_at="")
    store.redis.hset(keys.FUNCTIONS, spec.function, msgspec.json.encode(record))


def test_all_that_is_not_allowed_is_told_at_once(
    settings: Settings, store: Store, rule: Rule
) -> None:
    rule(
        "default: {functions: 3, memory: 1Gi, cpus: 8, replicas: 5, templates: [node22], "
        "dockerfile: false, skip-build: false, egress: false}"
    )
    live(store, "elsewhere", replace_(FNS, namespace="acme--staging"))
    done = build(
        settings,
        store,
        stack(
            "a: {lang: python3-http, handler: fn}",
            "b: {lang: mine, handler: fn, annotations: {com.slipway.egress: 'TRUE'}}",
            "c: {lang: node22, handler: fn, limits: {memory: 600Mi}}",
            "d: {image: ghcr.io/a/b:1, skip_build: true}",
            "e: {lang: node22, handler: fn, labels: {com.openfaas.scale.max: '6'}}",
        ),
    )
    assert done.state is State.FAILED
    ask = "ask the administrator (SLIPWAY_POLICY)"
    less = f"ask for less, remove a function, or {ask}"
    all_ = "with its environments and previews, where the most is"
    own = "acme may use the platform's own templates node22"
    built = "acme may run only what is built here, and no ready-made image"
    quiet = "com.slipway.egress is true, and functions of acme do not reach the outside world"
    lines = done.reason.splitlines()
    for expected in (
        f"line 4: a.lang: {own}, not python3-http: {ask}",
        f"line 5: b.lang: {own}, not mine: {ask}",
        f"line 5: b.annotations: {quiet}: {ask}",
        f"line 6: c: acme would have 4 functions {all_} 3: remove a function, or {ask}",
        f"line 6: c: acme would have 1368Mi of memory {all_} 1024Mi: {less}",
        f"line 7: d.skip_build: {built}: {ask}",
        f"line 8: e: acme would have 6 replicas {all_} 5: {less}",
        f"line 8: e.labels: com.openfaas.scale.max is 6, and acme may have 5 replicas: {ask}",
    ):
        assert f"  {expected}" in lines, done.reason
    assert done.reason.count("functions with its environments") == 1, "each bound once"


def replace_(repository: Repository, **changes: str) -> Repository:
    return msgspec.structs.replace(repository, **changes)


def test_a_dockerfile_of_others_is_one_as_well(
    settings: Settings, store: Store, rule: Rule
) -> None:
    rule("default: {dockerfile: false}")
    done = build(
        settings,
        store,
        stack("a: {lang: dockerfile, handler: fn}", "b: {lang: mine, handler: fn}"),
    )
    assert "line 4: a.lang: acme may not use a Dockerfile of its own" in done.reason
    assert "line 5: b.lang: acme may not use the template mine" in done.reason


def test_what_was_there_of_the_same_repository_is_replaced(
    settings: Settings, store: Store, rule: Rule
) -> None:
    rule("default: {functions: 1}")
    live(store, "old", FNS)
    reason = build(settings, store, stack("new: {lang: nope, handler: fn}")).reason
    assert "nope" in reason
    assert "functions with its" not in reason
    live(store, "other", replace_(FNS, name="other"))
    reason = build(settings, store, stack("new: {lang: nope, handler: fn}")).reason
    assert "new: acme would have 2 functions" in reason, "another repository's count along"


def test_beyond_a_lowered_bound_less_is_let_through(
    settings: Settings, store: Store, rule: Rule
) -> None:
    rule("default: {functions: 1}")
    for name in ("a", "b", "c"):
        live(store, name, FNS)
    fn = "{lang: nope, handler: fn}"
    two = build(settings, store, stack(f"a: {fn}", f"b: {fn}")).reason
    assert "functions with its" not in two
    three = build(settings, store, stack(f"a: {fn}", f"b: {fn}", f"c: {fn}")).reason
    assert "c: acme would have 3 functions" in three


# Before any work


HUB = Repository(
    namespace="acme",
    name="hub",
    source="github",
    full_name="Acme/hub",
    owner_id="7",
    deploy_branch="main",
)


@pytest.mark.parametrize("owners", ["[acme]", "['github:7']"])
def test_who_was_taken_off_the_list_releases_nothing(
    settings: Settings, store: Store, rule: Rule, owners: str
) -> None:
    rule(f"owners: {owners}")
    store.save_repository(HUB)
    first = failed(settings, store, HUB)
    assert "may not deploy" not in first, "it cannot be fetched, which is another matter"
    rule("owners: [bob]")
    assert failed(settings, store, HUB) == (
        "Acme at github may not deploy here: ask the administrator (SLIPWAY_POLICY) to be added to "
        "its owners. What runs stays"
    )
    assert "Acme at" not in failed(settings, store, FNS), "the list is for forges"


def failed(settings: Settings, store: Store, repository: Repository) -> str:
    store.save_repository(repository)
    release = store.create_release(repository, "a" * 40, "main", again=True)
    queues.dispatch(store, repository.key)
    here = replace(settings, github_url="http://127.0.0.1:9")
    with Lease(store, release.id) as lease:
        jobs._build(release.id, here, store, lease)
    done = store.release(release.id)
    assert done.state is State.FAILED
    return done.reason


def test_minutes_of_a_month_are_used_up(settings: Settings, store: Store, rule: Rule) -> None:
    rule("default: {build-minutes: 2}")
    store.count_built("acme", 119.0)
    assert "used up" not in failed(settings, store, FNS)
    store.count_built("acme", 1.0)
    assert failed(settings, store, FNS).startswith(
        "the 2 minutes of building that acme has in a calendar month (UTC) are used up"
    )
    assert "used up" in failed(settings, store, replace_(FNS, namespace="acme--pr-5"))
    assert "used up" not in failed(settings, store, replace_(FNS, namespace="bob"))
    rule("default: {build-minutes: 3}")
    assert "used up" not in failed(settings, store, FNS)
    assert 0 < store.redis.ttl(keys.built_seconds("acme", month())) <= 62 * 24 * 3600


def test_minutes_of_forks_are_counted_apart(settings: Settings, store: Store, rule: Rule) -> None:
    rule("default: {build-minutes: 2}")
    request = Request(number=5, commit="a" * 40, fork=True, approved="a" * 40)
    fork = replace_(FNS, namespace="acme--pr-5", parent="acme/fns", request=request)
    store.count_built("acme", 120.0, forks=True)
    assert "used up" not in failed(settings, store, FNS)
    assert failed(settings, store, fork).startswith(
        "the 2 minutes of building that acme has for requests from forks in a calendar month"
    )
    rule("default: {build-minutes: 3}")
    store.count_built("acme", 180.0)
    assert "used up" in failed(settings, store, FNS)
    assert "used up" not in failed(settings, store, fork)


@pytest.mark.parametrize("fork", [True, False])
def test_what_a_request_s_build_took_is_noted(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch, fork: bool
) -> None:
    monkeypatch.setattr(jobs, "_settings", lambda: settings)
    request = Request(number=5, commit="a" * 40, fork=fork)
    preview = replace_(FNS, namespace="acme--pr-5", parent="acme/fns", request=request)
    store.save_repository(preview)
    release = store.create_release(preview, "a" * 40, "main")
    queues.dispatch(store, preview.key)
    jobs.build_release(release.id)
    assert store.release(release.id).state is State.FAILED
    assert store.built_seconds("acme", forks=fork) > 0
    assert store.built_seconds("acme", forks=not fork) == 0


def test_a_build_is_counted_while_it_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "EVERY", 0.05)
    begun = time.monotonic()
    with Meter(store, "acme"):
        until(lambda: store.built_seconds("acme") > 0.1, 5)
    took = time.monotonic() - begun
    assert took - 0.05 < store.built_seconds("acme") <= took + 0.01


def test_every_build_is_counted(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_settings", lambda: settings)
    derived = replace_(FNS, namespace="acme--staging")
    store.save_repository(derived)
    release = store.create_release(derived, "a" * 40, "main")
    queues.dispatch(store, derived.key)
    jobs.build_release(release.id)
    assert store.release(release.id).state is State.FAILED
    assert store.built_seconds("acme") > 0


# Side by side


def test_one_owner_s_builds_wait_for_one_another(store: Store, rule: Rule) -> None:
    rule("default: {concurrent-builds: 1}\npolicies: {bob: {concurrent-builds: unlimited}}")
    all_ = [
        replace_(FNS, namespace=space, name=name)
        for space, name in (
            *(("acme", "z"), ("acme", "a"), ("acme--pr-1", "b"), ("acme-corp", "c")),
            *(("bob", "d"), ("bob", "e")),
        )
    ]
    releases = {}
    for each in all_:
        store.save_repository(each)
        releases[each.key] = store.create_release(each, "a" * 40, "main").id
    begun = [queues.dispatch(store, each.key) for each in reversed(all_)]
    assert [id_ for id_ in begun if id_] == [
        releases["bob/e"],
        releases["bob/d"],
        releases["acme-corp/c"],
        releases["acme/z"],
    ], "of acme the one that waits longest, whoever is asked about"
    assert (store.building("acme"), store.building("bob")) == (1, 2)
    sweep = Sweep(store)
    for key in ("acme/a", "acme--pr-1/b"):
        sweep.run()
        assert store.turn(key) == ""
        store.move(store.turn("acme/z") or releases["acme/a"], [State.QUEUED], State.FAILED, "no")
        sweep.run()
        assert store.turn(key) == releases[key], "the sweep finds that there is a place"


@pytest.mark.parametrize("read", [False, True])
def test_what_takes_everything_down_waits_for_no_policy_and_no_place(
    store: Store, rule: Rule, read: bool
) -> None:
    hold(store, Held(source=SOURCE))
    if read:
        rule("default: {concurrent-builds: 1}")
        other = replace_(FNS, name="other")
        store.save_repository(other)
        store.create_release(other, "a" * 40, "main")
        assert queues.dispatch(store, other.key), "it has the only place"
    for space in ("acme", "acme--new"):
        each = replace_(FNS, namespace=space)
        store.save_repository(each)
        release = store.create_release(each, NO_COMMIT, "main")
        assert queues.dispatch(store, each.key) == "", "nothing is live: nothing to take down"
    store.redis.set(keys.live(FNS.key), "r0-0000000")
    assert queues.dispatch(store, FNS.key) == store.releases("acme", "fns")[0].id
    store.create_release(each, "a" * 40, "main")
    store.redis.set(keys.live(each.key), release.id)
    assert queues.dispatch(store, each.key) == ""


def test_a_raised_bound_holds_at_once(store: Store, rule: Rule) -> None:
    rule("default: {concurrent-builds: 1}")
    for name in ("a", "b"):
        store.save_repository(replace_(FNS, name=name))
        store.create_release(replace_(FNS, name=name), "a" * 40, "main")
        queues.dispatch(store, f"acme/{name}")
    assert store.turn("acme/b") == ""
    rule("default: {concurrent-builds: 2}")
    Sweep(store).run()
    assert store.turn("acme/b")


# What is told


def test_the_doctor_tells_of_trouble(settings: Settings, store: Store, rule: Rule) -> None:
    def found() -> tuple[str, str]:
        (finding,) = doctor._policy(settings)
        return finding.state, f"{finding.text}: {finding.advice}"

    assert list(doctor._policy(replace(settings, policy=""))) == []
    assert found()[0] == FAIL
    hold(store, Held(source=SOURCE, trouble="there is no file"))
    assert found() == (FAIL, "it cannot be read: nobody may deploy: there is no file")
    rule("{}")
    held = store.held_policy()
    assert held
    assert found()[0] == OK
    hold(store, msgspec.structs.replace(held, since="noon", trouble="line 3: no"))
    told = "that of noon is in force, as what is there now is not taken: line 3: no"
    assert found() == (WARN, told)
    assert list(doctor._policy(replace(settings, redis_url="unix:///nowhere"))) == []


# What runs


def test_load_does_not_grow_beyond_a_bound(settings: Settings, store: Store, rule: Rule) -> None:
    rule("default: {replicas: 5, memory: 1Gi}")
    live(store, "f", FNS)
    live(store, "g", FNS, replicas=2)
    policy = store.policy(SOURCE).of("acme")

    def grow(to: int) -> int | None:
        seen = store.functions()["f.acme"]
        return store.rescale(
            seen, to, lambda: bounds.most_replicas(settings, store, policy, seen.spec)
        )

    assert grow(10) == 2, "256Mi each, and two are g's"
    assert grow(10) is None, "there is no place for more"
    assert grow(1) == 1
    rule("default: {replicas: 2}")
    policy = store.policy(SOURCE).of("acme")
    assert grow(4) is None, "those that there are stay"
    rule("default: {replicas: unlimited}")
    policy = store.policy(SOURCE).of("acme")
    assert grow(4) == 4


def test_a_changed_policy_holds_for_the_next_start(
    settings: Settings, store: Store, rule: Rule
) -> None:
    is_quiet = runtime_policy.reader(settings, store)
    spec = FunctionSpec(name="f", namespace="acme--staging", artifact=f"bundle:sha256:{'0' * 64}")
    bundle = Bundle(template="python3-http", process=["python3", "index.py"])

    def network() -> str:
        held = held_to(settings, spec, is_quiet)
        return cell_of(held, spec, bundle, uid=1, edge="http://edge").network

    rule("default: {egress: false}\npolicies: {bob: {egress: true}}")
    assert network() == "none"
    assert not is_quiet("bob")
    rule("{}")
    assert network() == "egress"
    rule("policies: {acme: {egress: false}}")
    assert network() == "none"
    assert not runtime_policy.reader(replace(settings, policy=""), store)("acme")
