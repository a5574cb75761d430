"""Slipway's own git remote: smart HTTP, ``/git/<namespace>/<repository>.git``.

Only the three services of smart HTTP exist; files of a repository are not served.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from flask import Blueprint, Response, request

from core import names
from core.errors import InvalidRequest, NotFound
from core.scopes import Scope
from gateway import bare, policy
from gateway.auth import refuse_other_sites
from gateway.callers import caller, owners
from gateway.cgi import Backend
from gateway.context import Gateway, here
from gateway.hooks import post_receive
from gateway.pushes import Push
from gateway.streams import guarded

bp = Blueprint("remote", __name__)

SERVICES = ("git-upload-pack", "git-receive-pack")
_PROTOCOL = re.compile(r"[a-z0-9=:]{1,100}")


@bp.get("/git/<namespace>/<repository>.git/info/refs")
@owners(Scope.PUSH)
def info_refs(namespace: str, repository: str) -> Response:
    """What there is; a repository is made when its first push asks."""
    _check(namespace, repository)
    service = request.args.get("service", "")
    if service not in SERVICES:
        raise InvalidRequest("only smart HTTP is served here: use git 1.6.6 or newer")
    gateway = here()
    if service == "git-receive-pack":
        refuse_other_sites()
        policy.require_admins(gateway, f"{namespace}/{repository}")
        bare.create(gateway.settings, gateway.store, namespace, repository)
    return _git(gateway, namespace, repository, "info/refs")


@bp.post("/git/<namespace>/<repository>.git/git-upload-pack")
@owners(Scope.PUSH)
def upload_pack(namespace: str, repository: str) -> Response:
    """A fetch."""
    _check(namespace, repository)
    return _git(here(), namespace, repository, "git-upload-pack")


@bp.post("/git/<namespace>/<repository>.git/git-receive-pack")
@owners(Scope.PUSH)
def receive_pack(namespace: str, repository: str) -> Response:
    """A push. Its hook comes back to ``/internal/pushes``."""
    _check(namespace, repository)
    gateway = here()
    policy.require_admins(gateway, f"{namespace}/{repository}")
    push = gateway.pushes.open(namespace, repository)

    def ended() -> None:
        gateway.pushes.close(push)
        # Should the hook have died: the deploy branch is known, so that the sweep finds the push.
        bare.settle(gateway.settings, gateway.store, namespace, repository)

    try:
        return _git(gateway, namespace, repository, "git-receive-pack", push, ended)
    except BaseException:
        gateway.pushes.close(push)
        raise


@bp.route("/git/<path:path>", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
@owners()
def nothing_else(path: str) -> Response:
    hint = "" if ".git" in path else " with '.git' at the end"
    raise NotFound(f"a remote's URL has the form /git/<namespace>/<repository>.git{hint}")


def _check(namespace: str, repository: str) -> None:
    """Raises InvalidRequest: they are no names; and as ``Caller.require``."""
    names.owner_namespace(namespace)
    caller().require(Scope.PUSH, namespace)
    names.repository_name(repository)


def _git(
    gateway: Gateway,
    namespace: str,
    repository: str,
    service: str,
    push: Push | None = None,
    ended: Callable[[], None] = lambda: None,
) -> Response:
    path = bare.existing(gateway.settings, namespace, repository)
    give_back = gateway.pools.pushes.take()
    try:
        backend = Backend(
            request.environ,
            _variables(gateway, path, service, push),
            path,
            ended=ended,
            keep=push is not None,
        )
    except BaseException:
        give_back()
        raise

    def close() -> None:
        if push:  # answered, or the client went away: nobody is there to watch
            push.gone.set()
        try:
            backend.close()
        finally:
            give_back()

    try:
        status, headers, first = backend.head()
        response = Response(guarded(backend.body(first)), status, headers)
    except BaseException:
        close()
        raise
    response.call_on_close(close)
    return response


def _variables(gateway: Gateway, path: Path, service: str, push: Push | None) -> dict[str, str]:
    """CGI's variables, and what the hook needs."""
    settings = gateway.settings
    relative = path.relative_to(settings.git_folder)
    env = bare.environment(settings, path) | {
        "GIT_PROJECT_ROOT": str(settings.git_folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{relative}/{service}",
        "QUERY_STRING": f"service={request.args['service']}" if service == "info/refs" else "",
        "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.headers.get("Content-Type", "")[:100],
        "REMOTE_USER": caller().token or caller().role.value,
        "REMOTE_ADDR": request.remote_addr or "",
    }
    if request.headers.get("Content-Encoding") in ("gzip", "x-gzip"):
        env["HTTP_CONTENT_ENCODING"] = "gzip"
    protocol = request.headers.get("Git-Protocol", "")
    if _PROTOCOL.fullmatch(protocol):
        env["GIT_PROTOCOL"] = protocol
    if push:
        env |= {
            "SLIPWAY_PYTHON": sys.executable,
            "SLIPWAY_POST_RECEIVE": str(Path(post_receive.__file__).resolve()),
            "SLIPWAY_PUSH_SOCKET": str(gateway.hooks_socket),
            "SLIPWAY_PUSH_PATH": f"/internal/pushes/{push.namespace}/{push.repository}",
            "SLIPWAY_PUSH_TOKEN": push.token,
        }
    return env
