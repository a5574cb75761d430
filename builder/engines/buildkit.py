"""Runs a docker CLI that can build with BuildKit: finding one, and running it within bounds.

The SDK knows the classic builder only, so builds go through the CLI; and as it holds the
credentials already, so do push and pull. A CLI before 23.0 has BuildKit in itself, asked for by
DOCKER_BUILDKIT=1; later ones need the plugin buildx. Which of those there are is tried.

It gets no configuration but ours, a private folder in the state folder, and ends with this process:
what it was at in the engine ends with its connection.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import bounded
from core.errors import ConfigError
from core.settings import Settings
from engine.references import credentials

_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/libexec/docker", "/opt/docker/bin", "/snap/bin")
_VERSION = re.compile(r"Docker version (\d+)\.(\d+)")
_OTHER_API = re.compile(r"client version \S+ is too (old|new)|API version is|newer than server")
_ACCEPTED: set[tuple[Path, str]] = set()
"""CLIs with the engines that have answered them."""
_OUTPUT = 64 * 2**20
"""Bytes of raw output, most of which is not told: what is told has a bound of its own."""

# Asks the kernel to kill it with us, then becomes the CLI. (prctl(2), PR_SET_PDEATHSIG)
_WITH_US = (
    "import ctypes,os,sys;ctypes.CDLL(None).prctl(1,9);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);os.execv(sys.argv[2],sys.argv[2:])"
)


@dataclass(frozen=True)
class Cli:
    """A docker CLI that builds with BuildKit, and the engine that it is to talk to."""

    program: Path
    settings: Settings

    def run(
        self,
        arguments: Sequence[str],
        *,
        on_line: Callable[[str], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
        env: Mapping[str, str] | None = None,
        timeout: float = math.inf,
        hidden: bounded.Hidden = bounded.NOTHING,
    ) -> bounded.Ended:
        """Runs one command; how it went is the caller's to judge.

        Args:
            env: further variables: what is not for everybody's eyes does not go in ``arguments``.
            timeout: seconds; the bound of a build step holds anyhow.
            hidden: what is not told.

        Raises:
            ConfigError: the program went away.
        """
        folder = configuration(self.settings)
        command = [str(self.program), *arguments]
        return bounded.run(
            [sys.executable, "-I", "-S", "-c", _WITH_US, str(os.getpid()), *command],
            cwd=folder,
            env=environment(self.settings.build_engine_url, folder) | dict(env or {}),
            timeout=min(timeout, self.settings.build_timeout),
            max_output=_OUTPUT,
            on_line=on_line,
            stop=stop,
            hidden=hidden,
        )


def find(settings: Settings, path: str) -> Cli:
    """The first docker CLI on ``path`` (like PATH), or where packages put it, that can build and
    that the engine talks to. While the engine does not answer, the first that can build.

    Raises:
        ConfigError: none can; with what was looked at.
    """
    return Cli(_program(path, settings.build_engine_url), settings)


def environment(engine: str, folder: Path) -> dict[str, str]:
    """All of the CLI's environment."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "DOCKER_HOST": re.sub("^https?://", "tcp://", engine),
        "DOCKER_CONFIG": str(folder),
        "DOCKER_BUILDKIT": "1",
        "DOCKER_CLI_HINTS": "false",
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",  # else an image is a list of images
        "BUILDX_GIT_INFO": "0",
    }


def configuration(settings: Settings) -> Path:
    """The CLI's own folder, with the registry's credentials in it and nothing else's."""
    folder = settings.state / "docker-cli"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told: dict[str, object] = {"auths": {}}
    if found := credentials(settings):
        both = f"{found['username']}:{found['password']}".encode()
        told["auths"] = {found["serveraddress"]: {"auth": base64.b64encode(both).decode()}}
    text = json.dumps(told)
    path = folder / "config.json"
    if not path.exists() or path.read_text() != text:
        draft = folder / f".config.{secrets.token_hex(6)}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        draft.rename(path)
    return folder


def _program(path: str, engine: str) -> Path:
    looked_at = []
    for folder in dict.fromkeys([*filter(None, path.split(os.pathsep)), *_FOLDERS]):
        program = Path(folder, "docker")
        if os.access(program, os.X_OK) and program.is_file():
            if not (trouble := _trouble(program) or _refused(program, engine)):
                return program
            looked_at.append(f"{program} {trouble}")
    found = "; ".join(looked_at) or "there is no docker on PATH"
    raise ConfigError(
        f"images are built by BuildKit through a docker CLI, and none was found that can: {found}. "
        "Install Docker's own docker-ce-cli with docker-buildx-plugin, or Debian's docker.io (its "
        "docker 20.10 has BuildKit in itself), or take SLIPWAY_RUNTIME=process"
    )


@functools.cache
def _trouble(program: Path) -> str:
    """Why a CLI cannot build; '' if it can."""
    said = _said(program, "--version")
    version = _VERSION.match(said)
    if not version:
        return f"is no docker ({said[:60] or 'it says nothing'})"
    number = (int(version[1]), int(version[2]))
    told = f"is {version[0]}"
    if number < (18, 9):
        return f"{told}, which has no BuildKit"
    if number >= (23, 0) and "buildx" not in _said(program, "buildx", "version"):
        return f"{told} without its plugin buildx"
    return ""


def _refused(program: Path, engine: str) -> str:
    """Why an engine does not talk to a CLI; '' if it does, or does not answer now."""
    if (program, engine) in _ACCEPTED:
        return ""
    ran = _ran(program, "version", engine=engine)
    if ran and ran.returncode == 0:
        _ACCEPTED.add((program, engine))
    told = ran.stderr.decode(errors="replace").strip() if ran and ran.returncode else ""
    if not _OTHER_API.search(told):
        return ""
    return f"cannot talk to the engine ({told.splitlines()[-1][:300]})"


def _said(program: Path, *arguments: str) -> str:
    """What a CLI says of itself; '' if it fails."""
    ran = _ran(program, *arguments)
    return ran.stdout.decode(errors="replace").strip() if ran and ran.returncode == 0 else ""


def _ran(
    program: Path, *arguments: str, engine: str = "unix:///nonexistent"
) -> subprocess.CompletedProcess[bytes] | None:
    """Asks a CLI something, without any configuration; None if it does not answer."""
    try:
        return subprocess.run(
            [str(program), *arguments],
            env=environment(engine, Path("/nonexistent")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
