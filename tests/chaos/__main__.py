"""``python -m tests.chaos``: many runs, on several installations side by side; goes on where it
broke off."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from bench.harness import commit
from tests.chaos import report
from tests.chaos.campaign import campaign
from tests.chaos.run import Outcome
from tests.chaos.scenario import sample


def main() -> int:
    arguments = _arguments()
    ran = commit()
    kept = Path(f".pytest_cache/chaos-{arguments.runtime}-{arguments.seed}-{arguments.runs}.jsonl")
    if arguments.sample:
        seeds = list(sample(arguments.sample, arguments.runtime))
    else:
        seeds = list(range(arguments.seed, arguments.seed + arguments.runs))
    resumable = arguments.runs > 1 and not arguments.sample
    done = _read(kept) if resumable else []

    def note(outcome: Outcome) -> None:
        done.append(outcome)
        print(report.line(outcome, len(done), len(seeds)), flush=True)
        if resumable:
            kept.parent.mkdir(exist_ok=True)
            with kept.open("ab") as out:
                out.write(msgspec.json.encode(outcome) + b"\n")

    before = {each.seed for each in done}
    left = [seed for seed in seeds if seed not in before]
    campaign(left, arguments.runtime, arguments.platforms, note)
    print(report.table(done))
    if arguments.write and len(done) == len(seeds):
        report.write(done, arguments.runtime, ran)
        kept.unlink(missing_ok=True)
    bad = [each for each in done if each.complaints]
    for each in bad:
        print(f"again: python -m tests.chaos --runtime {arguments.runtime} --seed {each.seed}")
    return 1 if bad or len(done) < len(seeds) else 0


def _read(kept: Path) -> list[Outcome]:
    if not kept.exists():
        return []
    return [msgspec.json.decode(line, type=Outcome) for line in kept.read_bytes().splitlines()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, from --seed on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, help="so many seeds in which all victims occur")
    parser.add_argument("--platforms", type=int, default=1, help="installations side by side")
    parser.add_argument("--runtime", choices=["process", "docker"], default="process")
    parser.add_argument("--write", action="store_true", help="the result into bench/results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
