"""The forges that there are, by the name of a repository's source. Clients are imported when they
are first asked for: the gateway's webhooks need none."""

from __future__ import annotations

from importlib import import_module

from core.errors import NotSupported
from core.settings import Settings
from forges import Forge

_CLIENTS = {
    "github": ("forges.github.client", "GitHub"),
    "gitlab": ("forges.gitlab.client", "GitLab"),
    "gitea": ("forges.gitea.client", "Gitea"),
}
NAMES = tuple(_CLIENTS)


def forge(settings: Settings, name: str) -> Forge:
    """A client of one forge, with what ``settings`` say of it.

    Raises:
        NotSupported: there is no forge of that name.
        ConfigError: a file that the settings name cannot be read.
    """
    if name not in _CLIENTS:
        raise NotSupported(f"{name[:40]!r} is no forge that is known here: {', '.join(NAMES)}")
    module, client = _CLIENTS[name]
    made: Forge = getattr(import_module(module), client)(settings)
    return made
