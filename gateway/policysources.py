"""Where the administrator's policy lies: a file, a URL, or a repository of our own git remote.

Each of them tells the document with a mark, by which the same document is known again: who is
given that mark back answers None.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import requests

from core import web
from core.errors import InvalidRequest, NotFound, SlipwayError, TooLarge, Unavailable
from core.policy import shown
from core.settings import Settings
from core.settingvalues import POLICY_IN_GIT
from core.store import Store
from core.trust import distrust
from gateway import bare, heads
from gateway.plumbing import Git

MAX_BYTES = 2**20
"""Bytes of a document."""
_TOO_LARGE = f"the policy has more than {MAX_BYTES} bytes"
CONNECT_SECONDS, READ_SECONDS, WHOLE_SECONDS = 5.0, 10.0, 20.0
"""For the head of an answer, and for its body."""


class Source(Protocol):
    def read(self, mark: str) -> tuple[bytes, str] | None:
        """(the document, its mark); None: it is the one of this mark.

        Raises:
            SlipwayError: it cannot be read.
        """
        ...


def source_of(settings: Settings, store: Store) -> Source:
    """What SLIPWAY_POLICY names, which is set."""
    if settings.policy.startswith(("http://", "https://")):
        return Url(settings.policy)
    if match := POLICY_IN_GIT.fullmatch(settings.policy):
        return InGit(settings, store, *match.groups())
    return File(Path(settings.policy))


class File:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, mark: str) -> tuple[bytes, str] | None:
        try:
            if not self._path.is_file():  # nor do we wait for what is a pipe
                raise NotFound(f"there is no file {self._path}")
            found = self._path.stat()
            now = f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"
            if now == mark:
                return None
            with self._path.open("rb") as file:
                return _bounded(file.read(MAX_BYTES + 1)), now
        except OSError as error:
            raise SlipwayError(f"{self._path} cannot be read: {error.strerror}") from error


class Url:
    """The host is the administrator's own word, so that it may be an inside one; where a redirect
    would lead is not."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = web.session()
        parts = urlsplit(url)
        self._auth = _Auth(unquote(parts.username or ""), unquote(parts.password or ""))

    def read(self, mark: str) -> tuple[bytes, str] | None:
        headers = {"User-Agent": "slipway", "Accept": "*/*"}
        kind, _, value = mark.partition(" ")
        if kind in ("If-None-Match", "If-Modified-Since"):
            headers[kind] = value
        try:
            with self._session.get(
                self._url,
                headers=headers,
                auth=self._auth,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as answer:
                if answer.status_code == 304 and mark:
                    return None
                if answer.status_code != 200:
                    raise Unavailable(f"{shown(self._url)} answers with {answer.status_code}")
                return _whole(answer), _mark(answer)
        except (requests.RequestException, UnicodeError) as error:
            told = distrust(error) or type(error).__name__
            raise Unavailable(f"{shown(self._url)} does not answer ({told})") from error


class _Auth(requests.auth.AuthBase):
    """What the URL says, and nothing of ``.netrc``."""

    def __init__(self, user: str, password: str) -> None:
        self._basic = requests.auth.HTTPBasicAuth(user, password) if user or password else None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return self._basic(request) if self._basic else request


def _whole(answer: requests.Response) -> bytes:
    try:
        return web.whole(answer, MAX_BYTES, WHOLE_SECONDS)
    except TooLarge as error:
        raise TooLarge(_TOO_LARGE) from error
    except web.Late as error:
        raise Unavailable("the policy comes too slowly") from error


def _mark(answer: requests.Response) -> str:
    for header, asked in (("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")):
        value = answer.headers.get(header, "")
        if value and len(value) <= 1024 and value.isprintable():
            return f"{asked} {value}"
    return ""


class InGit:
    """At the head of the repository's deploy branch."""

    def __init__(
        self, settings: Settings, store: Store, namespace: str, name: str, path: str
    ) -> None:
        self._settings = settings
        self._store = store
        self._namespace, self._name, self._path = namespace, name, path

    def read(self, mark: str) -> tuple[bytes, str] | None:
        repository = self._store.find_repository(f"{self._namespace}/{self._name}")
        if repository is None or repository.source != "git":
            raise NotFound(
                f"nothing was pushed to {self._namespace}/{self._name} of this installation's git "
                "remote yet"
            )
        commit = heads.local_head(self._settings, repository) if repository.deploy_branch else ""
        if not commit:
            raise NotFound(f"{repository.key} has no deploy branch: push main or master to it")
        if commit == mark:
            return None
        folder = bare.existing(self._settings, self._namespace, self._name)
        try:
            git = Git(self._settings, folder)
            return git.file(git.tree(commit), self._path, MAX_BYTES), commit
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            raise SlipwayError(f"git could not read it: {type(error).__name__}") from error
        except SlipwayError as error:
            told = f"{self._path!r} of {repository.key} at {commit[:12]} cannot be read: {error}"
            raise InvalidRequest(told) from error


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise TooLarge(_TOO_LARGE)
    return content
