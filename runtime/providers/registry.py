"""Which providers there are; the only place that knows them all."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import ConfigError
from core.settings import Settings
from runtime.providers import Provider
from runtime.providers.cells import IsQuiet, nobody_is_quiet
from runtime.providers.secretfolders import ReadSecrets, no_secrets


def _process(
    settings: Settings, key: bytes, read_secrets: ReadSecrets, is_quiet: IsQuiet
) -> Provider:
    from runtime.providers.process import ProcessProvider

    return ProcessProvider(settings, key, read_secrets=read_secrets, is_quiet=is_quiet)


def _docker(
    settings: Settings, key: bytes, read_secrets: ReadSecrets, is_quiet: IsQuiet
) -> Provider:
    from runtime.providers.docker import DockerProvider  # its SDK is large: only who needs it

    return DockerProvider(settings, key, read_secrets, is_quiet)


PROVIDERS: dict[str, Callable[[Settings, bytes, ReadSecrets, IsQuiet], Provider]] = {
    "process": _process,
    "docker": _docker,
}


def make_provider(
    settings: Settings,
    key: bytes,
    read_secrets: ReadSecrets = no_secrets,
    is_quiet: IsQuiet = nobody_is_quiet,
) -> Provider:
    """The provider that ``SLIPWAY_RUNTIME`` names; ``key`` signs what instances carry. Whoever
    starts nothing needs no ``read_secrets`` and no ``is_quiet``.

    Raises:
        ConfigError: this installation does not have it.
    """
    name = "process" if settings.runtime == "auto" else settings.runtime
    if name not in PROVIDERS:
        raise ConfigError(
            f"SLIPWAY_RUNTIME={name} is not there yet: this version runs functions as "
            "processes or in a Docker engine. Leave it unset, or set one of those two"
        )
    return PROVIDERS[name](settings, key, read_secrets, is_quiet)
