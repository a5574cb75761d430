"""The plan against an idea of a world that does what it says: it converges and then rests."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.models import Artifact, FunctionRecord, FunctionSpec
from core.scaling import MAX_REPLICAS
from runtime.edge import Route
from runtime.plan import (
    follows,
    healthy,
    plan,
    replicas,
    returned,
    routes,
    settled,
    taken_back,
    wanted,
)
from runtime.providers import Instance, Phase


def spec(name: str, digest: str = "0", **labels: str) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        namespace="alice",
        artifact=f"bundle:sha256:{digest * 64}",
        repository="fns",
        labels=labels or None,
    )


def record(
    of: FunctionSpec, count: int = 1, previous: FunctionSpec | None = None
) -> FunctionRecord:
    return FunctionRecord(spec=of, release="r1", replicas=count, created_at="", previous=previous)


def instance(of: FunctionSpec, id_: str, phase: Phase = Phase.RUNNING) -> Instance:
    return Instance(id=id_, spec=of, address=f"unix@/{id_}", phase=phase, started_at=0.0)


def artifact(of: FunctionSpec) -> Artifact:
    return Artifact(name=of.name, key="", artifact=of.artifact, spec=of)


@pytest.mark.parametrize("text", ["²", "9" * 5000, "-1", "", "x", "1.5", "٣", "0"])
def test_a_label_that_is_no_number_counts_as_one(text: str) -> None:
    labelled = msgspec.structs.replace(spec("f"), labels={"com.openfaas.scale.min": text})
    assert replicas(labelled) == 1


def test_a_staged_revision_runs_beside_the_live_one() -> None:
    old, new = spec("f"), spec("f", "1")
    wants = wanted([record(old)], [[artifact(new)]])
    todo = plan(wants, [instance(old, "a")], {"a"}, {})
    assert todo.start == [new]
    assert todo.leave == []


def test_after_the_switch_the_old_one_leaves() -> None:
    old, new = spec("f"), spec("f", "1")
    running = [instance(old, "a"), instance(new, "b")]
    todo = plan(wanted([record(new)], []), running, {"a", "b"}, {})
    assert [each.id for each in todo.leave] == ["a"]
    table = routes([record(new)], running, {"a", "b"}, {"a"})
    assert table["f.alice"].endpoints == ("unix@/b",)


def test_a_replica_that_is_not_ready_has_no_route() -> None:
    assert routes([record(spec("f"))], [instance(spec("f"), "a")], set(), set()) == {}


def test_what_a_release_made_desired_serves_though_its_controller_was_killed() -> None:
    """It was healthy at the switch; the routes may have moved, and be told nowhere."""
    old, new = spec("f"), spec("f", "1")
    running = [instance(old, "a"), instance(new, "b"), instance(new, "c")]
    untold = {"f.alice"}
    table = routes([record(new)], running, {"a"}, set(), {"b"}, untold)
    assert table["f.alice"].endpoints == ("unix@/b",), "c is being started"
    table = routes([record(new)], running, {"a", "c"}, set(), {"b"}, untold)
    assert table["f.alice"].endpoints == ("unix@/c",), "who answers, first"
    assert routes([record(new)], running, set(), {"b"}, {"b"}, untold) == {}
    assert routes([record(new)], running, {"a"}, set(), {"b"}) == {}, "never healthy yet, maybe"


def test_a_start_under_way_is_not_made_twice() -> None:
    f = spec("f")
    assert plan(wanted([record(f)], []), [], set(), {("f.alice", f.revision): 1}).start == []


def test_what_is_paused_comes_back_before_another_is_started() -> None:
    f = spec("f")
    asleep = [instance(f, "a", Phase.PAUSED), instance(f, "b", Phase.PAUSED)]
    sleeping = wanted([record(f, 0)], [])
    todo = plan(sleeping, asleep, set(), {}, naps={"a", "b"})
    assert (todo.start, todo.resume, todo.leave) == ([], [], [])
    todo = plan(sleeping, asleep, set(), {}, naps={"b"})
    assert [each.id for each in todo.leave] == ["a"], "its time is over"
    todo = plan(wanted([record(f, 3)], []), asleep, set(), {})
    assert (len(todo.start), len(todo.resume), todo.leave) == (1, 2, [])
    todo = plan(wanted([record(f, 1)], []), asleep, set(), {}, naps={"a", "b"})
    assert (len(todo.resume), len(todo.leave)) == (1, 0), "one more than wake: as long as it may"
    other = wanted([record(spec("f", "1"), 0)], [])
    assert len(plan(other, asleep, set(), {}).leave) == 2, "another revision is desired"


def test_what_drains_and_is_wanted_again_goes_on() -> None:
    f = spec("f")
    a, b = instance(f, "a"), instance(f, "b")
    once = wanted([record(f, 1)], [])
    assert taken_back([a, b], once, [], {"a", "b"}) == [a]
    assert taken_back([a], once, [b], {"a", "b"}) == []
    assert taken_back([a], once, [], set()) == [], "it is ill"
    assert taken_back([a], wanted([record(f, 0)], []), [], {"a"}) == []
    ending = instance(f, "c", Phase.STOPPING)
    assert taken_back([ending], once, [], {"c"}) == []


def test_ready_replicas_are_kept_before_others() -> None:
    f = spec("f")
    todo = plan(wanted([record(f)], []), [instance(f, "a"), instance(f, "b")], {"b"}, {})
    assert [each.id for each in todo.leave] == ["a"]


def test_replicas_come_from_openfaas_label_within_bounds() -> None:
    label = "com.openfaas.scale.min"
    assert replicas(spec("f", **{label: "3"})) == 3
    assert replicas(spec("f", **{label: "9999"})) == MAX_REPLICAS
    for odd in ("0", "-1", "many", ""):
        assert replicas(spec("f", **{label: odd})) == 1


def test_what_served_before_a_deploy_keeps_the_route_until_all_that_is_new_is_healthy() -> None:
    old, new = spec("f"), spec("f", "1")
    deployed = record(new, 2, previous=old)
    running = [instance(old, "a"), instance(old, "b"), instance(new, "c")]
    todo = plan(wanted([deployed], []), running, {"a", "b", "c"}, {})
    assert (todo.start, todo.leave) == ([new], [])
    counts = healthy(running, {"a", "b", "c"})
    assert settled([deployed], counts) == []
    table = routes([deployed], running, {"a", "b", "c"}, set())
    assert table["f.alice"].endpoints == ("unix@/a", "unix@/b")
    running.append(instance(new, "d"))
    assert settled([deployed], healthy(running, {"a", "b", "c"})) == [], "not healthy yet"
    assert settled([deployed], healthy(running, {"a", "b", "c", "d"})) == [deployed]
    assert settled([record(new, 2)], healthy(running, {"a", "b", "c", "d"})) == []


def test_where_nothing_served_before_a_deploy_what_is_healthy_of_it_serves() -> None:
    old, new = spec("f"), spec("f", "1")
    deployed = record(new, 2, previous=old)
    running = [instance(old, "a"), instance(new, "b")]
    table = routes([deployed], running, {"b"}, set())
    assert table["f.alice"].endpoints == ("unix@/b",)


def test_what_is_scaled_to_zero_leaves_and_has_no_route() -> None:
    old, new = spec("f"), spec("f", "1")
    deployed = record(new, 0, previous=old)
    running = [instance(old, "a")]
    assert plan(wanted([deployed], []), running, {"a"}, {}).leave == running
    assert settled([deployed], healthy(running, {"a"})) == [], "it may yet be wanted back"
    assert routes([record(new, 0)], running, {"a"}, set()) == {}


@dataclass
class World:
    """Starts and ends what a plan says, at once."""

    running: list[Instance] = field(default_factory=list)
    made: int = 0

    def obey(self, wants: dict[tuple[str, str], object]) -> bool:
        todo = plan(wants, self.running, {i.id for i in self.running}, {})  # type: ignore[arg-type]  # the test's dict is as good
        gone = {e.id for e in [*todo.leave, *(i for i in self.running if i.phase is Phase.EXITED)]}
        self.running = [each for each in self.running if each.id not in gone]
        for each in todo.start:
            self.made += 1
            self.running.append(instance(each, f"i{self.made}"))
        return bool(gone or todo.start)


names = st.sampled_from("fgh")
digests = st.sampled_from("0123")
desired = st.dictionaries(names, st.tuples(digests, st.integers(1, 4)))
dead = st.lists(st.tuples(names, digests, st.sampled_from(list(Phase))))


@given(desired, desired, dead)
def test_two_passes_reach_any_desired_state_and_a_third_does_nothing(
    first: dict[str, tuple[str, int]],
    second: dict[str, tuple[str, int]],
    strays: list[tuple[str, str, Phase]],
) -> None:
    world = World([instance(spec(n, d), f"s{i}", p) for i, (n, d, p) in enumerate(strays)])
    for state in (first, second):
        records = [record(spec(n, d), count) for n, (d, count) in state.items()]
        wants = wanted(records, [])
        world.obey(dict(wants))
        stopping = [each for each in world.running if each.phase is Phase.STOPPING]
        world.running = [each for each in world.running if each not in stopping]
        assert not world.obey(dict(wants)), "a second pass has nothing to do"
        have: dict[str, int] = {}
        for each in world.running:
            have[each.revision] = have.get(each.revision, 0) + 1
        assert have == {r.spec.revision: 0 for r in records} | {
            revision: sum(r.replicas for r in records if r.spec.revision == revision)
            for revision in {r.spec.revision for r in records}
        }


def test_what_is_warm_runs_on_but_is_not_started_again() -> None:
    old, new = spec("f"), spec("f", "1")
    warm = {("f.alice", old.revision)}
    wants = wanted([record(new)], [])
    running = [instance(old, "a"), instance(old, "mute"), instance(new, "b")]
    todo = plan(wants, running, {"a", "b"}, {}, warm)
    assert [each.id for each in todo.leave] == ["mute"], "only what could serve at once"
    assert plan(wants, running[2:], {"b"}, {}, warm).start == []
    table = routes([record(new)], running, {"a", "b"}, set())
    assert table["f.alice"].endpoints == ("unix@/b",)


def test_what_is_warm_is_scaled_down_where_it_is_wanted() -> None:
    f = spec("f")
    running = [instance(f, "a"), instance(f, "b")]
    todo = plan(wanted([record(f)], []), running, {"a", "b"}, {}, {("f.alice", f.revision)})
    assert len(todo.leave) == 1


def test_a_rollback_under_way_starts_what_it_brings_back() -> None:
    old, new = spec("f"), spec("f", "1")
    back = returned(old, {"f.alice": record(new, 3)})
    todo = plan(wanted([record(new)], [], [back]), [instance(new, "b")], {"b"}, {})
    assert (todo.start, todo.leave) == ([old] * 3, []), "as often as the function runs now"


def test_the_routes_follow_or_have_nothing_to_follow_to() -> None:
    f, g = spec("f"), spec("f", "1")
    key = {("f.alice", f.revision)}
    there = {"f.alice": Route(revision=f.revision, endpoints=("unix@/a",))}
    assert follows(f, {"f.alice": record(f)}, there, set())
    assert not follows(f, {"f.alice": record(f)}, {}, set())
    assert follows(f, {"f.alice": record(f)}, {}, key), "it was healthy, and has ended since"
    assert follows(f, {"f.alice": record(g)}, {}, set()), "another took its place"
    assert follows(f, {"f.alice": record(f, 0)}, {}, set())
    assert follows(f, {}, {}, set())
