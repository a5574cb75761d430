"""The connection to a real engine: across forks, upgrades, and whatever the user's own is."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from core.errors import Unavailable
from core.settings import Settings
from engine.client import Engine
from supervisor import parts

pytestmark = pytest.mark.engine


@pytest.fixture
def own(engine: Engine) -> Iterator[Engine]:
    """A connection that no other test uses."""
    own = Engine(engine.url, timeout=5)
    yield own
    own.close()


def forked(check: object) -> int:
    """Runs it in a forked process as a job of rq's is; returns that process's id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        check()  # type: ignore[operator]  # a function without arguments
        status = 0
    finally:
        os._exit(status)


def ended_well(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_job_and_its_worker_get_their_own_answers(own: Engine) -> None:
    """Both ask at the same time, and the worker had a connection before the job was forked."""

    def images() -> None:
        for _ in range(100):
            with own.asking("images") as api:
                assert all("RepoTags" in each for each in api.images())

    def version() -> None:
        for _ in range(100):
            with own.asking("version") as api:
                assert "ApiVersion" in api.version()

    with own.asking("at the start") as api:
        api.version()
    child = forked(images)
    try:
        version()
    finally:
        told = ended_well(child)
    assert told
    version()  # what the job did at its end disturbs nobody


def test_a_job_that_is_forked_while_somebody_connects_does_not_wait_for_ever(own: Engine) -> None:
    held, go_on = threading.Event(), threading.Event()

    def connecting() -> None:
        with own._lock:
            held.set()
            go_on.wait(60)

    def ask() -> None:
        with own.asking("version") as api:
            api.version()

    thread = threading.Thread(target=connecting)
    thread.start()
    held.wait()
    child = forked(ask)
    watchdog = threading.Timer(15, os.kill, (child, 9))
    watchdog.start()
    told = ended_well(child)
    watchdog.cancel()
    go_on.set()
    thread.join()
    assert told


def test_an_engine_that_speaks_another_version_by_now_is_asked_anew(own: Engine) -> None:
    with own.asking("at the start") as api:
        api._version = "1.99"  # what an engine was upgraded or downgraded from
    with pytest.raises(Unavailable, match="client version"), own.asking("images") as api:
        api.images()
    with own.asking("images") as api:
        api.images()


def test_after_a_lost_connection_the_version_is_negotiated_anew(own: Engine) -> None:
    with own.asking("at the start") as before:
        before.version()
    with pytest.raises(Unavailable), own.asking("lost"):
        raise requests.ConnectionError("reset by peer")
    with own.asking("again") as api:
        assert api is not before
        assert api.version()


ASKING = """
import os, sys
from core.settings import Settings
from engine.client import Engine
engine = Engine(sys.argv[1])
with engine.asking("making one") as api:
    made = api.create_container(sys.argv[2], command=["true"])["Id"]
    try:
        print(api.inspect_container(made)["Config"]["Env"])
    finally:
        api.remove_container(made)
    print(api.headers, api._general_configs, api._auth_configs)
"""


def test_nothing_of_the_user_s_own_docker_configuration_is_used(
    engine: Engine, tmp_path: Path
) -> None:
    login = base64.b64encode(b"user:pass-of-login").decode()
    proxy = "http://user:pass-of-proxy@proxy.example.com"
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(
        json.dumps(
            {
                "auths": {"registry.example.com": {"auth": login}},
                "proxies": {"default": {"httpProxy": proxy}},
                "HttpHeaders": {"X-Theirs": "pass-of-header"},
            }
        )
    )
    done = subprocess.run(
        [*parts.python("x")[:2], "-c", ASKING, engine.url, Settings().python_image],
        env={**os.environ, "HOME": str(tmp_path), "DOCKER_CONFIG": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "pass-of" not in done.stdout
    assert "PATH=" in done.stdout
