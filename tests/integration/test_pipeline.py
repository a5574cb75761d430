"""The way of one release through the builder: its checkout, its end, its bounds in time."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replace_struct

from builder import jobs, origins, pipeline, plan
from builder.engines.process import ProcessEngine
from builder.handover import Opened
from builder.lease import Lease
from builder.origins import local_url
from builder.steps import ReleaseLog, Steps
from builder.work import Job, Tools
from core import queues
from core.errors import Conflict, InvalidRequest, InvalidStack, Unavailable
from core.models import Artifact, Build, Release, Resources, State
from core.names import NO_COMMIT
from core.repositories import Repository, Request
from core.sealedbox import KEY_BYTES, KeyPair, Place, decoded, seal
from core.settings import Settings
from core.store import Store
from runtime.sealingkeys import SealingKeys
from tests.e2e.forge import Forge, Project, serving
from tests.unit.repositories import BareRepository, Content

OWN = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gateway says of each repository: it is where it was, and for everybody to read."""
    monkeypatch.setattr(origins, "opened_by_gateway", lambda *_, **__: Opened())
    monkeypatch.setattr(pipeline, "check_standing", lambda *_: None)


HUB = Repository(
    namespace="alice",
    name="fns",
    source="github",
    full_name="Alice/fns",
    deploy_branch="master",
    public=True,
)


def steps(store: Store, ended: threading.Event | None = None, seconds: float = 60) -> Steps:
    return Steps(ReleaseLog(store, "r1-abcdef0", 2**20), ended or threading.Event(), seconds)


# Time and end of a step.


def test_a_step_that_takes_too_long_ends(store: Store) -> None:
    mine = steps(store, seconds=0.1)
    with mine.step("plan"):
        mine.check()
        time.sleep(0.15)
        with pytest.raises(Unavailable, match=r"longer than 0.1 s \(SLIPWAY_BUILD_TIMEOUT\)"):
            mine.check()
        with ThreadPoolExecutor(1) as other:  # another thread runs a step of its own
            other.submit(mine.check).result()
    with mine.step("context"):
        mine.check()


def test_a_pause_ends_with_the_release(store: Store) -> None:
    ended = threading.Event()
    threading.Timer(0.2, ended.set).start()
    begun = time.monotonic()
    with pytest.raises(Conflict):
        steps(store, ended).pause(30)
    assert time.monotonic() - begun < 5


# A whole build.


@pytest.fixture
def own(settings: Settings, store: Store) -> BareRepository:
    store.save_repository(OWN)
    return BareRepository(Path(local_url(settings, OWN)))


def slow_to_plan() -> dict[str, Content]:
    """A commit of functions that take many seconds to be looked up, as large as they may be."""
    nodes = "environment: {}\nx: [" + "a, " * 60_000 + "]"
    fields = "{{lang: python3-http, handler: fn, environment_file: e{}.yml}}"
    functions = "".join(f"  f{n}: {fields.format(n)}\n" for n in range(22))
    files: dict[str, Content] = {f"e{n}.yml": nodes + " " * n for n in range(22)}
    return {
        "stack.yml": f"provider: {{name: openfaas}}\nfunctions:\n{functions}",
        "fn/handler.py": "",
        **files,
    }


def queued(store: Store, repository: BareRepository, files: dict[str, Content]) -> Release:
    release = store.create_release(OWN, repository.commit(files), "main")
    queues.dispatch(store, OWN.key)
    return release


def build(settings: Settings, store: Store, release: Release) -> Release:
    with Lease(store, release.id) as lease:
        jobs._build(release.id, settings, store, lease)
    return store.release(release.id)


def test_a_cancelled_release_frees_its_worker(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    release = queued(store, own, slow_to_plan())
    cancelled = []

    def cancel() -> None:
        store.cancel(release.id, "not wanted")
        cancelled.append(time.monotonic())

    threading.Timer(1, cancel).start()
    done = build(settings, store, release)
    assert cancelled, "it was still being looked up"
    assert time.monotonic() - cancelled[0] < 60
    assert (done.state, done.reason) == (State.CANCELLED, "not wanted")
    assert not any((settings.state / "work").iterdir())


def test_looking_up_is_bounded_in_time(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    begun = time.monotonic()
    done = build(replace(settings, build_timeout=2), store, queued(store, own, slow_to_plan()))
    assert time.monotonic() - begun < 60
    assert done.state is State.FAILED
    assert "took longer than 2 s (SLIPWAY_BUILD_TIMEOUT)" in done.reason


def test_an_error_of_our_own_tells_nothing_of_this_server(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    (settings.state / "work").write_text("a file where a folder is to be made")
    done = build(settings, store, queued(store, own, {"stack.yml": ""}))
    assert done.state is State.FAILED
    assert "internal error (File exists): push again" in done.reason
    assert str(settings.state) not in done.reason


# What a stack file names beyond its own commit, and several of them.

ONE = "provider: {name: openfaas}\nfunctions:\n"
DEF = "def handle(event, context):\n    return {'statusCode': 200}\n"


def planned(
    settings: Settings, store: Store, repository: BareRepository, files: dict[str, Content]
) -> dict[str, Job]:
    """The jobs of a commit, by their functions' names."""
    release = queued(store, repository, files)
    tools = Tools(settings, store, steps(store))
    release = store.move(release.id, [State.QUEUED], State.BUILDING)
    try:
        release, source = pipeline.checkout(release, OWN, tools)
        with source:
            known = store.repository(OWN.namespace, OWN.name)
            return {job.name: job for job in plan.plan(release, known, source, tools).jobs}
    finally:
        store.move(release.id, [State.BUILDING], State.FAILED)


def test_the_owners_variables_and_secrets_reach_the_specification(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    fields = "    lang: python3-http\n    handler: ./fn\n    environment_file: [one.yml, two.yml]\n"
    files: dict[str, Content] = {
        "stack.yml": f"{ONE}  fn:\n{fields}    secrets: [key]\n"
        "    fprocess: ${HOW:-python3 a.py}\n"
        "    environment: {A: inline, B: inline, URL: 'https://${HOST^^}/${#HOST}'}\n"
        "    constraints: [a==b]\n    readonly_root_filesystem: true\n"
        "    limits: {memory: 64Mi}\n    requests: {cpu: 100m}\n    annotations: {topic: t}\n",
        "one.yml": "environment: {B: one, C: one}",
        "two.yml": "environment: {C: two}",
        "fn/handler.py": DEF,
    }
    for owner in ("alice", "bob"):
        store.claim_namespace(owner, "git")
    store.set_variables("alice", {"HOST": "example"})
    store.set_variables("bob", {"HOST": "bobs", "HOW": "bobs"})
    with pytest.raises(InvalidStack, match="line 7: alice has not the secret key: create it"):
        planned(settings, store, own, files)
    store.create_secret(store.sealing_key(settings.secrets_key), "alice", "key", b"value")
    spec = planned(settings, store, own, files)["fn"].spec
    assert spec.env_vars == {
        **{"A": "inline", "B": "one", "C": "two"},
        "URL": "https://EXAMPLE/7",
    }
    assert (spec.secrets, spec.env_process) == (["key"], "python3 a.py")
    assert (spec.constraints, spec.read_only_root_filesystem) == (["a==b"], True)
    assert (spec.limits, spec.requests) == (Resources(memory="64Mi"), Resources(cpu="100m"))
    store.set_variables("alice", {"HOW": "python3 b.py"})
    assert planned(settings, store, own, files)["fn"].spec.env_process == "python3 b.py"


def with_secrets(names: str, sealed: str | None, more: str = "") -> dict[str, Content]:
    fields = f"    lang: python3-http\n    handler: ./fn\n    secrets: {names}\n{more}"
    files: dict[str, Content] = {"stack.yml": f"{ONE}  fn:\n{fields}", "fn/handler.py": DEF}
    return files if sealed is None else files | {"sealed.yml": sealed}


@pytest.fixture
def text(settings: Settings, store: Store) -> str:
    """A value that is sealed with the installation's key; for which place, a builder cannot see."""
    SealingKeys(settings.sealing_keys).tend(store)
    key = decoded(store.sealing_key_of().key)
    return seal(key, Place("alice", "git:1", "key"), b"value")


def test_what_a_commit_has_sealed_is_handed_on_as_it_is(
    settings: Settings, store: Store, own: BareRepository, text: str
) -> None:
    store.claim_namespace("alice", "git")
    stored = store.sealing_key(settings.secrets_key)
    store.create_secret(stored, "alice", "other", b"value")
    sealed = f"alice:\n  key: {text}\n  unused: {text}\nalice--staging:\n  gone: {text}\n"
    spec = planned(settings, store, own, with_secrets("[key, other]", sealed))["fn"].spec
    assert spec.sealed == {"key": text}
    store.create_secret(stored, "alice", "key", b"of the store")
    spec = planned(settings, store, own, with_secrets("[key, other]", sealed))["fn"].spec
    assert spec.sealed == {"key": text}, "what is sealed counts before the store"
    spec = planned(settings, store, own, with_secrets("[key, other]", None))["fn"].spec
    assert spec.sealed is None


def test_mistakes_of_what_is_sealed_are_told_before_anything_is_built(
    settings: Settings, store: Store, own: BareRepository, text: str
) -> None:
    stranger = KeyPair(b"\7" * KEY_BYTES)
    unknown = stranger.fingerprint
    theirs = seal(stranger.public, Place("alice", "git:1", "key"), b"value")
    of_staging = f"alice--staging:\n  key: {text}\n"
    build = "    build_secrets: {token: key}\n"
    for sealed, more, told in (
        (of_staging, "", r"line 6: alice has not the secret key: .* 'slipway seal key --repo"),
        (None, "", r"line 6: alice has not the secret key: .* 'slipway seal key --repository al"),
        (
            f"alice:\n  key: {theirs}\n",
            "",
            rf"key \(sealed.yml, line 2\) .* {unknown}",
        ),
        ("alice:\n  key: hunter2\n", "", r"sealed.yml has 1 mistake:\n  line 2: alice.key: it is"),
        ("alice: [\n", "", "sealed.yml has 1 mistake:\n.*not YAML"),
        (f"alice:\n  key: {text}\n", build, r"line 7: key is sealed \(sealed.yml, line 2\), which"),
    ):
        with pytest.raises(InvalidStack, match=told) as caught:
            planned(settings, store, own, with_secrets("[key]", sealed, more))
        assert "hunter2" not in str(caught.value)
    link = with_secrets("[key]", None) | {"sealed.yml/x": ""}
    with pytest.raises(InvalidStack, match=r"sealed.yml has 1 mistake:\n  it is a folder"):
        planned(settings, store, own, link)


def test_a_preview_has_what_is_sealed_for_previews_and_a_fork_s_nothing(
    settings: Settings, store: Store, own: BareRepository, text: str
) -> None:
    sealed = "".join(f"{each}:\n  key: {text}\n" for each in ("alice", "friends", "foes--preview"))
    files = with_secrets("[key]", sealed)
    request = Request(number=1)
    preview = replace_struct(OWN, parent="friends/fns", request=request)
    store.save_repository(preview)
    with pytest.raises(InvalidStack, match="friends--preview has not the secret key"):
        planned(settings, store, own, files)
    store.save_repository(replace_struct(preview, parent="foes/fns"))
    assert planned(settings, store, own, files)["fn"].spec.sealed == {"key": text}
    fork = replace_struct(request, fork=True)
    store.save_repository(replace_struct(preview, parent="foes/fns", request=fork))
    spec = planned(settings, store, own, files)["fn"].spec
    assert (spec.secrets, spec.sealed) == (None, None)


def test_functions_of_several_stack_files_are_one_release(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    fn = "  {}:\n    lang: python3-http\n    handler: ./fn\n"
    files: dict[str, Content] = {
        "api/stack.yml": ONE + fn.format("users") + "    lang: node\n",
        "jobs/stack.yml": ONE + fn.format("nightly") + "    secrets: [gone]\n",
        "api/fn/handler.py": DEF,
        "jobs/fn/handler.py": DEF,
    }
    with pytest.raises(InvalidRequest) as caught:
        planned(settings, store, own, files)
    told = str(caught.value)
    assert "api/stack.yml has 1 mistake:\n  line 6: 'lang' stands here twice" in told
    assert "jobs/stack.yml has 1 mistake:\n  line 6: alice has not the secret gone" in told
    files["api/stack.yml"] = ONE + fn.format("users")
    files["jobs/stack.yml"] = ONE + fn.format("nightly")
    found = planned(settings, store, own, files)
    assert {job.function.handler for job in found.values()} == {"api/fn", "jobs/fn"}


def test_what_two_functions_share_is_built_once(
    settings: Settings, store: Store, own: BareRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    fn = "  {}:\n    lang: python3-http\n    handler: ./{}\n"
    files: dict[str, Content] = {
        "stack.yml": ONE + "".join(fn.format(*each) for each in ("ax", "bx", "cy")),
        "x/handler.py": DEF,
        "y/handler.py": f"{DEF}\n",
    }
    handed: list[dict[str, str]] = []
    made: list[str] = []
    publish = ProcessEngine.publish

    def hand_over(
        _: Settings, __: Release, artifacts: Sequence[Artifact], ___: Mapping[str, str]
    ) -> None:
        handed.append({each.name: each.artifact for each in artifacts})
        assert all(each.spec.name == each.name for each in artifacts)

    def published(engine: ProcessEngine, job: Job, tools: Tools) -> str:
        made.append(job.name)
        return publish(engine, job, tools)

    monkeypatch.setattr(pipeline, "hand_over", hand_over)
    monkeypatch.setattr(ProcessEngine, "publish", published)
    release = queued(store, own, files)
    assert build(settings, store, release).reason == ""
    assert sorted(made) == ["a", "c"]
    assert handed[0]["a"] == handed[0]["b"] != handed[0]["c"]
    assert {(row.name, row.build, row.artifact) for row in store.release(release.id).functions} == {
        (name, Build.BUILT, artifact) for name, artifact in handed[0].items()
    }
    lines = [line.text for _, line in store.read_log(release.id) if line]
    assert "the same build as that of a: built once" in lines


@pytest.mark.parametrize(
    ("fields", "line", "why"),
    [
        (
            "    skip_build: true\n    image: me/fn:1\n",
            5,
            "me/fn:1 cannot run here, where functions",
        ),
        (
            "    lang: python3-http\n    handler: ./fn\n    build_secrets: {a: fn/handler.py}\n",
            4,
            "fn.build_secrets: builds for the process runtime run nobody's commands",
        ),
        (
            "    lang: python3-http\n    handler: ./fn\n    build_options: [dev]\n",
            4,
            "fn.build_options: builds for the process runtime install no system packages",
        ),
        (
            "    lang: python3-http\n    handler: ./fn\n    environment_file: [big.yml]\n",
            6,
            "'big.yml' has 20000000 bytes, and 262144 are allowed",
        ),
    ],
)
def test_what_cannot_be_here_is_told_with_its_line(
    settings: Settings, store: Store, own: BareRepository, fields: str, line: int, why: str
) -> None:
    files: dict[str, Content] = {"stack.yml": f"{ONE}  fn:\n{fields}", "fn/handler.py": DEF}
    if "big" in fields:
        files["big.yml"] = b"#" * 20_000_000
    with pytest.raises(InvalidStack) as caught:
        planned(settings, store, own, files)
    assert [(mistake.line, why in mistake.text) for mistake in caught.value.mistakes] == [
        (line, True)
    ]


# A forge that lags behind its own events.


@pytest.fixture
def forge(short_tmp: Path) -> Iterator[Forge]:
    with serving(short_tmp / "forge") as there:
        yield there


@pytest.fixture
def project(store: Store, forge: Forge) -> Project:
    store.save_repository(HUB)
    return forge.repository("Alice/fns")


def show(project: Project, commit: str) -> None:
    argv = ["git", "update-ref", f"refs/heads/{project.branch}", commit]
    subprocess.run(argv, cwd=project.bare, check=True)


@pytest.fixture
def checked_out(settings: Settings, store: Store, forge: Forge) -> Callable[..., str]:
    """Takes an event to the end of its checkout: the commit that is released."""

    def check_out(commit: str, *, ended: threading.Event | None = None) -> str:
        hub = replace(settings, github_url=forge.url)
        release = store.create_release(HUB, commit, "master")
        queues.dispatch(store, HUB.key)
        release = store.move(release.id, [State.QUEUED], State.BUILDING)
        try:
            release, source = pipeline.checkout(
                release, HUB, Tools(hub, store, steps(store, ended))
            )
            assert source.commit == release.commit
            source.close()
        finally:
            store.move(release.id, [State.BUILDING], State.FAILED)
        return release.commit

    return check_out


def test_a_push_that_the_forge_shows_late_is_released(
    project: Project, checked_out: Callable[..., str]
) -> None:
    old = project.commit({"x": "1"})
    assert checked_out(old) == old
    new = project.commit({"x": "2"})
    show(project, old)
    threading.Timer(1.5, show, (project, new)).start()
    assert checked_out(new) == new


def test_an_environment_is_built_of_its_own_branch(
    settings: Settings,
    store: Store,
    forge: Forge,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the gateway asks for it: its branch's head, whatever that is; none is nothing to build."""
    monkeypatch.setattr(pipeline, "LAG", 0.5)
    main = project.commit({"x": "1"})
    subprocess.run(["git", "branch", "develop", main], cwd=project.bare, check=True)
    show(project, project.commit({"x": "2"}))
    store.claim_namespace("alice", "git", HUB)
    tools = Tools(replace(settings, github_url=forge.url), store, steps(store))
    for branch, gone in (("develop", False), ("not/there", True)):
        child = store.save_environment(HUB, "staging", branch)
        release = store.create_release(child, NO_COMMIT, branch, again=True)
        queues.dispatch(store, child.key)
        release = store.move(release.id, [State.QUEUED], State.BUILDING)
        assert pipeline.branch_gone(release, child, tools) is gone
        if not gone:
            release, source = pipeline.checkout(release, child, tools)
            source.close()
            assert release.commit == main
            assert store.head(child.key) == main
        store.move(release.id, [State.BUILDING], State.FAILED)


def test_a_forge_that_stays_behind_is_not_waited_for(
    project: Project, checked_out: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "LAG", 1.0)
    old = project.commit({"x": "1"})
    assert checked_out(old) == old
    assert checked_out("f" * 40) == old


def test_a_head_that_was_never_released_is_not_waited_for(
    project: Project, checked_out: Callable[..., str]
) -> None:
    first = project.commit({"x": "1"})
    begun = time.monotonic()
    assert checked_out(first) == first
    stale, head = project.commit({"x": "2"}), project.commit({"x": "3"})
    assert checked_out(stale) == head
    assert checked_out(first) == head, "the event is an old one"
    assert time.monotonic() - begun < 5


def test_an_event_that_came_late_leaves_the_head_as_it_is(
    store: Store, project: Project, checked_out: Callable[..., str]
) -> None:
    late, head = project.commit({"x": "1"}), project.commit({"x": "2"})
    made = store.create_release(HUB, head, "master")
    queues.dispatch(store, HUB.key)
    store.move(made.id, [State.QUEUED], State.BUILDING)
    store.put_artifacts(made.id, head, [])
    store.switch(made.id, lambda _: 1)
    store.finish(made.id, "http://slipway.test")
    with pytest.raises(Conflict, match="is live already"):
        checked_out(late)
    ended = store.releases("alice", "fns")[0]
    assert (ended.commit, ended.state) == (late, State.SUPERSEDED)
    assert store.head(HUB.key) == head
    assert (store.follows_branch(ended.id), store.follows_branch(made.id)) == (False, True)
    assert store.turn(HUB.key) == ""


def test_a_commit_that_a_forced_push_replaced_as_it_was_fetched(
    project: Project, checked_out: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head was told, and was not there any more when it was asked for."""
    head = project.commit({"x": "1"})
    told = ["e" * 40, head]
    monkeypatch.setattr(pipeline, "_head", lambda *_: told.pop(0))
    assert checked_out(head) == head
    assert told == []


def test_waiting_for_a_forge_ends_with_the_release(
    project: Project, checked_out: Callable[..., str]
) -> None:
    checked_out(project.commit({"x": "1"}))
    ended = threading.Event()
    threading.Timer(1, ended.set).start()
    begun = time.monotonic()
    with pytest.raises(Conflict):
        checked_out("f" * 40, ended=ended)
    assert time.monotonic() - begun < 10


# A disk that is nearly full.


@pytest.mark.root
def test_a_nearly_full_disk_is_said_before_it_stops_builds(
    settings: Settings, store: Store, own: BareRepository, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", disk], check=True)
    try:
        files: dict[str, Content] = {"stack.yml": "provider: {name: openfaas}\n"}
        release = queued(store, own, files)
        small = replace(settings, state=disk)
        (disk / "git").symlink_to(settings.git_folder)
        build(small, store, release)
        lines = [getattr(line, "text", "") for line in store.follow_log(release.id, follow=False)]
        assert any("the server's disk is nearly full (1.0 GiB free)" in each for each in lines)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
