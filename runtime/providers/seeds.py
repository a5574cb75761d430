"""What warm parents are made of, and which functions are like them.

A function is, if all that its interpreter would do before the function's own code is what a parent
has done: its server is the template's of this installation, byte for byte, started as the template
says, with the packages of this installation, and nothing of its own that an interpreter reads when
it starts or that would be found before what the parent has.

Packages that handlers ask for most are in a parent, too, for functions that have the very same
ones: all of it is this installation's, as root imports it.
"""

from __future__ import annotations

import filecmp
import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

from core.bundle import HOME, LAYER_MOUNTS, Bundle, bundle_folder, layer_folder
from core.models import FunctionSpec
from core.sandbox import PATH, Cell, Mount, Seed
from core.settings import ROOT, Settings

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
POPULAR = {"requests": ("requests",)}
"""Packages whose import takes long (45 ms and more) → what of them is imported."""
LOOKED_FOR = frozenset(
    ("backports", "brotli", "brotlicffi", "chardet", "OpenSSL", "simplejson", "socks")
)
"""What these look for and do without: with one of them a function would have others."""
PATCHES = frozenset(("eventlet", "gevent", "grequests"))
"""What changes the standard library before others import it."""
_PLACES = (HOME, LAYER_MOUNTS["python"], "/var/openfaas/secrets")


def same_start(bundle: Bundle, cell: Cell) -> bool:
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


def foreign(settings: Settings, spec: FunctionSpec, bundle: Bundle) -> str:
    """What of a bundle is not this installation's, or could be taken for what a parent has; empty:
    a parent is like it."""
    if bundle.template not in TEMPLATES:
        return "no template whose functions can be forked"
    app, layer = _folders(settings, spec, bundle)
    ours = ROOT / "templates" / bundle.template
    names = [_FILES, *(f"{_PACKAGE}/{each.name}" for each in (ours / _PACKAGE).glob("*.py"))]
    for name in names:
        if not (app / name).is_file() or not filecmp.cmp(ours / name, app / name, shallow=False):
            return f"its {name} is not this installation's"
    if layer is None:
        return "it has no packages"
    packages = distributions(bundle.template)
    if different := _different(packages, layer):
        return different
    standard = {*sys.stdlib_module_names, "sitecustomize", "usercustomize"}
    if hidden := standard & _top_levels(app, layer):
        return f"its own {min(hidden)} stands before the standard library's"
    if hidden := _names(packages) & _top_levels(app):
        return f"its own {min(hidden)} stands before the template's"
    return ""


def popular(settings: Settings, spec: FunctionSpec, bundle: Bundle) -> tuple[str, ...]:
    """Which of ``POPULAR`` a function that is not foreign has as this installation has them."""
    app, layer = _folders(settings, spec, bundle)
    if layer is None or (LOOKED_FOR | PATCHES) & _top_levels(app, layer):
        return ()
    if any(layer.glob("*.pth")):  # they may import, and the template has them read before all else
        return ()
    return tuple(
        name
        for name in POPULAR
        if not _different(closure((name,)), layer)
        and not _names(closure((name,))) & _top_levels(app)
    )


def seed(template: str, packages: Sequence[str] = ()) -> Seed:
    """What a parent of a template is made of: its files and packages, and those of ``POPULAR`` that
    are named, where a function has them."""
    folder = ROOT / "templates" / template
    layer = LAYER_MOUNTS["python"]
    mounts = [
        Mount(folder / _FILES, f"{HOME}/{_FILES}"),
        Mount((folder / _PACKAGE).resolve(), f"{HOME}/{_PACKAGE}"),
    ]
    there = {each.name: each for each in (*distributions(template), *closure(tuple(packages)))}
    for each in there.values():
        for name in _entries(each):
            if (source := Path(str(each.locate_file(name)))).exists():
                mounts.append(Mount(source, f"{layer}/{name}"))
    return Seed(
        argv=["python3", _FILES],
        cwd=HOME,
        env=_ENVIRONMENT,
        imports=[*_IMPORTS, *(module for name in packages for module in POPULAR[name])],
        rehearsal=f"{_PACKAGE}.rehearsal",
        mounts=mounts,
        places=_PLACES,
    )


def distributions(template: str) -> Sequence[Distribution]:
    """The packages that a template requires, and what these require, as installed here."""
    text = (ROOT / "templates" / template / "requirements.txt").read_text()
    lines = text.splitlines()
    return closure(tuple(line for line in lines if line and not line.startswith("#")))


@functools.cache
def closure(requirements: tuple[str, ...]) -> Sequence[Distribution]:
    """What is required, and what that requires, as installed here."""
    todo = list(map(Requirement, requirements))
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


def _folders(settings: Settings, spec: FunctionSpec, bundle: Bundle) -> tuple[Path, Path | None]:
    """Of the function's own files, and of its packages."""
    layers = [each for each in bundle.layers if each.kind == "python"]
    layer = layer_folder(settings, spec.artifacts_of, layers[0]) if layers else None
    return bundle_folder(settings, spec.artifacts_of, spec.artifact) / "app", layer


def _different(packages: Iterable[Distribution], layer: Path) -> str:
    """Which of these packages is another one in a layer."""
    for ours in packages:
        name = ours.name
        found = next(iter(Distribution.discover(name=name, path=[str(layer)])), None)
        if found is None or _contents(found) != _our_contents(ours):
            return f"its {name} is {found.version if found else 'not there'}, not {ours.version}"
    return ""


@functools.cache
def _entries(package: Distribution) -> list[str]:
    """Files and folders that a package consists of."""
    return sorted({Path(str(file)).parts[0] for file in package.files or ()} - {".."})


def _names(packages: Iterable[Distribution]) -> set[str]:
    return {name.partition(".")[0] for each in packages for name in _entries(each)}


def _top_levels(*folders: Path) -> set[str]:
    return {each.name.partition(".")[0] for folder in folders for each in folder.iterdir()}


@functools.cache
def _our_contents(distribution: Distribution) -> set[tuple[str, str]]:
    return _contents(distribution)


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
