"""The test's side of ``core.failpoints``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


class Points:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def arm(self, step: str) -> None:
        """Whoever gets there next will stand still."""
        self.clear()
        (self.folder / step).touch()

    def reached(self, step: str) -> int:
        """Pid of who stands there; 0: nobody yet."""
        try:
            return int((self.folder / f"{step}.reached").read_text())
        except FileNotFoundError:
            return 0

    def wait(self, step: str, seconds: float, over: Callable[[], bool]) -> int:
        """Pid of who has got there; 0: nobody did before ``over``, or in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = over()  # before the look
            if pid := self.reached(step):
                return pid
            if ended:
                break
            time.sleep(0.005)
        return 0

    def release(self, step: str) -> None:
        (self.folder / step).unlink(missing_ok=True)
        (self.folder / f"{step}.go").touch()

    def clear(self) -> None:
        for each in self.folder.iterdir():
            each.unlink(missing_ok=True)
