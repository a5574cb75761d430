"""What the owner's policy says of a release: whether it may be built at all, and of its stack files
what is not allowed, by line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from builder.stacks import Stacks
from builder.templates import DOCKERFILE
from builder.templatesources import Templates
from core import bounds, names, scaling
from core.bounds import Desired
from core.errors import Mistake, NotAllowed, SlipwayError
from core.models import FunctionSpec, Release
from core.policy import OwnerPolicy
from core.repositories import Repository
from core.settings import Settings
from core.stackfile import Stack, StackFunction
from core.store import Store

_LINES = {"functions": "name", "memory": "limits", "cpus": "limits", "replicas": "labels"}
"""Bound → the key in whose line a function that goes beyond it is told."""


def admit(settings: Settings, store: Store, release: Release, repository: Repository) -> None:
    """For before any work: an event is not the only thing that makes a release.

    Raises:
        NotAllowed: its owner may not deploy, or has used up this month's minutes.
    """
    policy = store.policy(settings.policy)
    policy.require_open()
    login = repository.full_name.partition("/")[0]
    if not policy.allows(repository.source, login, repository.owner_id):
        raise NotAllowed(
            f"{login} at {repository.source} may not deploy here: {bounds.ASK} to be added to its "
            "owners. What runs stays"
        )
    owner = store.owner_of(release.namespace)
    minutes = policy.of(owner).build_minutes
    forks = not repository.trusted
    if minutes is not None and store.built_seconds(owner, forks=forks) >= minutes * 60:
        which = "for requests from forks " if forks else ""
        raise NotAllowed(
            f"the {minutes} minutes of building that {owner} has {which}in a calendar month (UTC) "
            f"are used up: wait for the next one, or {bounds.ASK}"
        )


def check(
    settings: Settings,
    store: Store,
    release: Release,
    found: Stacks,
    templates: Mapping[str, Templates],
) -> None:
    """Adds to the mistakes of the stack files. What others of the same owner have or have in
    staging counts along; the gateway looks again when the release is handed over."""
    owner = store.owner_of(release.namespace)
    policy = store.policy(settings.policy).of(owner)
    if policy == OwnerPolicy():
        return
    for stack in found.stacks:
        for function in stack.functions:
            told = found.mistakes[stack.path]
            told += _of_function(policy, owner, function, templates[stack.path])
    _sums(settings, store, policy, owner, release, found)


def _of_function(
    policy: OwnerPolicy, owner: str, function: StackFunction, templates: Templates
) -> Iterable[Mistake]:
    def mistake(key: str, told: str, item: str = "") -> Mistake:
        line = function.line(key, item)
        return Mistake(line, f"{function.name}.{key}: {told}: {bounds.ASK}")

    if function.skip_build:
        if not policy.skip_build:
            told = f"{owner} may run only what is built here, and no ready-made image"
            yield mistake("skip_build", told)
    elif function.lang == DOCKERFILE.name:
        if not policy.dockerfile:
            yield mistake("lang", f"{owner} may not use a Dockerfile of its own")
    elif not policy.dockerfile or policy.templates is not None:
        yield from (mistake("lang", told) for told in _template(policy, owner, function, templates))
    if not policy.egress and (function.annotations or {}).get(_EGRESS, "").lower() == "true":
        told = f"{_EGRESS} is true, and functions of {owner} do not reach the outside world"
        yield mistake("annotations", told, _EGRESS)
    most = (function.labels or {}).get(scaling.MAX)
    if policy.replicas is not None and most and scaling.most(function.labels) > policy.replicas:
        told = f"{scaling.MAX} is {most}, and {owner} may have {policy.replicas} replicas"
        yield mistake("labels", told, scaling.MAX)


def _template(
    policy: OwnerPolicy, owner: str, function: StackFunction, templates: Templates
) -> Iterable[str]:
    try:
        template = templates.find(function.lang)
    except SlipwayError:  # told already
        return
    if policy.templates is not None and not (template.ours and template.name in policy.templates):
        known = ", ".join(policy.templates) or "none"
        yield f"{owner} may use the platform's own templates {known}, not {function.lang}"
    elif not policy.dockerfile and not template.ours:
        told = "which is a Dockerfile of others, and only the platform's may be used"
        yield f"{owner} may not use {template.told()}, {told}"


def _sums(
    settings: Settings,
    store: Store,
    policy: OwnerPolicy,
    owner: str,
    release: Release,
    found: Stacks,
) -> None:
    """The function with which a bound is passed has the mistake."""
    before = bounds.desired(store, release.namespace)
    where = bounds.where(store, release.namespace)
    had = bounds.total(settings, before.values())
    kept = bounds.released(before, release.namespace, release.repository, ())
    for stack in found.stacks:  # those that move here from another repository leave it
        for function in stack.functions:
            kept.pop(names.join_function(function.name, release.namespace), None)
    sum_ = bounds.total(settings, kept.values())
    open_ = set(bounds.BOUNDS)
    for stack in found.stacks:
        for function in stack.functions:
            spec = _spec(release, function)
            was = before.get(spec.function)
            one = Desired.of(spec, was.replicas if was else 0)
            sum_ += bounds.amount(settings, spec, one.replicas)
            for bound, told in bounds.exceeded(policy, owner, where, had, sum_):
                if bound in open_:
                    open_.remove(bound)
                    _tell(found, stack, function, bound, told)


def _tell(found: Stacks, stack: Stack, function: StackFunction, bound: str, told: str) -> None:
    line = function.line(_LINES[bound])
    found.mistakes[stack.path].append(Mistake(line, f"{function.name}: {told}"))


def _spec(release: Release, function: StackFunction) -> FunctionSpec:
    """As much of it as takes up anything."""
    return FunctionSpec(
        name=function.name,
        namespace=release.namespace,
        artifact="",
        repository=release.repository,
        labels=function.labels,
        limits=function.limits,
    )


_EGRESS = "com.slipway.egress"
