"""git's plumbing on one of our bare repositories: trees read and made folder by folder, bounded.

What was pushed may be a "git bomb": a few small trees that name one another and unfold to millions
of files. So nothing here walks below the path that it is asked for, there is no index, git has
bounded memory, and what it says goes to files of bounded size.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from core.errors import SlipwayError
from core.settings import Settings
from gateway import bare

SECONDS = 60.0
"""For all that is asked of one ``Git``."""
MAX_OUTPUT = 16 * 2**20
"""Bytes that one command may say, or write into one file."""
_MEMORY = 2**29
"""Bytes of data that git may allocate: a delta can unfold to anything."""
_LIMITED = ("prlimit", f"--data={_MEMORY}", f"--fsize={MAX_OUTPUT}", "--core=0", "--")


class Git:
    """git on the repository at ``path``, for ``SECONDS``.

    Methods raise SlipwayError where git fails or meets a bound, subprocess.TimeoutExpired where the
    time is over. An *entry* is ``<mode> <type> <id>``, b'' where there is nothing.
    """

    def __init__(self, settings: Settings, path: Path) -> None:
        self._path = path
        self._until = time.monotonic() + SECONDS
        # ':(glob)**' is a file's name here.
        self._env = {**bare.environment(settings, path), "GIT_LITERAL_PATHSPECS": "1"}

    def run(
        self, *arguments: str | bytes, input_: bytes = b"", env: Mapping[str, str] | None = None
    ) -> str:
        """What it says, without the line's end."""
        return self.data(*arguments, input_=input_, env=env).decode().strip()

    def data(
        self, *arguments: str | bytes, input_: bytes = b"", env: Mapping[str, str] | None = None
    ) -> bytes:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            done = subprocess.run(
                [*_LIMITED, "git", *arguments],
                cwd=self._path,
                env={**self._env, **(env or {})},
                input=input_,
                stdout=out,
                stderr=err,
                timeout=max(self._until - time.monotonic(), 0.0),
                check=False,
            )
            out.seek(0)
            err.seek(0)
            if done.returncode:
                told = err.read(500).decode("utf-8", "replace").strip()
                what = f"status {done.returncode}" if done.returncode > 0 else "a bound was met"
                raise SlipwayError(f"git {arguments[0]!s} failed ({what}): {told}")
            return out.read()

    def tree(self, commit: str) -> str:
        return self.run("rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}")

    def entry(self, tree: str, path: str) -> bytes:
        """What is at a normalised path below a tree; at '.' it is the tree itself."""
        if path == ".":
            return b"040000 tree " + tree.encode()
        listed = self.data("ls-tree", "-z", "--full-tree", tree, "--", path.encode())
        return listed.partition(b"\t")[0]

    def file(self, tree: str, path: str, most: int) -> bytes:
        """A file of at most so many bytes. A folder, a link, or a larger file is an error."""
        mode, _, rest = self.entry(tree, path).decode().partition(" ")
        kind, _, id_ = rest.partition(" ")
        if kind != "blob" or not mode.startswith("100"):
            raise SlipwayError(f"{path!r} is no file")
        if int(self.run("cat-file", "-s", id_)) > most:
            raise SlipwayError(f"{path!r} is larger than {most} bytes")
        return self.data("cat-file", "blob", id_)

    def replaced(self, tree: str, path: str, entry: bytes) -> str:
        """Writes the tree that has ``entry`` at ``path``, or nothing there; '' for an empty one,
        as git keeps no empty folders. ``tree`` may be '', too."""
        name, _, below = path.partition("/")
        listed = self.data("ls-tree", "-z", "--full-tree", tree) if tree else b""
        rows = {
            key: value
            for value, _, key in (row.partition(b"\t") for row in listed.split(b"\0"))
            if key
        }
        here = rows.pop(name.encode(), b"")
        if below:
            _, kind, id_ = here.split(b" ") if here else (b"", b"tree", b"")
            if kind != b"tree":
                raise SlipwayError(f"{name!r} is no folder any more")
            inner = self.replaced(id_.decode(), below, entry)
            entry = b"040000 tree " + inner.encode() if inner else b""
        if entry:
            rows[name.encode()] = entry
        made = b"".join(b"%s\t%s\0" % (value, key) for key, value in rows.items())
        return self.run("mktree", "-z", input_=made) if made else ""
