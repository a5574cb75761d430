"""Who we are at GitHub: the App's record, its JWT, how long tokens live, bounds of texts."""

from __future__ import annotations

import time
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import jwt
import msgspec
import pytest

from core.errors import ConfigError, InvalidRequest
from core.settings import Settings
from forges import shown
from forges.api import Answer, Api
from forges.github import manifest, texts
from forges.github.app import App, app_file, store_app, stored_app
from forges.github.tokens import RENEW, Tokens, _Made
from tests.forges.github import a_key, pem

STORED = App(
    id=7, slug="x", pem="key", client_id="Iv1.a", client_secret="hidden1", webhook_secret="hidden2"
)


class Clock(Api):
    """A GitHub whose clock shows another time, and whose tokens live so long."""

    def __init__(self, ahead: float, lives: float) -> None:
        super().__init__("http://127.0.0.1:9", "GitHub")
        self.ahead, self.lives = ahead, lives
        self.asked: list[dict[str, Any]] = []

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        self.asked.append({"method": method, "path": path, **options})
        now = time.time() + self.ahead
        ends = formatted(now + self.lives)
        made = msgspec.convert({"token": f"t{len(self.asked)}", "expires_at": ends}, _Made)
        return Answer(201, {"Date": formatdate(now, usegmt=True)}, made)


def formatted(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def tokens(api: Api) -> Tokens:
    return Tokens(api, App(id=7, pem=pem(a_key())))


def test_a_jwt_says_who_we_are_for_ten_minutes_at_most() -> None:
    given = tokens(Clock(0, 3600)).jwt()
    claims = jwt.decode(given, a_key().public_key(), algorithms=["RS256"])
    assert claims["iss"] == "7"
    assert claims["exp"] - claims["iat"] == 600
    assert -65 < claims["iat"] - time.time() < -55, "GitHub's clock may be behind ours"
    assert jwt.get_unverified_header(given)["alg"] == "RS256"


@pytest.mark.parametrize("ahead", [-7200.0, 0.0, 7200.0])
def test_how_long_a_token_lives_goes_by_github_s_clock(ahead: float) -> None:
    kept, renewed = Clock(ahead, RENEW + 30), Clock(ahead, RENEW - 30)
    for api in (kept, renewed):
        made = tokens(api)
        first = made.token("5", 1, {"contents": "read"})
        assert (made.token("5", 1, {"contents": "read"}) == first) is (api is kept)
    assert (len(kept.asked), len(renewed.asked)) == (1, 2)


def test_each_purpose_has_a_token_of_its_own() -> None:
    api = Clock(0, 3600)
    made = tokens(api)
    found = {
        made.token(installation, repository, may)
        for installation, repository in (("5", 1), ("5", 2), ("6", 1))
        for may in ({"contents": "read"}, {"checks": "write"})
    }
    assert len(found) == 6
    assert api.asked[1]["body"] == {"permissions": {"checks": "write"}, "repository_ids": [1]}
    first = made.token("5", 1, {"contents": "read"})
    made.forget(first)
    assert made.token("5", 1, {"contents": "read"}) != first


def test_tokens_that_have_ended_are_not_kept_for_ever() -> None:
    made = tokens(Clock(0, -1))
    for number in range(5000):
        made._place(("5", number, ()))
    assert len(made._places) <= 2000


@pytest.mark.parametrize("installation", ["", "5/..", "x", "-1", "5?x"])
def test_what_is_no_installation_is_not_asked_for(installation: str) -> None:
    api = Clock(0, 3600)
    with pytest.raises(InvalidRequest):
        tokens(api).token(installation, 1, {})
    assert api.asked == []


@pytest.mark.parametrize("key", ["", "hidden", "-----BEGIN RSA PRIVATE KEY-----\nhidden\n"])
def test_a_key_that_is_none_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError) as found:
        Tokens(Clock(0, 1), App(id=7, pem=key))
    assert "hidden" not in str(found.value)


def test_what_is_stored_is_read_again_and_never_shown(settings: Settings) -> None:
    assert stored_app(settings) == App()
    store_app(settings, STORED)
    assert stored_app(settings) == STORED
    for told in (repr(STORED), str(STORED), f"{STORED}", repr(STORED.__rich_repr__())):
        assert "hidden" not in told
        assert "key" not in told
    assert [each.name for each in settings.forges_folder.iterdir()] == ["github-app.json"]


def test_what_the_settings_say_counts_before(settings: Settings) -> None:
    store_app(settings, STORED)
    given = replace(settings, github_webhook_secret="mine")
    assert stored_app(given).webhook_secret == "mine"
    assert stored_app(given).client_secret == "hidden1"
    file = settings.state / "client"
    file.write_text("secret\n")
    other = stored_app(replace(settings, github_client_id="Iv1.b", github_client_secret_file=file))
    assert (other.client_id, other.client_secret) == ("Iv1.b", "secret")
    alone = stored_app(replace(settings, github_client_id="Iv1.b"))
    assert alone.client_secret == "", "that of another client is of no use"


def test_another_app_has_nothing_of_the_stored_one(settings: Settings) -> None:
    store_app(settings, STORED)
    file = settings.state / "key.pem"
    file.write_text("mine")
    app = stored_app(replace(settings, github_app_id="8", github_app_key_file=file))
    assert app == App(id=8, pem="mine")
    same = stored_app(replace(settings, github_app_id="7"))
    assert same == STORED
    with pytest.raises(ConfigError, match="SLIPWAY_GITHUB_APP_KEY_FILE"):
        stored_app(replace(settings, github_app_id="8"))
    with pytest.raises(ConfigError, match="number"):
        stored_app(replace(settings, github_app_id="seven"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "7"}', b"\xff", b"hidden"])
def test_a_record_that_is_none_is_told_without_what_is_in_it(
    settings: Settings, content: bytes
) -> None:
    file = app_file(settings)
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ConfigError) as found:
        stored_app(settings)
    assert str(file) in str(found.value)
    assert "hidden" not in str(found.value)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_file_of_the_settings_that_holds_nothing_is_told(
    settings: Settings, content: bytes | None
) -> None:
    file = settings.state / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)):
        stored_app(replace(settings, github_client_secret_file=file))


def test_an_app_that_cannot_be_written_is_told(settings: Settings) -> None:
    settings.forges_folder.write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        store_app(settings, STORED)


@pytest.mark.parametrize(
    ("url", "reached", "inside"),
    [
        ("http://127.0.0.1:8080", False, False),
        ("http://[::1]:8080", False, False),
        ("http://[::]:8080", False, False),
        ("http://localhost", False, False),
        ("http://slipway.localhost", False, False),
        ("http://127.8.9.1", False, False),
        ("https://slipway.example", True, True),
        ("http://8.8.4.4", True, True),
        ("http://10.0.0.7", False, True),
        ("http://192.168.1.5:8080", False, True),
    ],
)
def test_who_can_be_reached(url: str, reached: bool, inside: bool) -> None:
    """``inside``: by a forge of one's own, which may be in the same private network."""
    assert manifest.reached(url, "https://github.com") is reached
    assert manifest.reached(url, "https://github.corp.example") is inside


@pytest.mark.parametrize("host", ["s" * 63 + ".example", "a.example", "very-long." * 4 + "example"])
def test_a_name_is_short_enough_for_github(settings: Settings, host: str) -> None:
    asked = manifest.manifest(replace(settings, public_url=f"https://{host}"))
    assert 0 < len(asked["name"]) <= 34
    assert asked["name"][-1].isalnum()


# Texts.


@pytest.mark.parametrize("text", ["", "short", "ä" * 20_000, "x" * 65_535])
def test_what_fits_stays(text: str) -> None:
    assert texts.end(text) == text
    assert shown.beginning(text, texts.MOST) == text


@pytest.mark.parametrize("unit", ["x", "ä", "𝄞", "a line\n", "\n", "```\n", "~~~~\nx\n"])
def test_what_does_not_is_cut_between_characters(unit: str) -> None:
    text = unit * 40_000
    for cut in (texts.end(text, 1000), shown.beginning(text, 1000)):
        assert len(cut.encode()) <= 1000
        assert "…" in cut
        assert "\ufffd" not in cut
    assert texts.end(text, 1000).endswith(unit)


@pytest.mark.parametrize(
    ("before", "opened"),
    [
        ("```\nlog\n", "```"),
        ("`````\nlog\n```\nlog\n", "`````"),
        ("~~~ python\nlog\n", "~~~"),
        ("```\nlog\n```\nprose\n", ""),
        ("prose with ``` in it\n", ""),
        ("``` a`b\n", ""),
        ("```\nlog\n~~~\n", "```"),
        ("    ```\nno fence\n", ""),
    ],
)
def test_a_block_that_is_cut_through_is_opened_again(before: str, opened: str) -> None:
    kept = texts.end(before + "line\n" * 1000, 700)
    assert kept.split("\n")[1] == (opened or "line")


def test_a_line_is_one() -> None:
    assert shown.line("a\n b\t\x0bc", 10) == "a b c"
    assert shown.line("x" * 11, 10) == "x" * 9 + "…"
