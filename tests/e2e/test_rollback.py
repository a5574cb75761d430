"""Back to what was: by hand, and by itself where a new release does worse."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.clients import called, taken_back
from tests.e2e.platform import Platform, Repository, fresh_folder, handler, running, stack
from tests.waiting import until


@pytest.fixture(scope="module")
def watched() -> Iterator[Platform]:
    """One that watches its releases, and keeps warm what they replaced."""
    with (
        fresh_folder() as folder,
        running(
            folder, SLIPWAY_WATCH="2s", SLIPWAY_WARM="60s", SLIPWAY_HEALTH_TIMEOUT="5s"
        ) as platform,
    ):
        yield platform


def pushed(repository: Repository, files: dict[str, str]) -> str:
    """Pushes what must go live; returns the release."""
    told = repository.push(files)
    assert told.last.startswith("slipway: live r"), told.text + repository.platform.logs()
    return told.last.split()[-1]


def roll_back(platform: Platform, **body: str) -> dict[str, Any]:
    """Asks for it by API, and waits for its end."""
    answer = platform.request(
        "/system/rollback",
        method="POST",
        admin=True,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 202, answer.text

    def decided() -> dict[str, Any] | None:
        found = platform.request(answer.headers["Location"], admin=True).json()
        ended = found["state"] == "failed" or (
            found["state"] == "done" and found["branch"] is not None
        )
        return found if ended else None

    return until(decided, 20, platform.logs)


def state(platform: Platform, release: str) -> str:
    return str(platform.request(f"/system/releases/{release}", admin=True).json()["state"])


def verdict(platform: Platform, release: str) -> str:
    told = platform.request(f"/system/releases/{release}", admin=True).json()
    return str((told["watch"] or {}).get("verdict"))


def annotations(platform: Platform, function: str) -> dict[str, str]:
    told = platform.request(f"/system/function/{function}", admin=True).json()
    return dict(told["annotations"])


def test_a_repository_goes_back_and_comes_again(watched: Platform) -> None:
    platform, repository = watched, watched.repository("ann", "whole")
    first = pushed(
        repository,
        {
            "stack.yml": stack("one", "two"),
            "one/handler.py": handler("one v1"),
            "two/handler.py": handler("two v1"),
        },
    )
    second = pushed(repository, {"one/handler.py": handler("one v2")})
    with called(platform, "one.ann", "two.ann") as seen:
        back = platform.slipway("rollback", "ann/whole")
        assert f"{first} serves again" in back.stdout
        assert platform.call("one.ann").text == "one v1"
        assert (state(platform, first), state(platform, second)) == ("live", "rolled-back")
        pinned = annotations(platform, "one.ann")["com.slipway.pinned"]
        # Passes, restarts and the same commit once more leave it so.
        os.kill(platform.part("controller"), signal.SIGKILL)
        repository.git("push", repository.url, "HEAD:main")
        until(lambda: platform.request("/healthz").status == 200, 20, platform.logs)
        assert annotations(platform, "one.ann")["com.slipway.pinned"] == pinned
        # Merged, it has the same keys.
        branch = f"slipway/rollback-{pinned}"
        repository.git("fetch", repository.url, branch)
        repository.git("merge", "--ff-only", "FETCH_HEAD")
        third = pushed(repository, {})
    assert {key[1:] for key in seen if key[0] == "one.ann"} == {(200, "one v1"), (200, "one v2")}
    assert {key[1:] for key in seen if key[0] == "two.ann"} == {(200, "two v1")}
    merged = platform.request(f"/system/releases/{third}", admin=True).json()
    assert [row["build"] for row in merged["functions"]] == ["reused", "reused"]
    assert "com.slipway.pinned" not in annotations(platform, "one.ann")
    told = until(
        lambda: platform.request(f"/system/rollbacks/{pinned}", admin=True).json()["receipt"],
        20,
        platform.logs,
    )
    assert told["failed"] == 0
    assert told["requests"] > 0


def test_one_function_goes_back_alone(watched: Platform) -> None:
    platform, repository = watched, watched.repository("bob", "part")
    config = stack("one", "two")
    first = pushed(
        repository,
        {
            "stack.yml": config,
            "one/handler.py": handler("one v1"),
            "two/handler.py": handler("two v1"),
        },
    )
    config = config.replace("./one\n", "./one\n    labels:\n      team: blue\n")
    second = pushed(
        repository,
        {
            "stack.yml": config,
            "one/handler.py": handler("one v2"),
            "two/handler.py": handler("two v2"),
        },
    )
    done = roll_back(platform, namespace="bob", function="one")
    assert (done["state"], done["from"], done["to"]) == ("done", second, first), done
    assert [platform.call(f"{each}.bob").text for each in ("one", "two")] == ["one v1", "two v2"]
    assert state(platform, second) == "live", "the repository's release stays"
    repository.git("fetch", repository.url, done["branch"])
    repository.git("merge", "--ff-only", "FETCH_HEAD")
    assert "team: blue" not in (repository.folder / "stack.yml").read_text()
    third = pushed(repository, {})
    rows = platform.request(f"/system/releases/{third}", admin=True).json()["functions"]
    assert [row["build"] for row in rows] == ["reused", "reused"]
    assert [platform.call(f"{each}.bob").text for each in ("one", "two")] == ["one v1", "two v2"]


def test_what_is_cold_is_started_first_and_what_cannot_serve_changes_nothing(
    watched: Platform,
) -> None:
    platform, repository = watched, watched.repository("eve", "cold")
    first = pushed(repository, {"stack.yml": stack("f"), "f/handler.py": handler("v1")})
    pushed(repository, {"f/handler.py": handler("v2")})
    pushed(repository, {"f/handler.py": handler("v3")})
    with called(platform, "f.eve") as seen:
        done = roll_back(platform, namespace="eve", repository="cold", to=first)
        assert done["state"] == "done", done
        assert platform.call("f.eve").text == "v1"
    assert {key[1] for key in seen} == {200}
    answer = platform.slipway("rollback", "eve/cold", "--to", first, check=False)
    assert (answer.returncode, "serves already" in answer.stderr) == (1, True)
    answer = platform.slipway("rollback", "eve/cold", check=False)
    assert (answer.returncode, "nothing else was live" in answer.stderr) == (1, True)


def test_a_release_that_does_worse_is_taken_back(watched: Platform) -> None:
    platform, repository = watched, watched.repository("kim", "bad")
    first, seen = taken_back(repository)
    release = platform.release("kim", "bad")
    figures = {each["name"]: each for each in release["watch"]["functions"]}
    assert figures["f"]["after"]["errors"] >= 3
    assert figures["g"]["after"]["errors"] == 0
    assert state(platform, first) == "live"
    assert ("f.kim", 500, "broken") in seen, "it was live for a moment"
    receipt = until(lambda: platform.release("kim", "bad")["receipt"], 20, platform.logs)
    assert receipt["failed"] == 0, "what the function answers is its own"
    # The same commit once more makes no release; who asks for one gets it. Nobody calls it.
    repository.git("push", repository.url, "HEAD:main")
    assert platform.release("kim", "bad")["id"] == release["id"]
    again = platform.slipway("redeploy", "kim/bad").stdout.strip()
    until(lambda: verdict(platform, again) == "kept", 20, platform.logs)
    assert (state(platform, again), platform.call("f.kim").status) == ("live", 500)
    # A good one after it goes live as ever, and is kept.
    told = repository.push({"f/handler.py": handler("f v3")})
    assert told.last.startswith("slipway: live r"), told.text
    assert platform.call("g.kim").text == "g v2"
    release = platform.release("kim", "bad")
    assert release["watch"]["verdict"] == "kept"


def test_replicas_that_end_take_it_back_without_traffic(watched: Platform) -> None:
    platform, repository = watched, watched.repository("lea", "ends")
    pushed(repository, {"stack.yml": stack("f"), "f/handler.py": handler("v1")})
    ends = "import os, threading\nthreading.Timer(1, os._exit, [3]).start()\n" + handler("v2")
    told = repository.push({"f/handler.py": ends})
    assert told.last.startswith("slipway: rolled-back r"), told.text + platform.logs()
    assert "no replica is left" in told.last
    assert platform.call("f.lea").text == "v1"
