"""From a function's specification to what the engine is asked to create."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from core.cgroup import PERIOD
from core.models import FunctionSpec
from core.settings import Settings
from runtime.providers.cells import (
    cpu_count,
    joined,
    memory_bytes,
    reaches_out,
    split_command,
    variables,
)
from runtime.providers.docker.document import Document
from runtime.providers.docker.images import Image

_LEAST_MEMORY = 6 * 2**20
"""Bytes; the engine refuses less."""
_LEAST_QUOTA = 1000
"""Microseconds of CPU time in a period; the kernel takes no fewer."""
_SCRATCH = 64 * 2**20
"""Bytes of /tmp, of /dev/shm and of each volume; what is in them counts as memory."""
_LEAST_LOG = 16384
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The engine's own, for images that set none."""
NO_IPV6 = {"net.ipv6.conf.all.disable_ipv6": "1"}
"""The fence knows IPv4 alone. Not accepted where the kernel has no IPv6 at all."""


def configuration(
    settings: Settings,
    document: Document,
    image: Image,
    labels: dict[str, str],
    *,
    network: str,
    edge: str,
    group: str,
    sysctls: dict[str, str],
    mounts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The body of the engine's ``POST /containers/create``.

    ``network``: the engine's id of the functions' network. ``edge``: URL under which functions
    reach the edge; empty: there is none. ``group``: the control group it is part of; empty: the
    engine's choice. ``mounts``: of the function's secrets.

    Raises:
        InvalidRequest: a limit, a variable or the command cannot be.
    """
    spec = document.spec
    outside = reaches_out(settings, spec)
    wanted = memory_bytes(settings, spec)
    env = _environment(document, image, memory=wanted, edge=edge if outside else "")
    memory = max(wanted, _LEAST_MEMORY)
    quota = max(int(cpu_count(settings, spec) * PERIOD), _LEAST_QUOTA)
    kept = max(settings.function_log // 2, _LEAST_LOG)
    config: dict[str, Any] = {
        "Image": image.name,
        "Hostname": spec.name,
        "User": f"{document.uid}:{document.group}",
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": {**dict.fromkeys(image.labels, ""), **labels},
        "Healthcheck": {"Test": ["NONE"]},  # the controller asks, over HTTP
        "HostConfig": {
            "NetworkMode": network,
            "RestartPolicy": {"Name": "no"},
            "Init": True,
            "ReadonlyRootfs": not writable(spec),
            "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={_SCRATCH}"},
            # Else the engine makes folders of the host of them, which nothing bounds.
            "Mounts": [*_scratches(image, mounts), *mounts],
            "ShmSize": _SCRATCH,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "CgroupParent": group,
            "Memory": memory,
            "MemorySwap": memory,
            "OomKillDisable": False,
            # Not NanoCpus: the engine refuses more of those than this machine has.
            "CpuPeriod": PERIOD,
            "CpuQuota": quota,
            "PidsLimit": settings.function_pids,
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "Sysctls": sysctls,
            "Dns": [] if outside else ["127.0.0.1"],  # the engine would ask for it outside
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": str(kept), "max-file": "2"},
            },
        },
        "NetworkingConfig": {
            "EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": document.ip}}}
        },
    }
    if spec.env_process and image.template and not spec.foreign:
        config["Cmd"] = split_command(spec.env_process)
    return config


def writable(spec: FunctionSpec) -> bool:
    """Whether it may write to its image's files: as given where the admin deployed that image."""
    return spec.foreign and spec.repository is None and not spec.read_only_root_filesystem


def scratch(image: Image, labels: dict[str, str]) -> dict[str, Any]:
    """The body for a container that is never started: to read the image's files."""
    return {
        "Image": image.name,
        "Entrypoint": ["/never"],
        "Cmd": [],
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": True,
        "Labels": {**dict.fromkeys(image.labels, ""), **labels},
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "none"}},
    }


def _environment(document: Document, image: Image, *, memory: int, edge: str) -> dict[str, str]:
    spec = document.spec
    env = variables(spec, {"PATH": _PATH, **image.env}, memory=memory, edge=edge)
    own = spec.env_vars or {}
    if spec.foreign:  # it is what it is elsewhere, but for what a stranger's user cannot write to
        env["PATH"] = own.get("PATH") or env["PATH"]
        home = own.get("HOME") or image.env.get("HOME") or ("" if document.gid >= 0 else "/tmp")
        env |= {"HOME": home}
        if not home:  # the engine sets it, by the image's /etc/passwd
            del env["HOME"]
    elif python := image.env.get("PYTHONPATH"):
        env["PYTHONPATH"] = joined(python, own.get("PYTHONPATH"))
    if spec.env_process:
        env["fprocess"] = spec.env_process
    return env


def _scratches(image: Image, mounts: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """In place of the image's volumes, but for those that have something there already."""
    taken = {"/tmp", *(each["Target"] for each in mounts)}
    yield from (_scratch(path) for path in image.volumes if path.rstrip("/") not in taken)


def _scratch(path: str) -> dict[str, Any]:
    return {
        "Type": "tmpfs",
        "Target": path,
        "TmpfsOptions": {"SizeBytes": _SCRATCH, "Mode": 0o1777},
    }
