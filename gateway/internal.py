"""What git's hook asks: turn the refs that were just pushed into releases, and show their way.

``POST /internal/pushes/<namespace>/<repository>``, body ``<old> <new> <ref>`` lines as git gives
them to the hook; the answer is text, line by line as it happens. The token of the running push is
the guard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flask import Blueprint, Response, request

from core import failpoints, names, queues
from core.errors import InvalidRequest, SlipwayError, Unavailable
from core.models import Release, State
from core.repositories import Repository
from core.store import LogEnd
from gateway import bare, environments, heads, policy, promotions
from gateway.context import Gateway, here
from gateway.progress import closing, follow, one_line, printable, printable_lines
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
    deployed = gateway.store.deployed(known)
    told = list(not_deployed(updates, known.deploy_branch, deployed))
    if known.key == heads.policy_repository(gateway.settings):
        if any(known.deploy_branch == update.branch for update in updates):
            told += _policy(gateway)
        else:
            told.append("slipway: stored, nothing to deploy")
        return _text(iter(_shown(told)))
    releases = list(_promoted(gateway, known, updates, told))
    asked = [(update, target) for update in updates for target in deployed.get(update.branch, ())]
    # What the deploy branch brings is told last.
    for update, target in sorted(asked, key=lambda each: each[1].key == known.key):
        commit = update.new
        if update.deleted:
            told.append(f"{update.branch}: deleted; all functions of {target.key} are taken down")
            commit = names.NO_COMMIT
        release = heads.release(gateway.settings, gateway.store, target, commit)
        if release is None:
            told.append(f"slipway: superseded: {update.branch} was pushed again since")
            continue
        failpoints.at("release-created")
        queues.dispatch(gateway.store, target.key)
        releases.append(release)
    if not releases:
        if not asked:
            told.append("slipway: stored, nothing to deploy")
        return _text(iter(_shown(told)))
    told = _shown(told)
    try:
        give_back = gateway.pools.progress.take()
    except Unavailable:
        for release in releases:
            told.append(_begun(gateway, release))
            told.append(
                f"slipway: stored as {release.id}; too many pushes are watched to show this one: "
                f"follow it with: slipway wait {release.commit}"
            )
        return _text(iter(told))
    return _text(_progress(gateway, push, known, updates, releases, told), give_back)


def _promoted(
    gateway: Gateway, known: Repository, updates: list[Update], told: list[str]
) -> Iterator[Release]:
    """The releases that tags ask for; why others make none is added to what is ``told``."""
    tags = [update for update in updates if update.ref.startswith(promotions.TAGS)]
    for number, update in enumerate(tags):
        tag = update.ref.removeprefix("refs/tags/")
        if update.deleted:
            gateway.store.forget_promotion_tag(known.key, tag)
            continue
        if number >= promotions.MOST:
            gateway.store.note_promotion_tag(known.key, tag, update.new)
            told.append(f"{printable(tag)}: not promoted: it is one of too many at once")
            continue
        try:
            commit = bare.resolve(gateway.settings, known, update.new)
            yield promotions.take_tag(gateway.store, known, tag, commit, update.new)
        except SlipwayError as error:
            told.append(f"{printable(tag)}: not promoted: {one_line(str(error))}")


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


def not_deployed(
    updates: list[Update], deploy_branch: str, deployed: Mapping[str, Sequence[Repository]]
) -> Iterator[str]:
    """A line for every ref that makes no release, saying why; ``deployed``: branch → where to."""
    with_it = any(each.branch == deploy_branch and not each.deleted for each in updates)
    for update in updates:
        name = printable(update.branch or update.ref.removeprefix("refs/tags/"))
        if update.deleted:
            if not deployed.get(update.branch):
                yield f"{name}: deleted; nothing was deployed from it"
        elif update.ref.startswith(promotions.TAGS):
            continue
        elif not update.branch:
            yield f"{name}: stored, not deployed: only branches are"
        elif not deploy_branch:
            wanted = " or ".join(bare.DEPLOY_BRANCHES)
            yield f"{name}: stored, not deployed: push {wanted} to deploy"
        elif deployed.get(update.branch):
            continue
        elif with_it:
            yield (
                f"{name}: stored; deployed if the stack file of {deploy_branch} makes it an "
                "environment"
            )
        else:
            yield f"{name}: stored, not deployed: the deploy branch is {deploy_branch}"


def _begun(gateway: Gateway, release: Release) -> str:
    key = f"{release.namespace}/{release.repository}"
    line = f"release {release.id} of {key}"
    if release.state is State.QUEUED:
        if closed := gateway.store.policy(gateway.settings.policy).closed:
            return f"{line}: waits: {closed}"
        other = gateway.store.turn(key)
        if other and other != release.id:
            return f"{line}: waits for {other}"
        return f"{line}: queued"
    return line


def _progress(
    gateway: Gateway,
    push: Push,
    known: Repository,
    updates: list[Update],
    releases: list[Release],
    told: list[str],
) -> Iterator[str]:
    """One release after the other. What an environment releases that came with this very push, by
    the stack file of the deploy branch, follows that."""
    yield from told
    shown = set()
    for release in releases:  # grows while it is walked
        shown.add(f"{release.namespace}/{release.repository}")
        yield _begun(gateway, release)
        for line in follow(gateway.store.follow_log(release.id)):
            if isinstance(line, LogEnd):
                done = gateway.store.release(release.id)
                base = gateway.store.functions_url(gateway.settings, done.namespace)
                yield from closing(done, line, base)
                break
            if line:
                yield line
            elif push.gone.is_set():  # nobody sees it: the place is for others
                return
            elif not gateway.alive():
                yield from (
                    f"slipway: {each.id} goes on; follow it with: slipway wait {each.commit}"
                    for each in releases[releases.index(release) :]
                )
                return
        if (release.namespace, release.repository) == (known.namespace, known.name):
            releases += _of_new_environments(gateway, known, updates, shown)


def _of_new_environments(
    gateway: Gateway, known: Repository, updates: list[Update], shown: Collection[str]
) -> Iterator[Release]:
    environments.settle(gateway.settings, gateway.store, known.key)
    deployed = gateway.store.deployed(known)
    for update in updates:
        for target in deployed.get(update.branch, ()):
            release = gateway.store.newest_release(target.key)
            if target.key not in shown and release and release.commit == update.new:
                yield release


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
