"""Bare git repositories made by the real git, with commits that no careful user would make."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE, EXECUTABLE, LINK, SUBMODULE = "100644", "100755", "120000", "160000"

Content = bytes | str | tuple[str, bytes | str]
"""A file's content; or (mode, content); a submodule's content is its commit id."""

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
}


class BareRepository:
    """A bare repository in ``path``, made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.git("init", "--quiet", "--bare", "--initial-branch=main", str(path))

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        run = subprocess.run(
            ["git", *arguments],
            cwd=self.path if self.path.exists() else self.path.parent,
            env=_ENVIRONMENT,
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr.decode()
        return run.stdout.decode().strip()

    def commit(
        self, files: Mapping[str, Content], *, branch: str = "main", on_top: bool = True
    ) -> str:
        """Commits exactly these files to a branch; returns the commit's id."""
        said = [f"commit refs/heads/{branch}".encode(), b"committer A <a@example.com> 1 +0000"]
        said += [b"data 1", b"m"]
        if on_top and self.git("for-each-ref", f"refs/heads/{branch}"):
            said.append(f"from refs/heads/{branch}^0".encode())
        said.append(b"deleteall")
        for path, content in files.items():
            mode, data = content if isinstance(content, tuple) else (FILE, content)
            raw = data.encode() if isinstance(data, str) else data
            name = path.encode("utf-8", "surrogateescape")
            if mode == SUBMODULE:
                said.append(b"M %s %s %s" % (mode.encode(), raw, name))
            else:
                said.append(b"M %s inline %s\ndata %d\n%s" % (mode.encode(), name, len(raw), raw))
        self.git(
            "fast-import", "--quiet", "--force", "--done", stdin=b"\n".join([*said, b"done\n"])
        )
        return self.git("rev-parse", f"refs/heads/{branch}")

    def blob(self, data: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=data)

    def tree(self, entries: Sequence[tuple[str, bytes, str]]) -> str:
        """Writes a tree of (mode, name, id) as it stands: git's own checks are passed by."""
        raw = b"".join(
            mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries
        )
        return self.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", stdin=raw)

    def commit_tree(self, tree: str, *, branch: str = "main") -> str:
        commit = self.git("commit-tree", tree, "-m", "m")
        self.git("update-ref", f"refs/heads/{branch}", commit)
        return commit
