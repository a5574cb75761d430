"""What a pull may take: a place among the others, time, patience, and room on the disk.

The engine tells of a layer's bytes as they are sent, and a small layer may unpack to a very large
one. What it takes on the disk is seen only there, and of the whole image once it is there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core import disk
from core.errors import Conflict, InvalidRequest, Unavailable
from core.settings import Settings
from engine.client import Engine
from engine.references import Reference

LONGEST = 600.0
"""Seconds for one pull, and at most as many for its wait for a place."""
SILENT = 60.0
"""Seconds without a word of the engine after which a pull is given up."""
OF_OWNERS, OF_ADMIN, OF_OURS = 8, 4, 4
"""Pulls at once: for owners' repositories, for the admin, and from our own registry, where what
was built here lies. None of the three waits for another."""
OF_OWNER, OF_REGISTRY = 2, 4
"""Of those, for one owner and from one registry: whose images hang holds up few others."""
UNPACKED = 4
"""An image may have so many times ``Settings.max_image`` on the disk: layers are sent packed."""
ROOM = 2**30
"""Bytes of the engine's disk that pulls leave free."""
TICK = 0.5

_turn = threading.Condition()
_taken: Counter[tuple[str, str]] = Counter()


@contextmanager
def place(settings: Settings, wanted: Reference, owner: str, bounds: Bounds) -> Iterator[None]:
    """Waits for one and keeps it.

    Raises:
        Conflict: it was called off meanwhile.
        Unavailable: others took all the time.
    """
    needs = _needs(settings, wanted, owner)
    with _turn:
        while any(_taken[each] >= most for each, most in needs.items()):
            _turn.wait(TICK)
            bounds.check_wait()
        _taken.update(needs.keys())
    bounds.begin()
    try:
        yield
    finally:
        with _turn:
            _taken.subtract(needs.keys())
            _turn.notify_all()


def _needs(settings: Settings, wanted: Reference, owner: str) -> dict[tuple[str, str], int]:
    """What is counted → its bound."""
    if owner:
        return {
            ("owners", ""): OF_OWNERS,
            ("owner", owner): OF_OWNER,
            ("owners' registry", wanted.host): OF_REGISTRY,
        }
    if settings.registry and wanted.host == settings.registry.partition("/")[0]:
        return {("ours", ""): OF_OURS}
    # Two hanging registries of the admin's own take all these; that is theirs to see.
    return {("admin", ""): OF_ADMIN, ("admin's registry", wanted.host): OF_REGISTRY // 2}


class Bounds:
    """What one pull may take of time, room and patience."""

    def __init__(
        self, engine: Engine, settings: Settings, what: str, stop: Callable[[], bool]
    ) -> None:
        """``what`` begins each error: ``the image x:1 is not pulled``.

        Raises:
            Unavailable: the engine does not answer.
        """
        self.what = what
        self._stop = stop
        self._most = settings.max_image
        self._begun = self._heard = time.monotonic()
        self._layers: dict[str, int] = {}
        """Layer → its packed bytes, as far as they are known."""
        self._disk = _disk(engine, settings, what)
        self._free = 0

    def begin(self) -> None:
        """Its place was found: from here on it takes time and room."""
        self._begun = self._heard = time.monotonic()
        self._free = disk.free(self._disk) if self._disk else 0

    def heard(self) -> None:
        self._heard = time.monotonic()

    def note(self, told: dict[str, Any]) -> None:
        """Takes note of one line; raises InvalidRequest once the image is too large."""
        detail = told.get("progressDetail") or {}
        size = max(int(detail.get("total") or 0), int(detail.get("current") or 0))
        layer = str(told.get("id", ""))
        self._layers[layer] = max(self._layers.get(layer, 0), size)
        if sum(self._layers.values()) > self._most:
            raise self._too_large("its layers have more than", self._most)

    def note_unpacked(self, size: int) -> None:
        """The same once it is there, and its bytes on the disk are known."""
        if size > UNPACKED * self._most:
            raise self._too_large("unpacked it has more than", UNPACKED * self._most)

    def _too_large(self, told: str, most: int) -> InvalidRequest:
        times = "" if most == self._most else f"{UNPACKED} times "
        return InvalidRequest(
            f"{self.what}: {told} {most // 2**20} MiB ({times}SLIPWAY_MAX_IMAGE): make it smaller, "
            "or have the administrator raise that"
        )

    def check_wait(self) -> None:
        """Raises where it has to end before it has begun."""
        if self._stop():
            raise Conflict(f"{self.what}: that was called off")
        if time.monotonic() - self._begun > LONGEST:
            raise Unavailable(f"{self.what}: others took all the time; it is tried again")

    def check(self) -> None:
        """Raises where the pull has to end."""
        if self._stop():
            raise Conflict(f"{self.what}: that was called off")
        now = time.monotonic()
        if now - self._heard > SILENT or now - self._begun > LONGEST:
            late = f"no answer in {SILENT:g} s" if now - self._heard > SILENT else "it takes long"
            raise Unavailable(
                f"{self.what}: {late}, at most {LONGEST:g} s are allowed: is its registry up?"
            )
        if self._disk:
            self._check_disk(disk.free(self._disk))

    def _check_disk(self, free: int) -> None:
        if free < ROOM:
            raise Unavailable(
                f"{self.what}: less than {ROOM // 2**20} MiB would be left on the engine's disk: "
                "make room there"
            )
        # Others write there as well, so it is not for sure this image's fault.
        if self._free - free > UNPACKED * self._most:
            raise Unavailable(
                f"{self.what}: meanwhile more than {UNPACKED * self._most // 2**20} MiB of the "
                f"engine's disk were taken ({UNPACKED} times SLIPWAY_MAX_IMAGE): is it so large?"
            )


def _disk(engine: Engine, settings: Settings, what: str) -> Path | None:
    """A folder on the engine's disk; None where that cannot be seen."""
    with engine.asking(what) as api:
        root = Path(str(api.info().get("DockerRootDir") or "/nowhere"))
    if root.is_dir():
        return root
    # Its socket is here and its folder is not: we are a container, and our state is a volume,
    # which the engine keeps in that folder.
    return settings.state if engine.url.startswith("unix:") else None
