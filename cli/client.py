"""The gateway's API as the commands use it."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from core.errors import (
    BadCredentials,
    ConfigError,
    InvocationTimeout,
    NotFound,
    SlipwayError,
    Unavailable,
)
from core.settings import Settings
from core.signing import secret_file

_ERRORS = {
    BadCredentials.status: BadCredentials,
    NotFound.status: NotFound,
    502: Unavailable,  # the edge's, while the gateway restarts
    Unavailable.status: Unavailable,
}
QUIET_SECONDS = 60.0
"""A log that is followed has a heartbeat every few seconds: silence means that nobody is there."""


class Client:
    """Talks to one gateway as the admin, whose password is in the state folder's file, or with an
    owner's token out of its file.

    Methods raise SlipwayError with the gateway's own words, Unavailable where nobody answers.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.url = url.rstrip("/")
        self._session = requests.Session()
        if _is_loopback(self.url):
            self._session.trust_env = False  # no proxy on the way to ourselves
        if settings.ca_file and not settings.ca_file.is_file():
            raise ConfigError(f"SLIPWAY_CA_FILE={settings.ca_file} is not a file")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    def get(self, path: str, **query: str | int) -> Any:
        """Returns the decoded JSON."""
        wanted = {name: value for name, value in query.items() if value != ""}
        return self._json(self._ask("GET", path, params=wanted))

    def post(self, path: str, body: Mapping[str, Any], timeout: float = QUIET_SECONDS) -> Any:
        """Returns the decoded JSON, which may take ``timeout`` seconds."""
        return self._json(self._ask("POST", path, timeout=timeout, json=dict(body)))

    def say(self, method: str, path: str, body: Mapping[str, Any]) -> str:
        """Returns what the gateway says in words."""
        return str(self._ask(method, path, json=dict(body)).text).strip()

    def delete(self, path: str) -> Any:
        return self._json(self._ask("DELETE", path))

    def cancel(self, release: str) -> tuple[Mapping[str, Any], bool]:
        """(the release, whether nothing of its build is left)."""
        answer = self._ask("DELETE", f"/system/releases/{release}")
        return self._json(answer), answer.status_code == 200

    def change(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        """Asks for what has no answer but that it is accepted."""
        self._ask(method, path, json=dict(body))

    def lines(self, path: str, **query: str | int) -> Iterator[Mapping[str, Any]]:
        """Yields a stream of NDJSON as it comes; heartbeats are left out."""
        with self._ask("GET", path, params=query, stream=True) as answer:
            try:
                for line in answer.iter_lines(chunk_size=None):
                    if line.strip():
                        yield json.loads(line)
            except (requests.RequestException, ValueError) as error:
                raise Unavailable(
                    f"the log broke off ({type(error).__name__}): ask for it again"
                ) from error

    def release(self, wanted: str) -> Mapping[str, Any]:
        """The release of that id, or the newest of a commit (7 digits at least).

        Raises NotFound.
        """
        if _may_be_commit(wanted):
            for release in self.get("/system/releases", limit=500):
                if release["commit"].startswith(wanted):
                    return dict(release)
        return dict(self.get(f"/system/releases/{quote(wanted, safe='')}"))

    def invoke(
        self,
        function: str,
        *,
        method: str,
        path: str,
        headers: Mapping[str, str],
        data: bytes | IO[bytes] | None,
        timeout: float,
    ) -> requests.Response:
        """Calls a function; its answer is to be read and closed. Nobody's password goes along."""
        url = f"{self.url}/function/{quote(function, safe='.')}/{path.lstrip('/')}"
        request = requests.Request(method, url, headers=dict(headers), data=data, auth=_nobody)
        return self._send(request, stream=True, timeout=timeout)

    # Inside

    def _ask(
        self,
        method: str,
        path: str,
        *,
        stream: bool = False,
        timeout: float = QUIET_SECONDS,
        **more: Any,
    ) -> Any:
        request = requests.Request(method, self.url + path, auth=self._auth(), **more)
        answer = self._send(request, stream=stream, timeout=timeout)
        if answer.status_code < 300:
            return answer
        with answer:
            told = answer.text.strip() or f"status {answer.status_code} without a word"
        if answer.status_code == BadCredentials.status:
            told += f": {self._why_nobody()}"
        raise _ERRORS.get(answer.status_code, SlipwayError)(told)

    def _auth(self) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
        """Raises ConfigError: the file with the token cannot be read."""
        if file := self.settings.owner_token_file:
            return _Bearer(_word(file))
        password = self.settings.password_file
        # Made by who serves: one made here would be nobody's.
        if not password.exists():
            return _nobody
        return HTTPBasicAuth("admin", secret_file(password))

    def _why_nobody(self) -> str:
        if file := self.settings.owner_token_file:
            return f"the token in {file} is none of {self.url}, or was revoked, or has expired"
        password = self.settings.password_file
        told = f"the password in {password} is not that of {self.url}"
        if not password.exists():
            told = f"there is no {password}"
        return (
            f"{told}. Name its state folder with --state, the file in SLIPWAY_ADMIN_PASSWORD_FILE, "
            "or an owner's token with --token-file"
        )

    def _send(
        self, request: requests.Request, *, stream: bool, timeout: float
    ) -> requests.Response:
        try:
            prepared = self._session.prepare_request(request)
            ours = str(self.settings.ca_file) if self.settings.ca_file else None
            kept = self._session.merge_environment_settings(prepared.url, {}, stream, ours, None)
            return self._session.send(
                prepared, timeout=(10, timeout), allow_redirects=False, **kept
            )
        except requests.ReadTimeout as error:
            raise InvocationTimeout(f"no answer within {timeout:g} s: see --timeout") from error
        except requests.exceptions.SSLError as error:
            raise SlipwayError(_distrust(self.url, str(error))) from error
        except requests.ConnectionError as error:
            raise Unavailable(
                f"nothing answers at {self.url}: is it running? Start it with 'make up', or name "
                "the right address with --url"
            ) from error
        except (requests.RequestException, ValueError) as error:
            raise SlipwayError(f"this cannot be asked of {self.url}: {error}") from error

    def _json(self, answer: requests.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise SlipwayError(
                f"{self.url} does not answer in JSON: is it Slipway that listens there?"
            ) from error


class _Bearer(AuthBase):
    """Sends a token in the ``Authorization`` header (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _word(file: Path) -> str:
    """The one word in a file."""
    try:
        words = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {file} cannot be read: {error}") from error
    if len(words) != 1 or not words[0].isascii():
        raise ConfigError(f"the token file {file} has to hold one token and nothing else")
    return words[0]


def _distrust(url: str, told: str) -> str:
    """``told``: what OpenSSL said, wrapped by those in between."""
    found = re.search(r"verify failed: (.+?) \(_ssl", told)
    if not found:
        return f"there is no TLS to be had at {url}: does it answer at http://…?"
    return (
        f"the certificate of {url} is not trusted: {found[1].rstrip('.')}. Ask by a name that it "
        "is made out for; name a private authority's certificate in SLIPWAY_CA_FILE"
    )


def _may_be_commit(text: str) -> bool:
    return 7 <= len(text) <= 64 and not text.strip("0123456789abcdef")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An auth that adds none, and keeps a .netrc from adding its own."""
    return request
