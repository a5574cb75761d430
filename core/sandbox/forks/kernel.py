"""System calls that Python 3.11 has no name for, with their numbers from <linux/*.h>.

Those from 424 on have the same number on every architecture. All raise OSError with the call's
name.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

NEWNS, NEWCGROUP, NEWUTS = 0x20000, 0x2000000, 0x4000000
NEWIPC, NEWPID, NEWNET = 0x8000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2

_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _MOUNT_SETATTR = 428, 429, 436, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR = MS_RDONLY | MS_NOSUID | MS_NODEV  # MOUNT_ATTR_* have the same numbers

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 4, 24
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_CAP_VERSION_3 = 0x20080522
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _check("unshare", _libc.unshare(flags))


def setns(namespace: int, kind: int) -> None:
    _check("setns", _libc.setns(namespace, kind))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    texts = (source.encode(), target.encode(), kind.encode() or None)
    result = _libc.mount(*texts, ctypes.c_ulong(flags), data.encode() or None)
    _check(f"mount {target}", result)


def unmount(target: str) -> None:
    """Takes what is mounted there out of the tree, whoever still uses it."""
    _check(f"umount {target}", _libc.umount2(target.encode(), _MNT_DETACH))


def detached_mount(source: str) -> int:
    """A read-only mount of a folder that is nowhere in a tree yet: a descriptor, which may be sent
    to another mount namespace (open_tree(2), Linux 5.2; mount_setattr(2), 5.12)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    tree = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags)
    _check(f"open_tree {source}", tree)
    # struct mount_attr; private, else what is mounted there on the host later would appear in it.
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR, 0, MS_PRIVATE, 0)
    try:
        result = _libc.syscall(
            _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, ctypes.c_size_t(len(attributes))
        )
        _check("mount_setattr", result)
    except OSError:
        os.close(tree)
        raise
    return int(tree)


def attach_mount(tree: int, target: str) -> None:
    """Puts a detached mount into the caller's tree."""
    text = target.encode()
    result = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, text, _MOVE_MOUNT_F_EMPTY_PATH)
    _check(f"move_mount {target}", result)


def close_from(first: int) -> None:
    """Closes every descriptor from ``first`` on."""
    _check("close_range", _libc.syscall(_CLOSE_RANGE, first, ctypes.c_uint(2**32 - 1), 0))


def loopback_up() -> None:
    """Brings up ``lo`` of the caller's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def no_new_privileges() -> None:
    _check("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def empty_bounding_set() -> None:
    """No program that is executed from now on gets a capability. Those that are held stay."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            if capability == 0:
                _check("capbset", -1)
            return  # the kernel knows no more of them


def drop_capabilities(keep: int = 0) -> None:
    """Leaves these (a bit mask) permitted and effective; none is inheritable or ambient."""
    _check("ambient", _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = struct.pack("=Ii", _CAP_VERSION_3, 0)
    low, high = keep & 0xFFFFFFFF, keep >> 32
    _check("capset", _libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)))


def filter_calls(program: bytes) -> None:
    """Loads a seccomp filter: instructions of classic BPF, 8 bytes each."""
    code = ctypes.create_string_buffer(program, len(program))
    told = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    _check("seccomp", _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, told, 0, 0))


def set_dumpable() -> None:
    """What is in /proc/self belongs to the process' user again, as after an exec."""
    _check("dumpable", _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


class Title:
    """The command line as the process list shows it, written over that of the start.

    The argument strings lie one after another on the stack, and glibc keeps where the first one is.
    """

    def __init__(self, argv: list[str]) -> None:
        """``argv``: all that the process was started with."""
        self._at = ctypes.c_void_p.in_dll(_libc, "program_invocation_name").value or 0
        self._room = sum(len(os.fsencode(each)) + 1 for each in argv)

    def set(self, *argv: str) -> None:
        """What does not fit is cut off."""
        text = "\0".join(argv).encode()[: self._room - 1]
        ctypes.memmove(self._at, text.ljust(self._room, b"\0"), self._room)
