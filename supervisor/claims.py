"""What one Slipway has for itself: the state folder and its lock, the run folder, the port. And
what it says of itself there, for commands in shells that know nothing of its settings."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import json
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from core.errors import ConfigError, SlipwayError
from core.settings import Settings

BACKLOG = 4096
"""Connections that wait while the edge is being restarted; the kernel may cap it (somaxconn)."""


def claim_state(settings: Settings) -> int:
    """Makes the state folder (0700), locks it; returns the lock's descriptor, held until closed.

    Raises:
        ConfigError: another Slipway has it, or it cannot be used.
    """
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        settings.state.chmod(0o700)
        path = settings.state / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the state folder {settings.state} cannot be used: {error.strerror}. Make it yours, "
            "or choose another one with SLIPWAY_STATE"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise ConfigError(
            f"another Slipway (process {holder}) has the state folder {settings.state}. Use that "
            f"one; or end it (Ctrl-C where it runs, or: kill {holder}); or give this one a folder "
            "and a port of its own with SLIPWAY_STATE and SLIPWAY_PORT"
        ) from None
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    _told(settings.state).unlink(missing_ok=True)  # an earlier run's
    return lock


def tell_settings(settings: Settings) -> None:
    """Writes down what this run uses, without its secrets."""
    path = _told(settings.state)
    draft = path.with_name(f".{path.name}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(settings.describe(), out)
    draft.replace(path)  # in one step: others read it


def told_settings(state: Path) -> Settings | None:
    """What the run that has the state folder uses, its secrets masked; None where it does not say:
    it is only starting, or another version, or somebody else's."""
    with suppress(OSError, ValueError, SlipwayError):
        return Settings.from_env(json.loads(_told(state).read_text()))
    return None


def make_run_folder(folder: Path, *inside: Path) -> None:
    """Makes the folder of sockets and those ``inside`` of it, for us alone: in /tmp anybody might
    have made it before.

    Raises:
        ConfigError: it belongs to somebody else, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(
                f"{folder} is not a folder of this user: remove it, or choose a state folder with "
                "a shorter path (SLIPWAY_STATE), whose sockets need no folder in /tmp"
            )
        folder.chmod(0o700)
        for each in inside:
            each.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error


def claim_port(settings: Settings) -> socket.socket:
    """Binds the public address and listens; connections wait until somebody accepts them.

    A wildcard socket allows others of the same user beside it (SO_REUSEPORT), for the functions'
    own listener: the kernel prefers the narrower address, so that functions never reach the public
    one. A first bind without it finds out whether the port is free.

    Raises:
        ConfigError: the port is taken, not allowed, or the address is not ours.
    """
    family, address = _resolve(settings)
    try:
        listener = _listen(family, address, share=False)
        if _ip(address).is_unspecified:
            listener.close()
            listener = _listen(family, address, share=True)
    except OSError as error:
        raise ConfigError(_why_not(settings, error)) from error
    return listener


def claim_local(settings: Settings) -> socket.socket:
    """Listens on loopback for this machine's own parts, where the public port speaks TLS.

    Raises:
        ConfigError: the port is taken.
    """
    address = "127.0.0.1", settings.local_port
    try:
        return _listen(socket.AF_INET, address, share=False)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address[0]}:{address[1]} (SLIPWAY_LOCAL_PORT): {error.strerror}"
        ) from error


def claim_gateway(settings: Settings) -> socket.socket:
    """Listens where the edge and git's hook find the gateway; what comes while it restarts waits.

    Raises:
        ConfigError: the socket cannot be made there.
    """
    path = settings.gateway_socket
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)  # an earlier run's: the state folder is ours alone
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror}") from error
    return listener


def claim_inside(settings: Settings, address: str) -> socket.socket:
    """Listens on the functions' bridge, for what functions may ask of the edge.

    Raises:
        ConfigError: the port is taken there.
    """
    share = _ip(_resolve(settings)[1]).is_unspecified
    try:
        return _listen(socket.AF_INET, (address, settings.port), share=share)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on the functions' bridge, {address}:{settings.port}: {error.strerror}"
        ) from error


def exposed(settings: Settings) -> bool:
    """Whether others than this machine reach the port."""
    return not _ip(_resolve(settings)[1]).is_loopback


def _told(state: Path) -> Path:
    return state / "settings.json"


def _listen(family: int, address: tuple[str, int], *, share: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _ip(address: tuple[str, int]) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address[0].partition("%")[0])


def _resolve(settings: Settings) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(
            settings.bind, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigError(
            f"SLIPWAY_BIND={settings.bind} is no address of this machine ({error}): write "
            "127.0.0.1, 0.0.0.0 or one of its own"
        ) from error
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]  # a tuple of 2 (IPv4) or 4 (IPv6)


def _why_not(settings: Settings, error: OSError) -> str:
    where = f"{settings.bind}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"another program listens on {where} already: end it (ss -ltnp shows it), or choose "
            "another port with SLIPWAY_PORT"
        )
    if error.errno == errno.EACCES:
        return (
            f"this user may not listen on {where}: ports below 1024 are root's; choose a higher "
            "one with SLIPWAY_PORT"
        )
    return f"cannot listen on {where} (SLIPWAY_BIND, SLIPWAY_PORT): {error.strerror}"
