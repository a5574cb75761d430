"""What to do about the difference between desired and observed: pure functions, no clock, no I/O.

A *revision key* is (function, revision). Wanted are the revisions that are desired, and those of
releases in staging, and of rollbacks under way: their revisions run beside those that serve until
all are ready. A deploy by API changes the desired state at once: until what it brought is healthy,
what was there before is wanted as well, and has the route. What was replaced a short while ago is
kept as far as it runs, for a rollback at once, and not started again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core import scaling
from core.models import Artifact, FunctionRecord, FunctionSpec
from core.patience import patience_of
from runtime.edge import Route
from runtime.providers import Instance, Phase

Key = tuple[str, str]


@dataclass(frozen=True)
class Want:
    """So many replicas of one revision."""

    spec: FunctionSpec
    replicas: int

    @property
    def key(self) -> Key:
        return self.spec.function, self.spec.revision


@dataclass(frozen=True)
class Plan:
    """What a pass has to do to instances."""

    start: list[FunctionSpec] = field(default_factory=list)
    """One entry a replica to start."""
    resume: list[Instance] = field(default_factory=list)
    """Paused replicas that are wanted again."""
    leave: list[Instance] = field(default_factory=list)
    """Replicas that nothing wants: out of the routes, drained, ended or paused."""


def replicas(spec: FunctionSpec) -> int:
    """Replicas of a fresh revision."""
    return scaling.least(spec.labels)


def wanted(
    records: Iterable[FunctionRecord],
    staged: Iterable[Sequence[Artifact]],
    returning: Iterable[Want] = (),
) -> dict[Key, Want]:
    """Every revision that should run, and how often. ``returning``: what rollbacks bring back."""
    wants: dict[Key, Want] = {}
    for record in records:
        for spec in serving(record):
            want = Want(spec, record.replicas)
            wants[want.key] = want
    coming = [
        Want(artifact.spec, replicas(artifact.spec))
        for artifacts in staged
        for artifact in artifacts
    ]
    for want in (*coming, *returning):
        have = wants.get(want.key)
        if have is None or have.replicas < want.replicas:
            wants[want.key] = want
    return wants


def returned(spec: FunctionSpec, records: Mapping[str, FunctionRecord]) -> Want:
    """An earlier revision that is to serve again: as often as its function runs now."""
    held = records.get(spec.function)
    return Want(spec, max(held.replicas if held else 0, replicas(spec)))


def serving(record: FunctionRecord) -> list[FunctionSpec]:
    """What may have the function's route, the first choice first."""
    return [record.previous, record.spec] if record.previous else [record.spec]


def healthy(instances: Iterable[Instance], ready: Collection[str]) -> dict[Key, int]:
    """How many replicas of each revision run and answer."""
    return Counter(
        (instance.function, instance.revision)
        for instance in instances
        if instance.phase is Phase.RUNNING and instance.id in ready
    )


def settled(records: Iterable[FunctionRecord], healthy: Mapping[Key, int]) -> list[FunctionRecord]:
    """Deploys by API whose replicas are all healthy: what was there before can go.

    Not while there shall be none: nobody knows then whether it ever is.
    """
    return [
        record
        for record in records
        if record.previous
        and record.replicas
        and healthy.get((record.spec.function, record.spec.revision), 0) >= record.replicas
    ]


def plan(
    wants: Mapping[Key, Want],
    instances: Iterable[Instance],
    ready: Collection[str],
    pending: Mapping[Key, int],
    warm: Collection[Key] = (),
    taken_over: Collection[str] = (),
    naps: Collection[str] = (),
) -> Plan:
    """Compares what is wanted with the instances there are.

    ``instances``: without those that are on their way out already. ``ready``: ids of healthy ones
    (they are kept first). ``pending``: starts under way. ``warm``: of these, what is healthy stays.
    ``taken_over``: ids of those that may be healthy, for an earlier controller had them so.
    ``naps``: ids of paused ones that may stay so.
    """

    def rank(each: Instance) -> tuple[bool, bool, float]:
        return each.id not in ready, each.id not in taken_over, each.started_at

    result = Plan()
    by_key: dict[Key, list[Instance]] = {}
    paused: dict[Key, list[Instance]] = {}
    for instance in instances:
        key = (instance.function, instance.revision)
        if instance.phase is Phase.RUNNING:
            by_key.setdefault(key, []).append(instance)
        elif instance.phase is Phase.PAUSED:
            paused.setdefault(key, []).append(instance)
    for key, found in by_key.items():
        keep = wants[key].replicas if key in wants else 0
        found.sort(key=rank)
        stays = {*ready, *taken_over} if key in warm and key not in wants else set()
        result.leave.extend(each for each in found[keep:] if each.id not in stays)
    for key, want in wants.items():
        missing = want.replicas - len(by_key.get(key, ())) - pending.get(key, 0)
        asleep = paused.get(key, [])
        while missing > 0 and asleep:
            result.resume.append(asleep.pop())
            missing -= 1
        result.start.extend([want.spec] * missing)
    result.leave.extend(
        each for asleep in paused.values() for each in asleep if each.id not in naps
    )
    return result


def taken_back(
    leaving: Iterable[Instance],
    wants: Mapping[Key, Want],
    staying: Iterable[Instance],
    ready: Collection[str],
) -> list[Instance]:
    """Of healthy replicas that are on their way out and were not told to end, those that are wanted
    again, rather than that others are started in their place."""
    have = Counter((e.function, e.revision) for e in staying if e.phase is Phase.RUNNING)
    back = []
    for each in leaving:
        key = (each.function, each.revision)
        if key not in wants or each.phase is not Phase.RUNNING or each.id not in ready:
            continue
        if have[key] < wants[key].replicas:
            have[key] += 1
            back.append(each)
    return back


def follows(
    spec: FunctionSpec,
    records: Mapping[str, FunctionRecord],
    table: Mapping[str, Route],
    troubled: Collection[Key],
) -> bool:
    """Whether the routes follow what became desired, as far as they can: it may be another's or
    asleep by now, or have ended since it was healthy (``troubled``)."""
    record, route = records.get(spec.function), table.get(spec.function)
    if record is None or record.spec.revision != spec.revision or not record.replicas:
        return True
    if route is None or not route.endpoints:
        return (spec.function, spec.revision) in troubled
    return route.revision == spec.revision


def routes(
    records: Iterable[FunctionRecord],
    instances: Iterable[Instance],
    ready: Collection[str],
    leaving: Collection[str],
    taken_over: Collection[str] = (),
    untold: Collection[str] = (),
    hostless: Collection[str] = (),
) -> dict[str, Route]:
    """The whole routing table: each function at healthy replicas of what may serve.

    ``taken_over``: as for ``plan``. What a release made desired was healthy then; of functions that
    are ``untold``, the controller was killed before it told so: what runs of them serves until it
    is asked. ``hostless``: namespaces.
    """
    endpoints: dict[Key, list[str]] = {}
    unasked: dict[Key, list[str]] = {}
    for instance in instances:
        if instance.phase is not Phase.RUNNING or instance.id in leaving:
            continue
        key = (instance.function, instance.revision)
        if instance.id in ready:
            endpoints.setdefault(key, []).append(instance.address)
        elif instance.id in taken_over:
            unasked.setdefault(key, []).append(instance.address)
    table = {}
    for record in records:
        for spec in serving(record):
            key = (spec.function, spec.revision)
            if found := endpoints.get(key) or (
                unasked.get(key) if spec.function in untold else None
            ):
                table[spec.function] = Route(
                    revision=spec.revision,
                    endpoints=tuple(sorted(found)),
                    patience=patience_of(spec),
                    hostless=spec.namespace in hostless,
                )
                break
    return table
