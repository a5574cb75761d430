"""Images that Dockerfiles name go again from an engine of our own for builds.

Each time such an image is brought, a file in ``<state>/build-images`` that holds its name gets a
new time. Those that no build has used for a week are removed, and the oldest ones while there is
little room. On an engine that others use too nothing is noted or removed: there an image that we
brought cannot be told from one that somebody wants.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from pathlib import Path

from core import queues
from core.errors import Conflict, NotFound
from core.settings import Settings
from engine.client import Engine

UNUSED = 7 * 86400.0
"""Seconds after which an image that no build used goes."""
ROOM = 5 * 2**30
"""Bytes of free disk below which the oldest go."""


class ImageUse:
    """See above; safe to use from threads and processes."""

    def __init__(self, settings: Settings, build: Engine) -> None:
        self._folder = settings.state / "build-images"
        self._own = settings.build_engine_url != settings.engine_url
        self._kept = {settings.python_image, settings.node_image}
        self._build = build

    def note(self, name: str) -> None:
        """A build is going to stand on this image."""
        if not self._own or name in self._kept:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        path.write_text(name)  # which gives it a new time, too

    def sweep(self, disk: Path | None) -> int:
        """Removes what is due; returns how many images. ``disk``: where the engine keeps them.

        Raises:
            Unavailable: the engine.
        """
        if not self._own or not self._folder.is_dir():
            return 0
        count = 0
        for used, path in sorted((each.stat().st_mtime, each) for each in self._folder.iterdir()):
            age = time.time() - used
            little = disk is not None and shutil.disk_usage(disk).free < ROOM
            # A release that began on it may still be at it.
            if age > UNUSED or (little and age > queues.JOB_SECONDS):
                count += self._remove(path)
        return count

    def _remove(self, path: Path) -> int:
        name = path.read_text()
        if name and name not in self._kept:  # the settings may have changed
            try:
                with self._build.asking(f"the image {name}") as api:
                    api.remove_image(name)
            except NotFound:
                pass
            except Conflict:  # tests run in a container of it
                return 0
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return 1
