"""The engine for builds: a Docker engine of our own, because one's own can be bounded and fenced.

    python -m supervisor.build_engine      ends what an earlier one left → network → control group
                                           → configuration → becomes dockerd
    python -m supervisor.build_engine end  after it has stopped: what it made in the kernel goes

Untrusted RUN lines live in a control group that bounds memory, CPU and processes of all builds
together, on a bridge from which only the outside world is reached; see docs/decisions/0015. The
images and caches in the state folder stay. Only for root, beside a local engine.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from core.errors import SlipwayError, Unavailable
from core.settings import Settings
from supervisor import parts, processes
from supervisor.parts import Part

NAME = "build-engine"
GROUP = "all"
PIDS = 512
"""Processes and threads for each release that is built side by side."""
CACHE = 10 * 2**30
"""Bytes that BuildKit's garbage collection leaves of its cache; at most a quarter of the limit that
is set for all that builds take of the disk."""
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where dockerd and what it starts lie; not every PATH names them."""
_KEPT = ("registry-mirrors", "insecure-registries", "proxies")
"""What of the host's own daemon.json says how images are fetched here."""
_MNT_DETACH = 2


def applies(settings: Settings, env: Mapping[str, str]) -> bool:
    """Whether an engine of our own builds here; else the one that runs functions does."""
    local = settings.engine_url.startswith("unix://")
    return not settings.build_engine and local and os.geteuid() == 0 and bool(program(env))


def program(env: Mapping[str, str]) -> str:
    return shutil.which("dockerd", path=_path(env)) or ""


def url(settings: Settings) -> str:
    return f"unix://{_folder(settings) / 'engine.sock'}"


def ours(settings: Settings) -> bool:
    """Whether builds run on the engine that we started."""
    return settings.build_engine == url(settings)


def left(settings: Settings) -> bool:
    """Whether a run that was killed may have left something of it."""
    return os.geteuid() == 0 and _folder(settings).exists()


def part(env: Mapping[str, str]) -> Part:
    told = {"PATH": _path(env)}
    return Part(name=NAME, argv=parts.python("supervisor.build_engine"), env=told, patience=20.0)


def end() -> list[str]:
    return parts.python("supervisor.build_engine", "end")


def command(
    settings: Settings, dockerd: str, bridge: str, mtu: int, nameservers: Sequence[str]
) -> list[str]:
    """The command line of dockerd. On the bridge it finds rules and forwarding made, so that it
    leaves the host's firewall alone."""
    folder = _folder(settings)
    options = {
        "--config-file": str(folder / "daemon.json"),
        "--host": url(settings),
        "--group": "root",
        "--data-root": str(settings.build_engine_folder),
        "--exec-root": str(folder / "x"),  # short: it holds sockets
        "--pidfile": str(folder / "pid"),
        "--bridge": bridge,
        "--mtu": str(mtu),
        "--iptables": "false",
        "--ip6tables": "false",
        "--ip-forward": "false",
        "--ip-masq": "false",
        "--userland-proxy": "false",
        # systemd would make the group elsewhere, without our bounds.
        "--exec-opt": "native.cgroupdriver=cgroupfs",
        "--cgroup-parent": f"/slipway-{_mark(settings)}/{GROUP}",
        # Where the host runs a containerd, both engines use that one.
        "--containerd-namespace": f"slipway-{settings.mark}",
        "--containerd-plugins-namespace": f"slipway-{settings.mark}-plugins",
        "--log-level": "warn",
    }
    argv = [dockerd, *(f"{name}={value}" for name, value in options.items())]
    # The fence opens the way to these; the host's own, on loopback, cannot be reached.
    return argv + [f"--dns={each}" for each in nameservers]


def configuration(host: Path = Path("/etc/docker/daemon.json"), limit: int = 0) -> dict[str, Any]:
    """What dockerd reads from its file: what has no option, and how this host fetches images.

    ``limit``: ``Settings.disk_limit``.
    """
    told: dict[str, Any] = {}
    with suppress(OSError, ValueError, AttributeError):
        told = dict(json.loads(host.read_text()).items())
    return {name: told[name] for name in _KEPT if name in told} | {
        "builder": {
            "gc": {"enabled": True, "defaultKeepStorage": str(min(CACHE, limit // 4 or CACHE))},
            # No RUN gets the host's network or its privileges, whoever asks.
            "entitlements": {"network-host": False, "security-insecure": False},
        }
    }


def prepare(settings: Settings, env: Mapping[str, str]) -> list[str]:
    """Makes all that dockerd needs; returns its command line.

    Raises:
        Unavailable: network or control group cannot be made here.
    """
    from core import cores
    from core.cgroup import ENGINE, discover
    from core.sandbox.network import Network

    clear(settings)
    folder = _folder(settings)
    folder.mkdir(mode=0o700, exist_ok=True)
    settings.build_engine_folder.mkdir(mode=0o711, exist_ok=True)
    # Of a process that is gone; its number may be another's by now.
    (folder / "pid").unlink(missing_ok=True)
    (folder / "x/containerd/containerd.pid").unlink(missing_ok=True)
    network = Network.for_builds(settings)
    network.setup()
    _divide(network.bridge, env)
    bounds = discover(_mark(settings), top=True, share=ENGINE)
    lacks = {"memory", "cpu", "pids"} - bounds.controllers.keys()
    if lacks:
        raise Unavailable(f"no control group bounds {', '.join(sorted(lacks))} here")
    bounds.create(
        GROUP,
        memory=settings.build_memory * settings.workers,
        cpus=settings.build_cpus * settings.workers,
        pids=PIDS * settings.workers,
        one_fate=False,
    )
    # BuildKit unpacks, hashes and packs in this process: it gives way as what it runs does.
    bounds.join("engine", os.getpid())
    cores.give_one_up()
    (folder / "daemon.json").write_text(json.dumps(configuration(limit=settings.disk_limit)))
    mtu = int(Path("/sys/class/net", network.bridge, "mtu").read_text())
    return command(settings, program(env), network.bridge, mtu, network.nameservers)


def clear(settings: Settings) -> None:
    """Ends what an engine that was killed left: its helpers, containers and mounts.

    Raises:
        Unavailable: one does not end.
    """
    from core.cgroup import end as end_groups

    mark = str((settings.state / "parts" / NAME).resolve())
    for pid in processes.holders({mark}):
        if pid not in (os.getpid(), os.getppid()):
            processes.kill(pid, tree=True)
    end_groups(_mark(settings))
    _unmount((settings.build_engine_folder, _folder(settings)))


def _divide(bridge: str, env: Mapping[str, str]) -> None:
    """Lets the fence see what goes from one build to another, which never leaves the bridge; it
    drops that. Without the kernel's part for it two builds at the same time see each other."""
    switch = Path("/sys/class/net", bridge, "bridge/nf_call_iptables")
    if not switch.exists() and (modprobe := shutil.which("modprobe", path=_path(env))):
        subprocess.run([modprobe, "br_netfilter"], env={"PATH": _path(env)}, check=False)
    with suppress(OSError):
        switch.write_text("1")


def _unmount(folders: Iterable[Path]) -> None:
    """All that is mounted in these folders, the deepest first."""
    libc = ctypes.CDLL(None, use_errno=True)
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        escaped = line.split()[4]
        points.append(Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), escaped)))
    for point in reversed(points):
        if any(point.is_relative_to(folder.resolve()) for folder in folders):
            libc.umount2(os.fsencode(point), _MNT_DETACH)


def _mark(settings: Settings) -> str:
    """Beside the functions' groups, whose sweep would remove ours while no build runs."""
    return f"{settings.mark}b"


def _folder(settings: Settings) -> Path:
    return settings.run / "engine"


def _path(env: Mapping[str, str]) -> str:
    return f"{env.get('PATH', '/usr/local/bin:/usr/bin:/bin')}:{_SBIN}"


def _end(settings: Settings) -> None:
    from core.sandbox.network import Network

    clear(settings)
    Network.for_builds(settings).teardown()
    shutil.rmtree(_folder(settings), ignore_errors=True)


def _begin(settings: Settings) -> NoReturn:
    argv = prepare(settings, os.environ)
    os.execve(argv[0], argv, parts.daemon(os.environ))


def main() -> None:
    settings = Settings.from_env(os.environ)
    if sys.argv[1:] == ["end"]:
        _end(settings)
    else:
        _begin(settings)


if __name__ == "__main__":
    try:
        main()
    except SlipwayError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
