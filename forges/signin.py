"""Signing in through a forge: who somebody is there, and for which owners they may speak.

The way is OAuth's authorization code (RFC 6749 §4.1) with PKCE (RFC 7636). Authlib and
requests-oauthlib would keep tokens and refresh them for later calls; here a token answers two
questions and is revoked, which is three requests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Protocol

import msgspec

from core.settings import Settings

_CLIENTS = {
    "github": ("forges.github.signin", "GitHubSignIn"),
    "gitlab": ("forges.gitlab.signin", "GitLabSignIn"),
}
NAMES = tuple(_CLIENTS)


class Person(msgspec.Struct, frozen=True):
    """Ids are the forge's own, as ``Repository.owner_id`` has them."""

    id: str
    login: str
    owns: Sequence[str]
    """Ids of owners that they decide for: their own, and of organisations."""
    member: Sequence[str]
    """Ids of organisations that they only belong to."""


class SignIn(Protocol):
    """One forge's way of it."""

    name: str
    title: str
    """What people call it."""
    url: str
    """The forge's, as the holders of namespaces have it."""

    @property
    def configured(self) -> bool:
        """Whether the forge knows this installation."""
        ...

    def page(self, state: str, challenge: str, back: str) -> str:
        """URL of the forge's page that asks the user; it sends them on to ``back``."""
        ...

    def who(self, code: str, verifier: str, back: str) -> Person:
        """Trades the code for a token, asks with it, and gives it up.

        Raises:
            NotAllowed: the code is none, or was used; or not all may be asked.
            Unavailable: the forge does not answer.
        """
        ...


def ways(settings: Settings) -> Iterator[SignIn]:
    """Those that are configured. Raises ConfigError: a file of them cannot be read."""
    for module, client in _CLIENTS.values():
        made: SignIn = getattr(import_module(module), client)(settings)
        if made.configured:
            yield made


def challenge(verifier: str) -> str:
    """``S256`` of RFC 7636 §4.2."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
