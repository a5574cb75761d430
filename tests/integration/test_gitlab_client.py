"""The client of GitLab, against a GitLab on loopback with real git, which holds each request
against GitLab's own description."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import repositories
from core.errors import ConfigError, InvalidRequest, NotAllowed, NotFound
from core.settings import Settings
from forges import Deployment, Progress, Report
from forges.api import Later
from forges.gitlab import deploytokens
from forges.gitlab.client import GitLab
from forges.known import forge
from tests.forges import gitlab as fake
from tests.forges.gitlab import serving_gitlab
from tests.forges.server import Answer, Part

MAIN = "refs/heads/main"
URL = "https://slipway.example"


@pytest.fixture
def lab(short_tmp: Path) -> Iterator[fake.GitLab]:
    with serving_gitlab(short_tmp / "lab") as found:
        yield found


@pytest.fixture
def shop(lab: fake.GitLab) -> fake.Repository:
    """A private project two groups deep, with a commit."""
    made = lab.repository("acme/shop/fns")
    made.project.commit({"stack.yml": "functions: {}\n"})
    return made


@pytest.fixture
def nobody(settings: Settings, lab: fake.GitLab) -> GitLab:
    """Without a token."""
    return GitLab(replace(settings, gitlab_url=lab.url, public_url=URL))


@pytest.fixture
def client(settings: Settings, lab: fake.GitLab) -> GitLab:
    file = settings.state / "gitlab-token"
    file.write_text(f"{lab.token}\n")
    here = replace(settings, gitlab_url=lab.url, public_url=URL, gitlab_token_file=file)
    made = forge(here, "gitlab")
    assert isinstance(made, GitLab)
    return made


def known(repository: fake.Repository, **given: Any) -> repositories.Repository:
    told = repositories.Repository(
        namespace="acme",
        name="shop--fns",
        source="gitlab",
        full_name=repository.full_name,
        forge_id=str(repository.id),
        owner_id="1",
        deploy_branch="main",
        public=repository.visibility == "public",
    )
    return msgspec.structs.replace(told, **given)


def report(commit: str, progress: Progress, **given: Any) -> Report:
    told = Report("slipway/hello", commit, progress, f"it is {progress}", url=f"{URL}/r/1")
    return msgspec.structs.replace(told, **given)


def clone(lab: fake.GitLab, repository: fake.Repository, header: str, to: Path) -> int:
    told = {
        **{"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader"},
        **{"GIT_CONFIG_VALUE_0": f"Authorization: {header}", "GIT_TERMINAL_PROMPT": "0"},
    }
    url = f"{lab.url}/{repository.full_name}.git"
    done = subprocess.run(
        ["git", "clone", "--quiet", url, str(to)],
        env={**os.environ, **told},
        capture_output=True,
        check=False,
    )
    return done.returncode


def test_a_deploy_token_opens_one_project(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository, tmp_path: Path
) -> None:
    header = client.clone_credential(known(shop))
    assert header.startswith("Basic ")
    assert lab.token not in header
    assert clone(lab, shop, header, tmp_path / "shop") == 0
    assert (tmp_path / "shop" / "stack.yml").exists()
    other = lab.repository("acme/other")
    other.project.commit({"a": "b"})
    assert clone(lab, other, header, tmp_path / "other") != 0
    (token,) = shop.tokens
    assert token["scopes"] == ["read_repository"]
    assert 0 < token["ends"] - time.time() <= 3600


def test_a_deploy_token_is_kept_until_shortly_before_its_end(
    client: GitLab, shop: fake.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.clone_credential(known(shop))
    assert client.clone_credential(known(shop)) == first
    assert len(shop.tokens) == 1
    shop.tokens[0]["ends"] = 0.0
    monkeypatch.setattr(deploytokens, "SPARE", deploytokens.SECONDS)
    assert client.clone_credential(known(shop)) != first
    assert len(shop.tokens) == 1, "what has ended is removed"


def test_tokens_of_others_are_left_alone(client: GitLab, shop: fake.Repository) -> None:
    told = {"scopes": [], "token": "x", "username": "x", "ends": 0.0}
    shop.tokens += [{"id": 1, "name": "of a person", **told}]
    shop.tokens += [{"id": 2, "name": "slipway", **told, "ends": time.time() + 60}]
    client.clone_credential(known(shop))
    assert [each["id"] for each in shop.tokens][:2] == [1, 2]


def test_who_may_not_make_tokens_is_told_what_to_do(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    lab.maintainer = False
    with pytest.raises(NotAllowed, match="role Maintainer"):
        client.clone_credential(known(shop))


def test_no_credential_where_none_is_needed_or_there(
    client: GitLab, nobody: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    public = lab.repository("ann/open", "public")
    assert client.clone_credential(known(public)) == ""
    assert nobody.clone_credential(known(shop)) == ""
    assert lab.asked == []


def test_a_project_is_described_by_its_id(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    told = client.describe(known(shop))
    assert (told.id, told.full_name, told.name) == (str(shop.id), "acme/shop/fns", "shop--fns")
    assert (told.owner, told.owner_id) == ("acme", str(lab.groups["acme"]))
    assert (told.default_branch, told.public) == ("main", False)
    lab.rename_group("acme", "acme-inc")
    renamed = client.describe(known(shop))
    assert (renamed.owner, renamed.owner_id) == ("acme-inc", told.owner_id)
    assert renamed.full_name == "acme-inc/shop/fns"


def test_a_users_project_has_its_namespaces_id(client: GitLab, lab: fake.GitLab) -> None:
    own = lab.repository("ann/.dotfiles", "public")
    told = client.describe(known(own))
    assert (told.owner_id, told.public, told.default_branch) == (str(lab.groups["ann"]), True, "")
    assert told.name.startswith("dotfiles-")


def test_a_project_that_is_not_there_is_told(
    client: GitLab, nobody: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    with pytest.raises(NotAllowed, match="SLIPWAY_GITLAB_TOKEN_FILE"):
        nobody.describe(known(shop))
    del lab.repositories[shop.id]
    for ask in (client.describe, lambda there: client.head(there, MAIN)):
        with pytest.raises(NotFound):
            ask(known(shop))


def test_a_group_that_is_not_shown_ends_no_project(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    del lab.groups["acme"]
    told = client.describe(known(shop))
    assert (told.id, told.owner, told.owner_id) == (str(shop.id), "acme", "")


def test_an_empty_answer_describes_nothing(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    lab.forge.serve(Part("/api/v4/projects/", lambda _: Answer(200)))
    for ask in (client.describe, client.requests, lambda there: client.head(there, MAIN)):
        with pytest.raises(InvalidRequest, match="answers with nothing"):
            ask(known(shop))


def test_heads_are_told_and_asked_for_conditionally(client: GitLab, shop: fake.Repository) -> None:
    head = client.head(known(shop), MAIN)
    assert head
    assert head.commit == shop.project.at(MAIN)
    assert client.head(known(shop), MAIN, head.etag) is None
    shop.project.commit({"new": "1"})
    changed = client.head(known(shop), MAIN, head.etag)
    assert changed
    assert changed.commit == shop.project.at(MAIN) != head.commit


def test_branches_with_odd_names_have_heads(client: GitLab, shop: fake.Repository) -> None:
    for name in ("feat/a", "100%", "a&b=c", "ü", "a#b"):
        commit = shop.project.commit({"for": name}, name)
        head = client.head(known(shop), f"refs/heads/{name}")
        assert head
        assert head.commit == commit


def test_a_branch_that_is_not_there_has_no_head(client: GitLab, shop: fake.Repository) -> None:
    for reference in ("refs/heads/none", "refs/merge-requests/9/head"):
        head = client.head(known(shop), reference)
        assert head
        assert head.commit == ""
    for reference in ("refs/tags/v1", "main", "refs/heads/../x"):
        with pytest.raises(InvalidRequest):
            client.head(known(shop), reference)


def test_open_merge_requests_are_listed(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    commit = shop.project.commit({"x": "1"}, "change")
    for sha, source in ((commit, shop.id), (None, shop.id), (commit, 999), (commit, None)):
        lab.request(shop, sha, source)
    closed = lab.request(shop, commit, shop.id)
    shop.requests[closed - 1]["state"] = "closed"
    found = client.requests(known(shop))
    assert [(each.number, each.fork) for each in found] == [(4, True), (3, True), (1, False)]
    assert all(each.open and each.base == "main" and each.commit == commit for each in found)
    assert found[0].repository == client.describe(known(shop))
    head = client.head(known(shop), found[-1].reference)
    assert head
    assert head.commit == commit


def test_requests_without_commits_hide_no_others(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    """Those that are not listed count as closed."""
    commit = shop.project.commit({"x": "1"}, "change")
    for number in range(1, 121):
        lab.request(shop, None if number > 50 else commit, shop.id)
    assert [each.number for each in client.requests(known(shop))] == list(range(50, 0, -1))
    for _ in range(60):
        lab.request(shop, commit, shop.id)
    listed = [each.number for each in client.requests(known(shop))]
    assert listed == [*range(180, 120, -1), *range(50, 10, -1)]


def test_a_commits_status_is_set(client: GitLab, shop: fake.Repository) -> None:
    commit, remembered = shop.project.at(MAIN), ""
    for progress in (Progress.QUEUED, Progress.RUNNING, Progress.RUNNING, Progress.SUCCESS):
        remembered = client.report(known(shop), report(commit, progress), remembered)
    assert [each["state"] for each in shop.statuses] == ["pending", "running", "success"]
    assert {each["name"] for each in shop.statuses} == {"slipway/hello"}
    assert {each["target_url"] for each in shop.statuses} == {f"{URL}/r/1"}
    long = report(commit, Progress.FAILURE, title="x" * 999, url="https://x/" + "y" * 999)
    client.report(known(shop), long)
    assert len(shop.statuses[-1]["description"]) == 255
    assert "target_url" not in shop.statuses[-1]


def test_a_status_that_is_set_already_is_no_mistake(client: GitLab, shop: fake.Repository) -> None:
    told = report(shop.project.at(MAIN), Progress.RUNNING)
    assert client.report(known(shop), told) == client.report(known(shop), told) != ""
    assert len(shop.statuses) == 1


def test_without_a_token_nothing_is_shown(nobody: GitLab, shop: fake.Repository) -> None:
    with pytest.raises(NotAllowed, match="SLIPWAY_GITLAB_TOKEN_FILE"):
        nobody.report(known(shop), report("a" * 40, Progress.QUEUED))


def test_a_deployment_is_shown_and_taken_down(client: GitLab, shop: fake.Repository) -> None:
    there, commit = known(shop), shop.project.at(MAIN)
    running = Deployment("staging", commit, Progress.RUNNING)
    live = Deployment("staging", commit, Progress.SUCCESS, url="https://f.example")
    assert client.deployment(there, Deployment("staging", commit, Progress.QUEUED), "") == ""
    first = client.deployment(there, running)
    second = client.deployment(there, live, first)
    assert client.deployment(there, live, second) == second
    assert [(each["status"], each["ref"]) for each in shop.deployments] == [("success", "main")]
    (environment,) = shop.environments
    assert environment["external_url"] == "https://f.example"
    newer = shop.project.commit({"a": "2"})
    third = client.deployment(there, Deployment("staging", newer, Progress.FAILURE), second)
    assert [each["sha"] for each in shop.deployments] == [commit, newer]
    gone = Deployment("staging", newer, Progress.SUCCESS, gone=True)
    last = client.deployment(there, gone, third)
    assert environment["state"] == "stopped"
    environment["state"] = "available"
    assert client.deployment(there, gone, last) == last
    assert environment["state"] == "available", "it was told once"


def test_what_another_deployment_follows_leaves_the_environment(
    client: GitLab, shop: fake.Repository
) -> None:
    there, commit = known(shop), shop.project.at(MAIN)
    for progress, status in ((Progress.SUCCESS, "success"), (Progress.CANCELLED, "canceled")):
        running = client.deployment(there, Deployment("production", commit, Progress.RUNNING))
        over = Deployment("production", commit, progress, gone=True, followed=True)
        last = client.deployment(there, over, running)
        assert client.deployment(there, over, last) == last
        assert shop.deployments[-1]["status"] == status
        assert shop.environments[0]["state"] == "available"
    back = Deployment("production", commit, Progress.SUCCESS)
    client.deployment(there, back, last)
    assert shop.deployments[-1]["status"] == "success", "gone back to"


def test_a_deployment_that_is_overtaken_is_cancelled(client: GitLab, shop: fake.Repository) -> None:
    there, commit = known(shop), shop.project.at(MAIN)
    first = client.deployment(there, Deployment("production", commit, Progress.RUNNING))
    newer = shop.project.commit({"a": "2"})
    for remembered in (first, ""):
        shop.deployments[1:] = []
        shop.deployments[0]["status"] = "running"
        client.deployment(there, Deployment("production", newer, Progress.RUNNING), remembered)
        assert [each["status"] for each in shop.deployments] == ["canceled", "running"]


def test_what_was_remembered_of_a_deployment_is_found_again(
    client: GitLab, shop: fake.Repository
) -> None:
    there, commit = known(shop), shop.project.at(MAIN)
    client.deployment(there, Deployment("production", commit, Progress.RUNNING))
    client.deployment(there, Deployment("production", commit, Progress.SUCCESS))
    assert [each["status"] for each in shop.deployments] == ["success"]
    again = client.deployment(there, Deployment("production", commit, Progress.RUNNING))
    assert [each["status"] for each in shop.deployments] == ["success", "running"]
    shop.deployments.pop()
    client.deployment(there, Deployment("production", commit, Progress.SUCCESS), again)
    assert len(shop.deployments) == 2, "somebody deleted it: there is a new one"
    client.deployment(there, Deployment("production", commit, Progress.SUCCESS, gone=True))
    assert shop.environments[0]["state"] == "stopped"
    client.deployment(there, Deployment("pr-1", commit, Progress.SUCCESS, gone=True))
    assert len(shop.environments) == 1


def test_one_comment_is_kept_current(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    number = lab.request(shop, shop.project.at(MAIN), shop.id)
    known_ = client.comment(known(shop), number, "first")
    assert client.comment(known(shop), number, "second", known_) == known_
    assert client.comment(known(shop), number, "third") == known_, "found by its mark"
    (note,) = shop.notes
    assert note["body"].startswith("third\n\n<!-- slipway ")
    shop.notes.clear()
    assert client.comment(known(shop), number, "fourth", known_) != known_
    assert len(shop.notes) == 1


def test_a_mark_that_somebody_else_wrote_counts_for_nothing(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    number = lab.request(shop, shop.project.at(MAIN), shop.id)
    client.comment(known(shop), number, "ours")
    copied = shop.notes.pop()
    shop.notes += [{"id": each, "body": copied["body"], "author": {"id": 2}} for each in range(150)]
    client.comment(known(shop), number, "again")
    assert {each["body"] for each in shop.notes[:150]} == {copied["body"]}
    assert len(shop.notes) == 151
    client.comment(known(shop), number, "once more")
    assert len(shop.notes) == 151, "found on the second page"


def test_limits_and_outages_are_told(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    lab.forge.limit(Retry_After="7")
    with pytest.raises(Later) as error:
        client.head(known(shop), MAIN)
    assert error.value.retry_after == 7
    lab.forge.away = True
    with pytest.raises(Later):
        client.report(known(shop), report("a" * 40, Progress.QUEUED))


def test_a_token_file_that_is_none_is_told(settings: Settings) -> None:
    file = settings.state / "token"
    for content in ("", "two words", "é"):
        file.write_text(content)
        with pytest.raises(ConfigError, match="holds no access token"):
            GitLab(replace(settings, gitlab_token_file=file))
    with pytest.raises(ConfigError, match="cannot be read"):
        GitLab(replace(settings, gitlab_token_file=settings.state / "none"))


def test_no_token_is_in_what_is_printed(
    client: GitLab, lab: fake.GitLab, shop: fake.Repository
) -> None:
    header = client.clone_credential(known(shop))
    kept = client._tokens._kept
    assert shop.tokens[0]["token"] not in f"{client._access!r} {client._tokens!r} {kept!r}"
    assert lab.token not in f"{client._access!r} {client!r}"
    assert header not in repr(kept)
