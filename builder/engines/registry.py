"""Where finished images go: to the registry by digest, or to the engine that runs functions."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

from builder.engines.buildkit import Cli
from builder.engines.images import transfer
from core.errors import ConfigError, Conflict, NotFound, SlipwayError, Unavailable
from core.images import LOCAL
from core.settings import Settings
from engine.client import Engine
from engine.references import credentials, repository

_DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")
_REFUSED = re.compile(r"unauthorized|authentication required|denied|no basic auth|\b40[13]\b", re.I)

TIMEOUT = 120.0
"""Seconds that one try at the registry may take: the docker CLI itself tries for minutes."""


def name_of(settings: Settings, namespace: str, function: str, key: str) -> str:
    """The tag of a function's image: by its build's key."""
    place = repository(settings, namespace, function) if settings.registry else ""
    return f"{place or f'{LOCAL}/{namespace}/{function}'}:{key[:24]}"


class Registry:
    """The installation's registry, as the build engine reaches it."""

    def __init__(self, settings: Settings, build: Engine, run: Engine) -> None:
        self.settings = settings
        self._build = build
        self._run = run

    def publish(self, name: str, cli: Cli, stop: Callable[[], bool]) -> str:
        """Brings the image ``name`` of the build engine to where it is run; returns the artifact.

        Raises:
            Unavailable: the registry or an engine; trying again can help.
            ConfigError: the registry refuses us.
        """
        with self._build.asking(f"the image {name}") as api:
            found = api.inspect_image(name)
        if not self.settings.registry:
            return self._kept(name, str(found["Id"]), stop)
        place = name.rpartition(":")[0]
        for each in found.get("RepoDigests") or []:
            if each.startswith(f"{place}@") and self.has(each):
                return str(each)
        ended = cli.run(["push", name], stop=stop, timeout=TIMEOUT)
        digest = next((m[1] for m in map(_DIGEST.search, reversed(ended.tail)) if m), "")
        if ended.outcome == "stopped":
            raise Conflict("the release was decided meanwhile: its push to the registry was ended")
        if not ended.ok or not digest:
            timed_out = ended.outcome == "timeout"
            told = f"no answer in {TIMEOUT:g} s" if timed_out else "\n".join(ended.tail[-1:])
            raise self._error(told)
        return f"{place}@{digest}"

    def there(self, artifact: str) -> bool:
        """Whether the engine that runs functions has it, or the registry."""
        with contextlib.suppress(NotFound), self._run.asking(artifact) as api:
            api.inspect_image(artifact)
            return True
        return bool(self.settings.registry) and self.has(artifact)

    def has(self, artifact: str) -> bool:
        """Whether the registry has an image; asked by the build engine, which knows how.

        Raises:
            Unavailable, ConfigError: it does not say.
        """
        try:
            with self._build.asking(artifact) as api:
                api.inspect_distribution(artifact, auth_config=credentials(self.settings) or {})
        except NotFound:
            return False
        except SlipwayError as error:
            if re.search("manifest unknown|not found", str(error)):
                return False
            raise self._error(str(error)) from error
        return True

    def _kept(self, name: str, id_: str, stop: Callable[[], bool]) -> str:
        if self.settings.build_engine_url != self.settings.engine_url:
            transfer(self._build, self._run, name, stop)
        with self._run.asking(f"the image {name}") as api:
            return str(api.inspect_image(name)["Id"]) if id_ else id_

    def _error(self, told: str) -> SlipwayError:
        where = self.settings.registry
        if _REFUSED.search(told):
            return ConfigError(
                f"the registry {where} refuses us ({told[:300]}): the administrator has to set "
                "SLIPWAY_REGISTRY_USER and SLIPWAY_REGISTRY_PASSWORD_FILE to a user who may "
                "push there"
            )
        return Unavailable(
            f"the registry {where} does not take images now ({told[:300]}): is it running, and is "
            "there room on its disk? Then push again, or 'slipway redeploy'; nothing built is lost"
        )
