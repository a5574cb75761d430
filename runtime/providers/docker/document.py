"""What a container carries: a signed document in its labels, from which it is found again.

    com.slipway.spec           the Document as JSON
    com.slipway.signature      hex HMAC-SHA-256 of exactly that text
    com.slipway.installation   which installation on this engine, to ask the engine for ours alone

Anyone can put labels on containers and images. What does not verify, or is not called what its
document says, is not ours: a copy of our labels on another container is one more such case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from core.models import FunctionSpec, Struct
from core.signing import sign, verify

SPEC, SIGNATURE = "com.slipway.spec", "com.slipway.signature"
INSTALLATION = "com.slipway.installation"
TEMPLATE = "com.slipway.template"
"""Of images that Slipway builds: the template's name."""
PORT = 8080
"""Where every image listens, as OpenFaaS has it."""


class Document(Struct, frozen=True):
    """All that the provider knows of a replica."""

    id: str
    """Also the container's name."""
    spec: FunctionSpec
    ip: str
    uid: int
    """Its user: also whom its secrets belong to."""
    memory: str
    """Its memory limit, as people wrote it."""
    started_at: float
    installation: str
    """``Settings.mark``."""
    gid: int = -1
    """Its group, where that is an image's own; -1: by the same number as its user."""
    image: str = ""
    """The foreign image that it runs, by digest or id."""

    @property
    def group(self) -> int:
        """The gid that it runs by."""
        return self.uid if self.gid < 0 else self.gid

    @property
    def address(self) -> str:
        return f"{self.ip}:{PORT}"


def labels(key: bytes, document: Document) -> dict[str, str]:
    """The labels of its container; they replace those that the image has by the same names."""
    text = msgspec.json.encode(document)
    return {
        SPEC: text.decode(),
        SIGNATURE: sign(key, text),
        INSTALLATION: document.installation,
    }


def ours(mark: str) -> str:
    """The label to filter by."""
    return f"{INSTALLATION}={mark}"


def read(
    key: bytes, mark: str, names: Collection[str], carried: Mapping[str, str]
) -> Document | None:
    """The document of a container with these names and labels; None: it is not ours."""
    text = carried.get(SPEC, "").encode()
    if not verify(key, text, carried.get(SIGNATURE, "")):
        return None
    try:
        document = msgspec.json.decode(text, type=Document)
    except msgspec.MsgspecError:  # of another version
        return None
    named = document.id in {name.removeprefix("/") for name in names}
    return document if named and document.installation == mark else None
