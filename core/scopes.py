"""What the credentials of an owner are good for."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """One kind of deed, within the owner's own namespaces."""

    READ = "read"
    """List and describe: functions, releases, logs, variables, dead letters, metrics."""
    DEPLOY = "deploy"
    """Functions by API, releases, rollbacks, variables, dead letters: what changes what runs."""
    SECRETS = "secrets"
    """Set, delete, list names; no value ever goes out."""
    PUSH = "push"
    """Push to and fetch from Slipway's own git remote."""


ALL = frozenset(Scope)
