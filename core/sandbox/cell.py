"""The values of the sandbox: what shall run, what runs, how it ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core.errors import InvalidRequest
from core.models import Struct

SECRETS = "/var/openfaas/secrets"
"""Where a function finds its secrets, as OpenFaaS has it."""
Outcome = Literal["exited", "timeout", "output", "memory"]
"""How a run ended: by itself, or killed because it went over what it may."""


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host at an absolute path in the cell; read-only unless said."""

    source: Path
    target: str
    writable: bool = False
    """Only for what the cell alone uses: it may leave anything there, links included."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One program and its bounds."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """All of its environment."""
    cwd: str = "/tmp"
    mounts: Sequence[Mount] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    """Files in SECRETS that its user alone may read, out of memory. Not as root, where they would
    be root's: then they come as a mount."""
    uid: int | None = None
    """Its user and group, never 0; None: one that nothing else has, picked by the sandbox."""
    memory: int
    """Bytes."""
    cpus: float
    pids: int
    """Processes and threads."""
    tmp_size: int = 64 * 2**20
    """Bytes of /tmp and of /dev/shm each; what is in them counts as memory."""
    network: Literal["none", "egress"] = "none"
    """``egress``: the outside world and the edge, where this host can give it."""
    hostname: str = "function"

    def __post_init__(self) -> None:
        """Raises InvalidRequest for a NUL: it ends one of bubblewrap's options and begins another,
        so that a variable's value could mount the host."""
        texts = [*self.argv, *self.env, *self.env.values(), self.cwd, self.hostname]
        texts += [each for mount in self.mounts for each in (str(mount.source), mount.target)]
        if any("\0" in text for text in texts):
            raise InvalidRequest(
                "a command, a variable or a path holds a NUL character: take it out"
            )


class Process(Struct, frozen=True):
    """A started cell, as it can be kept in a file and found again by another process.

    Process ids come back, so each goes with its start time (clock ticks since boot, proc(5)) and
    all of it with the id of the boot.
    """

    pid: int
    """Pid 1 of its namespace: an init, whose first child (pid 2) is the program. With it all others
    of the namespace end. Without a sandbox: the program."""
    started: int
    monitor: int
    """bubblewrap outside, which ends when the program has; 0: forked of a warm parent, where the
    init does; ``pid`` where there is no sandbox."""
    boot: str
    cgroups: list[str]
    address: str = ""
    """Its IPv4 address; empty without a network."""


@dataclass(frozen=True)
class Result:
    """How a run to the end ended."""

    status: int
    """As a shell tells it: above 128 it was ended by signal status - 128."""
    outcome: Outcome
    seconds: float
    output: int
    """Bytes it wrote."""

    @property
    def ok(self) -> bool:
        return self.outcome == "exited" and self.status == 0


def describe_exit(status: int | None, *, out_of_memory: bool, memory: str) -> str:
    """Says for people how something ended; ``memory`` is its limit as text."""
    if out_of_memory and status in (None, 128 + signal.SIGKILL):
        return f"killed: over its memory limit of {memory}"
    if status is None:
        return "ended (its exit status is not known)"
    if status > 128:
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"exited with status {status}"
