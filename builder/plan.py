"""What a commit's functions are: its stack files are read and held against all they name; then for
each function whether it is built, was built before, or is an image that is not built here."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from builder import buildsecrets, folders
from builder.check import check_stack, environment_file
from builder.key import BuildKey, build_key
from builder.source import Source
from builder.stacks import Stacks, read_stacks
from builder.templaterepositories import Repositories
from builder.templates import DOCKERFILE
from builder.templatesources import Templates
from builder.work import Job, Tools, show
from core.errors import Conflict, InvalidStack, Mistake, SlipwayError
from core.models import Build, FunctionSpec, Release
from core.stackfile import Stack, StackFunction
from core.yamlnodes import MAX_TOLD


def plan(release: Release, source: Source, tools: Tools) -> list[Job]:
    """Reads the stack file and decides for each function what it is and whether to build it."""
    with tools.steps.step("plan", told="reading the stack file"):
        if full := folders.nearly_full(tools.settings.state):
            tools.steps.log.add("", "plan", "stderr", f"warning: {full}")
        found = read_stacks(
            source,
            max_functions=tools.settings.max_functions,
            variables=tools.store.variables(release.namespace),
        )
        for path, warning in found.warnings:
            tools.steps.log.add("", "plan", "stderr", f"warning: {path}: {warning!r}")
        with Repositories(tools.settings, tools.steps) as repositories:
            templates = {
                stack.path: Templates(source, stack, release.namespace, repositories)
                for stack in found.stacks
            }
            _check(release, source, found, templates, tools)
            jobs = [
                _job(release, function, source, stack, templates[stack.path], tools)
                for stack in found.stacks
                for function in stack.functions
            ]
        tools.store.clear_rows(release.id)
        for job in jobs:
            show(job, Build.REUSED if job.reused else Build.PENDING, tools)
            if job.reused:
                why = "ready-made" if job.spec.foreign else "unchanged"
                tools.steps.log.add(job.name, "plan", "step", f"{why}: nothing to build")
        return jobs


def _check(
    release: Release,
    source: Source,
    found: Stacks,
    templates: Mapping[str, Templates],
    tools: Tools,
) -> None:
    """Tells all mistakes of all stack files at once."""
    versions = functools.partial(tools.store.secret_versions, release.namespace)
    weight = 0
    for stack in found.stacks:
        if found.told >= MAX_TOLD:
            break
        try:
            weight = check_stack(
                source,
                stack,
                tools.settings,
                namespace=release.namespace,
                templates=templates[stack.path],
                engine=tools.engine,
                versions=versions,
                before=weight,
            )
        except InvalidStack as error:
            found.mistakes[stack.path] += error.mistakes
    found.refuse()
    tools.store.check_claims(
        release, [function.name for stack in found.stacks for function in stack.functions]
    )


def _job(
    release: Release,
    function: StackFunction,
    source: Source,
    stack: Stack,
    templates: Templates,
    tools: Tools,
) -> Job:
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
        secrets=function.secrets,
        labels=function.labels,
        annotations=function.annotations,
        constraints=function.constraints,
        limits=function.limits,
        requests=function.requests,
        read_only_root_filesystem=function.readonly_root_filesystem,
    )
    if function.skip_build:
        return _ready_made(release, function, stack, spec, tools)
    template = tools.engine.template(function.lang, templates)
    if not function.fprocess:
        spec = msgspec.structs.replace(spec, env_process=template.deployed_process)
    extra = dict(tools.engine.inputs(source, function, template, release.namespace, tools))
    versions = functools.partial(tools.store.secret_versions, release.namespace)
    for id_ in function.build_secrets:
        given = buildsecrets.stamp(source, function, id_, versions)
        extra[f"{buildsecrets.INPUT} {id_}"] = given
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


def _ready_made(
    release: Release, function: StackFunction, stack: Stack, spec: FunctionSpec, tools: Tools
) -> Job:
    """What runs is an image that was not built here: which one its name stands for is asked now."""
    image = function.image or ""
    tools.steps.log.add(function.name, "plan", "stdout", f"looking for the image {image}")
    try:
        artifact = tools.steps.patiently(
            lambda: tools.engine.resolve(image, release.namespace, tools)
        )
    except SlipwayError as error:
        if error.retryable or isinstance(error, Conflict):
            raise
        raise InvalidStack(stack.path, [Mistake(function.line("image"), str(error))]) from error
    return Job(
        release=release,
        function=function,
        template=DOCKERFILE,
        key=BuildKey("", {}),
        spec=msgspec.structs.replace(spec, foreign=True),
        artifact=artifact,
        reused=True,
    )
