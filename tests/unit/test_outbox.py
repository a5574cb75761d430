"""What waits to be sent to forges: the newest alone, nobody waits for another, all of it ends."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count, pairwise

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from core.errors import InvalidRequest, NotAllowed, SlipwayError
from forges.api import Later
from gateway.reports import outbox
from gateway.reports.outbox import MOST, THREADS, Message, Outbox
from tests.waiting import until


def message(what: object, name: str = "a", owner: str = "ann", **more: object) -> Message:
    told = {"forge": "github", "group": "r1", "owner": owner, "name": name, "what": what}
    return Message(**(told | more))  # type: ignore[arg-type]  # as the tests give it


class Forges:
    """What was sent, in order; ``answers``: by owner what comes of it."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.dropped: list[tuple[object, str]] = []
        self.done: list[object] = []
        self.at: dict[object, list[float]] = defaultdict(list)
        self.answers: dict[str, Callable[[], None]] = {}
        self.outbox = Outbox(self._send, self._drop, lambda each: self.done.append(each.what))

    def _send(self, each: Message) -> None:
        self.at[each.what].append(time.monotonic())
        self.answers.get(each.owner, lambda: None)()
        self.sent.append(each.what)

    def _drop(self, each: Message, error: SlipwayError) -> None:
        self.dropped.append((each.what, str(error)))

    def idle(self) -> None:
        until(lambda: self.outbox.waiting() == 0)


@pytest.fixture
def forges(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forges]:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(outbox, "IDLE", 0.2)
    before = threading.active_count()
    made = Forges()
    yield made
    made.outbox.stop(5)
    until(lambda: threading.active_count() <= before)


def failing(error: Exception, times: float = float("inf")) -> Callable[[], None]:
    counted = count(1)

    def fail() -> None:
        if next(counted) <= times:
            raise error

    return fail


def test_the_newest_alone_is_sent(forges: Forges) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go.wait(10)

    forges.answers["ann"] = wait
    forges.outbox.put("r1", [message(1)])
    assert begun.wait(10)
    for number in range(2, 50):
        forges.outbox.put("r1", [message(number)])
    assert forges.outbox.waiting() == 1
    go.set()
    forges.idle()
    assert forges.sent == [1, 49]
    assert forges.done == [1, 49]


def test_what_is_not_wanted_any_more_is_not_sent(forges: Forges) -> None:
    late = time.monotonic() + 60
    forges.outbox.put("r1", [message(1, due=late), message(2, "b", due=late)])
    forges.outbox.put("r2", [message(3, group="r2", due=late)])
    forges.outbox.put("r1", [message(2, "b", due=late)])
    assert forges.outbox.waiting() == 2
    forges.outbox.put("r1", [])
    forges.outbox.put("r2", [])
    assert forges.outbox.waiting() == 0
    assert forges.sent == []


def test_what_is_not_due_waits_and_ranks_go_first(forges: Forges) -> None:
    soon = time.monotonic() + 0.3
    forges.outbox.put(
        "r1",
        [
            message("late", "l", due=soon),
            message("third", "c", rank=2, due=soon),
            message("first", "a", due=soon - 0.2),
            message("second", "b", rank=1, due=soon),
        ],
    )
    forges.idle()
    assert forges.sent == ["first", "late", "second", "third"]
    assert forges.at["late"][0] >= soon


def test_one_owners_messages_go_one_after_the_other_those_of_others_beside(
    forges: Forges,
) -> None:
    at_once: dict[str, int] = defaultdict(int)
    most: dict[str, int] = defaultdict(int)
    lock = threading.Lock()

    def slow(owner: str) -> Callable[[], None]:
        def work() -> None:
            for name in (owner, "all"):
                with lock:
                    at_once[name] += 1
                    most[name] = max(most[name], at_once[name])
            time.sleep(0.05)
            for name in (owner, "all"):
                with lock:
                    at_once[name] -= 1

        return work

    for number in range(THREADS * 2):
        owner = f"o{number}"
        forges.answers[owner] = slow(owner)
        group = f"r{number}"
        each = [message((number, n), f"n{n}", owner, group=group) for n in range(3)]
        forges.outbox.put(group, each)
    forges.idle()
    assert len(forges.sent) == THREADS * 2 * 3
    assert most["all"] == THREADS
    assert {most[f"o{n}"] for n in range(THREADS * 2)} == {1}


def test_a_forge_that_hangs_and_an_owner_in_trouble_hold_up_nobody_else(forges: Forges) -> None:
    go = threading.Event()
    forges.answers["hanging"] = lambda: assert_true(go.wait(20))
    forges.answers["limited"] = failing(Later("limited", retry_after=60))
    for number in range(THREADS * 2):
        group = f"h{number}"
        forges.outbox.put(group, [message(group, owner="hanging", group=group, forge="gitlab")])
    forges.outbox.put("l", [message("l", owner="limited", group="l")])
    until(lambda: forges.at["l"])
    forges.outbox.put("r1", [message("fine")])
    until(lambda: "fine" in forges.sent)
    assert len(forges.at["l"]) == 1, "it is not asked again before the time it said"
    forges.outbox.put("l", [])
    go.set()
    forges.idle()


def assert_true(value: bool) -> None:
    assert value


def test_a_forge_that_is_away_is_asked_less_and_less_often(forges: Forges) -> None:
    forges.answers["ann"] = failing(Later("away"), 4)
    forges.outbox.put("r1", [message(1)])
    forges.idle()
    assert forges.sent == [1]
    at = forges.at[1]
    pauses = [after - before for before, after in pairwise(at)]
    assert len(pauses) == 4
    for pause, least in zip(pauses, (0.025, 0.05, 0.1, 0.1), strict=True):
        assert pause >= least


@pytest.mark.parametrize("error", [NotAllowed("no"), InvalidRequest("what?")])
def test_what_the_forge_refuses_is_dropped_and_the_rest_goes_on(
    forges: Forges, error: SlipwayError
) -> None:
    forges.answers["ann"] = failing(error, 1)
    forges.outbox.put("r1", [message(1), message(2, "b", rank=1)])
    forges.idle()
    assert forges.dropped == [(1, str(error))]
    assert forges.sent == [2]
    assert sorted(forges.done, key=str) == [1, 2]


def test_after_an_hour_of_failures_what_waited_for_it_is_given_up_all_at_once(
    forges: Forges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "GIVE_UP", 0.5)
    forges.answers["ann"] = failing(Later("away"))
    forges.outbox.put("r1", [message(n, f"n{n}") for n in range(20)])
    until(lambda: len(forges.at) and forges.outbox.waiting() < 20)
    forges.idle()
    assert sorted(each for each, _ in forges.dropped) == list(range(20))
    assert {why for _, why in forges.dropped} == {"away"}


def test_a_store_that_is_away_as_something_is_given_up_holds_up_nothing(
    forges: Forges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "GIVE_UP", 0.1)
    asked: list[object] = []

    def drop(each: Message, _: SlipwayError) -> None:
        asked.append(each.what)
        raise RedisConnectionError("away")

    forges.outbox._drop = drop
    forges.answers["ann"] = failing(Later("away"))
    forges.outbox.put("r1", [message(1)])
    until(lambda: asked)
    forges.idle()
    until(lambda: forges.done == [1])  # it is compared anew
    del forges.answers["ann"]
    forges.outbox.put("r1", [message(2)])
    until(lambda: forges.sent == [2])


@pytest.mark.parametrize("error", [RedisConnectionError("away"), KeyError("a mistake of ours")])
def test_no_trouble_of_our_own_ends_it(forges: Forges, error: Exception) -> None:
    forges.answers["ann"] = failing(error, 2)
    forges.outbox.put("r1", [message(1)])
    forges.idle()
    assert forges.sent == [1]
    assert forges.dropped == []


def test_it_is_bounded_by_owner(forges: Forges) -> None:
    late = time.monotonic() + 60
    forges.outbox.put("r1", [message(n, f"n{n}", due=late) for n in range(MOST + 5)])
    forges.outbox.put("r2", [message(1, owner="bob", group="r2")])
    until(lambda: forges.sent == [1])
    assert forges.outbox.waiting() == MOST
    forges.outbox.put("r1", [])


def test_a_stop_lets_what_was_begun_end_and_begins_nothing(forges: Forges) -> None:
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.3)

    forges.answers["ann"] = slow
    forges.outbox.put("r1", [message(1), message(2, "b", rank=1)])
    assert begun.wait(10)
    forges.outbox.stop(10)
    assert forges.sent == [1]
