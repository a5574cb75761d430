"""What bounds functions and builds on this machine, for ``slipway config``."""

from __future__ import annotations

import os
from pathlib import Path

from core import disk
from core.errors import SlipwayError
from core.settings import Settings
from supervisor import runtime_choice


def enforced(settings: Settings, *, runs: bool) -> dict[str, str]:
    """Bound → what enforces it; starts one small sandbox to find out. ``runs``: an installation
    does on this state folder, and what it uses counts."""
    told = _functions(settings, runs=runs)
    used = disk.human(sum(disk.made_by_builds(settings).values()))
    most = f"at most {disk.human(settings.disk_limit)}" if settings.disk_limit else "no limit set"
    told["disk"] = f"builds take {used}, {most}; {disk.human(disk.RESERVE)} stay free"
    if settings.tls_cert:
        told["tls"] = _served(settings, settings.tls_cert)
    return told


def _served(settings: Settings, path: Path) -> str:
    from runtime.edge import tls

    try:
        certificate = tls.read(path)
    except SlipwayError as error:
        return f"NONE: {error}"
    return "; ".join(
        [f"1.2 and 1.3, for {', '.join(certificate.names)}", *certificate.concerns(settings)]
    )


def _functions(settings: Settings, *, runs: bool) -> dict[str, str]:
    used = runtime_choice.in_use(settings, os.environ, runs=runs)
    if used.runtime == "docker":
        return _in_containers(used, runs=runs)
    from core.sandbox import Sandbox

    try:
        return Sandbox.from_settings(used).enforced()
    except SlipwayError as error:
        return {"sandbox": f"NONE: {error}"}


def _in_containers(settings: Settings, *, runs: bool) -> dict[str, str]:
    from cli.docker_checks import builds_bounded_by
    from core.sandbox.network import Network

    network = Network.from_settings(settings)
    root = os.geteuid() == 0
    outside = f"bridge {network.bridge}: the outside world and the edge, fenced by nftables"
    if not root or (runs and not network.available()):
        outside = "NOT fenced: only root can" if not root else "NOT fenced just now"
    return {
        "functions": f"containers of the engine {settings.engine_url}",
        "files": "a read-only root, /tmp in memory",
        "identity": "an ordinary user, no capabilities, no new privileges",
        "memory, cpu, processes": "control groups of the engine",
        "network": outside,
        "builds": builds_bounded_by(settings),
    }
