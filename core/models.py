"""The values that the parts hand to one another, and their JSON.

Field names are camelCase in JSON. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property

import msgspec

from core.names import function_path, join_function


class State(StrEnum):
    """Where a release is on its way; moves are compare-and-set."""

    QUEUED = "queued"
    BUILDING = "building"
    TESTING = "testing"
    STAGING = "staging"
    LIVE = "live"
    REPLACED = "replaced"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled-back"

    @property
    def final(self) -> bool:
        """Whether the push that made the release has its answer."""
        return self not in _MOVING

    @property
    def with_builder(self) -> bool:
        return self in (State.QUEUED, State.BUILDING, State.TESTING)


_MOVING = (State.QUEUED, State.BUILDING, State.TESTING, State.STAGING)


class Build(StrEnum):
    """What became of one function in one release."""

    PENDING = "pending"
    BUILDING = "building"
    BUILT = "built"
    REUSED = "reused"
    FAILED = "failed"
    REMOVED = "removed"


class Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all values: immutable, camelCase in JSON."""


class Resources(Struct, frozen=True, omit_defaults=True):
    """Limits or requests as written: ``memory`` like 128Mi, ``cpu`` like 0.5 or 100m."""

    memory: str | None = None
    cpu: str | None = None


class FunctionSpec(Struct, frozen=True, omit_defaults=True, dict=True):
    """What shall run: one function at one artifact with one configuration.

    Values stand as the user wrote them; what was absent is None.
    """

    name: str
    namespace: str
    artifact: str
    """``bundle:sha256:…``, an image by digest, or a foreign image as it was named."""
    foreign: bool = False
    """An image that was not built here: deployed by API, or ``skip_build``."""
    deployment: str = ""
    """Set anew by each deploy by API: the same specification once more is a new revision."""
    key: str = ""
    """The build's content address; empty where nothing was built here."""
    repository: str | None = None
    commit: str | None = None
    env_process: str | None = None
    env_vars: dict[str, str] | None = None
    secrets: list[str] | None = None
    secret_versions: dict[str, str] | None = None
    """Secret → its version when this was deployed: a changed value is a new revision."""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    constraints: list[str] | None = None
    limits: Resources | None = None
    requests: Resources | None = None
    read_only_root_filesystem: bool | None = None

    @property
    def function(self) -> str:
        """``name.namespace``."""
        return join_function(self.name, self.namespace)

    @property
    def path(self) -> str:
        return function_path(self.name, self.namespace)

    @cached_property
    def revision(self) -> str:
        """Content address of artifact and configuration: 12 hex digits of SHA-256.

        The commit is not part of it: the same function at another commit is the same revision.
        """
        same = msgspec.structs.replace(self, commit=None, repository=None, key="")
        text = msgspec.json.encode(same, order="deterministic")
        return hashlib.sha256(text).hexdigest()[:12]

    def annotation(self, name: str, default: str = "") -> str:
        return (self.annotations or {}).get(name, default)


class FunctionRecord(Struct, frozen=True):
    """Desired state of one function."""

    spec: FunctionSpec
    release: str
    """Id of the release that brought it; empty where it was deployed by API."""
    replicas: int
    created_at: str
    previous: FunctionSpec | None = None
    """What keeps serving until ``spec`` is healthy, after a deploy by API."""

    @property
    def repository(self) -> str | None:
        """The claim: repository name within the namespace."""
        return self.spec.repository


class Usage(Struct, frozen=True):
    """What all replicas of one function use together, as OpenFaaS' provider types have it."""

    cpu: float
    """Thousandths of a core, over the second in which it was measured."""
    total_memory_bytes: float
    """0: what it uses is counted by nothing here."""


class Observed(Struct, frozen=True):
    """What the controller last saw of one function."""

    available: int
    """Replicas that are healthy."""
    endpoints: list[str] = msgspec.field(default_factory=list)
    """Where they listen: ``unix@/path`` or ``host:port``."""
    trouble: str = ""
    """Why fewer are available than desired, for people."""
    deployment: str = ""
    """``FunctionSpec.deployment`` of what was desired then."""


class FunctionRow(Struct, frozen=True):
    """One function in one release, as the API shows it."""

    name: str
    key: str = ""
    build: Build = Build.PENDING
    artifact: str = ""
    seconds: float = 0.0
    url: str = ""


class Receipt(Struct, frozen=True):
    """What the switch cost, as the edge saw it from the first route change to the last drain."""

    requests: int
    failed: int
    """No answer, or a 5xx that the platform made."""
    longest_gap_ms: float


class Release(Struct, frozen=True):
    """One commit's way to being live."""

    id: str
    namespace: str
    repository: str
    branch: str
    commit: str
    state: State
    created_at: str
    reason: str = ""
    finished_at: str | None = None
    functions: list[FunctionRow] = msgspec.field(default_factory=list)
    receipt: Receipt | None = None

    @property
    def number(self) -> int:
        """Order of creation: a higher number is a newer release."""
        return int(self.id[1:].split("-", 1)[0])


class Repository(Struct, frozen=True):
    """A repository that Slipway knows."""

    namespace: str
    name: str
    source: str
    """``git`` for our own remote, else the forge: ``github``."""
    full_name: str = ""
    """``owner/name`` at the forge; the clone URL is the forge's base + this, never a payload's."""
    forge_id: str = ""
    """The forge's own id of the repository: a renamed one keeps it."""
    deploy_branch: str = ""
    """Empty until the first of main/master is pushed to our own remote."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class LogLine(Struct, frozen=True):
    """One line of a release's log."""

    time: str
    function: str
    step: str
    stream: str
    """``step`` (a stage begins or ends), ``stdout`` or ``stderr`` of what ran."""
    text: str


class FunctionLogLine(Struct, frozen=True):
    """One line that a function wrote."""

    time: str
    instance: str
    text: str


class Artifact(Struct, frozen=True):
    """One function as the builder hands it over."""

    name: str
    key: str
    artifact: str
    spec: FunctionSpec


class Artifacts(Struct, frozen=True):
    """Body of ``PUT /system/releases/<id>/artifacts``: a commit, all its functions."""

    commit: str
    functions: list[Artifact]


class Call(Struct, frozen=True):
    """An asynchronous call that is still to be made."""

    id: str
    """Its X-Call-Id."""
    name: str
    """The function's name as the caller wrote it: ``name`` or ``name.namespace``."""
    target: str
    """What follows the name, byte by byte as it came: path and query."""
    headers: list[tuple[str, str]]
    body: bytes
    """base64 in JSON."""
    callback: str = ""
    """URL that gets the answer; empty: nobody."""


def now() -> str:
    """The time as every record writes it: RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
