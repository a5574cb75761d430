"""One `docker build`: its order, its bounds, its output as it comes, and why it failed."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder import bounded, folders, node_dependencies, python_dependencies, registries
from builder.engines.buildkit import Cli
from builder.engines.progress import Progress
from builder.previews import HOW
from builder.reasons import cut, reason
from builder.steps import Steps
from core.errors import BuildFailed, Conflict, SlipwayError, Unavailable
from core.settings import Settings
from core.signing import secret_file, sign
from engine.client import Engine

_AWAY = re.compile(r"Cannot connect to the Docker daemon|error during connect|the docker daemon")
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.I)
_RAN = re.compile(
    r'(?:process "|executor failed running \[)(?P<command>.*)'
    r'(?:" did not complete successfully|\]): (?P<how>exit code: \d+)',
    re.DOTALL,
)
"""What BuildKit says of a command that failed; the second form until its 0.9."""
_KEPT = 200
"""Lines that are looked for the cause: npm lists its options below it."""
_STEP = re.compile(r"\[[^\]]*\d/\d+\] ")
_COMMAND, _ERROR = 60, 200
"""Characters of a command, and of BuildKit's error, in ours."""
_SHORT, _MASKED = 6, 200
"""Characters and lines of secrets from and up to which output is masked."""
_ASK_EVERY, _SILENT = 5.0, 30.0
"""Seconds between two looks at the engine, and of silence after which it counts as hung."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be built."""

    dockerfile: bytes
    context: Path
    tag: str
    target: str = ""
    """A stage; empty: the last one."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Files that RUN --mount=type=secret finds by these ids, and the image does not hold."""
    network: bool = True
    offline: bool = False
    """Whether it has no network because a fork's request gets none."""
    fresh: bool = False
    """Whether nothing may come out of the cache."""
    hidden: tuple[bytes, ...] = ()
    """Values of secrets: what the build prints of them is masked."""
    ours: bool = False
    """Whether the Dockerfile is a template's: then what fails to be fetched is worth a retry."""


class Watch:
    """What is asked again and again while something goes on in the engine: whether to end it."""

    def __init__(self, steps: Steps, settings: Settings, engine: Engine, disk: Path | None) -> None:
        self._steps = steps
        self._settings = settings
        self._engine = engine
        self._disks = [each for each in (settings.state, disk) if each]
        self._asked = self._heard = time.monotonic()
        self._reason: SlipwayError | None = None

    def __call__(self) -> bool:
        now = time.monotonic()
        if self._steps.ended():
            self._reason = Conflict("the release was decided meanwhile: its build ends here")
        elif full := next((disk for disk in self._disks if not folders.room(disk)), None):
            self._reason = folders.full(full)
        elif now - self._asked > _ASK_EVERY:
            self._asked = now
            if self._engine.alive():
                self._heard = time.monotonic()
            elif time.monotonic() - self._heard > _SILENT:
                self._reason = Unavailable(
                    f"the Docker engine at {self._engine.url} has not answered for {_SILENT:g} s: "
                    "the administrator has to look after it; then push again"
                )
        return self._reason is not None

    def error(self) -> SlipwayError:
        """Why it was ended."""
        return self._reason or Unavailable("it was ended")


def build(
    order: Order,
    *,
    cli: Cli,
    settings: Settings,
    namespace: str,
    watch: Watch,
    out: Callable[[str], None],
) -> None:
    """Builds an image and gives it ``order.tag``.

    Raises:
        BuildFailed: what the Dockerfile does failed, or reached a bound.
        Unavailable: the engine, the disk, a registry.
        Conflict: the release was decided meanwhile.
    """
    printed: deque[str] = deque(maxlen=_KEPT)

    def told(line: str) -> None:
        printed.append(registries.without_passwords(line))
        out(printed[-1])

    progress = Progress(told, settings.build_output)
    with folders.making(settings.state / folders.WORK) as folder:
        (folder / "Dockerfile").write_bytes(order.dockerfile)
        arguments = ["build", "--progress=plain", "--file", str(folder / "Dockerfile")]
        arguments += ["--tag", order.tag, *_flags(order, folder), str(order.context)]
        ended = cli.run(
            arguments,
            on_line=progress,
            hidden=_hidden(order.hidden),
            stop=lambda: progress.clipped or watch(),
            env={"BUILDKIT_CACHE_MOUNT_NS": caches_of(settings, namespace)},
        )
    if progress.clipped:
        raise BuildFailed(
            reason(
                f"the build was ended: it printed more than {settings.build_output} bytes "
                "(SLIPWAY_BUILD_OUTPUT), or more than the engine keeps of one step",
                printed,
            )
        )
    if not ended.ok:
        raise _error(ended, progress, printed, order, settings, watch)


def caches_of(settings: Settings, namespace: str) -> str:
    """What BuildKit puts before the ids of an owner's cache mounts: nobody else can name it."""
    key = secret_file(settings.state / "cache-key").encode()
    return sign(key, f"cache mounts of {namespace}".encode())[:32]


def registries_file(folder: Path) -> dict[str, Path]:
    """The secrets that templates' RUN lines read: where packages come from, and the host's
    certificates. Files in ``folder``, which only we can read."""
    found = {}
    certificates = os.environ.get("SSL_CERT_FILE", "")
    if certificates and Path(certificates).is_file():
        found["ca"] = Path(certificates)
    outer = {k: v for k, v in os.environ.items() if k != "SSL_CERT_FILE" or "ca" in found}
    told = registries.image_environment(outer, "/run/secrets/ca")
    if told:
        path = folder / "registries"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"export {k}={shlex.quote(v)}\n" for k, v in sorted(told.items()))
        found["registries"] = path
    return found


def _hidden(values: Iterable[bytes]) -> bounded.Hidden:
    """Every line of the secrets, but for short ones."""
    lines = {
        line.strip() for value in values for line in value.decode(errors="replace").split("\n")
    }
    longest = sorted((each for each in lines if len(each) >= _SHORT), key=len)[-_MASKED:]
    return bounded.Hidden(longest)


def _flags(order: Order, folder: Path) -> list[str]:
    flags = [f"--build-arg={name}={value}" for name, value in order.arguments.items()]
    flags.append("--build-arg=BUILDKIT_CACHE_MOUNT_NS")  # its value is in the environment
    secrets = dict(order.secrets)
    ours = registries_file(folder)
    # A user's Dockerfile may mount the host's certificates, which are no secret, and nothing else.
    secrets |= {name: path for name, path in ours.items() if order.ours or name == "ca"}
    flags += [f"--secret=id={name},src={path}" for name, path in secrets.items()]
    if order.target:
        flags.append(f"--target={order.target}")
    if not order.network:
        flags.append("--network=none")
    if order.fresh:
        flags.append("--no-cache")
    return flags


def _error(
    ended: bounded.Ended,
    progress: Progress,
    printed: Sequence[str],
    order: Order,
    settings: Settings,
    watch: Watch,
) -> SlipwayError:
    text = registries.without_passwords(progress.text)
    error = registries.without_passwords(progress.error) or f"status {ended.status}"
    ran = _RAN.search(error)
    error = error[-_ERROR:]
    # Which step it was is in the error, or is one of ours.
    last = [line for line in printed or text.splitlines() if not _STEP.match(line)]
    if ended.outcome == "stopped":
        return watch.error()
    if ended.outcome == "timeout":
        return BuildFailed(
            reason(
                f"the build was ended after {settings.build_timeout:g} s (SLIPWAY_BUILD_TIMEOUT): "
                "something in it waits, loads or loops for ever",
                printed,
            )
        )
    if ended.outcome == "output":
        return BuildFailed(reason("the build was ended: it printed without end", last))
    if _FULL.search(error + text):
        return folders.full(settings.state)
    if _AWAY.search(error):
        return Unavailable(f"the Docker engine went away while it built: {error}")
    if order.ours and order.offline:
        what = "the dependencies were not installed: a request from a fork fetches no packages "
        return BuildFailed(reason(f"{what}while it is built; {HOW}", last), step="build")
    if order.ours:
        if python_dependencies.NETWORK.search(text) or node_dependencies.NETWORK.search(text):
            return Unavailable(reason("the package registry cannot be reached; try again", last))
        what = "the dependencies were not installed"
        if not ran:
            what += f": {error}"
        elif not last:
            what += f": {ran['how']}"
        if python_dependencies.NO_WHEEL.search(text):
            what += "; only wheels are: choose versions that have one for the base image's Python"
        return BuildFailed(reason(what, last), step="build")
    hint = ""
    if "exit code: 137" in error:
        hint = "; it was killed: builds share a bound of memory, which it may have reached"
    if not order.network:
        hint += "; nothing is fetched here, as there is no network"
    if order.offline:
        hint += f" for a request from a fork: {HOW}"
    told = f"{_command(ran['command'])}: {ran['how']}" if ran else error
    return BuildFailed(reason(f"the image was not built: {told}{hint}", last), step="build")


def _command(text: str) -> str:
    """A user's RUN line, short."""
    return cut(" ".join(text.removeprefix("/bin/sh -c ").split()), _COMMAND)
