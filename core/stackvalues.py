"""Values of a stack file, read from their nodes: what each kind may look like.

Every reader takes a node and the name that messages give it, returns the value as it was written,
and gathers what is wrong instead of stopping at it.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Callable, Iterable
from functools import partial

from core import names, retries, scaling, schedules, yamlnodes
from core.errors import InvalidRequest, Mistake
from core.models import Resources
from core.quantities import seconds, size
from core.yamlnodes import MAX_TOLD, Node, Scalar, Sequence

ENV_NAME = re.compile(r"[-._A-Za-z][-._A-Za-z0-9]*")
_ARG_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_CPU = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?m?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
MAX_VARIABLE = 128 * 1024 - 1
"""Bytes of ``NAME=value`` that the kernel takes (MAX_ARG_STRLEN of execve(2))."""
MAX_PATHS = 100
"""Paths that one list names: each is looked up."""
MAX_SECRETS, MAX_BUILD_SECRETS = 256, 32
"""Of one function: each is looked up."""
_SECRET_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_OUR_SECRETS = ("ca", "registries", "test-tools")
"""What the builder itself hands to RUN lines."""
_HEALTH_PATH = re.compile(r"/[!-~]{0,1023}")

Entries = dict[str, tuple[Scalar, Node]]


def absent(node: Node) -> bool:
    """Whether a key was written without a value: as if it were not there."""
    return isinstance(node, Scalar) and node.null


class Values:
    """Reads values and keeps the mistakes and warnings of one file.

    Paths in it are written from ``folder``, where it lies in the repository, and are read as paths
    from the repository's root.
    """

    def __init__(
        self, mistakes: Iterable[Mistake], warnings: Iterable[Mistake], folder: str = "."
    ) -> None:
        self.mistakes = list(mistakes)
        self.warnings = list(warnings)
        self.folder = folder

    def mistake(self, line: int, text: str) -> None:
        if len(self.mistakes) < MAX_TOLD:
            self.mistakes.append(Mistake(line, text))

    def warn(self, line: int, text: str) -> None:
        if len(self.warnings) < MAX_TOLD:
            self.warnings.append(Mistake(line, text))

    def unknown(self, entries: Entries, known: Iterable[str], prefix: str) -> None:
        """Warns of every key that is not among ``known``."""
        choices = list(known)
        for name, (key, _) in entries.items():
            if name in choices:
                continue
            if len(self.warnings) >= MAX_TOLD:
                return
            near = difflib.get_close_matches(name, choices, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            self.warn(key.line, f"{prefix}{name[:80]} is not known and has no effect{hint}")

    def mapping(self, node: Node, what: str) -> Entries:
        if isinstance(node, yamlnodes.Mapping):
            return node.entries
        if not absent(node):
            self.mistake(node.line, f"{what} has to be a mapping of 'name: value' lines")
        return {}

    def text(self, node: Node, what: str) -> str | None:
        """The scalar's own text, without characters that no file name or variable may hold."""
        if not isinstance(node, Scalar):
            self.mistake(node.line, f"{what} has to be a single value")
            return None
        if "\x00" in node.text:
            self.mistake(node.line, f"{what} holds a NUL character")
            return None
        return "" if node.null else node.text

    def word(self, node: Node, what: str) -> str | None:
        """A text of one line that is not empty."""
        value = self.text(node, what)
        if value is not None and (not value.strip() or _CONTROL.search(value) or len(value) > 4096):
            self.mistake(node.line, f"{what} is {value[:40]!r}: it has to be a text of one line")
            return None
        return value

    def words(self, node: Node, what: str) -> list[str]:
        if not isinstance(node, Sequence):
            self.mistake(node.line, f"{what} has to be a list of '- value' lines")
            return []
        read = [self.word(item, f"an item of {what}") for item in node.items]
        return [item for item in read if item is not None]

    def texts(self, node: Node, what: str) -> dict[str, str]:
        found = {}
        for key, (name, value) in self.mapping(node, what).items():
            if not key or _CONTROL.search(key) or len(key) > 317:  # 253 + "/" + 63: Kubernetes
                self.mistake(name.line, f"{key[:40]!r} is not a name for {what}")
            text = self.text(value, f"{what}.{key[:80]}")
            found[key] = text or ""
        return found

    def labels(self, node: Node, what: str) -> dict[str, str]:
        """Those by which a function is scaled have to be right, as annotations."""
        found = self.texts(node, what)
        lines = _key_lines(node)
        for key, wrong in scaling.mistakes(found):
            self.mistake(lines[key], f"{what}.{key} {wrong}")
        for key, told in scaling.warnings(found):
            self.warn(lines[key], f"{what}.{key[:80]} {told}")
        return found

    def annotations(self, node: Node, what: str) -> dict[str, str]:
        """Those that mean something here have to be right: a typo would go unnoticed."""
        found = self.texts(node, what)
        lines = _key_lines(node)
        for key, is_right, rule in ANNOTATIONS:
            if key in found and not is_right(found[key]):
                told = f"{what}.{key} is {found[key][:40]!r}: {rule}"
                self.mistake(lines[key], told)
        for key, told in schedules.mistakes(found):
            self.mistake(lines[key], f"{what}.{key}: {told}")
        for key, told in schedules.warnings(found):
            self.warn(lines[key], f"{what}.{key} {told}")
        if told := retries.contradiction(found):
            self.mistake(lines[retries.MIN_WAIT], f"{what}.{retries.MIN_WAIT}: {told}")
        return found

    def environment(self, node: Node, what: str = "environment") -> dict[str, str]:
        found = self.texts(node, what)
        lines = _key_lines(node)
        for key, value in found.items():
            if not ENV_NAME.fullmatch(key):
                told = f"{key[:40]!r} in {what} is not a variable's name: use letters, digits and _"
                self.mistake(lines[key], told)
            elif len(key.encode()) + len(value.encode("utf-8", "replace")) + 1 > MAX_VARIABLE:
                self.mistake(lines[key], f"{what}.{key[:80]} is longer than {MAX_VARIABLE} bytes")
        return found

    def build_args(self, node: Node, what: str) -> dict[str, str]:
        """A mapping, or a list of ``NAME=value``."""
        if isinstance(node, Sequence):
            found, lines = {}, {}
            for item in node.items:
                name, sign, value = (self.text(item, what) or "").partition("=")
                if not sign:
                    self.mistake(item.line, f"an item of {what} has to be NAME=value")
                found[name], lines[name] = value, item.line
        else:
            found = self.texts(node, what)
            lines = _key_lines(node)
        for name in found:
            if not _ARG_NAME.fullmatch(name):
                self.mistake(lines[name], f"{name[:40]!r} is not the name of a build argument")
        return found

    def secrets(self, node: Node, what: str) -> list[str]:
        found = self.words(node, what)
        lines = {item.text: item.line for item in _items(node)}
        for name in found:
            if len(name) > 253 or not _SECRET.fullmatch(name):
                rule = "use lower-case letters, digits, '-' and '.'"
                self.mistake(lines[name], f"{name[:40]!r} is not the name of a secret: {rule}")
        if len(found) > MAX_SECRETS:
            told = f"{what} names {len(found)}, and {MAX_SECRETS} are allowed"
            self.mistake(node.line, f"{told}: put several values into one")
        return list(dict.fromkeys(found))

    def boolean(self, node: Node, what: str) -> bool | None:
        text = self.text(node, what)
        value = _BOOLEANS.get(text.lower()) if text is not None else None
        if value is None:
            self.mistake(node.line, f"{what} has to be true or false")
        return value

    def resources(self, node: Node, what: str) -> Resources:
        found = self.mapping(node, what)
        self.unknown(found, ("memory", "cpu"), f"{what}.")
        memory = self.text(found["memory"][1], f"{what}.memory") if "memory" in found else None
        if memory and not _positive_size(memory):
            told = f"{what}.memory is {memory[:40]!r}: write a size such as 128Mi or 1Gi"
            self.mistake(found["memory"][0].line, told)
        cpu = self.text(found["cpu"][1], f"{what}.cpu") if "cpu" in found else None
        if cpu and not (_CPU.fullmatch(cpu) and float(cpu.rstrip("m")) > 0):
            told = (
                f"{what}.cpu is {cpu[:40]!r}: write CPUs such as 0.5, or thousandths such as 500m"
            )
            self.mistake(found["cpu"][0].line, told)
        return Resources(memory=memory or None, cpu=cpu or None)

    def namespace(self, node: Node, what: str) -> str | None:
        value = self.word(node, what)
        if value is not None:
            try:
                names.namespace(value)
            except InvalidRequest as error:
                self.mistake(node.line, f"{what}: {error}")
        return value

    # Paths within the repository.

    def path(self, node: Node, what: str) -> str | None:
        value = self.word(node, what)
        if value is None:
            return None
        parts = value.split("/")
        path = posixpath.normpath(posixpath.join(self.folder, value))
        if value.startswith("/") or "\\" in value:
            where = "the repository's root" if self.folder == "." else f"{self.folder!r}"
            why = f"is not a path within the repository: write it from {where}, with /"
        elif path.split("/")[0] == "..":
            why = "leads out of the repository"
        elif any(part.lower() == ".git" for part in parts):
            why = "leads into git's own folder"
        else:
            return path
        self.mistake(node.line, f"{what} {value[:80]!r} {why}")
        return None

    def paths(self, node: Node, what: str) -> list[str]:
        if isinstance(node, Scalar):  # one file without a list, as users write it now and then
            node = Sequence(node.line, [node])
        if not isinstance(node, Sequence):
            self.mistake(node.line, f"{what} has to be a list of '- path' lines")
            return []
        read = [self.path(item, f"{what}:") for item in node.items]
        # The last of equal ones stays: later ones win.
        found = list(dict.fromkeys(item for item in reversed(read) if item is not None))[::-1]
        if len(found) > MAX_PATHS:
            told = f"{what} names {len(found)} paths, and {MAX_PATHS} are allowed: name folders"
            self.mistake(node.line, told)
        return found

    def copies(self, node: Node, what: str) -> list[str]:
        found = [] if absent(node) else self.paths(node, what)
        if "." in found:
            self.mistake(node.line, f"{what} names the whole repository: name folders or files")
        if self.folder != ".":
            for path in found:  # it is laid beside the handler's files under its path from there
                if not path.startswith(f"{self.folder}/"):
                    told = f"{what}: {path[:80]!r} is not below {self.folder!r}, the stack file's"
                    self.mistake(node.line, f"{told} folder: copy from there, or move the file up")
        return found

    def build_secrets(self, node: Node, what: str) -> dict[str, str]:
        """Id → a path, or a secret's name; builder/check.py tells which."""
        found = {}
        for key, (name, value) in self.mapping(node, what).items():
            if not _SECRET_ID.fullmatch(key) or key in _OUR_SECRETS:
                rule = (
                    f"use letters, digits, '-', '_' and '.', and none of {', '.join(_OUR_SECRETS)}"
                )
                self.mistake(name.line, f"{key[:40]!r} is not an id for {what}: {rule}")
            text = self.word(value, f"{what}.{key[:80]}")
            if text and not _SECRET.fullmatch(text):
                self.path(value, f"{what}.{key[:80]}:")
            found[key] = text or ""
        if len(found) > MAX_BUILD_SECRETS:
            told = f"{what} names {len(found)}, and {MAX_BUILD_SECRETS} are allowed"
            self.mistake(node.line, f"{told}: put several values into one")
        return found


def _items(node: Node) -> list[Scalar]:
    items = node.items if isinstance(node, Sequence) else []
    return [item for item in items if isinstance(item, Scalar)]


def _key_lines(node: Node) -> dict[str, int]:
    entries = node.entries if isinstance(node, yamlnodes.Mapping) else {}
    return {key: name.line for key, (name, _) in entries.items()}


def _positive_size(text: str) -> bool:
    try:
        return size(text) > 0
    except ValueError:
        return False


def _is_duration(text: str) -> bool:
    try:
        seconds(text)
    except ValueError:
        return False
    return True


def _is_repository(text: str) -> bool:
    try:
        names.repository_name(text)
    except InvalidRequest:
        return False
    return True


ANNOTATIONS: tuple[tuple[str, Callable[[str], object], str], ...] = (
    (
        names.TAKES_OVER,
        _is_repository,
        "write the name of the repository that the function moves away from, without its owner",
    ),
    (
        "com.slipway.egress",
        lambda text: text.lower() in ("true", "false"),
        "write true or false",
    ),
    (
        "com.openfaas.health.http.path",
        _HEALTH_PATH.fullmatch,
        "write a path such as /ready: ASCII without spaces, beginning with '/'",
    ),
    (
        "com.openfaas.health.http.initialDelay",
        _is_duration,
        "write seconds or a duration such as 30s or 1m30s",
    ),
    *((name, partial(retries.is_right, name), rule) for name, rule in retries.RULES.items()),
)
