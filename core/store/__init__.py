"""The store: desired state, releases and their logs, in Redis.

A crash between any two calls leaves a state that the next pass or sweep can read and go on from.
"""

from __future__ import annotations

from core.store.base import connect
from core.store.logs import LogEnd, Logs
from core.store.parts import Parts
from core.store.repositories import Repositories
from core.store.staging import Staging

__all__ = ["LogEnd", "Store", "connect"]


class Store(Repositories, Staging, Logs, Parts):
    """Everything that the parts of Slipway keep in common."""
