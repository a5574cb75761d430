"""GitLab and Gitea, end to end: their own events, private repositories, groups within groups."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import Answer, Platform, handler, running, stack
from tests.forges import gitea as gitea_server
from tests.forges import gitlab as gitlab_server
from tests.forges.gitea import Gitea, serving_gitea
from tests.forges.gitlab import GitLab, serving_gitlab
from tests.waiting import until

EXAMPLES = Path(__file__).resolve().parents[1] / "projects"
GITLAB_PUSH: dict[str, Any] = json.loads((EXAMPLES / "gitlab" / "push.json").read_text())[0]
GITEA_PUSH: dict[str, Any] = json.loads((EXAMPLES / "gitea" / "push.json").read_text())[0]
SECRET = "6f1ed002ab5595859014ebf0951522d9"
SECONDS = 30


@pytest.fixture(scope="module")
def gitlab() -> Iterator[GitLab]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving_gitlab(folder) as there:
        yield there
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def gitea() -> Iterator[Gitea]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving_gitea(folder) as there:
        yield there
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def platform(gitlab: GitLab, gitea: Gitea) -> Iterator[Platform]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    for name, token in (("gitlab", gitlab.token), ("gitea", gitea.token)):
        (folder / f"{name}-token").write_text(f"{token}\n")
    with running(
        folder,
        SLIPWAY_GITLAB_URL=gitlab.url,
        SLIPWAY_GITLAB_WEBHOOK_SECRET=SECRET,
        SLIPWAY_GITLAB_TOKEN_FILE=str(folder / "gitlab-token"),
        SLIPWAY_GITEA_URL=gitea.url,
        SLIPWAY_GITEA_WEBHOOK_SECRET=SECRET,
        SLIPWAY_GITEA_TOKEN_FILE=str(folder / "gitea-token"),
        SLIPWAY_SWEEP="2s",
    ) as up:
        yield up
    shutil.rmtree(folder, ignore_errors=True)


def of_gitlab(
    platform: Platform, project: gitlab_server.Repository, commit: str, *, token: str = SECRET
) -> Answer:
    payload = copy.deepcopy(GITLAB_PUSH)
    payload |= {"ref": "refs/heads/main", "after": commit, "project_id": project.id}
    payload["checkout_sha"] = commit
    payload["project"] |= {
        "id": project.id,
        "path_with_namespace": project.full_name,
        "default_branch": "main",
        "visibility_level": 20 if project.visibility == "public" else 0,
    }
    headers = {
        "Content-Type": "application/json",
        "X-Gitlab-Event": "Push Hook",
        "X-Gitlab-Event-UUID": str(uuid.uuid4()),
        "X-Gitlab-Token": token,
    }
    body = json.dumps(payload).encode()
    return platform.request("/webhooks/gitlab", method="POST", data=body, headers=headers)


def of_gitea(
    platform: Platform, repository: gitea_server.Repository, commit: str, *, secret: str = SECRET
) -> Answer:
    payload = copy.deepcopy(GITEA_PUSH) | {"ref": "refs/heads/main", "after": commit}
    payload["repository"] |= repository.shown()
    body = json.dumps(payload).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Gitea-Event": "push",
        "X-Gitea-Delivery": str(uuid.uuid4()),
        "X-Gitea-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    return platform.request("/webhooks/gitea", method="POST", data=body, headers=headers)


def answers(platform: Platform, function: str, wanted: str) -> None:
    def right() -> bool:
        answer = platform.call(function)
        return answer.status == 200 and answer.text == wanted

    until(right, SECONDS, platform.logs)


def files(function: str, text: str) -> dict[str, str]:
    return {"stack.yml": stack(function), f"{function}/handler.py": handler(text)}


def test_a_private_project_in_groups_within_groups(platform: Platform, gitlab: GitLab) -> None:
    project = gitlab.repository("Crew/web/shop")
    head = project.project.commit(files("cart", "v1"))
    assert of_gitlab(platform, project, head).status == 202
    answers(platform, "cart.crew", "v1")
    known = platform.request("/system/releases?namespace=crew", admin=True).json()
    assert {each["repository"] for each in known} == {"web--shop"}
    twin = gitlab.repository("Crew/api/shop")
    head = twin.project.commit(files("api", "v1"))
    assert of_gitlab(platform, twin, head).status == 202
    answers(platform, "api.crew", "v1")
    head = project.project.commit(files("cart", "v2"))
    assert of_gitlab(platform, project, head).json()["release"], "it is known by now"
    answers(platform, "cart.crew", "v2")
    given = [each["token"] for each in (*project.tokens, *twin.tokens)]
    assert given, "deploy tokens opened it"
    _nowhere(platform, [gitlab.token, *given])


def test_a_project_whose_events_are_lost(platform: Platform, gitlab: GitLab) -> None:
    project = gitlab.repository("Quiet/tool")
    assert of_gitlab(platform, project, project.project.commit(files("t", "v1"))).status == 202
    answers(platform, "t.quiet", "v1")
    project.project.commit(files("t", "v2"))
    answers(platform, "t.quiet", "v2")


def test_a_tag_whose_event_is_lost_promotes(platform: Platform, gitlab: GitLab) -> None:
    made = gitlab.repository("Calm/tool")
    named = {"stack.yml": f"x-environments: {{staging: develop}}\n{stack('t')}"}
    head = made.project.commit({**files("t", "v1"), **named})
    assert of_gitlab(platform, made, head).status == 202
    made.project.point("refs/heads/develop", head)
    answers(platform, "t.calm--staging", "v1")
    head = made.project.commit({"t/handler.py": handler("v2")}, "develop")
    answers(platform, "t.calm--staging", "v2")
    assert platform.call("t.calm").text == "v1"
    made.project.point("refs/tags/promote/production/1", head)
    answers(platform, "t.calm", "v2")
    told = [
        each["promotedFrom"]
        for each in platform.request("/system/releases?namespace=calm", admin=True).json()
    ]
    assert [each["environment"] for each in told if each] == ["staging"]


def test_another_token_is_refused(platform: Platform, gitlab: GitLab) -> None:
    project = gitlab.repository("Evil/x")
    head = project.project.commit(files("x", "v1"))
    assert of_gitlab(platform, project, head, token=SECRET[:-1]).status == 401
    assert of_gitlab(platform, project, head, token="").status == 401
    assert platform.request("/system/releases?namespace=evil", admin=True).json() == []


def test_a_private_repository_of_gitea(platform: Platform, gitea: Gitea) -> None:
    repository = gitea.repository("Team/app")
    head = repository.project.commit(files("g", "v1"))
    assert of_gitea(platform, repository, head).status == 202
    answers(platform, "g.team", "v1")
    repository.project.commit(files("g", "v2"))  # and no event came through
    answers(platform, "g.team", "v2")
    assert of_gitea(platform, repository, head, secret="x").status == 401
    _nowhere(platform, [gitea.token])


def test_the_same_login_at_two_forges(platform: Platform, gitlab: GitLab, gitea: Gitea) -> None:
    first = gitlab.repository("Both/one")
    assert of_gitlab(platform, first, first.project.commit(files("a", "v1"))).status == 202
    answers(platform, "a.both", "v1")
    second = gitea.repository("both/two")
    head = second.project.commit(files("b", "v1"))
    refused = of_gitea(platform, second, head)
    assert refused.status == 409
    assert f"{gitea.url}#{second.owner}" in refused.text
    linked = json.dumps({"owner": f"{gitea.url}#{second.owner}", "namespace": "both"}).encode()
    answer = platform.request("/system/owners", method="PUT", data=linked, admin=True)
    assert answer.status == 202
    assert of_gitea(platform, second, head).status == 202
    answers(platform, "b.both", "v1")


def _nowhere(platform: Platform, values: list[str]) -> None:
    """No token is in a file of the state folder or a log."""
    for folder, _, names in os.walk(platform.folder / "state"):
        for path in (Path(folder, name) for name in names):
            content = path.read_bytes() if path.is_file() else b""
            assert not [each for each in values if each.encode() in content], path
    assert not [each for each in values if each in platform.logs()]
