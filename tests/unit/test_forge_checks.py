"""What the doctor says of forges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli import doctor, forge_checks
from cli.findings import FAIL, OK, WARN
from core.settings import Settings
from forges.github.app import App, app_file, store_app
from tests.forges.gitea import serving_gitea
from tests.forges.gitlab import serving_gitlab

PUBLIC = "https://slipway.example"


def told(settings: Settings) -> list[tuple[str, str, str]]:
    return [(each.name, each.state, each.text) for each in forge_checks.examine(settings)]


@pytest.fixture
def outside(settings: Settings) -> Settings:
    """Of an installation that forges reach."""
    return replace(settings, public_url=PUBLIC)


def test_nothing_is_said_of_forges_that_nothing_is_set_for(settings: Settings) -> None:
    assert told(settings) == []


def test_whether_there_is_an_app(outside: Settings, tmp_path: Path) -> None:
    with_hook = replace(outside, github_webhook_secret="s")
    ((name, state, text),) = told(with_hook)
    assert (name, state) == ("github", OK)
    assert text.startswith("no App: /setup/github makes one; no token")
    token = tmp_path / "token"
    token.write_text("t0ken")
    ((_, _, text),) = told(replace(with_hook, github_token_file=token))
    assert text == "no App, an access token: results are commit statuses"
    store_app(outside, App(id=7, slug="slipway-7", webhook_secret="s", pem="p"))
    assert told(outside) == [("github", OK, "the App slipway-7")]


def test_whether_files_can_be_read(outside: Settings, tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    for settings, forge in (
        (replace(outside, github_token_file=missing), "github"),
        (replace(outside, github_app_id="7", github_app_key_file=missing), "github"),
        (replace(outside, github_client_id="c", github_client_secret_file=missing), "github"),
        (replace(outside, gitlab_token_file=missing), "gitlab"),
        (replace(outside, gitlab_client_secret_file=missing), "gitlab"),
        (replace(outside, gitea_token_file=missing), "gitea"),
    ):
        (finding,) = forge_checks.examine(settings)
        assert (finding.name, finding.state) == (forge, FAIL)
        assert f"{missing} cannot be read" in finding.advice
    app_file(outside).parent.mkdir(parents=True)
    app_file(outside).write_text("{")
    (finding,) = forge_checks.examine(outside)
    assert "is not an App's record" in finding.advice


@pytest.mark.parametrize(
    ("forge", "serving"), [("gitlab", serving_gitlab), ("gitea", serving_gitea)]
)
def test_whether_the_forge_takes_the_token(
    outside: Settings, short_tmp: Path, forge: str, serving: Any
) -> None:
    file = short_tmp / "token"
    with serving(short_tmp / "lab") as lab:
        here = replace(outside, **{f"{forge}_url": lab.url, f"{forge}_token_file": file})
        file.write_text(lab.token)
        assert told(here) == [(forge, OK, "an access token of slipway")]
        file.write_text("another")
        ((_, state, text),) = told(here)
        assert (state, "/user with 401" in text) == (FAIL, True)
        ((_, state, text),) = told(replace(here, **{f"{forge}_url": f"{lab.url}/elsewhere"}))
        assert (state, "/user with 404" in text) == (FAIL, True)
    (finding,) = forge_checks.examine(here)
    assert (finding.state, "does not answer" in finding.text) == (WARN, True)
    assert lab.url in finding.advice


def test_whether_it_can_reach_us(settings: Settings) -> None:
    for forge in ("github", "gitlab", "gitea"):
        here = replace(settings, **{f"{forge}_webhook_secret": "s"})
        good, trouble = forge_checks.examine(here)
        assert (good.state, trouble.name, trouble.state) == (OK, forge, WARN)
        assert here.user_url in trouble.text
        assert "SLIPWAY_PUBLIC_URL" in trouble.advice
        assert len(told(replace(here, public_url=PUBLIC))) == 1
        local = replace(here, **{f"{forge}_url": "http://127.0.0.1:3000"})
        assert len(told(local)) == 1, "a forge on this machine does"


def test_the_doctor_looks(settings: Settings) -> None:
    found = doctor.examine(replace(settings, gitea_webhook_secret="s"), "", elsewhere=True)
    assert [each.state for each in found if each.name == "gitea"] == [OK, WARN]
