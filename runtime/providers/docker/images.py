"""Images: fetched where they are missing, and what of them matters to their containers."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from docker.errors import APIError

from core.errors import InvalidRequest, NotFound, SlipwayError, Unavailable
from core.models import FunctionSpec
from core.settings import Settings
from engine import references
from engine.client import Engine
from runtime.providers.docker.document import TEMPLATE

_PULL_SECONDS = 600.0
_MOST_VOLUMES = 16


@dataclass(frozen=True)
class Image:
    """What an image brings along."""

    env: dict[str, str]
    template: bool
    """Whether Slipway built it: its command is what ``env_process`` replaces."""
    labels: frozenset[str]
    """Names of its labels: a container would carry them on, and other programs on the host read
    orders in them (a proxy's routes, a project that containers belong to)."""
    volumes: tuple[str, ...]
    """Paths that the engine would give folders of the host without a bound."""


class Images:
    """Images by artifact. An artifact never changes, so each is looked at once."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, Image] = {}

    def get(self, spec: FunctionSpec) -> Image:
        """The image of a function, pulled if it is not there.

        Raises:
            InvalidRequest: it cannot be run.
            NotFound: neither engine nor registry has it.
            Unavailable: engine or registry do not answer.
        """
        artifact = spec.artifact
        with self._lock:
            if known := self._known.get(artifact):
                return known
        try:
            found = self._inspect(spec)
        except NotFound:
            self._pull(spec)
            found = self._inspect(spec)
        image = _image(spec, found.get("Config") or {})
        with self._lock:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[artifact] = image
        return image

    def forget(self, artifact: str) -> None:
        """It is gone from the engine."""
        with self._lock:
            self._known.pop(artifact, None)

    def _inspect(self, spec: FunctionSpec) -> dict[str, Any]:
        with self._engine.asking(f"the image of {spec.function} cannot be looked at") as api:
            found: dict[str, Any] = api.inspect_image(spec.artifact)
            return found

    def _pull(self, spec: FunctionSpec) -> None:
        name, _, digest = spec.artifact.rpartition("@")
        if not name:
            raise NotFound(
                f"the image {spec.artifact} of {spec.function} is not in the engine, and there is "
                "no registry that could have it: push again, or 'slipway redeploy'"
            )
        credentials = references.credentials(self._settings)
        deadline = time.monotonic() + _PULL_SECONDS
        what = f"the image of {spec.function} cannot be pulled"
        refused = ""
        try:
            with self._engine.asking(what) as api:
                for told in api.pull(
                    name, tag=digest, stream=True, decode=True, auth_config=credentials
                ):
                    refused = refused or str(told.get("error", ""))
                    if time.monotonic() > deadline:
                        raise Unavailable(f"{what} within {_PULL_SECONDS:.0f} s")
        except SlipwayError as error:
            if not isinstance(error.__cause__, APIError):
                raise
            refused = str(error.__cause__.explanation or error.__cause__)
        if refused:
            raise _refusal(spec, refused)


def _refusal(spec: FunctionSpec, told: str) -> SlipwayError:
    """By the registry's words, as the engine passes them on."""
    if "not found" in told or "manifest unknown" in told:
        return NotFound(
            f"the image {spec.artifact} of {spec.function} is neither in the engine nor in the "
            f"registry ({told[:300]}): push again, or 'slipway redeploy'"
        )
    return Unavailable(
        f"the image {spec.artifact} of {spec.function} cannot be pulled: {told[:300]}. Is the "
        "registry up, and are SLIPWAY_REGISTRY_USER and its password right?"
    )


def _image(spec: FunctionSpec, config: dict[str, Any]) -> Image:
    volumes = tuple(sorted(config.get("Volumes") or {}))
    if len(volumes) > _MOST_VOLUMES:
        raise InvalidRequest(
            f"the image of {spec.function} declares {len(volumes)} volumes, more than "
            f"{_MOST_VOLUMES}: remove VOLUME from its Dockerfile, and write to /tmp"
        )
    env = dict(each.partition("=")[::2] for each in config.get("Env") or [])
    labels = frozenset(config.get("Labels") or {})
    return Image(env, TEMPLATE in labels, labels, volumes)
