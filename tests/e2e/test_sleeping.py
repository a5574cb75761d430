"""Functions that sleep when nobody calls, wake when somebody does, and grow under load."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import docker
import pytest

from runtime.providers.docker.document import INSTALLATION
from tests.conftest import missing
from tests.e2e.platform import Answer, Platform, fresh_folder, running
from tests.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.network]

PAUSE = 4.0
HEALTH_TIMEOUT = 3.0
ZERO = "{com.openfaas.scale.zero: 'true', com.openfaas.scale.zero-duration: 1s}"
GROWS = (
    "{com.openfaas.scale.type: capacity, com.openfaas.scale.target: '2', "
    "com.openfaas.scale.max: '4', com.openfaas.scale.down.window: 2s}"
)
STACK = f"""\
version: 1.0
provider:
  name: openfaas
functions:
  drowsy:
    lang: python3-http
    handler: ./drowsy
    labels: {ZERO}
    secrets: [mood]
  busy:
    lang: python3-http
    handler: ./busy
    labels: {GROWS}
  narrow:
    lang: python3-http
    handler: ./busy
    environment: {{max_inflight: '1'}}
  once:
    lang: python3-http
    handler: ./busy
    annotations: {{com.openfaas.retry.attempts: '0'}}
"""
DROWSY = """
import os
import time

MOOD = open("/var/openfaas/secrets/mood").read()
if MOOD == "dead":
    time.sleep(3600)
if MOOD == "sick":
    raise SystemExit("not today")
BORN = time.time()
calls = 0

def handle(event, context):
    global calls
    calls += 1
    time.sleep(float(event.query.get("seconds", 0)))
    return {"born": BORN, "calls": calls, "got": len(event.body), "method": event.method}
"""
BUSY = """
import time

def handle(event, context):
    time.sleep(0.5)
    return "done"
"""


def set_mood(platform: Platform, mood: str, method: str = "PUT") -> None:
    body = json.dumps({"name": "mood", "namespace": "ann", "value": mood}).encode()
    assert platform.request("/system/secrets", method=method, data=body, admin=True).status < 300


@pytest.fixture(scope="module", params=["process", "docker"])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    if request.param == "docker":
        assert request.getfixturevalue("engine")
        for program in ("dockerd", "docker-registry"):
            if not shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin"):
                missing(program)
    told = {
        "SLIPWAY_RUNTIME": request.param,
        "SLIPWAY_HEALTH_TIMEOUT": f"{HEALTH_TIMEOUT:g}s",
        "SLIPWAY_PAUSE": f"{PAUSE:g}s",
    }
    with fresh_folder() as folder, running(folder, **told) as up:
        body = b'{"name": "ann", "annotations": {"openfaas": "1"}}'
        assert up.request("/system/namespace/", method="POST", data=body, admin=True).status < 300
        set_mood(up, "well", "POST")
        files = {"stack.yml": STACK, "drowsy/handler.py": DROWSY, "busy/handler.py": BUSY}
        pushed = up.repository("ann", "dreams").push(files)
        assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
        yield up


def replicas(platform: Platform, name: str) -> tuple[int, int]:
    """(desired, available)."""
    told = platform.request(f"/system/function/{name}?namespace=ann", admin=True).json()
    return told["replicas"], told.get("availableReplicas", 0)


def asleep(platform: Platform) -> None:
    """Waits until it sleeps, and nothing of it runs any more."""
    until(
        lambda: replicas(platform, "drowsy") == (0, 0) and not running_of(platform, "drowsy.ann"),
        15,
        platform.logs,
    )


def ended(platform: Platform) -> None:
    """Waits until it is not even paused any more."""
    asleep(platform)
    until(lambda: not running_of(platform, "drowsy.ann", paused=True), PAUSE + 15, platform.logs)


def running_of(platform: Platform, function: str, *, paused: bool = False) -> list[str]:
    """Its replicas that are not gone, nor paused unless those count."""
    settings = platform.settings
    if settings.runtime == "process":
        return [each.name for each in settings.instances.glob(f"{function}-*")]
    label = {"label": f"{INSTALLATION}={settings.mark}"}
    with closing(docker.APIClient(settings.engine_url, version="auto")) as engine:
        containers = engine.containers(filters=label)
    names = [each["Names"][0][1:] for each in containers if paused or each["State"] != "paused"]
    return [name for name in names if name.startswith(f"{function}-")]


def together(count: int, call: Callable[[], Answer]) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        return [each.result() for each in [pool.submit(call) for _ in range(count)]]


def born(answer: Answer) -> float:
    assert answer.status == 200, answer.text
    return float(answer.json()["born"])


def test_it_falls_asleep_and_a_hundred_callers_wake_it_once(platform: Platform) -> None:
    asleep(platform)
    answers = together(100, lambda: platform.call("drowsy.ann", b"x" * 3000))
    assert Counter(each.status for each in answers) == {200: 100}, answers[0].text
    assert len({born(each) for each in answers}) == 1, "all were answered by the same process"
    assert {(each.json()["got"], each.json()["method"]) for each in answers} == {(3000, "POST")}
    assert replicas(platform, "drowsy") == (1, 1)


def test_asleep_on_docker_it_keeps_its_memory_for_a_while(platform: Platform) -> None:
    asleep(platform)
    first = platform.call("drowsy.ann").json()
    asleep(platform)
    second = platform.call("drowsy.ann").json()
    if platform.extra["SLIPWAY_RUNTIME"] == "docker":
        assert (second["born"], second["calls"]) == (first["born"], first["calls"] + 1)
    else:
        assert (second["born"] > first["born"], second["calls"]) == (True, 1)
    ended(platform)
    third = platform.call("drowsy.ann").json()
    assert third["born"] > second["born"], "it was paused, then removed"


def test_who_calls_again_and_again_sees_nothing_of_it(platform: Platform) -> None:
    """Calls lie about as far apart as it takes to fall asleep: they meet every step of it."""
    seen: list[int] = []
    for number in range(8):
        seen.append(platform.call("drowsy.ann").status)
        time.sleep(0.95 + number % 6 * 0.05)
    assert Counter(seen) == {200: 8}, platform.logs()


def test_a_request_that_lasts_keeps_it_awake(platform: Platform) -> None:
    asleep(platform)
    assert platform.call("drowsy.ann", path="?seconds=2.5").status == 200, "woken, by the gateway"
    assert platform.call("drowsy.ann", path="?seconds=2.5").status == 200, "by the edge"


def test_a_websocket_wakes_it_and_is_told_to_come_again(platform: Platform) -> None:
    asleep(platform)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    with closing(http.client.HTTPConnection("127.0.0.1", platform.port)) as connection:
        connection.request("GET", "/function/drowsy.ann", headers=upgrade)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1"), answer.read()
    until(lambda: replicas(platform, "drowsy") == (1, 1), 10, platform.logs)


@pytest.mark.parametrize("part", ["controller", "gateway"])
def test_a_part_is_killed_while_somebody_waits(platform: Platform, part: str) -> None:
    asleep(platform)
    waiting: list[Any] = []

    def call() -> None:
        try:
            waiting.append(platform.call("drowsy.ann").status)
        except OSError as error:
            waiting.append(error)

    os.kill(platform.part("controller"), signal.SIGSTOP)  # so that it does not wake at once
    callers = [threading.Thread(target=call) for _ in range(3)]
    for each in callers:
        each.start()
    until(lambda: replicas(platform, "drowsy") == (1, 0), 5, platform.logs)
    if part == "gateway":
        os.kill(platform.part("gateway"), signal.SIGKILL)
        os.kill(platform.part("controller"), signal.SIGCONT)
    else:
        os.kill(platform.part("controller"), signal.SIGKILL)
    for each in callers:
        each.join()
    if part == "controller":
        assert waiting == [200] * 3, "the next one goes on"
    until(lambda: platform.call("drowsy.ann").status == 200, 15, platform.logs)


@pytest.mark.parametrize(("mood", "reason"), [("sick", "status 1"), ("dead", "healthy within 3 s")])
def test_one_that_never_wakes_is_told_and_holds_nobody_up(
    platform: Platform, mood: str, reason: str
) -> None:
    ended(platform)
    set_mood(platform, mood)
    begun = time.monotonic()
    answers = together(10, lambda: platform.call("drowsy.ann"))
    assert {each.status for each in answers} == {503}
    assert time.monotonic() - begun < HEALTH_TIMEOUT + 5, "in bounded time"
    assert all(reason in each.text for each in answers), answers[0].text
    begun = time.monotonic()
    later = platform.call("drowsy.ann")
    assert (later.status, reason in later.text) == (503, True), later.text
    assert time.monotonic() - begun < 2, "nobody waits for what is known"
    set_mood(platform, "well")
    until(lambda: platform.call("drowsy.ann").status == 200, 40, platform.logs)


def test_it_grows_under_load_and_shrinks_again(platform: Platform) -> None:
    assert replicas(platform, "busy") == (1, 1)
    stop = threading.Event()
    statuses: Counter[int] = Counter()

    def ask() -> None:
        while not stop.is_set():
            statuses[platform.call("busy.ann").status] += 1

    callers = [threading.Thread(target=ask) for _ in range(7)]
    for each in callers:
        each.start()
    try:
        until(lambda: replicas(platform, "busy") == (4, 4), 10, platform.logs)
    finally:
        stop.set()
        for each in callers:
            each.join()
    assert set(statuses) == {200}
    until(lambda: replicas(platform, "busy") == (1, 1), 20, platform.logs)


def test_more_than_it_takes_at_once_is_429(platform: Platform) -> None:
    statuses = Counter(each.status for each in together(4, lambda: platform.call("narrow.ann")))
    assert statuses.keys() == {200, 429}, statuses


def test_whoever_calls_right_after_a_start_waits_for_the_replicas(platform: Platform) -> None:
    """Nothing listens where the last controller saw them, and calls that wait have one attempt."""
    ids = []
    for _ in range(12):
        told = platform.request("/async-function/once.ann", method="POST")
        assert told.status == 202, told
        ids.append(told.headers["X-Call-Id"])
    assert platform.stop() == 0
    platform.start(wait=False)
    seen: Counter[int] = Counter()

    def polled() -> bool:
        try:
            seen[platform.request("/function/once.ann").status] += 1
        except OSError:
            return False  # nothing listens yet
        return True

    until(polled, 60, platform.logs)
    for _ in range(5):
        polled()
    assert set(seen) == {200}, platform.logs()

    def over() -> set[str]:
        rows = [json.loads(platform.request(f"/async-function/{id_}").body) for id_ in ids]
        states = {f"{row['state']}: {row['reason']}" for row in rows}
        return states if not {state for state in states if state[0] in "qr"} else set()

    assert until(over, 60, platform.logs) == {"done: "}
