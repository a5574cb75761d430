"""All functions of a commit change in one step, as any client can see it, or none does."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.e2e.platform import Platform, Repository
from tests.waiting import until

HANDLER = """import os
if os.environ.get("BREAK"):
    raise SystemExit("broken on purpose")
def handle(event, context):
    return os.environ["VERSION"]
"""


def stack_of(functions: Sequence[str], version: int, **more: str) -> str:
    """Functions of one handler that tell their version; ``more``: further lines of one function."""
    lines = ["version: 1.0", "provider:", "  name: openfaas", "functions:"]
    for name in functions:
        lines += [f"  {name}:", "    lang: python3-http", "    handler: ./fn"]
        lines += [
            "    environment:",
            f'      VERSION: "{version}"',
            *more.get(name, "").split("\n"),
        ]
    return "\n".join(lines) + "\n"


@contextmanager
def asking(platform: Platform, functions: Sequence[str]) -> Iterator[list[tuple[str, int, str]]]:
    """A client that asks one function after the other, all the time: (function, status, body)."""
    seen: list[tuple[str, int, str]] = []
    done = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=20)
        while not done.is_set():
            for function in functions:
                connection.request("GET", f"/function/{function}")
                answer = connection.getresponse()
                seen.append((function, answer.status, answer.read().decode()))
        connection.close()

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield seen
    finally:
        done.set()
        client.join()


def rows(platform: Platform, owner: str, name: str) -> dict[str, str]:
    return {each["name"]: each["build"] for each in platform.release(owner, name)["functions"]}


def instances(platform: Platform, owner: str) -> set[str]:
    """Everything that runs, and was left of what ran, of an owner."""
    found = (platform.folder / "state" / "instances").iterdir()
    return {each.name for each in found if f".{owner}-" in each.name}


def pushed(repository: Repository, files: dict[str, str | bytes], *refs: str) -> str:
    told = repository.push(files, *refs)
    assert told.status == 0, told.text
    return told.last


def test_configuration_names_and_deletion_move_in_one_step(platform: Platform) -> None:
    repository = platform.repository("may", "steps")
    names = ["one", "two", "three"]
    first = pushed(repository, {"stack.yml": stack_of(names, 1), "fn/handler.py": HANDLER})
    assert first.startswith("slipway: live"), first
    before = instances(platform, "may")
    with asking(platform, [f"{name}.may" for name in names]) as seen:
        told = pushed(repository, {"stack.yml": stack_of(names, 2)})
        assert told.startswith("slipway: live")
        assert rows(platform, "may", "steps") == dict.fromkeys(names, "reused"), "nothing is built"
        count = len(seen)
        until(lambda: len(seen) > count + 10)
    assert {status for _, status, _ in seen} == {200}
    versions = [body for _, _, body in seen]
    assert versions == sorted(versions), "after one new answer none is old, whichever function"
    assert set(versions) == {"1", "2"}
    until(lambda: not before & instances(platform, "may"))

    renamed = ["one", "two", "drei"]
    with asking(platform, ["drei.may", "three.may"]) as seen:
        assert pushed(repository, {"stack.yml": stack_of(renamed, 2)}).startswith("slipway: live")
        count = len(seen)
        until(lambda: len(seen) > count + 10)
    served = [(function.split(".")[0], status == 200) for function, status, _ in seen]
    assert {status for _, status, _ in seen} <= {200, 404, 503}
    new, old = served.index(("drei", True)), served.index(("three", False))
    assert ("drei", False) not in served[new:]
    assert ("three", True) not in served[old:]
    assert abs(new - old) <= 2, "the old name goes as the new one comes, neither sooner nor later"
    built = {"one": "reused", "two": "reused", "drei": "reused", "three": "removed"}
    assert rows(platform, "may", "steps") == built

    gone = repository.git("push", repository.url, ":main", check=False)
    lines = [line.removeprefix("remote:").strip() for line in gone.stderr.splitlines()]
    assert {"one: removed", "two: removed", "drei: removed"} <= set(lines), gone.stderr
    release = platform.release("may", "steps")
    assert (release["state"], release["commit"]) == ("live", "0" * 40)
    assert f"slipway: live {release['id']}" in lines
    assert {platform.call(f"{name}.may").status for name in renamed} == {404}
    until(lambda: not instances(platform, "may"))

    assert pushed(repository, {}).startswith("slipway: live"), "a later push deploys again"
    assert platform.call("drei.may").text == "2"
    told = pushed(repository, {"stack.yml": "provider: {name: openfaas}\nfunctions: {}\n"})
    assert told.startswith("slipway: live"), told
    assert platform.call("drei.may").status == 404, "a stack file may say that nothing is deployed"


def test_one_of_twenty_fails_and_nineteen_stay(platform: Platform) -> None:
    repository = platform.repository("ned", "twenty")
    names = [f"f{number}" for number in range(20)]
    files: dict[str, str | bytes] = {"stack.yml": stack_of(names, 1), "fn/handler.py": HANDLER}
    assert pushed(repository, files).startswith("slipway: live")
    before = instances(platform, "ned")
    assert len(before) == 20
    broken = stack_of(names, 2, f7='      BREAK: "1"')
    told = repository.push({"stack.yml": broken})
    assert told.last.startswith("slipway: failed"), told.text
    assert "f7" in told.last
    assert "broken on purpose" in told.text, "what it wrote is told"
    assert {platform.call(f"{name}.ned").text for name in names} == {"1"}
    until(lambda: instances(platform, "ned") == before)  # and nothing new goes on running


def test_a_function_moves_to_another_repository_without_a_gap(platform: Platform) -> None:
    old, new = platform.repository("oda", "old"), platform.repository("oda", "new")
    files: dict[str, str | bytes] = {"fn/handler.py": HANDLER}
    both = stack_of(["stays", "moves"], 1)
    assert pushed(old, files | {"stack.yml": both}).startswith("slipway: live")
    refused = pushed(new, files | {"stack.yml": stack_of(["moves"], 2)})
    assert refused.startswith("slipway: failed"), refused
    assert "belongs to the repository oda/old" in refused
    moving = stack_of(["moves"], 2, moves="    annotations:\n      com.slipway.takes-over: old")
    with asking(platform, ["moves.oda"]) as seen:
        assert pushed(new, {"stack.yml": moving}).startswith("slipway: live")
        count = len(seen)
        until(lambda: len(seen) > count + 5)
    assert {status for _, status, _ in seen} == {200}
    versions = [body for _, _, body in seen]
    assert versions == sorted(versions)
    assert set(versions) == {"1", "2"}
    refused = pushed(old, {"stack.yml": stack_of(["stays", "moves"], 3)})
    assert "belongs to the repository oda/new" in refused
    assert pushed(old, {"stack.yml": stack_of(["stays"], 3)}).startswith("slipway: live")
    assert (platform.call("moves.oda").text, platform.call("stays.oda").text) == ("2", "3")
