"""The images that builds stand on: whose they may be, and that the build engine has them.

An image is fetched by the engine, from the host's own network, so its name is held against the
same rules as a clone URL: nothing inside, and of our own registry only the owner's own images. It
is fetched before the build that needs it: so a name that is wrong is told plainly, what an
image's own ONBUILD would do is known, and the build's key can hold its id.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from builder import folders
from builder.engines.buildkit import Cli, configuration
from builder.engines.dockerfile import trigger
from builder.engines.imageuse import ImageUse
from builder.engines.rules import refusals
from core.addresses import outside_addresses
from core.errors import (
    BuildFailed,
    ConfigError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    SlipwayError,
    Unavailable,
)
from core.images import LOCAL
from core.settings import Settings
from engine.client import Engine

_NAME = re.compile(
    r"(?:(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?)/)?"
    r"(?P<path>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
ON_THE_WAY = "slipway-build"
"""The name of images that builds have not finished with."""
_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]+){3})(:[0-9]+)?")
_FRESH = 10.0
"""Seconds for which what the engine said of an image is taken as known."""
_ASKED = re.compile(
    r"timeout|timed out|connection|EOF|no such host|TLS|certificate|toomanyrequests|5\d\d|lookup",
    re.I,
)


def check_name(name: str, settings: Settings, namespace: str) -> None:
    """Holds the name of an image that an owner's build wants against what it may want.

    Raises:
        InvalidRequest: it is no name.
        NotAllowed: it is somebody else's, or lies on an inside address.
    """
    match = _NAME.fullmatch(name)
    if len(name) > 512 or not match:
        raise InvalidRequest(f"{name[:80]!r} is not the name of an image")
    if name in (settings.python_image, settings.node_image):
        return
    local = _plain(name).lower()
    if local.startswith((f"{ON_THE_WAY}:", f"{ON_THE_WAY}@")):
        raise NotAllowed(f"{name[:120]} is what builds have on the way, and nobody's to build on")
    if local.startswith(f"{LOCAL}/") and not local.startswith(f"{LOCAL}/{namespace}/"):
        raise NotAllowed(f"{name[:120]} is another owner's image")
    host = (match["host"] or "").lower()
    if "." not in host and ":" not in host and host != "localhost":
        return  # the hub's
    if settings.registry and host == settings.registry.partition("/")[0]:
        if not name.startswith(f"{settings.registry}/{namespace}/"):
            raise NotAllowed(
                f"{name[:120]} is not yours: of this installation's registry you can build on "
                f"what lies below {settings.registry}/{namespace}/"
            )
        return
    bare, _, port = host.partition(":")
    if host in _HUB or host in settings.allow_registries or bare in settings.allow_registries:
        return
    told = (
        f"{name[:120]}: the registry {host!r} is not outside; the administrator can allow it "
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


class Images:
    """Brings images into the build engine; safe to use from threads."""

    def __init__(self, settings: Settings, build: Engine, run: Engine) -> None:
        self.settings = settings
        self._build = build
        self._run = run
        self.use = ImageUse(settings, build)
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}

    def bring(
        self, name: str, cli: Cli, out: Callable[[str], None], stop: Callable[[], bool]
    ) -> str:
        """Returns the id of an image in the build engine, fetched first if it is not there.

        Raises:
            BuildFailed: there is no such image.
            ConfigError: a base image of the settings is not there, and cannot be fetched.
            Unavailable: its registry, or the engine.
        """
        self.use.note(name)
        if found := self._found(name):
            return str(found["Id"])
        lock = hashlib.sha256(name.encode()).hexdigest()[:16]
        with folders.turn(configuration(self.settings) / f"image-{lock}.lock"):
            if not self._found(name) and not self._copied(name, stop):
                self._pulled(name, cli, out, stop)
            found = self._found(name)
        if not found:
            raise Unavailable(f"the image {name[:120]} was fetched and is gone again: try again")
        return str(found["Id"])

    def check(self, name: str, namespace: str) -> None:
        """Looks at an image that was brought, before an owner's build stands on it.

        Raises:
            BuildFailed: what it has builds do, or where it came from.
        """
        found = self._found(name)
        if found is None or name in (self.settings.python_image, self.settings.node_image):
            return
        if _plain(name) not in [*(found.get("RepoTags") or []), *(found.get("RepoDigests") or [])]:
            raise BuildFailed(f"{name[:120]} is no name of an image: write repository:tag")
        own = _plain(name).startswith(f"{LOCAL}/{namespace}/")
        if not found.get("RepoDigests") and not own:
            raise BuildFailed(
                f"the image {name[:120]} is this engine's own and came from no registry: build on "
                "one that is public, or ask the administrator to push it"
            )
        for text in (found.get("Config") or {}).get("OnBuild") or []:
            each = trigger(str(text))
            if each is None or any(refusals(each)):
                raise BuildFailed(
                    f"the image {name[:120]} has every build on it do {str(text)[:100]!r} "
                    "(ONBUILD), which is refused: build on another one"
                )

    def _found(self, name: str) -> dict[str, Any] | None:
        at, found = self._known.get(name, (0.0, {}))
        if found and time.monotonic() - at < _FRESH:
            return found
        with contextlib.suppress(NotFound), self._build.asking(f"the image {name[:120]}") as api:
            found = dict(api.inspect_image(name))
            self._known[name] = (time.monotonic(), found)
            return found
        return None

    def _copied(self, name: str, stop: Callable[[], bool]) -> bool:
        """Copies a base image of the settings from the engine that runs functions."""
        settings = self.settings
        if (
            name not in (settings.python_image, settings.node_image)
            or settings.build_engine_url == settings.engine_url
        ):
            return False
        try:
            transfer(self._run, self._build, name, stop)
        except NotFound:
            return False
        return True

    def _pulled(
        self, name: str, cli: Cli, out: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        out(f"fetching the image {name}")
        ended = cli.run(["pull", "--quiet", name], stop=stop)
        if ended.ok:
            return
        if ended.outcome != "exited":
            raise Unavailable(f"fetching the image {name[:120]} was ended: it took too long")
        told = ended.tail[-1] if ended.tail else ""
        if name in (self.settings.python_image, self.settings.node_image):
            which = "PYTHON" if name == self.settings.python_image else "NODE"
            raise ConfigError(
                f"the base image {name} is not in the engine and cannot be fetched ({told[:300]}): "
                f"make it with 'make base-images', or set SLIPWAY_{which}_IMAGE"
            )
        if _ASKED.search(told) and "not found" not in told:
            raise Unavailable(f"the image {name[:120]} cannot be fetched now: {told[:300]}")
        raise BuildFailed(
            f"the image {name[:120]} cannot be fetched: {told[:300]}; check its name, and that "
            "anybody may read it",
            step="base",
        )


def _plain(name: str) -> str:
    """A name as the engine lists it: ``docker.io/library/alpine`` → ``alpine:latest``."""
    host, slash, path = name.partition("/")
    if slash and host.lower() in _HUB:
        name = path
    name = name.removeprefix("library/")
    place, at, digest = name.partition("@")
    repository, colon, tag = place.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = place, "latest"
    return f"{repository}@{digest}" if at else f"{repository}:{tag}"


def transfer(source: Engine, target: Engine, name: str, stop: Callable[[], bool]) -> None:
    """Copies an image between engines as it is read, nothing of it on disk in between.

    Raises:
        NotFound: ``source`` does not have it.
        Unavailable: one of them does not answer, or ``stop`` said so.
    """

    def pieces(stream: Iterator[bytes]) -> Iterator[bytes]:
        for piece in stream:
            if stop():
                raise _Stopped
            yield piece

    with source.asking(f"the image {name}") as here, target.asking(f"the image {name}") as there:
        here.inspect_image(name)
        try:
            for _ in there.load_image(pieces(here.get_image(name))):
                pass
        except _Stopped as error:
            raise Unavailable(f"copying the image {name} was ended") from error


class _Stopped(SlipwayError):
    """Ends a copy from within."""
