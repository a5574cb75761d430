"""Making a GitHub App of a manifest: what it asks for, and what GitHub makes of it.

Source of the format: GitHub's documentation "Registering a GitHub App from a manifest": a browser
posts the manifest to GitHub, which sends it back with a code that is good for one question within
an hour.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from core.errors import InvalidRequest, SlipwayError
from core.settings import Settings
from forges.api import Api, Later
from forges.github.app import App

PERMISSIONS = {
    "contents": "read",
    "metadata": "read",
    "checks": "write",
    "statuses": "write",
    "deployments": "write",
    "pull_requests": "write",
    "members": "read",
}
EVENTS = ("push", "pull_request", "repository")
"""Those of installations come unasked."""
LOGIN = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}")
"""What GitHub takes as the name of an organization."""
_CODE = re.compile(r"[-\w]{1,200}", re.ASCII)
_OUTSIDE = {"github.com", "gitlab.com", "gitea.com"}
_NAME = 34
"""Most characters of an App's name."""


class _Made(msgspec.Struct):
    id: int
    slug: str
    name: str
    html_url: str
    client_id: str
    client_secret: str
    pem: str
    webhook_secret: str | None = None
    """Null where it has no webhook."""


def manifest(settings: Settings, *, public: bool = False) -> dict[str, Any]:
    """What is posted. Without an address that GitHub reaches there are no events: it refuses a
    webhook with such a URL. ``public``: whether others than the account that has it may install
    it."""
    url = settings.user_url
    asked: dict[str, Any] = {
        "name": f"Slipway {urlsplit(url).hostname}"[:_NAME].rstrip("-. "),
        "url": url,
        "redirect_url": f"{url}/setup/github/callback",
        "callback_urls": [f"{url}/login/github/callback"],
        "public": public,
        "default_permissions": PERMISSIONS,
        "default_events": list(EVENTS),
    }
    if not public:  # who installs it knows the password that the page asks for
        asked |= {"setup_url": f"{url}/setup/github", "setup_on_update": True}
    if reached(url, settings.github_url):
        asked["hook_attributes"] = {"url": f"{url}/webhooks/github", "active": True}
    else:
        asked["default_events"] = []
    return asked


def reached(url: str, forge: str = "") -> bool:
    """Whether a forge could have a way to this address: it is not this machine's own, and not that
    of a private network, which only a forge of one's own may share; empty: any forge."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    outside = urlsplit(forge).hostname in _OUTSIDE
    return not (
        address.is_loopback or address.is_unspecified or (outside and not address.is_global)
    )


def new_app_url(settings: Settings, organization: str, state: str) -> str:
    """Where the browser posts it: for an organization, or whoever is signed in there.

    Raises:
        InvalidRequest: there is no organization of such a name.
    """
    if organization and not LOGIN.fullmatch(organization):
        raise InvalidRequest(
            f"{organization[:60]!r} is not the name of an organization at GitHub: letters, digits "
            "and single '-', as in its page's address"
        )
    place = f"/organizations/{organization}" if organization else ""
    return f"{settings.github_url}{place}/settings/apps/new?state={quote(state, safe='')}"


def convert(settings: Settings, code: str) -> App:
    """The App that a code stands for, once.

    Raises:
        InvalidRequest: there is no such code any more; GitHub says what is not understood.
        Later: GitHub does not answer now.
    """
    if not _CODE.fullmatch(code):
        raise InvalidRequest("this is not a code of GitHub's: begin anew at /setup/github")
    try:
        path = f"/app-manifests/{code}/conversions"
        made = Api(settings.github_api, "GitHub").ask("POST", path, expect=_Made).body
    # What was raised names the path, and so the code.
    except Later as error:
        told = "GitHub does not answer now: load this page again in a moment"
        raise Later(told, error.retry_after) from None
    except SlipwayError:
        raise InvalidRequest(
            "GitHub does not make an App of this code: it is good once, for an hour; begin anew at "
            "/setup/github"
        ) from None
    if not isinstance(made, _Made) or not made.html_url.startswith(f"{settings.github_url}/"):
        raise InvalidRequest("GitHub answers with no App of its own: is SLIPWAY_GITHUB_URL right?")
    return App(
        id=made.id,
        slug=made.slug,
        name=made.name,
        html_url=made.html_url,
        client_id=made.client_id,
        client_secret=made.client_secret,
        webhook_secret=made.webhook_secret or "",
        pem=made.pem,
    )
