"""A rollback as a commit of our own git remote, on the branch ``slipway/rollback-<id>``: merged, it
has the keys of what serves already, and nothing is built.

Of a repository it is the tree of the release that serves again, on top of the deploy branch's head.
Of one function it is the head's tree with this function's folders and its entry in the stack file
as they were. Where that does not come out as the same inputs, because a file is shared with other
functions, there is no branch.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from redis.exceptions import RedisError

from core import logging
from core.errors import SlipwayError
from core.models import Rollback
from core.settings import Settings
from core.stackfile import STACK_FILES, StackFunction, read
from core.store import Store
from gateway import bare

PREFIX = "slipway/rollback-"
_WHO = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Slipway"), ("EMAIL", "slipway@localhost"))
}
_MAX_STACK = 2**20

log = logging.get()


def write(settings: Settings, store: Store, rollback: Rollback) -> Rollback:
    """Writes the branch, where the repository is ours; repeating it changes nothing.

    What goes wrong is logged, and the rollback stays as it is: it does not hang on its branch.
    """
    repository = store.repository(rollback.namespace, rollback.repository)
    if repository.source != "git" or rollback.branch or not repository.deploy_branch:
        return rollback
    try:
        git = _Git(settings, bare.existing(settings, rollback.namespace, rollback.repository))
        head = git.run("rev-parse", "--verify", f"refs/heads/{repository.deploy_branch}^{{commit}}")
        target = store.release(rollback.to)
        tree = _tree(git, head, target.commit, rollback)
        if not tree or tree == git.run("rev-parse", f"{head}^{{tree}}"):
            return rollback
        what = f"{rollback.function} " if rollback.function else ""
        message = f"Roll back {what}to {target.id}\n\nAs {target.commit}, which serves again.\n"
        commit = git.run("commit-tree", tree, "-p", head, input_=message, env=_WHO)
        branch = f"{PREFIX}{rollback.id}"
        git.run("update-ref", f"refs/heads/{branch}", commit)
        return store.save_rollback_branch(rollback.id, branch)
    except (SlipwayError, OSError, RedisError, subprocess.SubprocessError) as error:
        log.warning("no_rollback_branch", rollback=rollback.id, reason=str(error))
        return rollback


class _Git:
    """git on one of our bare repositories."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._env = bare.environment(settings, path)
        self._path = path

    def run(self, *arguments: str, input_: str = "", env: Mapping[str, str] | None = None) -> str:
        """Raises SlipwayError where git fails."""
        return self.data(*arguments, input_=input_.encode(), env=env).decode().strip()

    def data(
        self, *arguments: str, input_: bytes = b"", env: Mapping[str, str] | None = None
    ) -> bytes:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self._path,
            env={**self._env, **(env or {})},
            input=input_,
            capture_output=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            told = done.stderr.decode("utf-8", "replace").strip()[:500]
            raise SlipwayError(f"git {arguments[0]} failed: {told}")
        return done.stdout

    def files(self, commit: str, path: str) -> bytes:
        """All below a path, as ``update-index --index-info`` reads it."""
        return self.data("ls-tree", "-r", "-z", "--full-tree", commit, "--", path)

    def object(self, commit: str, path: str) -> str:
        """``<mode> <type> <id>`` of a path, or '' where there is none."""
        told = self.run("ls-tree", "--full-tree", commit, "--", path) if path != "." else ""
        return told.partition("\t")[0]

    def read(self, commit: str, path: str) -> bytes:
        """A file that is not larger than a stack file may be, or b''."""
        found = self.object(commit, path).split(" ")
        if len(found) != 3 or found[1] != "blob":
            return b""
        if int(self.run("cat-file", "-s", found[2])) > _MAX_STACK:
            return b""
        return self.data("cat-file", "blob", found[2])


def _removed(git: _Git, commit: str, path: str) -> bytes:
    """What takes all below a path out of the index: entries of mode 0."""
    names = [line.partition(b"\t")[2] for line in git.files(commit, path).split(b"\0") if line]
    return b"".join(b"0 %s\t%s\0" % (b"0" * 40, name) for name in names)


def _tree(git: _Git, head: str, target: str, rollback: Rollback) -> str:
    """The tree to commit, or '' where there is none that has the same inputs."""
    if not rollback.function:
        return git.run("rev-parse", f"{target}^{{tree}}")
    was, now = (_entry(git, each, rollback.function) for each in (target, head))
    if was is None or now is None or was.path != now.path:
        return ""
    with tempfile.TemporaryDirectory(prefix="slipway-index-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git.run("read-tree", head, env=env)
        for path in _inputs(was.function):
            if git.object(head, path) == git.object(target, path):
                continue
            if path == "." or any(_within(path, each) for each in now.others):
                return ""  # shared: the other functions would go back as well
            git.data(
                "update-index",
                "-z",
                "--index-info",
                input_=_removed(git, head, path) + git.files(target, path),
                env=env,
            )
        text = _spliced(now, was)
        if not text:
            return ""
        blob = git.data("hash-object", "-w", "--stdin", input_=text).decode().strip()
        mode = git.object(head, now.path).split(" ")[0]
        git.run("update-index", "--add", "--cacheinfo", f"{mode},{blob},{now.path}", env=env)
        return git.run("write-tree", env=env)


class _Entry(msgspec.Struct):
    """A function in a commit's stack file."""

    path: str
    data: bytes
    function: StackFunction
    others: list[str]
    """Inputs of all other functions of the file."""


def _entry(git: _Git, commit: str, name: str) -> _Entry | None:
    """The stack file that has the function, where it can be read as it stands."""
    listed = git.data("ls-tree", "-r", "--name-only", "-z", "--full-tree", commit).split(b"\0")
    paths = [path.decode("utf-8", "surrogateescape") for path in listed]
    for path in paths:
        if path.rpartition("/")[2] not in STACK_FILES and path not in STACK_FILES:
            continue
        data = git.read(commit, path)
        functions = _functions(data, path)
        for each in functions:
            if each.name == name:
                others = [i for other in functions if other.name != name for i in _inputs(other)]
                return _Entry(path, data, each, others)
    return None


def _functions(data: bytes, path: str) -> list[StackFunction]:
    try:
        found = read(data, path, max_functions=5000, variables={})
    except SlipwayError:
        return []
    return [] if found.mistakes else found.stack.functions


def _inputs(function: StackFunction) -> Iterator[str]:
    yield function.handler
    yield from function.copy
    yield from function.environment_file


def _within(path: str, other: str) -> bool:
    """Whether one of two paths lies in the other, or is it."""
    return other == "." or f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")


def _spliced(now: _Entry, was: _Entry) -> bytes:
    """Today's stack file with the function's lines as they were; b'' where that does not read as
    just this one function changed."""
    if _same(now.function, was.function):
        return now.data
    lines, old = (each.data.splitlines(keepends=True) for each in (now, was))
    begin, end = _block(lines, now.function.lines["name"])
    first, last = _block(old, was.function.lines["name"])
    text = b"".join([*lines[:begin], *old[first:last], *lines[end:]])
    wanted = {each.name: each for each in _functions(now.data, now.path)}
    wanted[was.function.name] = was.function
    found = {each.name: each for each in _functions(text, now.path)}
    right = found.keys() == wanted.keys() and all(_same(found[n], wanted[n]) for n in wanted)
    return text if right else b""


def _same(one: StackFunction, other: StackFunction) -> bool:
    return msgspec.structs.replace(one, lines={}) == msgspec.structs.replace(other, lines={})


def _block(lines: list[bytes], name: int) -> tuple[int, int]:
    """The lines of an entry whose name stands in line ``name``: up to the next one that is not
    further in."""
    begin = name - 1
    depth = _depth(lines[begin])
    end = begin + 1
    while end < len(lines) and (not lines[end].strip() or _depth(lines[end]) > depth):
        end += 1
    return begin, end


def _depth(line: bytes) -> int:
    return len(line) - len(re.sub(rb"^ *", b"", line))
