"""Asynchronous calls in the store: each step by itself, done twice, or by two at once."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid

import pytest

from core import keys
from core.errors import Conflict, NotFound, Unavailable
from core.models import Call, CallState, moment
from core.settings import Settings
from core.store import Store
from core.store.calls import INLINE, Answered, Taken

SETTINGS = Settings()
ANSWER = Answered(200, [("X-A", "b")], b"ok", "", 2, 0.5)


def new(body: bytes = b"\x00\xff", **more: object) -> Call:
    values = {"name": "f", "target": "/", "headers": [("A", "b")], "body": body} | more
    return Call(id=str(uuid.uuid4()), **values)  # type: ignore[arg-type]  # by name


def added(store: Store, call: Call | None = None) -> Taken:
    """A call that a worker has."""
    store.add_call(call or new(), 2**26)
    return again(store)


def again(store: Store) -> Taken:
    taken = store.next_call(0.01) or store.next_call(0.01)
    assert taken
    return taken


def begun(store: Store, call: Call | None = None) -> Taken:
    taken = added(store, call)
    assert store.begin_call(taken) == 1
    return taken


def settle(store: Store, taken: Taken, **more: object) -> tuple[int, list[str]]:
    told = {"state": CallState.DONE, "reason": "", "answered": ANSWER, "settings": SETTINGS} | more
    return store.settle_call(taken, **told)  # type: ignore[arg-type]  # by name


def dead(store: Store, call: Call | None = None, **more: object) -> str:
    taken = begun(store, call)
    settle(store, taken, state=CallState.FAILED, reason="500", dead=True, **more)
    return taken.call.id


def sizes(store: Store) -> tuple[int, int, int]:
    """(what waits, what is kept, dead letters)."""
    names = (keys.CALLS_SIZE, keys.CALLS_KEPT_SIZE, keys.DEAD_LETTERS_SIZE)
    return tuple(int(store.redis.get(name) or 0) for name in names)  # type: ignore[return-value]  # three


def test_a_call_s_way(store: Store) -> None:
    call = new()
    store.add_call(call, 2**26)
    kept = store.kept_call(call.id)
    assert kept
    assert (kept.state, kept.attempts, kept.started, kept.call) == ("queued", 0, "", call)
    taken = again(store)
    assert (taken.call, taken.retries) == (call, 0)
    assert store.begin_call(taken) == 1
    kept = store.kept_call(call.id)
    assert kept
    assert (kept.state, kept.attempts, kept.finished) == ("running", 1, "")
    assert settle(store, taken) == (1, [])
    kept = store.kept_call(call.id)
    assert kept
    assert (kept.state, kept.answered, kept.status, kept.of) == (
        "done",
        ANSWER,
        200,
        "f.openfaas-fn",
    )
    assert kept.call.body == b"", "it is not needed any more"
    assert kept.created <= kept.started <= kept.finished
    assert sizes(store)[0] == store.waiting_calls() == 0
    assert sizes(store)[1] > 1024


def test_the_same_id_is_added_once(store: Store) -> None:
    call = new()
    for _ in range(2):
        store.add_call(call, 2**26)
    assert store.waiting_calls() == 1
    settle(store, begun_of(store))
    store.add_call(call, 2**26)
    assert store.waiting_calls() == 0, "nor once it is over"


def begun_of(store: Store) -> Taken:
    taken = again(store)
    store.begin_call(taken)
    return taken


def test_the_body_is_beside_the_job_and_small(store: Store) -> None:
    call = new(b"x" * INLINE)
    store.add_call(call, 2**26)
    ((_, fields),) = store.redis.xrange(keys.CALLS)
    assert fields == {b"id": call.id.encode()}
    with pytest.raises(ValueError, match="small"):
        store.add_call(new(b"x" * (INLINE + 1)), 2**26)


def test_a_call_that_is_tried_again_waits_its_time(store: Store) -> None:
    taken = begun(store)
    due = time.time() + 60
    assert store.retry_call(taken, due, moment(due), 500, "the function answered 500")
    assert not store.retry_call(taken, due, moment(due), 500, "twice"), (
        "it is this worker's no more"
    )
    assert settle(store, taken)[0] == 0, "and so it is not to settle"
    assert store.next_call(0.01) is None
    kept = store.kept_call(taken.call.id)
    assert kept
    assert (kept.state, kept.next, kept.status) == ("queued", moment(due), 500)
    assert store.waiting_calls() == 1
    assert store.move_due_calls(due - 1) == 0
    assert store.move_due_calls(due + 1) == 1
    assert store.move_due_calls(due + 1) == 0
    second = again(store)
    assert (second.retries, second.times, second.call) == (1, 1, taken.call)
    assert store.begin_call(second) == 2
    settle(store, second)
    assert sizes(store)[0] == store.waiting_calls() == 0


@pytest.mark.parametrize("where", ["queue", "parked", "due"])
def test_what_waits_and_is_cancelled_is_never_made(store: Store, where: str) -> None:
    store.next_call(0.01)
    call = new(held=10, body=b"")
    store.add_call(call, 2**26)
    if where == "parked":
        store.park_call(again(store), "function f")
    if where == "due":
        assert store.retry_call(begun_of(store), 1.0, moment(1.0), 500, "")
    assert store.cancel_call(call.id, SETTINGS) == ("queued", [f"{call.id}.body"])
    assert store.cancel_call(call.id, SETTINGS)[0] == "queued", "asked again"
    store.move_due_calls(time.time())
    store.unpark_call("function f")
    assert store.next_call(0.01) is None
    assert store.waiting_calls() == sizes(store)[0] == 0
    kept = store.kept_call(call.id)
    assert kept
    assert (kept.state, kept.reason, kept.answered) == ("failed", "cancelled", None)


def test_what_was_just_taken_is_not_begun_once_it_is_cancelled(store: Store) -> None:
    taken = added(store)
    assert store.cancel_call(taken.call.id, SETTINGS)[0] == "queued"
    assert store.begin_call(taken) == 0


def test_what_runs_and_is_cancelled_fails_whatever_comes_of_it(store: Store) -> None:
    taken = begun(store, new(callback="http://a/"))
    assert store.cancelled_calls([taken.call.id]) == set()
    assert store.cancel_call(taken.call.id, SETTINGS)[0] == "running"
    assert store.cancelled_calls([taken.call.id, "x"]) == {taken.call.id}
    assert not store.retry_call(taken, 1.0, moment(1.0), 500, "")
    large = dataclasses.replace(ANSWER, body=b"", file=f"{taken.call.id}.0.answer")
    assert settle(store, taken, answered=large) == (2, [])
    kept = store.kept_call(taken.call.id)
    assert kept
    assert (kept.state, kept.reason, kept.answered) == ("failed", "cancelled", None)
    assert store.next_call(0.01) is None
    assert store.waiting_calls() == 0, "no callback either"
    assert store.dead_letters(9) == []
    assert store.cancel_call(str(uuid.uuid4()), SETTINGS)[0] == ""


def test_one_whose_worker_died_after_it_was_cancelled_is_settled_by_the_next(store: Store) -> None:
    taken = begun(store)
    store.cancel_call(taken.call.id, SETTINGS)
    assert store.begin_call(taken) == -1


def test_what_is_over_cannot_be_cancelled(store: Store) -> None:
    taken = begun(store)
    settle(store, taken)
    assert store.cancel_call(taken.call.id, SETTINGS) == ("done", [])
    letter = dead(store)
    assert store.cancel_call(letter, SETTINGS) == ("failed", [])
    assert [each.call.id for each in store.dead_letters(9)] == [letter]


def test_a_callback_that_was_not_told_is_told_by_the_next_worker(store: Store) -> None:
    taken = begun(store, new(callback="http://a/"))
    assert settle(store, taken) == (1, [])
    assert store.begin_call(taken) == 0, "it is not made again"
    store.give_back_call(taken)
    second = again(store)
    assert (second.answered, second.call.callback) == (ANSWER, "http://a/")
    store.forget_call(second)
    store.forget_call(second)
    assert store.waiting_calls() == 0
    assert store.kept_call(taken.call.id)


def test_of_two_workers_that_have_a_call_one_settles_it(store: Store) -> None:
    """One was silent for too long, and is still there."""
    first = begun(store)
    store.give_back_call(first)
    second = again(store)
    assert store.begin_call(second) == 2
    mine = dataclasses.replace(ANSWER, body=b"", file=f"{first.call.id}.1.answer", length=9)
    assert settle(store, second, answered=mine) == (1, [])
    assert settle(store, second, answered=mine) == (1, []), "a command that was repeated"
    assert settle(store, first, answered=dataclasses.replace(mine, file="other"))[0] == 0
    assert store.call_files(first.call.id) == {mine.file}


def test_answers_are_kept_for_their_time(store: Store) -> None:
    taken = begun(store)
    settle(store, taken, settings=Settings(async_keep=0.05))
    time.sleep(0.1)
    assert store.kept_call(taken.call.id) is None, "nobody had to sweep"
    assert store.sweep_calls(SETTINGS) == []
    assert (store.redis.exists(keys.call(taken.call.id)), sizes(store)) == (0, (0, 0, 0))


def test_the_oldest_answers_go_first_when_there_is_no_room(store: Store) -> None:
    few = Settings(async_results=5 * 3000)
    ids, gone = [], []
    for number in range(12):
        taken = begun(store)
        file = f"{taken.call.id}.0.answer" if number % 2 else ""
        answered = dataclasses.replace(ANSWER, body=b"", file=file, length=1500)
        done, files = settle(store, taken, answered=answered, settings=few)
        assert done == 1
        ids.append((taken.call.id, file))
        gone += files
        assert sizes(store)[1] <= few.async_results
    kept = [id_ for id_, _ in ids if store.kept_call(id_)]
    assert kept == [id_ for id_, _ in ids[-len(kept) :]]
    assert 3 < len(kept) < 8
    assert gone == [file for _, file in ids[: -len(kept)] if file]


def test_one_answer_above_the_bound_is_kept_alone(store: Store) -> None:
    first, second = begun(store), None
    settle(store, first)
    second = begun(store)
    settle(
        store,
        second,
        answered=dataclasses.replace(ANSWER, length=10**6),
        settings=Settings(async_results=1000),
    )
    assert store.kept_call(first.call.id) is None
    assert store.kept_call(second.call.id)


def test_dead_letters_are_listed_newest_first_with_their_bodies(store: Store) -> None:
    ids = [dead(store, new(name=name)) for name in ("f.ann", "g.ann", "f.ann", "f.bob")]
    assert [each.call.id for each in store.dead_letters(9)] == ids[::-1]
    assert [each.call.id for each in store.dead_letters(2)] == ids[:1:-1]
    assert [each.call.id for each in store.dead_letters(9, "ann")] == [ids[2], ids[1], ids[0]]
    assert [each.call.id for each in store.dead_letters(9, function="f.ann")] == [ids[2], ids[0]]
    letter = store.dead_letter(ids[0])
    assert (letter.call.body, letter.answered, letter.reason) == (b"\x00\xff", ANSWER, "500")
    with pytest.raises(NotFound):
        store.dead_letter(str(uuid.uuid4()))


def test_dead_letters_are_bounded_in_number_bytes_and_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.store.settled.MOST_DEAD", 3)
    ids = [dead(store) for _ in range(5)]
    assert [each.call.id for each in store.dead_letters(9)] == ids[:1:-1]
    large = dead(store, new(b"x" * 9000), settings=Settings(dead_letters=12_000))
    left = [each.call.id for each in store.dead_letters(9)]
    assert left[0] == large
    assert sizes(store)[2] <= 12_000
    soon = dead(store, settings=Settings(dead_letters_keep=0.01))
    time.sleep(0.05)
    store.sweep_calls(SETTINGS)
    assert soon not in [each.call.id for each in store.dead_letters(9)]
    for each in store.dead_letters(9):
        store.remove_dead_letter(each.call.id)
    assert sizes(store) == (0, 0, 0)
    assert store.redis.keys(f"{keys.CALL}*") == []


def test_a_replay_is_a_new_series_of_the_same_call(store: Store) -> None:
    call = new(held=7, body=b"")
    taken = begun(store, call)
    store.retry_call(taken, 1.0, moment(1.0), 500, "")
    store.move_due_calls(time.time())
    second = begun_of(store)
    file = f"{call.id}.0.answer"
    bad = dataclasses.replace(ANSWER, body=b"", file=file, length=20_000)
    settle(store, second, state=CallState.FAILED, answered=bad, dead=True)
    before = sizes(store)
    assert before[0] == 0
    assert store.replay_dead_letter(call.id, 2**26) == [file]
    assert sizes(store)[2] == 0
    third = again(store)
    assert (third.call, third.retries) == (call, 0)
    assert store.begin_call(third) == 3, "attempts are counted on"
    assert settle(store, third) == (1, [f"{call.id}.body"])
    assert sizes(store)[0] == 0
    kept = store.kept_call(call.id)
    assert kept
    assert (kept.state, kept.reason) == ("done", "")


def test_of_two_replays_at_once_one_is_done(store: Store) -> None:
    for _ in range(20):
        id_ = dead(store)
        told: list[str] = []
        barrier = threading.Barrier(2)

        def replay(id_: str = id_, told: list[str] = told, at: threading.Barrier = barrier) -> None:
            at.wait()
            try:
                store.replay_dead_letter(id_, 2**26)
                told.append("done")
            except Conflict:
                told.append("conflict")

        threads = [threading.Thread(target=replay) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(told) == ["conflict", "done"]
        assert store.waiting_calls() == 1
        settle(store, begun_of(store))


def test_a_replay_waits_for_room_and_for_the_callback(store: Store) -> None:
    id_ = dead(store)
    with pytest.raises(Unavailable, match="limit"):
        store.replay_dead_letter(id_, 100)
    assert [each.call.id for each in store.dead_letters(9)] == [id_]
    taken = begun(store, new(callback="http://a/"))
    settle(store, taken, state=CallState.FAILED, dead=True)
    with pytest.raises(Conflict, match="callback"):
        store.replay_dead_letter(taken.call.id, 2**26)
    store.forget_call(taken)
    store.replay_dead_letter(taken.call.id, 2**26)
    with pytest.raises(NotFound):
        store.replay_dead_letter(str(uuid.uuid4()), 2**26)


def test_what_was_settled_by_another_version_is_no_error_for_others(store: Store) -> None:
    taken = begun(store, new(callback="http://a/"))
    settle(store, taken)
    store.redis.hset(keys.call(taken.call.id), "headers", b"{}")
    store.give_back_call(taken)
    assert store.next_call(0.01) is None
    assert store.waiting_calls() == 0
    assert store.kept_call(taken.call.id) is None


def test_what_cannot_be_read_is_a_dead_letter_for_the_version_that_can(store: Store) -> None:
    call = new()
    store.add_call(call, 2**26)
    raw = store.redis.hget(keys.call(call.id), "call")
    store.redis.hset(keys.call(call.id), "call", b'{"of": 1}')
    assert store.next_call(0.01) is None
    assert store.next_call(0.01) is None
    other = dead(store)
    assert [each.call.id for each in store.dead_letters(9)] == [other], "no error for others"
    assert sizes(store)[0] == store.waiting_calls() == 0, "it holds no room of the queue"
    assert raw
    store.redis.hset(keys.call(call.id), "call", raw)
    assert {each.call.id for each in store.dead_letters(9)} == {other, call.id}
    assert "could not be read" in store.dead_letter(call.id).reason
    store.replay_dead_letter(call.id, 2**26)
    assert again(store).call == call


def test_an_owner_has_half_of_the_queue(store: Store) -> None:
    bound = 8 * 1500
    for number in range(20):
        with contextlib.suppress(Unavailable):
            store.add_call(new(name=f"f{number}.ann"), bound)
    assert bound / 4 < sizes(store)[0] <= bound / 2
    with pytest.raises(Unavailable, match=r"of ann that wait .* half of \d+ is the limit of one"):
        store.add_call(new(name="f99.ann"), bound)
    store.add_call(new(name="f.bob"), bound)
    store.next_call(0.01)
    while taken := store.next_call(0.01):
        store.begin_call(taken)
        settle(store, taken)
    assert sizes(store)[0] == 0
    assert store.redis.hgetall(keys.CALLS_SIZES) == {}
    store.add_call(new(name="f99.ann"), bound)


def test_an_answer_that_was_not_posted_yet_makes_no_room_for_others(store: Store) -> None:
    few = Settings(async_results=6000)
    told = begun(store, new(callback="http://a/"))
    mine = dataclasses.replace(ANSWER, body=b"", file=f"{told.call.id}.0.answer", length=1500)
    settle(store, told, answered=mine, settings=few)
    for _ in range(9):
        taken = begun(store)
        settle(store, taken, answered=dataclasses.replace(ANSWER, length=1500), settings=few)
        assert sizes(store)[1] <= few.async_results
    assert store.call_files(told.call.id) == {mine.file}
    store.sweep_calls(Settings(async_results=1, async_keep=1))
    assert store.kept_call(told.call.id)
    store.forget_call(told)
    assert store.sweep_calls(Settings(async_results=1)) == [mine.file]


def test_a_clock_that_was_wrong_holds_nothing_for_ever(store: Store) -> None:
    wrong = time.time() + 50 * 365 * 86400
    taken, answered = begun(store), begun(store)
    store.retry_call(taken, wrong, moment(wrong), 500, "500")
    settle(store, answered)
    store.redis.zadd(keys.CALLS_KEPT, {answered.call.id: wrong})
    store.redis.hset(keys.call(answered.call.id), "until", wrong)
    assert store.move_due_calls(time.time()) == 1
    assert again(store).call.id == taken.call.id
    store.sweep_calls(SETTINGS)
    kept = store.kept_call(answered.call.id)
    assert kept
    assert kept.until <= time.time() + SETTINGS.async_keep
