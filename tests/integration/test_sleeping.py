"""Sleeping and waking in a real store, and who waits for it in a gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from core import keys
from core.errors import NoEndpoints, NotFound
from core.models import FunctionRecord, FunctionSpec, Observed
from core.store import Store
from core.store.base import encode
from gateway.forwarding import Forwarding
from gateway.waking import Waking
from tests.waiting import until

F = "f.ann"


def put(store: Store, replicas: int, **labels: str) -> FunctionRecord:
    spec = FunctionSpec(name="f", namespace="ann", artifact="bundle:sha256:0", labels=labels)
    record = FunctionRecord(spec=spec, release="r1", replicas=replicas, created_at="")
    store.redis.hset(keys.FUNCTIONS, F, encode(record))
    return record


def observe(store: Store, *endpoints: str, trouble: str = "", starting: bool = False) -> None:
    seen = Observed(
        available=len(endpoints), endpoints=list(endpoints), trouble=trouble, starting=starting
    )
    store.save_observed({F: seen})


def desired(store: Store) -> int:
    record = store.function(F)
    assert record is not None
    return record.replicas


def test_it_is_roused_once_whoever_asks(store: Store) -> None:
    put(store, 0, **{"com.openfaas.scale.min": "2"})
    with ThreadPoolExecutor(8) as pool:
        roused = list(pool.map(lambda _: store.rouse(F), range(8)))
    assert sorted(roused) == [False] * 7 + [True]
    assert desired(store) == 2
    assert not store.rouse("nobody.ann")


def test_what_changed_meanwhile_is_not_rescaled(store: Store) -> None:
    seen = put(store, 1)
    assert store.rescale(seen, 3)
    assert desired(store) == 3
    assert not store.rescale(seen, 0), "somebody scaled it since"
    assert desired(store) == 3
    assert not store.rescale(msgspec.structs.replace(seen, release="r0"), 0)
    store.redis.hdel(keys.FUNCTIONS, F)
    assert not store.rescale(seen, 2)


def test_what_a_gateway_forwards_is_told_until_it_is_over(store: Store) -> None:
    one, other = Forwarding(store), Forwarding(store)
    ends = [one.begin(F), one.begin(F), other.begin(F)]
    assert store.forwarded()[F] >= 2, "of each gateway at once"
    until(lambda: store.forwarded()[F] == 3, 5, "how many is told soon")
    for end in ends:
        end()
    until(lambda: F not in store.forwarded(), 5, "and that there are none")
    one.begin(F)
    assert store.forwarded()[F] == 1


def test_what_a_killed_gateway_forwarded_counts_no_more(store: Store) -> None:
    store.forwarding("dead", {F: 3})
    assert store.forwarded() == {F: 3}
    store.redis.hset(keys.FORWARDED, f"{F} dead", f"3 {time.time() - 1}")
    assert not store.forwarded()
    assert not store.redis.exists(keys.FORWARDED)


@pytest.fixture
def waking(store: Store) -> Iterator[Waking]:
    made = Waking(store, 10.0)
    yield made
    made.stop()


def waited(waking: Waking) -> object:
    try:
        return waking.wait(F).endpoints
    except (NoEndpoints, NotFound) as error:
        return error


def test_all_who_wait_go_on_together(store: Store, waking: Waking) -> None:
    put(store, 0)
    observe(store)
    with ThreadPoolExecutor(20) as pool:
        callers = [pool.submit(waited, waking) for _ in range(20)]
        until(lambda: desired(store) == 1, 5, "the first wakes it")
        observe(store, trouble="it is starting", starting=True)
        time.sleep(0.5)
        assert not any(each.done() for each in callers)
        observe(store, "unix@/a")
        assert [each.result() for each in callers] == [["unix@/a"]] * 20


def test_who_waits_is_told_why_it_does_not_wake(store: Store, waking: Waking) -> None:
    put(store, 0)
    observe(store)
    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(waited, waking) for _ in range(2)]
        until(lambda: desired(store) == 1, 5, "the first wakes it")
        observe(store, trouble="exited with status 1")
        for each in callers:
            assert "exited with status 1" in str(each.result())
    observe(store, trouble="it is starting", starting=True)
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(waited, waking)
        until(lambda: bool(waking._sleepers), 5, "it waits")
        store.redis.hdel(keys.FUNCTIONS, F)
        assert isinstance(later.result(), NotFound)


def test_nobody_waits_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 0)
    monkeypatch.setattr("gateway.waking.LEEWAY", 0.0)
    hasty = Waking(store, 0.3)
    begun = time.monotonic()
    assert "did not wake within 0.3 s" in str(waited(hasty))
    assert time.monotonic() - begun < 5
    hasty.stop()


def test_one_that_falls_asleep_while_somebody_waits_is_woken_again(
    store: Store, waking: Waking
) -> None:
    put(store, 0)
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(waited, waking)
        until(lambda: desired(store) == 1, 5, "it is woken")
        put(store, 0)
        until(lambda: desired(store) == 1, 5, "and again")
        observe(store, "unix@/a")
        assert caller.result() == ["unix@/a"]


def test_the_replica_with_the_fewest_requests_is_first(store: Store) -> None:
    ours = Forwarding(store)
    answered = [ours.takes("a"), ours.takes("a"), ours.takes("b")]
    assert ours.least(["a", "b", "c"]) == ["c", "b", "a"]
    answered[0]()
    answered[1]()
    assert ours.least(["a", "b"]) == ["a", "b"]
    answered[2]()
    assert {ours.least(["a", "b"])[0] for _ in range(100)} == {"a", "b"}, "of equals, any"
