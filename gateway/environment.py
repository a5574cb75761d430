"""What the gateway's processes read from their environment."""

from __future__ import annotations

from collections.abc import Mapping

from core.settings import Settings

LISTEN_FDS = "SLIPWAY_LISTEN_FDS"
"""Numbers of the inherited listening sockets, by comma."""


def read_settings(env: Mapping[str, str]) -> Settings:
    """Raises ConfigError naming every wrong setting."""
    return Settings.from_env({name: value for name, value in env.items() if name != LISTEN_FDS})
