"""A rollback as a commit of our own git remote, on the branch ``slipway/rollback-<id>``: merged, it
has the keys of what serves already, and nothing is built.

Of a repository it is the tree of the release that serves again, on top of the deploy branch's head.
Of one function it is the head's tree with this function's folders and its entry in the stack file
as they were. Where that does not come out as the same inputs, because a file is shared with other
functions, there is no branch.

Branches are written in a thread of their own, whatever is missing at the time: nobody's rollback
waits for git, and what a gateway that died left the next one writes.
"""

from __future__ import annotations

import posixpath
import re
import threading
from collections.abc import Iterator, Mapping

import msgspec
from redis.exceptions import RedisError

from core import logging
from core.errors import NotFound, SlipwayError
from core.models import Rollback, RollbackState
from core.settings import Settings
from core.stackfile import STACK_FILES, Stack, StackFunction, read
from core.store import Store
from core.yamlnodes import MAX_BYTES
from gateway import bare
from gateway.plumbing import Git

PREFIX = "slipway/rollback-"
EVERY = 60.0
"""Seconds between two looks at what is missing, unless somebody asks for one."""
_WHO = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Slipway"), ("EMAIL", "slipway@localhost"))
}
_YAMLS_OWN_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Where a line ends for YAML, and not for ``bytes.splitlines``."""

log = logging.get()


def watch(settings: Settings, store: Store, asked: threading.Event) -> None:
    """Writes what is missing, for ever, in a thread of its own; at once when it is asked to."""
    while True:
        try:
            write_missing(settings, store)
        except Exception as error:  # the store is away, say
            log.warning("no_rollback_branches", reason=str(error))
        asked.wait(EVERY)
        asked.clear()


def write_missing(settings: Settings, store: Store) -> None:
    """Decides on the branch of every rollback where that is still to be done, oldest first.

    Raises:
        RedisError: the store is away.
    """
    for rollback in reversed(store.rollbacks()):
        if rollback.branch is None:
            try:
                write(settings, store, rollback)
            except NotFound as error:  # forgotten meanwhile
                log.info("no_rollback_branch", rollback=rollback.id, reason=str(error))


def write(settings: Settings, store: Store, rollback: Rollback) -> Rollback:
    """Writes the branch, or notes that there is none; why is logged.

    Raises:
        NotFound: the rollback is not there any more.
        RedisError: the store is away.
    """
    try:
        branch = _written(settings, store, rollback)
    except RedisError:
        raise
    except Exception as error:  # the rollback does not hang on its branch
        log.warning("no_rollback_branch", rollback=rollback.id, reason=str(error))
        branch = ""
    return store.save_rollback_branch(rollback.id, branch)


def _written(settings: Settings, store: Store, rollback: Rollback) -> str:
    """The name of the branch, or '' where there is nothing to write."""
    repository = store.repository(rollback.namespace, rollback.repository)
    if repository.source != "git" or not repository.deploy_branch or not _counts(store, rollback):
        return ""
    git = Git(settings, bare.existing_of(settings, repository))
    head = git.run("rev-parse", "--verify", f"refs/heads/{repository.deploy_branch}^{{commit}}")
    target = store.release(rollback.to)
    now, was = git.tree(head), git.tree(target.commit)
    tree = was
    if rollback.function:
        limit, variables = settings.max_functions, store.variables(rollback.namespace)
        entries = [_entry(git, each, rollback.function, limit, variables) for each in (now, was)]
        tree = _with_function(git, now, was, *entries)
    if tree == now:
        return ""
    what = f"{rollback.function} " if rollback.function else ""
    message = f"Roll back {what}to {target.id}\n\nAs {target.commit}, which serves again.\n"
    commit = git.run("commit-tree", tree, "-p", head, input_=message.encode(), env=_WHO)
    branch = f"{PREFIX}{rollback.id}"
    git.run("update-ref", f"refs/heads/{branch}", commit)
    return branch


def _counts(store: Store, rollback: Rollback) -> bool:
    """Whether it is under way, or done and nothing came after it."""
    if rollback.state is RollbackState.DONE:
        return any(record.pinned == rollback.id for record in store.functions().values())
    return rollback.state is not RollbackState.FAILED


class _Entry(msgspec.Struct):
    """A function in a stack file of a commit."""

    data: bytes
    """The file."""
    stack: Stack
    function: StackFunction
    others: set[str]
    """Inputs of all other functions of the commit, and its other stack files."""
    limit: int
    variables: Mapping[str, str]

    def reread(self, data: bytes) -> Stack:
        return _read(data, self.stack.path, self.limit, self.variables)


def _entry(git: Git, tree: str, name: str, limit: int, variables: Mapping[str, str]) -> _Entry:
    """Raises SlipwayError where not all stack files that count can be read as they stand."""
    root = next((each for each in STACK_FILES if git.entry(tree, each)), None)
    if root is None:
        raise SlipwayError("no stack file is at the root, and those below are not looked for")
    room, paths, files = MAX_BYTES, [root], []
    for path in paths:  # which grows where the first names others
        data = git.file(tree, path, room)
        room -= len(data)
        files.append((data, _read(data, path, limit, variables)))
        if path == root:
            paths += files[0][1].others
    for data, stack in files:
        for function in stack.functions:
            if function.name == name:
                others = {each.path for _, each in files if each is not stack}
                for _, each in files:
                    others.update(*(_inputs(f) for f in each.functions if f is not function))
                return _Entry(data, stack, function, others, limit, variables)
    raise SlipwayError(f"no stack file names {name}")


def _read(data: bytes, path: str, limit: int, variables: Mapping[str, str]) -> Stack:
    found = read(data, path, max_functions=limit, variables=variables)
    if found.mistakes:
        raise SlipwayError(f"{path} has mistakes: {found.mistakes[0].text}")
    return found.stack


def _inputs(function: StackFunction) -> Iterator[str]:
    yield function.handler
    yield from function.copy
    yield from function.environment_file
    for value in function.build_secrets.values():  # a file's path, or a secret's name
        path = posixpath.normpath(posixpath.join(function.folder, value))
        if not path.startswith(("/", "..")):
            yield path


def _with_function(git: Git, tree: str, old: str, now: _Entry, was: _Entry) -> str:
    """The tree ``tree`` with one function as it was in ``old``.

    Raises SlipwayError where that would change others, too.
    """
    path = now.stack.path
    if was.stack.path != path:
        raise SlipwayError(f"its stack file was {was.stack.path}, and is {path}")
    made = tree
    for each in _inputs(was.function):
        entry = git.entry(old, each)
        if git.entry(tree, each) == entry:
            continue
        if each == "." or any(_within(each, other) for other in now.others):
            raise SlipwayError(f"{each!r} is shared with other functions, and was changed")
        made = git.replaced(made, each, entry)
    blob = git.run("hash-object", "-w", "--stdin", input_=_spliced(now, was))
    mode = git.entry(tree, path).partition(b" ")[0]
    return git.replaced(made, path, b"%s blob %s" % (mode, blob.encode()))


def _within(path: str, other: str) -> bool:
    """Whether one of two paths lies in the other, or is it."""
    return other == "." or f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")


def _spliced(now: _Entry, was: _Entry) -> bytes:
    """Today's stack file with the function's lines as they were.

    Raises SlipwayError where that does not read as just this one function changed.
    """
    if _bare(now.function) == _bare(was.function):
        return now.data
    if any(_YAMLS_OWN_BREAKS.search(each.data.decode()) for each in (now, was)):
        raise SlipwayError("the stack file has line ends that only YAML knows")
    lines, old = (each.data.splitlines(keepends=True) for each in (now, was))
    begin, end = _block(lines, now.function.lines["name"])
    first, last = _block(old, was.function.lines["name"])
    text = b"".join([*lines[:begin], *old[first:last], *lines[end:]])
    found, wanted = _said(now.reread(text)), _said(now.stack)
    wanted["functions"][was.function.name] = _bare(was.function)
    if found != wanted:
        raise SlipwayError("its entry in the stack file cannot be put back alone")
    return text


def _said(stack: Stack) -> dict[str, dict[str, object]]:
    """What a stack file says, wherever in it."""
    return {
        "functions": {each.name: _bare(each) for each in stack.functions},
        "templates": {each.name: each.source for each in stack.templates},
        "others": dict.fromkeys(stack.others),
        "environments": {**stack.environments},
    }


def _bare(function: StackFunction) -> StackFunction:
    return msgspec.structs.replace(function, lines={})


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
    return len(line) - len(line.lstrip(b" "))
