"""Previews: what is other where what is built is a pull or merge request.

A request from another repository (a fork) is written by somebody whom nobody vouches for: its
functions get nothing of the owner's. One from the repository itself gets secrets and variables that
its owner keeps for previews alone, in ``<owner>--preview``: production's never are in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from core import scaling, schedules
from core.models import now
from core.names import NO_COMMIT, TAKES_OVER
from core.repositories import Repository, Request

SCHEDULED = "com.slipway.preview.schedule"
"""Annotation: a preview's function is called on its schedule as well."""
EGRESS = "com.slipway.egress"
NO_HEAD = "its forge has the head of the request no more"

Texts = dict[str, str]


@dataclass(frozen=True)
class ForkRules:
    """What the administrator allows requests from forks."""

    fork_previews: Literal["approve", "always", "never"] = "approve"
    fork_network: bool = False
    """While they are built, and for what runs of them."""


def owner_of(preview: Repository) -> str:
    """The namespace of the repository that it is a preview of."""
    return preview.parent.partition("/")[0]


def networked(repository: Repository, rules: ForkRules) -> bool:
    """Whether builds and functions reach the outside world, as far as this is to say."""
    return repository.trusted or rules.fork_network


def refusal(repository: Repository, commit: str, rules: ForkRules) -> str:
    """Why this commit may not be built, with what to do; empty: it may."""
    if repository.gone and commit != NO_COMMIT:
        return f"{repository.key} is not deployed any more: {repository.gone}"
    request = repository.request
    if request is None or not request.fork:
        return ""
    rule = rules.fork_previews
    if rule == "never":
        return "requests from forks get no previews here, by the policy fork-previews"
    if rule == "approve" and (not request.approved or request.approved != commit):
        return (
            f"request {request.number} comes from a fork, and nobody has approved its commit "
            f"{commit[:12]}: look at it, then 'slipway approve {repository.parent} "
            f"{request.number} --commit {commit}'"
        )
    return ""


def closed(preview: Repository | None, reason: str, told_at: str = "") -> Repository | None:
    """What its record is once its forge has told that the request is closed; None: it is so
    already.

    ``told_at``: the forge's time of that, where it is known.
    """
    if preview is None or preview.request is None or (preview.gone and not preview.request.open):
        return None
    before = preview.request
    request = _with(before, open=False, updated_at=now(), told_at=told_at or before.told_at)
    return msgspec.structs.replace(preview, gone=reason, request=request)


def held_back(preview: Repository | None, reason: str) -> Repository | None:
    """What its record is while there is to be none of an open request, for a reason of our own;
    None: it is gone already."""
    if preview is None or preview.request is None or preview.gone:
        return None
    return msgspec.structs.replace(
        preview, gone=reason, request=_with(preview.request, updated_at=now())
    )


def pushed(preview: Repository | None, commit: str) -> Repository | None:
    """What its record is once its head is ``commit``, or with NO_COMMIT nowhere: forges forget
    those of closed requests in time, and may show new ones late. None: it changes nothing."""
    if preview is None or preview.request is None or not preview.request.open:
        return None
    if preview.request.commit == commit:
        return None
    request = _with(preview.request, commit=commit, updated_at=now())
    gone = NO_HEAD if commit == NO_COMMIT else ""
    return msgspec.structs.replace(preview, gone=gone, request=request)


def _with(request: Request, **changes: object) -> Request:
    return msgspec.structs.replace(request, **changes)


@dataclass(frozen=True)
class Bound:
    """What a function of a preview may say, of all that it says."""

    labels: Texts | None
    annotations: Texts | None
    secrets: list[str] | None
    warnings: list[str] = field(default_factory=list)
    """What was left out, and why."""


def bound(
    repository: Repository,
    rules: ForkRules,
    labels: Mapping[str, str] | None,
    annotations: Mapping[str, str] | None,
    secrets: list[str] | None,
) -> Bound:
    """Applied to what it gave, it changes nothing more; of what is no preview it changes nothing.

    Functions of previews sleep when nobody calls and have one replica, unless their labels say
    otherwise; no schedule calls them unless asked to. Those of forks have no choice.
    """
    given = Bound(
        None if labels is None else dict(labels),
        None if annotations is None else dict(annotations),
        secrets,
    )
    if repository.request is None:
        return given
    told, notes = dict(labels or {}), dict(annotations or {})
    warnings: list[str] = []
    if repository.request.fork:
        told = {name: text for name, text in told.items() if name not in _SCALED}
        if secrets:
            secrets = None
            warnings.append("its secrets are left out: a request from a fork gets none")
        if notes.pop(TAKES_OVER, None) is not None:
            warnings.append(f"{TAKES_OVER} has no effect: a request from a fork takes nothing over")
        notes.pop(SCHEDULED, None)
        if not networked(repository, rules):
            notes[EGRESS] = "false"
    told.setdefault(scaling.ZERO, "true")
    if scaling.MIN not in told:
        told.setdefault(scaling.MAX, "1")
    asked = notes.get(SCHEDULED, "").lower() == "true"
    if schedules.schedule_of(notes) and not asked:
        topics = [each.strip() for each in notes[schedules.TOPIC].split(",")]
        others = ",".join(each for each in topics if each != schedules.CRON)
        del notes[schedules.TOPIC]
        if others:
            notes[schedules.TOPIC] = others
        warnings.append(f"its schedule is left out: a preview has none, but with {SCHEDULED}: true")
    return Bound(told, notes or (given.annotations and {}), secrets, warnings)


_SCALED = (scaling.ZERO, scaling.IDLE, scaling.MIN, scaling.MAX)
"""Labels that are not a fork's to choose."""
