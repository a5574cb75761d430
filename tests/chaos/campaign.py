"""Many runs, on several installations side by side: most of a run is waiting."""

from __future__ import annotations

import queue
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.run import Outcome, run
from tests.chaos.scenario import scenario
from tests.chaos.subject import subject

Left = dict[bool, "queue.Queue[int]"]
"""Seeds to be run yet: those of installations that watch, and the rest."""


def campaign(
    seeds: Sequence[int], runtime: str, platforms: int, note: Callable[[Outcome], None]
) -> None:
    """Runs all seeds, in no order; ``note`` takes each outcome, one at a time. Interrupted, it
    ends after the runs under way."""
    left: Left = {False: queue.Queue(), True: queue.Queue()}
    for seed in seeds:
        left[scenario(seed, runtime).watched].put(seed)
    lock = threading.Lock()

    def one_at_a_time(outcome: Outcome) -> None:
        with lock:
            note(outcome)

    threads = [
        threading.Thread(target=_work, args=(number, runtime, left, one_at_a_time))
        for number in range(min(platforms, len(seeds)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        print("ending after the runs under way", file=sys.stderr)
        for each in left.values():
            each.queue.clear()
        for thread in threads:
            thread.join()


def _work(number: int, runtime: str, left: Left, note: Callable[[Outcome], None]) -> None:
    """Runs on one installation after the other: one that something was wrong with is kept for
    people, and not used again. The first begins with what is watched, all others with the rest."""
    for watched in (True, False) if number == 0 else (False, True):
        _work_off(number, runtime, left[watched], watched, note)


def _work_off(
    number: int,
    runtime: str,
    left: queue.Queue[int],
    watched: bool,
    note: Callable[[Outcome], None],
) -> None:
    while not left.empty():
        folder = Path(tempfile.mkdtemp(prefix="sw-chaos-", dir="/tmp"))
        wrong = False
        try:
            with subject(folder, f"o{number}", runtime, watched=watched) as it:
                while not wrong:
                    try:
                        seed = left.get_nowait()
                    except queue.Empty:
                        break
                    outcome = run(scenario(seed, runtime), it)
                    wrong = bool(outcome.complaints)
                    if wrong:
                        (folder / f"seed-{seed}.txt").write_text(
                            "\n".join(outcome.complaints) + "\n" + it.platform.output()
                        )
                        shutil.copytree(
                            folder / "state" / "log", folder / "log", dirs_exist_ok=True
                        )
                        print(f"its logs are in {folder}", file=sys.stderr)
                    note(outcome)
        except Exception:
            traceback.print_exc()
            return
        if not wrong:
            shutil.rmtree(folder, ignore_errors=True)
