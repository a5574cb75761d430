"""``/setup/github``: the administrator makes a GitHub App, by a button.

    GET  /setup/github            the page; its button posts the manifest to GitHub, which
                                  sends those here who have installed the App, too
    GET  /setup/github/callback   GitHub sends the browser back: the App is fetched and kept

Who comes back must have been sent from here: the state is kept in the store, so that it counts
once, in whichever process, and ends by itself. What is on the page never names a secret.
"""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import urlsplit

import msgspec
from flask import Blueprint, Response, redirect, render_template_string, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from core import logging
from core.errors import Conflict, NotAllowed, Unavailable
from core.settings import Settings
from forges.github import manifest
from forges.github.app import store_app, stored_app
from gateway.context import here

bp = Blueprint("setup_github", __name__, url_prefix="/setup/github")
log = logging.get()

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}"
    "button{font:inherit;padding:.4em 1em}.warn{border-left:4px solid #c60;padding-left:1em}"
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Slipway and GitHub</title>
<style>{{ style }}</style>
<h1>Slipway and GitHub</h1>
{% if not reached %}
<p class="warn">GitHub cannot reach {{ user_url }}: it is an address of this machine or of a private
network. An App made now has no webhook, and pushes are found by looking. To have it told of them,
set SLIPWAY_PUBLIC_URL to an address that GitHub reaches, and start Slipway anew before you make
one.
{% endif %}
{% if app.id %}
<p id="app">The App <strong>{{ app.name or app.id }}</strong> is here
{%- if app.html_url %}: <a id="install" href="{{ app.html_url }}/installations/new">install it</a>
for the repositories that are to be deployed{% endif %}.
{% if installed %}
<p id="installed">What it was installed for is looked at now: the default branch of each repository
is released, as <code>slipway releases</code> and the checks at GitHub show.
{% endif %}
{% endif %}
{% if fixed %}
<p>SLIPWAY_GITHUB_APP_ID names the App: another one is not made while it is set.
{% elif app.id and not replacing %}
<form method="get">
<input type="hidden" name="replace" value="yes">
<input type="hidden" name="organization" value="{{ organization }}">
<p>Replaced by another one, its installations count no more here: each owner has to install the
new one. Delete the old one at GitHub yourself.
<p><button id="replace">Replace it</button>
</form>
{% else %}
<form method="get">
{% if replacing %}<input type="hidden" name="replace" value="yes">{% endif %}
<p><label>The App belongs to the organization <input name="organization"
value="{{ organization }}" maxlength="39" placeholder="none: your own account"></label>
<p><label><input type="checkbox" name="others" value="yes"{% if others %} checked{% endif %}> Others
may install it too</label>: whoever does deploys here, so let an allow list (SLIPWAY_POLICY) say who
may. Else only the account that has it can install it.
<p><button id="choose">Choose</button>
</form>
<form method="post" action="{{ action }}">
<input type="hidden" name="manifest" value="{{ manifest }}">
<p><button id="create">Create the GitHub App{% if organization %} of {{ organization }}{% endif %}
{%- if others %}, for others too{% endif %}</button>
</form>
<p>It reads the repositories that it is installed for, and writes checks, commit statuses,
deployments and comments on pull requests; of an organization it reads who is a member, so that they
can sign in here. Its key stays here.
{% endif %}
"""


@bp.get("")
def page() -> Response:
    """The page. ``organization``: whose the App is to be; ``others``: whether they may install it;
    ``replace``: instead of the one that is here; ``installation_id``: GitHub says that the App was
    installed, which need not be so, as anybody can write it."""
    gateway = here()
    settings = gateway.settings
    app = stored_app(settings)
    organization = request.args.get("organization", "").strip()
    others = request.args.get("others") == "yes"
    replacing = request.args.get("replace") == "yes"
    installed = bool(request.args.get("installation_id"))
    if installed:
        gateway.installed.set()
        gateway.look.set()
    fixed = bool(settings.github_app_id)
    manifest.new_app_url(settings, organization, "")
    action = ""
    if not fixed and (replacing or not app.id):
        state = gateway.store.begin_setup(str(app.id))
        action = manifest.new_app_url(settings, organization, state)
    shown = render_template_string(
        _PAGE,
        style=_STYLE,
        app=app,
        action=action,
        fixed=fixed,
        installed=installed,
        organization=organization,
        others=others,
        replacing=replacing,
        manifest=msgspec.json.encode(manifest.manifest(settings, public=others)).decode(),
        reached=manifest.reached(settings.user_url, settings.github_url),
        user_url=settings.user_url,
    )
    return Response(shown, headers=_headers(settings), content_type="text/html; charset=utf-8")


@bp.get("/callback")
def callback() -> AnyResponse:
    """Keeps the App that ``code`` stands for, and leads back to the page.

    If this process ends after GitHub gave the App away and before it is kept, it is lost: GitHub
    gives it once. The page then says that there is none; the other is to be deleted at GitHub.
    """
    gateway = here()
    settings = gateway.settings
    state = request.args.get("state", "")
    before = gateway.store.take_setup(state)
    if before is None:
        raise NotAllowed(
            "nobody was sent to GitHub from here like this, or it is more than an hour ago, or it "
            "is done: see /setup/github"
        )
    if settings.github_app_id or str(stored_app(settings).id) != before:
        raise Conflict(
            "another App is here meanwhile: see /setup/github, and delete at GitHub the one that "
            "is not needed"
        )
    try:
        app = manifest.convert(settings, request.args.get("code", ""))
    except Unavailable:
        gateway.store.keep_setup(state, before)
        raise
    store_app(settings, app)
    log.info("github_app", id=app.id, slug=app.slug, replaced=before)
    return redirect(url_for("setup_github.page"), 303)


def _headers(settings: Settings) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    forge = urlsplit(settings.github_url)
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
            f"frame-ancestors 'none'; form-action 'self' {forge.scheme}://{forge.netloc}"
        ),
        "Cache-Control": "no-store",
        "Referrer-Policy": "strict-origin",
        "X-Content-Type-Options": "nosniff",
    }
