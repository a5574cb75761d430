"""One commit, read from a bare repository without checking it out.

What is built is what the commit holds, byte for byte: no filter, attribute, hook, end-of-line or
export rule has a say. Names and kinds of files are the user's and hostile: what a build cannot
hold (links, submodules, names that mean something to git or to a file system) is refused here,
and counts and sizes are checked before anything is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from builder.hardened_git import HardenedGit
from core import names
from core.errors import BuildFailed, CheckoutFailed, NotFound, TooLarge

DAMAGE_MARK = "slipway-damaged"
"""A file in a mirror that tells the next fetch to make the mirror anew."""

TREE, FILE, LINK, SUBMODULE = 0o040000, 0o100000, 0o120000, 0o160000
MAX_DEPTH = 64
_MAX_PATH = 1024
"""Folders above a file, and bytes of its path, in the commit and in the function."""
_MAX_NAME = 255
"""Bytes of one name: what file systems take."""
_MAX_TREE = 4 * 2**20
_CACHED_NODES = 200_000
"""Names kept of the trees that were read: some 60 MB at most."""
_BLOCK = 4096
"""Bytes of disk that a file takes at least."""
_CHUNK = 2**18


class Damaged(CheckoutFailed):
    """An object is missing or cannot be read: fetching anew helps."""

    retryable = True


class Entry(NamedTuple):
    """One file: its path below the folder that was asked for, and its blob."""

    path: str
    oid: str
    executable: bool
    size: int


class Node(NamedTuple):
    """What a tree says of one name; ``kind`` is the mode without its permission bits."""

    name: str
    kind: int
    executable: bool
    oid: str


class Source:
    """Reads one commit. Threads may share it: they wait for one another.

    Args:
        git_dir: any bare repository of ours, a mirror or one of our git remote.
        commit: full id.
        max_files, max_bytes: bounds of one folder; ``copy`` writes at most four times as much.
        check: asked before each object is read; what it raises ends the reading.
        hold: closed together with this: the mirror's lock.

    Raises:
        Damaged: the repository does not have the commit, or cannot read it.
    """

    def __init__(
        self,
        git_dir: Path,
        commit: str,
        *,
        max_files: int,
        max_bytes: int,
        check: Callable[[], None] = lambda: None,
        hold: IO[bytes] | None = None,
    ) -> None:
        self.commit = names.commit(commit)
        self.git_dir = git_dir
        self.max_files = max_files
        self.max_bytes = max_bytes
        self.check = check
        self._lock = threading.RLock()
        self._git = HardenedGit(git_dir, timeout=60)
        self._trees: dict[str, dict[str, Node]] = {}
        self._nodes = 0
        self._room = 4 * (max_bytes + max_files * _BLOCK)
        self._hold: IO[bytes] | None = None
        try:
            found = re.match(rb"tree ([0-9a-f]+)\n", self._object(self.commit, "commit", _MAX_TREE))
            if not found:
                raise self._damaged(self.commit, "it is not a commit")
            self.root = found[1].decode()
            self._tree(self.root)
        except BaseException:
            self.close()
            raise
        self._hold = hold
        if hold:  # also where nobody closes us: a lock that is forgotten would outlive the build
            weakref.finalize(self, hold.close)

    def close(self) -> None:
        with self._lock:
            self._git.clear_cache()
            if self._hold:
                self._hold.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, path: str) -> Node | None:
        """What lies at ``path`` (normalised, ``.`` is the root); None if there is nothing.

        Raises:
            BuildFailed: the path leads through or to a link or a submodule.
        """
        here = Node("", TREE, False, self.root)
        walked = ""
        for part in [] if path == "." else path.split("/"):
            if here.kind != TREE:
                return None
            node = self._tree(here.oid).get(part)
            if node is None:
                return None
            walked = f"{walked}/{part}" if walked else part
            if trouble := _refusal(node):
                raise BuildFailed(f"{quoted(walked)} {trouble}", step="context")
            here = node
        return here

    def tree_id(self, path: str) -> str:
        """Git's own content address of a folder or file: names, modes, contents.

        Raises:
            NotFound: the commit has nothing there.
            BuildFailed: as ``find``.
        """
        return self._at(path).oid

    def content_id(self, path: str, *, without: Collection[str] = ()) -> str:
        """The content address of what a build takes from ``path``: git's own; of a file also
        whether it is executable, which git notes in the folder above; and where a folder has
        entries of its own level that are left out, the one that it would have without them.

        Raises as ``tree_id``.
        """
        node = self._at(path)
        if node.kind != TREE:
            return f"{node.oid} executable" if node.executable else node.oid
        nodes = self._tree(node.oid) if without else {}
        if nodes.keys().isdisjoint(without):
            return node.oid
        return _tree_id(each for each in nodes.values() if each.name not in without)

    def listing(self, oid: str) -> Mapping[str, Node] | None:
        """What lies in the folder that is a ``tree_id``, of any commit; None where it is not, or
        no longer, known here, or cannot be read."""
        with self._lock:
            try:
                return self._tree(oid) if self._git.get_object_header(oid)[1] == "tree" else None
            except (ValueError, BrokenPipeError, BuildFailed, TooLarge, Damaged):
                return None

    def read_ahead(self, paths: Iterable[str]) -> None:
        """Reads the folders at ``paths`` in one go: what is asked of them later is known then.
        What is not there, or cannot be read, is for whoever asks for it to tell."""
        oids = set()
        for path in paths:
            with contextlib.suppress(BuildFailed, TooLarge):
                node = self.find(path)
                if node and node.kind == TREE and node.oid not in self._trees:
                    oids.add(node.oid)
        with self._lock, contextlib.suppress(ValueError, BrokenPipeError):
            room = _MAX_TREE
            wanted = []
            for oid, (kind, size) in self._git.headers(sorted(oids)).items():
                room -= size
                if kind == "tree" and room > 0:
                    wanted.append(oid)
            for oid, data in self._git.contents(wanted):
                with contextlib.suppress(BuildFailed):
                    self._keep(oid, data)

    def is_folder(self, path: str) -> bool:
        """Whether ``path`` is a folder of the commit; raises as ``tree_id``."""
        return self._at(path).kind == TREE

    def files(self, path: str, *, without: tuple[str, ...] = ()) -> list[Entry]:
        """Every file below the folder ``path``, or the file itself (with its last name).

        ``without`` names entries of the folder's own level that are left out. Nothing is read but
        names and sizes.

        Raises:
            NotFound: the commit has nothing there.
            BuildFailed: it holds links, submodules or names that cannot be built; with paths.
            TooLarge: more files or bytes than a function may have.
        """
        top = self._at(path)
        if top.kind != TREE:
            name = path.rpartition("/")[2]
            return self._sized(path, [(name, top)])
        found: list[tuple[str, Node]] = []
        troubles: list[str] = []
        for seen, (place, node) in enumerate(self._walk(top.oid, without.__contains__)):
            if seen > 2 * self.max_files or len(found) >= self.max_files:
                raise TooLarge(
                    f"{_folder(path)} has more than {self.max_files} files: leave out what is not "
                    "needed (node_modules, data), or ask the administrator (SLIPWAY_MAX_FILES)"
                )
            trouble = _refusal(node)
            trouble = trouble or too_long(place)
            if trouble:
                troubles.append(f"{quoted(place if path == '.' else f'{path}/{place}')} {trouble}")
                if len(troubles) == 10:
                    break
            elif node.kind != TREE:
                found.append((place, node))
        if troubles:
            raise BuildFailed("\n".join(troubles), step="context")
        return self._sized(path, found)

    def read(self, path: str, limit: int) -> bytes:
        """The content of one file of at most ``limit`` bytes.

        Raises:
            NotFound: there is no file.
            TooLarge: it is larger.
            BuildFailed: as ``find``.
        """
        node = self._at(path)
        if node.kind == TREE:
            raise NotFound(f"{quoted(path)} is a folder, not a file")
        return self._object(node.oid, "blob", limit, path)

    def copy(self, entry: Entry, target: IO[bytes]) -> bytes:
        """Writes one file's content to ``target`` piece by piece; returns its SHA-256.

        Raises:
            TooLarge: with what was copied before it is more than the commit's functions may have.
        """
        digest = hashlib.sha256()
        with self._lock:
            self.check()
            self._room -= disk_size(entry.size)
            if self._room < 0:
                raise TooLarge(
                    "the functions of this commit are too large together: four times what one may "
                    "have; copy less into each, split them over several repositories, or ask the "
                    "administrator (SLIPWAY_MAX_CONTEXT, SLIPWAY_MAX_FILES)"
                )
            try:
                _, kind, size, stream = self._git.stream_object_data(entry.oid)
            except (ValueError, BrokenPipeError) as error:
                raise self._damaged(entry.oid, str(error)) from error
            left = size
            try:
                while left and (piece := stream.read(min(_CHUNK, left))):
                    left -= len(piece)
                    digest.update(piece)
                    target.write(piece)
            except OSError:
                while stream.read(_CHUNK):  # the next object comes by the same pipe
                    pass
                raise
            if left or kind != "blob" or size != entry.size:
                raise self._damaged(entry.oid, "its content ends early")
        return digest.digest()

    def walk(self, skip: Callable[[str], bool]) -> Iterator[tuple[str, Node]]:
        """Every path of the commit with what lies there, folders before what is in them; those
        that ``skip`` says true of are passed over. Links and odd names are told, and not entered.
        """
        return self._walk(self.root, skip)

    # Objects, by way of `git cat-file --batch`.

    def _at(self, path: str) -> Node:
        node = self.find(path)
        if node is None:
            raise NotFound(f"commit {self.commit[:12]} has no {quoted(path)}: is it committed?")
        return node

    def _walk(self, oid: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, Node]]:
        """Folders and files below a tree, as far as folders may be entered."""
        waiting = [("", oid)]
        while waiting:
            prefix, tree = waiting.pop()
            for node in self._tree(tree).values():
                place = prefix + node.name
                if skip(place):
                    continue
                yield place, node
                if node.kind == TREE and not _refusal(node) and not too_long(place):
                    waiting.append((f"{place}/", node.oid))

    def _sized(self, path: str, found: list[tuple[str, Node]]) -> list[Entry]:
        entries = []
        total = 0
        with self._lock:
            for place, node in sorted(found):
                self.check()
                try:
                    size = self._git.get_object_header(node.oid)[2]
                except (ValueError, BrokenPipeError) as error:
                    raise self._damaged(node.oid, str(error)) from error
                total += size
                if total > self.max_bytes:
                    raise TooLarge(
                        f"{_folder(path)} has more than {self.max_bytes} bytes (seen at "
                        f"{quoted(place)}, which has {size}): leave out what is not needed, or "
                        "ask the administrator (SLIPWAY_MAX_CONTEXT)"
                    )
                entries.append(Entry(place, node.oid, node.executable, size))
        return entries

    def _tree(self, oid: str) -> dict[str, Node]:
        self.check()
        with self._lock:
            nodes = self._trees.get(oid)
            if nodes is None:
                nodes = self._keep(oid, self._object(oid, "tree", _MAX_TREE))
            return nodes

    def _keep(self, oid: str, data: bytes) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        for node in _nodes(data):
            if node.name in nodes:
                told = f"a folder of the commit has {quoted(node.name)} twice"
                raise BuildFailed(f"{told}: repair it (see 'git fsck')", step="context")
            nodes[node.name] = node
        self._nodes += len(nodes)
        if self._nodes > _CACHED_NODES:
            self._trees.clear()
            self._nodes = len(nodes)
        self._trees[oid] = nodes
        return nodes

    def _object(self, oid: str, wanted: str, limit: int, path: str = "") -> bytes:
        """One whole object. The size is asked first: what is too large is never begun."""
        with self._lock:
            try:
                _, kind, size = self._git.get_object_header(oid)
                if kind == wanted and size > limit:
                    what = quoted(path) if path else f"a {kind} of the commit ({oid[:12]})"
                    raise TooLarge(
                        f"{what} has {size} bytes, and {limit} are allowed: make it smaller"
                    )
                if kind == wanted:
                    data = self._git.get_object_data(oid)[3]
            except (ValueError, BrokenPipeError) as error:
                self._git.clear_cache()  # git may have ended: what is read next asks another
                raise self._damaged(oid, str(error)) from error
            if kind != wanted or len(data) != size:
                raise self._damaged(oid, f"it is not a {wanted} that can be read whole")
            return data

    def _damaged(self, oid: str, why: str) -> Damaged:
        """The error for an object that cannot be read, after the mirror was marked."""
        if self._hold:
            (self.git_dir / DAMAGE_MARK).touch()
        return Damaged(
            f"commit {self.commit[:12]} cannot be read: object {oid[:12]} is missing or damaged "
            f"({why[:200]}): push again, or start the release again"
        )


def _nodes(data: bytes) -> Iterator[Node]:
    """Reads a tree object: ``<octal mode> <name>\\0<20 bytes of id>``, again and again."""
    position = 0
    while position < len(data):
        end = data.index(b"\0", position)
        mode, _, name = data[position:end].partition(b" ")
        bits = int(mode, 8)
        oid = data[end + 1 : end + 21].hex()
        yield Node(
            name.decode("utf-8", "surrogateescape"), bits & 0o170000, bool(bits & 0o100), oid
        )
        position = end + 21


def _tree_id(nodes: Iterable[Node]) -> str:
    """The id that git gives a tree of these, in their order."""
    data = b""
    for node in nodes:
        mode = node.kind if node.kind != FILE else node.kind | (0o755 if node.executable else 0o644)
        name = node.name.encode("utf-8", "surrogateescape")
        data += b"%o %b\0%b" % (mode, name, bytes.fromhex(node.oid))
    return hashlib.sha1(b"tree %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()


_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")
# What HFS+ leaves out when it compares names, and NTFS' short form of `.git`: git's own list.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_GIT = re.compile(r"\.git|git~[0-9]+", re.IGNORECASE)


def _refusal(node: Node) -> str:
    """Why a name cannot be part of a build; empty where it can."""
    if node.kind == LINK:
        return "is a symbolic link: commit the file itself in its place"
    if node.kind == SUBMODULE:
        return "is a submodule, which is not fetched: commit its files in its place"
    name = node.name
    if name in ("", ".", "..") or "/" in name or "\\" in name or _CONTROL.search(name):
        return "has a name that is not a plain UTF-8 file name: rename it"
    if (size := len(name.encode())) > _MAX_NAME:
        return f"has a name of {size} bytes, and {_MAX_NAME} are the most: shorten it"
    if _GIT.fullmatch(_IGNORED.sub("", name).split(":")[0].rstrip(". ")):
        return "has a name that belongs to git: rename it"
    return ""


def disk_size(size: int) -> int:
    """Bytes of disk that a file of ``size`` bytes takes, at most."""
    return size + _BLOCK


def too_long(path: str) -> str:
    """Why a path cannot be part of a build; empty where it can."""
    if path.count("/") >= MAX_DEPTH or len(path.encode("utf-8", "surrogateescape")) > _MAX_PATH:
        return f"is more than {MAX_DEPTH} folders deep or {_MAX_PATH} bytes long"
    return ""


def _folder(path: str) -> str:
    return "the repository" if path == "." else f"the folder {quoted(path)}"


def quoted(path: str) -> str:
    """A path as an error may show it: escaped and short."""
    return repr(path if len(path) <= 200 else f"{path[:100]}…{path[-97:]}")
