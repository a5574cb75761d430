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
    "listing",
    "zeroloss",
    "rollback",
    "asynchronous",
    "quiet",
    "year",
)
ON_DOCKER = ("docker_push", "docker_fifty", "docker_start", "docker_idle", "docker_quiet")


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
    options = parser.parse_args()
    names = options.names or BENCHES + ON_DOCKER
    if unknown := set(names) - set(BENCHES + ON_DOCKER):
        parser.error(
            f"there is no {', '.join(sorted(unknown))}: choose of {', '.join(BENCHES + ON_DOCKER)}"
        )
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    logging.configure("bench")
    failed = []
    commit = harness.commit()
    for name in names:
        print(f"measuring: {name} …", flush=True)
        try:
            measure = importlib.import_module(f"bench.{name}").run
            # A year is replayed once, however often others are repeated.
            result = measure(options.releases if name == "year" else options.repeat)
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
