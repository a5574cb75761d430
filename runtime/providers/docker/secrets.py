"""Secrets of containers: the folder of an instance, bound read-only into its container.

The engine binds paths of its own host. In compose we are a container ourselves: there the folder is
a volume of the type tmpfs, and where that lies on the host, the engine says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from core.errors import NotSupported, Unavailable
from core.models import FunctionSpec
from core.sandbox import SECRETS
from core.settings import Settings
from engine.client import Engine
from runtime.providers.docker.document import Document
from runtime.providers.secretfolders import ReadSecrets, SecretFolders, read_all

VOLUME_LABEL = "com.slipway.secrets"
"""Of compose's volume for secrets; its value is the state folder."""


class ContainerSecrets:
    """Reads, lays out and takes away what containers find at SECRETS."""

    def __init__(self, settings: Settings, engine: Engine, read: ReadSecrets) -> None:
        self._settings = settings
        self._engine = engine
        self._read = read
        self._folders = SecretFolders(settings)
        self._on_host: Path | None = None

    def values(self, spec: FunctionSpec, security: Collection[str]) -> Mapping[str, bytes]:
        """The values of a function's secrets now. ``security``: the engine's SecurityOptions.

        Raises:
            NotSupported: they cannot be given to a container's user here.
            NotFound, ConfigError, Unavailable, InvalidRequest: see ``read_all``.
        """
        if spec.secrets and os.geteuid() != 0:
            raise NotSupported(
                f"{spec.function} wants secrets, and only root can give them to a container's "
                "user: run Slipway as root, or with SLIPWAY_RUNTIME=process"
            )
        if spec.secrets and any("userns" in each or "rootless" in each for each in security):
            raise NotSupported(
                f"{spec.function} wants secrets, and they cannot be given to its user where the "
                "engine maps users to others: use an engine without userns-remap and not rootless"
            )
        return read_all(self._read, spec)

    def mounts(self, document: Document, values: Mapping[str, bytes]) -> list[dict[str, Any]]:
        """Lays the values out for a container; returns what the engine is to mount.

        Raises:
            NotSupported, Unavailable: see ``SecretFolders.make``; or the engine has no such volume.
        """
        if not values:
            return []
        gid = document.uid if document.gid < 0 else document.gid
        folder = self._folders.make(document.id, values, document.uid, gid)
        shared = self._folders.in_container
        source = self._host_folder() / folder.name if shared else folder
        return [
            {
                "Type": "bind",
                "Source": str(source),
                "Target": SECRETS,
                "ReadOnly": True,
                # The engine insists on rslave for what lies below its own folder.
                "BindOptions": {"Propagation": "rslave" if shared else "rprivate"},
            }
        ]

    def remove(self, id: str) -> None:
        self._folders.remove(id)

    def keep_only(self, exists: Callable[[str], bool]) -> None:
        """Removes what earlier containers left."""
        self._folders.keep_only(exists)

    def _host_folder(self) -> Path:
        """Where the host has what is mounted here."""
        if self._on_host is None:
            with self._engine.asking("where secrets lie on the host is not known") as api:
                label = f"{VOLUME_LABEL}={self._settings.state}"
                found = api.volumes(filters={"label": label})["Volumes"] or []
            if len(found) != 1:
                raise Unavailable(
                    f"secrets have no place: {len(found)} volumes of the engine have the label "
                    f"{label}, and one is needed; see docker-compose.yml"
                )
            self._on_host = Path(found[0]["Mountpoint"])
        return self._on_host
