"""The installation on a state folder, as commands find it: another shell has started it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import replace

from core.settings import PREFIX, Settings
from supervisor import claims

_OWN = {f"{PREFIX}{name}" for name in ("STATE", "CA_FILE", "OWNER_TOKEN_FILE")}
"""What a shell says for the commands alone."""


def runs(settings: Settings) -> bool:
    """Whether a supervisor holds the state folder's lock."""
    try:
        lock = os.open(settings.state / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def running(settings: Settings) -> Settings | None:
    """What the installation uses that runs on this state folder, its secrets masked; None where
    none does, or it does not say. Whom the commands trust stays theirs to say."""
    found = claims.told_settings(settings.state) if runs(settings) else None
    return found and replace(
        found,
        ca_file=settings.ca_file or found.ca_file,
        owner_token_file=settings.owner_token_file,
    )


def absent(settings: Settings) -> bool:
    """Whether no Slipway has ever had this state folder: in compose there is no supervisor, and so
    no lock, but repositories."""
    for each in (settings.state / "lock", settings.git_folder):
        try:
            each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass  # somebody else's
        return False
    return True


def differences(env: Mapping[str, str], running: Settings) -> list[str]:
    """Settings of this shell that the installation does not run with."""
    here, there = Settings.from_env(env).describe(), running.describe()
    told = sorted(name for name, value in env.items() if value and name not in _OWN)
    return [
        f"{name} is {here[name] or 'unset'} in this shell, and {there[name] or 'unset'} in what "
        "runs"
        for name in told
        if here[name] != there[name] and not _left_open(name, here[name])
    ]


def _left_open(name: str, value: str) -> bool:
    """Whether it leaves the choice to the start, which has made it."""
    return (name, value) in {(f"{PREFIX}RUNTIME", "auto"), (f"{PREFIX}LOCAL_PORT", "0")}
