"""Foreign images that we pulled ourselves go again once nothing needs them.

Each has a file in ``<state>/pulled-images`` with its name by digest and the name that it was asked
for by. What was in the engine already is not ours to remove, and has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from core.errors import Conflict, InvalidRequest, NotFound
from core.settings import Settings
from engine import references
from engine.client import Engine


def note(settings: Settings, pinned: str, asked: str) -> None:
    """An image was pulled that had not been there: as ``name@sha256:…``, asked for by a name."""
    folder = _folder(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / hashlib.sha256(pinned.encode()).hexdigest()[:32]
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(f"{pinned}\n{asked}\n")
    fresh.replace(path)


def brought(settings: Settings, engine: Engine, asked: str, id_: str) -> bool:
    """Whether ``id_``, what this name stood for, came by a pull of ours for that name."""
    folder = _folder(settings)
    return any(
        known == asked and _id(engine, pinned) == id_
        for path in (folder.iterdir() if folder.is_dir() else ())
        for pinned, _, known in [path.read_text().strip().partition("\n")]
    )


def sweep(settings: Settings, engine: Engine, needed: Collection[str], grace: float) -> int:
    """Removes those that nothing has needed for ``grace`` seconds; returns how many.

    ``needed``: images by digest, and names that functions were deployed by: those keep what the
    name stands for in the engine now. What a container uses stays, by the engine's word.

    Raises:
        Unavailable: the engine.
    """
    kept = {_name(each) for each in needed}
    count = 0
    folder = _folder(settings)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        pinned, _, asked = path.read_text().strip().partition("\n")
        if path.name.startswith(".") or not asked:  # a crash left it
            path.unlink(missing_ok=True)
            continue
        current = _id(engine, asked) == _id(engine, pinned)
        if pinned in kept or (asked in kept and current):
            os.utime(path)
        elif time.time() - path.stat().st_mtime > grace:
            count += _remove(engine, path, [asked, pinned] if current else [pinned])
    return count


def _remove(engine: Engine, path: Path, names: Sequence[str]) -> int:
    what = f"the image {names[-1]} is not removed"
    with engine.asking(what) as api:
        used = api.containers(all=True, filters={"ancestor": names[-1]})
    if used:
        os.utime(path)
        return 0
    for name in names:
        # Conflict: a container of it was just made.
        with contextlib.suppress(NotFound, Conflict), engine.asking(what) as api:
            api.remove_image(name)
    path.unlink(missing_ok=True)
    return 1


def _name(artifact: str) -> str:
    try:
        return references.parse(artifact).name
    except InvalidRequest:  # a bundle
        return artifact


def _id(engine: Engine, name: str) -> str:
    with contextlib.suppress(NotFound), engine.asking(f"the image {name} is not found") as api:
        return str(api.inspect_image(name)["Id"])
    return ""


def _folder(settings: Settings) -> Path:
    return settings.state / "pulled-images"
