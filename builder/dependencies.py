"""Installs what a function depends on: its template's packages and its own, in one layer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import folders, node_dependencies, packagejson, python_dependencies, requirements
from builder.context import MODIFIED
from builder.secrets import memory
from core.bundle import Layer
from core.errors import BuildFailed
from core.settings import Settings

if TYPE_CHECKING:
    from builder.templates import Template

Out = Callable[[str], None]

LAID_OUT = ".dependencies"
"""The folder of a context from which an image's build installs."""


def install(
    settings: Settings,
    namespace: str,
    template: Template,
    app: Path,
    out: Out,
    check: Callable[[], None] = lambda: None,
    *,
    network: bool = True,
) -> list[Layer]:
    """Makes, or finds, the layers of one function; ``app`` is its finished context. ``check`` is
    asked again and again: what it raises ends it. ``network``: whether packages may be fetched that
    the function names and the owner does not have yet.

    Raises:
        BuildFailed: mistakes in the function's files, or packages that do not fit together.
        Unavailable: registry or disk; trying again can help.
    """
    network = network or ours_alone(template, app)
    if language(template) == "python":
        found = _requirements(template, app)
        layer = python_dependencies.install(settings, namespace, found, out, check, network=network)
    elif language(template) == "node":
        layer = node_layer(settings, namespace, template, app, out, check=check, network=network)
    else:
        layer = None
    return [layer] if layer else []


def ours_alone(template: Template, app: Path) -> bool:
    """Whether all that is installed is what a template of this installation names itself."""
    own = app / template.handler_folder
    if not template.ours or own == app:
        return False
    if language(template) == "python":
        data = _read(own / "requirements.txt", requirements.MAX_BYTES) or b""
        return not requirements.parse(data, "requirements.txt")
    return not read_manifest(own).wanted


def lay_out(template: Template, app: Path) -> None:
    """Reads what ``install`` would, and writes it out again into ``app``'s folder ``LAID_OUT``.

    A user's own file is never given to uv or npm: they read in it what we do not, such as an
    option that sends the registry's credentials elsewhere.

    Raises:
        BuildFailed: mistakes in the function's files, in the words of ``install``.
    """
    files = {}
    if language(template) == "python":
        found = _requirements(template, app).items()
        wanted = [pin for path, data in found for pin in requirements.parse(data, path)]
        files["requirements.txt"] = requirements.render(wanted)
    elif language(template) == "node":
        manifest, lock = _node(template, app)
        files["package.json"] = manifest.text()
        if lock:
            files["package-lock.json"] = lock
    folder = app / LAID_OUT
    folder.mkdir(mode=0o755)
    for name, text in files.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o644)
    for path in (*folder.iterdir(), folder, app):
        os.utime(path, (MODIFIED, MODIFIED))


def _requirements(template: Template, app: Path) -> dict[str, bytes]:
    """The template's and the function's requirements: what mistakes call them → content."""
    own = app / template.handler_folder
    files = {}
    if own != app:
        files[f"the requirements.txt of the template {template.name}"] = app
    files["requirements.txt"] = own
    return {
        name: data
        for name, folder in files.items()
        if (data := _read(folder / "requirements.txt", requirements.MAX_BYTES)) is not None
    }


def node_layer(
    settings: Settings,
    namespace: str,
    template: Template,
    app: Path,
    out: Out,
    development: bool = False,
    check: Callable[[], None] = lambda: None,
    network: bool = True,
) -> Layer | None:
    """The node_modules of one function; ``development``: with what only its tests need."""
    manifest, lock = _node(template, app)
    return node_dependencies.install(
        settings,
        namespace,
        manifest,
        lock,
        out,
        development=development,
        check=check,
        network=network,
    )


def _node(template: Template, app: Path) -> tuple[packagejson.Manifest, str]:
    """What npm is given for a function: its manifest, and its lock or ''."""
    own = app / template.handler_folder
    manifest = read_manifest(own)
    lock_data = _read(own / "package-lock.json", packagejson.MAX_LOCK_BYTES)
    lock = packagejson.parse_lock(lock_data, "package-lock.json") if lock_data else ""
    if own != app:
        needed = read_manifest(app, f"the package.json of the template {template.name}")
        if needed.wanted.get("dependencies"):
            # The lock knows nothing of the template's packages.
            manifest, lock = node_dependencies.merged(manifest, needed, template.name), ""
    return manifest, lock


def read_manifest(folder: Path, told: str = "package.json") -> packagejson.Manifest:
    """A folder's package.json; an empty one where there is none."""
    data = _read(folder / "package.json", packagejson.MAX_BYTES)
    return packagejson.parse(data, told) if data is not None else packagejson.Manifest()


def language(template: Template) -> Literal["python", "node", ""]:
    """What a template's server is written in, by the program that runs it."""
    program = Path(template.process[0]).name if template.process else ""
    if program.startswith("python"):
        return "python"
    return "node" if program == "node" else ""


def sweep(settings: Settings) -> int:
    """Removes what builds that were killed left half-made; returns how many folders."""
    kinds = (settings.bundles, settings.layers, settings.caches, settings.templates)
    owners = [owner for kind in kinds for owner in kind.glob("*") if owner.is_dir()]
    kept = (settings.caches, settings.templates)  # where whole owners' folders go
    places = (settings.state / folders.WORK, memory(settings), *kept, *owners)
    return sum(folders.sweep(parent) for parent in places)


def _read(path: Path, limit: int) -> bytes | None:
    """A file's content, one byte more than ``limit`` at most, so that its reader can refuse it."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise BuildFailed(
            f"{path.name!r} is a folder, and the file of that name says which packages are needed: "
            "rename the folder"
        ) from None
