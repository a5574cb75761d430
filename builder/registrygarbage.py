"""Blobs that no image names any more go from the registry that ``slipway up`` started: once a day,
or when the disk is too full, and only while nothing is pushed to it.

The registry's own collector does that beside the serving registry, which does not mind: what is
pulled is named by a manifest. A push is not, until its end, so whoever pushes holds ``lock``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from builder import folders
from core import logging
from core.settings import Settings

EVERY = 86400.0
EVERY_PRESSED = 600.0
SECONDS = 90.0
"""The longest that pushes wait for it."""

log = logging.get()


def lock(settings: Settings) -> Path:
    """Held by whoever pushes an image (``folders.using``)."""
    return settings.state / "registry.lock"


def collect(settings: Settings, *, pressed: bool = False) -> bool:
    """Removes them where it is time to; True where it was tried."""
    if not (settings.state / "registry-port").is_file() or not settings.registry_folder.is_dir():
        return False  # it is none of ours, or not on this machine
    stamp = settings.state / "registry-collected"
    age = time.time() - (stamp.stat().st_mtime if stamp.exists() else 0.0)
    if age < (EVERY_PRESSED if pressed else EVERY):
        return False
    with folders.alone(lock(settings)) as mine:
        if not mine:  # somebody pushes: the next time
            return False
        argv = [sys.executable, "-P", "-m", "supervisor.registry", "collect"]
        try:
            done = subprocess.run(
                argv,
                env=dict(os.environ) | settings.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("registry_not_collected", reason=str(error))
            return True
        if done.returncode:
            told = done.stderr.decode("utf-8", "replace").strip()[-500:]
            log.warning("registry_not_collected", reason=told)
    return True
