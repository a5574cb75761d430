"""How commands ask the supervisor for something: a socket in the run folder, for us alone.

One line of JSON asks, ``{"restart": ["gateway", …]}``; lines of JSON answer as it goes: for each
part ``{"part", "pid", "seconds"}``, and last ``{"done": true}`` or ``{"error": "<what, why, what to
do>"}``.
"""

from __future__ import annotations

import json
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.errors import ConfigError, InvalidRequest, SlipwayError, Unavailable
from core.settings import Settings

RESTARTABLE = ("controller", "gateway", "edge", "queue", "reporter", "workers")
"""In the order of a restart of all; never the store, which all others write to."""
_LINE = 4096
_ASK_SECONDS = 2.0
"""A command says at once what it wants."""


def path(settings: Settings) -> Path:
    return settings.run / "control.sock"


def claim(settings: Settings) -> socket.socket:
    """Listens for commands.

    Raises:
        ConfigError: the socket cannot be made there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    where = path(settings)
    try:
        where.unlink(missing_ok=True)  # an earlier run's: the state folder is ours alone
        listener.bind(str(where))
        where.chmod(0o600)
        listener.listen(16)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {where}: {error.strerror}") from error
    return listener


def serve(
    listener: socket.socket,
    restart: Callable[[str], dict[str, Any]],
    tell: Callable[[str], None],
) -> None:
    """Does what one command asks; one that goes away does not stop it, and no failure stops us.

    ``restart``: of one part; returns what is told of it, raises SlipwayError where it fails.
    ``tell``: of what nobody had thought of.
    """
    try:
        client, _ = listener.accept()
    except OSError:  # gone again
        return
    with client:
        client.settimeout(_ASK_SECONDS)
        try:
            for name in _asked(client):
                _tell(client, restart(name))
        except SlipwayError as error:
            _tell(client, {"error": str(error)})
        except Exception as error:  # a full disk, a mistake of ours
            tell(f"a restart failed, everything else goes on:\n{traceback.format_exc().rstrip()}")
            why = f"{type(error).__name__}: {error}"
            _tell(client, {"error": f"{why}; all goes on, 'slipway up' shows where it failed"})
        else:
            _tell(client, {"done": True})


def ask(settings: Settings, names: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Has these parts restarted; yields what is told of each, as it is done.

    Raises:
        Unavailable: nobody is there to ask, or it takes longer, or one does not come up.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(seconds)
            client.connect(str(path(settings)))
            client.sendall(json.dumps({"restart": list(names)}).encode() + b"\n")
            with client.makefile() as lines:
                for line in lines:
                    told = json.loads(line)
                    if "error" in told:
                        raise Unavailable(told["error"])
                    if "done" in told:
                        return
                    yield told
    except TimeoutError:
        raise Unavailable(
            f"no word of it for {seconds:.0f} s: it may still be done; 'slipway doctor' says what "
            "answers"
        ) from None
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"the Slipway of {settings.state} cannot be asked ({error}): it is only starting, or "
            "of a version that has no restarts"
        ) from error
    raise Unavailable(f"the Slipway of {settings.state} was stopped meanwhile")


def _asked(client: socket.socket) -> list[str]:
    """Raises InvalidRequest for what is no wish of ours."""
    got = b""
    deadline = time.monotonic() + _ASK_SECONDS  # of all: meanwhile we look after nothing else
    with suppress(OSError):
        while b"\n" not in got and len(got) < _LINE and (more := client.recv(_LINE)):
            got += more
            client.settimeout(max(deadline - time.monotonic(), 0.0))
    client.settimeout(_ASK_SECONDS)
    try:
        names = json.loads(got)["restart"]
        unknown = sorted(set(names) - set(RESTARTABLE))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"this is asked in another form: {error}") from error
    if unknown:
        raise InvalidRequest(
            f"{unknown[0]} cannot be restarted: choose of {', '.join(RESTARTABLE)}"
        )
    return [name for name in RESTARTABLE if name in names]


def _tell(client: socket.socket, what: dict[str, Any]) -> None:
    with suppress(OSError):  # nobody listens any more
        client.sendall(json.dumps(what).encode() + b"\n")
