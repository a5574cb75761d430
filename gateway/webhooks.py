"""Events of forges, as they come in: an event tells us to look, no more.

The signature comes first, over the raw bytes, before the event's kind or the JSON is looked at.
What then is done about it stands in ``arrivals``.

    /webhooks/<forge>           the installation's own webhook, an App's say: for all repositories
    /webhooks/<forge>/<hook>    that of one repository, with a secret of its own
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from flask import Blueprint, Response, request
from requests.structures import CaseInsensitiveDict

from core import logging
from core.errors import BadCredentials, NotAllowed, NotFound
from core.sealing import SealingKey
from core.settings import Settings
from core.store.forges import Hook
from forges import MAX_BODY, Webhooks
from forges.events import Event, ForgeRepository, Ping
from forges.gitea.webhooks import GiteaWebhooks
from forges.github.app import stored_app
from forges.github.webhooks import GitHubWebhooks
from forges.gitlab.webhooks import GitLabWebhooks
from gateway import arrivals
from gateway.context import Gateway, here
from gateway.streams import content_length, whole

bp = Blueprint("webhooks", __name__, url_prefix="/webhooks")
log = logging.get()

FORGES: dict[str, Webhooks] = {
    each.name: each for each in (GitHubWebhooks(), GitLabWebhooks(), GiteaWebhooks())
}
SMALL = 10**6
"""Bytes: almost every event. They have places of their own, and little time."""
SECONDS, LARGE_SECONDS = 3.0, 10.0
"""For a body to arrive: anybody can begin one."""


class Noted(msgspec.Struct):
    """Answer to an event that makes a release."""

    release: str
    """Its id; the first, where it makes several."""
    releases: list[str]
    """All of them: those of environments as well."""


@bp.post("/<forge>", defaults={"hook": ""})
@bp.post("/<forge>/<hook>")
def event(forge: str, hook: str) -> Response:
    """202 ``{"release": id}`` for a push to a branch that is deployed, or its deletion; text for
    what makes no release."""
    gateway = here()
    if forge not in FORGES:
        raise NotFound(f"there is no forge {forge[:40]!r} here: {', '.join(FORGES)} are")
    webhooks = FORGES[forge]
    own = _hook(gateway, forge, hook) if hook else None
    secret = opened(gateway, own) if own else _secret(gateway.settings, forge)
    headers = CaseInsensitiveDict(request.headers.items())
    with _told_of(own, webhooks.setting):
        webhooks.check_configured(secret, headers)
    length = content_length(request.environ)
    small = length is not None and length <= SMALL
    give_back = (gateway.pools.webhooks if small else gateway.pools.large_webhooks).take()
    try:
        body = whole(request.environ, MAX_BODY, SECONDS if small else LARGE_SECONDS)
        with _told_of(own, webhooks.setting):
            webhooks.check(secret, headers, body)
    finally:
        give_back()
    said = webhooks.read(headers, body)
    id_ = webhooks.delivery(headers)
    only = None
    if own:
        said, only = _spoken(gateway, own, said)
    told = arrivals.arrived(gateway, said, (forge, id_) if id_ else None, only)
    made = [each.id for each in told.releases]
    log.info("webhook", forge=forge, kind=type(said).__name__, releases=made)
    if made:
        noted = Noted(made[0], made)
        return Response(msgspec.json.encode(noted), 202, content_type="application/json")
    status = 200 if isinstance(said, Ping) else 202
    return Response(told.text, status, content_type="text/plain; charset=utf-8")


@contextmanager
def _told_of(hook: Hook | None, setting: str) -> Iterator[None]:
    """What is wrong with a hook's secret is told of that hook's, not of the installation's."""
    try:
        yield
    except BadCredentials as error:
        if hook is None:
            raise
        told = str(error).replace(setting, "what 'slipway hook create' printed")
        raise BadCredentials(told) from error


def _secret(settings: Settings, forge: str) -> str:
    """Of the installation's own webhook; '' where there is none."""
    if forge == "github" and not settings.github_webhook_secret:
        return stored_app(settings).webhook_secret
    return {
        "github": settings.github_webhook_secret,
        "gitlab": settings.gitlab_webhook_secret,
        "gitea": settings.gitea_webhook_secret,
    }[forge]


def _hook(gateway: Gateway, forge: str, id_: str) -> Hook:
    """Raises BadCredentials for one that is not there: who guesses learns nothing."""
    try:
        hook = gateway.store.hook(id_)
    except NotFound:
        hook = None
    if hook is None or hook.forge != forge:
        raise BadCredentials("there is no such hook: make one with 'slipway hook create'")
    return hook


def _spoken(gateway: Gateway, hook: Hook, said: Event) -> tuple[Event, str]:
    """(what an event may say that one repository's hook signed, id of that repository).

    A hook is bound to the id of its repository, which has to be called as the hook was made for;
    whoever has the secret could name any other. Of an id that is not known here yet it is the
    forge that tells what it is called, before the hook is bound (``looks``). Of owner and
    installation nothing is taken from it: the forge is asked.

    Raises:
        NotAllowed: it speaks of another repository.
    """
    repository = getattr(said, "repository", None)
    if not isinstance(repository, ForgeRepository):
        return said, ""
    if not hook.forge_id:
        known = gateway.store.repository_at(hook.forge, repository.id)
        called = {repository.full_name.lower()} | ({known.full_name.lower()} if known else set())
        if called != {hook.full_name.lower()}:
            raise NotAllowed(
                f"this hook was made for {hook.full_name}: make one for {repository.full_name}"
            )
        if known:
            hook = gateway.store.bind_hook(hook.id, repository.id)
    only = hook.forge_id or repository.id
    if repository.id == only:
        told = msgspec.structs.replace(repository, owner_id="")
        said = msgspec.structs.replace(said, repository=told)
        if hasattr(said, "installation"):
            said = msgspec.structs.replace(said, installation="")
    return said, only


def opened(gateway: Gateway, hook: Hook) -> str:
    """A hook's secret. Raises NotAllowed: its key is gone."""
    value = SealingKey.read(gateway.settings.secrets_key).open(hook.secret, f"hook {hook.id}")
    if value is None:
        raise NotAllowed(f"the secret of the hook {hook.id} does not open: make the hook anew")
    return value.decode()
