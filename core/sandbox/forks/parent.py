"""A warm parent: has imported what functions of one owner and one template begin with, and forks.

Runs as root in bubblewrap, in mounts that are a cell's without what is the function's own, in an
empty network; holds only the capabilities that its children need for namespaces, mounts and their
user. It parses nothing: a request is a packet of descriptors, and the function's document goes to
the child alone, so that nothing of one function comes into the memory of the next.

What could be reached here: the socket on CONTROL, whose other end only the controller has, and the
code that is imported while it warms up, all of it the platform's own. Functions are children of its
children: they have neither its descriptors nor its user nor a process id for it, and share with it
only pages that either side copies before it writes.

Ends when the controller does: its socket comes to an end. Functions go on.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from core.sandbox.forks import child, kernel

CONTROL, OWN_PIDS, SEED, CALLS, GROUPS = 3, 4, 5, 6, 30
"""Descriptors it is started with: the socket, the pid namespace that it is in, what it is made of
as JSON, the seccomp program of its children, the first of those by which it joins its group.
"""
WARM, FORK, AHEAD = b"warm", b"fork", b"ahead"
"""What is said on the socket: by the parent; to it, for a cell that waits, or for one to come."""
_MOST_DESCRIPTORS = 16
"""Of one request: a socket, and a control group in each hierarchy."""
CODE = "/run"
"""Where this package lies until it is imported."""

Live = Callable[[list[int], bool], object]
"""What a child does with its descriptors; whether it was forked ahead."""

# Of <linux/capability.h>: SETGID, SETUID, SETPCAP, NET_ADMIN (the loopback), SYS_ADMIN.
_CAPABILITIES = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 21


def main() -> None:
    """Warms up, says so and forks until the socket ends.

    Raises:
        OSError, ImportError, SyntaxError: it cannot be; told on stderr, and nobody forks.
    """
    title = kernel.Title(sys.orig_argv)
    seed = json.loads(_read(SEED))
    for group in seed["groups"]:
        os.write(group, b"0")  # ourselves
    title.set(seed["title"])
    kernel.no_new_privileges()
    kernel.empty_bounding_set()
    kernel.drop_capabilities(keep=_CAPABILITIES)
    kernel.mount("", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    if os.getpid() <= 2:
        # OpenSSL knows by its process id that it was forked, and a program's is always 2.
        raise OSError("a parent must not have the process id of its children")
    calls = _read(CALLS)
    for descriptor in (SEED, CALLS, *seed["groups"]):
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries its children
    program = _warm(seed)
    control = socket.socket(fileno=CONTROL)
    control.set_inheritable(False)
    control.send(WARM)
    _serve(control, lambda fds, ahead: child.live(fds, title, calls, program, ahead=ahead))


def _warm(seed: dict[str, Any]) -> child.Program:
    """Imports all there is to import, as the function would: from the same paths."""
    home = seed["cwd"]
    os.chdir(home)
    kernel.unmount(CODE)
    sys.path[0] = home
    for name in [name for name in sys.modules if name.partition(".")[0] == "core"]:
        del sys.modules[name]  # a function's own package of that name is to be found
    for name in seed["imports"]:
        importlib.import_module(name)
    main = f"{home}/{seed['main']}"
    with open(main, "rb") as file:  # noqa: PTH123 - pathlib is not everybody's
        code = compile(file.read(), main, "exec", dont_inherit=True)
    # What the file imports stays; what it defines is defined anew in the function.
    defined = {"__name__": "__warming__", "__file__": main, "__builtins__": __builtins__}
    exec(code, defined)
    rehearse = None
    if seed["rehearsal"]:
        rehearse = importlib.import_module(seed["rehearsal"]).rehearse
    for place in [each for each in sys.path_importer_cache if not each.startswith(sys.prefix)]:
        del sys.path_importer_cache[place]  # other files will lie there
    importlib.invalidate_caches()
    gc.collect()
    gc.freeze()  # so that a later collection does not write to pages that are shared
    rehearsal = (lambda: rehearse(defined["adapt"])) if rehearse else None
    return child.Program(argv=seed["argv"], main=main, code=code, rehearsal=rehearsal)


def _serve(control: socket.socket, live: Live) -> None:
    """Forks for each packet that comes, until there are none."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 16, _MOST_DESCRIPTORS)
        if not data:
            return
        try:
            _fork(control, descriptors, data == AHEAD, live)
        except OSError as error:
            _refuse(descriptors, str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _fork(control: socket.socket, descriptors: list[int], ahead: bool, live: Live) -> None:
    """A child that is process 1 of a pid namespace of its own; this process stays in its own."""
    kernel.unshare(kernel.NEWPID)
    try:
        pid = os.fork()
        if not pid:
            control.close()  # else its other end would not hear of this process' death
            live(descriptors, ahead)
            os._exit(1)
    finally:
        kernel.setns(OWN_PIDS, kernel.NEWPID)


def _refuse(descriptors: list[int], reason: str) -> None:
    with contextlib.suppress(OSError, IndexError):  # nobody waits for it any more
        os.write(descriptors[0], reason.encode())


def _read(descriptor: int) -> bytes:
    """All of a memory file."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


if __name__ == "__main__":
    main()
