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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from builder import allowance, buildsecrets, diskbound, folders
from builder.changes import in_words
from builder.context import write_context
from builder.giterrors import NotServed, NotThere
from builder.handover import check_standing, hand_over, have_looked_at
from builder.mirror import Mirror, NoBranch
from builder.origins import Origin, origin
from builder.plan import plan
from builder.secrets import build_secret, room
from builder.source import Source
from builder.templates import laid_out
from builder.work import Job, Plan, Tools, show
from core import failpoints
from core.errors import CheckoutFailed, Conflict, NotAllowed, Unavailable
from core.models import Artifact, Build, Release, State
from core.names import NO_COMMIT
from core.previews import refusal
from core.repositories import Repository

LAG = 10.0
"""Seconds in which a forge may show what it told us of."""


def build_release(release: Release, tools: Tools) -> None:
    """Builds every function of a release and hands the artifacts over.

    Raises:
        SlipwayError: why there is nothing to release; the caller marks it failed.
    """
    repository = tools.store.repository(release.namespace, release.repository)
    release = tools.store.move(release.id, _BUILDER, State.BUILDING)
    if branch_gone(release, repository, tools):
        done = Plan([], {})
        tools.store.save_rows(release.id, ())
    else:
        release, done = _build(release, repository, tools)
    told = "all built: starting" if done.jobs else "no functions: what was deployed is taken down"
    with tools.steps.step("release", told=told):
        failpoints.at("handing-over")
        if done.jobs and repository.source != "git":
            check_standing(tools.settings, repository)  # it took a while to get here
        artifacts = [_artifact(job) for job in done.jobs]
        hand_over(tools.settings, release, artifacts, done.environments)
        failpoints.at("handed-over")


def _build(release: Release, repository: Repository, tools: Tools) -> tuple[Release, Plan]:
    # Whoever may not deploy may still take down, which comes before.
    allowance.admit(tools.settings, tools.store, release, repository)
    diskbound.check(tools.settings, tools.store, tools.steps.check)
    with (
        folders.making(tools.settings.state / folders.WORK) as folder,
        contextlib.ExitStack() as end,
    ):
        end.callback(tools.engine.over, release.id)
        release, source = checkout(release, repository, tools)
        failpoints.at("checked-out")
        with source:
            planned = plan(release, repository, source, tools)
            jobs = planned.jobs
            failpoints.at("planned")
            secret = end.enter_context(room(tools.settings, folder))
            once = _each(
                _once(jobs, tools), lambda job: assemble(job, source, folder, secret, tools), tools
            )
        tools.store.move(release.id, _BUILDER, State.TESTING)
        # What passed its tests is kept, also where another function fails.
        once = _each(once, lambda job: publish(test(job, tools), tools), tools)
        return release, Plan(_all(jobs, once, tools), planned.environments)


def _once(jobs: Sequence[Job], tools: Tools) -> list[Job]:
    """Of functions with the same build the first: built twice, it could give two artifacts."""
    first: dict[str, Job] = {}
    for job in jobs:
        same = first.setdefault(job.key.digest or job.name, job)
        if same is not job and not job.reused:
            told = f"the same build as that of {same.name}: built once"
            tools.steps.log.add(job.name, "plan", "step", told)
    return list(first.values())


def _all(jobs: Sequence[Job], built: Sequence[Job], tools: Tools) -> list[Job]:
    """All functions of the commit: those left out by ``_once`` have the artifact as well."""
    by_name = {job.name: job for job in built}
    by_key = {job.key.digest: job.artifact for job in built if job.key.digest}
    done = []
    for job in jobs:
        if job.name not in by_name:
            job = replace(job, artifact=by_key[job.key.digest])
            if not job.reused:
                show(job, Build.BUILT, tools)
        done.append(by_name.get(job.name, job))
    return done


def branch_gone(release: Release, repository: Repository, tools: Tools) -> bool:
    """Whether the release is of a deploy branch that was deleted, or of a repository of which
    nothing is wanted any more: nothing is deployed then.

    Of our own remote the gateway knows. An event of a forge only tells us to look: a branch is
    gone where the repository answers without it, within ``LAG`` seconds, and not where it cannot be
    asked.

    Raises:
        CheckoutFailed: the repository cannot be asked.
    """
    if repository.gone:
        return True
    if release.commit != NO_COMMIT:
        return False
    if repository.source == "git":
        return True
    told = f"looking whether {release.branch} was deleted"
    with tools.steps.step("checkout", told=told) as out:
        mirror = Mirror(
            tools.settings, repository.namespace, repository.name, check=tools.steps.check
        )
        where = origin(tools.settings, repository)
        patience = time.monotonic() + LAG
        try:
            while True:
                tools.steps.patiently(
                    lambda: mirror.head(where.url, release.branch, credential=where.credential)
                )
                if time.monotonic() > patience:
                    return False
                tools.steps.pause(1.0)
        except NoBranch as error:
            out(str(error))
            return True


def checkout(release: Release, repository: Repository, tools: Tools) -> tuple[Release, Source]:
    """Brings the commit into the repository's mirror.

    An event of a forge only tells us to look: the branch's head is what is released. Of a request
    from a fork it is the commit that was approved.

    Raises NotAllowed: nobody has approved it, or nothing of the repository is deployed any more.
    """
    rules = tools.store.fork_rules(tools.settings.policy, repository)
    if told := refusal(repository, release.commit, rules):
        raise NotAllowed(told)
    with tools.steps.step("checkout", told=f"checking out {release.commit[:7]}"):
        mirror = Mirror(
            tools.settings, repository.namespace, repository.name, check=tools.steps.check
        )
        try:
            where = origin(tools.settings, repository, checked=True)
        except CheckoutFailed:
            have_looked_at(tools.settings, repository)
            raise
        request = repository.request
        approved = request is not None and request.approved == release.commit
        if repository.source == "git" or approved or tools.store.pinned(release.id):
            return _fetched(mirror, where, release, tools)
        try:
            with suppress(NotServed, NotThere):  # replaced by a forced push while we looked
                return _at_head(mirror, where, release, tools)
            return _at_head(mirror, where, release, tools)
        except CheckoutFailed as error:
            if error.retryable:
                raise
            # Renamed, made private, deleted: the gateway asks the forge, and releases it anew.
            have_looked_at(tools.settings, repository)
            raise type(error)(f"{error}{where.trouble and f'; {where.trouble}'}") from error


def _at_head(
    mirror: Mirror, where: Origin, release: Release, tools: Tools
) -> tuple[Release, Source]:
    head = _head(mirror, where, release, tools)
    if head != release.commit:
        _drop_stale(release, head, tools)
        release = tools.store.set_commit(release.id, head)
    return _fetched(mirror, where, release, tools)


def _fetched(
    mirror: Mirror, where: Origin, release: Release, tools: Tools
) -> tuple[Release, Source]:
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


def _head(mirror: Mirror, where: Origin, release: Release, tools: Tools) -> str:
    """The branch's head at the forge.

    A forge may tell of a push before all its servers show it. Where the event's commit is new, not
    in the history of the head, and the head is one that was released before, it is asked again for
    ``LAG`` seconds.
    """
    patience = time.monotonic() + LAG

    @functools.cache
    def stale() -> bool:
        return mirror.leads_to(where.url, release.commit, head, credential=where.credential)

    while True:
        _, head = tools.steps.patiently(
            lambda: mirror.head(where.url, release.branch, credential=where.credential)
        )
        if head == release.commit or release.commit == NO_COMMIT or time.monotonic() > patience:
            return head
        known = tools.store.releases(release.namespace, release.repository, limit=20)
        earlier = {each.commit for each in known if each.number < release.number}
        if head not in earlier or release.commit in earlier or stale():
            return head
        tools.steps.pause(1.0)


def _drop_stale(release: Release, head: str, tools: Tools) -> None:
    """Ends the release of an event that came late where the head, which is another commit, is live
    already.

    Raises:
        Conflict: it was ended.
    """
    live = tools.store.live_release(f"{release.namespace}/{release.repository}")
    if live and tools.store.release(live).commit == head and not tools.store.pinned(live):
        told = f"{head[:7]}, which is the branch's head, is live already ({live})"
        tools.store.end_late(release.id, head, told)
        raise Conflict(told)


def assemble(job: Job, source: Source, folder: Path, secret: Path, tools: Tools) -> Job:
    """Writes the function's files, secrets of the owner into ``secret``; builds what will run."""
    if job.reused:
        return job
    job = replace(job, begun=time.monotonic(), app=folder / job.name)
    show(job, Build.BUILDING, tools)
    with tools.steps.step("context", job.name, f"building: {in_words(job.why)}"):
        write_context(source, job.function, laid_out(job.template), job.app)
        if job.function.build_secrets:
            value_of = functools.partial(build_secret, tools.settings, job.release)
            beside = folder / f"{job.name}.secrets"  # no function's name has a dot
            files = buildsecrets.write(source, job.function, beside, secret, value_of)
            job = replace(job, secrets=files)
    failpoints.at("context-written")
    job = tools.engine.assemble(job, tools)
    failpoints.at("assembled")
    return job


def test(job: Job, tools: Tools) -> Job:
    """Runs the function's own tests, where it has some: without network, bounded."""
    if job.reused:
        return job
    job = tools.engine.test(job, tools)
    failpoints.at("tested")
    return job


def publish(job: Job, tools: Tools) -> Job:
    """Gives what was built its final, content-addressed name."""
    if job.reused:
        return job
    artifact = tools.engine.publish(job, tools)
    failpoints.at("published")
    tools.store.save_artifact(job.namespace, job.key.digest, artifact, job.key.inputs)
    failpoints.at("artifact-saved")
    if not tools.engine.there(job.namespace, [artifact]):  # the same was there and unneeded
        raise Unavailable(
            f"what was built of {job.name} was just being removed, as nothing had needed the same "
            "for long: push again, or 'slipway redeploy'"
        )
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
        except Exception:  # of one that was called off, nothing became
            show(job, Build.PENDING if tools.steps.ended() else Build.FAILED, tools)
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
