"""Named steps of a release at which tests stop a process to kill it, or another one, just there.

For tests alone: ``at`` does nothing unless the supervisor was started with the environment variable
``TEST_FAILPOINTS_OF_SLIPWAY``, which is no setting, and which no repository and no request can set.
It names a folder; how the two sides speak there:

    <folder>/<step>           the test wants whoever gets to this step next to stand still
    <folder>/<step>.reached   that one's pid: it stands there
    <folder>/<step>.go        the test lets it go on, where it was another one that was killed
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "TEST_FAILPOINTS_OF_SLIPWAY"
STANDS = 15.0
"""Seconds after which it goes on by itself."""

STEPS = {
    "push-stored": "gateway: git has stored the push; nothing else knows of it",
    "release-created": "gateway: the release is in the store; nobody was told to build it",
    "turn-taken": "gateway, worker: the release has its repository's turn, but no job",
    "enqueued": "gateway, worker: its job is on the queue",
    "job-begun": "worker: the lease is held, the release is still queued",
    "checked-out": "worker: the commit is in the mirror",
    "planned": "worker: the stack files are read, the keys of builds are known",
    "context-written": "worker: one function's files lie in the work folder",
    "assembled": "worker: one function is built, not tested",
    "tested": "worker: its tests passed",
    "published": "worker: the artifact is stored; the store does not know it",
    "artifact-saved": "worker: the store knows it",
    "failing": "worker: the build failed; the release does not say so",
    "handing-over": "worker: all is built; the gateway was not told",
    "artifacts-put": "gateway: the artifacts are staged; the worker was not told",
    "handed-over": "worker: it was told; the lease is still held",
    "cancelled": "gateway: the release is cancelled; what waited behind it was not begun",
    "start-asked": "controller: a replica is to be started; nothing of it is there",
    "document-written": "controller, process: its document is there, its process is not",
    "container-created": "controller, docker: its container is there, and does not run",
    "replica-started": "controller: it runs; nobody has asked for its health",
    "replica-healthy": "controller: it answers",
    "failing-start": "controller: a replica cannot be had; the release does not say so",
    "switched": "controller: the release is the desired state; the routes are the old ones",
    "routes-prepared": "controller: the edge has the new map beside the old one",
    "routes-moved": "controller: the edge has switched; nobody was told",
    "routes-told": "controller: the store was told",
    "live-said": "controller: the release is live",
    "receipt-written": "controller: its receipt is written",
    "old-asked": "controller: an old replica was asked to end",
    "old-ended": "controller, process: it ended; its folder, socket and secrets are there",
    "container-ended": "controller, docker: it ended; its container is there",
    "old-removed": "controller: all of it is gone",
    "cooled": "controller: what was replaced is kept warm no more; it runs",
    "watch-kept": "controller: a watched release is kept",
    "given-back": "controller: a watched release is taken back; the routes are its own",
    "rollback-created": "gateway: a rollback is in the store; whoever asked was not told",
    "rollback-switched": "controller: it is the desired state; the routes are the old ones",
    "rollback-done": "controller: it is done",
}
"""Name → who gets there, and what is done then. A test holds this table against the code and
against the one in docs/architecture.md."""

_FOLDER = os.environ.get(VARIABLE, "")


def at(step: str) -> None:
    """Stands still for as long as a test wants it to; else does nothing."""
    if _FOLDER:
        _stand(Path(_FOLDER), step)


def _stand(folder: Path, step: str) -> None:
    try:
        (folder / step).rename(folder / f".{step}")  # of several that get there, one
    except FileNotFoundError:
        return
    (folder / f".{step}").write_text(str(os.getpid()))
    (folder / f".{step}").rename(folder / f"{step}.reached")
    over = time.monotonic() + STANDS
    while time.monotonic() < over and not (folder / f"{step}.go").exists():
        time.sleep(0.005)
