"""What git says where a repository cannot be fetched, and what we say of it: cause and remedy."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from builder.hardened_git import GitFailed, HardenedGit
from core.errors import CheckoutFailed


class Unclear(CheckoutFailed):
    """Git failed for a reason that it did not name: the mirror may be damaged."""


class NotServed(CheckoutFailed):
    """The server does not serve a single commit by its id, or not at depth 1."""


class NotThere(CheckoutFailed):
    """The server has no such commit, or shows it no more."""


def run(git: HardenedGit, url: str, *command: str) -> str:
    """One git command that speaks with ``url``; what it said on stdout.

    Raises:
        CheckoutFailed: with the cause; ``retryable`` where the network is to blame.
    """
    try:
        return str(git.execute(["git", *command]))
    except subprocess.TimeoutExpired as error:
        told = f"{shown(url)} took longer than {error.timeout:g} s to send the commit"
        failed = CheckoutFailed(f"{told}: try again, or make the repository smaller")
        failed.retryable = True
        raise failed from None  # the command line may hold what must not be shown
    except GitFailed as error:
        # Git names the mirror by its path, which is nobody's business and no cause.
        stderr = error.stderr.replace(str(git.working_dir), "the mirror")
        raise _failure(url, stderr) from None


TOO_LARGE = "is larger than this server takes (SLIPWAY_MAX_PUSH): remove large files"
_UNREACHED = "cannot be reached now: it is tried again, or check the forge and the network"
_CAUSES: list[tuple[str, str, type[CheckoutFailed], bool]] = [
    # What git says (matched in this order), what we say of the URL, as what, worth a retry.
    (r"signal 25|File too large|size limit exceeded", TOO_LARGE, CheckoutFailed, False),
    (r"Out of memory|malloc failed|mmap failed", TOO_LARGE, CheckoutFailed, False),
    (r"No space left on device", "does not fit on this server's disk", CheckoutFailed, True),
    (
        r"unadvertised object|does not support shallow|shallow capabilities",
        "does not have the commit on its branch: was it replaced by a forced push?",
        NotServed,
        False,
    ),
    (
        r"not our ref|couldn't find remote ref",
        "does not have the commit: was it replaced by a forced push?",
        NotThere,
        False,
    ),
    (
        r"fsck error|error in (object|tree|commit|blob)|inflate|pack has (bad|junk)|bad pack|"
        r"pack signature mismatch|pack is corrupted|SHA1 COLLISION|invalid index-pack output",
        "sent objects that do not pass git's checks (see 'git fsck'): repair the repository",
        CheckoutFailed,
        False,
    ),
    (
        r"Authentication failed|could not read (Username|Password)|returned error: 40[13]|"
        r"terminal prompts disabled|Access denied",
        "asks for credentials: it is private or does not exist, or access was not given to us",
        CheckoutFailed,
        False,
    ),
    (
        r"redirect|returned error: 30\d",
        "answers with a redirect, which is not followed: the repository was renamed or moved",
        CheckoutFailed,
        False,
    ),
    (
        r"returned error: 404|[Rr]epository .*not found|does not appear to be a git repository|"
        r"does not exist|not a git repository: '/",
        "was not found: check that it exists and that we may see it",
        CheckoutFailed,
        False,
    ),
    (r"transport '.*' not allowed", "uses a protocol that is not allowed", CheckoutFailed, False),
    (
        r"Could not resolve|Failed to connect|Couldn't connect|[Cc]onnection|timed? ?out|"
        r"early EOF|hung up|RPC failed|unexpected disconnect|returned error: (429|5\d\d)|"
        r"too slow|SSL|TLS|certificate|gnutls|Recv failure|Empty reply",
        _UNREACHED,
        CheckoutFailed,
        True,
    ),
]


def _failure(url: str, stderr: str) -> CheckoutFailed:
    """Git's own words put into an error with cause and remedy."""
    said = _told(stderr)
    for pattern, text, kind, retryable in _CAUSES:
        if re.search(pattern, stderr):
            error = kind(f"{shown(url)} {text}. Git says: {said}")
            error.retryable = retryable
            return error
    return Unclear(f"git could not fetch {shown(url)}: {said}")


def _told(stderr: str, length: int = 300) -> str:
    """The lines that say what is wrong, without what a URL or a header may carry of secrets."""
    text = re.sub(r"(?i)(authorization:\s*)[^\n]*", r"\1…", stderr)
    text = re.sub(r"://[^/@\s']*@", "://", text)
    lines = [line.strip(" '") for line in text.splitlines()]
    chosen = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))] or lines
    return "".join(c if c.isprintable() else " " for c in " | ".join(chosen))[-length:] or "nothing"


def shown(url: str) -> str:
    """A URL as an error may show it: a path of our own machine by its last two parts."""
    return url[:300] if "://" in url else "/".join(Path(url).parts[-2:])
