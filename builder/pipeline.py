"""From a commit to artifacts: checkout, plan, context, build, test, publish, hand over.

``build_release`` is the whole story, value in, value out; what differs between runtimes is a
``builder.engines.BuildEngine``. Anything may be repeated: a build whose
worker died starts again from the top, and finds mirror, layers and bundles of the first attempt.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec

from builder import buildsecrets, folders
from builder.context import write_context
from builder.handover import hand_over
from builder.mirror import Mirror, origin
from builder.plan import plan
from builder.secrets import build_secret, room
from builder.source import Source
from builder.templates import laid_out
from builder.work import Job, Tools, show
from core.models import Artifact, Build, Release, Repository, State

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
            secret = end.enter_context(room(tools.settings, folder))
            jobs = _each(jobs, lambda job: assemble(job, source, folder, secret, tools), tools)
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


def assemble(job: Job, source: Source, folder: Path, secret: Path, tools: Tools) -> Job:
    """Writes the function's files, secrets of the owner into ``secret``; builds what will run."""
    if job.reused:
        return job
    job = replace(job, begun=time.monotonic(), app=folder / job.name)
    show(job, Build.BUILDING, tools)
    with tools.steps.step("context", job.name, "building"):
        write_context(source, job.function, laid_out(job.template), job.app)
        if job.function.build_secrets:
            value_of = functools.partial(build_secret, tools.settings, job.release)
            beside = folder / f"{job.name}.secrets"  # no function's name has a dot
            files = buildsecrets.write(source, job.function, beside, secret, value_of)
            job = replace(job, secrets=files)
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
    show(job, Build.BUILT, tools)
    return job


_BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)


def _artifact(job: Job) -> Artifact:
    spec = msgspec.structs.replace(job.spec, artifact=job.artifact, key=job.key.digest)
    return Artifact(name=job.name, key=job.key.digest, artifact=job.artifact, spec=spec)


def _each(jobs: Sequence[Job], stage: Callable[[Job], Job], tools: Tools) -> list[Job]:
    """Runs a stage for every function, several at once; all end before the first error is raised.

    The others finish what they have begun, but begin nothing new.
    """

    def run(job: Job) -> Job:
        try:
            return stage(job)
        except Exception:
            show(job, Build.FAILED, tools)
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
