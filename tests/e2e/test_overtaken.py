"""Pushes that come quickly, are forced, called off, or made again without a commit."""

from __future__ import annotations

import subprocess
import threading

from tests.e2e.overtaking import held
from tests.e2e.platform import Platform, Pushed, Repository, handler, stack
from tests.waiting import until

SLEEPS = "import time\n\ndef test_it():\n    time.sleep(600)\n"


class Behind:
    """A push whose progress nobody waits for."""

    def __init__(self, repository: Repository, *refs: str) -> None:
        self.done: Pushed | None = None

        def push() -> None:
            done = repository.git("push", repository.url, *(refs or ("HEAD:main",)), check=False)
            self.done = Pushed(done.returncode, done.stderr)

        self._thread = threading.Thread(target=push)
        self._thread.start()

    def last(self) -> str:
        self._thread.join()
        assert self.done is not None
        return self.done.last


def releases(platform: Platform, owner: str, name: str) -> list[dict[str, object]]:
    query = f"?namespace={owner}&repository={name}"
    return list(platform.request(f"/system/releases{query}", admin=True).json())


def states(platform: Platform, owner: str, name: str) -> list[object]:
    """The newest first."""
    return [each["state"] for each in releases(platform, owner, name)]


def newest(platform: Platform, owner: str, name: str, state: str) -> str:
    """Waits until the newest release is in that state; returns its id."""

    def found() -> str:
        listed = releases(platform, owner, name)
        return str(listed[0]["id"]) if listed and listed[0]["state"] == state else ""

    return until(found, 30)


def cancel(platform: Platform, id_: str) -> None:
    answer = platform.request(f"/system/releases/{id_}", method="DELETE", admin=True)
    assert (answer.status, answer.json()["state"]) == (200, "cancelled"), answer.text


def left_of(platform: Platform) -> list[str]:
    """What builds have in work, and processes of theirs."""
    state = platform.settings.state
    folders = [str(each) for each in (state / "work").iterdir()]
    running = subprocess.run(
        ["pgrep", "-af", "handler_test|pytest.*-p no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return folders + [line for line in running.splitlines() if str(state) in line]


def test_of_five_pushes_the_first_and_the_last_are_built(platform: Platform) -> None:
    repository = platform.repository("pia", "five")
    pushes = []
    with held(platform, "pia", "five"):
        for number in range(1, 6):
            repository.commit({"stack.yml": stack("n"), "n/handler.py": handler(f"v{number}")})
            pushes.append(Behind(repository))
            until(lambda n=number: len(releases(platform, "pia", "five")) == n)
            if number == 1:
                newest(platform, "pia", "five", "building")
    told = [each.last() for each in pushes]
    # The first may be overtaken while it starts, by the last one's quicker build.
    first, *others = [line.split()[1] for line in told]
    assert (first in ("live", "superseded"), others) == (True, [*["superseded"] * 3, "live"]), told
    assert "came after it" in told[1]
    after = states(platform, "pia", "five")
    overtaken = "replaced" if first == "live" else "superseded"
    assert after == ["live", "superseded", "superseded", "superseded", overtaken]
    builds = [
        [row["build"] for row in each["functions"]] for each in releases(platform, "pia", "five")
    ]  # type: ignore[attr-defined]  # JSON
    assert builds == [["built"], [], [], [], ["built"]]
    assert platform.call("n.pia").text == "v5"


def test_a_forced_push_is_released_and_an_earlier_commit_not_built(platform: Platform) -> None:
    repository = platform.repository("pia", "forced")
    first = repository.commit({"stack.yml": stack("fo"), "fo/handler.py": handler("v1")})
    assert Behind(repository).last().startswith("slipway: live")
    repository.push({"fo/handler.py": handler("v2")})
    repository.git("reset", "--hard", first)
    repository.commit({"fo/handler.py": handler("v3")})
    assert "rejected" in repository.git("push", repository.url, "HEAD:main", check=False).stderr
    assert platform.call("fo.pia").text == "v2"
    assert Behind(repository, "+HEAD:main").last().startswith("slipway: live")
    assert platform.call("fo.pia").text == "v3"
    assert Behind(repository, f"+{first}:main").last().startswith("slipway: live")
    release = platform.release("pia", "forced")
    assert (release["commit"], release["functions"][0]["build"]) == (first, "reused")
    assert platform.call("fo.pia").text == "v1"


def test_a_release_is_cancelled_wherever_it_is(platform: Platform) -> None:
    repository = platform.repository("pia", "called-off")
    live = repository.push({"stack.yml": stack("co"), "co/handler.py": handler("v1")})
    assert live.last.startswith("slipway: live")
    id_ = platform.release("pia", "called-off")["id"]
    refused = platform.slipway("cancel", id_, check=False)
    assert refused.returncode == 1
    assert f"{id_} is live already: take it back with 'slipway rollback pia/" in refused.stderr
    running = set((platform.settings.state / "instances").glob("co.pia-*"))

    with held(platform, "pia", "called-off"):  # building, and queued behind it
        repository.commit({"co/handler.py": handler("v2")})
        first = Behind(repository)
        building = newest(platform, "pia", "called-off", "building")
        repository.commit({"co/handler.py": handler("v3")})
        second = Behind(repository)
        until(lambda: len(releases(platform, "pia", "called-off")) == 3)
        cancel(platform, newest(platform, "pia", "called-off", "queued"))
        cancel(platform, building)
        assert [each.last().split()[1] for each in (first, second)] == ["cancelled"] * 2

    repository.commit({"co/handler.py": handler("v4"), "co/handler_test.py": SLEEPS})
    tested = Behind(repository)
    id_ = newest(platform, "pia", "called-off", "testing")
    until(lambda: left_of(platform))
    told = platform.slipway("cancel", id_)
    assert (told.returncode, told.stdout) == (0, f"cancelled {id_}\n")
    assert left_of(platform) == [], "it answers once nothing is left"
    assert tested.last() == f"slipway: cancelled {id_}: cancelled by the admin"

    repository.git("rm", "-q", "co/handler_test.py")
    slow = "import time\ntime.sleep(600)\n" + handler("v5")
    repository.commit({"co/handler.py": slow})
    starting = Behind(repository)
    cancel(platform, newest(platform, "pia", "called-off", "staging"))
    assert starting.last().startswith("slipway: cancelled")
    instances = platform.settings.state / "instances"
    until(lambda: set(instances.glob("co.pia-*")) == running)
    assert platform.call("co.pia").text == "v1"
    assert set(states(platform, "pia", "called-off")) == {"cancelled", "live"}

    # And made again without a commit, which then goes its way.
    repository.push({"co/handler.py": handler("v6")})
    assert platform.call("co.pia").text == "v6"


def test_redeploy_needs_no_commit(platform: Platform) -> None:
    repository = platform.repository("pia", "again")
    text = stack("ag", secrets="[ag-key]")
    told = repository.push({"stack.yml": text, "ag/handler.py": handler("v1")})
    assert told.last.startswith("slipway: failed"), told.text
    assert "ag-key" in told.last
    commit = platform.release("pia", "again")["commit"]
    body = b'{"name": "ag-key", "namespace": "pia", "value": "x"}'
    made = platform.request("/system/secrets", method="POST", data=body, admin=True)
    assert made.status == 201, made.text
    again = platform.slipway("redeploy", "pia/again").stdout.strip()
    assert platform.slipway("wait", again).returncode == 0
    with held(platform, "pia", "again"):
        third = platform.slipway("redeploy", "pia/again").stdout.strip()
        newest(platform, "pia", "again", "building")
        cancel(platform, third)
    fourth = platform.slipway("redeploy", "pia/again").stdout.strip()
    assert platform.slipway("wait", fourth).returncode == 0
    found = releases(platform, "pia", "again")
    assert {each["commit"] for each in found} == {commit}
    assert [each["id"] for each in found[:3]] == [fourth, third, again]
    assert states(platform, "pia", "again") == ["live", "cancelled", "replaced", "failed"]
