"""What a commit's functions are: its stack files are read and held against all they name; then for
each function whether it is built, was built before, or is an image that is not built here, and what
of it changed.

Of store and engine everything is asked once for all functions: so a hundred and fifty are decided
in the time of one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from builder import allowance, buildsecrets, changes, folders
from builder.check import check_stack, environment_file
from builder.key import BuildKey, build_key
from builder.ownsecrets import OwnSecrets, own_secrets
from builder.previews import as_preview
from builder.promotion import promoted
from builder.source import Source
from builder.stacks import Stacks, read_stacks
from builder.templaterepositories import Repositories
from builder.templates import DOCKERFILE
from builder.templatesources import Templates
from builder.work import Job, Plan, Tools, row_of
from core import sealedfile
from core.errors import Conflict, InvalidStack, Mistake, SlipwayError
from core.models import Build, ChangeKind, FunctionSpec, Release
from core.previews import networked
from core.repositories import Repository
from core.stackfile import Stack, StackFunction
from core.yamlnodes import MAX_TOLD


def plan(release: Release, repository: Repository, source: Source, tools: Tools) -> Plan:
    """Reads the stack file and decides for each function what it is and whether to build it."""
    values = repository.secrets_namespace
    rules = tools.store.fork_rules(tools.settings.policy, repository)
    owner = repository.artifacts_namespace or release.namespace
    with tools.steps.step("plan", told="reading the stack file"):
        if full := folders.nearly_full(tools.settings.state):
            tools.steps.log.add("", "plan", "stderr", f"warning: {full}")
        found = read_stacks(
            source,
            max_functions=tools.settings.max_functions,
            variables=tools.store.variables(values) if values else {},
        )
        found = as_preview(found, repository, rules)
        for path, warning in found.warnings:
            tools.steps.log.add("", "plan", "stderr", f"warning: {path}: {warning!r}")
        with Repositories(tools.settings, tools.steps) as repositories:
            templates = {
                stack.path: Templates(source, stack, owner, repositories) for stack in found.stacks
            }
            secrets = _secrets(repository, source, found, tools)
            _check(release, repository, source, found, templates, secrets, tools)
            jobs = [
                replace(
                    _job(
                        release,
                        repository,
                        function,
                        source,
                        stack,
                        templates[stack.path],
                        secrets,
                        tools,
                    ),
                    network=networked(repository, rules),
                )
                for stack in found.stacks
                for function in stack.functions
            ]
        if release.promoted_from:
            jobs = promoted(jobs, release.promoted_from, owner, tools)
        else:
            jobs = _built_before(jobs, owner, tools)
        jobs = _explained(jobs, owner, source, secrets, tools)
        tools.store.save_rows(
            release.id,
            (row_of(job, Build.REUSED if job.reused else Build.PENDING) for job in jobs),
        )
        for job in jobs:
            if job.reused:
                tools.steps.log.add(job.name, "plan", "step", _told(job), at_once=False)
        return Plan(jobs, found.environments)


def _secrets(repository: Repository, source: Source, found: Stacks, tools: Tools) -> OwnSecrets:
    """What its functions can name. Mistakes of the file of sealed ones are told with the others."""
    try:
        return own_secrets(source, repository, tools.store)
    except InvalidStack as error:
        found.mistakes[sealedfile.NAME] += error.mistakes
        found.refuse()
        raise


def _check(
    release: Release,
    repository: Repository,
    source: Source,
    found: Stacks,
    templates: Mapping[str, Templates],
    secrets: OwnSecrets,
    tools: Tools,
) -> None:
    """Tells all mistakes of all stack files at once."""
    if not repository.parent:  # else they are not for it to say
        check = functools.partial(tools.store.check_environment, repository)
        found.check_environments(repository.deploy_branch, check)
    weight = 0
    for stack in found.stacks:
        if found.told >= MAX_TOLD:
            break
        try:
            weight = check_stack(
                source,
                stack,
                tools.settings,
                namespace=repository.artifacts_namespace or release.namespace,
                whose=repository.home.partition("/")[0],
                templates=templates[stack.path],
                engine=tools.engine,
                secrets=secrets,
                before=weight,
            )
        except InvalidStack as error:
            found.mistakes[stack.path] += error.mistakes
    allowance.check(tools.settings, tools.store, release, found, templates)
    found.refuse()
    functions = [function for stack in found.stacks for function in stack.functions]
    tools.store.check_claims(release, {each.name: each.takes_over for each in functions})


def _job(
    release: Release,
    repository: Repository,
    function: StackFunction,
    source: Source,
    stack: Stack,
    templates: Templates,
    secrets: OwnSecrets,
    tools: Tools,
) -> Job:
    environment = dict(function.environment or {})
    for path in function.environment_file:
        environment |= environment_file(source, path)
    spec = FunctionSpec(
        name=function.name,
        namespace=release.namespace,
        artifact="",
        artifacts_namespace=repository.artifacts_namespace,
        repository=release.repository,
        commit=release.commit,
        env_process=function.fprocess,
        env_vars=environment or None,
        secrets=function.secrets,
        sealed=secrets.texts(function.secrets or ()) or None,
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
    if release.promoted_from:  # of what is built nothing is asked
        key = build_key(source, function, template)
        return Job(release=release, function=function, template=template, key=key, spec=spec)
    extra = dict(tools.engine.inputs(source, function, template, spec.artifacts_of, tools))
    for id_ in function.build_secrets:
        given = buildsecrets.stamp(source, function, id_, secrets.of_build)
        extra[f"{buildsecrets.INPUT} {id_}"] = given
    key = build_key(source, function, template, extra=extra)
    return Job(release=release, function=function, template=template, key=key, spec=spec)


def _ready_made(
    release: Release, function: StackFunction, stack: Stack, spec: FunctionSpec, tools: Tools
) -> Job:
    """What runs is an image that was not built here: which one its name stands for is asked now."""
    image = function.image or ""
    tools.steps.log.add(function.name, "plan", "stdout", f"looking for the image {image}")
    try:
        artifact = tools.steps.patiently(
            lambda: tools.engine.resolve(image, spec.artifacts_of, tools)
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


def _built_before(jobs: Sequence[Job], namespace: str, tools: Tools) -> list[Job]:
    """The same jobs; those whose key gave an artifact that is still there have it."""
    digests = [job.key.digest for job in jobs if not job.spec.foreign]
    # Housekeeping may be about to remove some: what is found here stays.
    built = tools.store.claim_artifacts(namespace, digests)
    there = tools.steps.patiently(lambda: tools.engine.there(namespace, set(built.values())))
    return [
        replace(job, artifact=artifact, reused=True)
        if (artifact := built.get(job.key.digest, "")) in there
        else job
        for job in jobs
    ]


def _explained(
    jobs: Sequence[Job], owner: str, source: Source, secrets: OwnSecrets, tools: Tools
) -> list[Job]:
    """The same jobs, with what changed since what is live."""
    live = tools.store.of_names(job.spec.function for job in jobs)
    changed = {
        record.spec.key
        for job in jobs
        if (record := live.get(job.spec.function)) and record.spec.key not in ("", job.key.digest)
    }
    known = tools.store.inputs(owner, sorted(changed))
    versions = secrets.versions(sorted({n for job in jobs for n in job.spec.secrets or ()}))
    done = []
    for job in jobs:
        record = live.get(job.spec.function)
        if record is None:
            done.append(replace(job, why=(changes.FIRST,)))
            continue
        before = record.spec
        inputs = known.get(before.key)
        if job.spec.foreign:
            found = changes.of_image(job.artifact, before)
        else:
            found = changes.of_build(job.key, before, inputs, job.reused)
            found = changes.with_files(found, inputs, source, job.function)
        its = {name: versions[name] for name in secrets.stored(job.spec.secrets or ())} or None
        now = msgspec.structs.replace(job.spec, secret_versions=its)
        found += changes.of_configuration(now, before)
        done.append(replace(job, why=tuple(found), since=record.release))
    return done


def _told(job: Job) -> str:
    """Why there is nothing to build."""
    if job.spec.foreign:
        return "ready-made: nothing to build"
    how = "built before" if any(each.kind is ChangeKind.BUILD for each in job.why or ()) else ""
    how = how or ("unchanged" if not job.why else "same build")
    return f"{how}: nothing to build" if not job.why else f"{how}: {changes.in_words(job.why)}"
