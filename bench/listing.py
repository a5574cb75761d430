"""``GET /system/functions`` with 1, 1,000 and 10,000 functions: time, and the gateway's memory.

Store and gateway run as the platform starts them, without an edge; there is desired state only, so
nothing runs. The reference is the same state read from the store by a bare client, as bytes. Asks
of the two alternate.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import math
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis

from bench import harness, processes
from bench.figures import Figure, Result
from bench.harness import BenchError
from core import keys
from core.models import FunctionRecord, FunctionSpec, now
from core.settings import Settings
from core.signing import secret_file
from core.store import Store, connect
from core.store.base import encode
from supervisor import claims, parts

SIZES = (1, 1_000, 10_000)
ASKS = 20
"""Of each size in one round."""
WARM = 3


def run(repeat: int) -> Result:
    """Measures every size, ``repeat`` rounds of ``ASKS`` requests each."""
    figures: list[Figure] = []
    with harness.scratch() as folder, _gateway(folder) as (settings, worker):
        redis = connect(settings.store_url)
        fill = Store(redis)
        client = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=60)
        empty = _worker_memory(worker)
        for size in SIZES:
            _fill(fill, size)
            for _ in range(WARM):
                _ask(client, settings, size)
            asked: list[float] = []
            read: list[float] = []
            for _ in range(repeat * ASKS):
                asked.append(_ask(client, settings, size))
                read.append(_read(redis, size))
            name = f"list of {size:,} function{'s' if size > 1 else ''}"
            figures += [
                Figure(
                    name=f"{name}, p50",
                    unit="ms",
                    samples=asked,
                    reference="a bare read of the store",
                    reference_samples=read,
                ),
                Figure(
                    name=f"{name}, p99",
                    unit="ms",
                    samples=[_p99(asked)],
                    reference="a bare read of the store",
                    reference_samples=[_p99(read)],
                ),
                Figure(
                    name=f"gateway's memory after the {name}",
                    unit="MB",
                    samples=[_worker_memory(worker)],
                    reference="before the first",
                    reference_samples=[empty],
                ),
            ]
        client.close()
    return Result(
        figures=figures,
        notes=["One client on a kept connection; memory is the PSS of the gateway's worker."],
    )


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[tuple[Settings, int]]:
    """A store and a gateway; gives the settings and the pid of gunicorn's worker."""
    settings = Settings.from_env(
        {
            "SLIPWAY_STATE": str(folder / "state"),
            "SLIPWAY_PORT": str(harness.free_port()),
            "SLIPWAY_EDGE": "none",
            "SLIPWAY_RUNTIME": "process",
        }
    )
    settings.state.mkdir(mode=0o700)
    (settings.state / "store").mkdir()
    claims.make_run_folder(settings.run, *settings.run_folders)
    env = parts.environment(os.environ, settings)
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", settings.port)))
        inner = held.enter_context(contextlib.closing(claims.claim_gateway(settings)))
        store = parts.store(settings, os.environ)
        held.enter_context(_running(store, env))
        gateway = held.enter_context(
            _running(parts.gateway(settings, [inner.fileno(), listener.fileno()]), env)
        )
        _await(settings, gateway)
        workers = processes.tree([gateway.pid])
        yield settings, workers[-1]


@contextlib.contextmanager
def _running(part: parts.Part, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        part.argv,
        env={**env, **part.env},
        pass_fds=part.listeners,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[1],
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _await(settings: Settings, gateway: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and gateway.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = harness.get(f"http://127.0.0.1:{settings.port}", "/healthz", timeout=5)
            if status in (200, 503):  # there is no controller
                return
        time.sleep(0.1)
    raise BenchError("the gateway did not start")


def _fill(store: Store, size: int) -> None:
    """So many functions, with what a function usually has."""
    records = {}
    for number in range(size):
        spec = FunctionSpec(
            name=f"function-{number}",
            namespace="bench",
            artifact=f"bundle:sha256:{number:064x}",
            key=f"{number:064x}",
            repository="bench",
            commit=f"{number:040x}",
            env_vars={"write_debug": "true", "MODE": "fast"},
            labels={"com.openfaas.scale.min": "1", "team": "bench"},
            annotations={"topic": "bench"},
        )
        record = FunctionRecord(spec=spec, release="r1-0000000", replicas=1, created_at=now())
        records[spec.function] = encode(record)
    store.redis.delete(keys.FUNCTIONS)
    store.redis.hset(keys.FUNCTIONS, mapping=records)  # type: ignore[arg-type]  # dict is invariant


def _ask(client: http.client.HTTPConnection, settings: Settings, size: int) -> float:
    """Milliseconds until the whole answer is there."""
    password = secret_file(settings.password_file)
    token = base64.b64encode(f"admin:{password}".encode()).decode()
    begun = time.perf_counter()
    client.request("GET", "/system/functions", headers={"Authorization": f"Basic {token}"})
    answer = client.getresponse()
    body = answer.read()
    spent = time.perf_counter() - begun
    if answer.status != 200 or body.count(b'"name":') != size:
        raise BenchError(f"the list answered {answer.status}: {body[:200]!r}")
    return spent * 1e3


def _read(redis: Redis, size: int) -> float:
    begun = time.perf_counter()
    rows = redis.hgetall(keys.FUNCTIONS)
    redis.hgetall(keys.OBSERVED)
    redis.hgetall(keys.COUNTS)
    spent = time.perf_counter() - begun
    if len(rows) != size:
        raise BenchError("the store does not have what it was given")
    return spent * 1e3


def _p99(samples: list[float]) -> float:
    return sorted(samples)[max(math.ceil(len(samples) * 0.99) - 1, 0)]


def _worker_memory(pid: int) -> float:
    return processes.pss(pid) / 1e6
