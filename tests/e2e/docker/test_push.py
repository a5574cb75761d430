"""The main job on Docker, by `slipway up` with a registry and a build engine of its own.

One platform, in the order of a day: first push, second push, a container killed, Ctrl-C, a new
start, everything killed, a new start.
"""

from __future__ import annotations

import shutil
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from core.sandbox import nft
from core.sandbox.network import Network
from supervisor import build_engine
from tests.conftest import missing
from tests.e2e.platform import Platform, fresh_folder, handler, running, stack

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.network]

TESTED = "from handler import handle\n\ndef test_it():\n    assert 'v' in handle(None, None)\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.APIClient]:
    try:
        client = docker.APIClient(version="auto", timeout=20)
        images = [name for each in client.images() for name in each["RepoTags"] or []]
    except docker.errors.DockerException as error:
        missing(f"a Docker engine: {error}")
    if "python:3.11-slim-bookworm" not in images or "node:24-bookworm-slim" not in images:
        missing("the base images: make base-images")
    for program in ("dockerd", "docker-registry"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin"):
            missing(program)
    yield client
    client.close()


@pytest.fixture(scope="module")
def platform(engine: docker.APIClient) -> Iterator[Platform]:
    assert engine
    with (
        fresh_folder() as folder,
        running(folder, SLIPWAY_RUNTIME="docker", SLIPWAY_DRAIN_TIMEOUT="3s") as up,
    ):
        port = (up.settings.state / "registry-port").read_text().strip()
        yield up
        leave_nothing(up, engine)
    for each in engine.images():
        for name in each["RepoDigests"] or []:
            if name.startswith(f"127.0.0.1:{port}/ann/"):
                engine.remove_image(name)


def eventually(check: Callable[[], object], platform: Platform, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, platform.output() + platform.logs()
        time.sleep(0.1)


def label(platform: Platform) -> dict[str, str]:
    return {"label": f"com.slipway.installation={platform.settings.mark}"}


def containers(platform: Platform, engine: docker.APIClient) -> list[str]:
    return [each["Id"] for each in engine.containers(all=True, filters=label(platform))]


def answers(platform: Platform, text: str) -> bool:
    try:
        answer = platform.call("hi.ann")
    except (urllib.error.URLError, OSError):
        return False
    return (answer.status, answer.text) == (200, text)


def leave_nothing(platform: Platform, engine: docker.APIClient) -> None:
    """After Ctrl-C: no container, network, process, link, mount or control group of it."""
    if platform.process and platform.process.poll() is None:
        assert platform.stop() == 0, platform.output()
    assert containers(platform, engine) == []
    assert engine.networks(filters=label(platform)) == []
    assert [process.cmdline() for process in platform.processes()] == []
    mark = platform.settings.mark
    links = [each.name for each in Path("/sys/class/net").iterdir()]
    assert f"slipway{mark}" not in links
    assert Network.for_builds(platform.settings).bridge not in links
    assert str(platform.folder) not in Path("/proc/self/mountinfo").read_text()
    assert list(Path("/sys/fs/cgroup").glob(f"*/slipway-{mark}*")) == []


def test_the_registry_and_the_engine_for_builds_are_its_own(platform: Platform) -> None:
    told = platform.output()
    assert "slipway: functions run on Docker" in told
    assert platform.part("registry")
    assert platform.part("build-engine")
    assert "WARNING" not in told


def test_a_push_goes_live_with_its_tests(platform: Platform, engine: docker.APIClient) -> None:
    files = {"hi/handler.py": handler("v1"), "hi/requirements.txt": "six==1.17.0\n"}
    pushed = platform.repository("ann", "first").push(
        {"stack.yml": stack("hi"), "hi/test_hi.py": TESTED, **files}
    )
    assert pushed.last.startswith("slipway: live r"), pushed.text + platform.logs()
    assert answers(platform, "v1")
    port = (platform.settings.state / "registry-port").read_text().strip()
    release = platform.release("ann", "first")
    artifact = release["functions"][0]["artifact"]
    assert artifact.startswith(f"127.0.0.1:{port}/ann/hi@sha256:")
    assert len(containers(platform, engine)) == 1
    assert "hi" in platform.slipway("list").stdout


def test_a_test_that_fails_keeps_what_is_live(platform: Platform) -> None:
    pushed = platform.repository("ann", "first").push({"hi/handler.py": handler("bad")})
    assert pushed.last.startswith("slipway: failed "), pushed.text
    assert answers(platform, "v1")


def test_a_second_push_loses_no_request(platform: Platform, engine: docker.APIClient) -> None:
    statuses: set[int] = set()
    done = threading.Event()

    def keep_calling() -> None:
        while not done.is_set():
            statuses.add(platform.call("hi.ann").status)

    client = threading.Thread(target=keep_calling)
    client.start()
    try:
        pushed = platform.repository("ann", "first").push({"hi/handler.py": handler("v2")})
    finally:
        done.set()
        client.join()
    assert pushed.last.startswith("slipway: live r"), pushed.text + platform.logs()
    assert answers(platform, "v2")
    assert statuses == {200}
    eventually(lambda: len(containers(platform, engine)) == 1, platform)


def test_configuration_changes_without_a_build_and_a_deleted_branch_takes_down(
    platform: Platform, engine: docker.APIClient
) -> None:
    repository = platform.repository("ann", "first")
    pushed = repository.push({"stack.yml": stack("hi", environment='{A: "1"}')})
    assert pushed.last.startswith("slipway: live r"), pushed.text
    assert platform.release("ann", "first")["functions"][0]["build"] == "reused"
    gone = repository.git("push", repository.url, ":main", check=False).stderr
    assert "remote: hi: removed" in gone, gone
    assert platform.call("hi.ann").status == 404
    eventually(lambda: containers(platform, engine) == [], platform)
    assert repository.push({}).last.startswith("slipway: live r")
    assert answers(platform, "v2")
    eventually(lambda: len(containers(platform, engine)) == 1, platform)


def test_a_container_that_is_killed_is_replaced(
    platform: Platform, engine: docker.APIClient
) -> None:
    (before,) = containers(platform, engine)
    engine.remove_container(before, force=True)
    eventually(lambda: answers(platform, "v2"), platform, 15)
    assert containers(platform, engine) != [before]


def test_fences_that_were_taken_away_are_made_anew(platform: Platform) -> None:
    settings = replace(platform.settings, runtime="docker")
    networks = [Network.from_settings(settings), Network.for_builds(settings)]
    assert all(network.available() for network in networks)
    with nft.Firewall() as firewall:
        for table in firewall.tables():
            if table.startswith(f"slipway_{settings.mark}"):
                firewall.delete_table(table)
    eventually(lambda: all(network.available() for network in networks), platform, 15)


def test_what_is_in_use_is_told(platform: Platform) -> None:
    told = platform.slipway("doctor", check=False).stdout
    for words in ("Docker 2", "with BuildKit", "python:3.11", "answered 200", "own: ", "fenced"):
        assert words in told, told
    assert "FAIL" not in told, told
    told = platform.slipway("config").stdout
    assert "an engine of our own: 2048 MiB, 2 CPUs and 1024 processes" in told


def test_after_ctrl_c_a_start_serves_what_was_live(
    platform: Platform, engine: docker.APIClient
) -> None:
    leave_nothing(platform, engine)
    platform.start()
    eventually(lambda: answers(platform, "v2"), platform)
    pushed = platform.repository("ann", "first").push({"hi/handler.py": handler("v3")})
    assert pushed.last.startswith("slipway: live r"), pushed.text + platform.logs()
    assert answers(platform, "v3")


def test_after_kill_9_of_everything_a_start_serves_what_was_live(
    platform: Platform, engine: docker.APIClient
) -> None:
    time.sleep(1.2)  # the store writes every second
    platform.kill_everything()
    platform.start()
    eventually(lambda: answers(platform, "v3"), platform)
    assert Path(build_engine.url(platform.settings).removeprefix("unix://")).exists()
    pushed = platform.repository("ann", "first").push({"hi/handler.py": handler("v4")})
    assert pushed.last.startswith("slipway: live r"), pushed.text + platform.logs()
    assert answers(platform, "v4")
    leave_nothing(platform, engine)
