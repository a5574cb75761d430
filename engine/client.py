"""One Docker engine over its API: connected when first asked, every answer bounded in time.

The SDK negotiates the API's version, so old engines and new ones answer. What the SDK or the
connection raises becomes one of our errors in one place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests
from docker import APIClient
from urllib3.exceptions import HTTPError

from core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from engine.connections import connect

TIMEOUT = 60
"""Seconds for one answer: creating a container on a busy disk takes some."""
PING_TIMEOUT = 3


class Engine:
    """An engine at ``url``; may be made while the engine is away. Safe to use from threads."""

    def __init__(self, url: str, timeout: int = TIMEOUT) -> None:
        self.url = url
        self.timeout = timeout
        self._lock = threading.Lock()
        self._api: APIClient | None = None

    @contextmanager
    def asking(self, what: str) -> Iterator[APIClient]:
        """Gives the API. ``what`` begins the message of an error: ``hello.ann is not started``.

        Raises:
            NotFound, Conflict, InvalidRequest: by the engine's word.
            Unavailable: it does not answer, or failed; trying again can help.
        """
        try:
            yield self._connected()
        except docker.errors.APIError as error:
            told = f"{what}: {str(error.explanation or error).strip()}"
            match error.response.status_code if error.response is not None else 500:
                case 404:
                    raise NotFound(told) from error
                case 409:
                    raise Conflict(told) from error
                case 400:
                    raise InvalidRequest(told) from error
            raise Unavailable(told) from error
        except (docker.errors.DockerException, requests.RequestException, HTTPError) as error:
            raise Unavailable(
                f"{what}: the Docker engine at {self.url} does not answer ({_cause(error)}): is it "
                "running, and may this user use its socket?"
            ) from error

    def alive(self) -> bool:
        """Whether it answers within three seconds."""
        try:
            api = connect(self.url, PING_TIMEOUT)
        except (docker.errors.DockerException, requests.RequestException, HTTPError):
            return False
        api.close()
        return True

    def close(self) -> None:
        with self._lock:
            api, self._api = self._api, None
        if api:
            api.close()

    def _connected(self) -> APIClient:
        with self._lock:
            if self._api is None:
                self._api = connect(self.url, self.timeout)
            return self._api


def _cause(error: BaseException) -> str:
    """The innermost words: the SDK wraps a refused connection four times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error)[:200] or type(error).__name__
