"""The client of GitHub, against a GitHub on loopback that holds each request against GitHub's own
description and lets tokens do what they are for alone."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import repositories
from core.errors import InvalidRequest, NotAllowed, NotFound, SlipwayError
from core.settings import Settings
from forges import Annotation, Deployment, Progress, Report
from forges.api import Later
from forges.github.app import App, store_app
from forges.github.client import GitHub
from forges.known import forge
from tests.forges import github as fake
from tests.forges.github import serving_github
from tests.forges.server import Answer

MAIN = "refs/heads/main"
URL = "https://slipway.example"


@pytest.fixture
def hub(short_tmp: Path) -> Iterator[fake.GitHub]:
    with serving_github(short_tmp / "hub") as found:
        yield found


@pytest.fixture
def site(hub: fake.GitHub) -> fake.Repository:
    """A private repository with a commit."""
    made = hub.repository("ann/site", private=True)
    made.project.commit({"stack.yml": "functions: {}\n"})
    return made


@pytest.fixture
def installed(hub: fake.GitHub, site: fake.Repository) -> fake.Installation:
    return hub.install(hub.app(), site)


@pytest.fixture
def here(settings: Settings, hub: fake.GitHub) -> Settings:
    """Settings of a Slipway that nobody knows at GitHub."""
    return replace(settings, github_url=hub.url, public_url=URL)


@pytest.fixture
def client(here: Settings, hub: fake.GitHub, installed: fake.Installation) -> GitHub:
    """That of the App."""
    become(here, hub.apps[installed.app])
    return GitHub(here)


def become(settings: Settings, app: fake.App) -> None:
    store_app(settings, App(id=app.id, slug=app.slug, pem=app.pem, client_id=app.client_id))


def with_token(settings: Settings, token: str) -> Settings:
    file = settings.state / "github-token"
    file.write_text(f"{token}\n")
    return replace(settings, github_token_file=file)


def known(repository: fake.Repository, **given: Any) -> repositories.Repository:
    told = repositories.Repository(
        namespace=repository.owner.login,
        name=repository.name,
        source="github",
        full_name=repository.full_name,
        forge_id=str(repository.id),
        owner_id=str(repository.owner.id),
        deploy_branch="main",
    )
    return msgspec.structs.replace(told, **given)


def report(repository: fake.Repository, **given: Any) -> Report:
    told = Report(
        context="slipway",
        commit=repository.project.at(MAIN),
        progress=Progress.RUNNING,
        title="building",
        summary="1 function",
        url=f"{URL}/releases/r1",
        started="2026-01-01T00:00:00Z",
    )
    return msgspec.structs.replace(told, **given)


def done(repository: fake.Repository, **given: Any) -> Report:
    finished = "2026-01-01T00:01:00Z"
    return report(
        repository, **{"progress": Progress.SUCCESS, "finished": finished, "title": "live", **given}
    )


def clone(url: str, credential: str, into: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "http.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: {credential}" if credential else "X-Nobody: 1",
    }
    return subprocess.run(
        ["git", "clone", "--quiet", url, str(into)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# Cloning.


def test_a_private_repository_is_cloned_by_a_token_for_it_alone(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, tmp_path: Path
) -> None:
    other = hub.repository("ann/other", private=True)
    other.project.commit({"x": "y"})
    hub.installations[next(iter(hub.installations))].repositories.add(other.id)
    credential = client.clone_credential(known(site))
    assert clone(f"{hub.url}/ann/site.git", "", tmp_path / "a").returncode != 0
    found = clone(f"{hub.url}/ann/site.git", credential, tmp_path / "b")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "b" / "stack.yml").exists()
    assert clone(f"{hub.url}/ann/other.git", credential, tmp_path / "c").returncode != 0
    (token,) = hub.tokens.values()
    assert token.permissions == {"metadata": "read", "contents": "read"}
    assert token.repositories == {site.id}


def test_one_whose_id_is_not_known_is_cloned_by_a_token_for_its_name_alone(
    client: GitHub, hub: fake.GitHub, site: fake.Repository
) -> None:
    other = hub.repository("ann/other", private=True)
    hub.installations[next(iter(hub.installations))].repositories.add(other.id)
    assert client.clone_credential(msgspec.structs.replace(known(site), forge_id=""))
    (token,) = hub.tokens.values()
    assert token.repositories == {site.id}


def test_a_token_that_ended_opens_nothing(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, tmp_path: Path
) -> None:
    credential = client.clone_credential(known(site))
    for token in hub.tokens.values():
        token.ends = time.time() - 1
    assert clone(f"{hub.url}/ann/site.git", credential, tmp_path / "a").returncode != 0


def test_a_token_is_kept_until_five_minutes_before_its_end(
    client: GitHub, hub: fake.GitHub, site: fake.Repository
) -> None:
    first = client.clone_credential(known(site))
    assert client.clone_credential(known(site)) == first
    assert hub.asked.count(path := access_path(hub)) == 1
    hub.lifetime = 299
    for _ in range(2):
        fresh = GitHub(client._credentials._settings)
        fresh.clone_credential(known(site))
        fresh.clone_credential(known(site))
    assert hub.asked.count(path) == 5, "one that has less is made anew each time"


def test_many_at_once_ask_for_one_token(
    client: GitHub, hub: fake.GitHub, site: fake.Repository
) -> None:
    hub.forge.slow = 0.05
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.clone_credential(known(site))))
        for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert hub.asked.count(access_path(hub)) == 1


def test_a_public_one_needs_no_credential(client: GitHub, site: fake.Repository) -> None:
    assert client.clone_credential(known(site, public=True)) == ""


def test_without_an_app_the_token_of_the_settings_is_used(
    here: Settings, hub: fake.GitHub, site: fake.Repository
) -> None:
    token = hub.personal_token("ann")
    credential = GitHub(with_token(here, token)).clone_credential(known(site))
    assert base64.b64decode(credential.removeprefix("Basic ")).decode().endswith(f":{token}")
    assert GitHub(here).clone_credential(known(site)) == ""


def test_it_is_the_token_as_well_where_the_app_is_not_installed(
    here: Settings, hub: fake.GitHub, client: GitHub
) -> None:
    other = hub.repository("bob/tools", private=True)
    token = hub.personal_token("bob")
    credential = GitHub(with_token(here, token)).clone_credential(known(other))
    assert base64.b64decode(credential.removeprefix("Basic ")).decode().endswith(f":{token}")
    assert client.clone_credential(known(other)) == ""


def access_path(hub: fake.GitHub) -> str:
    (installation,) = hub.installations.values()
    return f"/app/installations/{installation.id}/access_tokens"


# Who we are.


def test_an_app_that_is_stored_later_counts_at_once(
    here: Settings, hub: fake.GitHub, installed: fake.Installation, site: fake.Repository
) -> None:
    client = forge(here, "github")
    assert client.installation(known(site)) == ""
    become(here, hub.apps[installed.app])
    assert client.installation(known(site)) == str(installed.id)
    assert client.clone_credential(known(site)).startswith("Basic ")


def test_an_app_of_the_settings_counts_before_the_stored_one(
    here: Settings, hub: fake.GitHub, installed: fake.Installation, site: fake.Repository
) -> None:
    become(here, hub.app("somebody"))
    key = here.state / "key.pem"
    key.write_text(hub.apps[installed.app].pem)
    ours = replace(here, github_app_id=str(installed.app), github_app_key_file=key)
    assert GitHub(ours).installation(known(site)) == str(installed.id)
    assert GitHub(here).installation(known(site)) == ""


def test_an_installation_that_was_made_anew_is_found(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, installed: fake.Installation
) -> None:
    ours = known(site, installation=str(installed.id))
    assert client.head(ours, MAIN)
    hub.uninstall(installed)
    with pytest.raises(NotFound):
        client.describe(ours)
    hub.install(hub.apps[installed.app], site)
    head = client.head(ours, MAIN)
    assert head
    assert head.commit == site.project.at(MAIN)


@pytest.mark.parametrize("how", ["removed", "suspended", "uninstalled"])
def test_who_took_the_app_away_is_not_asked_about(
    client: GitHub, site: fake.Repository, hub: fake.GitHub, installed: fake.Installation, how: str
) -> None:
    ours = known(site, installation=str(installed.id))
    remembered = client.report(ours, report(site))
    if how == "removed":
        installed.repositories.clear()
        hub.end_tokens(installed)
    elif how == "suspended":
        installed.suspended = True
        hub.end_tokens(installed)
    else:
        hub.uninstall(installed)
    with pytest.raises(NotAllowed) as found:
        client.report(ours, done(site), remembered)
    assert "ghs_" not in str(found.value)
    assert site.checks[0]["status"] == "in_progress"
    assert client.installation(ours) == ""
    with pytest.raises((NotAllowed, NotFound)):
        client.describe(ours)
    if how != "suspended":
        assert client.clone_credential(ours) == ""


def test_a_token_that_is_refused_is_replaced_once(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, installed: fake.Installation
) -> None:
    assert client.head(known(site), MAIN)
    hub.end_tokens(installed)
    assert client.head(known(site), MAIN)
    assert hub.asked.count(access_path(hub)) == 2


def test_what_was_not_granted_is_told_in_words(
    here: Settings, hub: fake.GitHub, site: fake.Repository
) -> None:
    app = hub.app()
    hub.install(app, site, metadata="read", contents="read")
    become(here, app)
    with pytest.raises(NotAllowed, match="accept the permissions"):
        GitHub(here).report(known(site), report(site))


def test_a_wrong_key_is_not_shown(
    here: Settings, hub: fake.GitHub, installed: fake.Installation, site: fake.Repository
) -> None:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    app = hub.apps[installed.app]
    become(here, app)
    app.key = generate_private_key(public_exponent=65537, key_size=2048)
    client = GitHub(here)
    with pytest.raises(NotAllowed) as found:
        client.clone_credential(known(site))
    assert "401" in str(found.value)
    assert "eyJ" not in str(found.value), "no JWT"
    assert "PRIVATE KEY" not in repr(client._credentials) + repr(vars(client))


def test_installations_and_their_repositories_are_listed(
    client: GitHub, hub: fake.GitHub, installed: fake.Installation
) -> None:
    assert [each.id for each in client.installations()] == [str(installed.id)]
    for number in range(130):
        other = fake.Repository(hub.number(), f"r{number}", installed.account, None)  # type: ignore[arg-type]  # it has nothing in it
        other.shown = lambda other=other: {  # type: ignore[method-assign]
            "id": other.id,
            "name": other.name,
            "full_name": other.full_name,
            "owner": other.owner.shown(),
            "private": True,
        }
        hub.repositories[other.id] = other
        installed.repositories.add(other.id)
    found = client.repositories(str(installed.id))
    assert len(found) == 131
    assert len({each.id for each in found}) == 131
    assert {each.owner for each in found} == {"ann"}
    hub.uninstall(installed)
    assert client.installations() == []
    with pytest.raises(NotFound):
        client.repositories(str(installed.id))


# What is asked.


def test_a_head_is_asked_for_only_where_it_moved(client: GitHub, site: fake.Repository) -> None:
    first = client.head(known(site), MAIN)
    assert first
    assert first.commit == site.project.at(MAIN)
    assert client.head(known(site), MAIN, first.etag) is None
    commit = site.project.commit({"a": "b"})
    second = client.head(known(site), MAIN, first.etag)
    assert second
    assert second.commit == commit
    feature = site.project.commit({"a": "c"}, "feature/ä b#c%20".replace(" ", ""))
    other = client.head(known(site), "refs/heads/feature/äb#c%20")
    assert other
    assert other.commit == feature
    missing = client.head(known(site), "refs/heads/nowhere")
    assert missing
    assert missing.commit == ""


def test_tags_are_told_only_where_one_changed(client: GitHub, site: fake.Repository) -> None:
    below = "refs/tags/promote/"
    none = client.tags(known(site), below)
    assert none
    assert none.objects == {}
    assert client.tags(known(site), below, none.etag) is None
    commit = site.project.at(MAIN)
    for tag in ("promote/production/1", "promote-not", "promoted/x", "v1"):
        site.project.point(f"refs/tags/{tag}", commit)
    found = client.tags(known(site), below, none.etag)
    assert found
    assert found.objects == {"promote/production/1": commit}
    assert client.tags(known(site), below, found.etag) is None


@pytest.mark.parametrize("reference", ["main", "refs/heads/../../x", "refs//x", "refs/heads/a b"])
def test_what_is_no_reference_is_not_asked_for(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, reference: str
) -> None:
    with pytest.raises(InvalidRequest):
        client.head(known(site), reference)
    assert hub.asked == []


def test_a_head_is_not_asked_for_without_a_token(here: Settings, site: fake.Repository) -> None:
    with pytest.raises(NotAllowed):
        GitHub(here).head(known(site), MAIN)


def test_a_repository_is_known_by_its_id(
    client: GitHub, hub: fake.GitHub, site: fake.Repository
) -> None:
    ours = known(site)
    hub.rename(site, "homepage")
    squatter = hub.repository("ann/site")
    squatter.project.commit({"evil": "yes"})
    described = client.describe(ours)
    assert (described.full_name, described.name) == ("ann/homepage", "homepage")
    assert (described.id, described.owner_id) == (ours.forge_id, ours.owner_id)
    assert (described.default_branch, described.public) == ("main", False)
    head = client.head(ours, MAIN)
    assert head
    assert head.commit == site.project.at(MAIN)
    client.report(ours, report(site))
    assert (len(site.checks), squatter.checks) == (1, [])
    site.private = False
    assert client.describe(ours).public
    hub.delete(site)
    with pytest.raises(NotFound):
        client.describe(ours)
    with pytest.raises(NotFound):
        client.head(ours, MAIN)


def test_a_redirect_is_not_followed(
    client: GitHub, hub: fake.GitHub, site: fake.Repository
) -> None:
    """Of a record that has no id yet."""
    ours = known(site, forge_id="")
    hub.rename(site, "homepage")
    with pytest.raises(InvalidRequest, match="301"):
        client._credentials.as_nobody("GET", "/repos/ann/site")
    with pytest.raises(InvalidRequest):
        client.describe(ours)


def test_what_is_hidden_is_not_called_gone_where_we_have_no_token(
    here: Settings, site: fake.Repository
) -> None:
    with pytest.raises(NotAllowed, match="/setup/github"):
        GitHub(here).describe(known(site))
    site.private = False
    assert GitHub(here).describe(known(site)).full_name == "ann/site"


def test_open_requests_are_listed(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, installed: fake.Installation
) -> None:
    fork = hub.repository("bob/site")
    own = hub.open(site, site.project.at(MAIN), title="Mine")
    foreign = hub.open(site, site.project.at(MAIN), head=fork, title="Theirs")
    gone = hub.open(site, site.project.at(MAIN))
    site.pulls[0]["head"]["repo"] = None
    hub.open(site, site.project.at(MAIN))
    site.pulls[0]["state"] = "closed"
    found = client.requests(known(site, installation=str(installed.id)))
    assert [each.number for each in found] == [gone, foreign, own]
    assert [each.fork for each in found] == [True, True, False]
    assert {each.open for each in found} == {True}
    assert found[2].title == "Mine"
    assert found[2].reference == f"refs/pull/{own}/head"
    assert (found[2].base, found[2].installation) == ("main", str(installed.id))
    assert found[1].head_repository == str(fork.id)


# What is shown.


def test_a_release_is_one_check_run_that_moves(client: GitHub, site: fake.Repository) -> None:
    ours = known(site)
    remembered = client.report(ours, report(site, progress=Progress.QUEUED, title="waiting"))
    assert site.checks[0]["status"] == "queued"
    remembered = client.report(ours, report(site), remembered)
    assert (site.checks[0]["status"], site.checks[0]["output"]["title"]) == (
        "in_progress",
        "building",
    )
    client.report(ours, done(site), remembered)
    (check,) = site.checks
    assert (check["status"], check["conclusion"]) == ("completed", "success")
    assert check["head_sha"] == site.project.at(MAIN)
    assert check["completed_at"] == "2026-01-01T00:01:00Z"
    assert check["details_url"] == f"{URL}/releases/r1"


def test_a_check_run_is_found_again(client: GitHub, site: fake.Repository) -> None:
    """Who made it died before it could say so."""
    client.report(known(site), report(site))
    client.report(known(site), report(site, context="slipway/hello"))
    client.report(known(site), done(site))
    assert [(each["name"], each["status"]) for each in site.checks] == [
        ("slipway", "completed"),
        ("slipway/hello", "in_progress"),
    ]


def test_another_release_of_the_commit_has_a_check_run_of_its_own(
    client: GitHub, site: fake.Repository
) -> None:
    remembered = client.report(known(site), done(site, progress=Progress.FAILURE))
    for known_ in (remembered, ""):
        again = client.report(known(site), report(site), known_)
        client.report(known(site), done(site), again)
    assert [each["conclusion"] for each in site.checks] == ["failure", "success", "success"]


def test_a_check_run_that_is_gone_is_made_anew(client: GitHub, site: fake.Repository) -> None:
    remembered = client.report(known(site), report(site))
    site.checks.clear()
    client.report(known(site), done(site), remembered)
    assert site.checks[0]["conclusion"] == "success"


def test_what_is_remembered_counts_for_its_commit_alone(
    client: GitHub, site: fake.Repository
) -> None:
    remembered = client.report(known(site), report(site))
    site.project.commit({"a": "b"})
    client.report(known(site), report(site), remembered)
    assert len({each["head_sha"] for each in site.checks}) == 2


def test_annotations_come_fifty_at_a_time_and_once(client: GitHub, site: fake.Repository) -> None:
    notes = [Annotation(path="test_x.py", line=each, message=f"m{each}") for each in range(1, 331)]
    failed = done(site, progress=Progress.FAILURE, annotations=notes)
    remembered = client.report(known(site), report(site, annotations=notes))
    assert (
        "annotations" not in site.checks[0]["output"] or not site.checks[0]["output"]["annotations"]
    )
    remembered = client.report(known(site), failed, remembered)
    client.report(known(site), failed, remembered)
    client.report(known(site), failed)
    (check,) = site.checks
    shown = check["output"]["annotations"]
    assert [each["start_line"] for each in shown] == list(range(1, 201))
    assert check["status"] == "completed"
    assert {each["annotation_level"] for each in shown} == {"failure"}


def test_the_end_of_a_long_log_is_kept_in_its_block(client: GitHub, site: fake.Repository) -> None:
    log = "".join(f"line {number} äöü\n" for number in range(20_000))
    text = f"The end of the log:\n\n````\n{log}````\n"
    client.report(known(site), done(site, text=text, summary="s" * 100_000, title="t\n" * 300))
    output = site.checks[0]["output"]
    assert output["text"].startswith("…\n````\nline ")
    assert output["text"].endswith("line 19999 äöü\n````\n")
    assert 60_000 < len(output["text"].encode()) <= 65_535
    assert len(output["summary"]) <= 65_535
    assert "\n" not in output["title"]


def test_statuses_are_set_where_they_are_wanted(
    here: Settings, hub: fake.GitHub, installed: fake.Installation, site: fake.Repository
) -> None:
    become(here, hub.apps[installed.app])
    ours = GitHub(replace(here, github_report="statuses"))
    remembered = ours.report(known(site), report(site, title="x" * 300))
    assert ours.report(known(site), report(site, title="x" * 300), remembered) == remembered
    ours.report(known(site), done(site, progress=Progress.CANCELLED), remembered)
    assert [each["state"] for each in site.statuses] == ["pending", "error"]
    assert site.statuses[0]["description"] == "x" * 139 + "…"
    assert {each["sha"] for each in site.statuses} == {site.project.at(MAIN)}
    assert {each["context"] for each in site.statuses} == {"slipway"}
    assert site.checks == []


def test_with_a_token_alone_there_are_statuses(
    here: Settings, hub: fake.GitHub, site: fake.Repository
) -> None:
    ours = GitHub(with_token(here, hub.personal_token("ann")))
    ours.report(known(site), done(site))
    assert [each["state"] for each in site.statuses] == ["success"]
    with pytest.raises(NotAllowed, match="no token"):
        GitHub(here).report(known(site), done(site))


def test_an_environment_is_a_deployment_with_its_statuses(
    client: GitHub, site: fake.Repository
) -> None:
    shown = Deployment(
        environment="production",
        commit=site.project.at(MAIN),
        progress=Progress.RUNNING,
        log_url=f"{URL}/log",
    )
    remembered = client.deployment(known(site), shown)
    live = msgspec.structs.replace(shown, progress=Progress.SUCCESS, url=f"{URL}/function/x")
    remembered = client.deployment(known(site), live, remembered)
    assert client.deployment(known(site), live, remembered) == remembered
    assert client.deployment(known(site), live).split(" ")[0] == remembered.split(" ")[0]
    (made,) = site.deployments
    assert [each["state"] for each in made["statuses"]] == ["in_progress", "success", "success"]
    assert made["statuses"][1]["environment_url"] == f"{URL}/function/x"
    assert (made["auto_merge"], made["required_contexts"]) == (False, [])
    assert (made["production_environment"], made["transient_environment"]) == (True, False)
    site.project.commit({"a": "b"})
    next_ = msgspec.structs.replace(shown, commit=site.project.at(MAIN))
    client.deployment(known(site), next_, remembered)
    assert len(site.deployments) == 2


def test_a_preview_ends_what_it_had_and_goes(client: GitHub, site: fake.Repository) -> None:
    shown = Deployment(
        environment="pr-5",
        commit=site.project.at(MAIN),
        progress=Progress.SUCCESS,
        transient=True,
    )
    remembered = client.deployment(known(site), shown)
    site.project.commit({"a": "b"})
    newer = msgspec.structs.replace(shown, commit=site.project.at(MAIN))
    remembered = client.deployment(known(site), newer, remembered)
    gone = msgspec.structs.replace(newer, gone=True)
    for known_ in (remembered, ""):
        told = client.deployment(known(site), gone, known_)
        assert client.deployment(known(site), gone, told) == told
    first, second = site.deployments
    assert [each["state"] for each in first["statuses"]] == ["success", "inactive"]
    assert [each["state"] for each in second["statuses"]] == ["success", "inactive", "inactive"]
    other = msgspec.structs.replace(gone, environment="pr-6")
    assert client.deployment(known(site), other) == ""


def test_there_is_one_comment_on_a_request(
    client: GitHub, hub: fake.GitHub, site: fake.Repository
) -> None:
    number = hub.open(site, site.project.at(MAIN))
    remembered = client.comment(known(site), number, "a preview is built")
    client.comment(known(site), number, "it is there", remembered)
    (comment,) = site.comments
    assert comment["body"].startswith("it is there\n\n<!-- slipway ")
    site.comments.insert(
        0, {**comment, "id": 7, "performed_via_github_app": None, "user": {"id": 9, "login": "eve"}}
    )
    for each in range(120):
        site.comments.insert(0, {**site.comments[0], "id": 1000 + each, "body": "chatter"})
    assert client.comment(known(site), number, "found again") == remembered
    assert site.comments[-1]["body"].startswith("found again")
    assert site.comments[-2]["body"].startswith("it is there"), "what others wrote stays theirs"
    site.comments.clear()
    client.comment(known(site), number, "anew", remembered)
    assert len(site.comments) == 1
    with pytest.raises(NotFound):
        client.comment(known(site), 4711, "nowhere")


def test_a_comment_by_the_token_is_found_again(
    here: Settings, hub: fake.GitHub, site: fake.Repository
) -> None:
    ours = GitHub(with_token(here, hub.personal_token("robot")))
    number = hub.open(site, site.project.at(MAIN))
    first = ours.comment(known(site), number, "a")
    site.comments.insert(0, {**site.comments[0], "id": 7, "user": {"id": 9, "login": "eve"}})
    assert ours.comment(known(site), number, "b" * 70_000) == first
    assert len(site.comments) == 2


# Trouble.


def everything(client: GitHub, site: fake.Repository) -> list[Callable[[], object]]:
    ours = known(site)
    deployed = Deployment("production", site.project.at(MAIN), Progress.RUNNING)
    return [
        lambda: client.head(ours, MAIN),
        lambda: client.describe(ours),
        lambda: client.installation(ours),
        lambda: client.requests(ours),
        lambda: client.report(ours, report(site)),
        lambda: client.deployment(ours, deployed),
        lambda: client.comment(ours, 1, "x"),
        lambda: client.clone_credential(ours),
        client.installations,
    ]


def test_an_outage_is_told_as_one(client: GitHub, hub: fake.GitHub, site: fake.Repository) -> None:
    hub.forge.away = True
    for each in everything(client, site):
        with pytest.raises(Later, match="503"):
            each()
    hub.forge.away = False
    assert client.head(known(site), MAIN)


def test_a_server_that_is_not_there_is_told_as_one(
    here: Settings, hub: fake.GitHub, installed: fake.Installation, site: fake.Repository
) -> None:
    become(here, hub.apps[installed.app])
    nowhere = replace(here, github_api_url="http://127.0.0.1:9")
    for each in everything(GitHub(nowhere), site):
        with pytest.raises(Later, match="does not answer"):
            each()


@pytest.mark.parametrize(
    ("status", "headers", "least"),
    [
        (429, {"Retry_After": "30"}, 29),
        (403, {"Retry_After": "30"}, 29),
        (403, {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": str(2**40)}, 3599),
        (403, {}, 59),
    ],
)
def test_who_is_told_to_wait_waits(
    client: GitHub,
    hub: fake.GitHub,
    site: fake.Repository,
    status: int,
    headers: dict[str, str],
    least: float,
) -> None:
    assert client.head(known(site), MAIN)
    hub.forge.limit(1, status, **headers)
    asked = len(hub.asked)
    for _ in range(3):
        with pytest.raises(Later) as found:
            client.head(known(site), MAIN)
        assert least < found.value.retry_after <= 3600
    assert len(hub.asked) == asked + 1, "the others were not sent"


def test_who_is_told_to_wait_for_tokens_waits_for_them(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, installed: fake.Installation
) -> None:
    ours = known(site, installation=str(installed.id))
    assert client.head(ours, MAIN)
    asked = len(hub.asked)
    hub.forge.limit(1, 403)
    for _ in range(3):
        with pytest.raises(Later) as found:
            client.requests(ours)
        assert found.value.retry_after > 59
    assert len(hub.asked) == asked + 1
    assert client.head(ours, MAIN), "the token for this is there"


def test_a_limit_of_one_installation_is_not_that_of_others(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, installed: fake.Installation
) -> None:
    other = hub.repository("bob/tools", private=True)
    other.project.commit({"a": "b"})
    hub.install(hub.apps[installed.app], other)
    assert client.head(known(site), MAIN)
    assert client.head(known(other), MAIN)
    hub.forge.limit(1, 429, Retry_After="30")
    with pytest.raises(Later):
        client.head(known(site), MAIN)
    assert client.head(known(other), MAIN)


@pytest.mark.parametrize("body", [None, [], {}, {"id": "x"}, {"object": 1}, [{"id": 1}], b"{", 7])
def test_what_is_not_understood_is_refused(
    client: GitHub, hub: fake.GitHub, site: fake.Repository, body: Any
) -> None:
    hub.open(site, site.project.at(MAIN))
    wished = everything(client, site)
    wished[0]()
    hub.answers = Answer(200, body)
    told = [error for each in wished if (error := refusal(each))]
    assert not [each for each in told if isinstance(each, Later) or "ghs_" in str(each)]
    assert len(told) >= 7, "all but what needs no more than a token, and lists"


def refusal(wish: Callable[[], object]) -> SlipwayError | None:
    try:
        wish()
    except SlipwayError as error:
        return error
    return None


def test_the_second_try_after_a_lost_answer_makes_no_second_one(
    client: GitHub, hub: fake.GitHub, site: fake.Repository
) -> None:
    """GitHub did it, and the connection broke."""
    for wish in everything(client, site)[4:6]:
        hub.lose = 1
        with pytest.raises(Later):
            wish()
        assert hub.lose == 0
        wish()
    assert (len(site.checks), len(site.deployments)) == (1, 1)
