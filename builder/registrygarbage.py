"""Blobs that no image names any more go from the registry that ``slipway up`` started: once a day,
or when the disk is too full, and only while nothing is pushed to it.

The registry's own collector does that beside the serving registry, which does not mind: what is
pulled is named by a manifest. A push is not, until its end, so whoever pushes holds ``lock``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from builder import folders
from core import logging
from core.settings import Settings

EVERY = 86400.0
EVERY_PRESSED = 600.0
SECONDS = 240.0
"""The longest that pushes wait for it: more than ``supervisor.registry`` gives the collector and
the engine to remove it, as nothing may go on once they do not wait any more."""

log = logging.get()


def lock(settings: Settings) -> Path:
    """Held by whoever pushes an image (``folders.using``)."""
    return settings.state / "registry.lock"


def collect(
    settings: Settings, *, pressed: bool = False, check: Callable[[], object] = lambda: None
) -> bool:
    """Removes them where it is time to; True where it was tried. ``check`` is asked every second
    meanwhile: what it raises ends it, and is passed on."""
    if not (settings.state / "registry-port").is_file() or not settings.registry_folder.is_dir():
        return False  # it is none of ours, or not on this machine
    stamp = settings.state / "registry-collected"
    age = time.time() - (stamp.stat().st_mtime if stamp.exists() else 0.0)
    if age < (EVERY_PRESSED if pressed else EVERY):
        return False
    with folders.alone(lock(settings)) as mine:
        if not mine:  # somebody pushes: the next time
            return False
        try:
            told = _collect(settings, check)
        except OSError as error:  # the disk may be full: what is asked for here is room
            told = str(error)
        if told:
            log.warning("registry_not_collected", reason=told)
    return True


def _collect(settings: Settings, check: Callable[[], object]) -> str:
    """Returns what went wrong, or ''. Leaves nothing that goes on."""
    argv = [sys.executable, "-P", "-m", "supervisor.registry", "collect"]
    deadline = time.monotonic() + SECONDS
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            argv,
            env=dict(os.environ) | settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        ) as process:
            try:
                while process.poll() is None and time.monotonic() < deadline:
                    check()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(1.0)
            finally:
                process.terminate()  # where it has not ended: it ends its collector, too
        if not process.returncode:
            return ""
        said.seek(0)
        return said.read().decode("utf-8", "replace").strip()[-500:] or f"{process.returncode}"
