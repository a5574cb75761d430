"""The plan against an oracle that compares every byte and mode of what goes into each build.

Random edits of a generated repository (``edits``), each a real commit that the real code plans. Of
each function the oracle lays out the inputs from the generator's own state, without git and without
the builder's code. What was built before from other inputs and is taken all the same is a stale
skip: there must be none. What is built though the same inputs were built before is needless: at
most one build in a hundred.

``make oracle``: 2,000 edits; ``EDITS=`` and ``SEED=`` say how many and which. Every seed makes a
repository of ``EACH`` edits, so that one which fails replays alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builder.engines.process import ProcessEngine
from builder.origins import local_url
from builder.plan import plan
from builder.source import Source
from builder.steps import ReleaseLog, Steps
from builder.templates import DOCKERFILE, FOLDER, Template
from builder.templatesources import Templates
from builder.work import Job, Tools
from core import keys
from core.models import Change, ChangeKind, FunctionRecord, now
from core.openfaas import Namespace
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from core.store.releases import queued
from tests.integration.edits import BELOW, ROOT, VARIABLE, Editor, State, committed
from tests.unit.repositories import EXECUTABLE, LINK, BareRepository

EDITS = int(os.environ.get("SLIPWAY_ORACLE_EDITS", "200"))
SEED = int(os.environ.get("SLIPWAY_ORACLE_SEED", "1"))
EACH = 100
"""Edits of one repository."""
OWN = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")
OTHER = Repository(namespace="alice", name="more", source="git", deploy_branch="main")
NEEDLESS = 0.01
"""Part of all builds."""


class Anything(ProcessEngine):
    """Plans whatever a stack file may say, on a base image that moves."""

    base = ""

    def template(self, lang: str, templates: Templates) -> Template:
        return DOCKERFILE if lang == DOCKERFILE.name else templates.find(lang)

    def check(self, *_: object) -> None:
        pass

    def inputs(self, *_: object) -> Mapping[str, str]:
        return {"base image": self.base}

    def there(self, _: str, artifacts: Collection[str]) -> set[str]:
        return set(artifacts)


# The oracle.


def inputs_of(state: State, stack: str, function: dict[str, Any]) -> dict[str, Any]:
    """All that goes into a build."""
    files = {path: each for path, each in state.tree().items() if each[0] != LINK}
    folder = posixpath.dirname(stack)
    lang = function["lang"]
    found: dict[str, tuple[bool, bytes]] = {}
    says: dict[str, Any] = {"handler_folder": ""}
    where = [f"{folder}/template/{lang}".lstrip("/"), f"template/{lang}"]
    home = next((each for each in where if each in state.templates), "")
    if home:
        says = {"handler_folder": "function", **state.templates[home]}
        laid = below(files, home)
    elif lang != "dockerfile":
        laid, says = installed(lang)
    else:
        laid = {}
    inside = f"{says['handler_folder']}/" if says["handler_folder"] else ""
    for path, (mode, data) in laid.items():
        name = path.rpartition("/")[2]
        tests = name.startswith("test_") or "_test." in name or ".test." in name
        if not (path.startswith(inside) and (name.startswith("handler.") or tests)):
            found[path] = (mode == EXECUTABLE, data)
    for path, (mode, data) in below(files, at(folder, function["handler"])).items():
        if path.split("/")[0] not in ("build", "template"):
            found[inside + path] = (mode == EXECUTABLE, data)
    for each in function.get("copy", []):
        whole = at(folder, each)
        for path, (mode, data) in files.items():
            if path == whole or path.startswith(f"{whole}/"):
                place = path.removeprefix(f"{folder}/") if folder else path
                found[inside + place] = (mode == EXECUTABLE, data)
    options = {each["name"]: each["packages"] for each in says.get("build_options", [])}
    said = function.get("build_args", {})
    values = {"${TAG}": state.variable, "${TAG:-none}": state.variable or "none"}
    return {
        "files": {path: [mode, data.hex()] for path, (mode, data) in sorted(found.items())},
        "template": lang,
        "runs": says.get("fprocess", ""),
        "arguments": {name: values.get(value, value) for name, value in sorted(said.items())},
        "packages": sorted({p for o in function.get("build_options", []) for p in options[o]}),
        "secrets": {
            id_: files[at(folder, path)][1].hex()
            for id_, path in function.get("build_secrets", {}).items()
        },
        "base": state.base,
    }


def configuration_of(state: State, stack: str, function: dict[str, Any]) -> dict[str, Any]:
    """All that is deployed beside the artifact."""
    told = ("environment", "labels", "annotations", "limits", "readonly_root_filesystem")
    found = {name: function[name] for name in told if name in function}
    for path in function.get("environment_file", []):
        text = state.files[path][1].decode()
        value = text.partition("A: ")[2].partition("}")[0]
        found["environment"] = {**found.get("environment", {}), "A": value}
    found["fprocess"] = function.get("fprocess")
    own = [f"{posixpath.dirname(stack)}/template/{function['lang']}".lstrip("/")]
    for home in (*own, f"template/{function['lang']}"):
        if home in state.templates and not found["fprocess"]:
            found["fprocess"] = state.templates[home]["fprocess"]
    return found


def at(folder: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(folder, path))


def below(files: Mapping[str, tuple[str, bytes]], folder: str) -> dict[str, tuple[str, bytes]]:
    return {
        path.removeprefix(f"{folder}/"): each
        for path, each in files.items()
        if path.startswith(f"{folder}/")
    }


def installed(lang: str) -> tuple[dict[str, tuple[str, bytes]], dict[str, Any]]:
    """One of the installation's own: its files, which no edit changes, and what it says."""
    home = FOLDER / lang
    files = {
        path.relative_to(home).as_posix(): ("", path.read_bytes())
        for path in home.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    options = [
        {"name": "dev", "packages": ["build-essential"]},
        {"name": "git", "packages": ["git"]},
    ]
    return files, {"handler_folder": "function", "build_options": options}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# What is held against it.


class World:
    """One owner's store, a repository in it, and what the oracle knows to be built."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.engine = Anything(settings)
        self.built: set[str] = set()
        self.builds = self.needless = self.reused = 0
        self.live: dict[str, tuple[str, str]] = {}
        """Function → digests of the inputs and of the configuration that were released last."""

    def plan(self, repository: Repository, git_dir: Path, commit: str, number: int) -> list[Job]:
        release = queued(number, repository, commit, "main")
        log = ReleaseLog(self.store, release.id, 2**20)
        tools = Tools(self.settings, self.store, Steps(log, threading.Event()))
        tools.__dict__["engine"] = self.engine
        bounds = {"max_files": self.settings.max_files, "max_bytes": self.settings.max_context}
        with Source(git_dir, commit, **bounds) as source:
            jobs = plan(release, repository, source, tools).jobs
        self.store.redis.delete(keys.log(release.id), keys.rows(release.id))
        return jobs

    def hold(self, state: State, jobs: list[Job], told: str) -> None:
        """Compares one plan with the oracle, and then builds and releases what it says."""
        wanted = {
            name: (
                digest(inputs_of(state, path, each)),
                digest(configuration_of(state, path, each)),
            )
            for path, stack in state.stacks.items()
            for name, each in stack.items()
        }
        assert {job.name for job in jobs} == wanted.keys(), told
        for job in jobs:
            inputs, _ = wanted[job.name]
            artifact = f"bundle:sha256:{inputs}"
            if job.reused:
                assert job.artifact == artifact, f"a stale skip of {job.name} by {told}"
                self.reused += 1
            else:
                self.builds += 1
                self.needless += inputs in self.built
            self.hold_why(job, self.live.get(job.name), wanted[job.name], told)
        for job in jobs:
            self._release(job, wanted[job.name][0])
        gone = [f"{name}.alice" for name in self.live.keys() - wanted.keys()]
        if gone:
            self.store.redis.hdel(keys.FUNCTIONS, *gone)
        self.live = wanted

    def hold_why(
        self, job: Job, before: tuple[str, str] | None, after: tuple[str, str], told: str
    ) -> None:
        """What is said of the changes: nothing where there are none, and something of each kind."""
        assert job.why is not None
        if before is None:
            assert job.why == (Change(kind=ChangeKind.FIRST),), f"{job.name} by {told}"
            return
        kinds = {each.kind for each in job.why}
        assert ChangeKind.FIRST not in kinds
        if before[0] != after[0]:
            assert ChangeKind.BUILD in kinds, f"why {job.name} is another build, by {told}"
        assert (ChangeKind.CONFIGURATION in kinds) == (before[1] != after[1]), (
            f"the configuration of {job.name} by {told}: {job.why}"
        )

    def _release(self, job: Job, inputs: str) -> None:
        artifact = f"bundle:sha256:{inputs}"
        if not job.reused:
            self.store.save_artifact("alice", job.key.digest, artifact, job.key.inputs)
            self.built.add(inputs)
        spec = msgspec.structs.replace(job.spec, artifact=artifact, key=job.key.digest)
        record = FunctionRecord(spec=spec, release=job.release.id, replicas=1, created_at=now())
        self.store.redis.hset(keys.FUNCTIONS, spec.function, msgspec.json.encode(record))


def run(settings: Settings, store: Store, seed: int, edits: int) -> World:
    """All edits of one seed; then the last ones once more as another repository of the owner."""
    store.redis.flushdb()
    store.create_namespace(Namespace(name="alice"))
    world = World(settings, store)
    editor = Editor(seed)
    states, names = [editor.state], [editor.name]
    for _ in range(edits):
        states.append(editor.edit())
        names.append(editor.name)
    repository = BareRepository(Path(local_url(settings, OWN)).with_suffix(f".{seed}"))
    commits = committed(repository, states)
    for number, (state, commit, name) in enumerate(zip(states, commits, names, strict=True), 1):
        store.set_variables("alice", {VARIABLE: state.variable})
        world.engine.base = state.base
        jobs = world.plan(OWN, repository.path, commit, number)
        told = f"edit {number - 1} ({name}): make oracle EDITS={EACH} SEED={seed}"
        world.hold(state, jobs, told)
    store.redis.delete(keys.FUNCTIONS)
    elsewhere = world.plan(OTHER, repository.path, commits[-1], number + 1)
    assert all(job.reused for job in elsewhere), "the same in another repository is built already"
    return world


def test_the_oracle_sees_what_the_generator_changes() -> None:
    """It cannot be right by seeing nothing."""
    state = Editor(1).state
    before = digest(inputs_of(state, ROOT, state.stacks[ROOT]["a"]))
    assert digest(inputs_of(Editor(1).state, ROOT, state.stacks[ROOT]["a"])) == before
    mode, data = state.files["tool.sh"]
    assert mode == EXECUTABLE
    state.files["tool.sh"] = ("100644", data)
    assert digest(inputs_of(state, ROOT, state.stacks[ROOT]["a"])) != before
    whole = digest(inputs_of(state, BELOW, state.stacks[BELOW]["whole"]))
    state.looks[BELOW] = 7
    assert digest(inputs_of(state, BELOW, state.stacks[BELOW]["whole"])) != whole


@pytest.mark.timeout(0)
def test_random_edits_against_the_oracle(settings: Settings, store: Store) -> None:
    builds = needless = reused = 0
    for seed in range(SEED, SEED + -(-EDITS // EACH)):
        world = run(settings, store, seed, min(EACH, EDITS))
        builds, needless = builds + world.builds, needless + world.needless
        reused += world.reused
    print(f"{EDITS} edits: {reused} reused, {builds} built, of these {needless} needlessly")
    assert reused > builds > 0
    assert needless <= NEEDLESS * builds
