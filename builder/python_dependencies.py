"""Python dependencies: requirements → one lock → a read-only folder of installed wheels.

    <state>/caches/<namespace>/uv/                 uv's downloads
    <state>/caches/<namespace>/locks/<inputs>.txt  what these inputs resolved to, once
    <state>/layers/<namespace>/<key>/              the layer

Unchanged requirements need neither the network nor the resolver: inputs → lock → layer are two
small reads. Only wheels are installed, so nothing foreign runs here. Each owner has a cache and
layers of their own: nobody can put files under another one's functions.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import uv

from builder import bounded, folders, registries, requirements, tool
from builder.previews import HOW
from core import names
from core.bundle import Layer, layer_folder
from core.errors import BuildFailed, Unavailable
from core.sandbox.interpreters import BIN
from core.settings import Settings

Out = Callable[[str], None]
Check = Callable[[], None]
Kind = Literal["python", "test"]

_LOCK_BYTES = 8 * 2**20

NETWORK = re.compile(
    r"error sending request|dns error|timed out|\(5\d\d|server error|429|[Cc]onnection"
    r"|certificate|Could not connect|broken pipe|unexpected (EOF|end of file)"
)
_OURS = re.compile(r"Using CPython .* at: ")
"""A line that tells of this machine, not of the packages."""
NO_WHEEL = re.compile(r"no (usable )?wheels|building from source is disabled|no-build", re.I)


def install(
    settings: Settings,
    namespace: str,
    files: Mapping[str, bytes],
    out: Out,
    check: Check = lambda: None,
    *,
    network: bool = True,
) -> Layer | None:
    """Makes the layer for the requirements files of one function, all resolved together.

    ``files``: what mistakes call it → content. ``check`` is asked again and again, and ends it by
    raising. ``network``: whether wheels may be fetched that are not in the owner's cache. Returns
    None where nothing is required.

    Raises:
        BuildFailed: mistakes in a file, or there are no versions or wheels that fit.
        Unavailable: registry or disk; trying again can help.
    """
    wanted = [pin for path, data in files.items() for pin in requirements.parse(data, path)]
    if not wanted:
        return None
    text = requirements.render(wanted)
    memo = _caches(settings, namespace) / "locks" / f"{_digest('inputs', text)}.txt"
    lock = _remembered(memo)
    if lock and folders.used(layer_folder(settings, namespace, layer := _layer("python", lock))):
        return layer
    with folders.turn(memo.with_suffix(".lock"), check):
        lock = _remembered(memo)  # another function of the same commit may have been faster
        if lock:
            try:
                return install_lock(
                    settings, namespace, "python", lock, out, check, network=network
                )
            except BuildFailed:
                out("what these requirements resolved to before is gone: resolving them anew")
                memo.unlink()
        lock = _resolve(settings, namespace, wanted, out, check, network)
        layer = install_lock(settings, namespace, "python", lock, out, check, network=network)
        _remember(memo, lock)
        return layer


def install_lock(
    settings: Settings,
    namespace: str,
    kind: Kind,
    lock: str,
    out: Out,
    check: Check = lambda: None,
    *,
    network: bool = True,
) -> Layer:
    """Makes the layer of a lock file with hashes, or finds it; errors as ``install``."""
    layer = _layer(kind, lock)
    final = layer_folder(settings, namespace, layer)
    if folders.used(final):
        return layer
    with folders.turn(_caches(settings, namespace) / "locks" / f"{layer.digest}.lock", check):
        if folders.used(final):
            return layer
        with folders.making(final.parent) as new, folders.making(_caches(settings, namespace)) as h:
            (h / "lock.txt").write_text(lock)
            ended = _uv(
                settings,
                namespace,
                [
                    *("install", "--target", str(new), "--requirements", "lock.txt"),
                    *("--no-deps", "--require-hashes", "--compile-bytecode"),
                    *("--link-mode", "hardlink"),
                ],
                h,
                out,
                check,
                network,
            )
            if not ended.ok:
                what = "the dependencies were not installed"
                raise _error(ended, what, settings) if network else offline(ended)
            (new / ".lock").unlink(missing_ok=True)  # uv's own, of the installation
            _relink(new / "bin")
            folders.settle(new, final)
    return layer


def _resolve(
    settings: Settings,
    namespace: str,
    wanted: list[requirements.Pin],
    out: Out,
    check: Check,
    network: bool,
) -> str:
    with folders.making(_caches(settings, namespace)) as home:
        (home / "in.txt").write_text(
            requirements.render(requirements.Pin(pin.requirement) for pin in wanted)
        )
        ended = _uv(
            settings,
            namespace,
            [
                *("compile", "in.txt", "--output-file", "lock.txt", "--generate-hashes"),
                *("--no-header", "--no-annotate", "--no-strip-extras", "--quiet"),
            ],
            home,
            out,
            check,
            network,
        )
        if not ended.ok:
            what = "the requirements do not resolve"
            raise _error(ended, what, settings) if network else offline(ended)
        data = (home / "lock.txt").read_bytes()
    lock = requirements.restrict(requirements.parse(data, "uv's lock", _LOCK_BYTES), wanted)
    out(f"resolved {len(lock)} package{'s' if len(lock) != 1 else ''}")
    return requirements.render(lock)


def _uv(
    settings: Settings,
    namespace: str,
    arguments: list[str],
    home: Path,
    out: Out,
    check: Check,
    network: bool,
) -> bounded.Ended:
    cache = _caches(settings, namespace) / "uv"
    with folders.using(folders.cache_lock(settings, namespace, "uv"), check):
        cache.mkdir(parents=True, exist_ok=True)
        return tool.run(
            settings,
            [
                *(uv.find_uv_bin(), "pip", *arguments),
                *("--only-binary", ":all:", "--no-config", "--python", sys.executable),
                *("--offline",) * (not network),
            ],
            cwd=home,
            env=registries.uv_environment(os.environ, home, cache),
            out=lambda line: None if _OURS.match(line) else out(line),
            check=check,
        )


def offline(ended: bounded.Ended) -> BuildFailed:
    """Of a build that fetches nothing."""
    told = registries.without_passwords("\n".join(ended.tail[-20:])).strip()
    return BuildFailed(
        "the dependencies were not installed: a request from a fork fetches no packages while it "
        f"is built; {HOW}\n{told}",
        step="dependencies",
    )


def _relink(folder: Path) -> None:
    """Lets installed programs name the interpreter that functions have, not the builder's."""
    ours = f"#!{sys.executable}\n".encode()
    for script in folder.glob("*"):
        content = script.read_bytes() if script.is_file() and not script.is_symlink() else b""
        if content.startswith(ours):
            mode = script.stat().st_mode
            script.unlink()  # it may be a hard link into the cache
            script.write_bytes(f"#!{BIN}/python3\n".encode() + content[len(ours) :])
            script.chmod(mode)


def _error(ended: bounded.Ended, what: str, settings: Settings) -> BuildFailed | Unavailable:
    """uv's exit status: 1 the requirements have no solution, 2 anything else."""
    told = "\n".join(line for line in ended.tail if not _OURS.match(line)).strip()
    told = registries.without_passwords(told)
    if "No space left on device" in told or "Disk quota exceeded" in told:
        return folders.full(settings.state)
    if ended.status == 2 and NETWORK.search(told):
        return Unavailable(f"{what}: the package registry cannot be reached; try again\n{told}")
    if NO_WHEEL.search(told):
        told += (
            "\nOnly wheels are installed: source packages run foreign code while they build. "
            "Choose a version that has a wheel for "
            f"Python {platform.python_version()} on {sysconfig.get_platform()}."
        )
    return BuildFailed(f"{what}:\n{told}", step="dependencies")


def _layer(kind: Kind, lock: str) -> Layer:
    return Layer(kind=kind, digest=_digest("layer", lock))


def _digest(what: str, text: str) -> str:
    """Content address of a text for this interpreter, machine and uv."""
    return hashlib.sha256("\0".join([what, *_platform(), text]).encode()).hexdigest()


@functools.cache
def _platform() -> tuple[str, ...]:
    return (
        str(sysconfig.get_config_var("SOABI")),
        platform.machine(),
        importlib.metadata.version("uv"),
    )


def _caches(settings: Settings, namespace: str) -> Path:
    return settings.caches / names.namespace(namespace)


def _remembered(memo: Path) -> str:
    try:
        os.utime(memo)  # so that it is kept
        return memo.read_text()
    except FileNotFoundError:
        return ""


def _remember(memo: Path, lock: str) -> None:
    new = memo.with_suffix(".new")
    new.write_text(lock)
    new.rename(memo)
