"""What the stages of a build hand to one another: the job of one function, and the tools."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.engines import BuildEngine, engine_for
from builder.key import BuildKey
from builder.steps import Steps
from builder.templates import Template
from core.bundle import Layer
from core.lazy import cached_property
from core.models import Build, Change, FunctionRow, FunctionSpec, Release
from core.settings import Settings
from core.stackfile import StackFunction
from core.store import Store


@dataclass(frozen=True)
class Tools:
    """What every stage works with."""

    settings: Settings
    store: Store
    steps: Steps

    @cached_property
    def engine(self) -> BuildEngine:
        """What builds here, by the runtime that the artifacts are for."""
        return engine_for(self.settings)


@dataclass(frozen=True)
class Job:
    """One function of the commit, as the stages fill it in."""

    release: Release
    function: StackFunction
    template: Template
    key: BuildKey
    spec: FunctionSpec
    app: Path = Path()
    """The function's context, laid out."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """What its RUN lines may mount: id → a file outside the context, gone with the release."""
    network: bool = True
    """Whether what it needs may be fetched: nothing for requests from forks, as a rule."""
    layers: tuple[Layer, ...] = ()
    """process: its installed dependencies."""
    image: str = ""
    """docker: its image in the build engine, by a tag that goes when the release is over."""
    tested: bool = False
    artifact: str = ""
    reused: bool = False
    why: tuple[Change, ...] | None = None
    since: str = ""
    """What changed since the release of this id that was live; see ``FunctionRow``."""
    begun: float = 0.0

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def namespace(self) -> str:
        """Whose artifact it is, made with whose caches; not where it is released to."""
        return self.spec.artifacts_of


@dataclass(frozen=True)
class Plan:
    """What a commit is to become."""

    jobs: list[Job]
    environments: Mapping[str, str]
    """Those that its stack file names → their branches."""


def row_of(job: Job, build: Build) -> FunctionRow:
    """What became of a function so far."""
    return FunctionRow(
        name=job.name,
        key=job.key.digest,
        build=build,
        artifact=job.artifact,
        seconds=round(time.monotonic() - job.begun, 3) if job.begun else 0.0,
        why=None if job.why is None else list(job.why),
        since=job.since,
        folder=job.function.handler,
    )


def show(job: Job, build: Build, tools: Tools) -> None:
    """Writes what became of a function so far, for all who look at the release."""
    tools.store.save_row(job.release.id, row_of(job, build))
