"""Asynchronous calls, those of schedules too, and ``/metrics`` over the whole platform."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from core import keys
from core.origin import SANDBOX
from core.schedules import moment
from core.store import Store, connect
from core.store.calls import OVERDUE
from tests.e2e.platform import Platform, fresh_folder, running, stack
from tests.waiting import until

WORK = """\
def handle(event, context):
    return {"statusCode": 201, "body": event.body + event.path.encode(), "headers": {"X-Own": "1"}}
"""
KEEPER = """\
import json
from urllib.request import urlopen

seen = []

def handle(event, context):
    if event.method == "POST":
        told = {name.lower(): value for name, value in event.headers.items()}
        names = ("x-function-name", "x-function-status", "x-call-id", "x-slipway-call-id", "x-own")
        seen.append([event.body.decode(), *(told.get(name) for name in names)])
    return json.dumps(seen)
"""
CALLER = """\
import os
from urllib.request import Request, urlopen

def handle(event, context):
    url = os.environ["OPENFAAS_URL"]
    headers = {"X-Callback-Url": f"{url}/function/keeper.asy", "X-Call-Id": "from-inside"}
    with urlopen(Request(f"{url}/async-function/work.asy/in", b"deep", headers)) as answer:
        return answer.headers["X-Call-Id"]
"""
ENDLESS = """\
import time

ended = []

def pieces():
    try:
        while True:
            yield "x"
            time.sleep(0.05)
    finally:
        ended.append(1)

def handle(event, context):
    return pieces() if event.method == "POST" else str(len(ended))
"""
TALLY = """\
import hashlib
import json
import time

seen = []

def handle(event, context):
    if event.method == "GET":
        return json.dumps(seen)
    told = {name.lower(): value for name, value in event.headers.items()}
    seen.append([told["x-slipway-call-id"], hashlib.sha256(event.body).hexdigest()])
    time.sleep(0.05)
    return event.body
"""
SHAKY = """\
calls = []

def handle(event, context):
    calls.append(1)
    return ("bad", 500) if event.path == "/bad" or len(calls) < 3 else "good"
"""


def test_a_call_goes_its_way_and_is_counted(platform: Platform) -> None:
    files = {"work": WORK, "keeper": KEEPER, "caller": CALLER}
    pushed = platform.repository("asy", "fns").push(
        {"stack.yml": stack(*files)} | {f"{name}/handler.py": text for name, text in files.items()}
    )
    assert pushed.last.startswith("slipway: live"), pushed.text
    answer = platform.request(
        "/async-function/work.asy/out?x=1",
        method="POST",
        data=b"hello",
        headers={
            "X-Callback-Url": "http://gateway:8080/function/keeper.asy",
            "X-Call-Id": "from-outside",
        },
    )
    assert (answer.status, answer.text) == (202, "")
    id_ = answer.headers["X-Call-Id"]
    assert id_ == str(uuid.UUID(id_)), "whatever the client sent, the edge shows ours"
    expected = ["hello/out", "work.asy", "201", "from-outside", id_, "1"]
    until(lambda: platform.call("keeper.asy").json() == [expected], 20, platform.logs)
    kept = platform.request(f"/async-function/{id_}").json()
    assert (kept["state"], kept["status"], kept["body"]) == ("done", 201, "hello/out")
    assert kept["headers"]["X-Own"] == ["1"]
    raw = platform.request(f"/async-function/{id_}?raw=1")
    assert (raw.text, raw.headers["Content-Security-Policy"]) == ("hello/out", SANDBOX)
    assert platform.request("/async-function/from-outside").status == 404
    called = 1
    if os.geteuid() == 0:  # functions have a network
        deep = platform.call("caller.asy").text
        until(lambda: len(platform.call("keeper.asy").json()) == 2, 20, platform.logs)
        inside = platform.call("keeper.asy").json()[1]
        assert inside == ["deep/in", "work.asy", "201", "from-inside", deep, "1"]
        called = 2

    def counted() -> dict[str, float]:
        text = platform.request("/metrics", admin=True).text
        return {
            sample.labels["code"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "gateway_function_invocation_total"
            and sample.labels["function_name"] == "work.asy"
        }

    until(lambda: counted() == {"201": called}, 10, lambda: str(counted()))
    assert platform.request("/metrics").status == 401


TICKER = """\
import json

seen = []

def handle(event, context):
    if event.method == "POST":
        told = {name.lower(): value for name, value in event.headers.items()}
        names = ("x-topic", "x-connector", "x-schedule-time", "x-call-id")
        seen.append([event.body.decode(), event.path, *(told.get(name) for name in names)])
    return json.dumps(seen)
"""


def scheduled(*functions: str) -> str:
    return stack(*functions, annotations="{topic: cron-function, schedule: '@yearly'}")


def test_a_schedule_calls_its_function(platform: Platform) -> None:
    repository = platform.repository("tic", "fns")
    pushed = repository.push({"stack.yml": scheduled("tick"), "tick/handler.py": TICKER})
    assert pushed.last.startswith("slipway: live"), pushed.text

    def schedule() -> Any:
        return platform.request("/system/function/tick.tic", admin=True).json()["schedule"]

    until(lambda: schedule()["next"], 10, platform.logs)
    assert (schedule()["schedule"], schedule()["last"]) == ("@yearly", None)
    store = Store(connect(platform.settings.store_url))
    planned = store.planned()["tick.tic"]
    an_hour_ago = int(time.time()) - 3600
    overdue = msgspec.structs.replace(planned, next=an_hour_ago)
    store.plan(["tick.tic"], lambda *_: overdue)
    # It sleeps for up to a minute, unless a schedule is new.
    pushed = repository.push({"stack.yml": scheduled("tick", "tock"), "tock/handler.py": TICKER})
    assert pushed.last.startswith("slipway: live"), pushed.text
    until(lambda: schedule()["last"], 10, platform.logs)
    told = schedule()
    assert told["missed"] == {"count": 1, "since": moment(an_hour_ago)}
    assert told["next"] == moment(planned.next)
    expected = ["", "/", "cron-function", "cron-connector", moment(an_hour_ago)]
    expected.append(told["last"]["callId"])
    until(lambda: platform.call("tick.tic").json() == [expected], 20, platform.logs)
    listed = platform.request("/system/schedules?namespace=tic", admin=True).json()
    assert [each["name"] for each in listed] == ["tick", "tock"]


def test_a_push_with_a_bad_schedule_is_told_its_line(platform: Platform) -> None:
    text = scheduled("tick").replace("@yearly", "@every 5m")
    files = {"stack.yml": text, "tick/handler.py": TICKER}
    pushed = platform.repository("tic", "bad").push(files)
    assert pushed.last.startswith("slipway: failed"), pushed.text
    assert "line 8: tick.annotations.schedule: '@every 5m' is none of @hourly" in pushed.text


def test_a_call_is_tried_again_cancelled_and_replayed(platform: Platform) -> None:
    told = "{com.openfaas.retry.attempts: '2', com.openfaas.retry.min_wait: 10ms}"
    files = {"shaky": SHAKY, "endless": ENDLESS}
    pushed = platform.repository("dead", "fns").push(
        {"stack.yml": stack(*files, annotations=told)}
        | {f"{name}/handler.py": text for name, text in files.items()}
    )
    assert pushed.last.startswith("slipway: live"), pushed.text

    def call(path: str) -> str:
        answer = platform.request(f"/async-function/{path}", method="POST", data=b"{}")
        assert answer.status == 202, answer.text
        return str(answer.headers["X-Call-Id"])

    def over(id_: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = platform.request(f"/async-function/{id_}").json()
            return found if found["state"] in ("done", "failed") else None

        return until(look, 20, platform.logs)

    found = over(call("shaky.dead"))
    assert (found["state"], found["attempts"], found["body"]) == ("done", 3, "good")
    bad = call("shaky.dead/bad")
    assert (over(bad)["state"], over(bad)["status"]) == ("failed", 500)
    listed = json.loads(platform.slipway("dead-letters", "list", "-n", "dead", "-o", "json").stdout)
    assert [each["id"] for each in listed] == [bad]
    assert bad in platform.slipway("dead-letters").stdout
    assert '"body": "{}"' in platform.slipway("dead-letters", "show", bad, "-o", "json").stdout
    assert platform.slipway("dead-letters", "replay", bad).stdout == f"{bad}\n"
    until(lambda: over(bad)["attempts"] == 6, 20, platform.logs)
    done = platform.slipway("dead-letters", "replay", "-f", "shaky.dead", "-o", "json").stdout
    assert json.loads(done)["replayed"] == [bad]
    until(lambda: over(bad)["attempts"] == 9, 20, platform.logs)
    platform.slipway("dead-letters", "remove", bad)
    again = platform.slipway("dead-letters", "show", bad, check=False)
    assert (again.returncode, "there is no dead letter" in again.stderr) == (1, True)
    endless = call("endless.dead")
    state = f"/async-function/{endless}"
    until(lambda: platform.request(state).json()["state"] == "running", 20, platform.logs)
    assert platform.request(state, method="DELETE").status == 202
    assert over(endless)["reason"] == "cancelled"
    until(lambda: platform.call("endless.dead").text == "1", 20, platform.logs)


def test_what_got_a_202_is_made_whoever_is_killed() -> None:
    """The worker, the gateway and the store, while calls come in: each is made, with the body that
    it was sent, and its answer is there. What was made twice has the same id."""
    large = {"SLIPWAY_ASYNC_MAX_BODY": "64Mi", "SLIPWAY_ASYNC_QUEUE": "256Mi"}
    with fresh_folder() as folder, running(folder, **large) as platform:
        pushed = platform.repository("tal", "fns").push(
            {"stack.yml": stack("tally"), "tally/handler.py": TALLY}
        )
        assert pushed.last.startswith("slipway: live"), pushed.text
        accepted: dict[str, bytes] = {}
        ended = threading.Event()

        def send() -> None:
            number = 0
            while not ended.wait(0.05):
                number += 1
                body = f"{number} ".encode() * (10 if number % 3 else 5000)
                with suppress(OSError):  # no 202: it may be made, it need not
                    path = "/async-function/tally.tal"
                    answer = platform.request(path, method="POST", data=body, timeout=20)
                    if answer.status == 202:
                        accepted[answer.headers["X-Call-Id"]] = body

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for part in ("queue", "gateway", "store"):
                count = len(accepted)
                until(lambda count=count: len(accepted) > count + 10, 20, platform.logs)
                os.kill(platform.part(part), signal.SIGKILL)
            count = len(accepted)
            until(lambda: len(accepted) > count + 10, 20, platform.logs)
        finally:
            ended.set()
            sender.join()
        body = os.urandom(20 * 2**20)
        answer = platform.request("/async-function/tally.tal", method="POST", data=body)
        accepted[answer.headers["X-Call-Id"]] = body
        store = Store(connect(platform.settings.store_url))
        silent = int(OVERDUE * 1000) + 1  # what the dead worker had: nobody need wait for it
        for each in store.redis.xpending_range(keys.CALLS, keys.CALLS, "-", "+", 100):
            row = [each["message_id"]]
            store.redis.xclaim(keys.CALLS, keys.CALLS, "worker", 0, row, idle=silent, justid=True)
        until(lambda: store.waiting_calls() == 0, 30, platform.logs)
        store.redis.close()
        made = platform.call("tally.tal").json()
        assert set(accepted) <= {id_ for id_, _ in made}
        for id_, body in accepted.items():
            digest = hashlib.sha256(body).hexdigest()
            assert {each for other, each in made if other == id_} == {digest}
            assert platform.request(f"/async-function/{id_}?raw=1").body == body
