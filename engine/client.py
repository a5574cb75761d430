"""One Docker engine over its API: connected when first asked, every answer bounded in time.

The API's version is negotiated, so old engines and new ones answer, and an engine that is upgraded
under us. What the SDK or the connection raises becomes one of our errors in one place.

A process that is forked from ours has connections of its own: on one that both have, each would
read the other's answers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import docker.errors
import requests
from docker import APIClient
from urllib3.exceptions import HTTPError, ProtocolError

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
        self._parents: APIClient | None = None
        """Of the process that this one was forked from. Never used and never closed: closing takes
        locks that a thread of the parent's may have held at that moment."""
        _engines.add(self)

    @contextmanager
    def asking(self, what: str) -> Iterator[APIClient]:
        """Gives the API. ``what`` begins the message of an error: ``hello.ann is not started``.

        Raises:
            NotFound, Conflict, InvalidRequest: by the engine's word.
            Unavailable: it does not answer, or failed; trying again can help.
        """
        api = None
        try:
            api = self._connected()
            yield api
        except docker.errors.APIError as error:
            told = f"{what}: {str(error.explanation or error).strip()}"
            if _other_version(error):
                self._drop(api)
                raise Unavailable(f"{told} (the engine was changed: ask again)") from error
            match error.response.status_code if error.response is not None else 500:
                case 404:
                    raise NotFound(told) from error
                case 409:
                    raise Conflict(told) from error
                case 400:
                    raise InvalidRequest(told) from error
            raise Unavailable(told) from error
        except (docker.errors.DockerException, requests.RequestException, HTTPError) as error:
            if isinstance(error, requests.ConnectionError | ProtocolError):
                self._drop(api)
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

    def _drop(self, api: APIClient | None) -> None:
        """The next to ask negotiates anew. Others may be using it, so it is not closed: its
        connections go with the last of them."""
        with self._lock:
            if self._api is api:
                self._api = None

    def _begin_anew(self) -> None:
        """In a forked process, before anything else runs there."""
        self._lock = threading.Lock()  # another thread may have held the old one
        self._parents, self._api = self._api or self._parents, None


_engines: WeakSet[Engine] = WeakSet()


def _forked() -> None:
    for engine in _engines:
        engine._begin_anew()


os.register_at_fork(after_in_child=_forked)


def _other_version(error: docker.errors.APIError) -> bool:
    """Whether the engine does not speak the version that was negotiated: it was changed since."""
    status = error.response.status_code if error.response is not None else 500
    return status == 400 and "client version" in str(error.explanation)


def _cause(error: BaseException) -> str:
    """The innermost words: the SDK wraps a refused connection four times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error)[:200] or type(error).__name__
