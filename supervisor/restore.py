"""Starts an installation anew from a backup: all of it beside the state folder first, then moved to
its place in one step. What is damaged or hostile changes nothing.

A Redis of the admin's own is filled after that, in one transaction; where that fails, the folder
goes back. Killed between the two, the earlier Redis is whole, and it can be done again by force.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import redis

from core import keys, names, queues
from core.errors import ConfigError, InvalidRequest, Unavailable
from core.repositories import Repository
from core.sealedbox import FINGERPRINT
from core.settings import Settings
from core.store import Store, connect
from core.store.snapshot import Snapshot, checked
from gateway import bare
from runtime.sealingkeys import read_key
from supervisor import claims, ownstore
from supervisor.archivereader import read
from supervisor.backup import (
    BUNDLE,
    GIT,
    KEYS,
    SEALING_KEYS,
    STORE,
    Made,
    key_files,
    own_repositories,
)
from supervisor.leftovers import Leftovers

_LARGEST_STORE = 2**30
_LARGEST_KEY = 4096
_SEALING_KEY = re.compile(rf"{re.escape(KEYS + SEALING_KEYS)}({FINGERPRINT.pattern})")
_REPOSITORY = re.compile(rf"{re.escape(GIT)}([^/]+)/([^/]+){re.escape(BUNDLE)}")


def restore(
    settings: Settings, env: Mapping[str, str], source: Path, passphrase: bytes, *, force: bool
) -> tuple[Made, Path | None]:
    """Returns what came back, and where an earlier state is kept now, if ``force`` moved one away.

    Raises:
        InvalidRequest: it is no backup, or a damaged one.
        ConfigError: something runs or is there already, or it cannot be written.
        Unavailable: a Redis of the admin's own does not answer.
    """
    state = settings.state
    if state.is_mount():
        raise ConfigError(
            f"{state} is a mount point, which cannot be replaced in one step: name a folder on it "
            "with --state. Under compose volumes are copied instead: see docs/compose.md, Backup"
        )
    lock = claims.claim_state(settings)
    try:
        _refuse_what_is_there(settings, force=force)
        own = Store(connect(settings.redis_url)) if settings.redis_url else None
        side = state.with_name(f".{state.name}.restore-{secrets.token_hex(4)}")
        try:
            if own:
                _to_replace(own, force=force)
            side.mkdir(mode=0o700)
            beside = replace(settings, state=side)
            snapshot, repositories = _unpack(settings, beside, source, passphrase)
            if own is None:
                _fill(beside, env, snapshot)
            os.sync()
            with _swapped(state, side) as earlier:
                if own:
                    own.begin_with(snapshot, _to_replace(own, force=force))
        except OSError as error:
            raise ConfigError(f"{side} cannot be made: {error.strerror}") from error
        except redis.RedisError as error:
            which = "the Redis of SLIPWAY_REDIS_URL" if own else "the store"
            raise Unavailable(
                f"{which} does not answer: {error}. Restore again when it does"
            ) from error
        finally:
            shutil.rmtree(side, ignore_errors=True)
    finally:
        os.close(lock)
    made = Made(len(snapshot.functions), len(snapshot.hashes[keys.SECRETS]), repositories)
    return made, earlier


def _refuse_what_is_there(settings: Settings, *, force: bool) -> None:
    if not force and _content(settings.state):
        raise ConfigError(
            f"{settings.state} is in use already. Name an empty folder with --state; or move what "
            "is there aside with --force"
        )
    Leftovers(settings.state / "parts").end()
    with contextlib.suppress(OSError):
        if any(settings.instances.iterdir()):
            raise ConfigError(
                f"functions of {settings.state} still run: start Slipway there and end it with "
                "Ctrl-C, which ends them; then restore"
            )


def _content(state: Path) -> list[str]:
    return sorted({path.name for path in state.iterdir()} - {"lock", "parts"})


def _unpack(
    settings: Settings, beside: Settings, source: Path, passphrase: bytes
) -> tuple[Snapshot, int]:
    """Writes keys and repositories beside; nothing is used before all of it was read and checked.

    Returns the snapshot and how many repositories there are.
    """
    bundles = beside.state / "bundles-to-read"
    bundles.mkdir(mode=0o700)
    known = key_files(settings)
    found: dict[str, bytes] = {}
    waiting: dict[str, Path] = {}
    raw: bytes | None = None
    for name, content in read(source, passphrase):
        if name == STORE:
            raw = _bounded(name, content, _LARGEST_STORE)
        elif name.startswith(KEYS) and name.removeprefix(KEYS) in known:
            found[name.removeprefix(KEYS)] = _bounded(name, content, _LARGEST_KEY)
        elif match := _SEALING_KEY.fullmatch(name):
            _put_sealing_key(beside, match[1], _bounded(name, content, _LARGEST_KEY))
        elif match := _REPOSITORY.fullmatch(name):
            key = f"{names.namespace(match[1])}/{names.repository_name(match[2])}"
            waiting[key] = bundles / str(len(waiting))
            _write(waiting[key], content)
        else:
            raise InvalidRequest(f"{source} has {name[:100]!r}, which a backup does not have")
    if raw is None:
        raise InvalidRequest(f"{source} has no {STORE}")
    snapshot = _snapshot(source, raw)
    own = {repository.key: repository for repository in own_repositories(snapshot)}
    if strangers := waiting.keys() - own.keys():
        raise InvalidRequest(
            f"{source} has the repository {min(strangers)}, which it does not name"
        )
    for name, value in found.items():
        _put_key(settings, beside, name, value, used=bool(snapshot.hashes[keys.SECRETS]))
    for key, repository in own.items():
        _make_repository(beside, repository, waiting.get(key))
    shutil.rmtree(bundles)
    return snapshot, len(own)


def _snapshot(source: Path, raw: bytes) -> Snapshot:
    try:
        snapshot = msgspec.json.decode(raw, type=Snapshot)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(f"{source} has a damaged {STORE}: {error}") from error
    whole = {key: snapshot.hashes.get(key, {}) for key in keys.BACKED_UP} | snapshot.hashes
    snapshot = msgspec.structs.replace(snapshot, hashes=whole)
    checked(snapshot)
    return snapshot


def _put_key(settings: Settings, beside: Settings, name: str, value: bytes, *, used: bool) -> None:
    """A file that the settings name outside of the state folder is the admin's own, and is left
    alone."""
    # Links stay as they are named: what is moved aside takes its links along.
    path, state = (
        Path(os.path.abspath(each))  # noqa: PTH100 - resolve() would follow them
        for each in (key_files(settings)[name], settings.state)
    )
    if path.is_relative_to(state):
        path = beside.state / path.relative_to(state)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path, [value])
    elif name == "secrets-key" and used and _content_of(path) != value.strip():
        raise ConfigError(
            f"{path} is not the key that the secrets of this backup are sealed with. Unset "
            "SLIPWAY_SECRETS_KEY_FILE to have the backup's own, or put the right file there"
        )


def _put_sealing_key(beside: Settings, fingerprint: str, value: bytes) -> None:
    """Raises InvalidRequest: it is not the key that it is called by."""
    try:
        read_key(value, fingerprint)
    except ConfigError as error:
        raise InvalidRequest(f"the backup has a damaged sealing key: {error}") from error
    beside.sealing_keys.mkdir(mode=0o700, exist_ok=True)
    _write(beside.sealing_keys / fingerprint, [value])


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError:
        return b""


def _make_repository(beside: Settings, repository: Repository, bundle: Path | None) -> None:
    """Raises InvalidRequest: the bundle is damaged, or holds what git finds wrong."""
    path = bare.folder(beside, repository.namespace, repository.name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    branch = repository.deploy_branch or "main"
    runs = [["init", "--quiet", "--bare", "--template=", f"--initial-branch={branch}", str(path)]]
    if bundle:
        checks = ["-c", "fetch.fsckObjects=true", "-c", "protocol.file.allow=always"]
        fetch = ["fetch", "--quiet", "--no-tags", "--no-auto-gc", str(bundle), "+refs/*:refs/*"]
        runs.append(["-C", str(path), *checks, *fetch])
    for arguments in runs:
        done = subprocess.run(
            ["git", *arguments],
            env=bare.environment(beside, path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()[-500:]
            raise InvalidRequest(f"the repository {repository.key} cannot be restored: {words}")
    if bundle:
        bundle.unlink()


def _fill(beside: Settings, env: Mapping[str, str], snapshot: Snapshot) -> None:
    with ownstore.started(beside, env) as store:
        store.begin_with(snapshot)
    shutil.rmtree(beside.run)
    shutil.rmtree(beside.state / "parts")


def _to_replace(store: Store, *, force: bool) -> list[bytes]:
    """The keys of an earlier Slipway in a Redis of the admin's own.

    Raises:
        ConfigError: a Slipway lives there, or there are such keys without ``force``.
    """
    if living := sorted(store.beats("")):
        raise ConfigError(
            f"a Slipway runs on the Redis of SLIPWAY_REDIS_URL ({', '.join(living[:5])}): end it, "
            "and restore when its last signs of life are gone, in half a minute; or name another "
            "Redis"
        )
    found = [*store.ours(), *queues.keys_of(store)]
    if found and not force:
        raise ConfigError(
            "the Redis of SLIPWAY_REDIS_URL is in use already: name an empty one, or have what is "
            "Slipway's in it deleted with --force"
        )
    return found


@contextlib.contextmanager
def _swapped(state: Path, side: Path) -> Iterator[Path | None]:
    """``_swap``, undone where the body fails."""
    earlier = _swap(state, side)
    try:
        yield earlier
    except BaseException:
        state.rename(side)
        if earlier:
            earlier.rename(state)
        raise


def _swap(state: Path, side: Path) -> Path | None:
    """Moves the new folder to its place; returns where the earlier one is, if there was any."""
    if not _content(state):
        for name in ("lock", "parts"):
            path = state / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        side.rename(state)  # over an empty folder: one step
        return None
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    earlier = state.with_name(f"{state.name}.before-restore-{now}")
    state.rename(earlier)
    try:
        side.rename(state)
    except OSError:
        earlier.rename(state)
        raise
    return earlier


def _bounded(name: str, content: Iterator[bytes], most: int) -> bytes:
    data = bytearray()
    for chunk in content:
        data += chunk
        if len(data) > most:
            raise InvalidRequest(f"{name} of the backup has more than {most} bytes")
    return bytes(data)


def _write(path: Path, content: Iterator[bytes] | list[bytes]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        for chunk in content:
            out.write(chunk)
