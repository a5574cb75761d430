"""How runs are told: a line each, and a table of victims by steps."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence

import msgspec

from bench.figures import RESULTS, machine
from tests.chaos.run import Outcome
from tests.chaos.scenario import HARD, VICTIMS, steps


def line(outcome: Outcome, number: int, of: int) -> str:
    told = f"{outcome.kind:9} {outcome.victim:10} at {outcome.step:16}"
    if outcome.complaints:
        told += " WRONG: " + " | ".join(outcome.complaints)
    elif outcome.reached:
        told += f" right after {outcome.converged:5.1f} s"
    else:
        told += " (nobody got there)"
    return f"{number:4}/{of} seed {outcome.seed:4} {told} ({outcome.seconds:.1f} s)"


def table(outcomes: Sequence[Outcome]) -> str:
    """Victim by step: how often, and the mean time until all was right."""
    victims = (*VICTIMS, *HARD)
    width = max(len(step) for step in steps("process") + steps("docker"))
    lines = [f"{'step':{width}}" + "".join(f"  {victim:>10}" for victim in victims)]
    killed = [each for each in outcomes if each.reached]
    for step in dict.fromkeys([*steps("process"), *steps("docker")]):
        row = [[e for e in killed if (e.step, e.victim) == (step, victim)] for victim in victims]
        if any(row):
            lines.append(f"{step:{width}}" + "".join(f"  {_cell(each):>10}" for each in row))
    sums = [[e for e in killed if e.victim == victim] for victim in victims]
    lines.append(f"{'all':{width}}" + "".join(f"  {_cell(each):>10}" for each in sums))
    wrong = sum(bool(each.complaints) for each in outcomes)
    calls = sum(each.requests for each in outcomes)
    lines += [
        "",
        f"{len(outcomes)} runs, {len(killed)} kills, {wrong} with something wrong, {calls} requests"
        " made meanwhile. A cell: kills, and the mean seconds until all was right.",
    ]
    return "\n".join(lines)


def _cell(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "-"
    return f"{len(outcomes)}: {statistics.mean(each.converged for each in outcomes):.1f} s"


def write(outcomes: Sequence[Outcome], runtime: str, commit: str) -> None:
    """Into ``bench/results/chaos_<runtime>.{txt,json}``: the table, and every run."""
    told = {
        "chaos": runtime,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "machine": machine(),
        "runs": sorted(outcomes, key=lambda each: each.seed),
    }
    heading = f"chaos, {runtime} · {told['date']} · commit {told['commit']} · {told['machine']}\n\n"
    (RESULTS / f"chaos_{runtime}.txt").write_text(heading + table(outcomes) + "\n")
    text = msgspec.json.encode(told)
    (RESULTS / f"chaos_{runtime}.json").write_bytes(msgspec.json.format(text, indent=1) + b"\n")
