"""The values that the parts hand to one another, and their JSON.

Field names are camelCase in JSON. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from core.lazy import cached_property
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
    secrets_namespace: str = ""
    """Where its secrets are, if that is not its own namespace: those of previews."""
    sealed: dict[str, str] | None = None
    """Secret → its value as the commit has it, sealed: opened by the runtime alone."""
    artifacts_namespace: str = ""
    """Where its artifact lies, if not in its own namespace: an environment shares its owner's."""
    repository_id: str = ""
    """What ``sealed`` is bound to beside namespace and name; written by the gateway."""
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

    @property
    def artifacts_of(self) -> str:
        """The namespace whose artifact it is."""
        return self.artifacts_namespace or self.namespace

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
    pinned: str = ""
    """Id of the rollback that set it, until a newer commit is released."""

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
    starting: bool = False
    """Whether fewer are only because they are being started, and none has failed for good."""
    deployment: str = ""
    """``FunctionSpec.deployment`` of what was desired then."""
    revision: str = ""
    """Of what answers at the endpoints; empty where there are none."""


class ChangeKind(StrEnum):
    """What a change is to."""

    FIRST = "first"
    """Nothing of this name was live."""
    BUILD = "build"
    """What goes into the build."""
    CONFIGURATION = "configuration"
    """How the same artifact is run."""


class Change(Struct, frozen=True):
    """One thing in which a function differs from what was live before. Never a value of a variable,
    a label, a build argument or a secret."""

    kind: ChangeKind
    what: str = ""
    """An input of the build's key, such as ``handler``; or what the stack file calls it, such as
    ``environment``."""
    before: str = ""
    after: str = ""
    """The beginnings of content addresses; empty where there was or is none."""
    names: list[str] = msgspec.field(default_factory=list)
    """Of a folder some of the files that changed, of variables and the like their names: the first
    few, and ``…`` where there are more."""

    def __str__(self) -> str:
        """In a few words: ``handler changed (handler.py)``."""
        if self.kind is ChangeKind.FIRST:
            return "first release"
        how = "changed" if bool(self.before) == bool(self.after) else "is new"
        how = "is gone" if self.before and not self.after else how
        return f"{self.what} {how}" + (f" ({', '.join(self.names)})" if self.names else "")


class FunctionRow(Struct, frozen=True):
    """One function in one release, as the API shows it."""

    name: str
    key: str = ""
    build: Build = Build.PENDING
    artifact: str = ""
    seconds: float = 0.0
    url: str = ""
    why: list[Change] | None = None
    """What changed; empty: nothing. Null where that was not looked at."""
    since: str = ""
    """Id of the release that was live then, with which it was compared."""
    folder: str = ""
    """Its handler's folder within the repository, ``.`` for the whole; empty: it has none, or that
    was not told."""


class Receipt(Struct, frozen=True):
    """What the switch cost, as the edge saw it from the first route change to the last drain."""

    requests: int
    failed: int
    """No answer, or a 5xx that the platform made."""
    longest_gap_ms: float


class OpenReceipt(Struct, frozen=True):
    """A receipt that is still being counted, so that the next controller can go on with it."""

    functions: list[str]
    """``name.namespace``: whose requests count."""
    old: list[str]
    """Ids of the replicas that the switch made superfluous."""
    begun: float
    counted_until: float
    """Unix times."""
    so_far: Receipt


class Traffic(Struct, frozen=True):
    """How one function answered."""

    requests: int = 0
    errors: int = 0
    """5xx, and requests without an answer that no client had given up."""
    p50_ms: float = 0.0
    p95_ms: float = 0.0


class Verdict(StrEnum):
    """What became of watching a release."""

    WATCHING = "watching"
    KEPT = "kept"
    RETURNED = "returned"
    ENDED = "ended"
    """Another release or a rollback took its place before its time was over."""


class Watched(Struct, frozen=True):
    """One function that a release changed, beside what it replaced."""

    name: str
    before: Traffic
    """In the minute before the switch."""
    after: Traffic = Traffic()


class Watch(Struct, frozen=True):
    """A release that went live is watched for a while, and taken back where it does worse."""

    verdict: Verdict
    until: str
    """When it is over: RFC 3339."""
    functions: list[Watched] = msgspec.field(default_factory=list)


class Promotion(Struct, frozen=True):
    """Where a release has its artifacts from, if none of them were made for it."""

    environment: str
    """``production`` or the name of one."""
    release: str
    """Id of the release that was live there."""

    @property
    def number(self) -> int:
        """As ``Release.number`` of that release."""
        return number_of(self.release)


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
    watch: Watch | None = None
    """Null where it changed nothing that there was before, or nothing is watched."""
    promoted_from: Promotion | None = None
    """Null where its functions were built, or found built, for itself."""

    @property
    def settled(self) -> bool:
        """Whether it is decided, and nothing takes it back by itself any more."""
        watched = self.watch is not None and self.watch.verdict is Verdict.WATCHING
        return self.state.final and not (self.state is State.LIVE and watched)

    @property
    def number(self) -> int:
        """Order of creation: a higher number is a newer release."""
        return number_of(self.id)


def number_of(release: str) -> int:
    """``Release.number``, of its id."""
    return int(release[1:].split("-", 1)[0])


class RollbackState(StrEnum):
    """How far a rollback is."""

    STARTING = "starting"
    """Its revisions are started, where they are not warm."""
    SWITCHED = "switched"
    """They are the desired state; the routes follow."""
    DONE = "done"
    FAILED = "failed"


class Rollback(Struct, frozen=True):
    """Back to what an earlier release brought: one function, or all of a repository."""

    id: str
    namespace: str
    repository: str
    from_: str = msgspec.field(name="from")
    """The release that was live."""
    to: str
    """The release whose revisions are to serve again."""
    state: RollbackState
    created_at: str
    function: str = ""
    """Name of the function; empty: the whole repository."""
    reason: str = ""
    finished_at: str | None = None
    branch: str | None = None
    """Of our own remote: where the same stands as a commit, ready to merge; empty: nowhere, None:
    that is not decided yet."""
    receipt: Receipt | None = None

    @property
    def key(self) -> str:
        """Of the repository."""
        return f"{self.namespace}/{self.repository}"


class Warm(Struct, frozen=True):
    """A revision that was replaced and goes on running, out of the routes, for a way back."""

    spec: FunctionSpec
    revision: str
    """Of ``spec``: counting it out takes its time, and it is asked for in every pass."""
    until: float
    """Unix time."""


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
    environments: dict[str, str] = msgspec.field(default_factory=dict)
    """Those that the stack file at the root names → their branches."""


class Call(Struct, frozen=True):
    """An asynchronous call as it is to be made."""

    id: str
    """Made by us: whoever knows it may read the answer."""
    name: str
    """The function's name as the caller wrote it: ``name`` or ``name.namespace``."""
    target: str
    """What follows the name, byte by byte as it came: path and query."""
    headers: list[tuple[str, str]]
    body: bytes = b""
    """Small: what is larger lies in a file."""
    callback: str = ""
    """URL that gets the answer; empty: nobody."""
    given: str = ""
    """The caller's own X-Call-Id, which opens nothing here; empty: it sent none."""
    held: int | None = None
    """Bytes of the body in its file (gateway/bodies.py); None: ``body`` is all of it."""

    @property
    def length(self) -> int:
        """Bytes of the body, wherever it is."""
        return len(self.body) if self.held is None else self.held


class CallState(StrEnum):
    """How far an asynchronous call is."""

    QUEUED = "queued"
    """Also while it waits for another attempt."""
    RUNNING = "running"
    DONE = "done"
    """The function answered, with whatever status that is not tried again."""
    FAILED = "failed"
    """Given up or cancelled: see its reason."""


def now() -> str:
    """The time as every record writes it: RFC 3339, UTC, milliseconds."""
    return moment(time.time())


def moment(unix: float) -> str:
    """A Unix time, written so."""
    told = datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")
