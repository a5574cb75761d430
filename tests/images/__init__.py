"""The images that docker-compose.yml and Dockerfile name, made from Debian packages: without a hub.

Each folder is one image's context. One that the engine has already, and that is not ours, is taken
as it is; ours are made anew when their files change.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from core.settings import ROOT
from engine.client import Engine

HERE = Path(__file__).parent
IMAGES = {
    "docker:28-cli": "docker",
    "redis:7-bookworm": "redis",
    "registry:2": "registry",
    "haproxy:2.8-bookworm": "haproxy",
}
_LABEL = "com.slipway.from-debian"
"""Of what was made here: a hash of its files."""


def make(engine: Engine) -> None:
    """Makes those that are missing or old; the base image is there.

    Raises:
        Unavailable, AssertionError: with what the engine said.
    """
    for name, folder in IMAGES.items():
        context = _context(HERE / folder)
        digest = hashlib.sha256(context).hexdigest()
        with engine.asking(f"the image {name}") as api:
            if api.images(name=name):
                labels = api.inspect_image(name)["Config"].get("Labels") or {}
                if labels.get(_LABEL, digest) == digest:
                    continue
            told = ""
            for line in api.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                tag=name,
                labels={_LABEL: digest},
                rm=True,
                forcerm=True,
                decode=True,
            ):
                told += line.get("stream", "")
                assert "error" not in line, f"{name}: {line['error']}\n{told[-3000:]}"


def _context(folder: Path) -> bytes:
    """A tar of its files, the same bytes for the same content."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files["constraints.txt"] = (ROOT / "constraints.txt").read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
