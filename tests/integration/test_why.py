"""Why a function is built or released anew: what the plan writes down, and tells in the log."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from builder import changes
from builder.bundles import publish
from builder.context import write_context
from builder.origins import local_url
from builder.plan import plan
from builder.source import Node, Source
from builder.steps import ReleaseLog, Steps
from builder.templates import laid_out
from builder.work import Job, Tools
from core import keys
from core.bundle import Bundle, bundle_folder, discard_bundle
from core.models import (
    Build,
    Change,
    ChangeKind,
    FunctionRecord,
    FunctionRow,
    FunctionSpec,
    LogLine,
    State,
    now,
)
from core.repositories import Repository
from core.settings import Settings
from core.stackfile import StackFunction
from core.store import Store
from tests.unit.repositories import EXECUTABLE, FILE, BareRepository, Content

OWN = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")
STACK = """\
provider: {name: openfaas}
functions:
  fn:
    lang: python3-http
    handler: ./fn
    copy: [lib, tool.sh]
    build_args: {TOKEN: hunter1, KEPT: same}
    environment: {LEVEL: hunter2, SAME: same}
    labels: {team: hunter3}
    limits: {memory: 64Mi}
    secrets: [key]
"""
FILES: dict[str, Content] = {
    "stack.yml": STACK,
    "fn/handler.py": "def handle(event, context): pass\n",
    "fn/deep/er.py": "1",
    "lib/x.py": "x",
    "tool.sh": (FILE, "tool"),
}


class World:
    """Plans a commit, and then builds and releases what the plan says."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.repository = BareRepository(Path(local_url(settings, OWN)))
        store.save_repository(OWN)
        store.claim_namespace("alice", "git")
        self.key = store.sealing_key(settings.secrets_key)
        store.create_secret(self.key, "alice", "key", b"hunter4")
        self.lines: list[LogLine] = []

    def release(self, files: dict[str, Content]) -> FunctionRow:
        """The row of the one function, as the plan wrote it."""
        commit = self.repository.commit(files)
        release = self.store.create_release(OWN, commit, "main", again=True)
        self.store.take_turn(OWN.key)
        self.store.move(release.id, [State.QUEUED], State.BUILDING)
        log = ReleaseLog(self.store, release.id, 2**20)
        tools = Tools(self.settings, self.store, Steps(log, threading.Event()))
        bounds = {"max_files": 99, "max_bytes": 9999}
        with Source(self.repository.path, commit, **bounds) as source:
            (job,) = plan(release, OWN, source, tools).jobs
            artifact = job.artifact or self._built(job, source)
        (row,) = self.store.release(release.id).functions
        self.lines = [line for _, line in self.store.read_log(release.id)]  # type: ignore[misc]  # no end is among them
        self.store.move(release.id, [State.BUILDING], State.FAILED)  # another may begin
        spec = msgspec.structs.replace(
            job.spec,
            artifact=artifact,
            key=job.key.digest,
            secret_versions=self.store.secret_versions("alice", job.spec.secrets or ()),
        )
        record = FunctionRecord(spec=spec, release=release.id, replicas=1, created_at=now())
        self.store.redis.hset(keys.FUNCTIONS, spec.function, msgspec.json.encode(record))
        return row

    def _built(self, job: Job, source: Source) -> str:
        app = self.settings.state / "app"
        write_context(source, job.function, laid_out(job.template), app)
        bundle = Bundle(template=job.template.name, process=["python3"])
        artifact = publish(self.settings, "alice", app, bundle)
        self.store.save_artifact("alice", job.key.digest, artifact, job.key.inputs)
        return artifact


@pytest.fixture
def world(settings: Settings, store: Store) -> World:
    return World(settings, store)


def whats(row: FunctionRow) -> list[str]:
    return [each.what for each in row.why or ()]


def test_the_first_release_and_one_that_changes_nothing(world: World) -> None:
    first = world.release(FILES)
    assert first.why == [Change(kind=ChangeKind.FIRST)]
    assert (first.since, first.build) == ("", Build.PENDING)
    again = world.release({**FILES, "stack.yml": f"# more\n{STACK}", "README.md": "x"})
    assert (again.why, again.build) == ([], Build.REUSED)
    assert again.since.startswith("r1-")
    assert world.lines[-1].text == "unchanged: nothing to build"
    assert first.key == again.key


def test_files_that_changed_are_named(world: World) -> None:
    world.release(FILES)
    row = world.release(
        {**FILES, "fn/deep/er.py": "2", "fn/new.py": "", "tool.sh": (EXECUTABLE, "tool")}
    )
    assert row.build is Build.PENDING
    assert row.why is not None
    copied, handler = row.why
    assert (handler.what, handler.names) == ("handler", ["new.py", "deep/er.py"])
    assert len(handler.before) == len(handler.after) == 12
    assert copied.what == "copy tool.sh"
    assert copied.after == f"{copied.before} executable", "its mode counts as well"
    assert str(handler) == "handler changed (new.py, deep/er.py)"


def test_many_files_are_cut_short_and_odd_names_are_escaped(world: World) -> None:
    world.release(FILES)
    row = world.release({**FILES, **{f"fn/{n}\u202e.py": "" for n in range(9)}})
    assert row.why is not None
    assert row.why[0].names == [*(f"'{n}\\u202e.py'" for n in range(5)), "…"]


def test_no_value_is_ever_told(world: World) -> None:
    world.release(FILES)
    changed = STACK
    for number in range(1, 4):
        changed = changed.replace(f"hunter{number}", f"other{number}")
    world.store.update_secret(world.key, "alice", "key", b"other4")
    changed = changed.replace("64Mi", "65Mi").replace("SAME: same", "NEW: new")
    row = world.release({**FILES, "stack.yml": changed})
    assert row.why is not None
    told = {each.what: each.names for each in row.why}
    assert told == {
        "build_args TOKEN": [],
        "environment": ["LEVEL", "NEW", "SAME"],
        "labels": ["team"],
        "limits": ["memory"],
        "secrets": ["key"],
    }
    kept = world.store.inputs("alice", [row.key])
    assert kept.keys() == {row.key}
    for text in (repr(row), repr(kept), *(line.text for line in world.lines)):
        assert "hunter" not in text
        assert "other" not in text


def test_settings_alone_build_nothing(world: World) -> None:
    world.release(FILES)
    row = world.release({**FILES, "stack.yml": STACK.replace("hunter2", "other")})
    assert (whats(row), row.build) == (["environment"], Build.REUSED)
    assert world.lines[-1].text == "same build: environment changed (LEVEL)"


def test_going_back_says_what_changed_and_builds_nothing(world: World) -> None:
    world.release(FILES)
    world.release({**FILES, "lib/x.py": "y"})
    row = world.release(FILES)
    assert (whats(row), row.build) == (["copy lib"], Build.REUSED)
    assert world.lines[-1].text == "built before: copy lib changed (x.py)"


def test_an_artifact_that_is_gone_is_the_reason(world: World) -> None:
    first = world.release(FILES)
    artifact = world.store.claim_artifacts("alice", [first.key])[first.key]
    discard_bundle(world.settings, "alice", artifact)
    row = world.release(FILES)
    assert (whats(row), row.build, row.key) == (["artifact"], Build.PENDING, first.key)
    assert bundle_folder(world.settings, "alice", artifact).is_dir(), "it was built again"


def test_what_a_build_was_made_of_may_be_known_no_more(world: World) -> None:
    world.release(FILES)
    world.store.redis.delete(keys.inputs("alice"))
    assert whats(world.release({**FILES, "lib/x.py": "y"})) == ["build key"]
    assert whats(world.release({**FILES, "lib/x.py": "z"})) == ["copy lib"]


FN = StackFunction(name="fn", lines={"name": 1}, handler="fn")
BUILD = [Change(kind=ChangeKind.BUILD, what="handler")]


def bomb(repository: BareRepository, text: str) -> str:
    """A folder of folders of folders …, 3,000 each and all one and the same, with one file."""
    oid = repository.tree([(FILE, b"f", repository.blob(text.encode()))])
    for _ in range(4):
        oid = repository.tree([("40000", f"{n:04}".encode(), oid) for n in range(3000)])
    return oid


def test_files_are_looked_for_among_so_many_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = BareRepository(tmp_path / "r.git")
    before, after = bomb(repository, "1"), bomb(repository, "2")
    extra = repository.tree([(FILE, b"x", repository.blob(b"x"))])
    top = repository.tree([("40000", b"fn", after), ("40000", b"template", extra)])
    asked: list[str] = []
    listing = Source.listing

    def counted(source: Source, oid: str) -> Mapping[str, Node] | None:
        asked.append(oid)
        return listing(source, oid)

    monkeypatch.setattr(Source, "listing", counted)
    with Source(repository.path, repository.commit_tree(top), max_files=9, max_bytes=99) as source:
        (told,) = changes.with_files(BUILD, {"handler": before}, source, FN)
        assert told.names == ["…"]
        assert len(asked) < 20
        whole = msgspec.structs.replace(FN, handler=".")
        (told,) = changes.with_files(BUILD, {"handler": extra}, source, whole)
    assert "template/x" not in told.names, "it is no part of the build"


def test_what_was_before_and_cannot_be_read_fails_no_build(tmp_path: Path) -> None:
    repository = BareRepository(tmp_path / "r.git")
    before = repository.tree([(FILE, b"%d" % n, f"{n:040x}") for n in range(1000, 3000)])
    path = repository.path / "objects" / before[:2] / before[2:]
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)  # its kind and size can be read yet
    commit = repository.commit({"fn/a": "2"})
    with Source(repository.path, commit, max_files=9, max_bytes=99) as source:
        (told,) = changes.with_files(BUILD, {"handler": before}, source, FN)
        assert told.names == []
        assert source.read("fn/a", 9) == b"2"


def test_a_value_that_is_sealed_anew_or_from_now_on_is_told_by_its_name() -> None:
    spec = FunctionSpec(name="f", namespace="alice", artifact="x", secrets=["a", "b"])
    stored = msgspec.structs.replace(spec, secret_versions={"a": "1", "b": "1"})
    half = msgspec.structs.replace(spec, secret_versions={"a": "1"}, sealed={"b": "sealed:1:x"})
    anew = msgspec.structs.replace(half, sealed={"b": "sealed:1:y"})
    assert changes.of_configuration(half, half) == []
    for before, after in ((stored, half), (half, anew), (half, stored)):
        (change,) = changes.of_configuration(after, before)
        assert (change.what, change.names) == ("secrets", ["b"])
        assert "sealed:" not in str(change)
