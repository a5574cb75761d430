"""The images that builds stand on: whose they may be, and that the build engine has them.

An image is fetched by the engine, from the host's own network, so its name is held against the
same rules as a clone URL: nothing inside, and of our own registry only the owner's own images. It
is fetched before the build that needs it: so a name that is wrong is told plainly, what an
image's own ONBUILD would do is known, and the build's key can hold its id.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from builder import folders
from builder.engines.buildkit import Cli, configuration
from builder.engines.dockerfile import trigger
from builder.engines.imageuse import ImageUse
from builder.engines.rules import refusals
from core.errors import (
    BuildFailed,
    ConfigError,
    NotFound,
    SlipwayError,
    Unavailable,
)
from core.images import LOCAL
from core.settings import Settings
from engine.client import Engine
from engine.references import plain, refuse_others

log = logging.getLogger(__name__)

_FRESH = 10.0
"""Seconds for which what the engine said of an image is taken as known."""

_ASKED = re.compile(
    r"timeout|timed out|connection|EOF|no such host|TLS|certificate|toomanyrequests|5\d\d|lookup",
    re.I,
)


def check_name(name: str, settings: Settings, namespace: str) -> None:
    """Holds the name of an image that an owner's build wants against what it may want.

    Raises as ``engine.references.refuse_others``.
    """
    if name not in (settings.python_image, settings.node_image):
        refuse_others(settings, namespace, name)


class Images:
    """Brings images into the build engine; safe to use from threads."""

    def __init__(self, settings: Settings, build: Engine, run: Engine) -> None:
        self.settings = settings
        self._build = build
        self._run = run
        self.use = ImageUse(settings, build)
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}

    def bring(
        self,
        name: str,
        cli: Callable[[], Cli],
        out: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> str:
        """Returns the id of an image in the build engine, fetched first if it is not there: by
        ``cli``, which is looked for then only.

        Raises:
            BuildFailed: there is no such image.
            ConfigError: a base image of the settings is not there, and cannot be fetched.
            Unavailable: its registry, or the engine.
        """
        self.use.note(name)
        if found := self._found(name):
            return str(found["Id"])
        lock = hashlib.sha256(name.encode()).hexdigest()[:16]

        def check() -> None:
            if stop():
                raise Unavailable(f"fetching the image {name[:120]} was ended")

        with folders.turn(configuration(self.settings) / f"image-{lock}.lock", check):
            if not self._found(name) and not self._copied(name, stop):
                self._pulled(name, cli(), out, stop)
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
        if plain(name) not in [*(found.get("RepoTags") or []), *(found.get("RepoDigests") or [])]:
            raise BuildFailed(f"{name[:120]} is no name of an image: write repository:tag")
        own = plain(name).startswith(f"{LOCAL}/{namespace}/")
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
        # Not for the owner: the engine quotes whatever server its registry sent it to.
        log.warning("the image %s cannot be fetched: %s", name[:120], ascii(told[:300]))
        if _ASKED.search(told) and "not found" not in told:
            raise Unavailable(
                f"the image {name[:120]} cannot be fetched now: its registry is not reached, or "
                "is busy; push again later"
            )
        raise BuildFailed(
            f"the image {name[:120]} cannot be fetched: check its name, and that anybody may "
            "read it",
            step="base",
        )


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
