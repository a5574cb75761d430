"""What of a function's bounds holds on this engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.settings import Settings


def enforced(settings: Settings, info: Mapping[str, Any], unfenced: str) -> dict[str, str]:
    """See Provider.enforced. ``info``: the engine's of itself; ``unfenced``: why there is no fence
    around the functions' network, else empty."""
    groups = f"cgroup v{info.get('CgroupVersion', '1')}, by the engine"
    missing = "not bounded: the engine says that this kernel cannot"
    return {
        "files": "the image, read-only (what the admin deploys by API: as it says there, "
        "writable without a bound else); /tmp of 64 MiB in memory",
        "identity": "a uid of its own, or that of an image that was not built here"
        f"{'' if settings.allow_root else ', never root'}; no capabilities, no new privileges",
        "calls": "the engine's seccomp profile"
        if any("seccomp" in each for each in info.get("SecurityOptions") or ())
        else "NOT bounded: the engine has no seccomp",
        "memory": groups if info.get("MemoryLimit") else missing,
        "cpu": groups if info.get("CpuCfsQuota") else missing,
        "processes": groups if info.get("PidsLimit") else missing,
        "network": f"NOT fenced: {unfenced}"
        if unfenced
        else "an engine network without traffic between containers, firewall rules of ours",
        "log": f"the last {settings.function_log} bytes of each function, "
        "and as much of each container in the engine",
    }
