"""Images: fetched where they are missing, and what of them matters to their containers.

What was built here is named by its digest, which says all. A foreign image may be named by a tag,
which moves: what it stands for is asked once for each revision (see ``engine.pull.resolve``), and
all replicas of the revision run that. Which it is, their containers carry, and a file.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidRequest, NotFound
from core.models import FunctionSpec
from core.settings import Settings
from engine import references
from engine.client import Engine
from engine.pull import pull, resolve
from runtime.providers import never
from runtime.providers.docker.document import TEMPLATE
from runtime.providers.docker.resolved import Resolved

_MOST_VOLUMES = 16
_MOST_KNOWN = 10_000


@dataclass(frozen=True)
class Image:
    """What an image brings along."""

    name: str
    """By which the engine finds just this one: by digest, or its id."""
    env: dict[str, str]
    template: bool
    """Whether Slipway built it: its command is what ``env_process`` replaces."""
    labels: frozenset[str]
    """Names of its labels: a container would carry them on, and other programs on the host read
    orders in them (a proxy's routes, a project that containers belong to)."""
    volumes: tuple[str, ...]
    """Paths that the engine would give folders of the host without a bound."""
    user: str = ""
    """Whom it wants to run as: ``user[:group]``, by name or number."""


class Images:
    """Images of functions. By digest or id one never changes, so each is looked at once."""

    def __init__(self, settings: Settings, engine: Engine, stop: Callable[[], bool]) -> None:
        """``stop``: whether pulls are to end, for this process does."""
        self._settings = settings
        self._engine = engine
        self._stop = stop
        self._lock = threading.Lock()
        self._known: dict[str, Image] = {}
        self._resolved = Resolved(settings)

    def get(self, spec: FunctionSpec, running: str = "", stop: Callable[[], bool] = never) -> Image:
        """The image of a function, pulled if it is not there.

        ``running``: the foreign image that a replica of this revision has. ``stop``: whether this
        one is not wanted any more.

        Raises:
            Conflict: ``stop`` said so, or this process ends.
            InvalidRequest: it cannot be run.
            NotAllowed: it is not this owner's to use.
            NotFound: neither engine nor registry has it.
            Unavailable: engine or registry do not answer.
        """

        def over() -> bool:
            return self._stop() or stop()

        if spec.foreign:
            return self._foreign(spec, running, over)
        references.check_artifact(spec.artifact)
        with contextlib.suppress(NotFound):
            return self._look(spec, spec.artifact)
        try:
            pull(self._engine, self._settings, spec.artifact, stop=over)
        except NotFound as error:
            raise NotFound(
                f"the image of {spec.function} is neither in the engine nor in the registry "
                f"({error}): push again, or 'slipway redeploy'"
            ) from error
        return self._look(spec, spec.artifact)

    def remember(self, spec: FunctionSpec, name: str) -> None:
        """A replica of this revision ran this image; it may have been the last one."""
        self._resolved.keep(spec, name)

    def tidy(self, needed: Collection[str]) -> None:
        """Forgets what those ran that are gone; ``needed``: images as functions name them."""
        self._resolved.tidy(needed)

    def forget(self, name: str) -> None:
        """It is gone from the engine."""
        with self._lock:
            self._known.pop(name, None)

    def _foreign(self, spec: FunctionSpec, running: str, stop: Callable[[], bool]) -> Image:
        owner = spec.artifacts_of if spec.repository else ""

        def fetched(name: str) -> str:
            return resolve(self._engine, self._settings, name, owner=owner, stop=stop)

        if known := running or self._resolved.get(spec):
            with contextlib.suppress(NotFound):
                return self._look(spec, known)
            with contextlib.suppress(NotFound):
                return self._look(spec, fetched(known))
            self._resolved.drop(spec)  # somebody removed it; it is asked for anew
        # Another replica may have been quicker, and the tag have moved in between.
        return self._look(spec, self._resolved.keep(spec, fetched(spec.artifact)))

    def _look(self, spec: FunctionSpec, name: str) -> Image:
        with self._lock:
            if known := self._known.get(name):
                return known
        with self._engine.asking(f"the image of {spec.function} cannot be looked at") as api:
            image = _image(spec, name, api.inspect_image(name).get("Config") or {})
        with self._lock:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[name] = image
        return image


def _image(spec: FunctionSpec, name: str, config: dict[str, Any]) -> Image:
    volumes = tuple(sorted(config.get("Volumes") or {}))
    if len(volumes) > _MOST_VOLUMES:
        raise InvalidRequest(
            f"the image of {spec.function} declares {len(volumes)} volumes, more than "
            f"{_MOST_VOLUMES}: remove VOLUME from its Dockerfile, and write to /tmp"
        )
    labels = frozenset(config.get("Labels") or {})
    return Image(
        name=name,
        env=dict(each.partition("=")[::2] for each in config.get("Env") or []),
        template=TEMPLATE in labels,
        labels=labels,
        volumes=volumes,
        user=str(config.get("User") or ""),
    )
