"""The line of one forge's questions: how many at once, and what becomes of it in trouble."""

from __future__ import annotations

import threading
import time

import pytest

from builder import forgeline
from builder.forgeline import AT_ONCE, FAILURES, Line
from tests.waiting import until


class Forge:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.well: bool | None = True
        self.begun: list[tuple[str, float]] = []
        self.let = threading.Semaphore(0)

    def ask(self, key: str) -> bool | None:
        self.begun.append((key, time.monotonic()))
        assert self.let.acquire(timeout=30)
        return self.well

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.begun]


def names(count: int) -> list[str]:
    return [f"r{number}" for number in range(count)]


def test_a_few_are_asked_side_by_side_in_their_order() -> None:
    forge = Forge()
    line = Line("x", forge.ask)
    line.put(names(10))
    line.wait(time.monotonic() + 0.1)
    assert sorted(forge.keys) == names(AT_ONCE)
    line.put(names(10))
    line.wait(time.monotonic() + 0.1)
    assert len(forge.begun) == AT_ONCE, "who is being asked is not asked once more"
    forge.let.release(100)
    line.wait(time.monotonic() + 30)
    assert sorted(forge.keys) == sorted(names(10))
    line.put(["r1"])
    line.wait(time.monotonic() + 30)
    assert forge.keys[-1] == "r1"


def test_who_is_put_takes_the_place_of_who_waits() -> None:
    forge = Forge()
    line = Line("x", forge.ask)
    line.put(names(10))
    line.put(())
    forge.let.release(100)
    line.wait(time.monotonic() + 30)
    assert sorted(forge.keys) == names(AT_ONCE)


def test_a_forge_in_trouble_is_left_alone_and_tried_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgeline, "FIRST_REST", 0.4)
    monkeypatch.setattr(forgeline, "LONGEST_REST", 0.8)
    forge = Forge()
    forge.well = False
    forge.let.release(FAILURES)
    line = Line("x", forge.ask)
    line.put(names(50))
    until(lambda: len(forge.begun) == FAILURES + AT_ONCE - 1)
    ill = time.monotonic()
    line.wait(ill + 0.05)
    forge.let.release(AT_ONCE - 1)
    line.wait(ill + 30)
    assert time.monotonic() - ill < 5, "nobody waits for it"
    for rest in (0.2, 0.8, 0.8):  # of the first one not all of the time is seen
        before = len(forge.begun)
        while len(forge.begun) == before:
            line.put(names(50))
            time.sleep(0.01)
        line.put(names(50))
        assert len(forge.begun) == before + 1, "one question goes first"
        tried = time.monotonic()
        forge.let.release()
        line.wait(tried + 30)
        line.put(names(50))
        assert len(forge.begun) == before + 1
        begun = [at for _, at in forge.begun]
        assert begun[-1] - begun[-2] >= rest
    forge.well = True
    forge.let.release(100)

    before = len(forge.begun)
    while len(forge.begun) == before:
        line.put(names(50))
        time.sleep(0.01)
    line.wait(time.monotonic() + 30)
    assert set(forge.keys[before:]) == set(names(50)), "all of them, once one was answered"


def test_what_says_nothing_of_the_forge_counts_for_nothing() -> None:
    forge = Forge()
    forge.well = None
    forge.let.release(100)
    line = Line("x", forge.ask)
    line.put(names(FAILURES * 4))
    line.wait(time.monotonic() + 30)
    assert len(forge.begun) == FAILURES * 4
