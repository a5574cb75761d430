"""OpenFaaS' own JSON shapes, as its gateway and clients write and read them.

Source of the format: the REST description of OpenFaaS' gateway (``FunctionStatus``,
``SystemInfo``).
Values stand as the user wrote them; what was absent stays absent.
"""

from __future__ import annotations

import msgspec

from core.models import Resources, Struct

FUNCTION_LABEL = "faas_function"
"""Label that OpenFaaS puts on every function: its name."""


class FunctionStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One function, as ``GET /system/functions`` lists it."""

    name: str
    image: str
    namespace: str
    env_process: str | None = None
    env_vars: dict[str, str] | None = None
    constraints: list[str] | None = None
    secrets: list[str] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    limits: Resources | None = None
    requests: Resources | None = None
    read_only_root_filesystem: bool | None = None
    invocation_count: float
    replicas: int
    """Desired."""
    available_replicas: int
    created_at: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """``sha`` is empty where an installation is not made from a commit."""

    release: str
    sha: str = ""


class ProviderInfo(msgspec.Struct, frozen=True, kw_only=True):
    provider: str
    orchestration: str
    version: Version


class SystemInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /system/info``."""

    provider: ProviderInfo
    version: Version
    arch: str
