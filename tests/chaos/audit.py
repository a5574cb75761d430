"""The auditor: knows what was pushed, asks what became of it, and says what cannot be.

no accepted push is lost; one live version of a function; of a repository one release; live is a
commit that passed its tests; nothing is left of what is over
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from core import keys, queues
from core.store import Store
from supervisor import claims
from tests.chaos import machine
from tests.chaos.history import History
from tests.chaos.machine import differ
from tests.e2e.platform import Platform

RECEIPT = timedelta(seconds=20)
"""In which a receipt is written; it covers five seconds at least."""


def complaints(
    platform: Platform, store: Store, histories: dict[tuple[str, str], History]
) -> list[str]:
    """What is wrong just now. The dear questions are asked once the cheap ones are answered."""
    health = platform.request("/healthz", timeout=10)
    if health.status != 200:
        return [f"/healthz: {health.status} {health.text[:200]}"]
    found: list[str] = []
    for (namespace, repository), history in histories.items():
        found += _releases(platform, namespace, repository, history)
    found = found or [*_queues(store)]
    for (namespace, repository), history in histories.items():
        found = found or [*_functions(platform, store, namespace, repository, history)]
    assert platform.process is not None
    # As the supervisor has settled them: with the engine for builds, and the registry.
    settings = claims.told_settings(platform.settings.state) or platform.settings
    return found or [*machine.complaints(settings, store, platform.process.pid)]


def live(platform: Platform, namespace: str, repository: str) -> str:
    """The commit of the release that is live."""
    query = f"?namespace={namespace}&repository={repository}&limit=100"
    told = platform.request(f"/system/releases{query}", admin=True).json()
    return next(str(each["commit"]) for each in told if each["state"] == "live")


def _releases(
    platform: Platform, namespace: str, repository: str, history: History
) -> Iterator[str]:
    query = f"?namespace={namespace}&repository={repository}&limit=100"
    answer = platform.request(f"/system/releases{query}", admin=True)
    if answer.status != 200:
        yield f"no list of releases: {answer.status} {answer.text[:200]}"
        return
    told = answer.json()
    by_commit = {each["commit"]: each for each in reversed(told)}
    latest = {push.commit.id: push for push in history.pushes[-20:]}  # a branch may go twice
    for push in latest.values():
        release = by_commit.get(push.commit.id)
        if release is None:
            if push is history.pushes[-1]:
                yield f"{push.commit.id[:7]} ({push.commit.kind}) was pushed, and has no release"
        elif release["state"] not in (allowed := history.allowed(push)):
            yield (
                f"{release['id']} ({push.commit.kind}) is {release['state']}, not "
                f"{' or '.join(sorted(allowed))}: {release['reason'][:300]}"
            )
    alive = [each for each in told if each["state"] == "live"]
    if len(alive) != 1:
        yield f"{len(alive)} releases of {namespace}/{repository} are live"
        return
    for each in told:
        yield from _ended(each)
        if each["state"] in ("queued", "building", "testing", "staging"):
            yield f"{each['id']} still is {each['state']}"
        if history.commit(each["commit"]) is None:
            yield f"{each['id']} is of {each['commit'][:7]}, which nobody pushed"
    commit = history.commit(alive[0]["commit"])
    if commit is not None and not commit.good:
        yield f"{alive[0]['id']} is live, and its commit is bad: {commit.kind}"


def _ended(release: dict[str, Any]) -> Iterator[str]:
    """A release that was live has its receipt, and is watched no more."""
    if release["state"] not in ("live", "replaced", "rolled-back"):
        return
    if (watch := release["watch"]) and watch["verdict"] == "watching":
        yield f"{release['id']} is watched until {watch['until']}"
    finished = datetime.fromisoformat(release["finishedAt"])
    if release["receipt"] is None and datetime.now(UTC) - finished > RECEIPT:
        yield f"{release['id']} has no receipt"


def _queues(store: Store) -> Iterator[str]:
    for repository in store.repositories():
        if turn := store.turn(repository.key):
            yield f"{turn} has the turn of {repository.key}"
    if staging := store.staging():
        yield f"in staging: {[each.id for each in staging]}"
    if jobs := queues.builds(store).job_ids:
        yield f"jobs wait: {jobs}"
    if rolling := store.rolling():
        yield f"rollbacks under way: {[each.id for each in rolling]}"
    if warm := store.warm():
        yield f"kept warm: {sorted(warm)}"
    for key in (keys.lease("*"), keys.waiting("*")):
        if found := list(store.redis.scan_iter(key)):
            yield f"left in the store: {found}"


def _functions(
    platform: Platform, store: Store, namespace: str, repository: str, history: History
) -> Iterator[str]:
    """What answers, and what is desired, is the live release's commit, all of it and nothing else,
    but for what was pinned to another one.
    """
    live = store.live_release(f"{namespace}/{repository}")
    commit = history.commit(store.release(live).commit)
    assert commit is not None  # _releases had no complaint
    expected = dict(commit.functions)
    records = {
        record.spec.name: record
        for record in store.functions().values()
        if record.spec.namespace == namespace
    }
    yield from differ(f"desired functions of {namespace}", set(records), set(expected))
    if (last := history.pushes[-1]).commit.id == commit.id and last.left is False:
        pinned = history.pinned
    else:
        pinned = {name: r.pinned for name, r in records.items() if r.pinned}
    for name, record in records.items():
        release = live
        if pinned.get(name, "") != record.pinned:
            yield f"{name} is pinned by {record.pinned or 'nobody'}, not {pinned.get(name)}"
        if record.pinned:
            rollback = store.rollback(record.pinned)
            if rollback.state != "done" or rollback.function not in ("", name):
                yield f"{name} is pinned by {rollback.id}, of {rollback.function}: {rollback.state}"
            release = rollback.to
        if record.release != release:
            yield f"{name} is desired by {record.release}, not {release}"
        its = store.release(release).commit
        if record.spec.commit != its:
            yield f"{name} is of {record.spec.commit}, {release} of {its}"
        if (of := history.commit(its)) and name in of.functions:
            expected[name] = of.functions[name]
    for name in ("a", "b", "c"):
        answer = platform.call(f"{name}.{namespace}")
        status, text = expected[name].answer if name in expected else (404, "")
        if answer.status != status or (text and answer.text != text):
            yield (
                f"{name}.{namespace} answers {answer.status} {answer.text[:80]!r}, "
                f"not {status} {text!r}"
            )
