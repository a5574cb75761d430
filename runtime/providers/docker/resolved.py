"""Which image each revision of a foreign image's function runs, kept over restarts.

A function that sleeps has no container to tell it, and its tag may have moved by the time it is
woken. Each function has a file in ``<state>/resolved-images``: a line for each of its last
revisions, with the image's name as it was deployed and what that stood for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Collection

from core.models import FunctionSpec
from core.settings import Settings

log = logging.getLogger(__name__)

_KEPT = 8
"""Revisions of a function: what is deployed, what serves until then, and some that still end."""


class Resolved:
    """Safe to use from threads of one process."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.state / "resolved-images"
        self._lock = threading.Lock()

    def get(self, spec: FunctionSpec) -> str:
        """``name@sha256:…`` or an id; '' where it was not decided yet."""
        with self._lock:
            return self._find(spec)

    def keep(self, spec: FunctionSpec, image: str) -> str:
        """Takes down what it stands for; returns that, or what another replica found before."""
        with self._lock:
            if known := self._find(spec):
                return known
            lines = [*self._read(spec.function), (spec.revision, spec.artifact, image)]
            self._write(spec.function, lines[-_KEPT:])
            return image

    def drop(self, spec: FunctionSpec) -> None:
        """That image is gone for good."""
        with self._lock:
            lines = self._read(spec.function)
            self._write(spec.function, [each for each in lines if each[0] != spec.revision])

    def tidy(self, needed: Collection[str]) -> None:
        """Forgets those whose image, as it was deployed, nothing needs any more."""
        for path in list(self._folder.iterdir()) if self._folder.is_dir() else ():
            with self._lock:
                lines = self._read(path.name)
                left = [each for each in lines if each[1] in needed]
                if left != lines or not left:
                    self._write(path.name, left)

    def _find(self, spec: FunctionSpec) -> str:
        found = (
            image for revision, _, image in self._read(spec.function) if revision == spec.revision
        )
        return next(found, "")

    def _read(self, function: str) -> list[tuple[str, str, str]]:
        try:
            text = (self._folder / function).read_text()
        except (OSError, UnicodeDecodeError):
            return []
        rows = (line.split(" ") for line in text.splitlines())
        return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]

    def _write(self, function: str, lines: Collection[tuple[str, str, str]]) -> None:
        path = self._folder / function
        fresh = self._folder / f".{os.getpid()}"
        try:
            if not lines:
                path.unlink(missing_ok=True)
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text("".join(f"{' '.join(line)}\n" for line in lines))
            fresh.replace(path)
        except OSError as error:  # a full disk: it is asked for anew after a restart
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            log.warning("which image %s runs is not kept: %s", function, error)
