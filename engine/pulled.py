"""Foreign images that we pulled ourselves go again once nothing needs them.

Each has a file in ``<state>/pulled-images`` with its name by digest and the name that it was asked
for by. What was in the engine already is not ours to remove, and has none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from core.errors import Conflict, InvalidRequest, NotFound
from core.pruning import Answer, Candidate, prune
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


def sweep(
    settings: Settings, engine: Engine, needed: Collection[str], grace: float, *, dry: bool = False
) -> Answer:
    """Removes those that nothing has needed for ``grace`` seconds; ``dry``: only tells which.

    ``needed``: images by digest, and names that functions were deployed by: those keep what the
    name stands for in the engine now. What a container uses stays, by the engine's word.

    Raises:
        Unavailable: the engine.
    """
    return prune(_unneeded(settings, engine, needed, grace, dry=dry), dry=dry)


def _unneeded(
    settings: Settings, engine: Engine, needed: Collection[str], grace: float, *, dry: bool
) -> Iterator[Candidate]:
    kept = {_name(each) for each in needed}
    folder = _folder(settings)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        pinned, _, asked = path.read_text().strip().partition("\n")
        if path.name.startswith(".") or not asked:  # a crash left it
            if not dry:
                path.unlink(missing_ok=True)
            continue
        current = _id(engine, asked) == _id(engine, pinned)
        used = pinned in kept or (asked in kept and current) or _used(engine, pinned)
        if used and not dry:
            os.utime(path)
        if not used and time.time() - path.stat().st_mtime > grace:
            names = [asked, pinned] if current else [pinned]
            size = functools.partial(weigh, engine, pinned)
            yield Candidate("image", pinned, functools.partial(_remove, engine, path, names), size)


def weigh(engine: Engine, name: str) -> int:
    """Bytes of an image with all its layers, some of which others may share; 0: not there.

    Raises:
        Unavailable: the engine.
    """
    with contextlib.suppress(NotFound), engine.asking(f"the image {name}") as api:
        return int(api.inspect_image(name)["Size"])
    return 0


def _used(engine: Engine, name: str) -> bool:
    """Whether a container is made of it."""
    with contextlib.suppress(NotFound), engine.asking(f"the image {name}") as api:
        return bool(api.containers(all=True, filters={"ancestor": name}))
    return False


def _remove(engine: Engine, path: Path, names: Sequence[str]) -> bool:
    if _used(engine, names[-1]):
        os.utime(path)
        return False
    for name in names:
        # Conflict: a container of it was just made.
        what = f"the image {name} is not removed"
        with contextlib.suppress(NotFound, Conflict), engine.asking(what) as api:
            api.remove_image(name)
    path.unlink(missing_ok=True)
    return True


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
