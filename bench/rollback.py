"""A rollback: from the request until the function answers as it did before.

Warm: what was replaced still runs. Cold: it was ended, and is started again. The reference is the
same by hand: the process is stopped, the older code laid in its place and started.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time

from bench import byhand, harness
from bench.figures import Figure, Result, most
from bench.harness import BenchError, Platform
from bench.repository import OWNER, Repository

ROUNDS = 100
BY_HAND = 20
POLL = 0.002
TEXTS = ("version 1", "version two")
"""Of different lengths: Python would take a compiled module of the same second and size for the new
one."""
FUNCTION = "back"


def run(repeat: int) -> Result:
    """``ROUNDS`` rollbacks each way of ``repeat`` ≥ 10; fewer rounds measure fewer of them."""
    rounds = min(ROUNDS, 10 * repeat)
    warm, failed = _rollbacks(rounds, {"SLIPWAY_WARM": "1h"})
    cold, failed_cold = _rollbacks(rounds, {"SLIPWAY_WARM": "0s"})
    by_hand = _by_hand(min(BY_HAND, rounds))
    figures = [
        Figure(
            name=f"{kind} rollback, {which}",
            unit="ms",
            samples=[value],
            reference="stop, replace, start by hand, p50",
            reference_samples=[statistics.median(by_hand)],
            aim=most(200) if kind == "warm" else None,
        )
        for kind, samples in (("warm", warm), ("cold", cold))
        for which, value in (("p50", statistics.median(samples)), ("p99", _p99(samples)))
    ]
    return Result(
        figures=figures,
        notes=[
            f"{rounds} of each, {len(by_hand)} by hand; nothing is built. A client asked "
            f"the function every {POLL * 1000:.0f} ms meanwhile: {failed + failed_cold} requests "
            "failed.",
        ],
    )


def _rollbacks(rounds: int, env: dict[str, str]) -> tuple[list[float], int]:
    """(milliseconds of each, requests that failed meanwhile)."""
    samples, failed = [], 0
    with (
        harness.scratch() as folder,
        harness.running(folder, env | {"SLIPWAY_WATCH": "0s"}) as platform,
    ):
        repository = Repository(folder, platform, "rollback")
        repository.write_stack([FUNCTION])
        releases = []
        for text in TEXTS:
            repository.write_function(FUNCTION, text)
            repository.commit()
            repository.finish(repository.push())
            releases.append(platform.api("/system/releases?limit=1")[0]["id"])
        connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=30)
        for number in range(rounds + 1):
            to = number % 2
            begun = time.monotonic()
            id_ = _roll_back(platform, releases[to])
            while True:
                connection.request("GET", repository.path(FUNCTION))
                answer = connection.getresponse()
                said = answer.read().decode().strip()
                failed += answer.status != 200
                if said == TEXTS[to]:
                    break
                if time.monotonic() - begun > 60:
                    raise BenchError(f"{id_} did not come to serve: {answer.status} {said!r}")
                time.sleep(POLL)
            samples.append((time.monotonic() - begun) * 1000)
            _await_done(platform, id_)
        connection.close()
    return samples[1:], failed


def _roll_back(platform: Platform, to: str) -> str:
    """Asks for it; returns its id."""
    body = {"namespace": OWNER, "repository": "rollback", "to": to}
    return str(json.loads(platform.post("/system/rollback", body))["id"])


def _await_done(platform: Platform, id_: str) -> None:
    deadline = time.monotonic() + 60
    while (found := platform.api(f"/system/rollbacks/{id_}"))["state"] != "done":
        if found["state"] == "failed" or time.monotonic() > deadline:
            raise BenchError(f"{id_} is {found['state']}: {found['reason']}")
        time.sleep(0.02)


def _by_hand(rounds: int) -> list[float]:
    samples = []
    with harness.scratch() as folder:
        server = byhand.Server(folder / "server", harness.clean_environment(folder / "home"))
        server.write(TEXTS[0])
        server.install()
        server.start()
        try:
            harness.await_answer(server.url, "/", TEXTS[0])
            for number in range(rounds):
                text = TEXTS[(number + 1) % 2]
                begun = time.monotonic()
                server.stop()
                server.write(text)
                server.start()
                harness.await_answer(server.url, "/", text)
                samples.append((time.monotonic() - begun) * 1000)
        finally:
            server.stop()
    return samples


def _p99(samples: list[float]) -> float:
    return sorted(samples)[min(int(len(samples) * 0.99), len(samples) - 1)]
