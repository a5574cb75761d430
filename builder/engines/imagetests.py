"""Runs tests in a container of their own: no network, nothing to write but memory, no rights.

The container is asked for over the engine's API, its output followed as it comes, and it is removed
whatever happens. One whose worker was killed is found by its labels: they name the process that
made it, and the time at which it would have been ended.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from docker.types import LogConfig, Mount

from builder.bounded import ASK_EVERY, Lines
from core import cores
from core.alive import owner, place
from core.cgroup import ENGINE, PERIOD
from core.errors import BuildFailed, Conflict, NotFound, SlipwayError
from core.settings import Settings
from engine.client import Engine

Outcome = Literal["exited", "timeout", "output", "memory", "stopped"]

LABEL = "com.slipway.test"
"""The installation that a container of tests belongs to."""
_OWNER, _UNTIL = "com.slipway.test.owner", "com.slipway.test.until"
_NOBODY = "65534:65534"
_GRACE = 120.0
_MOST_VOLUMES = 16


@dataclass(frozen=True)
class Ran:
    """How tests ended."""

    outcome: Outcome
    status: int


def run(
    engine: Engine,
    settings: Settings,
    image: str,
    *,
    argv: Sequence[str] | None,
    env: Mapping[str, str],
    folder: str | None,
    tmp: int,
    on_line: Callable[[str], None],
    stop: Callable[[], bool],
) -> Ran:
    """Runs one container to its end.

    Args:
        argv: None for the image's own entry point and command.
        folder: where it is run; None for the image's own.
        tmp: bytes of /tmp, and of each volume that the image declares.
        stop: asked again and again; true ends it.

    Raises:
        BuildFailed: the image declares too many volumes.
        Unavailable: the engine.
    """
    with engine.asking("the container of the tests") as api:
        config = api.inspect_image(image)["Config"]
        own = str(config.get("User") or "")
        user = _NOBODY if argv or own.partition(":")[0] in ("", "0", "root") else own
        made = api.create_container(
            image,
            command=list(argv) if argv is not None else None,
            entrypoint=[] if argv is not None else None,
            user=user,
            environment=dict(env),
            working_dir=folder,
            name=f"slipway-test-{settings.mark}-{secrets.token_hex(8)}",
            use_config_proxy=False,  # this host's user's own, with a password perhaps
            labels={
                **dict.fromkeys(config.get("Labels") or {}, ""),  # others read orders in them
                LABEL: settings.mark,
                _OWNER: owner(os.getpid()),
                _UNTIL: str(int(time.time() + settings.build_timeout + _GRACE)),
            },
            healthcheck={"test": ["NONE"]},
            host_config=api.create_host_config(
                network_mode="none",
                read_only=True,
                tmpfs={"/tmp": f"size={tmp},mode=1777,exec"},
                mounts=_scratch(config.get("Volumes") or {}, tmp),
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=settings.build_memory,
                memswap_limit=settings.build_memory,
                cpu_period=PERIOD,
                cpu_quota=int(settings.build_cpus * PERIOD),
                cpu_shares=_shares(settings),
                cpuset_cpus=_cores(settings),
                pids_limit=settings.function_pids,
                log_config=LogConfig(type="none"),  # its output is followed, and fills no disk
                restart_policy={"Name": "no"},
                init=True,
            ),
        )
        try:
            outcome = _follow(engine, made["Id"], settings, on_line, stop)
            if outcome != "exited":
                # Held back by their bound they would not end (core/cgroup.py: Cgroup.lift_cpu).
                with contextlib.suppress(SlipwayError), engine.asking("ending tests") as ours:
                    ours.update_container(made["Id"], cpu_quota=-1)
                with contextlib.suppress(SlipwayError), engine.asking("ending tests") as ours:
                    ours.kill(made["Id"])
                return Ran(outcome, 137)
            state = api.inspect_container(made["Id"])["State"]
            return Ran("memory" if state.get("OOMKilled") else "exited", int(state["ExitCode"]))
        finally:
            _remove(engine, made["Id"])


def _shares(settings: Settings) -> int | None:
    """An engine for builds has a small share of the CPU as a whole; on the one that runs functions
    each container of tests has one."""
    return None if settings.build_engine else round(1024 * ENGINE)


def _cores(settings: Settings) -> str | None:
    """Those of this worker. An engine for builds keeps to them itself; one elsewhere has others."""
    here = settings.engine_url.startswith("unix://") and not settings.build_engine
    return cores.ours() if here else None


def _scratch(volumes: Collection[str], size: int) -> list[Mount]:
    """Bounded memory for what an image declares as volumes.

    The engine would make folders of the host of them, which nothing bounds.
    """
    if len(volumes) > _MOST_VOLUMES:
        raise BuildFailed(
            f"the image of the tests declares {len(volumes)} volumes, more than {_MOST_VOLUMES}: "
            "remove VOLUME from its Dockerfile, and write to /tmp"
        )
    return [
        Mount(path, None, type="tmpfs", tmpfs_size=size, tmpfs_mode=0o1777)
        for path in sorted(volumes)
        if path.rstrip("/") != "/tmp"
    ]


def sweep(engine: Engine, settings: Settings) -> int:
    """Removes containers of tests whose worker is gone; returns how many."""
    count = 0
    with engine.asking("the containers of tests") as api:
        found = api.containers(all=True, filters={"label": f"{LABEL}={settings.mark}"})
    for each in found:
        labels = each["Labels"]
        host, _, _ = labels.get(_OWNER, "").partition(" ")
        ours = host == place()
        pid = labels.get(_OWNER, "").split(" ")[1:2]
        dead = ours and (not pid or owner(int(pid[0])) != labels[_OWNER])
        if dead or time.time() > float(labels.get(_UNTIL) or 0):
            _remove(engine, each["Id"])
            count += 1
    return count


def _follow(
    engine: Engine,
    container: str,
    settings: Settings,
    on_line: Callable[[str], None],
    stop: Callable[[], bool],
) -> Outcome:
    """Starts it and tells its output until it has ended or reached a bound."""
    pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read(stream: Any) -> None:
        """Waits for nobody, as the engine drops what is not taken soon after the end. No more than
        the bound is held: beyond it nothing is read, which halts the tests until they are ended."""
        left = settings.build_output
        try:
            for piece in stream:
                pieces.put(piece)
                left -= len(piece)
                if left < 0:
                    break
        except Exception:  # the connection broke: what the engine says of the container decides
            pass
        finally:
            with contextlib.suppress(Exception):  # it may be closed already
                stream._response.close()  # its own close() leaves half of an upgraded one open
            pieces.put(None)

    lines = Lines(on_line, 0)
    deadline = time.monotonic() + settings.build_timeout
    asked = time.monotonic()
    written = 0
    with engine.asking("the tests") as api:
        # Before the start, so that nothing is missed. Not the engine's log of it: one that is kept
        # small is emptied as it fills, read or not.
        stream = api.attach(container, stdout=True, stderr=True, stream=True)
        threading.Thread(target=read, args=(stream,), daemon=True).start()
        api.start(container)
        try:
            while True:
                now = time.monotonic()
                if now > deadline:
                    return "timeout"
                if now - asked >= ASK_EVERY:
                    asked = now
                    if stop():
                        return "stopped"
                try:
                    piece = pieces.get(timeout=min(ASK_EVERY, max(deadline - now, 0.01)))
                except queue.Empty:
                    continue
                if piece is None:
                    break
                written += len(piece)
                lines.feed(piece)
                if written > settings.build_output:
                    return "output"
            # Its output is closed: mostly because it ended, but it may have closed it and go on.
            while api.inspect_container(container)["State"]["Running"]:
                if time.monotonic() > deadline:
                    return "timeout"
                if stop():
                    return "stopped"
                time.sleep(0.05)
            return "exited"
        finally:
            lines.end()


def _remove(engine: Engine, container: str) -> None:
    with contextlib.suppress(NotFound, Conflict), engine.asking("the container of tests") as api:
        api.remove_container(container, force=True, v=True)
