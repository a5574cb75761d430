"""``python -m bench [--repeat N] [name…]``: measures, prints a table, writes bench/results/.

Exit status: 0 measured (whether or not the aims are met: the table says so), 1 a bench could not
be run, 2 usage.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from bench import figures, harness
from bench.harness import BenchError
from core import logging

BENCHES = (
    "push",
    "fifty",
    "hundredfifty",
    "edge",
    "start",
    "forked",
    "stream",
    "follow",
    "hooks",
    "converge",
    "listing",
    "zeroloss",
    "rollback",
    "asynchronous",
    "quiet",
    "asleep",
    "scaling",
    "empty",
    "sleepers",
    "year",
)
ON_DOCKER = (
    "docker_push",
    "docker_fifty",
    "docker_start",
    "docker_idle",
    "docker_asleep",
    "docker_sleepers",
    "docker_quiet",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(BENCHES + ON_DOCKER)}"
    )
    parser.add_argument(
        "--repeat", type=int, default=harness.REPEAT, metavar="N", help="rounds that are measured"
    )
    parser.add_argument(
        "--releases", type=int, default=2200, metavar="N", help="releases that year replays"
    )
    parser.add_argument(
        "--minutes", type=int, default=10, metavar="N", help="how long scaling takes, at least 1"
    )
    parser.add_argument(
        "--max-inflight", type=int, default=0, metavar="N", help="of scaling's function; 0: none"
    )
    options = parser.parse_args()
    names = options.names or BENCHES + ON_DOCKER
    if unknown := set(names) - set(BENCHES + ON_DOCKER):
        parser.error(
            f"there is no {', '.join(sorted(unknown))}: choose of {', '.join(BENCHES + ON_DOCKER)}"
        )
    for each in ("repeat", "releases", "minutes"):
        if getattr(options, each) < 1:
            parser.error(f"--{each} must be at least 1")
    if options.max_inflight < 0:
        parser.error("--max-inflight must be at least 0")
    # These are measured once, however often others are repeated.
    own = {"year": (options.releases,), "scaling": (options.minutes, options.max_inflight)}
    logging.configure("bench")
    failed = []
    commit = harness.commit()
    for name in names:
        print(f"measuring: {name} …", flush=True)
        try:
            measure = importlib.import_module(f"bench.{name}").run
            result = measure(*own.get(name, (options.repeat,)))
        except BenchError as error:
            print(f"{name} could not be measured: {error}\n", file=sys.stderr, flush=True)
            failed.append(name)
        else:
            print(figures.save(name, result, commit), flush=True)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
