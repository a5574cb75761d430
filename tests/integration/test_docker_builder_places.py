"""Where images come from and go to: registries that fail, engines of one's own, base images."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socketserver
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder import jobs
from builder.engines import buildkit, imagebuild, imageuse
from builder.engines import registry as registries
from builder.engines.docker import DockerEngine
from builder.lease import Lease
from core.errors import (
    BuildFailed,
    ConfigError,
    InvalidRequest,
    SlipwayError,
    Unavailable,
)
from core.images import check_owned
from core.models import State
from core.settings import Settings
from core.store import Store
from engine.client import Engine
from tests.conftest import missing
from tests.engines import PrivateEngine
from tests.integration import docker_builds
from tests.integration.docker_builds import (
    Workbench,
    function,
    registry,
    sleeping,
    stack,
    tidy,
)
from tests.waiting import until

pytestmark = pytest.mark.engine

IMAGE = "python:3.11-slim-bookworm"
SMALL = {
    "stack.yml": stack(function("web", "dockerfile")),
    "web/Dockerfile": "FROM scratch\nCOPY x /x\nEXPOSE 8080\n",
    "web/x": "x",
}
"""An image of one small file: what is tried is not its build."""


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """Without a registry."""
    docker = replace(settings, runtime="docker", build_timeout=60.0)
    if not Engine(docker.engine_url).alive():
        missing("a Docker engine")
    yield docker
    for owner in ("ann", "bob"):
        tidy(docker, owner)


@pytest.fixture
def place(short_tmp: Path) -> Iterator[str]:
    if not shutil.which("docker-registry") and not shutil.which("registry"):
        missing("docker-registry, a registry for images")
    with registry(short_tmp / "registry") as name:
        yield name


@pytest.fixture
def private(short_tmp: Path) -> Iterator[PrivateEngine]:
    """An engine for builds."""
    if not shutil.which("dockerd"):
        missing("dockerd, for an engine of the tests' own")
    (short_tmp / "d").mkdir()
    engine = PrivateEngine(short_tmp / "d")
    try:
        engine.start()
        yield engine
    finally:
        engine.remove()


def tags_of(engine: PrivateEngine) -> list[str]:
    asked = Engine(engine.url)
    with asked.asking("") as api:
        tags = [tag for each in api.images() for tag in each["RepoTags"] or []]
    asked.close()
    return tags


def changed(text: str) -> dict[str, str]:
    return {**SMALL, "web/x": text}


# Registries


def test_a_registry_that_is_down_fails_the_release_and_loses_nothing(
    settings: Settings, store: Store, short_tmp: Path
) -> None:
    away = replace(settings, registry="127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"the registry 127\.0\.0\.1:1 does not take images now"):
        Workbench(away, store).build(SMALL)
    with registry(short_tmp / "r") as name:
        here = replace(settings, registry=name)
        bench = Workbench(here, store)
        (first,) = bench.build(SMALL)
        tidy(here)
        (again,) = bench.build(SMALL)
        assert again.reused, "the registry has it"
    tidy(here)
    with pytest.raises(Unavailable, match="does not take images now"):
        bench.build(SMALL)  # and nobody can tell whether it has it
    assert first.artifact.startswith(f"{name}/ann/web@")
    tidy(away)


def test_what_the_registry_lost_is_built_again(
    settings: Settings, store: Store, short_tmp: Path
) -> None:
    with registry(short_tmp / "one") as name:
        here = replace(settings, registry=name)
        bench = Workbench(here, store)
        (first,) = bench.build(SMALL)
        tidy(here)
        shutil.rmtree(short_tmp / "one" / "data" / "docker")
        (again,) = bench.build(SMALL)
        assert not again.reused
        assert again.artifact.startswith(f"{name}/ann/web@sha256:")
        assert first.artifact
        tidy(here)


def test_a_registry_that_fails_half_way(settings: Settings, store: Store, place: str) -> None:
    fails = {"now": True}
    with docker_builds.failing(
        place, lambda method, path: fails["now"] and method == "PATCH" and "/web/" in path
    ) as proxy:
        here = replace(settings, registry=proxy.name)
        bench = Workbench(here, store)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=r"does not take images now .*500"):
            bench.build(changed("half way"))
        assert proxy.failed > 1, "the engine tries a few times, and nobody else"
        assert time.monotonic() - begun < 90
        engine = Engine(here.engine_url)
        with engine.asking("") as api:
            assert not api.images(name=f"{proxy.name}/ann/web")
        engine.close()
        fails["now"] = False
        (job,) = bench.build(changed("half way"))
        check_owned(here, "ann", job.artifact)
        tidy(here)


def test_a_registry_that_is_slow(
    settings: Settings, store: Store, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it answers at all, a push has the time of a build step."""
    monkeypatch.setattr(registries, "SILENT", 3.0)
    monkeypatch.setattr(registries, "_ASK_EVERY", 0.5)
    waiting = threading.Event()
    seconds = {"POST": 9.0}

    def slow(method: str, _: str) -> bool:
        return waiting.wait(seconds.get(method, 0.0)) and False

    with docker_builds.failing(place, slow) as proxy:
        here = replace(settings, registry=proxy.name)
        (job,) = Workbench(here, store).build(changed("slow"))
        check_owned(here, "ann", job.artifact)
        tidy(here)

        hasty = replace(here, build_timeout=12.0)
        with pytest.raises(Unavailable, match="the push took longer than 12 s"):
            Workbench(hasty, store).build(changed("slower"))
        tidy(here)

        seconds.update(dict.fromkeys(("GET", "HEAD", "POST", "PUT", "PATCH"), 40.0))
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in 3 s"):
            Workbench(here, store).build(changed("silent"))
        assert time.monotonic() - begun < 15
        waiting.set()
        tidy(here)


def test_a_registry_with_credentials(settings: Settings, store: Store, short_tmp: Path) -> None:
    users = short_tmp / "htpasswd"
    users.write_text(
        "user:$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n"
    )  # bcrypt of "pass"
    password = short_tmp / "password"
    password.write_text("pass\n")
    with registry(short_tmp / "r", users=str(users)) as name:
        stranger = replace(settings, registry=name)
        with pytest.raises(ConfigError, match=r"refuses us .*SLIPWAY_REGISTRY_USER"):
            Workbench(stranger, store).build(SMALL)
        tidy(stranger)
        known = replace(stranger, registry_user="user", registry_password_file=password)
        bench = Workbench(known, store)
        (job,) = bench.build(SMALL)
        check_owned(known, "ann", job.artifact)
        tidy(known)
        (again,) = bench.build(SMALL)
        assert again.reused
        assert "pass" not in bench.log


def test_without_a_registry_an_image_stays_by_its_id(settings: Settings, store: Store) -> None:
    bench = Workbench(settings, store)
    files = changed("by its id")
    (job,) = bench.build(files)
    check_owned(settings, "ann", job.artifact)
    (again,) = bench.build(files)
    assert again.reused
    engine = Engine(settings.engine_url)
    with engine.asking("") as api:
        assert api.inspect_image(job.artifact)["RepoTags"] == [
            f"slipway/ann/web:{job.key.digest[:24]}"
        ]
    engine.close()
    tidy(settings, "ann")
    (rebuilt,) = bench.build(files)
    assert not rebuilt.reused
    with pytest.raises(SlipwayError, match="another owner's image"):
        Workbench(settings, store, "bob").build(
            {**SMALL, "web/Dockerfile": f"FROM slipway/ann/web:{job.key.digest[:24]}\n"}
        )


@pytest.mark.parametrize(
    ("registry", "artifact", "right"),
    [
        ("r.io/acme", f"r.io/acme/ann/fn@sha256:{'a' * 64}", True),
        ("r.io/acme", f"r.io/acme/bob/fn@sha256:{'a' * 64}", False),
        ("r.io/acme", f"r.io/acme/ann/a/b@sha256:{'a' * 64}", False),
        ("r.io/acme", f"r.io/acme/ann/../bob/fn@sha256:{'a' * 64}", False),
        ("r.io/acme", f"r.io/acme/ann/fn@sha256:{'a' * 63}", False),
        ("r.io/acme", "r.io/acme/ann/fn:latest", False),
        ("r.io/acme", f"sha256:{'a' * 64}", False),
        ("r.io/acme", f"bundle:sha256:{'a' * 64}", False),
        ("", f"sha256:{'a' * 64}", True),
        ("", f"/ann/fn@sha256:{'a' * 64}", False),
        ("", f"bundle:sha256:{'a' * 64}", False),
    ],
)
def test_whose_an_artifact_is(registry: str, artifact: str, right: bool) -> None:
    here = replace(Settings(), registry=registry)
    if right:
        check_owned(here, "ann", artifact)
    else:
        with pytest.raises(InvalidRequest, match="is not an image of ann"):
            check_owned(here, "ann", artifact)


# Base images


def test_a_base_image_that_is_not_there(settings: Settings, store: Store) -> None:
    nowhere = replace(settings, python_image="127.0.0.1:1/no/python:3")
    files = {"stack.yml": stack(function("hello", "python3-http")), "hello/handler.py": ""}
    with pytest.raises(ConfigError, match=r"base image 127.* SLIPWAY_PYTHON_IMAGE"):
        Workbench(nowhere, store).build(files)
    with pytest.raises(SlipwayError, match=r"the image example\.invalid/no/such:1"):
        Workbench(settings, store).build(
            {**SMALL, "web/Dockerfile": "FROM example.invalid/no/such:1\n"}
        )


def test_an_image_of_the_engine_alone_is_not_for_everybody(
    settings: Settings, store: Store
) -> None:
    engine = Engine(settings.engine_url)
    with engine.asking("") as api:
        api.tag(IMAGE, "slipway-test-private", "1", force=True)
        id_ = api.inspect_image(IMAGE)["Id"]
    try:
        for name, told in (
            ("slipway-test-private:1", "came from no registry"),
            (id_.removeprefix("sha256:")[:12], "is no name of an image"),
        ):
            with pytest.raises(BuildFailed, match=told):
                Workbench(settings, store).build({**SMALL, "web/Dockerfile": f"FROM {name}\n"})
    finally:
        with engine.asking("") as api:
            api.remove_image("slipway-test-private:1")
        engine.close()


def test_what_an_image_has_every_build_do_is_looked_at(
    settings: Settings, store: Store, place: str
) -> None:
    here = replace(settings, registry=place)
    name = f"{place}/ann/trap:1"
    cli = buildkit.find(here, os.environ["PATH"])
    folder = here.state / "trap"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\nONBUILD ADD http://127.0.0.1:1/x /x\n")
    assert cli.run(["build", "--tag", name, str(folder)]).ok
    assert cli.run(["push", name]).ok
    try:
        with pytest.raises(BuildFailed, match=r"has every build on it do 'ADD http.*ONBUILD"):
            Workbench(here, store).build({**SMALL, "web/Dockerfile": f"FROM {name}\n"})
    finally:
        tidy(here)


# The CLI


def test_each_cli_is_tried(tmp_path: Path, settings: Settings) -> None:
    for name, version in (("old", "18.06.1"), ("new", "28.2.2"), ("podman", "")):
        told = f"Docker version {version}, build 1" if version else "podman version 4.3.1"
        program = tmp_path / name / "docker"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{told}" || exit 1\n')
        program.chmod(0o755)
        assert buildkit._trouble(program)
    path = ":".join(str(tmp_path / name) for name in ("old", "new", "podman"))
    found = buildkit.find(settings, f"{path}:/usr/bin:/usr/local/bin")
    assert not str(found.program).startswith(str(tmp_path))


@pytest.fixture
def newer(short_tmp: Path) -> Iterator[str]:
    """Stands for an engine that does not know the API of older CLIs any more."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"message": TOO_OLD}).encode()
            ping = self.path.endswith("/_ping")
            self.send_response(200 if ping else 400)
            self.send_header("Api-Version", "1.52")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(0 if ping else len(body)))
            self.end_headers()
            self.wfile.write(b"" if ping else body)

        do_HEAD = do_GET

        def address_string(self) -> str:
            return ""

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(f"{short_tmp}/e.sock", Refusing) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{short_tmp}/e.sock"
        server.shutdown()


TOO_OLD = (
    "client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade your "
    "client to a newer version"
)


def test_a_cli_that_the_engine_does_not_talk_to_is_passed_by(
    settings: Settings, newer: str, tmp_path: Path
) -> None:
    there = replace(settings, build_engine=newer)
    with pytest.raises(ConfigError, match=r"cannot talk to the engine .*1\.41 is too old"):
        buildkit.find(there, os.environ["PATH"])
    program = tmp_path / "docker"
    program.write_text(
        "#!/bin/sh\ncase $1 in --version) echo Docker version 29.0.0, build 1;; "
        "buildx) echo github.com/docker/buildx;; esac\n"
    )
    program.chmod(0o755)
    assert buildkit.find(there, f"{os.environ['PATH']}:{tmp_path}").program == program
    away = replace(settings, build_engine=f"unix://{tmp_path}/away.sock")
    assert buildkit.find(away, os.environ["PATH"]).program != program, "it can build"


def test_without_a_cli_it_says_what_to_install(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buildkit, "_FOLDERS", ())
    with pytest.raises(ConfigError, match=r"there is no docker on PATH.*docker-buildx-plugin"):
        buildkit.find(settings, str(tmp_path))


def test_the_cli_has_a_private_folder(settings: Settings, short_tmp: Path) -> None:
    password = short_tmp / "password"
    password.write_text("s3cret\n")
    known = replace(
        settings, registry="r.io/acme", registry_user="user", registry_password_file=password
    )
    folder = buildkit.configuration(known)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
    assert '"r.io": {"auth"' in (folder / "config.json").read_text()
    buildkit.configuration(settings)
    assert "r.io" not in (folder / "config.json").read_text()


def test_owners_have_caches_of_their_own(settings: Settings) -> None:
    names = {imagebuild.caches_of(settings, each) for each in ("ann", "bob", "ann")}
    assert len(names) == 2
    assert all(len(name) == 32 and name.isalnum() for name in names)


# Engines of one's own


@pytest.mark.root
def test_an_engine_for_builds_gets_base_images_and_gives_what_it_built(
    settings: Settings, store: Store, private: PrivateEngine
) -> None:
    apart = replace(settings, build_engine=private.url, build_egress=False)
    bench = Workbench(apart, store)
    files = {**SMALL, "web/Dockerfile": f"FROM {IMAGE}\nRUN test -e /usr\nEXPOSE 8080\n"}
    (job,) = bench.build(files)
    check_owned(apart, "ann", job.artifact)
    run = Engine(apart.engine_url)
    with run.asking("") as api:
        assert api.inspect_image(job.artifact)["RepoTags"]
    run.close()
    assert tags_of(private) == [IMAGE], "only the base image keeps its name"

    # It hangs: what begins is told within seconds.
    private.hang()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        Workbench(apart, store).build(changed("other"))
    assert time.monotonic() - begun < 15
    private.go_on()


@pytest.mark.root
def test_images_that_no_build_uses_go_from_an_engine_of_our_own(
    settings: Settings,
    store: Store,
    private: PrivateEngine,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, base = Engine(settings.engine_url), f"{place}/ann/base"
    with source.asking("") as api:
        for tag in ("1", "2"):
            api.tag(IMAGE, base, tag)
            api.push(base, tag)
            api.remove_image(f"{base}:{tag}")
    source.close()
    apart = replace(settings, build_engine=private.url, registry=place)
    for tag in ("1", "2"):
        file = {"web/Dockerfile": f"FROM {base}:{tag}\nCOPY x /x\nEXPOSE 8080\n"}
        Workbench(apart, store).build({**SMALL, **file})
    private.take_image(IMAGE, Engine(settings.engine_url))
    engine = DockerEngine(apart)
    engine.shop.images.use.note(IMAGE)  # a base image of the settings

    def used(tag: str, seconds: float) -> None:
        for note in (apart.state / "build-images").iterdir():
            if note.read_text() == f"{base}:{tag}":
                os.utime(note, (time.time() - seconds,) * 2)

    kept = {IMAGE, f"{base}:1", f"{base}:2"}
    assert set(tags_of(private)) == kept
    used("1", imageuse.UNUSED - 60)
    assert engine.sweep() == 0
    used("1", imageuse.UNUSED + 60)
    assert engine.sweep() == 1
    assert set(tags_of(private)) == kept - {f"{base}:1"}
    monkeypatch.setattr(imageuse, "ROOM", 2**60)  # the disk is full
    assert engine.sweep() == 0, "a build may be at it"
    used("2", 86400)
    assert engine.sweep() == 1
    assert tags_of(private) == [IMAGE]


def test_on_an_engine_of_others_nothing_is_noted(settings: Settings, store: Store) -> None:
    Workbench(settings, store).build({**SMALL, "web/Dockerfile": f"FROM {IMAGE}\nCOPY x /x\n"})
    assert not (settings.state / "build-images").exists()


# The end of a release


def test_nothing_of_a_failed_or_cancelled_release_stays_on_the_way(
    settings: Settings, store: Store
) -> None:
    bad = {
        "stack.yml": stack(function("web", "dockerfile"), function("bad", "dockerfile")),
        "bad/Dockerfile": f"FROM {IMAGE}\nRUN sleep 3; exit 7\n",
    }
    bench = Workbench(settings, store)
    release = bench.push({**SMALL, **bad})
    with Lease(store, release.id) as lease:
        jobs._build(release.id, settings, store, lease)
    done = store.release(release.id)
    assert (done.state, "exit code: 7" in done.reason) == (State.FAILED, True)
    assert "the image has 0 MB" in bench.log, "the other one was made"
    assert not on_the_way(settings)

    bad["bad/Dockerfile"] = f"FROM {IMAGE}\nRUN sleep 618\n"
    release = bench.push({**changed("cancelled"), **bad})
    with Lease(store, release.id) as lease:

        def cancel() -> None:
            until(lambda: sleeping("sleep 618") and on_the_way(settings), 60)
            store.move(release.id, [State.BUILDING], State.CANCELLED, "by the test")
            lease.ended.set()

        threading.Thread(target=cancel, daemon=True).start()
        jobs._build(release.id, settings, store, lease)
    assert store.release(release.id).state is State.CANCELLED
    assert not on_the_way(settings)


def test_an_image_on_the_way_goes_with_the_process_that_made_it(settings: Settings) -> None:
    """At the next look: nobody else tags it."""
    script = (
        "import os, sys\nfrom core.settings import Settings\n"
        "from builder.engines.docker import DockerEngine\n"
        "shop = DockerEngine(Settings.from_env(os.environ)).shop\n"
        "with shop.build_engine.asking('') as api:\n"
        "    name, _, tag = shop.tag().partition(':')\n"
        "    api.tag(sys.argv[1], name, tag)\n"
        "print(flush=True)\nsys.stdin.read()\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script, settings.python_image],
        env={"PATH": "/usr/bin:/bin", **settings.environment()},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    engine = DockerEngine(settings)
    try:
        assert worker.stdout
        worker.stdout.readline()
        assert engine.shop.sweep() == 0, "it lives"
        assert len(on_the_way(settings)) == 1
    finally:
        worker.kill()
        worker.communicate()
    assert engine.shop.sweep() == 1
    assert not on_the_way(settings)


def on_the_way(settings: Settings) -> list[str]:
    engine = Engine(settings.engine_url)
    with engine.asking("") as api:
        tags = [tag for each in api.images() for tag in each["RepoTags"] or []]
    engine.close()
    return [tag for tag in tags if tag.startswith(f"slipway-build:{settings.mark}-")]


def test_what_is_used_again_is_needed_before_anybody_looks_for_it(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench(settings, store)
    (job,) = bench.build(changed("needed"))
    store.note_unneeded({f"ann {job.artifact}": 1.0}, [])
    real, seen = DockerEngine.there, []

    def there(engine: DockerEngine, namespace: str, artifacts: Collection[str]) -> set[str]:
        seen.append(store.unneeded())
        return real(engine, namespace, artifacts)

    monkeypatch.setattr(DockerEngine, "there", there)
    (again,) = bench.build(changed("needed"))
    assert again.reused
    assert seen == [{}]
    place = job.artifact.rpartition("sha256:")[0]
    gone = {f"{place}sha256:{number:064x}" for number in range(9)}
    engine = DockerEngine(settings)
    assert real(engine, "ann", {job.artifact, *gone}) == {job.artifact}, "many are looked for once"


@pytest.mark.root
def test_an_engine_that_hangs_while_it_builds(
    settings: Settings, store: Store, private: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagebuild, "_ASK_EVERY", 1.0)
    monkeypatch.setattr(imagebuild, "_SILENT", 5.0)
    source = Engine(settings.engine_url)
    private.take_image(IMAGE, source)
    source.close()
    apart = replace(settings, build_engine=private.url)
    hung: list[float] = []

    def hang() -> None:
        until(lambda: sleeping("sleep 617"), 60)
        private.hang()
        hung.append(time.monotonic())

    threading.Thread(target=hang, daemon=True).start()
    files = {**SMALL, "web/Dockerfile": f"FROM {IMAGE}\nRUN sleep 617\n"}
    with pytest.raises(Unavailable, match="has not answered for 5 s"):
        Workbench(apart, store).build(files)
    assert time.monotonic() - hung[0] < 25
    private.go_on()
    until(lambda: not sleeping("sleep 617"), 10)
