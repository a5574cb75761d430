"""The sandbox: what runs code that is not ours, for functions that stay and tests that end.

``Sandbox.from_settings(settings)`` finds out what this machine can enforce; ``start`` starts a
``Cell`` that outlives the caller, ``run`` runs one to its end. See launch.py for the order of
things, warm.py for cells that are forked of a warm parent instead, network.py for what a cell
reaches, seccomp.py for what it may not call.
"""

from core.sandbox.cell import SECRETS, Cell, Mount, Process, Result, describe_exit
from core.sandbox.interpreters import PATH
from core.sandbox.launch import LISTENER, exit_status, marker
from core.sandbox.network import Network
from core.sandbox.outlets import Outlets
from core.sandbox.process import (
    alive,
    ended,
    is_marked,
    kill,
    kill_marked,
    open_process,
    program,
    reap,
    released,
    terminate,
)
from core.sandbox.sandbox import Sandbox
from core.sandbox.warm import Parent, Seed, Unforkable

__all__ = [
    "LISTENER",
    "PATH",
    "SECRETS",
    "Cell",
    "Mount",
    "Network",
    "Outlets",
    "Parent",
    "Process",
    "Result",
    "Sandbox",
    "Seed",
    "Unforkable",
    "alive",
    "describe_exit",
    "ended",
    "exit_status",
    "is_marked",
    "kill",
    "kill_marked",
    "marker",
    "open_process",
    "program",
    "reap",
    "released",
    "terminate",
]
