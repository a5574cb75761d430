"""What git's hook asks: turn the refs that were just pushed into a release, and show its way.

``POST /internal/pushes/<namespace>/<repository>``, body ``<old> <new> <ref>`` lines as git gives
them to the hook; the answer is text, line by line as it happens. The token of the running push is
the guard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flask import Blueprint, Response, request

from core import failpoints, names, queues
from core.errors import InvalidRequest, Unavailable
from core.models import Release, Repository, State
from core.store import LogEnd
from gateway import bare, heads, policy
from gateway.context import Gateway, here
from gateway.progress import closing, follow, printable, printable_lines
from gateway.pushes import Push
from gateway.streams import guarded, whole

bp = Blueprint("internal", __name__)

_UPDATE = re.compile(r"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) (refs/[^\x00-\x20\x7f]+)")
_SHOWN = 20


@dataclass(frozen=True)
class Update:
    """One ref that a push moved."""

    old: str
    new: str
    ref: str

    @property
    def branch(self) -> str:
        return self.ref.removeprefix("refs/heads/") if self.ref.startswith("refs/heads/") else ""

    @property
    def deleted(self) -> bool:
        return not self.new.strip("0")


@bp.post("/internal/pushes/<namespace>/<repository>")
def pushed(namespace: str, repository: str) -> Response:
    """Answers with the release's progress, or with why there is none."""
    gateway = here()
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    push = gateway.pushes.find(token, namespace, repository)
    updates = read_updates(whole(request.environ, 2**22))
    failpoints.at("push-stored")
    known = gateway.store.repository(namespace, repository)
    known = bare.settle_deploy_branch(gateway.settings, gateway.store, known)
    told = list(not_deployed(updates, known.deploy_branch))
    deployed = next((u for u in updates if u.branch and u.branch == known.deploy_branch), None)
    if deployed is None:
        told.append("slipway: stored, nothing to deploy")
        return _text(iter(_shown(told)))
    if known.key == heads.policy_repository(gateway.settings):
        told += _policy(gateway)
        return _text(iter(_shown(told)))
    commit = deployed.new
    if deployed.deleted:
        told.append(f"{deployed.branch}: deleted; all functions of {known.key} are taken down")
        commit = names.NO_COMMIT
    release = heads.release(gateway.settings, gateway.store, known, commit)
    if release is None:
        told.append(f"slipway: superseded: {deployed.branch} was pushed again since")
        return _text(iter(_shown(told)))
    failpoints.at("release-created")
    queues.dispatch(gateway.store, known.key)
    told = [*_shown(told), _begun(gateway, release, known)]
    try:
        give_back = gateway.pools.progress.take()
    except Unavailable:
        told.append(
            f"slipway: stored as {release.id}; too many pushes are watched to show this one: "
            f"follow it with: slipway wait {release.commit}"
        )
        return _text(iter(told))
    return _text(_progress(gateway, push, release, told), give_back)


def _policy(gateway: Gateway) -> Iterator[str]:
    """What became of the policy that was just pushed: nothing of its repository is deployed."""
    held = policy.look(gateway.settings, gateway.store)
    if held is None or not held.trouble:
        yield "slipway: the policy is in force"
        return
    yield from printable_lines(held.trouble)
    stays = "the one before stays in force" if held.policy else "nobody may deploy"
    yield f"slipway: the policy is NOT taken: {stays}"


def read_updates(body: bytes | bytearray) -> list[Update]:
    """Raises InvalidRequest for anything but the lines of git's hook."""
    updates = []
    # Not splitlines: a ref may have what Unicode calls the end of a line.
    for line in body.decode("utf-8", "replace").removesuffix("\n").split("\n"):
        match = _UPDATE.fullmatch(line)
        if not match:
            raise InvalidRequest(f"{line[:100]!r} is not a line of git's hook")
        updates.append(Update(*match.groups()))
    return updates


def not_deployed(updates: list[Update], deploy_branch: str) -> Iterator[str]:
    """A line for every ref that makes no release, saying why."""
    for update in updates:
        name = printable(update.branch or update.ref.removeprefix("refs/tags/"))
        if update.deleted:
            if not deploy_branch or update.branch != deploy_branch:
                yield f"{name}: deleted; nothing was deployed from it"
        elif not update.branch:
            yield f"{name}: stored, not deployed: only branches are"
        elif not deploy_branch:
            wanted = " or ".join(bare.DEPLOY_BRANCHES)
            yield f"{name}: stored, not deployed: push {wanted} to deploy"
        elif update.branch != deploy_branch:
            yield f"{name}: stored, not deployed: the deploy branch is {deploy_branch}"


def _begun(gateway: Gateway, release: Release, repository: Repository) -> str:
    line = f"release {release.id} of {repository.key}"
    if release.state is State.QUEUED:
        if closed := gateway.store.policy(gateway.settings.policy).closed:
            return f"{line}: waits: {closed}"
        other = gateway.store.turn(repository.key)
        if other and other != release.id:
            return f"{line}: waits for {other}"
        return f"{line}: queued"
    return line


def _progress(gateway: Gateway, push: Push, release: Release, told: list[str]) -> Iterator[str]:
    yield from told
    for line in follow(gateway.store.follow_log(release.id)):
        if isinstance(line, LogEnd):
            done = gateway.store.release(release.id)
            yield from closing(done, line, gateway.settings.functions_url)
            return
        if line:
            yield line
        elif push.gone.is_set():  # nobody sees it: the place is for others
            return
        elif not gateway.alive():
            yield (f"slipway: {release.id} goes on; follow it with: slipway wait {release.commit}")
            return


def _shown(lines: list[str]) -> list[str]:
    if len(lines) <= _SHOWN:
        return lines
    return [*lines[: _SHOWN - 1], f"… and {len(lines) - _SHOWN} more refs", lines[-1]]


def _text(lines: Iterator[str], give_back: Callable[[], None] | None = None) -> Response:
    response = Response(
        guarded(f"{line}\n".encode() for line in lines), content_type="text/plain; charset=utf-8"
    )
    if give_back:
        response.call_on_close(give_back)
    return response
