"""Images from commits, with the real engine, BuildKit and registry: built, tested, pushed, run."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import jobs
from builder.engines import imagetests
from builder.engines.workshop import Workshop
from builder.lease import Lease
from builder.templates import find_template
from core.errors import BuildFailed, Conflict, InvalidStack, SlipwayError, TestFailed
from core.images import check_owned
from core.models import State
from core.settings import Settings
from core.stackfile import StackFunction
from core.store import Store, connect
from engine.client import Engine
from gateway.progress import one_line
from tests.conftest import missing
from tests.integration.docker_builds import (
    HELLO,
    Workbench,
    answer,
    function,
    registry,
    sleeping,
    stack,
    started,
    tidy,
)
from tests.integration.gateway import harness
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.network]

TEST = "from .handler import handle\n\ndef test_it():\n    {}\n"
BASE = "FROM python:3.11-slim-bookworm\n"
SERVE = 'EXPOSE 8080\nCMD ["python3", "-m", "http.server", "8080"]\n'


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[str]:
    if not shutil.which("docker-registry") and not shutil.which("registry"):
        missing("docker-registry, a registry for images")
    with registry(folder / "registry") as name:
        yield name


@pytest.fixture(scope="module")
def settings(folder: Path, place: str, valkey: str) -> Iterator[Settings]:
    """One state folder for all, so that what is installed once is there for the next."""
    (folder / "state").mkdir(mode=0o700)
    settings = Settings.from_env(
        {
            "SLIPWAY_STATE": str(folder / "state"),
            "SLIPWAY_REDIS_URL": valkey,
            "SLIPWAY_RUNTIME": "docker",
            "SLIPWAY_REGISTRY": place,
            "SLIPWAY_BUILD_TIMEOUT": "90s",
        }
    )
    if not Engine(settings.engine_url).alive():
        missing("a Docker engine")
    yield settings
    tidy(settings)


@pytest.fixture
def bench(settings: Settings, valkey: str) -> Workbench:
    return Workbench(settings, Store(connect(valkey)))


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = Engine(settings.engine_url)
    yield engine
    engine.close()


def python(
    handler: str = HELLO, test: str = "", lang: str = "python3-http", more: str = ""
) -> dict[str, Any]:
    files = {"stack.yml": stack(function("hello", lang, more)), "hello/handler.py": handler}
    if test:
        files["hello/handler_test.py"] = TEST.format(test)
    return files


def own(dockerfile: str, more: str = "", **files: str) -> dict[str, Any]:
    """A Dockerfile function."""
    return {
        "stack.yml": stack(function("web", "dockerfile", more)),
        "web/Dockerfile": dockerfile,
        **{f"web/{name.replace('_', '.')}": text for name, text in files.items()},
    }


def leftovers(engine: Engine, settings: Settings) -> list[str]:
    """Containers of tests and images on the way."""
    with engine.asking("") as api:
        found = [
            each["Id"] for each in api.containers(all=True, filters={"label": imagetests.LABEL})
        ]
        tags = [tag for each in api.images() for tag in each["RepoTags"] or []]
    return found + [tag for tag in tags if tag.startswith(f"slipway-build:{settings.mark}-")]


# Templates


@pytest.mark.parametrize(
    ("lang", "files"),
    [
        ("python3-http", {"handler.py": HELLO, "requirements.txt": "six\n"}),
        (
            "python3-flask",
            {
                "handler.py": "import six\n\ndef handle(req):\n    return 'ahoy'\n",
                "requirements.txt": "six\n",
            },
        ),
        (
            "node",
            {
                "handler.js": "const n = require('left-pad')\n"
                "module.exports = async (event, context) => context.succeed('ahoy')\n",
                "package.json": '{"dependencies": {"left-pad": "1.3.0"},'
                ' "scripts": {"test": "node --test"}}',
                "handler.test.js": "require('node:test')('it', () => require('./handler'))\n",
            },
        ),
    ],
)
def test_a_template_function_is_built_pushed_and_runs(
    bench: Workbench, engine: Engine, settings: Settings, lang: str, files: dict[str, str]
) -> None:
    content = {"stack.yml": stack(function("hello", lang))}
    content |= {f"hello/{name}": text for name, text in files.items()}
    (job,) = bench.build(content)
    check_owned(settings, "ann", job.artifact)
    assert job.tested is (lang == "node")
    with started(engine, job) as (url, told):
        assert answer(url).text == "ahoy"
        assert answer(f"{url}/_/health").status_code == 200
    assert told["Config"]["Labels"]["com.slipway.template"] == lang
    assert told["Config"]["Cmd"] == job.template.process
    assert not told["Config"]["Entrypoint"]
    with engine.asking("") as api:
        user = api.inspect_image(job.artifact)["Config"]["User"]
    assert user == "65534:65534"
    assert not leftovers(engine, settings)


def test_the_same_is_not_built_again_and_a_change_is(bench: Workbench) -> None:
    (first,) = bench.build(python())
    (second,) = bench.build(python())
    assert second.reused
    assert second.artifact == first.artifact
    (third,) = bench.build(python(HELLO + "# changed\n"))
    assert not third.reused
    assert third.artifact != first.artifact
    assert "installing" not in bench.log
    assert "Resolved" not in bench.log, "the dependencies came out of the cache"


def test_a_release_is_taken_by_the_gateway(
    settings: Settings, short_tmp: Path, store: Store
) -> None:
    docker = {"SLIPWAY_RUNTIME": "docker", "SLIPWAY_REGISTRY": settings.registry}
    with harness.running(short_tmp, settings.redis_url, **docker) as gateway:
        bench = Workbench(gateway.settings, store)
        release = bench.push(python(test="assert handle(None, None)"))
        with Lease(store, release.id) as lease:
            jobs._build(release.id, gateway.settings, store, lease)
        done = store.release(release.id)
        assert done.state is State.STAGING, (done.reason, bench.log)
        (artifact,) = store.artifacts(release.id)
        assert artifact.artifact.startswith(f"{settings.registry}/ann/hello@sha256:")


def test_build_arguments_and_packages_of_the_stack_file_reach_the_build(bench: Workbench) -> None:
    args = (
        "build_args:\n  WHO: me\n  TEST_COMMAND: python3 -c 'import os; print(os.environ[\"WHO\"])'"
    )
    (job,) = bench.build(python(more=args))
    assert job.tested
    assert "\nme\n" in f"{bench.log}\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("HTTPS_PROXY", "HTTPS_PROXY is this installation's to set"),
        ("BUILDKIT_SYNTAX", "BUILDKIT_SYNTAX is this installation's to set"),
        ("BASE_IMAGE", "BASE_IMAGE is this installation's to set"),
    ],
)
def test_arguments_that_are_not_theirs(bench: Workbench, name: str, told: str) -> None:
    with pytest.raises(InvalidStack, match=told):
        bench.build(python(more=f"build_args: {{{name}: evil}}"))


def test_mistakes_of_requirements_are_told_as_ever(bench: Workbench) -> None:
    files = python() | {"hello/requirements.txt": "six\n--index-url http://evil\n"}
    with pytest.raises(BuildFailed, match="line 2: --index-url is not allowed"):
        bench.build(files)
    files["hello/requirements.txt"] = "no-such-package-of-anybody==9.9\n"
    with pytest.raises(BuildFailed, match="the dependencies were not installed"):
        bench.build(files)


def test_why_packages_are_not_installed_is_told_within_a_reason(bench: Workbench) -> None:
    """Not by our own command line, and not by npm's list of options."""
    files = python() | {"hello/requirements.txt": "no-such-package-xyzzy-1\n"}
    node: dict[str, Any] = {
        "stack.yml": stack(function("hello", "node")),
        "hello/handler.js": "module.exports = async () => 'ahoy'\n",
        "hello/package.json": '{"dependencies": {"left-pad": "1.3.0"}}',
        "hello/package-lock.json": '{"lockfileVersion": 3, "packages": {"": {}}}',
    }
    for content, cause in (
        (files, "no-such-package-xyzzy-1 was not found in the package registry"),
        (node, "Missing: left-pad@1.3.0 from lock file"),
    ):
        with pytest.raises(BuildFailed) as caught:
            bench.build(content)
        told = one_line(jobs._told(caught.value))
        assert told.startswith("hello build: the dependencies were not installed; ")
        assert cause in told
        assert "/run/secrets" not in told


def test_uv_and_npm_read_only_what_the_builder_wrote(bench: Workbench) -> None:
    """Options that our reader takes for a comment, and a user's own registry, come to nothing."""
    index = "--extra-index-url http://127.0.0.1:1/${UV_INDEX_CORP_PASSWORD}/simple"
    files = python(more="build_args: {TEST_COMMAND: cat ../.dependencies/requirements.txt}")
    bench.build(files | {"hello/requirements.txt": f"six # x \\\n{index}\n"})
    assert "\nsix\n" in bench.log
    assert "127.0.0.1:1" not in bench.log
    lock = {
        "lockfileVersion": 3,
        "packages": {
            "": {"dependencies": {"left-pad": "1.3.0"}},
            "node_modules/left-pad": {
                "version": "1.3.0",
                "resolved": "http://127.0.0.1:1/left-pad/-/left-pad-1.3.0.tgz",
            },
        },
    }
    node = {
        "stack.yml": stack(function("hello", "node")),
        "hello/handler.js": "require('left-pad')\nmodule.exports = async () => 'ahoy'\n",
        "hello/package.json": '{"dependencies": {"left-pad": "1.3.0"}}',
        "hello/.npmrc": "registry=http://127.0.0.1:1/\nignore-scripts=false\n",
    }
    bench.build(node)
    bench.build(node | {"hello/package-lock.json": json.dumps(lock)})


@pytest.mark.parametrize(
    "packages",
    ["-oAPT::Update::Pre-Invoke::=id", "curl --reinstall", "./x.deb", "a/sid", "X", "$A"],
)
def test_additional_packages_are_packages(bench: Workbench, packages: str) -> None:
    with pytest.raises(InvalidStack, match="not the name of a Debian package"):
        bench.build(python(more=f"build_args: {{ADDITIONAL_PACKAGE: '{packages}'}}"))


def test_names_of_debian_packages_are_taken(bench: Workbench) -> None:
    names = "libstdc++6 libc6:amd64 curl=7.88.1-10+deb12u8 g++"
    shop = Workshop(bench.settings)
    of = StackFunction(
        name="f", lang="node", handler=".", lines={}, build_args={"ADDITIONAL_PACKAGE": names}
    )
    told = shop.arguments(of, find_template("node"))["ADDITIONAL_PACKAGE"]
    assert sorted(told.split()) == sorted(names.split())


# Tests of the function


def test_a_failing_test_fails_the_release(
    bench: Workbench, engine: Engine, settings: Settings
) -> None:
    with pytest.raises(TestFailed) as caught:
        bench.build(python(test="assert 'that' == 'this'"))
    assert (caught.value.function, caught.value.step) == ("hello", "test")
    assert "exited with status 1" in str(caught.value)
    told = one_line(jobs._told(caught.value))
    assert told.startswith("hello test: the tests failed: pytest exited with status 1; ")
    assert "FAILED handler_test.py::test_it - AssertionError" in told
    assert not leftovers(engine, settings)


def test_what_tests_can_do(bench: Workbench) -> None:
    lines = [
        "import os, socket, pathlib, resource",
        "assert os.getuid() == 65534",
        "pathlib.Path('/tmp/x').write_text('')",
        "assert not os.access('/home/app', os.W_OK)",
        "status = pathlib.Path('/proc/self/status').read_text()",
        "assert 'CapEff:\\t0000000000000000' in status and 'NoNewPrivs:\\t1' in status",
        "assert [n for _, n in socket.if_nameindex()] == ['lo']",
        "try: pathlib.Path('/home/x').write_text('')",
        "except OSError as e: assert e.errno == 30",
        "else: assert False",
    ]
    (job,) = bench.build(python(test="\n    ".join(lines)))
    assert job.tested


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("bytearray(2**28)", r"more memory than 64 MiB"),
        ("print('x' * 2**20, flush=True); import os; os.write(1, b'x' * 2**20)", "wrote more than"),
        ("import time; time.sleep(600)", r"ended after 6 s \(SLIPWAY_BUILD_TIMEOUT\)"),
        (
            "import os\n    while True:\n        os.fork() or __import__('time').sleep(60)",
            r"at most 64 processes|ended after|exited with status|more memory",
        ),
    ],
)
def test_tests_are_bounded(
    bench: Workbench, settings: Settings, engine: Engine, test: str, told: str
) -> None:
    bench.build(
        python(test="pass")
    )  # with all that is installed once, the bounds are the tests' own
    small = replace(
        settings, build_memory=64 * 2**20, build_timeout=6.0, build_output=2**17, function_pids=64
    )
    begun = time.monotonic()
    with pytest.raises(TestFailed, match=told):
        Workbench(small, bench.store).build(
            python(test=test, more="build_args: {TEST_COMMAND: 'pytest -s'}")
        )
    assert time.monotonic() - begun < 40
    assert not leftovers(engine, settings)


BOUND = 2**17


@pytest.mark.parametrize(
    ("script", "ran", "last"),
    [
        # Just below the bound, and above it; of the shortest lines, of short ones, and of none.
        (f"head -c {BOUND - 100} /dev/zero | tr '\\0' '\\n'; echo END; exit 3", 3, "END"),
        (f"yes {'y' * 28} | head -n {BOUND // 29 - 9}; echo END; exit 3", 3, "END"),
        (f"head -c {BOUND - 100} /dev/zero | tr '\\0' x; printf END; exit 3", 3, "xEND"),
        (f"head -c {BOUND + 100} /dev/zero | tr '\\0' '\\n'; exit 3", "output", ""),
        (f"yes {'y' * 28} | head -n {BOUND // 29 + 9}; exit 3", "output", "yyy"),
        ("yes", "output", "y"),
        ("tr '\\0' x < /dev/zero", "output", "xxx"),
        ("printf 'a prompt: '; exec >&- 2>&-; sleep 1; exit 3", 3, "a prompt: "),
    ],
    ids=["empty", "short", "one", "empty-over", "short-over", "endless", "endless-one", "closed"],
)
def test_output_of_tests_is_bounded_by_its_bytes_and_its_end_is_told(
    engine: Engine, settings: Settings, script: str, ran: int | str, last: str
) -> None:
    lines: list[str] = []
    found = imagetests.run(
        engine,
        replace(settings, build_output=BOUND),
        settings.python_image,
        argv=["sh", "-c", script],
        env={},
        folder=None,
        tmp=2**20,
        on_line=lines.append,
        stop=lambda: False,
    )
    assert (found.outcome, found.status) == (("exited", ran) if ran == 3 else (ran, 137))
    assert lines[-1].endswith(last)
    if ran == "output":
        assert sum(len(line) + 1 for line in lines) > BOUND, "what was written up to there is told"
    assert not leftovers(engine, settings)


def test_who_reads_the_output_of_tests_slowly_misses_nothing(
    engine: Engine, settings: Settings
) -> None:
    """The engine waits for two seconds after the end, and then drops what was not read."""
    lines: list[str] = []

    def slowly(line: str) -> None:
        if not lines:
            until(lambda: "Exited" in states(engine), 20)
        lines.append(line)

    found = imagetests.run(
        engine,
        replace(settings, build_output=2**22),
        settings.python_image,
        argv=["sh", "-c", f"yes {'y' * 28} | head -n 100000; echo END"],
        env={},
        folder=None,
        tmp=2**20,
        on_line=slowly,
        stop=lambda: False,
    )
    assert found == imagetests.Ran("exited", 0)
    assert (len(lines), lines[-1]) == (100_001, "END")


def test_a_flood_of_a_node_functions_tests_is_ended(bench: Workbench, settings: Settings) -> None:
    flood = "for i in $(seq 300000); do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyy; done; exit 0"
    files: dict[str, Any] = {
        "stack.yml": stack(function("hello", "node")),
        "hello/handler.js": "module.exports = async () => 'ahoy'\n",
        "hello/package.json": json.dumps({"scripts": {"test": flood}}),
    }
    with pytest.raises(TestFailed, match=f"wrote more than {settings.build_output} bytes"):
        bench.build(files)


def test_a_cancelled_release_ends_its_tests_at_once(
    bench: Workbench, engine: Engine, settings: Settings
) -> None:
    bench.build(python(test="pass"))
    cancelled: list[float] = []

    def cancel() -> None:
        while not leftovers(engine, settings) or "slipway" not in running(engine):
            time.sleep(0.1)
        cancelled.append(time.monotonic())
        bench.ended.set()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(Conflict):
        bench.build(python(test="import time; time.sleep(600)"))
    assert time.monotonic() - cancelled[0] < 15
    assert not leftovers(engine, settings)


def test_a_container_of_tests_gets_nothing_of_the_host(
    engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its user's proxy, nor an unbounded folder, nor orders to programs on it."""
    image = f"slipway-build:{settings.mark}-volumes"
    with engine.asking("") as api:
        text = f"{BASE}VOLUME /data /tmp\nLABEL traefik.enable=true\nUSER 4:4\n".encode()
        assert list(api.build(fileobj=io.BytesIO(text), tag=image, decode=True))
    proxies = {"default": {"httpProxy": "http://user:s3cret@proxy:3128"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    asked, lines, seen = Engine(settings.engine_url), [], []

    def look(line: str) -> None:
        lines.append(line)
        if not seen:
            with engine.asking("") as api:
                filters = {"label": f"{imagetests.LABEL}={settings.mark}"}
                seen.extend(api.inspect_container(e["Id"]) for e in api.containers(filters=filters))

    script = "set; echo x > /data/x; echo x > /tmp/x; head -c 9000000 /dev/zero > /data/y; sleep 2"
    try:
        ran = imagetests.run(
            asked,
            settings,
            image,
            argv=["sh", "-c", script],
            env={},
            folder=None,
            tmp=2**22,
            on_line=look,
            stop=lambda: False,
        )
    finally:
        asked.close()
        with engine.asking("") as api:
            api.remove_image(image, force=True)
    assert ran == imagetests.Ran("exited", 0)
    assert "s3cret" not in "\n".join(lines)
    assert "No space left on device" in "\n".join(lines)
    assert {each["Type"] for each in seen[0]["Mounts"]} <= {"tmpfs"}
    assert seen[0]["Config"]["Labels"]["traefik.enable"] == ""


def states(engine: Engine) -> str:
    """Of containers of tests."""
    with engine.asking("") as api:
        found = api.containers(all=True, filters={"label": imagetests.LABEL})
    return " ".join(each["Status"] for each in found)


def running(engine: Engine) -> str:
    with engine.asking("") as api:
        found = api.containers(filters={"label": imagetests.LABEL})
    return " ".join(name for each in found for name in each["Names"])


def test_containers_of_a_killed_worker_are_swept(engine: Engine, settings: Settings) -> None:
    script = (
        "import sys\nfrom core.settings import Settings\nimport os\n"
        "from engine.client import Engine\nfrom builder.engines import imagetests\n"
        "s = Settings.from_env(os.environ)\n"
        "imagetests.run(Engine(s.engine_url), s, s.python_image, argv=['sleep', '600'], env={},\n"
        "  folder=None, tmp=2**20, on_line=print, stop=lambda: False)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PATH": "/usr/bin:/bin", **settings.environment()},
        cwd=Path(__file__).parents[2],
    )
    try:
        until(lambda: running(engine), 20)
        assert imagetests.sweep(engine, settings) == 0, "its worker lives"
    finally:
        worker.kill()
        worker.wait()
    assert imagetests.sweep(engine, settings) == 1
    assert not leftovers(engine, settings)


# Dockerfiles of their own


SEALED = (
    f"# syntax=docker/dockerfile:1\n{BASE.strip()} AS base\nWORKDIR /srv\nCOPY app.py .\n"
    "FROM base AS test\nCOPY check.py .\nRUN python3 check.py\n{}FROM base\n" + SERVE
)
OFFLINE = (
    "import socket\n"
    "try: socket.create_connection(('1.1.1.1', 443), 3)\n"
    "except OSError as e: assert e.errno == 101; print('offline')\n"
    "else: raise SystemExit('there is a network')\n"
)


def test_the_stage_test_runs_without_a_network_and_every_time(
    bench: Workbench, engine: Engine, settings: Settings
) -> None:
    files = own(SEALED.format(""), app_py="1", check_py=OFFLINE)
    (job,) = bench.build(files)
    assert job.tested
    assert "offline" in bench.log
    with started(engine, job) as (url, _):
        assert "app.py" in answer(url).text
        assert "check.py" not in answer(url).text
    files["web/other"] = "changed, but nothing that the test copies"
    bench.build(files)
    assert "offline" in bench.log, "it ran again"
    assert not leftovers(engine, settings)


def test_a_failing_stage_test_fails_the_release(
    bench: Workbench, engine: Engine, settings: Settings
) -> None:
    with pytest.raises(TestFailed, match=r"the tests failed: .*\n(.*\n)*.*no, 3 is not 4"):
        bench.build(own(SEALED.format(""), app_py="1", check_py="exit('no, 3 is not 4')"))
    told = 'CMD ["python3", "-c", "import os; print(os.getuid()); exit(9)"]\n'
    with pytest.raises(TestFailed, match=r"exited with status 9\n65534"):
        bench.build(own(SEALED.format(told), app_py="1", check_py=OFFLINE))
    assert not leftovers(engine, settings)


def test_tests_can_be_switched_off_by_the_function_alone(bench: Workbench) -> None:
    more = "build_args: {TEST_ENABLED: 'false'}"
    (job,) = bench.build(own(SEALED.format(""), more, app_py="1", check_py="exit(1)"))
    assert not job.tested
    assert "tests are skipped" in bench.log


def test_caches_of_another_owner_are_not_found(bench: Workbench, settings: Settings) -> None:
    mine = (
        BASE + "RUN --mount=type=cache,id=uv,target=/c cat /c/mark || echo ann > /c/mark\n" + SERVE
    )
    bench.build(own(mine))
    bench.build(own(mine + "# once more\nLABEL a=b\n".replace("# once more\n", "")))
    again = mine.replace("|| echo ann > /c/mark", "# again")
    bench.build(own(again))
    assert "\nann\n" in bench.log
    with pytest.raises(BuildFailed, match="No such file"):
        Workbench(settings, bench.store, "bob").build(own(again))


def test_a_build_without_egress_reaches_nothing(bench: Workbench, settings: Settings) -> None:
    closed = Workbench(replace(settings, build_egress=False), bench.store)
    once = f"ENV NOW={time.time()}\n"  # so that it does not come out of the cache
    closed.build(own(BASE + f"{once}COPY x.py .\nRUN python3 x.py\n{SERVE}", x_py=OFFLINE))
    assert "offline" in closed.log


def test_what_is_missing_is_told(bench: Workbench) -> None:
    files = own(BASE)
    del files["web/Dockerfile"]
    with pytest.raises(InvalidStack, match="line 4: lang dockerfile wants a file web/Dockerfile"):
        bench.build(files | {"web/x": ""})
    bench.build(own(BASE + 'CMD ["true"]\n'))
    assert "warning: nothing exposes port 8080" in bench.log


def test_a_copied_dockerfile_is_held_to_the_rules_too(bench: Workbench) -> None:
    files = own(BASE + SERVE, "build_args: {A: b}") | {"Dockerfile": BASE + "ADD http://x /x\n"}
    files["stack.yml"] += "configuration: {copy: [Dockerfile]}\n"
    with pytest.raises(InvalidStack, match="itself would fetch a URL"):
        bench.build(files)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("RUN yes 1234567", r"printed more than \d+ bytes \(SLIPWAY_BUILD_OUTPUT\)"),
        ("RUN yes 1234567 | tr -d '\\n'", "printed more|ended after"),
        ("RUN sleep 614", r"ended after 5 s \(SLIPWAY_BUILD_TIMEOUT\)"),
        ("RUN exit 3", "exit code: 3"),
        ("COPY nothing /x", "nothing"),
    ],
)
def test_builds_are_bounded_and_say_why_they_failed(
    bench: Workbench, settings: Settings, line: str, told: str
) -> None:
    small = replace(settings, build_timeout=5.0, build_output=2**17)
    begun = time.monotonic()
    with pytest.raises(SlipwayError, match=told):
        Workbench(small, bench.store).build(own(f"{BASE}{line}\n{SERVE}"))
    assert time.monotonic() - begun < 40
    until(lambda: not sleeping("sleep 614"), 5)


def test_a_cancelled_release_ends_its_build_at_once(bench: Workbench) -> None:
    cancelled: list[float] = []

    def cancel() -> None:
        until(lambda: sleeping("sleep 615"), 30)
        cancelled.append(time.monotonic())
        bench.ended.set()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(Conflict):
        bench.build(own(BASE + "RUN sleep 615\n"))
    assert time.monotonic() - cancelled[0] < 15
    until(lambda: not sleeping("sleep 615"), 5)


def test_a_build_ends_with_its_worker(settings: Settings) -> None:
    script = (
        "import os, sys\nfrom core.settings import Settings\nfrom builder.engines import buildkit\n"
        "cli = buildkit.find(Settings.from_env(os.environ), os.environ['PATH'])\n"
        "cli.run(['build', '--no-cache', sys.argv[1]])\n"
    )
    context = settings.state / "killed"
    context.mkdir()
    (context / "Dockerfile").write_text(BASE + "RUN sleep 616\n")
    worker = subprocess.Popen(
        [sys.executable, "-c", script, str(context)],
        env={"PATH": "/usr/bin:/bin", **settings.environment()},
        cwd=Path(__file__).parents[2],
    )
    try:
        until(lambda: sleeping("sleep 616"), 30)
    finally:
        worker.kill()
        worker.wait()
    until(lambda: not sleeping("sleep 616"), 5)
