"""GitHub's own pages, as far as a browser is sent to them: making an App of a manifest, signing in.

Source of the formats: GitHub's documentation "Registering a GitHub App from a manifest" and
"Authorizing OAuth apps".
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.forges.github import Account, GitHub, Token
from tests.forges.server import Answer, Asked

_FOR = re.compile(r"(?:organizations/(?P<organization>[^/]+)/)?settings/apps/new")
_GRANTED = json.loads((Path(__file__).parents[1] / "projects" / "github" / "api.json").read_text())[
    "components"
]["schemas"]["app-permissions"]["properties"]
_EVENTS = {"push", "pull_request", "repository", "check_run", "check_suite", "create", "delete"}
_HERE = {"127.0.0.1", "localhost", "::1"}


@dataclass
class Pages:
    github: GitHub
    _codes: dict[str, tuple[Account, dict[str, str]]] = field(default_factory=dict)

    def handle(self, asked: Asked) -> Answer:
        """Paths come without their first ``/``."""
        match = _FOR.fullmatch(asked.path)
        if match and asked.method == "POST":
            return self._new_app(asked, match["organization"] or "")
        views = {
            ("POST", "settings/apps"): self._create_app,
            ("GET", "login/oauth/authorize"): self._authorize,
            ("POST", "login/oauth/access_token"): self._access_token,
        }
        view = views.get((asked.method, asked.path))
        return view(asked) if view else Answer(404, b"Not Found")

    # An App of a manifest.

    def _new_app(self, asked: Asked, organization: str) -> Answer:
        """The page that asks whether the App is to be made."""
        manifest = json.loads(asked.form["manifest"])
        if wrong := mistakes(manifest):
            self.github.forge.wrong += [f"the manifest: {each}" for each in wrong]
            return Answer(422, "; ".join(wrong).encode())
        hidden = {
            "manifest": asked.form["manifest"],
            "state": asked.query.get("state", ""),
            "organization": organization,
        }
        fields = "".join(
            f'<input type="hidden" name="{name}" value="{html.escape(value)}">'
            for name, value in hidden.items()
        )
        name = html.escape(manifest["name"])
        page = (
            f'<!doctype html><title>New App</title><form method="post" action="/settings/apps">'
            f'{fields}<button id="create">Create GitHub App {name}</button></form>'
        )
        return Answer(200, page.encode())

    def _create_app(self, asked: Asked) -> Answer:
        manifest = json.loads(asked.form["manifest"])
        app = self.github.app(asked.form["organization"] or "operators", manifest)
        if "hook_attributes" not in manifest:
            app.webhook_secret = None
        code = secrets.token_hex(20)
        self.github.manifests[code] = app
        return _redirect(manifest["redirect_url"], code=code, state=asked.form["state"])

    # Signing in. Whoever looks at the page is ``github.visitor``.

    def _authorize(self, asked: Asked) -> Answer:
        query = asked.query
        if self._client(query.get("client_id", "")) is None:
            return Answer(404, b"Not Found")
        if self.github.visitor is None:
            return _redirect(
                query["redirect_uri"], error="access_denied", state=query.get("state", "")
            )
        code = secrets.token_hex(10)
        self._codes[code] = (self.github.visitor, query)
        return _redirect(query["redirect_uri"], code=code, state=query.get("state", ""))

    def _access_token(self, asked: Asked) -> Answer:
        as_json = asked.headers.get("Content-Type", "").startswith("application/json")
        given: dict[str, str] = asked.json if as_json else asked.form
        told = self._token(given)
        if "application/json" in asked.headers.get("Accept", ""):
            return Answer(body=told)
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return Answer(200, urlencode(told).encode(), kind)

    def _token(self, given: dict[str, str]) -> dict[str, Any]:
        """Mistakes are answered with 200, as GitHub does."""
        secret = self._client(given.get("client_id", ""))
        if secret is None or given.get("client_secret") != secret:
            return {"error": "incorrect_client_credentials"}
        account, asked = self._codes.pop(given.get("code", ""), (None, {}))
        if account is None or asked["client_id"] != given["client_id"]:
            return {"error": "bad_verification_code"}
        if given.get("redirect_uri", asked["redirect_uri"]) != asked["redirect_uri"]:
            return {"error": "redirect_uri_mismatch"}
        if challenge := asked.get("code_challenge"):
            digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != challenge:
                return {"error": "bad_verification_code"}
        value = "gho_" + secrets.token_hex(18)
        of_app = any(each.client_id == given["client_id"] for each in self.github.apps.values())
        scopes = set(re.split("[ ,]+", asked.get("scope", "")))
        self.github.tokens[value] = Token(
            {}, set(), user=account, scopes=None if of_app else scopes, ends=time.time() + 3600
        )
        return {"access_token": value, "token_type": "bearer", "scope": asked.get("scope", "")}

    def _client(self, id_: str) -> str | None:
        """The secret of an App or an OAuth client."""
        own = {each.client_id: each.client_secret for each in self.github.apps.values()}
        return {**own, **self.github.clients}.get(id_)


def mistakes(manifest: dict[str, Any]) -> list[str]:
    """What GitHub would refuse in a manifest."""
    wrong = [f"{name} is missing" for name in ("url", "redirect_url") if not manifest.get(name)]
    if not 0 < len(manifest.get("name", "")) <= 34:
        wrong.append("name is too long (maximum is 34 characters)")
    hook = manifest.get("hook_attributes")
    if hook is not None and urlsplit(hook["url"]).hostname in _HERE:
        wrong.append("hook url is not reachable over the public Internet")
    for name, level in manifest.get("default_permissions", {}).items():
        if level not in _GRANTED.get(name, {}).get("enum", ()):
            wrong.append(f"permission {name}: {level}")
    wrong += [f"event {each}" for each in manifest.get("default_events", ()) if each not in _EVENTS]
    known = {
        *("name", "url", "hook_attributes", "redirect_url", "callback_urls", "setup_url"),
        *("description", "public", "default_events", "default_permissions"),
        *("request_oauth_on_install", "setup_on_update"),
    }
    return wrong + [f"{each} is unknown" for each in manifest if each not in known]


def _redirect(url: str, **query: str) -> Answer:
    mark = "&" if "?" in url else "?"
    return Answer(302, b"", {"Location": f"{url}{mark}{urlencode(query)}"})
