"""Tokens of a GitHub App: the JWT by which it is itself, and those of its installations.

Source of the formats: GitHub's documentation "Generating a JSON Web Token (JWT) for a GitHub App"
and "Generating an installation access token for a GitHub App". An installation's token lives for an
hour; ours are for one repository and one purpose each, and are made anew five minutes earlier.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from core.errors import ConfigError, InvalidRequest
from forges.api import Answer, Api
from forges.github.app import App

RENEW = 300.0
"""Seconds before its end that a token is made anew."""
_SKEW = 60
"""Seconds that our clock may be ahead of GitHub's."""
_LIFE = 600
"""Seconds between a JWT's times, the most that GitHub takes."""
_MOST = 2000
"""Tokens kept; then those that have ended go."""

Key = tuple[str, int | str | None, tuple[tuple[str, str], ...]]


class _Made(msgspec.Struct):
    token: str
    expires_at: datetime


class _Place:
    """One token, and the lock of who makes it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value = ""
        self.ends = 0.0
        """By the monotonic clock."""


class Tokens:
    """Of one App. Threads may share it: of those that want the same token one asks for it."""

    def __init__(self, api: Api, app: App) -> None:
        self.app = app
        self._api = api
        self._key = _private_key(app.pem)
        self._lock = threading.Lock()
        self._places: dict[Key, _Place] = {}

    def jwt(self) -> str:
        now = int(time.time())
        claims = {
            "iat": now - _SKEW,
            "exp": now - _SKEW + _LIFE,
            "iss": str(self.app.id),
        }
        return jwt.encode(claims, self._key, algorithm="RS256")

    def token(
        self, installation: str, repository: int | str | None, permissions: Mapping[str, str]
    ) -> str:
        """A token of an installation that is good for five minutes at least. ``repository``: id or
        name of the one that it opens; None: all of the installation's.

        Raises as ``Api.ask``, and:
            NotFound: there is no such installation.
            InvalidRequest: it has not this repository, or was not granted this.
        """
        key = (installation, repository, tuple(sorted(permissions.items())))
        place = self._place(key)
        with place.lock:
            if place.ends - time.monotonic() < RENEW:
                place.value, place.ends = self._make(installation, repository, permissions)
            return place.value

    def kept(
        self, installation: str, repository: int | str | None, permissions: Mapping[str, str]
    ) -> str:
        """The same without asking anybody; '': it would have to be made."""
        place = self._place((installation, repository, tuple(sorted(permissions.items()))))
        return place.value if place.ends - time.monotonic() >= RENEW else ""

    def forget(self, value: str) -> None:
        """It is refused: whoever wants such a token again gets another one."""
        with self._lock:
            for place in self._places.values():
                if place.value == value:
                    place.ends = 0.0

    def _place(self, key: Key) -> _Place:
        with self._lock:
            if len(self._places) >= _MOST:
                now = time.monotonic()
                self._places = {
                    each: place
                    for each, place in self._places.items()
                    if place.ends > now or place.lock.locked()
                }
            return self._places.setdefault(key, _Place())

    def _make(
        self, installation: str, repository: int | str | None, permissions: Mapping[str, str]
    ) -> tuple[str, float]:
        if not (installation.isascii() and installation.isdecimal()):
            raise InvalidRequest(f"{installation[:40]!r} is not the id of an installation")
        body: dict[str, Any] = {"permissions": dict(permissions)}
        if isinstance(repository, int):
            body["repository_ids"] = [repository]
        elif repository is not None:
            body["repositories"] = [repository]
        path = f"/app/installations/{installation}/access_tokens"
        started = time.monotonic()
        headers = {"Authorization": f"Bearer {self.jwt()}"}
        answer = self._api.ask("POST", path, headers=headers, body=body, expect=_Made)
        # By GitHub's own clock, whatever ours says.
        lives = answer.body.expires_at.timestamp() - _time(answer)
        return answer.body.token, started + lives


def _time(answer: Answer) -> float:
    """Unix time when it was answered, by who answered."""
    try:
        return parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except ValueError:
        return time.time()


def _private_key(pem: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError("the GitHub App's key is not an RSA key in PEM without a passphrase")
    return key
