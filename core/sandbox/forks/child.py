"""A forked function from the fork to its first instruction.

    process 1, the init        joins its control group, makes what all cells have, says SPARE
                               forks the program ── is told its name ── waits for the program's end
    process 2, the program     gets a cell, makes what is that one's own, says READY
                               gives up root, loads the filter, keeps four descriptors
                               waits for GO ── and is then what ``python3 index.py`` would be

Killed at any point before READY, or refused, nothing is left: the program ends once nobody hears
it, and the init with it. Whoever asked for it dies after READY: both wait for ever, under the name
by which the next controller looks for the init, as bubblewrap does (launch.py). The parent's death
changes nothing. The init ends with the program, and the kernel ends what the program left.

The init stays root's, so that the function can neither trace nor signal it, but without any
capability, under the same filter.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.machinery
import io
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from core.sandbox.forks import kernel

SPARE, READY, GO = b"spare", b"ready", b"go"
MOST_BYTES, MOST_DESCRIPTORS = 2**20, 64
"""Of a cell's document."""
_LISTENER, _ASKED, _HEARS = 3, 4, 3
_REHEARSAL = 10
"""Seconds after which a rehearsal that hangs ends its process."""
_HIDDEN = ("sys", "sysrq-trigger", "irq", "bus")
"""What of /proc is the machine's: read-only, as in bubblewrap."""
_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV


@dataclass(frozen=True)
class Program:
    """What every child of a parent runs."""

    argv: list[str]
    main: str
    code: types.CodeType
    rehearsal: Callable[[], None] | None
    """Lets a process that has time do once what it will have to do then."""


def live(
    descriptors: list[int], title: kernel.Title, calls: bytes, program: Program, *, ahead: bool
) -> NoReturn:
    """What a forked child does instead of its parent's loop. Never returns.

    ``descriptors``: of the socket to whom asked, and of the control group's in all hierarchies.
    ``calls``: the seccomp program; ``ahead``: nobody waits for it yet.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, *groups = descriptors
    try:
        for group in groups:
            os.write(group, b"0")  # ourselves
        os.setsid()
        _isolate()
        within, without = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if not _tell(asked, SPARE):
            os._exit(0)
        pid = os.fork()
    except BaseException as error:
        _refuse(asked, error)
    if pid:
        without.close()
        _watch(pid, within, title, calls)
    within.close()
    if ahead and program.rehearsal:
        signal.alarm(_REHEARSAL)
        program.rehearsal()
        signal.alarm(0)
    _be(asked, without, title, calls, program)


def _watch(pid: int, program: socket.socket, title: kernel.Title, calls: bytes) -> NoReturn:
    """The init's life: hears whose it is, collects orphans, and ends when the program does."""
    null = os.open("/dev/null", os.O_RDWR)
    _take((0, null), (1, null), (2, null), (_HEARS, program.detach()))
    hears = socket.socket(fileno=_HEARS)
    name, descriptors, _, _ = socket.recv_fds(hears, 4096, 1)
    if not name:
        os._exit(0)  # the program ended before it was anybody's
    title.set(name.decode())
    kernel.drop_capabilities()
    kernel.filter_calls(calls)
    hears.send(name)
    hears.close()
    while True:
        ended, how = os.waitpid(-1, 0)
        if ended == pid:
            break
    code = os.waitstatus_to_exitcode(how)
    for status in descriptors:
        told = json.dumps({"exit-code": code if code >= 0 else 128 - code})
        os.write(status, f"{told}\n".encode())  # in bubblewrap's form: launch.exit_status
    os._exit(0)


def _be(
    asked: int, init: socket.socket, title: kernel.Title, calls: bytes, program: Program
) -> NoReturn:
    """The program's way to its own code."""
    try:
        cell, given = _await_cell(asked)
        socket.send_fds(init, [cell["title"].encode()], [given[x] for x in given if x == "status"])
        init.recv(4096)  # it has its name: from now on we are found
        init.close()
        _fit(cell, given)
        if not _tell(asked, READY):
            os._exit(1)
        # While that is written down: no code of the function's yet.
        kernel.unshare(kernel.NEWCGROUP)  # after it has joined: its own is the top
        output = given["output"]
        _take(
            (0, os.open("/dev/null", os.O_RDWR)),
            (1, output),
            (2, output),
            *((_LISTENER, given[name]) for name in given if name == "listener"),
            (_ASKED, asked),
        )
        asked = _ASKED
        _give_up_root(cell["uid"])
        kernel.filter_calls(calls)
        _freshen(cell, program)
    except BaseException as error:
        _refuse(asked, error)
    while os.read(asked, 16) != GO:
        signal.pause()  # an end, not a word: whoever finds us ends us
    os.closerange(_LISTENER if "listener" not in given else _ASKED, _ASKED + 1)
    title.set(*program.argv)
    _become(program)


def _await_cell(asked: int) -> tuple[dict[str, Any], dict[str, int]]:
    """The document, and its descriptors by name; ends this process if there will be none."""
    with socket.socket(fileno=os.dup(asked)) as conversation:
        document, descriptors, _, _ = socket.recv_fds(conversation, MOST_BYTES, MOST_DESCRIPTORS)
    if not document:
        os._exit(0)
    cell = json.loads(document)
    return cell, dict(zip(cell["descriptors"], descriptors, strict=True))


def _refuse(asked: int, error: BaseException) -> NoReturn:
    _tell(asked, f"{type(error).__name__}: {error}"[:1000].encode())
    os._exit(1)


def _tell(asked: int, what: bytes) -> bool:
    """False: nobody is there any more."""
    try:
        os.write(asked, what)
    except OSError:
        return False
    return True


def _take(*pairs: tuple[int, int]) -> None:
    """Descriptors under their new numbers, and no others: (new, old)."""
    # First out of the way: an old number may be another one's new one.
    above = [(new, fcntl.fcntl(old, fcntl.F_DUPFD, 10)) for new, old in pairs]
    for new, old in above:
        os.dup2(old, new)
    kernel.close_from(1 + max(new for new, _ in above))


def _isolate() -> None:
    """Namespaces and mounts that all cells have alike."""
    kernel.unshare(kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS)
    kernel.mount("proc", "/proc", "proc", _FLAGS | kernel.MS_NOEXEC)
    for name in _HIDDEN:
        place = f"/proc/{name}"
        if os.path.exists(place):  # noqa: PTH110
            kernel.mount(place, place, flags=kernel.MS_BIND)
            fixed = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
            kernel.mount("", place, flags=fixed | _FLAGS | kernel.MS_NOEXEC)
    flags = kernel.MS_NOSUID | kernel.MS_NOEXEC
    kernel.mount("devpts", "/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=620")


def _fit(cell: dict[str, Any], given: dict[str, int]) -> None:
    """What is this cell's own, and has to be root's to make."""
    if "network" in given:
        kernel.setns(given["network"], kernel.NEWNET)
    else:
        kernel.unshare(kernel.NEWNET)
        kernel.loopback_up()
    socket.sethostname(cell["hostname"])
    _write_etc(cell["files"])
    for folder in ("/tmp", "/dev/shm"):
        kernel.mount("tmpfs", folder, "tmpfs", _FLAGS, f"mode=1777,size={cell['tmp_size']}")
    for target in cell["mounts"]:
        kernel.attach_mount(given[target], target)
    os.chdir(cell["cwd"])
    with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(cell["oom_score_adj"])
    for name, most in cell["limits"].items():
        limit = getattr(resource, name)
        _, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(limit, (most, most))


def _write_etc(files: dict[str, str]) -> None:
    """Files of the cell's own, each bound over an empty one of the parent's; not writable, as the
    file system that they lie in is not any more. It lies where its own /tmp will cover it: to take
    it away would wait for the kernel's other processors."""
    kernel.mount("tmpfs", "/tmp", "tmpfs", _FLAGS, "mode=0755,size=256k")
    for number, text in enumerate(files.values()):
        file = os.open(f"/tmp/{number}", os.O_WRONLY | os.O_CREAT, 0o444)
        os.write(file, text.encode())
        os.fchmod(file, 0o444)  # whatever the umask is
        os.close(file)
    kernel.mount("", "/tmp", flags=kernel.MS_REMOUNT | kernel.MS_RDONLY | _FLAGS)
    for number, target in enumerate(files):
        kernel.mount(f"/tmp/{number}", target, flags=kernel.MS_BIND)


def _give_up_root(uid: int) -> None:
    """As setpriv does; the bounding set was the parent's to empty. Raises OSError."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    kernel.set_dumpable()


def _freshen(cell: dict[str, Any], program: Program) -> None:
    """What an interpreter has of its start, made as if it had started now.

    ``random`` and ``threading`` have seen to themselves at the fork; ``tempfile`` and OpenSSL know
    by the process id; what the parent never asked for (``uuid``, ``ssl``, the resolver) has no
    state.
    """
    os.environ.clear()
    os.environ.update(cell["env"])
    time.tzset()
    sys.argv[:] = program.argv[1:]
    sys.orig_argv[:] = program.argv
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = _renewed(getattr(sys, name), mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if logging := sys.modules.get("logging"):
        logging._startTime = time.time()  # type: ignore[attr-defined]


def _renewed(stream: Any, mode: str) -> Any:
    """A standard stream as the interpreter makes it under PYTHONUNBUFFERED, on its descriptor."""
    raw: Any = io.FileIO(stream.fileno(), mode, closefd=False)
    raw.name = stream.name
    text: Any = io.TextIOWrapper(
        io.BufferedReader(raw) if mode == "r" else raw,
        stream.encoding,
        stream.errors,
        newline=None if mode == "r" else "\n",
        write_through=True,
    )
    text.mode = mode
    return text


def _become(program: Program) -> NoReturn:
    """Runs the program's file as ``__main__``; from here on all code is the function's."""
    main = types.ModuleType("__main__")
    main.__file__ = program.main
    main.__dict__["__builtins__"] = __builtins__
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", program.main)
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(program.code, main.__dict__)
    except SystemExit as error:
        status = _exit_code(error)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    _end(status)


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _end(status: int) -> NoReturn:
    """As the interpreter's own end: it waits for threads, then what asked to be told is told."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
