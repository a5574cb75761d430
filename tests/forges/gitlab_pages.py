"""GitLab, as far as signing in goes: its page, its tokens, who somebody is.

Source of the formats: GitLab's documentation "OAuth 2.0 identity provider API", "Users API" and
"Groups API".
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.forges.server import Answer, Asked

ID, SECRET = "a-client", "a-clients-secret"
_TOKEN = {"grant_type", "client_id", "client_secret", "code", "redirect_uri", "code_verifier"}
_AUTHORIZE = {"client_id", "redirect_uri", "response_type", "scope", "state"}
_AUTHORIZE |= {"code_challenge", "code_challenge_method"}


@dataclass
class GitLab:
    user: dict[str, Any]
    groups: list[tuple[int, int, int | None]] = field(default_factory=list)
    """(id, the user's role, id of the parent)."""
    tokens: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    """Code → what was asked for with it."""
    codes_stay: bool = False
    """Whether a code can be used more than once, as at no GitLab. One that was begun for ``*``
    fits to all URLs."""

    def handle(self, asked: Asked) -> Answer:
        views = {
            ("GET", "oauth/authorize"): self._authorize,
            ("POST", "oauth/token"): self._token,
            ("POST", "oauth/revoke"): self._revoke,
            ("GET", "api/v4/user"): self._user,
            ("GET", "api/v4/groups"): self._groups,
        }
        return views[asked.method, asked.path](asked)

    def _authorize(self, asked: Asked) -> Answer:
        assert set(asked.query) == _AUTHORIZE
        assert asked.query["client_id"] == ID
        assert asked.query["response_type"] == "code"
        assert asked.query["code_challenge_method"] == "S256"
        code = secrets.token_hex(32)
        self.asked[code] = asked.query
        back = {"code": code, "state": asked.query["state"]}
        return Answer(302, b"", {"Location": f"{asked.query['redirect_uri']}?{urlencode(back)}"})

    def _token(self, asked: Asked) -> Answer:
        form = asked.form
        assert set(form) == _TOKEN
        begun = self.asked.get(form["code"])
        if not self.codes_stay:
            self.asked.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            begun is None
            or (form["client_id"], form["client_secret"]) != (ID, SECRET)
            or begun["redirect_uri"] not in (form["redirect_uri"], "*")
            or begun["code_challenge"] != challenge
        ):
            return Answer(400, {"error": "invalid_grant"})
        token = secrets.token_hex(32)
        self.tokens.add(token)
        return Answer(body={"access_token": token, "token_type": "Bearer", "expires_in": 7200})

    def _revoke(self, asked: Asked) -> Answer:
        assert set(asked.form) == {"client_id", "client_secret", "token"}
        self.tokens.remove(asked.form["token"])
        self.revoked.add(asked.form["token"])
        return Answer(body={})

    def _user(self, asked: Asked) -> Answer:
        assert asked.authorization.removeprefix("Bearer ") in self.tokens
        return Answer(body=self.user)

    def _groups(self, asked: Asked) -> Answer:
        assert asked.authorization.removeprefix("Bearer ") in self.tokens
        assert asked.query["top_level_only"] == "true"
        least, size = int(asked.query["min_access_level"]), int(asked.query["per_page"])
        start = (int(asked.query["page"]) - 1) * size
        found = [
            {"id": id_, "parent_id": parent} for id_, role, parent in self.groups if role >= least
        ]
        return Answer(body=found[start : start + size])
