"""Names of images: where a function's image lies, and who may fetch it.

An artifact of the docker runtime is ``<registry>/<namespace>/<function>@sha256:<64 hex>``, or
``sha256:<64 hex>``, an image's id in the engine, where there is no registry.
"""

from __future__ import annotations

import re

from core.errors import ConfigError, InvalidRequest
from core.settings import Settings

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def repository(settings: Settings, namespace: str, name: str) -> str:
    """Where a function's images are pushed: ``127.0.0.1:5000/ann/hello``."""
    return f"{settings.registry}/{namespace}/{name}"


def check_artifact(artifact: str) -> None:
    """Raises InvalidRequest for what is no image by digest or id."""
    if not _DIGEST.fullmatch(artifact.rpartition("@")[2]):
        raise InvalidRequest(
            f"{artifact[:100]!r} is not an image by digest: it has the form "
            "registry/namespace/name@sha256:<64 hex>. It was built for another runtime, perhaps: "
            "push again, or 'slipway redeploy'"
        )


def credentials(settings: Settings) -> dict[str, str] | None:
    """What the engine's API wants as ``auth_config``; None where the registry asks for nothing.

    Raises:
        ConfigError: the password file cannot be read.
    """
    if not settings.registry_user or settings.registry_password_file is None:
        return None
    try:
        password = settings.registry_password_file.read_text().rstrip("\n")
    except OSError as error:
        raise ConfigError(
            f"SLIPWAY_REGISTRY_PASSWORD_FILE={settings.registry_password_file} cannot be read: "
            f"{error.strerror}"
        ) from error
    return {
        "username": settings.registry_user,
        "password": password,
        "serveraddress": settings.registry.partition("/")[0],
    }


def registry_url(settings: Settings) -> str:
    """How we reach the registry: plain HTTP on loopback only, as the engine does.

    Raises:
        ConfigError: SLIPWAY_REGISTRY_URL is plain HTTP elsewhere.
    """
    host = settings.registry.partition("/")[0]
    loopback = re.fullmatch(r"(localhost|127(\.[0-9]{1,3}){3})(:[0-9]+)?", host) is not None
    url = settings.registry_url or f"{'http' if loopback else 'https'}://{host}"
    if url.startswith("http://") and not re.match(
        r"http://(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]+)?(/|$)", url
    ):
        raise ConfigError(
            f"SLIPWAY_REGISTRY_URL={url}: images cross the network, so a registry beyond loopback "
            "needs https"
        )
    return url
