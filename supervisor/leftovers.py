"""What an earlier supervisor left running, because it was killed: found again and ended.

``parts.json`` names every child by pid and start time; one that is somebody else by now is not
touched. Functions are not in it: they outlive us on purpose, and the controller adopts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from supervisor import processes

PATIENCE = 5.0
"""Seconds that leftovers have to end by themselves."""
LAST = "store"
"""Ended after all others, which write to it until they end."""


@dataclass(frozen=True)
class Record:
    """One child: ``started`` in clock ticks since boot, ``stop`` the signal that asks it to end."""

    name: str
    pid: int
    started: int
    stop: int
    tree: bool


class Leftovers:
    """The record of our children in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, records: Iterable[Record]) -> None:
        """Replaces the record in one step."""
        draft = self.path.with_suffix(".new")
        told = {"boot": processes.boot_id(), "parts": [asdict(record) for record in records]}
        draft.write_text(json.dumps(told))
        draft.replace(self.path)

    def read(self) -> list[Record]:
        """The children that still live."""
        try:
            told = json.loads(self.path.read_text())
            records = [Record(**each) for each in told["parts"]]
            if told["boot"] != processes.boot_id():
                return []
        except (OSError, ValueError, TypeError, KeyError):
            return []  # none yet, or torn by a power cut: then nothing of it runs any more
        return [each for each in records if processes.start_time(each.pid) == each.started]

    def end(self) -> list[str]:
        """Ends them, the store last; returns the names of those there were."""
        found = self.read()
        _end([each for each in found if each.name != LAST])
        _end([each for each in found if each.name == LAST])
        return [each.name for each in found]


def _end(records: Sequence[Record]) -> None:
    """Asks all at once, then ends what is left. Open pidfds keep every pid from being reused
    for a signal: a process that ended meanwhile shows, whoever has its number."""
    with contextlib.ExitStack() as held:
        living = []
        for record in records:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(record.pid)
                held.callback(os.close, descriptor)
                if processes.start_time(record.pid) == record.started:
                    signal.pidfd_send_signal(descriptor, record.stop)
                    living.append((record, descriptor))
        deadline = time.monotonic() + PATIENCE
        for record, descriptor in living:
            if not processes.ended(descriptor, deadline - time.monotonic()):
                processes.kill(record.pid, tree=record.tree)
                processes.ended(descriptor, PATIENCE)
