"""The artifact of the process provider: a content-addressed folder, and the layers it stands on.

    <state>/bundles/<namespace>/<sha256>/bundle.json   this module's Bundle
    <state>/bundles/<namespace>/<sha256>/app/          OpenFaaS' shrink-wrap layout, → /home/app
    <state>/layers/<namespace>/<digest>/               installed dependencies

Builder writes, runtime reads; both are read-only once they have their final name.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from core import names
from core.errors import InvalidRequest, NotFound, Unavailable
from core.models import Struct
from core.settings import Settings

PREFIX = "bundle:sha256:"
HOME = "/home/app"
"""Where a function finds its files."""
LAYER_MOUNTS = {
    "python": "/opt/slipway/layers/python",  # on PYTHONPATH
    "node": "/home/node_modules",  # found from /home/app by node's own search upwards
    "test": "/opt/slipway/layers/test",  # pytest; during the function's tests only
}


HALF_MADE = ".new-"
"""A folder of such a name is no bundle and no layer: the builder's sweep removes it."""


class Layer(Struct, frozen=True):
    """Installed dependencies of one kind: ``digest`` is the folder's name below layers/."""

    kind: Literal["python", "node", "test"]
    digest: str


class Bundle(Struct, frozen=True):
    """What a bundle's folder says of itself."""

    template: str
    process: list[str]
    """Argument vector of the function's server, as the template's ``fprocess`` gives it."""
    layers: list[Layer] = msgspec.field(default_factory=list)


def digest_of(artifact: str) -> str:
    """``bundle:sha256:<64 hex>`` → the digest; raises InvalidRequest for anything else."""
    digest = artifact.removeprefix(PREFIX)
    if artifact == digest or len(digest) != 64 or digest.strip("0123456789abcdef"):
        raise InvalidRequest(
            f"{artifact[:100]!r} is not a bundle: it has the form {PREFIX}<64 hex>"
        )
    return digest


def bundle_folder(settings: Settings, namespace: str, artifact: str) -> Path:
    """Where an owner's bundle lies, whether it is there or not."""
    return Path(f"{settings.bundles}/{names.namespace(namespace)}/{digest_of(artifact)}")


def layer_folder(settings: Settings, namespace: str, layer: Layer) -> Path:
    """Where an owner's layer lies, whether it is there or not."""
    return Path(f"{settings.layers}/{names.namespace(namespace)}/{layer.digest}")


class Torn(NotFound):
    """A bundle whose description cannot be understood."""


def read_bundle(settings: Settings, namespace: str, artifact: str) -> Bundle:
    """Reads a bundle's description.

    Raises:
        NotFound: the owner has no such bundle, or a layer of it is gone.
        Torn: its description is no such thing.
        Unavailable: it cannot be read now.
    """
    folder = bundle_folder(settings, namespace, artifact)
    try:
        bundle = msgspec.json.decode((folder / "bundle.json").read_bytes(), type=Bundle)
    except FileNotFoundError as error:
        raise NotFound(f"{namespace} has no {artifact}: push its repository again") from error
    except OSError as error:
        raise Unavailable(f"{artifact} of {namespace} cannot be read: {error}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise Torn(
            f"{artifact} of {namespace} is damaged ({error}): 'slipway redeploy' builds it anew"
        ) from error
    for layer in bundle.layers:
        if not layer_folder(settings, namespace, layer).is_dir():
            raise NotFound(f"the {layer.kind} dependencies of {artifact} are gone: push again")
    return bundle


def discard_bundle(
    settings: Settings, namespace: str, artifact: str, unneeded: Callable[[], bool] = lambda: True
) -> None:
    """Takes a bundle's name away; the builder's sweep removes the rest. May be repeated.

    ``unneeded`` is asked once nobody finds it any more; if it is not, it gets its name back.
    Layers stay: other bundles may stand on them.
    """
    folder = bundle_folder(settings, namespace, artifact)
    aside = folder.with_name(f"{HALF_MADE}{folder.name}-{secrets.token_hex(4)}")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    if not unneeded():
        with contextlib.suppress(OSError):  # the same was built again
            aside.rename(folder)
