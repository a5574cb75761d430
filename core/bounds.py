"""What an owner has, held against its policy: functions, and memory, CPUs and replicas of all that
are desired, in all its namespaces together.

Previews of requests from forks, which strangers write, count together, apart from all that is the
owner's own, against the same bounds: neither can use up what the other may have.

A function that sleeps counts with the replicas that it wakes with. What waits in staging, or is
rolled back to, counts as if it were live, so that two side by side cannot both take the last
place. Beyond a bound, as after it was lowered, only what makes it less is let through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core import names, scaling
from core.errors import NotAllowed, NotFound
from core.models import FunctionSpec, Rollback, RollbackState
from core.policy import OwnerPolicy
from core.quantities import cpus, size
from core.settings import Settings
from core.store import Store

ASK = "ask the administrator (SLIPWAY_POLICY)"


@dataclass(frozen=True)
class Desired:
    """One function as it shall run."""

    spec: FunctionSpec
    replicas: int

    @staticmethod
    def of(spec: FunctionSpec, replicas: int = 0) -> Desired:
        return Desired(spec, max(replicas, scaling.least(spec.labels)))


@dataclass(frozen=True)
class Amount:
    """What functions take together."""

    functions: int = 0
    memory: int = 0
    cpus: float = 0.0
    replicas: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.functions + other.functions,
            self.memory + other.memory,
            self.cpus + other.cpus,
            self.replicas + other.replicas,
        )


BOUNDS = ("functions", "memory", "cpus", "replicas")
"""Fields of ``Amount``, and of ``OwnerPolicy``."""


def amount(settings: Settings, spec: FunctionSpec, replicas: int) -> Amount:
    """What one function takes."""
    limits = spec.limits
    memory = _read(size, limits.memory if limits else None, settings.function_memory)
    processors = _read(cpus, limits.cpu if limits else None, settings.function_cpus)
    return Amount(1, int(memory * replicas), processors * replicas, replicas)


def total(settings: Settings, desired: Iterable[Desired]) -> Amount:
    return sum((amount(settings, each.spec, each.replicas) for each in desired), Amount())


def desired(store: Store, namespace: str) -> dict[str, Desired]:
    """``name.namespace`` → what counts together with what is in a namespace, by now and once what
    is in staging, or a rollback under way, is live: all of its owner but for previews of forks, or
    these alone. What these take away counts until then: they may fail."""
    records, owner = store.functions(), store.owner_of(namespace)
    forks = store.of_forks()

    def counts(space: str) -> bool:
        return (space in forks) == (namespace in forks) and names.is_of(space, owner)

    found = {
        key: Desired.of(record.spec, record.replicas)
        for key, record in records.items()
        if counts(record.spec.namespace)
    }
    coming = [
        (release.namespace, [each.spec for each in store.artifacts(release.id)])
        for release in store.staging()
    ]
    coming += [(each.namespace, _returning(store, each)) for each in store.rolling()]
    for space, specs in coming:
        if counts(space):
            for spec in specs:
                had = found.get(spec.function)
                found[spec.function] = Desired.of(spec, had.replicas if had else 0)
    return found


def _returning(store: Store, rollback: Rollback) -> list[FunctionSpec]:
    """What a rollback under way brings."""
    if rollback.state is not RollbackState.STARTING:  # it is desired already
        return []
    try:
        return list(store.rollback_specs(rollback).values())
    except NotFound:  # not kept any more: it fails
        return []


def released(
    before: Mapping[str, Desired], namespace: str, repository: str, specs: Iterable[FunctionSpec]
) -> dict[str, Desired]:
    """What there is once a release of a repository is live."""
    after = {
        function: each
        for function, each in before.items()
        if (each.spec.namespace, each.spec.repository) != (namespace, repository)
    }
    for spec in specs:
        had = before.get(spec.function)
        after[spec.function] = Desired.of(spec, had.replicas if had else 0)
    return after


def exceeded(
    policy: OwnerPolicy, owner: str, where: str, before: Amount, after: Amount
) -> Iterator[tuple[str, str]]:
    """(the bound, what is wrong) for each bound that is not kept; ``where``: see below."""
    for bound in BOUNDS:
        most, now = getattr(policy, bound), getattr(after, bound)
        if most is None or now <= most + _ROUNDING or now < getattr(before, bound):
            continue
        told = f"{owner} would have {_told(bound, now)} {where}"
        less = "remove a function" if bound == "functions" else "ask for less, remove a function"
        yield bound, f"{told}, where the most is {_number(bound, most)}: {less}, or {ASK}"


def require(
    settings: Settings,
    store: Store,
    namespace: str,
    before: Mapping[str, Desired],
    after: Mapping[str, Desired],
) -> None:
    """Raises NotAllowed: a bound would not be kept for what is in a namespace."""
    owner = store.owner_of(namespace)
    policy = store.policy(settings.policy).of(owner)
    sums = total(settings, before.values()), total(settings, after.values())
    if told := [text for _, text in exceeded(policy, owner, where(store, namespace), *sums)]:
        raise NotAllowed("\n".join(told))


def where(store: Store, namespace: str) -> str:
    """In words, what counts together with what is in a namespace."""
    if namespace in store.of_forks():
        return "in previews of requests from forks"
    return "with its environments and previews"


def most_replicas(settings: Settings, store: Store, policy: OwnerPolicy, spec: FunctionSpec) -> int:
    """How many replicas a function may have beside what else its owner has."""
    if policy.memory is None and policy.cpus is None and policy.replicas is None:
        return scaling.MAX_REPLICAS
    others = desired(store, spec.namespace)
    others.pop(spec.function, None)
    taken, one = total(settings, others.values()), amount(settings, spec, 1)
    most = float(scaling.MAX_REPLICAS)
    for bound in ("memory", "cpus", "replicas"):
        allowed, each = getattr(policy, bound), getattr(one, bound)
        if allowed is not None and each:
            most = min(most, (allowed - getattr(taken, bound) + _ROUNDING) // each)
    return max(int(most), 0)


_ROUNDING = 1e-6
"""Sums of CPUs are no decimal numbers."""


def _told(bound: str, value: Any) -> str:
    name = "of memory" if bound == "memory" else bound.removesuffix("s" if value == 1 else "")
    return f"{_number(bound, value)} {name}"


def _number(bound: str, value: Any) -> str:
    return f"{value / 2**20:g}Mi" if bound == "memory" else f"{round(value, 3):g}"


def _read(parse: Any, text: str | None, default: float) -> float:
    """What was deployed by API may say what cannot be read: then it does not start."""
    try:
        return float(parse(text)) if text else default
    except ValueError:
        return default
