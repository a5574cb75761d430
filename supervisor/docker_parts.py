"""What runs beside the others on Docker: the registry, and the engine for builds.

Both are begun before the store and waited for after it, so that a start takes no longer than the
slowest of them. Without the registry nothing can be released, so that its failure is the start's;
without the engine for builds the other engine builds, less bounded, which is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from core import http
from core.errors import ConfigError
from core.settings import Settings
from supervisor import build_engine, parts, registry
from supervisor.keeper import Keeper
from supervisor.logfiles import LogFiles
from supervisor.runtime_choice import Choice, write_down
from supervisor.screen import Screen

REGISTRY_SECONDS = 120.0
"""It may first remove what nobody needs."""
ENGINE_SECONDS = 60.0
IMAGES_SECONDS = 60.0
TRIES = 3
"""A part that has ended so often while it was starting will not come up."""
BUILT_HERE = (
    "builds run on the engine that runs functions: their time and output are bounded, their "
    "memory, CPU and network are not"
)


class DockerParts:
    """Changes the environment of the keeper's later parts where the engine for builds fails."""

    def __init__(
        self,
        choice: Choice,
        env: Mapping[str, str],
        keeper: Keeper,
        logs: LogFiles,
        screen: Screen,
    ) -> None:
        self.choice = choice
        self.settings = choice.settings
        self.env = env
        self.keeper = keeper
        self.logs = logs
        self.screen = screen
        self._made = False
        """Whether the engine for builds may have left something in the kernel."""

    def begin(self) -> None:
        if self.choice.registry:
            self.keeper.start(registry.part(self.choice.registry))
        if build_engine.ours(self.settings):
            self._made = True
            self.keeper.start(build_engine.part(self.env))
        elif build_engine.left(self.settings):
            self._clear()  # of a run that was killed, before the runtime was changed

    def settle(self) -> Settings:
        """Waits until they serve; returns the settings as they came to be.

        Raises:
            ConfigError: the registry does not come up.
        """
        if self.choice.registry and not self._serves(
            registry.NAME, "the registry", REGISTRY_SECONDS, lambda: registry.answers(self.settings)
        ):
            last = self.logs.tail(registry.NAME) or "(it wrote nothing)"
            raise ConfigError(
                f"the registry does not come up\n--- the end of {self.logs.path(registry.NAME)}:\n"
                f"{last}\nCorrect what it says and start again, or name a registry of your own "
                "with SLIPWAY_REGISTRY"
            )
        if build_engine.ours(self.settings):
            if not self._builds():
                self._give_up()
        elif self.settings.runtime == "docker" and not self.settings.build_engine:
            self.screen.say(f"slipway: {BUILT_HERE}")
        write_down(self.settings)
        return self.settings

    def stop(self) -> None:
        self.keeper.stop([build_engine.NAME, registry.NAME])
        if self._made:
            self._clear()

    def _builds(self) -> bool:
        """Whether the engine for builds is up."""

        def answers() -> bool:
            try:
                socket = urlsplit(self.settings.build_engine).path
                return http.request(f"unix@{socket}", "GET", "/_ping", timeout=0.5)[0] == 200
            except OSError:
                return False

        if not self._serves(build_engine.NAME, "the engine for builds", ENGINE_SECONDS, answers):
            return False
        self._renew_images()
        return True

    def _renew_images(self) -> None:
        """Builds copy the base images that they need; after these were made anew, once more."""
        seen = self.settings.state / "base-images"
        known = seen.read_text() if seen.exists() else ""
        if known != self.choice.images:
            argv = parts.python("supervisor.engine_chores", "renew")
            if not known or self.keeper.run(build_engine.NAME, argv, IMAGES_SECONDS) == 0:
                seen.write_text(self.choice.images)

    def _give_up(self) -> None:
        """Says why there is no engine for builds, and has the other one build."""
        log = self.logs.path(build_engine.NAME)
        last = self.logs.tail(build_engine.NAME, 1) or "it wrote nothing"
        self.screen.say(
            f"slipway: WARNING: no engine for builds: {last} (its log: {log})\n"
            f"slipway: WARNING: {BUILT_HERE}"
        )
        self.keeper.drop([build_engine.NAME])
        self._clear()
        self._made = False
        self.settings = replace(self.settings, build_engine="")
        self.keeper.env = parts.environment(self.env, self.settings)

    def _serves(self, name: str, called: str, seconds: float, ready: Callable[[], bool]) -> bool:
        """Waits for it; False where it keeps ending or takes too long."""
        self.screen.doing(f"starting {called}")
        came = False

        def decided() -> bool:
            nonlocal came
            came = ready()
            return came or self.keeper.deaths(name) >= TRIES

        self.keeper.wait(seconds, decided)
        self.screen.doing("")
        return came

    def _clear(self) -> None:
        if self.keeper.run(build_engine.NAME, build_engine.end(), 20) != 0:
            log = self.logs.path(build_engine.NAME)
            self.screen.say(f"slipway: the engine for builds left something behind: see {log}")
