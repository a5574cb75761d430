"""Where finished images go: to the registry by digest, or to the engine that runs functions."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator

from builder import folders, registrygarbage
from builder.engines.buildkit import Cli
from builder.engines.images import transfer
from core.errors import ConfigError, Conflict, NotFound, SlipwayError, Unavailable
from core.images import LOCAL
from core.settings import Settings
from engine.client import Engine
from engine.images import TAG
from engine.references import credentials, repository

_DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")
_REFUSED = re.compile(r"unauthorized|authentication required|denied|no basic auth|\b40[13]\b", re.I)

SILENT = 60.0
"""Seconds without any answer after which a push is ended: the docker CLI itself tries for minutes.
One that goes on has the time of a build step: a large layer may go up slowly."""
_ASK_EVERY = 5.0
_FEW = 5
"""Images up to which the engine is asked for each: all that it has may be many."""


def name_of(settings: Settings, namespace: str, function: str, key: str) -> str:
    """The tag of a function's image: by its build's key."""
    place = repository(settings, namespace, function) if settings.registry else ""
    return f"{place or f'{LOCAL}/{namespace}/{function}'}:{key[:TAG]}"


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

        def check() -> None:
            if stop():
                raise Conflict("the release was decided meanwhile: nothing was pushed")

        with (
            folders.using(registrygarbage.lock(self.settings), check),
            self._listening(name) as silent,
        ):
            ended = cli.run(["push", name], stop=lambda: silent() or stop())
            gone = silent()
        digest = next((m[1] for m in map(_DIGEST.search, reversed(ended.tail)) if m), "")
        if ended.outcome == "stopped" and gone:
            raise self._error(f"no answer in {SILENT:g} s")
        if ended.outcome == "stopped":
            raise Conflict("the release was decided meanwhile: its push to the registry was ended")
        if not ended.ok or not digest:
            late = f"the push took longer than {self.settings.build_timeout:g} s"
            timed_out = ended.outcome == "timeout"
            raise self._error(late if timed_out else "\n".join(ended.tail[-1:]))
        return f"{place}@{digest}"

    def there(self, artifacts: Collection[str]) -> set[str]:
        """Those that the engine that runs functions has, or the registry."""
        found = (
            {each for each in artifacts if self._held(each)}
            if len(artifacts) <= _FEW
            else (self._listed() & set(artifacts))
        )
        if self.settings.registry:
            found |= {each for each in artifacts if each not in found and self.has(each)}
        return found

    def _held(self, artifact: str) -> bool:
        with contextlib.suppress(NotFound), self._run.asking(artifact) as api:
            api.inspect_image(artifact)
            return True
        return False

    def _listed(self) -> set[str]:
        """Every image of the engine that runs functions, by its id and its digests."""
        with self._run.asking("its images") as api:
            listed = api.images()
        return {name for each in listed for name in (each["Id"], *(each["RepoDigests"] or []))}

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

    @contextlib.contextmanager
    def _listening(self, name: str) -> Iterator[Callable[[], bool]]:
        """Asks the registry something small again and again beside a push, the way that the push
        goes; gives a function that tells whether it has been silent for ``SILENT`` seconds."""
        heard = time.monotonic()
        over = threading.Event()

        def listen() -> None:
            nonlocal heard
            while not over.wait(_ASK_EVERY):
                try:
                    self.has(name)
                except ConfigError:  # it refuses us, so it is there
                    pass
                except SlipwayError:
                    continue
                heard = time.monotonic()

        threading.Thread(target=listen, daemon=True, name="registry").start()
        try:
            yield lambda: time.monotonic() - heard > SILENT
        finally:
            over.set()

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
