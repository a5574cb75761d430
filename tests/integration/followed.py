"""A process whose output a test follows while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

import pytest

from core.settings import Settings
from supervisor import parts


class Followed:
    """One process of ``slipway up`` or a part of it; its output is read by a thread."""

    def __init__(self, settings: Settings, argv: Sequence[str], **changed: str) -> None:
        self.settings = settings
        self.output = ""
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=parts.passed(os.environ) | settings.environment() | changed,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
        self.process.stdout.close()

    def await_line(self, start: str, seconds: float = 60) -> str:
        """The first line that starts so; the test fails when the process ends before it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.output.splitlines():
                if line.startswith(start):
                    return line
            assert self.process.poll() is None, self.output + self.logs()
            time.sleep(0.02)
        pytest.fail(f"no line {start!r} in {seconds} s:\n{self.output}{self.logs()}")

    def await_end(self, seconds: float = 60) -> int:
        status = self.process.wait(seconds)
        self._reader.join(10)
        return status

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.await_end()

    def logs(self) -> str:
        """The ends of the parts' own logs."""
        found = sorted((self.settings.state / "log").glob("*.log"))
        return "\n".join(f"== {each.name}\n{each.read_text()[-2000:]}" for each in found)
