"""Which functions are forked of a warm parent, and the parents there are.

A function is, if all that its interpreter would do before the function's own code is what a parent
has done: its server is the template's of this installation, byte for byte, started as the template
says, with the packages of this installation, and nothing of its own that an interpreter reads when
it starts. Any other one is started; that is never an error.

A parent is one owner's: processes that are forked of one another share their layout in memory and
the seed of their hashes, and no owner shall learn another's.
"""

from __future__ import annotations

import filecmp
import functools
import importlib.metadata
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

from core import logging
from core.bundle import HOME, LAYER_MOUNTS, Bundle, bundle_folder, layer_folder
from core.errors import SlipwayError
from core.models import FunctionSpec
from core.sandbox import PATH, Cell, Mount, Outlets, Parent, Sandbox, Seed, Unforkable
from core.settings import ROOT, Settings

log = logging.get()

MOST = 8
"""Parents at once, each 20 MB with the child that waits: of the owners who started last."""
_AGAIN = 60.0
"""Seconds after which a parent is tried once more that could not be made."""
TEMPLATES = ("python3-http", "python3-flask")
_FILES, _PACKAGE = "index.py", "slipway_watchdog"
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PATH": PATH,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": LAYER_MOUNTS["python"],
    "PYTHONUNBUFFERED": "1",
}
_READ_AT_START = re.compile(
    # By the interpreter, by the loader and glibc (bwrap._LOADER), by OpenSSL as it is imported.
    r"HOME$|LANG$|LANGUAGE$|LC_|PYTHON|LD_|MALLOC_|GLIBC_|GCONV_|GETCONF_|HOSTALIASES$|LOCALDOMAIN$"
    r"|LOCPATH$|NIS_PATH$|NLSPATH$|RES_OPTIONS$|RESOLV_|TMPDIR$|TZDIR$|OPENSSL_|UV_"
)
_IMPORTS = (
    # What templates and ordinary handlers begin with. Not multiprocessing: it draws a key.
    *("argparse", "array", "ast", "asyncio", "base64", "binascii", "bisect", "calendar", "cgi"),
    *("collections", "concurrent.futures.thread", "contextlib", "contextvars", "copy", "csv"),
    *("dataclasses", "datetime", "decimal", "difflib", "email.message", "email.parser"),
    *("email.mime.multipart", "email.mime.text", "email.policy", "email.utils", "encodings.idna"),
    *("enum", "fnmatch", "fractions", "functools", "glob", "gzip", "hashlib", "heapq", "hmac"),
    *("html", "http.client", "http.cookiejar", "http.cookies", "http.server", "importlib.metadata"),
    *("importlib.resources", "inspect", "io", "ipaddress", "itertools", "json", "logging.handlers"),
    *("math", "mimetypes", "numbers", "operator", "os", "pathlib", "pickle", "platform", "pprint"),
    *("queue", "random", "re", "secrets", "select", "selectors", "shlex", "shutil", "signal"),
    *("socket", "ssl", "statistics", "string", "struct", "subprocess", "tempfile", "textwrap"),
    *("threading", "time", "traceback", "types", "typing", "unicodedata", "urllib.error"),
    *("urllib.parse", "urllib.request", "uuid", "warnings", "weakref", "xml.etree.ElementTree"),
    *("zipfile", "zlib", "zoneinfo"),
)


@dataclass(frozen=True)
class Key:
    """Whose parent, and of which template."""

    namespace: str
    template: str

    def __str__(self) -> str:
        return f"{self.namespace}-{self.template}"


class Warmth:
    """All parents of one installation. May be used from several threads.

    A thread makes parents, one after another, and ends those that nothing needs: neither is waited
    for by a start.
    """

    def __init__(self, settings: Settings, sandbox: Sandbox) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self.refused = sandbox.cold()
        """Why nothing is forked here; empty: it is."""
        self._parents: OrderedDict[Key, Parent] = OrderedDict()
        """In the order of use."""
        self._wanted: OrderedDict[Key, None] = OrderedDict()
        self._failed: dict[Key, float] = {}
        self._reasons: dict[tuple[str, str], str] = {}
        """Of bundles that are not forked; '' of those that are."""
        self._lock = threading.Condition()
        self._closed = False
        self._outlets: Outlets | None = None
        self._thread = threading.Thread(target=self._make, name="warm", daemon=True)
        if not self.refused:
            self._thread.start()

    def parent(self, spec: FunctionSpec, bundle: Bundle, cell: Cell) -> Parent | None:
        """The parent that forks this cell; None: it is started, and a parent may be made for the
        next one."""
        if self.refused or self._reason(spec, bundle) or not _same_start(bundle, cell):
            return None
        key = Key(spec.namespace, bundle.template)
        with self._lock:
            parent = self._parents.get(key)
            if parent and parent.broken:
                del self._parents[key]
                parent.close()
                parent = None
            if parent:
                self._parents.move_to_end(key)
            else:
                self._want(key)
        return parent

    def prepare(self, functions: Iterable[tuple[FunctionSpec, Bundle]]) -> None:
        """Keeps parents for these and for no others."""
        if self.refused:
            return
        there = list(functions)
        keys = {
            Key(spec.namespace, bundle.template)
            for spec, bundle in there
            if not self._reason(spec, bundle)
        }
        known = {(spec.namespace, spec.artifact) for spec, _ in there}
        for gone in self._reasons.keys() - known:
            self._reasons.pop(gone, None)
        with self._lock:
            for key in [key for key in self._parents if key not in keys]:
                log.info("warm_parent_ended", parent=str(key), reason="no function needs it")
                self._parents.pop(key).close()
            for key in sorted(keys - set(self._parents), key=str):
                if len(self._parents) + len(self._wanted) < MOST:
                    self._want(key)

    def close(self) -> None:
        """Ends all parents; functions live on."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._thread.is_alive():
            self._thread.join()
        for parent in self._parents.values():
            parent.close()
        self._parents.clear()
        if self._outlets:
            self._outlets.close()

    def _want(self, key: Key) -> None:
        if self._failed.get(key, 0.0) < time.monotonic():
            self._wanted[key] = None
            self._lock.notify()

    def _make(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._wanted)
                if self._closed:
                    return
                key = next(iter(self._wanted))
            parent = None
            try:
                if self._outlets is None and self._sandbox.network.exists():
                    self._outlets = Outlets(self._sandbox.network)
                    self._outlets.want()
                parent = self._sandbox.warm(seed(key.template), str(key), self._outlets)
                log.info("warm_parent_ready", parent=str(key))
            except (Unforkable, SlipwayError, OSError) as error:
                self._failed[key] = time.monotonic() + _AGAIN
                log.warning("no_warm_parent", parent=str(key), reason=str(error))
            except Exception:  # the thread lives on
                self._failed[key] = time.monotonic() + _AGAIN
                log.exception("no_warm_parent", parent=str(key))
            with self._lock:
                self._wanted.pop(key, None)
                if parent:
                    self._parents[key] = parent
                while len(self._parents) > MOST:
                    self._parents.popitem(last=False)[1].close()

    def _reason(self, spec: FunctionSpec, bundle: Bundle) -> str:
        """Why functions of this bundle are not forked; looked at once."""
        key = (spec.namespace, spec.artifact)
        if key not in self._reasons:
            try:
                reason = _foreign(self._settings, spec, bundle)
            except Exception as error:  # of their files: whatever there may be in them
                reason = f"it cannot be compared with this installation's ({error!r:.200})"
            self._reasons[key] = reason
            if reason and bundle.template in TEMPLATES:
                log.info("not_forked", function=spec.function, reason=reason)
        return self._reasons[key]


def _same_start(bundle: Bundle, cell: Cell) -> bool:
    """Whether the interpreter would be started as the parent's was."""
    read = {name: value for name, value in cell.env.items() if _READ_AT_START.match(name)}
    expected = {name: value for name, value in _ENVIRONMENT.items() if name != "PATH"}
    places = {mount.target for mount in cell.mounts}
    return (
        read == expected
        and list(cell.argv) == bundle.process == ["python3", _FILES]
        and cell.cwd == HOME
        and places <= set(_PLACES)
    )


def _foreign(settings: Settings, spec: FunctionSpec, bundle: Bundle) -> str:
    """What of a bundle is not this installation's, or could be taken for what a parent has."""
    if bundle.template not in TEMPLATES:
        return "no template whose functions can be forked"
    app = bundle_folder(settings, spec.namespace, spec.artifact) / "app"
    ours = ROOT / "templates" / bundle.template
    names = [_FILES, *(f"{_PACKAGE}/{each.name}" for each in (ours / _PACKAGE).glob("*.py"))]
    for name in names:
        if not (app / name).is_file() or not filecmp.cmp(ours / name, app / name, shallow=False):
            return f"its {name} is not this installation's"
    layers = [each for each in bundle.layers if each.kind == "python"]
    if not layers:
        return "it has no packages"
    layer = layer_folder(settings, spec.namespace, layers[0])
    for ours_ in distributions(bundle.template):
        name = ours_.name
        found = next(iter(Distribution.discover(name=name, path=[str(layer)])), None)
        if found is None or _contents(found) != _contents(ours_):
            return f"its {name} is {found.version if found else 'not there'}, not {ours_.version}"
    hidden = {each.name.partition(".")[0] for folder in (app, layer) for each in folder.iterdir()}
    if hidden := hidden & {*sys.stdlib_module_names, "sitecustomize", "usercustomize"}:
        return f"its own {sorted(hidden)[0]} stands before the standard library's"
    return ""


_PLACES = (HOME, LAYER_MOUNTS["python"], "/var/openfaas/secrets")


def seed(template: str) -> Seed:
    """What a parent of a template is made of: its files and packages, where a function has them."""
    folder = ROOT / "templates" / template
    layer = LAYER_MOUNTS["python"]
    mounts = [
        Mount(folder / _FILES, f"{HOME}/{_FILES}"),
        Mount((folder / _PACKAGE).resolve(), f"{HOME}/{_PACKAGE}"),
    ]
    for each in distributions(template):
        for name in sorted({Path(str(file)).parts[0] for file in each.files or ()}):
            if name != ".." and (source := Path(str(each.locate_file(name)))).exists():
                mounts.append(Mount(source, f"{layer}/{name}"))
    return Seed(
        argv=["python3", _FILES],
        cwd=HOME,
        env=_ENVIRONMENT,
        imports=_IMPORTS,
        rehearsal=f"{_PACKAGE}.rehearsal",
        mounts=mounts,
        places=_PLACES,
    )


@functools.cache
def distributions(template: str) -> Sequence[Distribution]:
    """The packages that a template requires, and what these require, as installed here."""
    text = (ROOT / "templates" / template / "requirements.txt").read_text()
    todo = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, Distribution] = {}
    for wanted in todo:  # grows while it is walked
        if wanted.name.lower() in found or (
            wanted.marker and not wanted.marker.evaluate({"extra": ""})
        ):
            continue
        here = importlib.metadata.distribution(wanted.name)
        found[wanted.name.lower()] = here
        todo += map(Requirement, here.requires or ())
    return list(found.values())


def _contents(distribution: Distribution) -> set[tuple[str, str]]:
    """Files of the package and their digests, by its RECORD; not what installing it added."""
    return {
        (str(file), file.hash.value)
        for file in distribution.files or ()
        if file.hash
        and file.parts[0] not in ("..", "bin")
        and not file.parts[0].endswith(".dist-info")
        and file.suffix != ".pyc"
    }
