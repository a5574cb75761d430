"""``/system/variables`` and ``slipway variables``: what ``${NAME}`` stands for in stack files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from cli.main import main
from core.errors import Conflict
from core.signing import secret_file
from core.store import Store
from tests.integration.gateway.harness import Gateway

Send = Callable[..., requests.Response]


@pytest.fixture
def send(gateway: Gateway, store: Store) -> Send:
    """(method, body, query) → answer, as the admin."""
    for space in ("ann", "bob"):
        store.claim_namespace(space, "git")

    def send(method: str, body: Any = None, **query: str) -> requests.Response:
        return gateway.call(method, "/system/variables", json=body, params=query)

    return send


def given(variables: Any, namespace: str = "ann") -> dict[str, Any]:
    return {"namespace": namespace, "variables": variables}


def test_the_way_of_a_variable(send: Send, store: Store) -> None:
    assert send("GET", namespace="ann").json() == given({})
    assert send("PUT", given({"B": "2", "A": "ä: #1 ${X}"})).status_code == 204
    assert send("PUT", given({"B": "3"}, "bob")).status_code == 204
    assert send("PUT", given({"B": "", "C": "c"})).status_code == 204
    answer = send("GET", namespace="ann")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == given({"A": "ä: #1 ${X}", "B": "", "C": "c"})
    assert send("DELETE", namespace="ann", name="B").status_code == 204
    assert send("DELETE", namespace="ann", name="B").status_code == 404
    assert store.variables("ann") == {"A": "ä: #1 ${X}", "C": "c"}
    assert store.variables("bob") == {"B": "3"}
    with pytest.raises(Conflict, match="it has variables A, C"):
        store.delete_namespace("ann")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (None, "not the JSON"),
        ([], "Expected `object`"),
        ({"namespace": "ann"}, "missing required field `variables`"),
        ({"variables": {"A": "b"}}, "missing required field `namespace`"),
        (given({"A": 1}), "Expected `str`"),
        (given({"A": None}), "Expected `str`"),
        (given([["A", "b"]]), "Expected `object`"),
        (given({"1A": "b"}), "'1A' is not a variable's name"),
        (given({"A-B": "b", "": "c"}), "'' is not a variable's name"),
        (given({"n" * 129: "b"}), "at most 128 characters"),
        (given({"A": "one\ntwo"}), "the value of A has line breaks"),
        (given({"A": "one\u2028two"}), "the value of A has line breaks"),
        (given({"A": "\0"}), "the value of A has line breaks or control characters"),
        (given({"A": "ä" * 8193}), "the value of A has 16386 bytes, and 16384 are the most"),
        (given({f"N{n}": "" for n in range(257)}), "would have 258 variables, and 256"),
        (given({f"N{n}": "v" * 16_000 for n in range(17)}), "and 262144 are the most"),
        (given({"A": "b"}, "nobody"), "there is no namespace nobody"),
        (given({"A": "b"}, "../etc"), "not a namespace"),
    ],
)
def test_what_cannot_be(send: Send, store: Store, body: Any, why: str) -> None:
    assert send("PUT", given({"KEPT": "k"})).status_code == 204
    answer = send("PUT", body)
    assert (answer.status_code, why in answer.text) == (400, True), answer.text
    assert store.variables("ann") == {"KEPT": "k"}, "all or nothing"


def test_other_ways_to_ask(gateway: Gateway, send: Send) -> None:
    assert send("GET", namespace="nobody").status_code == 400
    assert send("DELETE", namespace="ann").status_code == 400
    assert send("POST", given({})).status_code == 405
    builder = {"Authorization": f"Bearer {secret_file(gateway.settings.token_file)}"}
    for status, more in (
        (401, {}),
        (401, {"auth": ("admin", "wrong")}),
        (403, {"headers": builder}),
    ):
        answer = gateway.anonymous("GET", "/system/variables?namespace=ann", **more)
        assert answer.status_code == status


@pytest.mark.usefixtures("send")
def test_the_commands(gateway: Gateway, store: Store) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        where = ["--state", str(gateway.settings.state), "--url", gateway.settings.base_url]
        found = CliRunner().invoke(main, [*where, "variables", *arguments])
        return found.exit_code, found.output

    assert run("set", "ann", "HOST=example.com", "TOKEN=a=b c") == (0, "")
    assert store.variables("ann") == {"HOST": "example.com", "TOKEN": "a=b c"}
    code, told = run("list", "ann")
    assert (code, told.split()) == (
        0,
        ["VARIABLE", "VALUE", "HOST", "example.com", "TOKEN", "a=b", "c"],
    )
    assert '"TOKEN": "a=b c"' in run("list", "ann", "-o", "json")[1]
    assert run("remove", "ann", "TOKEN") == (0, "")
    code, told = run("remove", "ann", "TOKEN")
    assert (code, "ann has no variable 'TOKEN'" in told) == (1, True)
    assert run("set", "ann", "HOST")[0] == 2
    assert run("set", "ann")[0] == 2
