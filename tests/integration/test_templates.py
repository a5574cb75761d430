"""Functions on templates that are not ours: from a git repository over HTTP, and out of the commit.

The template has the form of OpenFaaS' own (tests/projects/templates); the image of its watchdog is
made here, and has the name that OpenFaaS gives it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import secrets
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.key import why
from builder.templates import find_template
from core.errors import InvalidStack, SlipwayError, TestFailed
from core.settings import Settings
from core.store import Store, connect
from engine.client import Engine
from tests.conftest import missing
from tests.integration.docker_builds import (
    Workbench,
    answer,
    function,
    registry,
    stack,
    started,
    tidy,
)
from tests.unit.gitserver import forge
from tests.unit.repositories import BareRepository, Content
from tests.waiting import until

PROJECT = Path(__file__).parents[1] / "projects" / "templates"
WATCHDOG = Path(__file__).parents[1] / "images" / "of-watchdog" / "fwatchdog"
LANG = "snake-http-debian"
HANDLER = """\
import os

import loud


def handle(path):
    return loud.shout(f"{path} {os.environ.get('fprocess')} {open('/packages').read().strip()}")
"""
TEST = """\
import socket
import unittest

from handler import handle


class It(unittest.TestCase):
    def test_it(self):
        self.assertIn("/X", handle("/x"))
        with self.assertRaises(OSError):
            socket.create_connection(("192.0.2.1", 80), 1)
"""
OWNER = f"templates-{secrets.token_hex(4)}"
"""Not the owner of other tests: without a registry, images of one engine differ by that alone."""
on_docker = pytest.mark.engine


@functools.cache
def wheel() -> bytes:
    """A package that needs no registry."""
    files = {
        "loud.py": "def shout(text):\n    return text.upper()\n",
        "loud-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n",
        "loud-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    rows = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{name},sha256={digest.decode()},{len(text)}\n")
    files["loud-1.0.dist-info/RECORD"] = "".join(rows) + "loud-1.0.dist-info/RECORD,,\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


def theirs(**changed: Content) -> dict[str, Content]:
    """The repository of templates; ``changed`` files of the template ("_" for ".")."""
    found: dict[str, Content] = {
        str(path.relative_to(PROJECT)): path.read_bytes()
        for path in PROJECT.rglob("*")
        if path.is_file()
    }
    changes = {f"template/{LANG}/{name.replace('_', '.')}": text for name, text in changed.items()}
    return found | changes


def mine(*templates: str, more: str = "", lang: str = LANG) -> dict[str, Content]:
    """A user's repository."""
    named = "".join(f"  - {{name: {LANG}, source: '{source}'}}\n" for source in templates)
    configuration = f"configuration:\n  templates:\n{named}" if named else ""
    return {
        "stack.yml": stack(function("hello", lang, more)) + configuration,
        "hello/handler.py": HANDLER,
        "hello/test_handler.py": TEST,
        "hello/requirements.txt": "--no-index\n./loud-1.0-py3-none-any.whl\n",
        "hello/loud-1.0-py3-none-any.whl": wheel(),
    }


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def settings(folder: Path, valkey: str) -> Iterator[Settings]:
    (folder / "state").mkdir(mode=0o700)
    settings = Settings.from_env(
        {
            "SLIPWAY_STATE": str(folder / "state"),
            "SLIPWAY_REDIS_URL": valkey,
            "SLIPWAY_RUNTIME": "docker",
            "SLIPWAY_BUILD_TIMEOUT": "90s",
            "SLIPWAY_ALLOW_HOSTS": "127.0.0.1",
        }
    )
    if not Engine(settings.engine_url).alive():
        missing("a Docker engine")
    yield settings
    tidy(settings, OWNER)


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    engine = Engine(settings.engine_url)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def dog(folder: Path, engine: Engine) -> Iterator[str]:
    """The tag of OpenFaaS' watchdog that builds can stand on: as if it had been pulled."""
    if not shutil.which("docker-registry") and not shutil.which("registry"):
        missing("docker-registry, a registry for images")
    tag = f"0.10.1-{secrets.token_hex(8)}"
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as tar:
        tar.add(WATCHDOG, "fwatchdog")
    with registry(folder / "registry") as place, engine.asking("") as api:
        names = [f"{place}/of-watchdog", "ghcr.io/openfaas/of-watchdog"]
        api.import_image_from_data(files.getvalue(), repository=names[0], tag=tag)
        for told in api.push(names[0], tag, stream=True, decode=True):
            assert "error" not in told, told
        api.tag(f"{names[0]}:{tag}", names[1], tag, force=True)
    yield tag
    for name in names:
        with contextlib.suppress(SlipwayError), engine.asking("") as api:
            api.remove_image(f"{name}:{tag}")


@pytest.fixture
def bench(settings: Settings, valkey: str) -> Workbench:
    return Workbench(settings, Store(connect(valkey)), OWNER)


@pytest.fixture
def upstream(tmp_path: Path) -> BareRepository:
    return BareRepository(tmp_path / "forge" / "a" / "templates.git")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with forge(tmp_path / "forge") as (base, _):
        yield f"{base}/a/templates.git"


@on_docker
def test_a_template_in_openfaas_form_is_built_unmodified_and_runs(
    bench: Workbench, engine: Engine, dog: str, upstream: BareRepository, url: str
) -> None:
    first = upstream.commit(theirs())
    upstream.git("tag", "1.0", first)
    more = f"build_options: [xml, dev]\nbuild_args: {{DOG: {dog}, ADDITIONAL_PACKAGE: zip gcc}}"
    (job,) = bench.build(mine(f"{url}#1.0", more=more))
    assert job.tested
    assert job.spec.env_process == "python3 index.py"
    assert f"templates of {url}#1.0: commit {first}" in bench.log
    assert "testing without a network" in bench.log
    assert "8080" not in bench.log, "what its Dockerfile says is not this user's to mend"
    with started(engine, job) as (address, told):
        until(lambda: answer(f"{address}/_/health").status_code == 200, 20, "the watchdog says it")
        text = answer(f"{address}/a").text
    assert text == "/A PYTHON3 INDEX.PY PACKAGES: GCC LIBXML2-DEV MAKE ZIP"
    assert told["Config"]["User"] == "1234567:1234567"

    (again,) = bench.build(mine(f"{url}#1.0", more=more))
    assert again.reused, why(job.key.inputs, again.key.inputs)
    upstream.git("tag", "--force", "1.0", upstream.commit(theirs() | {"README": "another"}))
    (same,) = bench.build(mine(f"{url}#1.0", more=more))
    assert same.reused, "another commit, the same template"
    moved = upstream.commit(theirs(index_py=b"raise SystemExit\n"))
    upstream.git("tag", "--force", "1.0", moved)
    more += "\nfprocess: python3 -V"
    (changed,) = bench.build(mine(f"{url}#1.0", more=more))
    assert not changed.reused
    assert changed.spec.env_process == "python3 -V"
    assert f"templates of {url}#1.0: commit {moved}" in bench.log


@on_docker
def test_its_tests_are_run_or_left_out_as_the_function_says(bench: Workbench, dog: str) -> None:
    args = f"DOG: {dog}, TEST_COMMAND: 'echo the $LEGACY_FORM; exit 3'"
    with pytest.raises(TestFailed, match="the yes") as caught:
        bench.build({**mine(more=f"build_args: {{{args}}}"), **theirs()})
    assert caught.value.function == "hello"
    skipped = f"build_args: {{{args}, TEST_ENABLED: 'false'}}"
    (job,) = bench.build({**mine(more=skipped), **theirs()})
    assert not job.tested
    assert "tests are skipped: TEST_ENABLED is false" in bench.log
    text = theirs()[f"template/{LANG}/Dockerfile"]
    assert isinstance(text, bytes)
    tox = text.replace(b'TEST_COMMAND="python3 -m unittest"', b"TEST_COMMAND=tox")
    assert tox != text
    upstream = theirs(Dockerfile=tox)  # until 2026, where BuildKit never came to that stage
    (job,) = bench.build({**mine(more=f"build_args: {{DOG: {dog}}}"), **upstream})
    assert not job.tested
    assert "tests are skipped: the template runs tox" in bench.log
    asked = f"build_args: {{DOG: {dog}, TEST_ENABLED: 'true'}}"
    with pytest.raises(TestFailed):
        bench.build({**mine(more=asked), **upstream})


@on_docker
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("# syntax=evil/frontend\nFROM scratch\n", "the frontend 'evil/frontend' is a program"),
        ("FROM scratch\nADD https://example.com/x /x\n", "line 2: ADD https://example.com/x"),
        ("FROM scratch\nRUN --mount=type=secret,id=registries x\n", "builds are handed no secrets"),
        ("FROM scratch\nRUN --mount=type=ssh x\n", "no ssh agent"),
        ("FROM scratch\nRUN --network=host x\n", "only default and none are there"),
        ("FROM 127.0.0.1:1/evil/image\n", "is not outside"),
        ("FROM slipway/bob/fn:1\n", "another owner's image"),
        ("FROM $BASE_IMAGE\n", "cannot be told"),
        ("FROM a AS test\n", "the stage test is the last one"),
        (b"\xff", "not UTF-8"),
        ("FROM scratch\n#" + "x" * 200_000, "at most"),
    ],
)
def test_its_dockerfile_is_trusted_no_more_than_a_users(
    bench: Workbench, line: Content, told: str
) -> None:
    with pytest.raises(InvalidStack, match=told) as caught:
        bench.build({**mine(), **theirs(Dockerfile=line)})
    path = f"the Dockerfile of the template {LANG} (template/{LANG} of the commit)"
    assert f"line 4: {path}" in str(caught.value)


@on_docker
def test_mistakes_around_a_template(bench: Workbench, upstream: BareRepository, url: str) -> None:
    upstream.commit(theirs(template_yml="language: x\nmount_ssh: true\n"))
    with pytest.raises(InvalidStack) as caught:
        bench.build(mine(url))
    assert "line 2: mount_ssh: builds have no ssh agent" in str(caught.value)
    for more, said in (
        ("build_options: [tex]", "has no build option 'tex': it has dev, xml"),
        ("build_args: {HTTPS_PROXY: http://x}", "HTTPS_PROXY is this installation's to set"),
    ):
        with pytest.raises(InvalidStack, match=said):
            bench.build({**mine(more=more), **theirs()})
    files = theirs()
    del files[f"template/{LANG}/Dockerfile"]
    with pytest.raises(InvalidStack, match="has no Dockerfile: images cannot be made of it"):
        bench.build({**mine(), **files})
    with pytest.raises(InvalidStack, match=r"line 8: the template .* are not fetched from 'exam"):
        bench.build(mine("https://example.com/a/b"))


def test_a_template_in_the_form_of_ours_runs_as_a_process(
    valkey: str, tmp_path: Path, upstream: BareRepository, url: str
) -> None:
    ours = find_template("python3-http")
    files = {f"template/mine/{path}": real.read_bytes() for path, real in ours.files.items()}
    upstream.commit({**files, "template/mine/index.py": ours.files["index.py"].read_bytes()})
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    here = replace(
        Settings(), state=state, redis_url=valkey, runtime="process", allow_hosts=("127.0.0.1",)
    )
    bench = Workbench(here, Store(connect(valkey)))
    named = f"configuration:\n  templates:\n  - {{name: mine, source: '{url}'}}\n"
    (job,) = bench.build(
        {
            "stack.yml": stack(function("hello", "mine")) + named,
            "hello/handler.py": "def handle(event, context):\n    return 'ahoy'\n",
            "hello/handler_test.py": "from . import handler\ndef test_it():\n    assert handler\n",
        }
    )
    assert job.tested
    assert job.artifact.startswith("bundle:sha256:")
    with pytest.raises(InvalidStack, match="needs the docker runtime, and here functions run as"):
        bench.build({**mine(), **theirs()})
