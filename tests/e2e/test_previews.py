"""Previews of pull requests on a whole platform, with a real git server that stands for GitHub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.forge import Forge, Project, serving
from tests.e2e.platform import Answer, Platform, handler, running, stack
from tests.e2e.test_webhook import FULL_NAME, PUSH, SECRET, deliver, push, released
from tests.waiting import until

OWNER, NAME = "codertocat", "Hello-World"
BASE_ID = PUSH["repository"]["id"]
FORK_ID = 4711
TOKEN = """\
from pathlib import Path


def handle(event, context):
    try:
        return Path("/var/openfaas/secrets/token").read_text()
    except OSError as error:
        return type(error).__name__
"""
_clock = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving(folder) as there:
        yield there
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def hooked(forge: Forge) -> Iterator[Platform]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, SLIPWAY_GITHUB_URL=forge.url, SLIPWAY_GITHUB_WEBHOOK_SECRET=SECRET) as up:
        yield up
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def project(forge: Forge, hooked: Platform) -> Project:
    made = forge.repository(FULL_NAME)
    files = {"stack.yml": stack("greet"), "greet/handler.py": handler("production")}
    release = released(hooked, deliver(hooked, push(made.commit(files))))
    assert release["state"] == "live", hooked.logs()
    return made


def told(
    platform: Platform,
    number: int,
    head: str,
    *,
    after: int,
    action: str = "synchronize",
    repository: int = BASE_ID,
    owner: str = "",
) -> Answer:
    """Delivers GitHub's event of a pull request, ``after`` seconds on its clock."""
    payload: dict[str, Any] = {
        "action": action,
        "number": number,
        "pull_request": {
            "number": number,
            "state": "closed" if action == "closed" else "open",
            "title": "Says hello",
            "html_url": f"https://github.com/{FULL_NAME}/pull/{number}",
            "updated_at": (_clock + timedelta(seconds=after)).isoformat(),
            "draft": False,
            "head": {
                "ref": "change",
                "sha": head,
                "repo": {"id": repository, "full_name": f"{owner}/Hello-World"},
            },
            "base": {"ref": "master", "sha": "0" * 40, "repo": {"id": BASE_ID}},
        },
        "repository": PUSH["repository"],
        "sender": PUSH["sender"],
    }
    return deliver(platform, payload, "pull_request")


def preview(platform: Platform, number: int) -> dict[str, Any]:
    found = platform.request(f"/system/previews?namespace={OWNER}", admin=True).json()
    return next(dict(each) for each in found if each["number"] == number)


def test_a_request_from_its_opening_to_its_end(hooked: Platform, project: Project) -> None:
    head = project.request(5, {"greet/handler.py": handler("five")})
    release = released(hooked, told(hooked, 5, head, after=0, action="opened"))
    assert (release["state"], release["namespace"]) == ("live", f"{OWNER}--pr-5"), release
    shown = preview(hooked, 5)
    assert shown["functions"] == [f"{hooked.url}/function/greet.{OWNER}--pr-5"]
    assert hooked.request(shown["functions"][0].removeprefix(hooked.url)).text == "five"
    assert hooked.call(f"greet.{OWNER}").text == "production"

    newer = project.request(5, {"greet/handler.py": handler("five, newer")})
    assert released(hooked, told(hooked, 5, newer, after=10))["state"] == "live"
    assert hooked.call(f"greet.{OWNER}--pr-5").text == "five, newer"
    late = told(hooked, 5, head, after=0, action="opened")
    assert "its preview is as it is to be" in late.text

    closed = told(hooked, 5, newer, after=20, action="closed")
    assert (closed.status, "taken down" in closed.text) == (202, True)
    until(lambda: hooked.call(f"greet.{OWNER}--pr-5").status == 404)
    assert preview(hooked, 5)["state"] == "gone"
    shuffled = told(hooked, 5, newer, after=10)
    assert hooked.call(f"greet.{OWNER}--pr-5").status == 404, shuffled.text
    instances = hooked.folder / "state/instances"
    until(lambda: not list(instances.glob("*pr-5*")), 20, hooked.logs)

    again = released(hooked, told(hooked, 5, newer, after=30, action="reopened"))
    assert again["state"] == "live", again
    assert hooked.call(f"greet.{OWNER}--pr-5").text == "five, newer"
    assert hooked.call(f"greet.{OWNER}").text == "production"


def test_a_fork_s_commit_runs_once_it_was_approved_and_without_secrets(
    hooked: Platform, project: Project
) -> None:
    files = {"stack.yml": stack("greet", secrets="[token]"), "greet/handler.py": TOKEN}
    hooked.slipway("secret", "create", "token", "-n", OWNER, "--from-file", _file(hooked, "prod"))
    head = project.request(6, files)
    event = {"action": "opened", "repository": FORK_ID, "owner": OWNER}
    waits = told(hooked, 6, head, after=0, **event)
    assert f"slipway approve {OWNER}/{NAME} 6 --commit {head}" in waits.text
    assert preview(hooked, 6)["state"] == "waiting"
    assert not list(hooked.folder.glob(f"state/mirrors/{OWNER}--pr-6/*.git")), "nothing is fetched"

    evil = project.request(6, {"greet/handler.py": handler("evil")})
    told(hooked, 6, evil, after=5, repository=FORK_ID, owner=OWNER)
    stale = hooked.slipway("approve", f"{OWNER}/{NAME}", "6", "--commit", head, check=False)
    assert (stale.returncode, evil in stale.stderr) == (1, True)
    seen = project.request(6, files)
    told(hooked, 6, seen, after=9, repository=FORK_ID, owner=OWNER)
    done = hooked.slipway("approve", f"{OWNER}/{NAME}", "6", "--commit", seen[:10])
    hooked.slipway("wait", done.stdout.strip())
    assert hooked.call(f"greet.{OWNER}--pr-6").text == "FileNotFoundError"
    log = hooked.slipway("logs", done.stdout.strip()).stdout
    assert "its secrets are left out" in log


def test_a_preview_has_the_secrets_of_previews(hooked: Platform, project: Project) -> None:
    files = {"stack.yml": stack("greet", secrets="[token]"), "greet/handler.py": TOKEN}
    head = project.request(7, files)
    failed = released(hooked, told(hooked, 7, head, after=0, action="opened"))
    assert f"slipway secret create token --namespace {OWNER}--preview" in failed["reason"]
    space = f"{OWNER}--preview"
    hooked.slipway("secret", "create", "token", "-n", space, "--from-file", _file(hooked, "test"))
    hooked.slipway("wait", hooked.slipway("redeploy", f"{OWNER}--pr-7/{NAME}").stdout.strip())
    assert hooked.call(f"greet.{OWNER}--pr-7").text == "test"


def _file(platform: Platform, value: str) -> str:
    path = platform.folder / f"secret-{value}"
    path.write_text(value)
    return str(path)
