"""How the engine's API is connected to over its unix socket: as the SDK does, but for three things.

All requests share their connections. The SDK's own adapter has a pool for each path: nearly none is
used again, and from the 26th path on they are closed under those that use them. And a connection
that finds nobody is closed. And the docker command's own configuration of the user who runs us
(logins, proxies with their passwords, headers) is none of ours.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from docker import APIClient
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from docker.utils.proxy import ProxyConfig

_MOST = 64
"""Connections that are kept; more come and go with their request."""


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except OSError:
            sock.close()
            raise
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):
    seconds = 60

    def _new_conn(self) -> Any:  # the SDK's type is not urllib3's
        return _Connection(self.base_url, self.socket_path, self.seconds)


class _Adapter(UnixHTTPAdapter):
    def __init__(self, path: str, timeout: int) -> None:
        super().__init__(path, timeout)
        self._pool = _Pool("http+docker://localhost", path, timeout, maxsize=_MOST)
        self._pool.seconds = timeout

    def get_connection(
        self,
        url: str | bytes,  # noqa: ARG002 - the SDK's name
        proxies: Any = None,  # noqa: ARG002 - the same
    ) -> _Pool:
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()


class _Client(APIClient):
    """Without the user's ``config.json``: only its logins can be left out by an argument."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._general_configs: dict[str, Any] = {}
        self._proxy_configs = ProxyConfig()
        self.reload_config(dockercfg_path=os.devnull)


def connect(url: str, timeout: int) -> APIClient:
    """The API in the engine's own version; ``timeout`` in seconds, for each answer.

    Raises what the SDK does, where the engine does not answer.
    """
    asked = _client(url, DEFAULT_DOCKER_API_VERSION, timeout)
    try:
        version = str(asked.version(api_version=False)["ApiVersion"])
    finally:
        asked.close()
    return _client(url, version, timeout)


def _client(url: str, version: str, timeout: int) -> APIClient:
    client = _Client(base_url=url, version=version, timeout=timeout)
    if url.startswith("unix:"):
        path = "/" + url.removeprefix("unix:").lstrip("/")
        client.mount("http+docker://", _Adapter(path, timeout))
    return client
