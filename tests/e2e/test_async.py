"""Asynchronous calls, those of schedules too, and ``/metrics`` over the whole platform."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from core.schedules import moment
from core.store import Store, connect
from tests.e2e.platform import Platform, stack
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
        names = ("x-function-name", "x-function-status", "x-call-id", "x-own")
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
        return str(answer.status)
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
        headers={"X-Callback-Url": "http://gateway:8080/function/keeper.asy"},
    )
    assert (answer.status, answer.text) == (202, "")
    expected = ["hello/out", "work.asy", "201", answer.headers["X-Call-Id"], "1"]
    until(lambda: platform.call("keeper.asy").json() == [expected], 20, platform.logs)
    called = 1
    if os.geteuid() == 0:  # functions have a network
        assert platform.call("caller.asy").text == "202"
        until(lambda: len(platform.call("keeper.asy").json()) == 2, 20, platform.logs)
        inside = platform.call("keeper.asy").json()[1]
        assert inside == ["deep/in", "work.asy", "201", "from-inside", "1"]
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
