"""The verbs of the docker provider; see the package's docstring for the way through.

Whatever is held in memory is a cache of what the engine's containers carry. The one thing that is
kept elsewhere is that a container was told to end: an empty file of its name in <run>/stopping.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from docker.errors import APIError

from core import cgroup, failpoints, logfiles
from core.bundle import PREFIX, discard_bundle
from core.errors import Conflict, InvalidRequest, NotFound, SlipwayError, Unavailable
from core.models import FunctionLogLine, FunctionSpec, Usage
from core.pruning import Answer
from core.sandbox.network import Network
from core.settings import Settings
from engine import images, pulled
from engine.client import Engine
from runtime.providers import Instance, always, never
from runtime.providers.cells import (
    UIDS,
    IsQuiet,
    held_to,
    memory_limit,
    nobody_is_quiet,
    reaches_out,
)
from runtime.providers.docker import document as documents
from runtime.providers.docker.addresses import Addresses
from runtime.providers.docker.container import NO_IPV6, configuration, scratch
from runtime.providers.docker.document import Document
from runtime.providers.docker.enforced import enforced
from runtime.providers.docker.images import Image, Images
from runtime.providers.docker.logs import Logs
from runtime.providers.docker.network import FunctionsNetwork
from runtime.providers.docker.secrets import ContainerSecrets
from runtime.providers.docker.stats import usage_of
from runtime.providers.docker.user import Users
from runtime.providers.docker.watch import Containers, Known
from runtime.providers.secretfolders import ReadSecrets, no_secrets
from runtime.providers.usage import totals

log = logging.getLogger(__name__)

_QUICK = 20
"""Seconds for an answer about what is there already; see engine.client.TIMEOUT for the others."""
_TRIES = 5
"""Addresses that are tried where the engine says that one is taken."""
_CLOSE_SECONDS = 10.0
"""The longest that the end of this process waits for starts under way."""
_YOUNG, _ONCE_MORE = 1.0, 0.3
"""A container's init does not hear SIGTERM in its first milliseconds: one younger than this, in
seconds, gets it once more a moment later."""
_MEASURED_AT_ONCE = 32
_REMAPPED_UIDS = range(10_000, 60_000)
"""Users of functions where the engine maps users to others and knows only 65,536 of them."""
_PASSING = (
    "no space left",
    "resource temporarily unavailable",
    "cannot allocate memory",
    "too many open files",
    "device or resource busy",
)
"""What the engine says of a container that would start another time."""


class _AddressTaken(Exception):
    """Another container of the network has it."""


class DockerProvider:
    """See runtime.providers.Provider."""

    name = "docker"
    pauses = True

    def __init__(
        self,
        settings: Settings,
        key: bytes,
        read_secrets: ReadSecrets = no_secrets,
        is_quiet: IsQuiet = nobody_is_quiet,
    ) -> None:
        """``key`` signs what containers carry. The engine may be away.

        Raises:
            ConfigError: SLIPWAY_SUBNET is none.
        """
        self._settings = settings
        self._key = key
        self._is_quiet = is_quiet
        self._engine = Engine(settings.engine_url)
        self._quick = Engine(settings.engine_url, timeout=_QUICK)
        self._network = FunctionsNetwork(settings, self._quick)
        self._builds = Network.for_builds(settings)
        self._images = Images(settings, self._engine, lambda: self._closed)
        self._users = Users(settings, self._quick, self._unstarted)
        self._secrets = ContainerSecrets(settings, self._quick, read_secrets)
        self._addresses = Addresses(self._network.fence.subnet)
        self._logs = Logs(settings, self._quick)
        self._told_to_end = settings.run / "stopping"
        self._told_to_end.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tidied = False
        self._sysctls = NO_IPV6
        self._info: dict[str, Any] = {}
        self._starting = 0
        self._idle = threading.Condition()
        """Told whenever a start is over."""
        self._closed = False
        self._containers = Containers(
            Engine(settings.engine_url, timeout=_QUICK),
            key,
            settings.mark,
            stopping=lambda id: (self._told_to_end / id).exists(),
            found=self._logs.follow,
            ended=lambda known: self._logs.follow(known, final=True),
            gone=self._forget,
            tick=self._tick,
        )

    def start(self, spec: FunctionSpec, stop: Callable[[], bool] = never) -> Instance:
        """Starts one replica; see Provider.start.

        Raises:
            InvalidRequest: a limit, a variable, or an image that cannot be run.
        """
        with self._idle:
            if self._closed:
                raise Unavailable(f"{spec.function} is not started: the controller is stopping")
            self._starting += 1
        try:
            image = self._images.get(spec, self._containers.image_of(spec), stop)
            values = self._secrets.values(spec, self._about().get("SecurityOptions") or ())
            user = self._users.of(spec, image)
            network = self._network.ready()
            for _ in range(_TRIES):
                with contextlib.suppress(_AddressTaken):
                    return self._start(spec, image, user, network, values)
            raise Unavailable(
                f"{spec.function} is not started: {_TRIES} addresses in a row are taken by others"
            )
        finally:
            with self._idle:
                self._starting -= 1
                self._idle.notify_all()

    def _start(
        self,
        spec: FunctionSpec,
        image: Image,
        user: tuple[int, int] | None,
        network: str,
        values: Mapping[str, bytes],
    ) -> Instance:
        settings = held_to(self._settings, spec, self._is_quiet)
        quiet = not reaches_out(settings, spec)

        def document(ips: Collection[str], uids: Collection[int]) -> Document:
            ip = self._addresses.draw(ips, quiet=quiet)
            return self._document(spec, image, ip, user or (self._free_uid(uids), -1))

        known = self._containers.reserve(document)
        try:
            config = configuration(
                settings,
                known.document,
                image,
                documents.labels(self._key, known.document),
                network=network,
                edge=self._network.edge,
                group=self._group(),
                sysctls=self._sysctls,
                mounts=self._secrets.mounts(known.document, values),
            )
            known.container = self._create(known, config)
            self._run(known)
        except BaseException:
            self._undo(known)
            raise
        instance = self._containers.started(known)
        self._logs.follow(known)
        return instance

    def _document(
        self, spec: FunctionSpec, image: Image, ip: str, user: tuple[int, int]
    ) -> Document:
        return Document(
            id=f"{spec.function}-{spec.revision}-{secrets.token_hex(4)}",
            spec=spec,
            ip=ip,
            uid=user[0],
            gid=user[1],
            image=image.name if spec.foreign else "",
            memory=memory_limit(self._settings, spec),
            started_at=time.time(),
            installation=self._settings.mark,
        )

    @contextlib.contextmanager
    def _unstarted(self, spec: FunctionSpec, image: Image) -> Iterator[str]:
        """A container that is never started: one that a crash leaves is found and removed."""
        known = self._containers.reserve(lambda *_: self._document(spec, image, "0.0.0.0", (0, 0)))
        try:
            config = scratch(image, documents.labels(self._key, known.document))
            known.container = self._create(known, config)
            yield known.container
        finally:
            self._undo(known)

    def _create(self, known: Known, config: dict[str, Any]) -> str:
        spec = known.document.spec
        try:
            with self._asking(f"{spec.function} is not started") as api:
                return str(api.create_container_from_config(config, known.document.id)["Id"])
        except NotFound:
            self._images.forget(str(config["Image"]))  # it is fetched again
            raise Unavailable(
                f"{spec.function} is not started: its image was removed from the engine just now"
            ) from None
        except Conflict as error:
            raise Unavailable(str(error)) from error

    def _run(self, known: Known) -> None:
        try:
            with self._asking(f"{known.document.spec.function} is not started") as api:
                failpoints.at("container-created")
                api.start(known.container)
        except (NotFound, Conflict) as error:  # removed under us, or its network was
            raise Unavailable(str(error)) from error
        except Unavailable as error:
            told = str(error).lower()
            if "address already in use" in told:
                raise _AddressTaken from error
            if "disable_ipv6" in told and self._sysctls:
                self._sysctls = {}
                raise
            if "oci runtime" in told and not any(each in told for each in _PASSING):
                raise InvalidRequest(str(error)) from error
            raise

    def _undo(self, known: Known) -> None:
        """Removes what a start that failed had made; what cannot be now is met again."""
        known.ending = known.doomed = True
        if known.container:
            with contextlib.suppress(NotFound):
                try:
                    with self._quick.asking("") as api:
                        api.remove_container(known.container, v=True, force=True)
                except SlipwayError as error:
                    log.warning("%s stays for now: %s", known.document.id, error)
                    return
        self._containers.drop(known)

    def prepare(self, specs: Collection[FunctionSpec]) -> None:
        """See Provider.prepare: an image is there as soon as it was built or pulled."""

    def instances(self) -> Sequence[Instance]:
        """See Provider.instances.

        Raises:
            Unavailable: the engine is away, so nobody knows.
        """
        return self._containers.instances()

    def terminate(self, instance: Instance) -> None:
        """See Provider.terminate.

        Raises:
            Unavailable: the engine does not answer.
        """
        known = self._containers.get(instance.id)
        if known is None or known.exit_reason is not None:
            return
        note = self._told_to_end / instance.id
        try:
            note.touch()
        except OSError as error:  # the disk is full: only a later controller asks again
            log.warning("%s is told to end, but not noted: %s", instance.id, error)
        try:
            self._signal(known, "SIGTERM")
        except BaseException:
            note.unlink(missing_ok=True)
            raise
        known.stopping = True
        if time.time() - known.document.started_at < _YOUNG:
            again = threading.Timer(_ONCE_MORE, self._signal_again, (known,))
            again.daemon = True
            again.start()

    def pause(self, instance: Instance) -> None:
        """See Provider.pause: the engine's freezer."""
        known = self._containers.get(instance.id)
        if known is None or known.exit_reason is not None or known.paused:
            return
        with (
            contextlib.suppress(NotFound, Conflict),  # it has ended, or is paused already
            self._asking(f"{instance.id} is not paused", self._quick) as api,
        ):
            api.pause(known.container)
            known.paused = True

    def resume(self, instance: Instance) -> None:
        known = self._containers.get(instance.id)
        if known is None or known.exit_reason is not None:
            raise Unavailable(f"{instance.id} is not resumed: it has ended")
        if not known.paused:
            return
        try:
            with (
                contextlib.suppress(Conflict),  # it runs
                self._asking(f"{instance.id} is not resumed", self._quick) as api,
            ):
                api.unpause(known.container)
        except NotFound as error:
            raise Unavailable(str(error)) from error
        known.paused = False

    def _signal_again(self, known: Known) -> None:
        if known.exit_reason is None and not known.ending and not self._closed:
            with contextlib.suppress(SlipwayError):
                self._signal(known, "SIGTERM")

    def _signal(self, known: Known, signal: str) -> None:
        """Nothing happens to one that is gone or does not run."""
        with (
            contextlib.suppress(NotFound, Conflict),
            self._asking(f"{known.document.id} is not ended", self._quick) as api,
        ):
            api.kill(known.container, signal)

    def _kill(self, known: Known) -> None:
        """Ends it. Where the engine saw no end of it, its processes are held back by their bound on
        the CPU (core/cgroup.py: Cgroup.lift_cpu), which is taken away then."""
        try:
            self._signal(known, "SIGKILL")
        except Unavailable as error:
            if not isinstance(error.__cause__, APIError):  # the engine did not answer at all
                raise
            with (
                contextlib.suppress(NotFound, Conflict),
                self._asking(f"{known.document.id} is not ended", self._quick) as api,
            ):
                api.update_container(known.container, cpu_quota=-1)
            self._signal(known, "SIGKILL")

    def remove(self, instance: Instance) -> None:
        """See Provider.remove.

        Raises:
            Unavailable: the engine does not answer; trying again can help.
        """
        known = self._containers.get(instance.id)
        if known is None:
            return
        known.ending = True
        try:
            # First ended, so that its last words are still there to be read.
            if not known.dead:
                self._kill(known)
                self._logs.follow(known, final=True)
            failpoints.at("container-ended")
            self._logs.finish(instance.id, wait=True)
            with (
                contextlib.suppress(NotFound, Conflict),  # Conflict: another one is removing it
                self._asking(f"{instance.id} is not removed", self._quick) as api,
            ):
                api.remove_container(known.container, v=True, force=True)
        except BaseException:
            known.ending = False
            raise
        self._containers.drop(known)

    def wait(self, timeout: float) -> None:
        self._containers.wait(max(timeout, 0))

    def logs(self, function: str, *, tail: int = 0, since: str = "") -> Iterator[FunctionLogLine]:
        after = datetime.fromisoformat(since) if since else None
        lines = logfiles.function_lines(self._settings.logs / function, after)
        yield from deque(lines, maxlen=tail) if tail else lines

    def usage(self, functions: Collection[str]) -> Mapping[str, Usage]:
        """See Provider.usage. The engine measures: once a second, so all are asked side by side."""
        wanted = [
            (known.document.spec.function, known.container)
            for known in self._containers.running()
            if known.document.spec.function in functions
        ]
        with ThreadPoolExecutor(_MEASURED_AT_ONCE) as pool:
            found = list(pool.map(self._stats, (container for _, container in wanted)))
        return totals(
            (function, used)
            for (function, _), stats in zip(wanted, found, strict=True)
            if (used := usage_of(stats))
        )

    def _stats(self, container: str) -> dict[str, Any]:
        """What the engine counts of it, twice, a second apart; nothing of one that has gone."""
        with (
            contextlib.suppress(NotFound, Conflict),
            self._quick.asking("what functions use is not known") as api,
        ):
            return dict(api.stats(container, stream=False))
        return {}

    def mend(self) -> None:
        """See Provider.mend. Containers that lost their network count as ended."""
        try:
            self._builds.mend()  # nobody else looks after the fence of the engine for builds
        finally:
            self._containers.instances()  # while the engine is away one thread alone asks it
            if self._network.mend():
                self._containers.strand()

    def stray(self, build_keys: Collection[str]) -> Iterable[tuple[str, str]]:
        return images.stray(self._settings, build_keys)

    def discard(self, namespace: str, artifact: str, unneeded: Callable[[], bool] = always) -> None:
        if any(each.spec.artifact == artifact for each in self.instances()):
            return
        if artifact.startswith(PREFIX):  # of a time when functions ran as processes here
            discard_bundle(self._settings, namespace, artifact, unneeded)
            return
        if not unneeded():
            return
        self._images.forget(artifact)
        images.discard(self._settings, self._engine, namespace, artifact)

    def weigh(self, artifact: str) -> int:
        return pulled.weigh(self._engine, artifact)

    def tidy(self, needed: Collection[str], grace: float, *, dry: bool = False) -> Answer:
        if not dry:
            self._images.tidy(needed)
        return pulled.sweep(self._settings, self._engine, needed, grace, dry=dry)

    def disks(self) -> Sequence[Path]:
        """See Provider.disks. Where we are a container the engine's folder is not there."""
        root = Path(self._about()["DockerRootDir"])
        return [root] if root.is_dir() else []

    def enforced(self) -> dict[str, str]:
        try:
            return enforced(self._settings, self._about(), self._network.unfenced)
        except SlipwayError as error:
            return {"engine": f"not known: {error}"}

    def close(self) -> None:
        with self._idle:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: not self._starting, _CLOSE_SECONDS)
        self._containers.close()
        self._logs.close()
        self._engine.close()
        self._quick.close()

    def _tick(self) -> None:
        if not self._tidied:
            self._tidied = True
            self._tidy_notes()
        for known in self._containers.running():
            self._logs.follow(known)

    def _tidy_notes(self) -> None:
        """Forgets what was told to end and went while nobody was here to see it."""
        with contextlib.suppress(OSError):
            for note in list(self._told_to_end.iterdir()):
                if self._containers.get(note.name) is None:
                    note.unlink(missing_ok=True)
        self._secrets.keep_only(lambda id: self._containers.get(id) is not None)

    def _forget(self, known: Known) -> None:
        """It is no more."""
        id = known.document.id
        if known.document.image:
            self._images.remember(known.document.spec, known.document.image)
        self._logs.finish(id)
        self._addresses.give_back(known.document.ip)
        self._secrets.remove(id)
        with contextlib.suppress(OSError):
            (self._told_to_end / id).unlink(missing_ok=True)

    def _free_uid(self, taken: Collection[int]) -> int:
        options = self._info.get("SecurityOptions") or ()
        mapped = any("name=userns" in each or "name=rootless" in each for each in options)
        while True:
            uid = random.choice(_REMAPPED_UIDS if mapped else UIDS)
            if uid not in taken:
                return uid

    def _about(self) -> dict[str, Any]:
        """What the engine says of itself."""
        if not self._info:
            with self._quick.asking("the engine does not say what it can do") as api:
                self._info = api.info()
        return self._info

    def _group(self) -> str:
        """The control group of all functions, where we may make it and the engine's would be one
        among many; else empty."""
        local = self._settings.engine_url.startswith("unix://") and os.geteuid() == 0
        # systemd keeps the groups of its units as it wants them.
        if not local or self._about().get("CgroupDriver") != "cgroupfs":
            return ""
        groups = cgroup.of_containers(self._settings.mark, top=True)
        return f"/{groups.name}" if "cpu" in groups.controllers else ""

    @contextlib.contextmanager
    def _asking(self, what: str, engine: Engine | None = None) -> Iterator[Any]:
        """Asks the engine; where it does not answer, nothing is known until it does."""
        try:
            with (engine or self._engine).asking(what) as api:
                yield api
        except Unavailable as error:
            if not isinstance(error.__cause__, APIError):  # it did not answer at all
                self._containers.lost(str(error))
            raise
