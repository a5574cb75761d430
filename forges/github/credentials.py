"""By what we ask GitHub: for each repository the token that may do what is asked, and no more.

    where the App is installed      a token of its installation, for that repository alone
    else, where one is set          SLIPWAY_GITHUB_TOKEN_FILE
    else                            nothing

Who was told to wait is not heard again before: GitHub keeps those out for longer who go on asking.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from core.errors import InvalidRequest, NotAllowed, NotFound
from core.repositories import Repository
from core.settings import Settings
from forges import tokenfile
from forges.api import Answer, Api, Later
from forges.github.app import stored_app
from forges.github.tokens import Tokens

APP, OWN, NOBODY = "app", "token", "nobody"
_LIMITED = 60.0
"""Seconds to wait where GitHub limits us and does not say for how long."""
_MOST_FOUND = 100_000
T = TypeVar("T")


class Credential(NamedTuple):
    """``who``: id of the installation whose token it is, or OWN."""

    value: str
    who: str

    def __repr__(self) -> str:
        return f"Credential({self.who})"


class _Installation(msgspec.Struct):
    id: int
    suspended_at: str | None = None


def path_of(repository: Repository) -> str:
    """By its id; of a record from before ids were kept, by its name, which was checked."""
    if repository.forge_id.isdecimal():
        return f"/repositories/{repository.forge_id}"
    return f"/repos/{repository.full_name}"


class Credentials:
    """Threads may share it."""

    def __init__(self, settings: Settings, api: Api) -> None:
        """Raises ConfigError: a file that the settings name cannot be read."""
        self._settings = settings
        self._api = api
        self._lock = threading.Lock()
        self._tokens: Tokens | None = None
        self._found: dict[str, str] = {}
        """Path of a repository → the installation that was found to have it."""
        self._quiet: dict[str, float] = {}
        """Who asks → until when they are not heard, by the monotonic clock."""
        self._own = tokenfile.read(settings.github_token_file)
        self._as_app()

    def __repr__(self) -> str:
        return "Credentials()"

    @property
    def app(self) -> int:
        """Id of the App that we are; 0: none."""
        tokens = self._as_app()
        return tokens.app.id if tokens else 0

    def installation(self, repository: Repository) -> str:
        """The one that has the repository now, by GitHub; '': none, or one that is suspended."""
        path = path_of(repository)
        if not self.app:
            return ""
        try:
            told = self.as_app("GET", f"{path}/installation", expect=_Installation)
        except NotFound:
            self._found.pop(path, None)
            return ""
        if told.body.suspended_at:
            self._found.pop(path, None)
            return ""
        found = str(told.body.id)
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        self._found[path] = found
        return found

    def of(self, repository: Repository, permissions: Mapping[str, str]) -> Credential | None:
        """What may do this with the repository; None: nothing of ours.

        Raises as ``forges.Forge`` says; NotAllowed: the App has the repository, and may not."""
        if self.app:
            known = self._found.get(path_of(repository)) or repository.installation
            refused: NotFound | InvalidRequest | None = None
            if known:
                try:
                    return self._of_installation(known, repository, permissions)
                except (NotFound, InvalidRequest) as error:  # was it installed anew?
                    refused = error
            found = self.installation(repository)
            if found and (found != known or refused is None):
                try:
                    return self._of_installation(found, repository, permissions)
                except InvalidRequest as error:
                    refused = error
            if found:
                raise NotAllowed(
                    f"the App may not do this with {repository.full_name}: accept the permissions "
                    f"that it asks for at GitHub ({refused})"
                )
        return Credential(self._own, OWN) if self._own else None

    def ask(
        self,
        repository: Repository,
        permissions: Mapping[str, str],
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        """Asks about a repository; ``options`` as of ``Api.ask``.

        Raises as ``forges.Forge`` says; Conflict: 409."""
        for again in (True, False):
            credential = self.of(repository, permissions)
            if credential is None:
                raise NotAllowed(
                    f"we have no token for {repository.full_name} at GitHub: install the App of "
                    "/setup/github for it, or set SLIPWAY_GITHUB_TOKEN_FILE"
                )
            told = {**_bearer(credential.value), **(headers or {})}
            try:
                return self._heard(credential.who, method, path, headers=told, **options)
            except NotAllowed:
                if credential.who == OWN or not again:
                    raise
                self._forget(credential.value)  # it may have ended before its time
        raise AssertionError

    def as_app(self, method: str, path: str, **options: Any) -> Answer:
        """Raises NotFound as well where we are no App."""
        headers = _bearer(self._some().jwt())
        return self._heard(APP, method, path, headers=headers, **options)

    def as_installation(self, installation: str, method: str, path: str, **options: Any) -> Answer:
        """Asks about all that an installation has, which its metadata tell.

        Raises NotFound: there is no such installation."""
        for again in (True, False):
            token = self._made(installation, None, {"metadata": "read"})
            try:
                return self._heard(installation, method, path, headers=_bearer(token), **options)
            except NotAllowed:
                if not again:
                    raise
                self._forget(token)
        raise AssertionError

    def as_nobody(self, method: str, path: str, **options: Any) -> Answer:
        return self._heard(NOBODY, method, path, **options)

    def as_ourselves(self, method: str, path: str, **options: Any) -> Answer:
        """By the token that is set. Raises NotAllowed where there is none."""
        if not self._own:
            raise NotAllowed("we have no token of our own: set SLIPWAY_GITHUB_TOKEN_FILE")
        return self._heard(OWN, method, path, headers=_bearer(self._own), **options)

    def _as_app(self) -> Tokens | None:
        """By the App that there is now; None: there is none."""
        app = stored_app(self._settings)
        with self._lock:
            if not app.id:
                self._tokens = None
            elif not self._tokens or (self._tokens.app.id, self._tokens.app.pem) != (
                app.id,
                app.pem,
            ):
                self._tokens = Tokens(self._api, app)
                self._found.clear()
            return self._tokens

    def _some(self) -> Tokens:
        if tokens := self._as_app():
            return tokens
        raise NotFound("there is no GitHub App: make one at /setup/github")

    def _of_installation(
        self, installation: str, repository: Repository, permissions: Mapping[str, str]
    ) -> Credential:
        """For one repository: by its id, or as ``path_of`` by its name."""
        which: int | str = repository.full_name.partition("/")[2]
        if repository.forge_id.isdecimal():
            which = int(repository.forge_id)
        return Credential(self._made(installation, which, permissions), installation)

    def _made(
        self, installation: str, repository: int | str | None, permissions: Mapping[str, str]
    ) -> str:
        tokens = self._some()
        kept = tokens.kept(installation, repository, permissions)
        return kept or self._in_turn(
            APP, lambda: tokens.token(installation, repository, permissions)
        )

    def _forget(self, token: str) -> None:
        if tokens := self._as_app():
            tokens.forget(token)

    def _heard(self, who: str, method: str, path: str, **options: Any) -> Answer:
        return self._in_turn(who, lambda: self._api.ask(method, path, **options))

    def _in_turn(self, who: str, ask: Callable[[], T]) -> T:
        """Raises Later without asking where they were told to wait."""
        left = self._quiet.get(who, 0.0) - time.monotonic()
        if left > 0:
            raise Later("GitHub limits how often it is asked: it is left alone meanwhile", left)
        try:
            return ask()
        except Later as error:
            self._later(who, error.retry_after)
            raise
        except NotAllowed as error:
            if "rate limit" not in str(error).lower():
                raise
            self._later(who, _LIMITED)
            raise Later(str(error), _LIMITED) from error

    def _later(self, who: str, seconds: float) -> None:
        if seconds:
            self._quiet[who] = time.monotonic() + seconds


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
