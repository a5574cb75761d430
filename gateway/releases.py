"""Releases over HTTP: list, read, follow, start, cancel, and take a built commit's artifacts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from core import bundle, failpoints, images, logging, names, queues
from core.errors import Conflict, InvalidRequest, NotSupported
from core.models import Artifact, Artifacts, LogLine, Release
from core.previews import ForkRules, bound, refusal
from core.repositories import Repository
from core.scopes import Scope
from core.settings import Settings
from core.stackfile import MAX_ENVIRONMENTS
from core.store import LogEnd, Store
from core.store.releases import no_release
from gateway import bare, policy, sealing
from gateway.callers import caller, owners
from gateway.context import Gateway, here
from gateway.query import number
from gateway.streams import decoded, guarded

bp = Blueprint("releases", __name__, url_prefix="/system/releases")
log = logging.get()

MAX_ARTIFACTS = 32 * 2**20
MAX_LIST = 500
ENDING = 5.0
"""Seconds that a cancelled build is waited for: it takes a tenth of them."""
HEARTBEAT = 5
"""Seconds: a follower that is gone is noticed by the write that fails."""


@bp.get("")
@owners(Scope.READ)
def list_releases() -> Response:
    """The newest first, of one repository, one namespace or all that the caller may see."""
    namespace = request.args.get("namespace", "")
    repository = request.args.get("repository", "")
    if namespace:
        names.namespace(namespace)
    if repository:
        names.repository_name(repository)
    limit = number("limit", 50, 1, MAX_LIST)
    visible = caller().visible(namespace)
    settings, store = here().settings, here().store
    found = store.releases(namespace, repository, limit, visible)
    return _json(store.answering(settings, found))


@bp.get("/<id_>")
@owners(Scope.READ)
def get_release(id_: str) -> Response:
    found = theirs(id_, Scope.READ)
    return _json(here().store.answering(here().settings, [found])[0])


@bp.get("/<id_>/logs")
@owners(Scope.READ)
def get_log(id_: str) -> Response:
    """NDJSON, or server-sent events if asked for; the last line is ``{state, reason}``."""
    gateway = here()
    release = theirs(id_, Scope.READ)
    events = request.accept_mimetypes.best_match(["application/x-ndjson", "text/event-stream"])
    form = _event if events == "text/event-stream" else _line
    following = request.args.get("follow", "") in ("1", "true")
    give_back = gateway.pools.followers.take() if following else None
    lines = gateway.store.follow_log(release.id, follow=following)
    response = Response(
        guarded(_encoded(lines, form, gateway.alive)),
        content_type=events or "application/x-ndjson",
        headers={"Cache-Control": "no-store"},
    )
    if give_back:
        response.call_on_close(give_back)
    return response


class Start(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /system/releases``; without a commit, the repository's newest."""

    namespace: str
    repository: str
    commit: str | None = None


@bp.post("")
@owners(Scope.DEPLOY)
def start_release() -> Response:
    """Releases a commit again, or anew."""
    gateway = here()
    wanted = decoded(request.environ, Start)
    caller().require(Scope.DEPLOY, names.namespace(wanted.namespace))
    names.repository_name(wanted.repository)
    if wanted.commit is not None and names.commit(wanted.commit) == names.NO_COMMIT:
        raise InvalidRequest("commit is all zeros, which is no commit: delete the branch instead")
    policy.require_admins(gateway, f"{wanted.namespace}/{wanted.repository}")
    store = gateway.store
    repository = store.repository(wanted.namespace, wanted.repository)
    if repository.gone:
        raise Conflict(f"nothing of {repository.key} is deployed any more: {repository.gone}")
    commit, branch = _commit(gateway, repository, wanted.commit)
    pinned = wanted.commit is not None
    release = store.create_release(repository, commit, branch, again=True, pinned=pinned)
    queues.dispatch(store, repository.key)
    response = _json(store.release(release.id), 202)
    response.headers["Location"] = f"/system/releases/{release.id}"
    return response


@bp.delete("/<id_>")
@owners(Scope.DEPLOY)
def cancel(id_: str) -> Response:
    """Takes back a release that is not live yet. 200: nothing of its build is left, 202: it was
    told to end, and what it made goes with it."""
    store = here().store
    theirs(id_, Scope.DEPLOY)
    release = store.cancel(id_, f"cancelled by {caller().name}")
    failpoints.at("cancelled")
    queues.dispatch(store, f"{release.namespace}/{release.repository}")
    deadline = time.monotonic() + ENDING
    while store.leased(id_):  # given back once the worker has tidied up
        if time.monotonic() > deadline:
            return _json(release, 202)
        time.sleep(0.02)
    return _json(release)


@bp.put("/<id_>/artifacts")
def put_artifacts(id_: str) -> Response:
    """Takes a built commit, all its functions at once. For the builder."""
    gateway = here()
    names.release_id(id_)
    body = decoded(request.environ, Artifacts, MAX_ARTIFACTS)
    release = gateway.store.release(id_)
    repository = gateway.store.repository(release.namespace, release.repository)
    _check(gateway, release, repository, body)
    rules = gateway.store.fork_rules(gateway.settings.policy, repository)
    told = refusal(repository, body.commit, rules)
    if told and body.functions:  # that nothing is to be deployed is always taken
        raise Conflict(told)
    functions = [_bound(repository, rules, each) for each in body.functions]
    functions = _with_secrets(gateway.store, release, functions)
    allowed = policy.check_release(gateway, release, (each.spec for each in functions))
    # What is released at the admin's word, and not as the branch's head, changes none.
    own = not repository.parent and not gateway.store.pinned(id_)
    environments = _environments(body) if own else None
    staged = gateway.store.put_artifacts(id_, body.commit, functions, allowed, environments)
    failpoints.at("artifacts-put")
    log.info("artifacts", release=id_, functions=len(body.functions))
    return _json(staged)


def theirs(id_: str, scope: Scope) -> Release:
    """The release of that id, which the caller may do this with; raises as ``Caller.require``."""
    release = here().store.release(names.release_id(id_))
    caller().require(scope, release.namespace, no_release(id_))
    return release


def _commit(gateway: Gateway, repository: Repository, commit: str | None) -> tuple[str, str]:
    """(commit, branch) to release. A forge's branch head is looked up when the build begins."""
    if repository.source == "git":
        if commit is None:
            return bare.head(gateway.settings, repository), repository.deploy_branch
        commit = bare.own_commit(gateway.settings, repository, commit)
    elif commit is None:
        newest = gateway.store.newest_release(repository.key)
        commit = newest.commit if newest else "0" * 40
    return commit, repository.deploy_branch


def _bound(repository: Repository, rules: ForkRules, artifact: Artifact) -> Artifact:
    """What a function may say of itself in this repository, whatever the builder made of it."""
    spec = artifact.spec
    may = bound(repository, rules, spec.labels, spec.annotations, spec.secrets)
    spec = msgspec.structs.replace(
        spec, labels=may.labels, annotations=may.annotations, secrets=may.secrets
    )
    if not repository.trusted:
        spec = msgspec.structs.replace(spec, sealed=None, repository_id="")
    return msgspec.structs.replace(artifact, spec=spec)


def _with_secrets(store: Store, release: Release, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Writes into each function where its secrets are, and which versions of those in the store it
    is released with.

    What was handed over before keeps those it has, so that repeating it changes nothing.

    Raises:
        NotFound: naming a secret that the owner does not have.
        InvalidRequest: see ``sealing.checked``.
    """
    repository = store.repository(release.namespace, release.repository)
    before = {each.name: each.spec.secret_versions for each in store.artifacts(release.id)}
    done = []
    for each in artifacts:
        spec = sealing.checked(store, repository, each.spec)
        stored = [name for name in spec.secrets or () if name not in (spec.sealed or {})]
        versions = before.get(each.name) if before else None
        if not before and stored:
            versions = store.secret_versions(repository.secrets_namespace, stored)
        spec = msgspec.structs.replace(spec, secret_versions=versions)
        done.append(msgspec.structs.replace(each, spec=spec))
    return done


def _environments(body: Artifacts) -> dict[str, str]:
    """Those that a commit names → their branches. Raises InvalidRequest."""
    if len(body.environments) > MAX_ENVIRONMENTS:
        raise InvalidRequest(f"environments: {len(body.environments)} are more than there can be")
    return {
        names.environment_name(name): names.branch(branch)
        for name, branch in body.environments.items()
    }


def _check(gateway: Gateway, release: Release, repository: Repository, body: Artifacts) -> None:
    """What is handed over must be of this release, whatever the builder was made to believe.

    Raises:
        InvalidRequest: naming the function and the field that do not agree.
        NotFound: the owner has no such artifact.
    """
    seen = set()
    promoted = _promoted(gateway.store, release)
    for artifact in body.functions:
        names.function_name(artifact.name)
        if artifact.name in seen:
            raise InvalidRequest(f"the function {artifact.name} is there twice")
        seen.add(artifact.name)
        if promoted is not None and promoted.get(artifact.name) != artifact.artifact:
            raise InvalidRequest(
                f"{artifact.name}: {artifact.artifact[:200]!r} is not what is promoted"
            )
        for field, given, expected in _fields(artifact, release, repository, body):
            if given != expected:
                raise InvalidRequest(
                    f"{artifact.name}: {field} is {given!r}, but must be {expected!r}"
                )
        _artifact(gateway.settings, artifact.spec.artifacts_of, artifact)
    if promoted and not promoted.keys() <= seen:
        raise InvalidRequest(f"{release.id} has not all functions of what is promoted")


def _promoted(store: Store, release: Release) -> dict[str, str] | None:
    """Function's name → artifact of what the release is promoted from; None: of nothing."""
    if release.promoted_from is None:
        return None
    brought = store.brought(store.release(release.promoted_from.release))
    return {spec.name: spec.artifact for spec in brought}


def _artifact(settings: Settings, namespace: str, artifact: Artifact) -> None:
    """What is to run must be this runtime's, and this owner's or ready-made."""
    if artifact.spec.foreign and settings.runtime == "docker":
        images.check_pinned(settings, namespace, artifact.artifact)
        return
    if settings.runtime == "docker":
        images.check_owned(settings, namespace, artifact.artifact)
        return
    if not artifact.artifact.startswith(bundle.PREFIX):
        raise NotSupported(
            f"{artifact.name}: this installation runs bundles only, not {artifact.artifact[:100]!r}"
        )
    bundle.read_bundle(settings, namespace, artifact.artifact)


def _fields(
    artifact: Artifact, release: Release, repository: Repository, body: Artifacts
) -> Iterator[tuple[str, object, object]]:
    spec = artifact.spec
    yield "spec.name", spec.name, artifact.name
    yield "spec.namespace", spec.namespace, release.namespace
    yield "spec.artifactsNamespace", spec.artifacts_namespace, repository.artifacts_namespace
    yield "spec.repository", spec.repository, release.repository
    yield "spec.commit", spec.commit, body.commit
    yield "spec.artifact", spec.artifact, artifact.artifact
    yield "spec.key", spec.key, artifact.key


def _encoded(
    lines: Iterable[LogLine | LogEnd | None],
    form: Callable[[LogLine | LogEnd | None], bytes],
    alive: Callable[[], bool],
) -> Iterator[bytes]:
    quiet = 0
    for line in lines:
        if line is not None:
            quiet = 0
            yield form(line)
            continue
        if not alive():  # the client asks again, of the next gateway
            return
        quiet += 1
        if quiet % HEARTBEAT == 0:
            yield form(None)


def _line(line: LogLine | LogEnd | None) -> bytes:
    return b"\n" if line is None else msgspec.json.encode(line) + b"\n"


def _event(line: LogLine | LogEnd | None) -> bytes:
    return b":\n\n" if line is None else b"data: " + msgspec.json.encode(line) + b"\n\n"


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")
