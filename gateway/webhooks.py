"""Events of forges: an event tells us to look, no more.

The signature comes first, over the raw bytes, before the event's kind or the JSON is looked at.
"""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from core import logging, names, queues
from core.errors import InvalidRequest
from core.models import Repository
from core.names import NO_COMMIT
from forges.github import webhooks as github
from gateway.context import Gateway, here
from gateway.streams import content_length, whole

bp = Blueprint("webhooks", __name__, url_prefix="/webhooks")
log = logging.get()

SMALL = 10**6
"""Bytes: almost every event. They have places of their own, and little time."""
SECONDS, LARGE_SECONDS = 3.0, 10.0
"""For a body to arrive: anybody can begin one."""


class Noted(msgspec.Struct):
    """Answer to a push that makes a release."""

    release: str
    """Its id."""


@bp.post("/github")
def from_github() -> Response:
    """202 ``{"release": id}`` for a push to the deploy branch, or its deletion; text for what makes
    no release."""
    gateway = here()
    secret = gateway.settings.github_webhook_secret
    signature = request.headers.get(github.SIGNATURE, "")
    github.check_configured(secret, signature)
    length = content_length(request.environ)
    small = length is not None and length <= SMALL
    give_back = (gateway.pools.webhooks if small else gateway.pools.large_webhooks).take()
    try:
        body = whole(request.environ, github.MAX_BODY, SECONDS if small else LARGE_SECONDS)
        github.check_signature(secret, body, signature)
    finally:
        give_back()
    event = request.headers.get(github.EVENT, "")
    if event == "ping":
        return _text("pong: pushes to the default branch will be released", 200)
    if event != "push":
        return _text(f"nothing to do for the event {event[:50]!r}", 202)
    push = github.parse_push(body)
    if not push.branch:
        return _text(f"not deployed: {push.ref} is not a branch", 202)
    if push.deleted and push.branch != push.default_branch:
        return _text(f"not deployed: {push.ref} was deleted", 202)
    if push.branch != push.default_branch:
        return _text(
            f"not deployed: {push.branch} is not the default branch ({push.default_branch})", 202
        )
    return _release(gateway, push)


def _release(gateway: Gateway, push: github.Push) -> Response:
    namespace = namespace_of(push.owner)
    store = gateway.store
    if push.deleted and not store.find_repository(f"{namespace}/{push.name}"):
        told = f"{push.ref} was deleted, and nothing of {push.full_name} is here"
        return _text(f"not deployed: {told}", 202)
    repository = Repository(
        namespace=namespace,
        name=push.name,
        source="github",
        full_name=push.full_name,
        forge_id=str(push.repository_id),
        deploy_branch=push.branch,
    )
    holder = f"{gateway.settings.github_url}#{push.owner_id}"
    store.claim_namespace(namespace, holder, repository)
    store.save_repository(repository)
    delivery = github.delivery_id(request.headers.get(github.DELIVERY, ""))
    release = store.create_release(
        repository,
        NO_COMMIT if push.deleted else push.commit,
        push.branch,
        delivery=("github", delivery) if delivery else None,
    )
    queues.dispatch(store, repository.key)
    log.info("webhook", forge="github", repository=repository.key, release=release.id)
    return Response(msgspec.json.encode(Noted(release.id)), 202, content_type="application/json")


def namespace_of(owner: str) -> str:
    """The namespace of a login: the same in lower case, where that is one.

    Raises:
        InvalidRequest: it is not, naming the rule.
    """
    try:
        return names.owner_namespace(owner.lower())
    except InvalidRequest as error:
        raise InvalidRequest(
            f"the owner {owner!r} has no namespace of the same name: {error}"
        ) from error


def _text(told: str, status: int) -> Response:
    return Response(told, status, content_type="text/plain; charset=utf-8")
