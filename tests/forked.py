"""Bundles whose functions are forked: the template's own files and this installation's packages."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from core.bundle import PREFIX, Bundle, Layer, layer_folder
from core.models import FunctionSpec
from core.settings import ROOT, Settings
from runtime.providers.process import ProcessProvider
from runtime.providers.seeds import closure, distributions
from tests.waiting import until

LAYER = Layer(kind="python", digest="b" * 64)
COMMAND = ["python3", "index.py"]


def bundle(
    settings: Settings,
    files: Mapping[str, str],
    template: str = "python3-http",
    owner: str = "demo",
    packages: Sequence[str] = (),
) -> str:
    """Makes the bundle of ``owner`` with these files over those of the template, and with these
    packages beside those of the template; its artifact."""
    told = [template, *sorted(files.items()), *packages]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    app = settings.bundles / owner / digest / "app"
    if app.exists():
        return PREFIX + digest
    shutil.copytree(ROOT / "templates" / template, app, ignore=shutil.ignore_patterns("__pyc*"))
    for name, text in files.items():
        (app / name).parent.mkdir(exist_ok=True)
        (app / name).write_text(text)
    kind = Layer(kind="python", digest=hashlib.sha256(repr(packages).encode()).hexdigest())
    used = kind if packages else LAYER
    made = Bundle(template=template, process=COMMAND, layers=[used])
    (app.parent / "bundle.json").write_bytes(msgspec.json.encode(made))
    layer = layer_folder(settings, owner, used)
    for each in (*distributions(template), *closure(tuple(packages))):
        for file in each.files or ():
            if ".." not in file.parts and not (layer / file).exists():
                (layer / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(str(file.locate())), layer / file)
    return PREFIX + digest


def warmed(provider: ProcessProvider, *artifacts: str, owner: str = "demo") -> ProcessProvider:
    """Returns once the parents of these are there, with children forked ahead."""
    provider.prepare(
        [FunctionSpec(name="any", namespace=owner, artifact=artifact) for artifact in artifacts]
    )
    warmth = provider._warmth
    until(lambda: warmth._parents and not warmth._wanted, why=lambda: str(warmth._reasons))
    until(lambda: all(each._spares for each in warmth._parents.values()))
    return provider
