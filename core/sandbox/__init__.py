"""The sandbox: what runs code that is not ours, for functions that stay and tests that end.

``Sandbox.from_settings(settings)`` finds out what this machine can enforce; ``start`` starts a
``Cell`` that outlives the caller, ``run`` runs one to its end. See launch.py for the order of
things, network.py for what a cell reaches, seccomp.py for what it may not call.
"""

from core.sandbox.cell import SECRETS, Cell, Mount, Process, Result, describe_exit
from core.sandbox.interpreters import PATH
from core.sandbox.launch import LISTENER, exit_status, marker
from core.sandbox.network import Network
from core.sandbox.process import (
    alive,
    ended,
    is_marked,
    kill,
    kill_marked,
    open_process,
    program,
    reap,
    terminate,
)
from core.sandbox.sandbox import Sandbox

__all__ = [
    "LISTENER",
    "PATH",
    "SECRETS",
    "Cell",
    "Mount",
    "Network",
    "Process",
    "Result",
    "Sandbox",
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
    "terminate",
]
