"""Restarts of parts, without losing a request.

A part that can run twice is replaced: the new one serves before the old one is asked to end, which
finishes what it has. The new edge begins with the routes as they are. Controller and
reporter cannot run twice: they end and are started again; meanwhile routes and functions stay as
they are, and forges are told nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError, Unavailable
from core.settings import Settings
from supervisor import processes
from supervisor.keeper import Keeper

if TYPE_CHECKING:
    from runtime.edge.config import Purpose

_ALONE = ("controller", "reporter")
"""Two of them would do the same thing twice."""
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
        configure_edge: Callable[[Purpose], list[str]],
        edge_listeners: Sequence[int],
        healthy: Callable[[], bool],
    ) -> None:
        """``configure_edge``: writes the edge's configuration and returns the arguments that start
        it. ``edge_listeners``: descriptors that it names. ``healthy``: whether every part
        answers."""
        self._settings = settings
        self._keeper = keeper
        self._configure_edge = configure_edge
        self._edge_listeners = edge_listeners
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
        if name in _ALONE:
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

        self._check_edge()
        argv = self._configure_edge("replace")
        deadline = time.monotonic() + _TURN_SECONDS
        while True:
            try:
                # Nobody changes routes until the new one, which reads them now, is in place.
                with config.takeover(self._settings, lead=True) as replaced:
                    return self._take_over(argv, replaced)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                self._keeper.wait(0.02)

    def _check_edge(self) -> None:
        """The next crash starts from the files that are replaced: only by such as HAProxy takes."""
        name = "edge-check"
        argv = [*self._configure_edge("check"), "-c"]
        if self._keeper.run(name, argv, UP_SECONDS, listeners=self._edge_listeners) != 0:
            raise ConfigError(
                "HAProxy does not take the edge's new configuration, and the old edge goes on: see "
                f"{self._keeper.logs.path(name)}"
            )

    def _take_over(self, argv: list[str], replaced: list[int]) -> int:
        """Both accept until the new one answers; should it not, the old one gets back the path of
        its admin socket, and it is as if nothing had been."""
        from runtime.edge import config
        from runtime.edge.admin import AdminSocket

        keeper = self._keeper
        path = config.admin_socket(self._settings)
        aside = path.with_suffix(".old")
        admin = AdminSocket(path)

        def serves(pid: int) -> bool:
            try:
                return f"\nPid: {pid}\n" in admin.send("show info")
            except Unavailable:
                return False

        old = keeper.pid("edge")
        if not old:
            raise ConfigError("the edge has just ended, and is started again anyway")
        aside.unlink(missing_ok=True)
        answers = keeper.wait(_TURN_SECONDS, lambda: serves(old))
        if answers:  # one that hangs has nothing to lose
            aside.hardlink_to(path)
        try:
            pid = keeper.replace("edge", UP_SECONDS, argv=argv, ready=serves)
        except BaseException:
            if answers and keeper.pid("edge") == old:
                aside.replace(path)
            raise
        finally:
            aside.unlink(missing_ok=True)
        config.note_replaced(self._settings, [*replaced, old])
        shared = {f"socket:[{os.fstat(number).st_ino}]" for number in self._edge_listeners}
        keeper.wait(_TURN_SECONDS, lambda: not processes.opened(old, shared))  # accepts no more
        return pid
