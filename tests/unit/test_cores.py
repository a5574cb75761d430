"""The cores that builds leave."""

from __future__ import annotations

import os
import threading

from core import cores


def test_builds_leave_one_core_where_there_are_several() -> None:
    had = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def build() -> None:  # of this thread alone
        for _ in had:
            cores.give_one_up()
            seen.append(os.sched_getaffinity(0))
            assert cores.ours() == ",".join(map(str, sorted(seen[-1])))
        cores.give_one_up()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert len(seen) == len(had) + 1
    assert len(seen[0]) == max(len(had) - 1, 1)
    assert seen[0] <= had
    assert len(seen[-1]) == 1, "the last one is not given up"
    assert os.sched_getaffinity(0) == had
