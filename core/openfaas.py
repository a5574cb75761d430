"""OpenFaaS' own JSON shapes, as its gateway and clients write and read them.

Source of the formats: the REST description of OpenFaaS' gateway and the types of its provider
(``FunctionDeployment``, ``FunctionStatus``, ``FunctionNamespace``, ``SystemInfo``).
Values stand as the user wrote them; what was absent stays absent. Fields that are not known are
passed over: clients of other ages send ``registryAuth`` or ``network``.
"""

from __future__ import annotations

from importlib import metadata

import msgspec

from core.models import Resources, Struct, Usage
from core.schedules import ScheduleStatus

SERVED_BY = f"slipway/{metadata.version('slipway')}"
"""Header ``X-Served-By`` of calls: who OpenFaaS' gateway says it is."""
FUNCTION_LABEL = "faas_function"
"""Label that OpenFaaS puts on every function: its name."""


class ResourcesGiven(Struct, frozen=True):
    """Limits or requests as a client sends them; older ones send empty texts for what is absent."""

    memory: str | None = None
    cpu: str | None = None
    nvidia: str | None = msgspec.field(default=None, name="nvidia.com/gpu")
    amd: str | None = msgspec.field(default=None, name="amd.com/gpu")
    intel: str | None = msgspec.field(default=None, name="intel.com/gpu")

    @property
    def gpus(self) -> str | None:
        return self.nvidia or self.amd or self.intel


class FunctionDeployment(Struct, frozen=True):
    """Body of ``POST`` and ``PUT /system/functions``."""

    service: str
    image: str
    namespace: str | None = None
    env_process: str | None = None
    env_vars: dict[str, str] | None = None
    constraints: list[str] | None = None
    secrets: list[str] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    limits: ResourcesGiven | None = None
    requests: ResourcesGiven | None = None
    read_only_root_filesystem: bool | None = None


class FunctionDeletion(Struct, frozen=True):
    """Body of ``DELETE /system/functions``."""

    function_name: str
    namespace: str | None = None


class Scale(Struct, frozen=True):
    """Body of ``POST /system/scale-function/<name>``."""

    replicas: int
    service_name: str | None = None
    namespace: str | None = None


class Alert(Struct, frozen=True):
    status: str
    """``firing``, or anything else."""
    labels: dict[str, str]


class Alerts(Struct, frozen=True):
    """Body of ``POST /system/alert``: what Prometheus' Alertmanager posts to a webhook."""

    alerts: list[Alert]


class Namespace(Struct, frozen=True, omit_defaults=True):
    """A namespace of functions, as ``/system/namespace/<name>`` takes and gives it."""

    name: str
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


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
    usage: Usage | None = None
    """Of one function, with ``usage=1``, where it was measured just now."""
    schedule: ScheduleStatus | None = None
    """Our own: of functions that are called on one."""
    url: str = ""
    """Our own, where there is a SLIPWAY_DOMAIN: at its namespace's host, or by the path alone."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """``sha`` and ``commit_message`` are empty where it is not known which commit this is."""

    release: str
    sha: str = ""
    commit_message: str = ""


class ProviderInfo(msgspec.Struct, frozen=True, kw_only=True):
    provider: str
    orchestration: str
    version: Version


class SystemInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /system/info``."""

    provider: ProviderInfo
    version: Version
    arch: str
