"""The edge: every request's way in. The interface, and the manual for the next implementation.

    public listener ─┐                     ┌─► backend b17 ──► replicas of one revision
                     ├─ key of the path ───┤
    functions' own  ─┘  → row of the map   └─► backend gateway: everything else, and functions
                                               without a live replica, path untouched

An edge carries the traffic and decides nothing: the controller hands it the whole wanted table,
as often as it likes, and asks which endpoints no request is with any more. An implementation

- must move the routes of all functions in one step: no client sees new and then old;
- must have new endpoints ready before a route points to them, and must let requests that are with
  old ones finish, up to ``Settings.drain_timeout``;
- must find out by itself that the proxy was restarted, and rebuild it from the table; what one had
  that was killed, it tells as far as it knows;
- must never make ``apply`` wait for a drain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.settings import Settings


@dataclass(frozen=True)
class Route:
    """Where one function's requests go."""

    revision: str
    """For people and logs; an endpoint belongs to one revision, and that is what is compared."""
    endpoints: Sequence[str]
    """``unix@/path`` or ``host:port``; none: the gateway answers for the function."""
    patience: float = 0
    """Seconds that it may be silent before 504 is answered; 0: the edge's own default."""
    hostless: bool = False
    """Whether it answers by its path alone: at its namespace's host the gateway says so."""


class Edge(Protocol):
    """Moves routes and drains what left them. All methods may be called from several threads."""

    def apply(self, routes: Mapping[str, Route]) -> None:
        """Makes ``routes`` (keyed ``name.namespace``) the whole table; repeating it is cheap.

        Raises:
            Unavailable: the proxy does not answer, or answered what it should not; what was
                applied before goes on. The next call starts from what the proxy really has.
            InvalidRequest: an endpoint or function that cannot be one.
        """

    def tick(self) -> None:
        """Goes on with drains; ``apply`` does that too. Raises as ``apply``."""

    def released(self, endpoint: str) -> bool:
        """Whether no route and no request is with it any more: it may be ended."""

    def mark_down(self, endpoint: str) -> None:
        """Its process died: nothing goes there from now on. A lost proxy is no error here."""

    def unanswered(self, function: str) -> int:
        """Requests with what ``name.namespace`` is routed to, where none of it has begun to answer
        any yet; else 0. Raises Unavailable."""

    def under_way(self) -> Mapping[str, int]:
        """Requests that each ``name.namespace`` has just now. Raises Unavailable."""

    def alive(self) -> bool:
        """Whether the proxy answers."""


class NoEdge:
    """``SLIPWAY_EDGE=none``: the gateway serves every request, so there is nothing to move."""

    def apply(self, routes: Mapping[str, Route]) -> None:
        """Does nothing: the gateway follows what the controller observed."""

    def tick(self) -> None:
        """Does nothing."""

    def released(self, endpoint: str) -> bool:  # noqa: ARG002 - the interface's name
        """Always: the gateway's own requests are not seen here; SIGTERM lets them finish."""
        return True

    def mark_down(self, endpoint: str) -> None:
        """Does nothing."""

    def unanswered(self, function: str) -> int:  # noqa: ARG002 - the interface's name
        """None that is known of."""
        return 0

    def under_way(self) -> Mapping[str, int]:
        """None: the gateway tells of its own."""
        return {}

    def alive(self) -> bool:
        return True


def make_edge(
    settings: Settings, lost: Callable[[Mapping[str, int]], None] = lambda _: None
) -> Edge:
    """The edge that the settings ask for.

    ``lost``: told how many requests of each function a proxy had that was killed.
    """
    if settings.edge == "none":
        return NoEdge()
    from runtime.edge.driver import HAProxyEdge

    return HAProxyEdge(settings, lost=lost)
