"""The store: desired state, releases and their logs, in Redis.

A crash between any two calls leaves a state that the next pass or sweep can read and go on from.
"""

from __future__ import annotations

from core.store.base import connect, repository_key
from core.store.calls import Calls
from core.store.deployments import Deployments
from core.store.environments import Environments
from core.store.forges import Forges
from core.store.logs import LogEnd, Logs
from core.store.metrics import Metrics
from core.store.parts import BUILDERS, Parts
from core.store.previews import Previews
from core.store.pruning import Pruning
from core.store.reports import Reports
from core.store.repositories import Repositories
from core.store.retention import Retention
from core.store.schedules import Schedules
from core.store.sealingkeys import SealingKeys
from core.store.secrets import Secrets
from core.store.settled import Settled
from core.store.setups import Setups
from core.store.sleeping import Sleeping
from core.store.snapshot import Snapshots
from core.store.switching import of_repository
from core.store.tokens import Tokens
from core.store.variables import Variables

__all__ = ["BUILDERS", "LogEnd", "Store", "connect", "of_repository", "repository_key"]


class Store(
    SealingKeys,
    Snapshots,
    Forges,
    Previews,
    Environments,
    Repositories,
    Deployments,
    Schedules,
    Sleeping,
    Retention,
    Reports,
    Pruning,
    Logs,
    Parts,
    Secrets,
    Metrics,
    Calls,
    Settled,
    Variables,
    Setups,
    Tokens,
):
    """Everything that the parts of Slipway keep in common."""
