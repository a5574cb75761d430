"""Restarts of parts, without losing a request.

A part that can run twice is replaced: the new one serves before the old one is asked to end, which
finishes what it has. The edge takes over from the old one by itself, with the routes as they are.
The controller cannot run twice: it ends and is started again, and meanwhile routes and functions
stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from core.errors import ConfigError, Unavailable
from core.settings import Settings
from supervisor.keeper import Keeper

UP_SECONDS = 60.0
"""Time that a new process has until it is ready."""
_TURN_SECONDS = 10.0
"""Time until the driver has ended the change of routes that it is at."""


class Restarts:
    """Restarts single parts of an installation that runs."""

    def __init__(
        self,
        settings: Settings,
        keeper: Keeper,
        configure_edge: Callable[[], list[str]],
        healthy: Callable[[], bool],
    ) -> None:
        """``configure_edge``: writes the edge's configuration anew beside one that runs, and
        returns the arguments that start it, less those of a take-over. ``healthy``: whether every
        part answers."""
        self._settings = settings
        self._keeper = keeper
        self._configure_edge = configure_edge
        self._healthy = healthy

    def restart(self, name: str) -> dict[str, Any]:
        """Restarts a part; returns its name, new pid and the seconds until all was well.

        Raises:
            ConfigError: it does not run here, or the new one does not come up.
            Unavailable: it came up, but the installation is not healthy.
            Interrupted: a signal came.
        """
        begun = time.monotonic()
        keeper = self._keeper
        if name == "edge" and self._settings.edge == "none":
            raise ConfigError("there is no edge here: SLIPWAY_EDGE=none")
        if not keeper.wait(UP_SECONDS, lambda: keeper.pid(name) > 0):
            raise ConfigError(f"the {name} does not run just now: see {keeper.logs.path(name)}")
        if name == "controller":
            pid = keeper.restart(name, UP_SECONDS)
        elif name == "edge":
            pid = self._replace_edge()
        else:
            pid = keeper.replace(name, UP_SECONDS)
        if not keeper.wait(UP_SECONDS, self._healthy):
            raise Unavailable(f"the {name} runs again, but /healthz says that something is missing")
        return {"part": name, "pid": pid, "seconds": round(time.monotonic() - begun, 2)}

    def _replace_edge(self) -> int:
        from runtime.edge import config
        from runtime.edge.admin import AdminSocket

        settings, keeper = self._settings, self._keeper
        argv = self._configure_edge()
        admin = AdminSocket(config.admin_socket(settings))

        def serves(pid: int) -> bool:
            try:
                return f"\nPid: {pid}\n" in admin.send("show info")
            except Unavailable:
                return False

        deadline = time.monotonic() + _TURN_SECONDS
        while True:
            try:
                # Nobody changes routes until the new one, which reads them now, is in place.
                with config.takeover(settings, lead=True) as replaced:
                    old = keeper.pid("edge")
                    if not old:
                        raise ConfigError("the edge has just ended, and is started again anyway")
                    pid = keeper.replace(
                        "edge", UP_SECONDS, argv=[*argv, "-sf", str(old)], ready=serves
                    )
                    config.note_replaced(settings, [*replaced, old])
                    return pid
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                keeper.wait(0.02)
