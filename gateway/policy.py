"""The policy at the gateway: read again and again, kept in the store for all, held against what is
deployed; and ``/system/policy``, which tells what is in force.

What is broken or cannot be read leaves the last good document in force, with a warning in the log,
in ``slipway doctor`` and here. Where there was none yet, nobody may deploy. During a restart there
are two gateways: what one of them has read, the other does not replace with what was there before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec
from flask import Blueprint, Response
from redis.exceptions import RedisError

from core import bounds, logging, names, policydocument
from core.bounds import Desired
from core.errors import NotAllowed, SlipwayError
from core.models import FunctionRecord, FunctionSpec, Release, Rollback, Struct, now
from core.policy import Held, OwnerPolicy, shown
from core.scopes import Scope
from core.settings import Settings
from core.store import Store
from gateway.callers import caller, owners
from gateway.context import Gateway, here
from gateway.heads import policy_repository
from gateway.policysources import source_of

bp = Blueprint("policy", __name__)
log = logging.get()

EVERY = 30.0
"""Seconds between two looks."""
RETRY = 1.0
"""Seconds until it is tried again where the store was away."""


def watch(settings: Settings, store: Store) -> None:
    """Runs for ever, in a thread of its own; returns where there is no policy."""
    while True:
        try:
            if look(settings, store) is None:
                return
        except RedisError as error:
            log.warning("policy_not_read", reason=str(error))
            time.sleep(RETRY)
        except Exception:
            log.exception("policy_not_read")
            time.sleep(EVERY)
        else:
            time.sleep(EVERY)


def look(settings: Settings, store: Store) -> Held | None:
    """Reads the document once, and puts into the store what changed; None: there is no policy.

    Raises RedisError: the store is away.
    """
    while True:  # another gateway may have read it meanwhile: then once more
        before = store.held_policy()
        if not settings.policy:
            if store.hold_policy(before, None):
                return None
            continue
        if before is None or before.source != shown(settings.policy):
            fresh = Held(source=shown(settings.policy), trouble="it was not read yet")
            if not store.hold_policy(before, fresh):  # until then the builder would know of none
                continue
            before = fresh
        after = _read(settings, store, before)
        if after == before:
            return after
        if store.hold_policy(before, after):
            if after.trouble:
                log.error("policy_not_taken", source=after.source, reason=after.trouble)
            else:
                log.info("policy_taken", source=after.source, mark=after.mark)
            return after


def _read(settings: Settings, store: Store, before: Held) -> Held:
    try:
        found = source_of(settings, store).read(before.mark if before.policy else "")
        if found is None:
            return msgspec.structs.replace(before, trouble="")
        data, mark = found
        policy = policydocument.read(data, "the policy")
    except SlipwayError as error:
        return msgspec.structs.replace(before, trouble=str(error))
    if policy == before.policy:
        return msgspec.structs.replace(before, mark=mark, trouble="")
    return Held(source=before.source, policy=policy, mark=mark, since=now())


# Held against what is deployed.


def require_allowed(gateway: Gateway, forge: str, owner: str, owner_id: str) -> None:
    """For after an event's signature, and before anything else is done for it.

    ``owner_id`` may be empty, as not every event tells it: where owners of this forge are listed
    by their ids, that is then left to the builder, which looks again (builder/allowance.py).

    Raises:
        NotAllowed: this owner may not deploy here, saying what to do.
    """
    policy = gateway.store.policy(gateway.settings.policy)
    policy.require_open()
    if not owner_id and any(each.id and each.forge == forge for each in policy.owners or ()):
        return
    if not policy.allows(forge, owner, owner_id):
        raise NotAllowed(
            f"{owner[:255]} at {forge} may not deploy here: the administrator can add "
            f"'{forge}:{owner_id or owner.lower()[:255]}' to the owners of the policy "
            "(SLIPWAY_POLICY). What runs stays as it is"
        )


def require_admins(gateway: Gateway, repository: str) -> None:
    """For what changes a repository, by its key: whose has the policy in it makes the rules.

    Raises:
        NotAllowed: it has, and who asks is not the administrator.
    """
    if caller().limited and repository == policy_repository(gateway.settings):
        raise NotAllowed(
            f"{repository} has the policy of this installation (SLIPWAY_POLICY), so that it is the "
            "administrator's alone: ask them to change it"
        )


def check_release(
    gateway: Gateway, release: Release, specs: Iterable[FunctionSpec]
) -> Callable[[], None]:
    """For ``put_artifacts``: raises NotAllowed where the policy does not let it be."""
    settings, store = gateway.settings, gateway.store
    wanted = list(specs)

    def check() -> None:
        if not settings.policy:
            return
        policy = store.policy(settings.policy)
        if wanted:  # what only takes down is let through
            policy.require_open()
        owner = store.owner_of(release.namespace)
        for spec in wanted:
            _of_function(policy.of(owner), owner, spec)
        before = bounds.desired(store, release.namespace)
        after = bounds.released(before, release.namespace, release.repository, wanted)
        bounds.require(settings, store, release.namespace, before, after)

    return check


def check_deploy(gateway: Gateway, spec: FunctionSpec) -> None:
    """For inside the store's transaction. Raises NotAllowed."""
    settings, store = gateway.settings, gateway.store
    if not settings.policy:
        return
    policy = store.policy(settings.policy)
    policy.require_open()
    owner = store.owner_of(spec.namespace)
    _of_function(policy.of(owner), owner, spec)
    before = bounds.desired(store, spec.namespace)
    had = before.get(spec.function)
    after = before | {spec.function: Desired.of(spec, had.replicas if had else 0)}
    bounds.require(settings, store, spec.namespace, before, after)


def check_rollback(gateway: Gateway, rollback: Rollback) -> None:
    """Likewise, for a rollback that an owner begins: the same place could else be taken in each of
    many repositories, emptied, and all of it brought back."""
    settings, store = gateway.settings, gateway.store
    if not settings.policy:
        return
    store.policy(settings.policy).require_open()
    before = bounds.desired(store, rollback.namespace)
    specs = store.rollback_specs(rollback)
    if rollback.function:
        replicas = {function: each.replicas for function, each in before.items()}
        after = before | {f: Desired.of(spec, replicas.get(f, 0)) for f, spec in specs.items()}
    else:
        after = bounds.released(before, rollback.namespace, rollback.repository, specs.values())
    bounds.require(settings, store, rollback.namespace, before, after)


def check_scale(gateway: Gateway, record: FunctionRecord) -> None:
    """Likewise, for ``record`` as it is to be; for what comes, not for what goes."""
    settings, store = gateway.settings, gateway.store
    if not settings.policy:
        return
    before = bounds.desired(store, record.spec.namespace)
    after = before | {record.spec.function: Desired.of(record.spec, record.replicas)}
    if after != before:
        bounds.require(settings, store, record.spec.namespace, before, after)


def _of_function(policy: OwnerPolicy, owner: str, spec: FunctionSpec) -> None:
    if spec.foreign and not policy.skip_build:
        raise NotAllowed(
            f"{spec.name}: {owner} may run only what is built here, and no ready-made image: "
            f"{bounds.ASK}"
        )


# What is in force.


class PolicyState(Struct, frozen=True):
    """Body of ``GET /system/policy``."""

    source: str
    """SLIPWAY_POLICY, without passwords; empty: there is none, and nothing is bounded."""
    since: str
    """When the document in force was taken: RFC 3339; empty: none was yet, nobody may deploy."""
    trouble: str
    """Why a newer one is not taken, or why it is not known whether there is one."""
    owners: list[str] | None
    """Who may deploy; null: everybody whose events are signed."""
    default: OwnerPolicy
    policies: list[str]
    """Namespaces for which other bounds hold."""


class Used(Struct, frozen=True):
    """What an owner has of what is bounded; for the namespace of a preview of a fork's request what
    it has of such ones, which count apart."""

    functions: int
    memory: int
    """Bytes."""
    cpus: float
    replicas: int
    build_minutes: float
    """In this calendar month, UTC."""
    concurrent_builds: int


class OwnerState(Struct, frozen=True):
    """Body of ``GET /system/policy/<namespace>``."""

    namespace: str
    owner: str
    """Whose namespace it is: all of an owner's count together."""
    bounds: OwnerPolicy
    """Null: no bound."""
    used: Used


@bp.get("/system/policy")
def read_policy() -> Response:
    gateway = here()
    source = gateway.settings.policy
    held = gateway.store.held_policy() if source else None
    policy = gateway.store.policy(source)
    known = held if held and held.source == shown(source) else Held(source=shown(source))
    listed = None
    if policy.owners is not None:
        listed = [f"{o.forge}:{o.id or o.login}".lstrip(":") for o in policy.owners]
    return _json(
        PolicyState(
            source=shown(source),
            since=known.since,
            trouble=known.trouble or policy.closed,
            owners=[] if policy.closed else listed,
            default=policy.default,
            policies=sorted(policy.policies),
        )
    )


@bp.get("/system/policy/<name>")
@owners(Scope.READ)
def read_owner(name: str) -> Response:
    """What holds for a namespace's owner, and what it has of that."""
    gateway = here()
    settings, store = gateway.settings, gateway.store
    caller().require(Scope.READ, names.namespace(name))
    owner = store.owner_of(name)
    sum_ = bounds.total(settings, bounds.desired(store, name).values())
    used = Used(
        functions=sum_.functions,
        memory=sum_.memory,
        cpus=round(sum_.cpus, 3),
        replicas=sum_.replicas,
        build_minutes=round(store.built_seconds(owner, forks=name in store.of_forks()) / 60, 2),
        concurrent_builds=store.building(owner),
    )
    found = OwnerState(
        namespace=name, owner=owner, bounds=store.policy(settings.policy).of(owner), used=used
    )
    return _json(found)


def _json(value: Struct) -> Response:
    return Response(msgspec.json.encode(value), content_type="application/json")
