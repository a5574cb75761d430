"""The system calls that no cell may make, as a seccomp program.

What is not named here passes: functions are ordinary programs in languages we do not choose. What
is named reaches parts of the kernel that no namespace fences (AF_VSOCK, io_uring, keyrings, BPF),
gives back what the sandbox took (user namespaces, mounts), or looks into other processes. The
program is for the machine's own architecture; calls of another one (32-bit, x32) end the process.

The filter is loaded before privileges are dropped, so setuid, setgroups and capset pass; the
kernel refuses them once the capabilities are gone.
"""

from __future__ import annotations

import errno
import functools
import os

from core.errors import ConfigError

# clone(2) and unshare(2) flags of <linux/sched.h>: every kind of new namespace.
_NAMESPACES = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
_CLONE_FLAGS = _NAMESPACES[1:]  # in clone(2) the lowest byte is the exit signal

_DENIED = (
    # mounts and namespaces
    *("mount", "umount2", "pivot_root", "chroot", "setns", "open_tree", "move_mount", "fsopen"),
    *("fsconfig", "fsmount", "fspick", "mount_setattr"),
    # rings, keyrings and other parts of the kernel that know no namespace
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "request_key", "keyctl"),
    *("bpf", "perf_event_open", "userfaultfd", "fanotify_init", "lookup_dcookie", "nfsservctl"),
    *("name_to_handle_at", "open_by_handle_at"),
    # other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "move_pages"),
    "migrate_pages",
    # the machine itself
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot"),
    *("acct", "swapon", "swapoff", "quotactl", "quotactl_fd", "syslog", "vhangup"),
    *("settimeofday", "clock_settime", "clock_adjtime", "sethostname", "setdomainname"),
    *("iopl", "ioperm", "modify_ldt", "personality", "uselib", "ustat", "sysfs"),
)

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_FAMILIES = (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_LOW_HALF = 0xFFFFFFFF  # the kernel looks at 32 bits of an int argument, a register has 64


@functools.cache
def program() -> bytes:
    """Returns the filter as BPF instructions, as ``bwrap --seccomp`` reads them.

    Raises:
        ConfigError: libseccomp is missing, or too old to know a system call that must be denied.
    """
    try:
        import pyseccomp as sc
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "libseccomp is missing, and without its filter functions are not fenced in: "
            "apt-get install libseccomp2"
        ) from error

    refuse = sc.ERRNO(errno.EPERM)
    no_family = sc.ERRNO(errno.EAFNOSUPPORT)
    rules = sc.SyscallFilter(sc.ALLOW)
    try:
        for call in _DENIED:
            rules.add_rule(refuse, call)
        # Callers of clone3 fall back to clone, whose flags a filter can read.
        rules.add_rule(sc.ERRNO(errno.ENOSYS), "clone3")
        for flag in _CLONE_FLAGS:
            rules.add_rule(refuse, "clone", sc.Arg(0, sc.MASKED_EQ, flag, flag))
        for flag in _NAMESPACES:
            rules.add_rule(refuse, "unshare", sc.Arg(0, sc.MASKED_EQ, flag, flag))
        for call in ("socket", "socketpair"):
            # Greater-than sees all 64 bits: a family hidden above the lower half is refused too.
            rules.add_rule(no_family, call, sc.Arg(0, sc.GT, max(_FAMILIES)))
            for family in set(range(max(_FAMILIES))) - set(_FAMILIES):
                rules.add_rule(no_family, call, sc.Arg(0, sc.EQ, family))
            # Of netlink only routes (protocol 0), which listing one's own addresses needs.
            rules.add_rule(no_family, call, sc.Arg(0, sc.EQ, _AF_NETLINK), sc.Arg(2, sc.NE, 0))
        for request in _TERMINAL_INJECTION:
            rules.add_rule(refuse, "ioctl", sc.Arg(1, sc.MASKED_EQ, _LOW_HALF, request))
    except OSError as error:
        raise ConfigError(
            f"libseccomp cannot write the filter ({error}): it is probably older than 2.5; "
            "apt-get install --only-upgrade libseccomp2"
        ) from error
    with os.fdopen(os.memfd_create("seccomp"), "w+b") as out:
        rules.export_bpf(out)
        out.seek(0)
        return out.read()
