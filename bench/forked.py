"""A replica from the provider's start to its first 200: forked of a warm parent, and started.

No platform: the process provider itself starts it as the controller would, with the functions'
network; the started one is the same bundle at a parent's refusal. By hand: ``python3 index.py`` in
the same folder, without a sandbox. Each sleeps for half a second before, as what wakes has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench import harness, processes
from bench.figures import Figure, Result, most
from bench.harness import BenchError
from builder import python_dependencies
from core.bundle import PREFIX, Bundle, bundle_folder, layer_folder
from core.errors import Unavailable
from core.models import FunctionSpec
from core.sandbox import LISTENER, Sandbox, program
from core.sandbox.process import WARM, spawn
from core.settings import ROOT, Settings
from runtime.controller import SWITCH_EVERY
from runtime.providers.process import ProcessProvider

OWNER, TEMPLATE = "bench", "python3-http"
HANDLERS = {
    "standard library": ("", "import json, re"),
    "requests": ("requests==2.34.2", "import requests"),
}
REST = 0.5
"""Seconds of rest before each start."""


def run(repeat: int) -> Result:
    """Starts one of each in turns, ``repeat`` times after one that warms up."""
    sys.setswitchinterval(SWITCH_EVERY)
    figures: list[Figure] = []
    with harness.scratch() as folder, _network(folder) as settings:
        sandbox = Sandbox.from_settings(settings)
        provider = ProcessProvider(settings, b"bench", sandbox)
        try:
            for what, (requirement, line) in HANDLERS.items():
                spec = _bundle(settings, what.split()[0], requirement, line)
                figures += _measure(provider, spec, settings, what, repeat)
            figures += _memory(provider, spec, settings)
        finally:
            for each in provider.instances():
                provider.remove(each)
            provider.close()
            sandbox.cgroups.clear()
            shutil.rmtree(settings.run)
    return Result(figures=figures)


@contextlib.contextmanager
def _network(folder: Path) -> Iterator[Settings]:
    env = harness.clean_environment(folder / "home") | {
        "SLIPWAY_STATE": str(folder / "state"),
        "SLIPWAY_SUBNET": harness.SUBNET,
        "SLIPWAY_RUNTIME": "process",
    }
    settings = Settings.from_env(env)
    network = Sandbox.from_settings(settings).network
    try:
        network.setup()
    except Unavailable as error:
        raise BenchError(str(error)) from error
    try:
        yield settings
    finally:
        network.teardown()


def _bundle(settings: Settings, name: str, requirement: str, line: str) -> FunctionSpec:
    """A function as the builder makes it, its dependencies installed."""
    template = ROOT / "templates" / TEMPLATE
    layer = python_dependencies.install(
        settings,
        OWNER,
        {
            "requirements.txt": (template / "requirements.txt").read_bytes()
            + f"{requirement}\n".encode()
        },
        lambda _: None,
    )
    if layer is None:
        raise BenchError("the template has no dependencies")
    artifact = PREFIX + (name.encode().hex() * 64)[:64]
    folder = bundle_folder(settings, OWNER, artifact)
    shutil.copytree(template, folder / "app", ignore=shutil.ignore_patterns("__pyc*"))
    handler = f"{line}\n\ndef handle(event, context):\n    return 'hello'\n"
    (folder / "app" / "function" / "handler.py").write_text(handler)
    bundle = Bundle(template=TEMPLATE, process=["python3", "index.py"], layers=[layer])
    (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
    return FunctionSpec(name=name, namespace=OWNER, artifact=artifact)


def _measure(
    provider: ProcessProvider, spec: FunctionSpec, settings: Settings, what: str, repeat: int
) -> list[Figure]:
    _warm(provider, spec)
    times: dict[str, list[float]] = {"forked": [], "started": [], "by hand": []}
    for _ in range(repeat + 1):
        for kind, taken in times.items():
            time.sleep(REST)
            if kind == "by hand":
                taken.append(_by_hand(settings, spec))
            else:
                taken.append(_once(provider, spec, forked=kind == "forked"))
    forked, started, bare = ([each * 1000 for each in taken[1:]] for taken in times.values())
    name = f"{what}: start to first 200"
    aim = most(10) if what == "standard library" else None
    return [
        Figure(f"{name}, forked", "ms", forked, "started in the sandbox", started, aim),
        Figure(f"{name}, forked", "ms", forked, "python3 index.py", bare),
    ]


def _warm(provider: ProcessProvider, spec: FunctionSpec) -> None:
    """Returns once starts are forked."""
    provider.prepare([spec])
    for _ in range(100):
        time.sleep(0.1)
        instance = provider.start(spec)
        process = provider.process(instance)
        provider.remove(instance)
        if process and process.monitor == 0:
            return
    raise BenchError("no function is forked here: " + provider.enforced()["starts"])


def _once(provider: ProcessProvider, spec: FunctionSpec, *, forked: bool) -> float:
    # A variable that an interpreter reads: no parent has it.
    own = {} if forked else {"PYTHONHASHSEED": "random"}
    begun = time.monotonic()
    instance = provider.start(msgspec.structs.replace(spec, env_vars=own))
    try:
        _ask(instance.address.removeprefix("unix@"))
        taken = time.monotonic() - begun
        process = provider.process(instance)
        if process is None or (process.monitor == 0) != forked:
            raise BenchError(f"it was {'started' if forked else 'forked'}")
        return taken
    finally:
        provider.remove(instance)


def _by_hand(settings: Settings, spec: FunctionSpec) -> float:
    folder = bundle_folder(settings, spec.namespace, spec.artifact)
    bundle = msgspec.json.decode((folder / "bundle.json").read_bytes(), type=Bundle)
    path = str(settings.run / "by-hand")
    layer = layer_folder(settings, spec.namespace, bundle.layers[0])
    env = ["LISTEN_FDS=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", f"PYTHONPATH={layer}"]
    python = getattr(sys, "_base_executable", sys.executable)
    argv = ["env", "-i", f"--chdir={folder / 'app'}", *env, python, "index.py"]
    begun = time.monotonic()
    with socket.socket(socket.AF_UNIX) as listener, Path(os.devnull).open("r+") as null:
        listener.bind(path)
        listener.listen()
        ends = dict.fromkeys(range(3), null.fileno())
        child = spawn("/usr/bin/env", argv, {**ends, LISTENER: listener.fileno()})
    try:
        _ask(path)
        return time.monotonic() - begun
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        Path(path).unlink()


def _ask(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        client.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"it answered {answer[:200]!r}")


def _memory(provider: ProcessProvider, spec: FunctionSpec, settings: Settings) -> list[Figure]:
    """PSS with three of each running: the last handler's."""
    found: dict[bool, list[float]] = {}
    for forked in (True, False):
        own = {} if forked else {"PYTHONHASHSEED": "random"}
        running = []
        for _ in range(3):
            time.sleep(REST)
            running.append(provider.start(msgspec.structs.replace(spec, env_vars=own)))
            _ask(running[-1].address.removeprefix("unix@"))
        found[forked] = []
        for each in running:
            process = provider.process(each)
            if process is None:
                raise BenchError(f"{each.id} has no process")
            whole = [pid for pid in (process.monitor, process.pid, program(process)) if pid]
            found[forked].append(sum(map(processes.pss, whole)) / 2**20)
        if forked:
            time.sleep(2 * REST)  # one is forked ahead again
            parents = processes.named(f"{WARM}{settings.mark}:")
            parent = sum(map(processes.pss, parents)) / 2**20
        for each in running:
            provider.remove(each)
    return [
        Figure("memory of a function (PSS), its init with it", "MB", found[True], "started",
               found[False]),
        Figure("memory of a parent and the child that waits (PSS)", "MB", [parent]),
    ]  # fmt: skip
