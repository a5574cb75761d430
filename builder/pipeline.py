"""From a commit to artifacts: checkout, plan, context, build, test, publish, hand over.

``build_release`` is the whole story, value in, value out; what differs between runtimes is a
``builder.engines.BuildEngine``. Anything may be repeated: a build whose
worker died starts again from the top, and finds mirror, layers and bundles of the first attempt.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec

from builder import folders
from builder.check import check_stack, environment_file
from builder.context import write_context
from builder.handover import hand_over
from builder.key import build_key
from builder.mirror import Mirror, origin
from builder.source import Source, stack_file
from builder.templates import laid_out
from builder.work import Job, Tools
from core.models import (
    Artifact,
    Build,
    FunctionRow,
    FunctionSpec,
    Release,
    Repository,
    State,
)
from core.stackfile import StackFunction, parse

LAG = 10.0
"""Seconds in which a forge may show a push that it told us of."""


def build_release(release: Release, tools: Tools) -> None:
    """Builds every function of a release and hands the artifacts over.

    Raises:
        SlipwayError: why there is nothing to release; the caller marks it failed.
    """
    repository = tools.store.repository(release.namespace, release.repository)
    release = tools.store.move(release.id, _BUILDER, State.BUILDING)
    with (
        folders.making(tools.settings.state / folders.WORK) as folder,
        contextlib.ExitStack() as end,
    ):
        end.callback(tools.engine.over, release.id)
        release, source = checkout(release, repository, tools)
        with source:
            jobs = plan(release, source, tools)
            jobs = _each(jobs, lambda job: assemble(job, source, folder, tools), tools)
        tools.store.move(release.id, _BUILDER, State.TESTING)
        # What passed its tests is kept, also where another function fails.
        jobs = _each(jobs, lambda job: publish(test(job, tools), tools), tools)
    with tools.steps.step("release", told="all built: starting"):
        hand_over(tools.settings, release, [_artifact(job) for job in jobs])


def checkout(release: Release, repository: Repository, tools: Tools) -> tuple[Release, Source]:
    """Brings the commit into the repository's mirror.

    An event of a forge only tells us to look: the branch's head is what is released.
    """
    with tools.steps.step("checkout", told=f"checking out {release.commit[:7]}"):
        mirror = Mirror(
            tools.settings, repository.namespace, repository.name, check=tools.steps.check
        )
        own = repository.source == "git"
        where = origin(tools.settings, repository)
        if not own and not tools.store.pinned(release.id):
            head = _head(mirror, where.url, release, tools)
            if head != release.commit:
                release = tools.store.set_commit(release.id, head)
        source = tools.steps.patiently(
            lambda: mirror.fetch(
                where.url,
                release.commit,
                branch=release.branch,
                local=where.local,
                credential=where.credential,
            )
        )
        return release, source


def _head(mirror: Mirror, url: str, release: Release, tools: Tools) -> str:
    """The branch's head at the forge.

    A forge may tell of a push before all its servers show it. Where the event's commit is new and
    the head is one that was released before, it is asked again for ``LAG`` seconds.
    """
    patience = time.monotonic() + LAG
    while True:
        _, head = tools.steps.patiently(lambda: mirror.head(url, release.branch))
        if head == release.commit or time.monotonic() > patience:
            return head
        known = tools.store.releases(release.namespace, release.repository, limit=20)
        earlier = {each.commit for each in known if each.number < release.number}
        if head not in earlier or release.commit in earlier:
            return head
        tools.steps.pause(1.0)


def plan(release: Release, source: Source, tools: Tools) -> list[Job]:
    """Reads the stack file and decides for each function what it is and whether to build it."""
    with tools.steps.step("plan", told="reading the stack file"):
        if full := folders.nearly_full(tools.settings.state):
            tools.steps.log.add("", "plan", "stderr", f"warning: {full}")
        path, data = stack_file(source)
        stack, warnings = parse(data, path, max_functions=tools.settings.max_functions)
        for warning in warnings:
            tools.steps.log.add("", "plan", "stderr", f"warning: {path}: {warning!r}")
        check_stack(source, stack, tools.settings, namespace=release.namespace, engine=tools.engine)
        tools.store.check_claims(release, [function.name for function in stack.functions])
        jobs = [_job(release, function, source, tools) for function in stack.functions]
        tools.store.clear_rows(release.id)
        for job in jobs:
            _row(job, Build.REUSED if job.reused else Build.PENDING, tools)
            if job.reused:
                tools.steps.log.add(job.name, "plan", "step", "unchanged: nothing to build")
        return jobs


def assemble(job: Job, source: Source, folder: Path, tools: Tools) -> Job:
    """Writes the function's files and builds what will run."""
    if job.reused:
        return job
    job = replace(job, begun=time.monotonic(), app=folder / job.name)
    _row(job, Build.BUILDING, tools)
    with tools.steps.step("context", job.name, "building"):
        write_context(source, job.function, laid_out(job.template), job.app)
    return tools.engine.assemble(job, tools)


def test(job: Job, tools: Tools) -> Job:
    """Runs the function's own tests, where it has some: without network, bounded."""
    return job if job.reused else tools.engine.test(job, tools)


def publish(job: Job, tools: Tools) -> Job:
    """Gives what was built its final, content-addressed name."""
    if job.reused:
        return job
    artifact = tools.engine.publish(job, tools)
    tools.store.save_artifact(job.namespace, job.key.digest, artifact)
    job = replace(job, artifact=artifact)
    _row(job, Build.BUILT, tools)
    return job


_BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)


def _job(release: Release, function: StackFunction, source: Source, tools: Tools) -> Job:
    template = tools.engine.template(function.lang)
    environment = dict(function.environment or {})
    for path in function.environment_file:
        environment |= environment_file(source, path)
    spec = FunctionSpec(
        name=function.name,
        namespace=release.namespace,
        artifact="",
        repository=release.repository,
        commit=release.commit,
        env_process=function.fprocess,
        env_vars=environment or None,
        labels=function.labels,
        annotations=function.annotations,
        constraints=function.constraints,
        limits=function.limits,
        requests=function.requests,
        read_only_root_filesystem=function.readonly_root_filesystem,
    )
    extra = tools.engine.inputs(source, function, release.namespace, tools)
    key = build_key(source, function, template, extra=extra)
    artifact = tools.store.artifact(release.namespace, key.digest)
    if artifact:  # housekeeping may be about to remove it: what is found here stays
        tools.store.note_unneeded({}, [f"{release.namespace} {artifact}"])
    reused = bool(artifact) and tools.steps.patiently(
        lambda: tools.engine.there(release.namespace, artifact)
    )
    return Job(
        release=release,
        function=function,
        template=template,
        key=key,
        spec=spec,
        artifact=artifact if reused else "",
        reused=reused,
    )


def _artifact(job: Job) -> Artifact:
    spec = msgspec.structs.replace(job.spec, artifact=job.artifact, key=job.key.digest)
    return Artifact(name=job.name, key=job.key.digest, artifact=job.artifact, spec=spec)


def _row(job: Job, build: Build, tools: Tools) -> None:
    seconds = round(time.monotonic() - job.begun, 3) if job.begun else 0.0
    tools.store.save_row(
        job.release.id,
        FunctionRow(
            name=job.name,
            key=job.key.digest,
            build=build,
            artifact=job.artifact,
            seconds=seconds,
        ),
    )


def _each(jobs: Sequence[Job], stage: Callable[[Job], Job], tools: Tools) -> list[Job]:
    """Runs a stage for every function, several at once; all end before the first error is raised.

    The others finish what they have begun, but begin nothing new.
    """

    def run(job: Job) -> Job:
        try:
            return stage(job)
        except Exception:
            _row(job, Build.FAILED, tools)
            raise

    if len(jobs) == 1:
        return [run(jobs[0])]
    with ThreadPoolExecutor(tools.settings.build_parallel) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
