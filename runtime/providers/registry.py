"""Which providers there are; the only place that knows them all."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import ConfigError
from core.settings import Settings
from runtime.providers import Provider
from runtime.providers.process import ProcessProvider

PROVIDERS: dict[str, Callable[[Settings, bytes], Provider]] = {"process": ProcessProvider}


def make_provider(settings: Settings, key: bytes) -> Provider:
    """The provider that ``SLIPWAY_RUNTIME`` names; ``key`` signs what instances carry.

    Raises:
        ConfigError: this installation does not have it.
    """
    name = "process" if settings.runtime == "auto" else settings.runtime
    if name not in PROVIDERS:
        raise ConfigError(
            f"SLIPWAY_RUNTIME={name} is not there yet: this version runs functions as "
            "processes. Leave it unset, or set SLIPWAY_RUNTIME=process"
        )
    return PROVIDERS[name](settings, key)
