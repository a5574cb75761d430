"""One run: a change, a kill at its step, and whether all came right again."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from core.models import Struct
from tests.chaos.history import Commit
from tests.chaos.scenario import BACK, HARD, Scenario
from tests.chaos.subject import Subject, Wrong

REACHED = 120.0
"""Seconds in which the step comes, on a machine that others use as well."""
LOSES = ("edge", *HARD)
"""Victims whose death may cost requests: all others are not on their way."""
BLINDS = ("controller", "edge", *HARD)
"""Victims whose death may cost a watch what it has seen."""
LATE = ("receipt-written", "cooled", "watch-kept", "old-asked", "old-ended", "old-removed")
"""Steps that come seconds after the push has its answer."""


class Outcome(Struct, frozen=True):
    """What became of a run."""

    seed: int
    kind: str
    step: str
    victim: str
    reached: bool
    """Whether somebody got to the step: else nobody was killed."""
    converged: float
    """Seconds from the kill until all was right."""
    seconds: float
    requests: int
    complaints: list[str]


def run(scenario: Scenario, subject: Subject) -> Outcome:
    """Does it. What goes wrong on the way is one of the outcome's complaints."""
    try:
        return _run(scenario, subject)
    except Exception as error:
        traceback.print_exc()
        complaint = f"the run broke off: {type(error).__name__}: {str(error)[-2000:]}"
        return Outcome(
            seed=scenario.seed,
            kind=scenario.kind,
            step=scenario.step,
            victim=scenario.victim,
            reached=False,
            converged=0.0,
            seconds=0.0,
            requests=0,
            complaints=[complaint],
        )


def _run(scenario: Scenario, subject: Subject) -> Outcome:
    begun = time.monotonic()
    base = subject.base()
    changes = base.changed(scenario)
    client = Client(scenario, subject, changes)
    client.prepare()
    subject.points.arm(scenario.step)
    complaints: list[str] = []
    traffic = Traffic(subject)
    with traffic:
        since = time.monotonic()
        client.start()
        pid = subject.points.wait(scenario.step, REACHED, _over(client, scenario))
        if pid:
            since = time.monotonic()
            subject.kill(scenario.victim, pid)
            time.sleep(scenario.pause)
        subject.points.release(scenario.step)
        try:
            subject.revive()
        finally:
            client.killed.set()
            client.join()
        complaints += client.complaints
        try:
            subject.converge()
        except Wrong as wrong:
            complaints += wrong.complaints
        converged = time.monotonic() - since
    complaints += traffic.complaints(scenario, changes)
    return Outcome(
        seed=scenario.seed,
        kind=scenario.kind,
        step=scenario.step,
        victim=scenario.victim,
        reached=bool(pid),
        converged=round(converged, 2) if pid else 0.0,
        seconds=round(time.monotonic() - begun, 2),
        requests=len(traffic.answers),
        complaints=complaints,
    )


def _over(client: threading.Thread, scenario: Scenario) -> Callable[[], bool]:
    """When the step cannot come any more: a while after the client has its answer."""
    later = 8.0 if scenario.step in LATE else 3.0
    ended: list[float] = []

    def over() -> bool:
        if not client.is_alive() and not ended:
            ended.append(time.monotonic())
        return bool(ended) and time.monotonic() - ended[0] > later

    return over


class Client(threading.Thread):
    """Does what the scenario says, as users would, while parts die."""

    def __init__(self, scenario: Scenario, subject: Subject, changes: list[Commit]) -> None:
        super().__init__()
        self.scenario = scenario
        self.subject = subject
        self.changes = changes
        self.killed = threading.Event()
        """Set once the kill is over, or cannot come."""
        self.complaints: list[str] = []

    def prepare(self) -> None:
        """Before anything is killed: what a rollback is to go back from."""
        if self.scenario.kind in BACK:
            self.subject.push(self.subject.changing, self.changes[0])
            self.subject.converge()

    def run(self) -> None:
        try:
            self._change()
        except BaseException as error:
            self.complaints.append(f"the client: {error!r}")

    def _change(self) -> None:
        subject, repository = self.subject, self.subject.changing
        match self.scenario.kind:
            case "branch":
                repository.git(
                    "push", "--force", repository.url, "HEAD:refs/heads/side", check=False
                )
                repository.git("push", repository.url, ":refs/heads/side", check=False)
            case "gone":
                subject.delete(repository, self.changes[0])
            case "cancel":
                self._cancelled()
            case "twice":
                subject.push_and_leave(repository, self.changes[0], within=10)
                time.sleep(0.4)
                subject.push(repository, self.changes[1])
            case "back" | "back-one":
                self._back()
            case "worse":
                accepted = subject.push(repository, self.changes[0])
                # The watch sees what the edge tells the controller: whose death may cost it that.
                accepted.left = None if self.scenario.victim in BLINDS else True
            case _:
                subject.push(repository, self.changes[0])

    def _cancelled(self) -> None:
        """Pushes, and cancels the release once somebody was killed."""
        subject = self.subject
        accepted = subject.push_and_leave(subject.changing, self.changes[0], within=60)
        if accepted is None:
            self.complaints.append("the push is not taken")
            return
        if self.scenario.step == "cancelled":
            time.sleep(0.5)
        else:
            self.killed.wait(REACHED)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(OSError, ValueError, IndexError):  # parts are away just now
                newest = subject.platform.release(subject.owner, subject.changing.name)
                if newest["commit"] == accepted.commit.id:
                    accepted.cancelled = self._cancel(newest["id"])
                    return
            time.sleep(0.1)

    def _cancel(self, release: str) -> bool | None:
        """Whether it was taken back; None where the answer got lost."""
        heard: bool | None = False
        for _ in range(50):
            try:
                path = f"/system/releases/{release}"
                answer = self.subject.platform.request(path, method="DELETE", admin=True)
            except OSError:
                heard = None
            else:
                if answer.status in (200, 202):
                    return True
                if answer.status == 409:
                    return heard
                heard = None
            time.sleep(0.2)
        return heard

    def _back(self) -> None:
        """Asks for the rollback until it is there, and waits for its end."""
        subject, platform = self.subject, self.subject.platform
        wanted = {"namespace": subject.owner, "repository": subject.changing.name}
        if self.scenario.kind == "back-one":
            wanted["function"] = "a"
        left = subject.history.pushes[-1]
        known = {each["id"] for each in self._rollbacks()}
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(OSError, ValueError):
                fresh = [each for each in self._rollbacks() if each["id"] not in known]
                if not fresh:
                    body = json.dumps(wanted).encode()
                    platform.request("/system/rollback", method="POST", data=body, admin=True)
                elif fresh[0]["state"] == "failed":
                    self.complaints.append(f"the rollback failed: {fresh[0]['reason']}")
                    return
                elif fresh[0]["state"] == "done":
                    if self.scenario.kind == "back":
                        left.left = True
                    else:
                        subject.history.pinned["a"] = fresh[0]["id"]
                    return
            time.sleep(0.1)
        self.complaints.append("the rollback does not come to its end")

    def _rollbacks(self) -> list[dict[str, Any]]:
        path = f"/system/rollbacks?namespace={self.subject.owner}"
        return list(self.subject.platform.request(path, admin=True).json())


class Traffic:
    """Somebody who calls the function that is changed, all the time."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.answers: list[str] = []
        """The texts; what failed begins with ``!``."""

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _call(self) -> None:
        while not self._done.wait(0.03):
            try:
                answer = self._subject.platform.call(f"a.{self._subject.owner}")
                told = answer.text if answer.status == 200 else f"!{answer.status} {answer.text}"
            except OSError as error:
                told = f"!{error}"
            self.answers.append(told)

    def complaints(self, scenario: Scenario, changes: list[Commit]) -> list[str]:
        """Only versions that passed their tests answer, the newer ones last."""
        lossless = scenario.victim not in LOSES and scenario.kind not in ("worse", "gone")
        texts = [told for told in self.answers if not told.startswith("!")]
        good = [each.functions["a"].text for each in changes if each.good and each.functions]
        known = [*texts[:1], *good]
        if scenario.kind in BACK:
            known = [*good, *(told for told in texts if told not in good)][:2]
        complaints, newest = [], 0
        for told in self.answers:
            if told.startswith("!"):
                if lossless:
                    complaints.append(f"a request was lost: {told[1:200]}")
                continue
            if told not in known:
                complaints.append(f"{told!r} answers, of {known}")
                continue
            place = max(i for i, each in enumerate(known) if each == told)
            if place < newest:
                complaints.append(f"{told!r} answers again after {known[newest]!r}")
            newest = max(newest, place)
        return complaints[:5]
