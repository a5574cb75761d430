"""What to do about the difference between desired and observed: pure functions, no clock, no I/O.

A *revision key* is (function, revision). Wanted are the revisions that are desired, and those of
releases in staging: a release's new revisions run beside the old ones until all are ready.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.models import Artifact, FunctionRecord, FunctionSpec
from runtime.edge import Route
from runtime.providers import Instance, Phase

Key = tuple[str, str]
MAX_REPLICAS = 20


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
    leave: list[Instance] = field(default_factory=list)
    """Running replicas that nothing wants: out of the routes, drained, ended."""


def replicas(spec: FunctionSpec) -> int:
    """Replicas of a fresh revision: OpenFaaS' label ``com.openfaas.scale.min``, else one."""
    text = (spec.labels or {}).get("com.openfaas.scale.min", "1")
    # Not isdigit(): it takes ² and 5,000 digits, of which int() would fail in every pass.
    return min(max(int(text), 1), MAX_REPLICAS) if re.fullmatch(r"[0-9]{1,9}", text) else 1


def wanted(
    records: Iterable[FunctionRecord], staged: Iterable[Sequence[Artifact]]
) -> dict[Key, Want]:
    """Every revision that should run, and how often."""
    wants: dict[Key, Want] = {}
    for record in records:
        want = Want(record.spec, record.replicas)
        wants[want.key] = want
    for artifacts in staged:
        for artifact in artifacts:
            want = Want(artifact.spec, replicas(artifact.spec))
            have = wants.get(want.key)
            if have is None or have.replicas < want.replicas:
                wants[want.key] = want
    return wants


def plan(
    wants: Mapping[Key, Want],
    instances: Iterable[Instance],
    ready: Collection[str],
    pending: Mapping[Key, int],
) -> Plan:
    """Compares what is wanted with the instances there are.

    ``instances``: without those that are on their way out already. ``ready``: ids of healthy ones
    (they are kept first). ``pending``: starts under way.
    """
    result = Plan()
    by_key: dict[Key, list[Instance]] = {}
    for instance in instances:
        if instance.phase is Phase.RUNNING:
            by_key.setdefault((instance.function, instance.revision), []).append(instance)
    for key, found in by_key.items():
        keep = wants[key].replicas if key in wants else 0
        found.sort(key=lambda each: (each.id not in ready, each.started_at))
        result.leave.extend(found[keep:])
    for key, want in wants.items():
        missing = want.replicas - len(by_key.get(key, ())) - pending.get(key, 0)
        result.start.extend([want.spec] * missing)
    return result


def routes(
    records: Iterable[FunctionRecord],
    instances: Iterable[Instance],
    ready: Collection[str],
    leaving: Collection[str],
) -> dict[str, Route]:
    """The whole routing table: each function at its desired revision's healthy replicas."""
    endpoints: dict[Key, list[str]] = {}
    for instance in instances:
        if instance.phase is Phase.RUNNING and instance.id in ready and instance.id not in leaving:
            key = (instance.function, instance.revision)
            endpoints.setdefault(key, []).append(instance.address)
    table = {}
    for record in records:
        key = (record.spec.function, record.spec.revision)
        if found := endpoints.get(key):
            table[record.spec.function] = Route(
                revision=record.spec.revision, endpoints=tuple(sorted(found))
            )
    return table
