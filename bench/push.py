"""From `git push` of a one-line change to the first good answer of the new code.

The clock starts just before the git client does and ends when a client that polls the public URL
gets the new text. The reference is the same change by hand: stop the server, copy, start it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from bench import byhand, harness
from bench.figures import Figure, Result, breakdown, most
from bench.harness import BenchError, Platform
from bench.repository import Repository


@dataclass
class Change:
    """One repository of one function that is changed again and again."""

    repository: Repository
    function: str
    test: bool
    seconds: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)


def run(repeat: int) -> Result:
    """Measures ``repeat`` changes of each kind after one that warms up, in turns."""
    with harness.scratch() as folder, harness.running(folder) as platform:
        changes = [
            Change(Repository(folder, platform, "plain"), "plain", test=False),
            Change(Repository(folder, platform, "tested"), "tested", test=True),
        ]
        for change in changes:
            change.repository.write_stack([change.function])
        server = byhand.Server(folder / "byhand", harness.clean_environment(folder / "home"))
        byhand_seconds = []
        try:
            server.write("version 0")
            server.install()
            server.start()
            harness.await_answer(server.url, "/", "version 0")
            for number in range(repeat + 1):
                for change in changes:
                    push_change(platform, change, f"version {number}")
                byhand_seconds.append(_by_hand(server, f"version {number}"))
        finally:
            server.stop()
    plain, tested = changes
    return Result(
        figures=[
            Figure(
                name=f"push to first answer, {words}",
                unit="s",
                samples=change.seconds[1:],
                reference="stop, copy, start",
                reference_samples=byhand_seconds[1:],
                aim=aim,
            )
            for words, change, aim in (
                ("no tests", plain, most(1.5)),
                ("one test", tested, None),
            )
        ],
        notes=[told(change) for change in changes],
    )


def push_change(platform: Platform, change: Change, text: str) -> None:
    """Pushes new code and notes how long it took until it answered, and where the time went."""
    repository = change.repository
    repository.write_function(change.function, text, test=change.test)
    commit = repository.commit()
    clock, begun = time.time(), time.monotonic()
    push = repository.push()
    try:
        ended = harness.await_answer(platform.url, repository.path(change.function), text)
    except BenchError:
        repository.finish(push)
        raise
    change.seconds.append(ended - begun)
    repository.finish(push)
    change.phases.append(_phases(platform, commit, clock, clock + ended - begun))


def _by_hand(server: byhand.Server, text: str) -> float:
    begun = time.monotonic()
    server.stop()
    server.write(text)
    server.start()
    return harness.await_answer(server.url, "/", text) - begun


def _phases(platform: Platform, commit: str, begun: float, ended: float) -> dict[str, float]:
    """Where the time went: phase → seconds, from the release's log and the controller's."""
    releases = platform.api("/system/releases?namespace=bench")
    release = next(each for each in releases if each["commit"] == commit)
    marks = [("git client, until accepted", begun), ("until taken", _unix(release["createdAt"]))]
    seen = set()
    for line in platform.lines(f"/system/releases/{release['id']}/logs"):
        step = line.get("step")
        if line.get("stream") == "step" and step not in seen:
            seen.add(step)
            marks.append((str(step), _unix(line["time"])))
    for line in platform.log("controller"):
        if line.get("event") == "replica_ready" and _unix(line["timestamp"]) > begun:
            ready = _unix(line["timestamp"])
            marks.append(("becomes healthy", ready - line["seconds"]))
            marks.append(("switch of routes", ready))
    marks.append(("until seen", _unix(release["finishedAt"])))
    marks.sort(key=lambda mark: mark[1])
    ends = [time_ for _, time_ in marks[1:]] + [ended]
    return {name: end - start for (name, start), end in zip(marks, ends, strict=True)}


def told(change: Change) -> str:
    """Where the time went, in words."""
    phases = breakdown(change.phases[1:])
    parts = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in phases.items())
    return f"Where the time goes, {change.function} (ms, medians): {parts}."


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
