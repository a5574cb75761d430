"""Asynchronous calls and ``/metrics`` over the whole platform."""

from __future__ import annotations

import os

from prometheus_client.parser import text_string_to_metric_families

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
