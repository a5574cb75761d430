"""What an installation has on this machine, beside what it should have."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from core import cgroup
from core.bundle import PREFIX
from core.models import FunctionRecord
from core.names import split_function
from core.sandbox import alive
from core.sandbox.process import WARM
from core.settings import Settings
from core.store import Store
from runtime.edge import config
from runtime.edge.admin import AdminSocket
from runtime.edge.driver import _server_name
from runtime.providers.records import Record
from supervisor.leftovers import Leftovers

SWEPT = 150.0
"""Seconds in which what killed builds left half-made is gone: its age twice, a look a minute."""
PARTS = {"store": 1, "gateway": 2, "queue": 1, "reporter": 1, "controller": 1, "edge": 1}
"""Part → its processes."""


def complaints(settings: Settings, store: Store, supervisor: int) -> Iterator[str]:
    """Everything that is there and should not be, or the other way round."""
    records = store.functions()
    addresses: dict[str, set[str]] = {}
    if settings.runtime == "process":
        yield from _instances(settings, records, addresses)
        yield from _bundles(settings, store)
    else:
        from tests.chaos import containers  # it needs us

        yield from containers.complaints(settings, store, records, addresses)
    yield from _observed(store, records, addresses)
    yield from _routes(settings, addresses)
    yield from _processes(settings, supervisor)
    yield from _halves(settings)


def _instances(
    settings: Settings, records: dict[str, FunctionRecord], addresses: dict[str, set[str]]
) -> Iterator[str]:
    """Documents, sockets, secrets, control groups and processes: those of the replicas that are
    desired, each once."""
    found: Counter[tuple[str, str]] = Counter()
    ids, sockets, groups = set(), set(), set()
    for folder in settings.instances.iterdir():
        if folder.name.startswith("."):
            yield f"half a folder of an instance: {folder.name}"
            continue
        try:
            text = (folder / "instance").read_bytes().partition(b"\n")[2]
        except FileNotFoundError:
            yield f"a folder of an instance without its document: {folder.name}"
            continue
        record = msgspec.json.decode(text, type=Record)
        if record.process is None or not alive(record.process):
            yield f"{record.id} does not run, and is there"
        if record.stopping:
            yield f"{record.id} was told to end, and is there"
        if record.process:  # a forked one's group was made before it was known whose
            groups |= {Path(each).name for each in record.process.cgroups}
        found[record.spec.function, record.spec.revision] += 1
        addresses.setdefault(record.spec.function, set()).add(f"unix@{record.socket}")
        ids.add(record.id)
        sockets.add(Path(record.socket).name)
    wanted = Counter({(name, r.spec.revision): r.replicas for name, r in records.items()})
    for key in wanted.keys() | found.keys():
        if wanted[key] != found[key]:
            yield f"{key[0]}@{key[1]}: {found[key]} replicas, {wanted[key]} desired"
    yield from differ("sockets", names(settings.run / "f"), sockets)
    secret = Path(f"/dev/shm/slipway-{settings.mark}")
    with_secrets = {id_ for id_ in ids if id_.startswith(("a.", "b.", "c."))}
    there = names(secret)
    yield from differ("folders of secrets", there, with_secrets)
    builds = Path(f"/dev/shm/slipway-{settings.mark}-builds")
    if builds.is_dir():
        yield from _old(builds.iterdir())
    yield from _cells(settings, ids, groups)


def _cells(settings: Settings, ids: set[str], groups: set[str]) -> Iterator[str]:
    top = cgroup.discover(settings.mark, top=True).hierarchies
    for folder in top[0].folder.iterdir() if top and top[0].folder.is_dir() else ():
        if folder.is_dir() and folder.name not in groups:
            try:
                running = (folder / "cgroup.procs").read_text().split()
            except OSError:
                continue
            if running and not all(waits(int(pid)) for pid in running):
                yield f"processes {running} in the control group {folder.name} of nobody"
    for process in psutil.process_iter():
        try:
            first = (process.cmdline() or [""])[0]
            ours = (
                first.startswith("slipway:")
                and f"slipway-{settings.mark}" in Path(f"/proc/{process.pid}/cgroup").read_text()
            )
        except (psutil.Error, OSError):
            continue
        if ours and first.removeprefix("slipway:") not in ids:
            yield f"process {process.pid} is a cell of nobody: {first}"


def _observed(
    store: Store, records: dict[str, FunctionRecord], addresses: dict[str, set[str]]
) -> Iterator[str]:
    observed = store.all_observed()
    for function in records.keys() | observed.keys():
        if function not in records:
            yield f"{function} is observed, and desired by nobody"
        elif function not in observed:
            yield f"{function} was not observed yet"
        else:
            seen = set(observed[function].endpoints)
            yield from differ(f"endpoints of {function}", seen, addresses.get(function, set()))


def _routes(settings: Settings, addresses: dict[str, set[str]]) -> Iterator[str]:
    """The edge's map and its servers."""
    admin = AdminSocket(config.admin_socket(settings))
    rows = {}
    for line in admin.send(f"show map {config.map_file(settings)}").splitlines():
        words = line.split(" ")
        if len(words) == 3 and "." in words[1]:
            rows[words[1]] = words[2].partition(":")[0]
    servers: dict[str, set[str]] = {}
    for line in admin.send("show servers state").splitlines():
        words = line.split(" ")
        if len(words) > 6 and words[0].isdigit() and words[1][:1] == "b" and words[1][1:].isdigit():
            servers.setdefault(words[1], set()).add(words[3])
            if words[6] != "0":
                yield f"server {words[1]}/{words[3]} of the edge is not ready"
    yield from differ("rows of the edge", set(rows), set(addresses))
    for function, backend in rows.items():
        wanted = {_server_name(each) for each in addresses.get(function, ())}
        yield from differ(f"servers of {function}", servers.pop(backend, set()), wanted)
    for backend, names in servers.items():
        yield f"servers of no function in {backend}: {sorted(names)}"


def _processes(settings: Settings, supervisor: int) -> Iterator[str]:
    """Ours descend from the supervisor, so many of each part."""
    parts = {each.pid: each.name for each in Leftovers(settings.state / "parts").read()}
    yield from differ(
        "parts", set(parts.values()) - {"registry", "build-engine"}, {*PARTS, "workers"}
    )
    if len(parts) != len(set(parts.values())):
        yield f"a part runs twice: {parts}"
    root = psutil.Process(supervisor)
    counts: Counter[str] = Counter()
    family = {supervisor}
    for part in root.children():
        name = parts.get(part.pid, "")
        below = part.children(recursive=True)
        family |= {part.pid, *(each.pid for each in below)}
        if name == "controller":  # functions that it started itself are its children
            below = [each for each in below if not _is_cell(each)]
            below = [each for each in below if each.ppid() == part.pid and _ours(each, settings)]
        counts[name] += 1 + len(below)
    for name, number in (PARTS | {"workers": 1 + settings.workers}).items():
        if counts[name] != number:
            yield f"the {name} has {counts[name]} processes, not {number}"
    for process in psutil.process_iter():
        if process.pid not in family and _ours(process, settings):
            yield f"process {process.pid} of nobody: {' '.join(_words(process))[:200]}"


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def waits(pid: int) -> bool:
    """A warm parent, or a child of it that is no function yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(WARM.encode())
    except OSError:
        return True


def _is_cell(process: psutil.Process) -> bool:
    return (_words(process) or [""])[0].startswith("slipway:")


def _ours(process: psutil.Process, settings: Settings) -> bool:
    try:
        told = process.environ()
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return told.get("SLIPWAY_STATE") == str(settings.state) and "cli.main" not in command


def _halves(settings: Settings) -> Iterator[str]:
    """What is being made, and was not made to its end."""
    for pattern in ("work/*", "bundles/*/.*", "layers/*/.*", "git/*/.*", "templates/*/.*"):
        yield from _old(settings.state.glob(pattern))


def _old(paths: Iterator[Path]) -> Iterator[str]:
    for path in paths:
        try:
            age = time.time() - path.stat().st_ctime
        except FileNotFoundError:
            continue
        if age > SWEPT:
            yield f"{path} is half-made, and {age:.0f} s old"


def _bundles(settings: Settings, store: Store) -> Iterator[str]:
    """What is desired is there. What nobody knows of, housekeeping finds by its folder."""
    for function, record in store.functions().items():
        digest = record.spec.artifact.removeprefix(PREFIX)
        if not (settings.bundles / split_function(function)[1] / digest).is_dir():
            yield f"the bundle of {function} is not there"


def differ(what: str, found: set[str], wanted: set[str]) -> Iterator[str]:
    """A complaint for each way in which two sets are not the same."""
    if extra := found - wanted:
        yield f"{what}: there are {sorted(extra)} of nobody"
    if missing := wanted - found:
        yield f"{what}: {sorted(missing)} are missing"


def names(folder: Path) -> set[str]:
    """What is in a folder; nothing where there is none."""
    return {each.name for each in folder.iterdir()} if folder.is_dir() else set()
