"""A promoted release: what was live elsewhere, at the same commit, is released as it is. Nothing is
built or tested, so the target may not ask for anything else.

What it could ask for otherwise is its own variables' doing: another handler, template, build
argument, image. Each of these is held against what the artifact was made of. What the server adds
to a build (interpreters, base images, a template's files) may have changed since: the artifact was
tested with what it has. So may the values of build secrets, which each environment has for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from builder.key import BuildKey, why
from builder.work import Job, Tools
from core.errors import InvalidRequest
from core.models import FunctionSpec, Promotion

_ASKED = ("handler", "template", "build_options")
_ASKED_EACH = ("copy ", "build_args ")
"""Inputs of a build that the commit and the variables decide, or how their names begin."""

Inputs = Mapping[str, Mapping[str, str]]
"""Build key → the named inputs that it was made of."""


def promoted(jobs: Sequence[Job], promotion: Promotion, owner: str, tools: Tools) -> list[Job]:
    """The same jobs, with the artifacts that were live; ``owner``: whose they are.

    Raises:
        InvalidRequest: naming of each function what the target asks for otherwise.
        NotFound: not all of the release is kept any more.
    """
    origin = f"{promotion.environment} {promotion.release}"
    tools.steps.log.add("", "plan", "step", f"promoted from {origin}: nothing is built")
    release = tools.store.release(promotion.release)
    before = {spec.name: spec for spec in tools.store.brought(release)}
    keys = sorted({spec.key for spec in before.values() if spec.key})
    inputs = tools.store.inputs(owner, keys)
    # Housekeeping may be about to remove some: what is found here stays.
    tools.store.claim_artifacts(owner, keys)
    built = {spec.artifact for spec in before.values() if not spec.foreign}
    there = tools.steps.patiently(lambda: tools.engine.there(owner, built))
    mistakes = [
        f"{job.name}: {each}"
        for job in jobs
        for each in _differences(job, before.get(job.name), inputs, there)
    ]
    names = {job.name for job in jobs}
    mistakes += [f"{name}: here it is no function" for name in sorted(before.keys() - names)]
    if mistakes:
        raise InvalidRequest(
            f"what {origin} has cannot be promoted as it is:\n"
            + "\n".join(mistakes)
            + "\nGive the variables of both environments the same values where they go into "
            f"builds, or release {promotion.environment} anew and promote that"
        )
    return [_as(job, before[job.name], inputs) for job in jobs]


def _differences(
    job: Job, before: FunctionSpec | None, inputs: Inputs, there: set[str]
) -> Iterator[str]:
    """What a function would be otherwise than it is there, in words."""
    if before is None:
        yield "there it is no function"
    elif job.spec.foreign or before.foreign:
        if not (job.spec.foreign and before.foreign):
            yield "skip_build differs"
        elif job.artifact != before.artifact:
            yield "image differs: it stands for another one here, or by now"
    elif before.key not in inputs or before.artifact not in there:
        yield "its artifact is not kept any more"
    else:
        asked, was = _asked(job.key.inputs), _asked(inputs[before.key])
        for name in why(was, asked):
            yield f"{name} differs"


def _asked(inputs: Mapping[str, str]) -> dict[str, str]:
    """Of a build's inputs those that the target may not change."""
    return {
        name: value
        for name, value in inputs.items()
        if name in _ASKED or name.startswith(_ASKED_EACH)
    }


def _as(job: Job, before: FunctionSpec, inputs: Inputs) -> Job:
    if before.foreign:
        return job
    spec = job.spec
    if not job.function.fprocess:  # the template's, which may be another one by now
        spec = msgspec.structs.replace(spec, env_process=before.env_process)
    key = BuildKey(before.key, dict(inputs[before.key]))
    return replace(job, spec=spec, key=key, artifact=before.artifact, reused=True)
