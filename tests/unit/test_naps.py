"""Who stays paused, for how long and in how much memory."""

from __future__ import annotations

import msgspec
import pytest

from core.models import FunctionRecord, FunctionSpec
from core.settings import Settings
from runtime.naps import Naps
from runtime.providers import Instance, Phase, Provider


class Pausing:
    """All that is asked of a provider here."""

    pauses = True


def spec(name: str, **labels: str) -> FunctionSpec:
    return FunctionSpec(name=name, namespace="ann", artifact="a@sha256:0", labels=labels)


def record(of: FunctionSpec, replicas: int = 0) -> FunctionRecord:
    return FunctionRecord(spec=of, release="r1", replicas=replicas, created_at="")


def instance(of: FunctionSpec, id_: str, phase: Phase = Phase.PAUSED) -> Instance:
    return Instance(id=id_, spec=of, address=f"{id_}:8080", phase=phase, started_at=0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("runtime.naps.time.monotonic", lambda: now[0])
    return now


def naps(provider: object = Pausing(), **settings: str) -> Naps:
    told = {f"SLIPWAY_{name.upper()}": value for name, value in settings.items()}
    return Naps(Settings.from_env(told), provider)  # type: ignore[arg-type]


def test_only_what_sleeps_is_paused_and_not_more_than_wakes() -> None:
    f = spec("f", **{"com.openfaas.scale.min": "2"})
    ran = instance(f, "a", Phase.RUNNING)
    found = naps()
    assert found.may_begin(ran, record(f), 0)
    assert found.may_begin(ran, record(f), 1)
    assert not found.may_begin(ran, record(f), 2)
    assert not found.may_begin(ran, record(f, 1), 0), "scaled down, not asleep"
    assert not found.may_begin(ran, None, 0), "deleted"
    assert not found.may_begin(ran, record(spec("f")), 0), "another revision sleeps"
    changing = msgspec.structs.replace(record(f), previous=spec("f"))
    assert not found.may_begin(ran, changing, 0)
    assert not naps(pause="0s").may_begin(ran, record(f), 0)


def test_a_provider_that_pauses_nothing_is_never_asked_to() -> None:
    class Plain:
        pauses = False

    f = spec("f")
    assert not naps(Plain()).may_begin(instance(f, "a", Phase.RUNNING), record(f), 0)


def test_a_nap_has_its_time(clock: list[float]) -> None:
    f = spec("f")
    records = {"f.ann": record(f)}
    found = naps(pause="60s")
    assert found.going_on([instance(f, "a")], records) == {"a"}
    clock[0] += 59
    assert found.going_on([instance(f, "a")], records) == {"a"}
    clock[0] += 2
    assert found.going_on([instance(f, "a")], records) == set()
    assert found.going_on([instance(f, "b")], records) == {"b"}, "another one's begins anew"
    assert found.going_on([instance(f, "b")], {}) == set(), "the function is gone"


def test_the_longest_asleep_end_where_memory_is_short(clock: list[float]) -> None:
    functions = [spec(name) for name in "abc"]
    records = {each.function: record(each) for each in functions}
    found = naps(paused_memory="100")
    paused: list[Instance] = []
    for each in functions:
        paused.append(instance(each, each.name))
        found.going_on(paused, records)
        clock[0] += 1
    assert found.going_on(paused, records) == {"a", "b", "c"}, "nothing was measured yet"
    found._memory = {each.function: 40.0 for each in functions}
    assert found.going_on(paused, records) == {"b", "c"}
    found._memory = {"a.ann": 1.0, "b.ann": 1.0, "c.ann": 101.0}
    assert found.going_on(paused, records) == set()


def test_the_interface_has_what_is_asked_here() -> None:
    assert "pauses" in Provider.__annotations__
