"""What runs revisions: the interface, and the manual for the next implementation.

A provider starts and ends *instances* (replicas) and tells which there are. It decides nothing:
the controller compares desired with observed and calls these verbs, as often as it likes, so each
must give the same result when it is repeated. A provider

- must find every instance that it ever started, also after a restart of this process, from what
  the instance itself carries (a signed label, a signed file): never from memory;
- must not touch what does not carry our signature;
- must isolate: see the table of trust in docs/architecture.md. The contract suite
  (tests/contracts/test_provider.py) says what that means, and every provider passes it unchanged;
- must bind an instance's address before its code runs, where that is the provider's to do (an
  image binds its own: until then connections are refused), and never use an address again soon: the
  edge keeps connections to an old one for a while;
- must give an instance its secrets, with the values at its start, as files on a tmpfs that its user
  alone can read (0400), and leave them nowhere else: not in a document, label, argument or log;
- must keep what an instance wrote (bounded by ``Settings.function_log``) after its death.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from core.models import FunctionLogLine, FunctionSpec, Struct, Usage
from core.pruning import Answer


class Phase(StrEnum):
    """What an instance is doing, as far as the provider can see."""

    RUNNING = "running"
    PAUSED = "paused"
    """By ``pause``: its memory is kept, it gets no CPU time, and is to be sent nothing."""
    STOPPING = "stopping"
    """Was told to end by ``terminate``."""
    EXITED = "exited"


class Instance(Struct, frozen=True):
    """One replica of one revision."""

    id: str
    """Unique for ever: ``<name>.<namespace>-<revision>-<random>``."""
    spec: FunctionSpec
    address: str
    """``unix@/path`` or ``host:port``: what the edge and the gateway connect to."""
    phase: Phase
    started_at: float
    """Unix time, seconds."""
    exit_reason: str = ""
    """For people: ``exited with status 3``, ``killed: over its memory limit of 128Mi``."""

    @property
    def function(self) -> str:
        return self.spec.function

    @property
    def revision(self) -> str:
        return self.spec.revision


def never() -> bool:
    """The start that is never called off."""
    return False


def always() -> bool:
    """What is removed whatever happens meanwhile."""
    return True


class Provider(Protocol):
    """Starts, ends and lists instances. All methods may be called from several threads."""

    name: str
    pauses: bool
    """Whether ``pause`` saves something here: coming back from it is quicker than a start."""

    def start(self, spec: FunctionSpec, stop: Callable[[], bool] = never) -> Instance:
        """Starts one instance and returns when its process exists; it need not answer yet.

        ``stop``: asked while it waits for something slow, an image that is fetched: whether nobody
        wants the instance any more.

        Raises:
            Conflict: ``stop`` said so.
            NotFound: the artifact or a secret is not there.
            NotSupported: the function wants secrets, and nothing here can keep them its own.
            Unavailable: the engine or kernel refused for now; trying again can help.
        """

    def prepare(self, specs: Collection[FunctionSpec]) -> None:
        """These, and no others, may be started soon: what shortens that is made ready, behind the
        caller. Called every few seconds; cheap while nothing changes, and never fails."""

    def instances(self) -> Sequence[Instance]:
        """Every instance that is ours, dead ones that were not removed included.

        Raises:
            Unavailable: an engine is away, so nobody knows; never an empty answer instead.
        """

    def terminate(self, instance: Instance) -> None:
        """Asks it to finish its requests and end (SIGTERM); returns at once."""

    def pause(self, instance: Instance) -> None:
        """Halts it where it is, with no request; nothing happens to one that does not run. Where
        ``pauses`` is False it is never called.

        Raises:
            Unavailable: not now.
        """

    def resume(self, instance: Instance) -> None:
        """Lets a paused one go on; nothing happens to one that runs.

        Raises:
            Unavailable: it is gone, or the engine refused for now.
        """

    def remove(self, instance: Instance) -> None:
        """Ends the whole process tree if it still runs and removes every trace but the log."""

    def wait(self, timeout: float) -> None:
        """Returns when an instance has ended since the last call, or after ``timeout`` seconds."""

    def logs(self, function: str, *, tail: int = 0, since: str = "") -> Iterator[FunctionLogLine]:
        """What the instances of ``name.namespace`` wrote, oldest first.

        ``tail``: the last so many lines (0: all that is kept). ``since``: RFC 3339.
        """

    def usage(self, functions: Collection[str]) -> Mapping[str, Usage]:
        """What the running instances of each ``name.namespace`` use, over about a second, for which
        it waits. A function of which none runs, or where nothing is counted, is left out.

        Raises:
            Unavailable: an engine is away.
        """

    def mend(self) -> None:
        """Makes anew what all instances use and another program on the host took away: a network.

        Called every few seconds from one thread; cheap while nothing is missing.

        Raises:
            Unavailable: not now.
        """

    def stray(self, build_keys: Collection[str]) -> Iterable[tuple[str, str]]:
        """(namespace, artifact) of images in the registry that is ours alone of which none of these
        is the build key: of builds that died before anybody knew.

        Raises:
            Unavailable: not known now.
        """

    def discard(self, namespace: str, artifact: str, unneeded: Callable[[], bool] = always) -> None:
        """Removes an artifact that nothing needs any more, wherever it lies; one that an instance
        still uses stays. May be repeated. ``unneeded`` is asked as late as can be: whether it still
        is.

        Raises:
            Unavailable: not now.
        """

    def weigh(self, artifact: str) -> int:
        """Bytes on disk of an artifact, as far as can be told; 0 where it is not there.

        Raises:
            Unavailable: not now.
        """

    def tidy(self, needed: Collection[str], grace: float, *, dry: bool = False) -> Answer:
        """Removes what it fetched for functions and none has needed for ``grace`` seconds; ``dry``:
        only tells what. ``needed``: artifacts as functions name them.

        Raises:
            Unavailable: not now.
        """

    def disks(self) -> Sequence[Path]:
        """Folders of this machine, besides the state folder, that fill with artifacts and output.

        Raises:
            Unavailable: not known now.
        """

    def enforced(self) -> dict[str, str]:
        """What is bounded here, by what, for ``slipway config``: ``{"memory": "cgroup v1", …}``."""

    def close(self) -> None:
        """Lets go of threads and descriptors; instances live on."""
