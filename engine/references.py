"""Names of images: where a function's image lies, whose it is, and who may fetch it.

An artifact of the docker runtime is ``<registry>/<namespace>/<function>@sha256:<64 hex>``, or
``sha256:<64 hex>``, an image's id in the engine, where there is no registry. A foreign image is
called what people call it: ``[host[:port]/]path[:tag][@sha256:…]``, or an id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.addresses import outside_addresses
from core.errors import ConfigError, InvalidRequest, NotAllowed, Unavailable
from core.images import LOCAL, parts
from core.settings import Settings

HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
ON_THE_WAY = "slipway-build"
"""The name of images that builds have not finished with."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]{1,3}){3})(:[0-9]+)?")


@dataclass(frozen=True)
class Reference:
    """A foreign image's name, taken apart."""

    host: str
    """In lower case, with its port; empty: the hub."""
    place: str
    """Host and path as they were written."""
    tag: str
    """``latest`` where none was written; empty where the digest says which."""
    digest: str
    id: str = ""
    """``sha256:…`` of an image in the engine; then all else is empty."""

    @property
    def name(self) -> str:
        """What the engine is asked for: with its tag, a name is never taken for part of an id."""
        if self.id:
            return self.id
        return f"{self.place}@{self.digest}" if self.digest else f"{self.place}:{self.tag}"


def parse(text: str) -> Reference:
    """Takes the name of a foreign image apart.

    Raises:
        InvalidRequest: it is none.
    """
    if _DIGEST.fullmatch(text):
        return Reference("", "", "", "", id=text)
    match = parts(text)
    host, digest = (match["host"] or "").lower(), match["digest"] or ""
    if not ("." in host or ":" in host or host == "localhost") or host in HUB:
        host = ""
    return Reference(host, match["place"], "" if digest else match["tag"] or "latest", digest)


def refuse_others(settings: Settings, namespace: str, text: str) -> None:
    """Holds the image that an owner's repository names against what it may name.

    It is fetched by the engine, from the host's own network, so it may lie on no inside address,
    as a clone URL may not; of our own registry only below ``<registry>/<namespace>/``; and an id
    could be anybody's image.

    Raises:
        InvalidRequest: it is no name.
        NotAllowed: it is somebody else's, or lies on an inside address.
    """
    found = parse(text)
    if found.id:
        raise NotAllowed(f"{text[:120]} is an image by its id, which could be anybody's: name it")
    local = plain(text).lower()
    if local.startswith((f"{ON_THE_WAY}:", f"{ON_THE_WAY}@")):
        raise NotAllowed(f"{text[:120]} is what builds have on the way, and nobody's to use")
    if local.startswith(f"{LOCAL}/") and not local.startswith(f"{LOCAL}/{namespace}/"):
        raise NotAllowed(f"{text[:120]} is another owner's image")
    if not found.host:
        return
    if settings.registry and found.host == settings.registry.partition("/")[0]:
        if not _below(settings, namespace, found):
            raise NotAllowed(
                f"{text[:120]} is not yours: of this installation's registry you can use "
                f"what lies below {settings.registry}/{namespace}/"
            )
        return
    bare, _, port = found.host.partition(":")
    if found.host in settings.allow_registries or bare in settings.allow_registries:
        return
    told = (
        f"{text[:120]}: the registry {found.host!r} is not outside; the administrator can allow it "
        "(SLIPWAY_ALLOW_REGISTRIES)"
    )
    ours = settings.registry.partition("/")[0]
    if "." not in bare or (_LOOPBACK.fullmatch(ours) and port and ours.endswith(f":{port}")):
        raise NotAllowed(told)
    try:
        outside_addresses(bare, int(port or 443))
    except NotAllowed as error:
        raise NotAllowed(told) from error
    except Unavailable:
        return  # the engine has to resolve it too, and will say so


def plain(name: str) -> str:
    """A name as the engine lists it: ``docker.io/library/alpine`` → ``alpine:latest``."""
    host, slash, path = name.partition("/")
    if slash and host.lower() in HUB:
        name = path
    name = name.removeprefix("library/")
    place, at, digest = name.partition("@")
    repository, colon, tag = place.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = place, "latest"
    return f"{repository}@{digest}" if at else f"{repository}:{tag}"


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


def credentials_for(
    settings: Settings, reference: Reference, owner: str = ""
) -> dict[str, str] | None:
    """The registry's credentials where they may be used, else None: never at another host, and for
    an ``owner``'s repository (empty: the admin) only below its own path.

    Raises:
        ConfigError: the password file cannot be read.
    """
    ours = bool(settings.registry) and reference.host == settings.registry.partition("/")[0]
    if not ours or (owner and not _below(settings, owner, reference)):
        return None
    return credentials(settings)


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
    loopback = _LOOPBACK.fullmatch(host) is not None
    url = settings.registry_url or f"{'http' if loopback else 'https'}://{host}"
    if url.startswith("http://") and not re.match(
        r"http://(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]+)?(/|$)", url
    ):
        raise ConfigError(
            f"SLIPWAY_REGISTRY_URL={url}: images cross the network, so a registry beyond loopback "
            "needs https"
        )
    return url


def _below(settings: Settings, namespace: str, reference: Reference) -> bool:
    return reference.place.startswith(f"{settings.registry}/{namespace}/")
