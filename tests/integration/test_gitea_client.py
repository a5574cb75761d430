"""The client of Gitea, against a Gitea on loopback with real git, which holds each request against
Gitea's own description."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import repositories
from core.errors import InvalidRequest, NotAllowed, NotFound
from core.settings import Settings
from forges import Deployment, Progress, Report
from forges.api import Later
from forges.gitea.client import Gitea
from forges.known import forge
from tests.forges import gitea as fake
from tests.forges.gitea import serving_gitea
from tests.forges.server import Answer, Part

MAIN = "refs/heads/main"
URL = "https://slipway.example"


@pytest.fixture
def tea(short_tmp: Path) -> Iterator[fake.Gitea]:
    with serving_gitea(short_tmp / "tea") as found:
        yield found


@pytest.fixture
def site(tea: fake.Gitea) -> fake.Repository:
    """A private repository with a commit."""
    made = tea.repository("ann/site")
    made.project.commit({"stack.yml": "functions: {}\n"})
    return made


@pytest.fixture
def nobody(settings: Settings, tea: fake.Gitea) -> Gitea:
    """Without a token."""
    return Gitea(replace(settings, gitea_url=tea.url, public_url=URL))


@pytest.fixture
def client(settings: Settings, tea: fake.Gitea) -> Gitea:
    file = settings.state / "gitea-token"
    file.write_text(f"{tea.token}\n")
    here = replace(settings, gitea_url=tea.url, public_url=URL, gitea_token_file=file)
    made = forge(here, "gitea")
    assert isinstance(made, Gitea)
    return made


def known(repository: fake.Repository, **given: Any) -> repositories.Repository:
    told = repositories.Repository(
        namespace="ann",
        name="site",
        source="gitea",
        full_name=repository.full_name,
        forge_id=str(repository.id),
        owner_id=str(repository.owner),
        deploy_branch="main",
        public=not repository.private,
    )
    return msgspec.structs.replace(told, **given)


def test_a_private_repository_is_cloned_with_our_token(
    client: Gitea, nobody: Gitea, tea: fake.Gitea, site: fake.Repository, tmp_path: Path
) -> None:
    header = client.clone_credential(known(site))
    told = {
        **{"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader"},
        "GIT_CONFIG_VALUE_0": f"Authorization: {header}",
    }
    url = f"{tea.url}/ann/site.git"
    subprocess.run(
        ["git", "clone", "--quiet", url, str(tmp_path / "site")],
        env={**os.environ, **told},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "site" / "stack.yml").exists()
    assert nobody.clone_credential(known(site)) == ""
    assert client.clone_credential(known(site, public=True)) == ""


def test_a_repository_is_described_by_its_id(
    client: Gitea, nobody: Gitea, tea: fake.Gitea, site: fake.Repository
) -> None:
    told = client.describe(known(site))
    assert (told.id, told.full_name, told.owner_id) == (str(site.id), "ann/site", str(site.owner))
    assert (told.default_branch, told.public) == ("main", False)
    with pytest.raises(NotAllowed, match="SLIPWAY_GITEA_TOKEN_FILE"):
        nobody.describe(known(site))
    del tea.repositories[site.id]
    with pytest.raises(NotFound):
        client.describe(known(site))
    with pytest.raises(NotFound):
        client.head(known(site), MAIN)


def test_who_takes_a_name_gets_nothing_of_it(
    client: Gitea, tea: fake.Gitea, site: fake.Repository
) -> None:
    old = known(site)
    tea.rename(site, "ann/moved")
    other = tea.repository("ann/other", private=False)
    other.full_name = "ann/site"
    commit = site.project.at(MAIN)
    head = client.head(old, MAIN)
    assert head
    assert head.commit == commit
    client.report(old, Report("slipway", commit, Progress.SUCCESS, "live"))
    assert (len(site.statuses), other.statuses) == (1, [])


def test_heads_are_told(client: Gitea, tea: fake.Gitea, site: fake.Repository) -> None:
    for name in ("main", "feat/a", "100%", "ü", "a#b"):
        commit = site.project.commit({"for": name}, name)
        head = client.head(known(site), f"refs/heads/{name}")
        assert head
        assert head.commit == commit
    tea.pull(site, commit, site.id)
    head = client.head(known(site), "refs/pull/1/head")
    assert head
    assert head.commit == commit
    for reference in ("refs/heads/none", "refs/pull/9/head"):
        head = client.head(known(site), reference)
        assert head
        assert head.commit == ""
    for reference in ("refs/tags/v1", "main", "refs/heads/../x"):
        with pytest.raises(InvalidRequest):
            client.head(known(site), reference)


def test_open_pull_requests_are_listed(
    client: Gitea, tea: fake.Gitea, site: fake.Repository
) -> None:
    commit = site.project.at(MAIN)
    for source in [site.id] * 60 + [999, -1]:
        tea.pull(site, commit, source)
    site.pulls[0]["state"] = "closed"
    found = client.requests(known(site))
    assert [each.number for each in found] == list(range(62, 1, -1))
    assert [each.fork for each in found[:3]] == [True, True, False]
    assert [each.head_repository for each in found[:2]] == ["", "999"]
    assert all(each.reference == f"refs/pull/{each.number}/head" for each in found)


@pytest.mark.parametrize("most", [7, 50])
def test_all_requests_are_listed_however_few_are_on_a_page(
    client: Gitea, tea: fake.Gitea, site: fake.Repository, most: int
) -> None:
    """Those that are not listed count as closed."""
    tea.most = most
    for _ in range(15):
        tea.pull(site, site.project.at(MAIN), site.id)
    assert len(client.requests(known(site))) == 15
    for _ in range(90):
        tea.pull(site, site.project.at(MAIN), site.id)
    assert [each.number for each in client.requests(known(site))] == list(range(105, 5, -1))


def test_a_list_that_changes_while_it_is_read_is_none(
    client: Gitea, tea: fake.Gitea, site: fake.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    tea.most = 7
    for _ in range(15):
        tea.pull(site, site.project.at(MAIN), site.id)
    ask = client._ask

    def closed_meanwhile(method: str, path: str, **more: Any) -> Any:
        told = ask(method, path, **more)
        if more.get("query", {}).get("page") == 1:
            site.pulls[-1]["state"] = "closed"  # what was on page 2 slips to page 1
        return told

    monkeypatch.setattr(client, "_ask", closed_meanwhile)
    with pytest.raises(Later, match="changed while"):
        client.requests(known(site))
    assert len(client.requests(known(site))) == 14


def test_a_commits_status_is_set_once(client: Gitea, site: fake.Repository) -> None:
    commit, remembered = site.project.at(MAIN), ""
    for progress in (Progress.QUEUED, Progress.QUEUED, Progress.FAILURE, Progress.CANCELLED):
        told = Report("slipway/hello", commit, progress, "x" * 999, url=f"{URL}/r/1")
        remembered = client.report(known(site), told, remembered)
    assert [each["state"] for each in site.statuses] == ["pending", "failure", "warning"]
    assert {each["sha"] for each in site.statuses} == {commit}
    assert {len(each["description"]) for each in site.statuses} == {255}


def test_deployments_are_nothing_that_gitea_knows(
    client: Gitea, tea: fake.Gitea, site: fake.Repository
) -> None:
    told = Deployment("production", "a" * 40, Progress.SUCCESS)
    assert client.deployment(known(site), told, "as before") == "as before"
    assert tea.asked == []


def test_one_comment_is_kept_current(client: Gitea, tea: fake.Gitea, site: fake.Repository) -> None:
    number = tea.pull(site, site.project.at(MAIN), site.id)
    known_ = client.comment(known(site), number, "first")
    assert client.comment(known(site), number, "second", known_) == known_
    (comment,) = site.comments
    site.comments.insert(0, {**comment, "id": 7, "user": {"id": 2}})
    assert client.comment(known(site), number, "third") == known_, "found by its mark and author"
    assert site.comments[1]["body"].startswith("third\n\n<!-- slipway ")
    site.comments.clear()
    assert client.comment(known(site), number, "é" * 60_000, known_) != known_
    assert len(site.comments[0]["body"].encode()) <= 65_000


def test_without_a_token_nothing_is_shown(nobody: Gitea, tea: fake.Gitea) -> None:
    there = tea.repository("ann/open", private=False)
    with pytest.raises(NotAllowed, match="SLIPWAY_GITEA_TOKEN_FILE"):
        nobody.report(known(there), Report("slipway", "a" * 40, Progress.QUEUED, "queued"))
    assert nobody.describe(known(there)).public


def test_an_empty_answer_describes_nothing(
    client: Gitea, tea: fake.Gitea, site: fake.Repository
) -> None:
    tea.forge.serve(Part("/api/v1/repositories/", lambda _: Answer(200)))
    with pytest.raises(InvalidRequest, match="answers with nothing"):
        client.describe(known(site))


def test_outages_are_told(client: Gitea, tea: fake.Gitea, site: fake.Repository) -> None:
    tea.forge.limit(Retry_After="7")
    with pytest.raises(Later) as error:
        client.head(known(site), MAIN)
    assert error.value.retry_after == 7
    tea.forge.away = True
    with pytest.raises(Later):
        client.describe(known(site))
    assert tea.token not in repr(client)
