"""``/setup/github`` through a real gateway, and a GitHub that makes Apps of manifests."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from core import keys
from core.repositories import Repository
from core.store import Store
from forges.github.app import App, app_file, stored_app
from forges.github.client import GitHub
from tests.forges import github as fake
from tests.forges.github import serving_github
from tests.integration.gateway.harness import Gateway, running
from tests.waiting import until

PUBLIC = "https://slipway.example"


class Page(HTMLParser):
    """What a browser would do with the forms of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.forms: list[tuple[str, str, dict[str, str]]] = []
        """(method, action, fields)."""
        self.links: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((given["method"], given.get("action", ""), {}))
        elif tag == "input":
            self.forms[-1][2][given["name"]] = given.get("value", "")
        elif tag == "a":
            self.links[given["id"]] = given["href"]

    def to_github(self) -> tuple[str, dict[str, str]]:
        ((_, action, fields),) = [each for each in self.forms if each[0] == "post"]
        return action, fields


@pytest.fixture(scope="module")
def hub() -> Iterator[fake.GitHub]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving_github(folder) as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def gateway(valkey: str, hub: fake.GitHub) -> Iterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, valkey, SLIPWAY_GITHUB_URL=hub.url, SLIPWAY_PUBLIC_URL=PUBLIC) as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_app(gateway: Gateway) -> None:
    app_file(gateway.settings).unlink(missing_ok=True)


def page(gateway: Gateway, query: str = "") -> Page:
    answer = gateway.call("GET", f"/setup/github{query}")
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


def made(hub: fake.GitHub, shown: Page) -> str:
    """Presses the buttons, here and at GitHub; where GitHub sends the browser then, from the path
    on."""
    action, fields = shown.to_github()
    asked = Page(requests.post(action, data=fields, timeout=10).text)
    _, fields = asked.to_github()
    told = requests.post(f"{hub.url}/settings/apps", fields, timeout=10, allow_redirects=False)
    assert told.status_code == 302
    assert told.headers["Location"].startswith(f"{PUBLIC}/setup/github/callback?")
    return told.headers["Location"].removeprefix(PUBLIC)


def back(gateway: Gateway, path: str) -> requests.Response:
    """As GitHub sends the browser back: from another site."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    return gateway.call("GET", path, headers=headers, allow_redirects=False)


def test_an_app_is_made_by_a_button(gateway: Gateway, hub: fake.GitHub) -> None:
    answer = back(gateway, made(hub, page(gateway)))
    assert (answer.status_code, answer.headers["Location"]) == (303, "/setup/github")
    app = stored_app(gateway.settings)
    theirs = hub.apps[app.id]
    assert (app.pem, app.webhook_secret) == (theirs.pem, theirs.webhook_secret)
    assert (app.client_id, app.client_secret) == (theirs.client_id, theirs.client_secret)
    file = app_file(gateway.settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    shown = page(gateway)
    assert shown.links["install"] == f"{hub.url}/github-apps/{theirs.slug}/installations/new"
    assert not [each for each in shown.forms if each[0] == "post"]
    for secret in (theirs.webhook_secret, theirs.client_secret, "PRIVATE KEY"):
        assert secret
        assert secret not in shown.text
    log = (gateway.settings.state.parent / "gateway.log").read_text()
    assert '"github_app"' in log
    assert "PRIVATE KEY" not in log


def test_it_is_the_app_from_then_on(gateway: Gateway, hub: fake.GitHub) -> None:
    back(gateway, made(hub, page(gateway)))
    site = hub.repository(f"ann/site-{hub.number()}", private=True)
    installation = hub.install(hub.apps[stored_app(gateway.settings).id], site)
    ours = Repository(
        namespace="ann",
        name=site.name,
        source="github",
        full_name=site.full_name,
        forge_id=str(site.id),
    )
    client = GitHub(gateway.settings)
    assert client.installation(ours) == str(installation.id)
    assert client.clone_credential(ours)


def test_what_it_asks_for(gateway: Gateway, hub: fake.GitHub) -> None:
    action, fields = page(gateway).to_github()
    parts = urlsplit(action)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{hub.url}/settings/apps/new"
    assert len(parse_qs(parts.query)["state"][0]) >= 32
    asked = json.loads(fields["manifest"])
    assert asked["hook_attributes"] == {"url": f"{PUBLIC}/webhooks/github", "active": True}
    assert asked["default_permissions"] == fake.ALL
    assert asked["default_events"] == ["push", "pull_request", "repository"]
    assert asked["callback_urls"] == [f"{PUBLIC}/login/github/callback"]
    assert (asked["public"], asked["name"]) == (False, "Slipway slipway.example")


def test_who_has_installed_it_comes_back_and_it_is_looked_at(
    gateway: Gateway, hub: fake.GitHub, store: Store
) -> None:
    """Without an event, as where GitHub cannot reach us."""
    back(gateway, made(hub, page(gateway)))
    app = hub.apps[stored_app(gateway.settings).id]
    assert app.manifest["setup_url"] == f"{PUBLIC}/setup/github"
    assert app.manifest["setup_on_update"] is True
    assert 'id="installed"' not in page(gateway).text
    site = hub.repository(f"ann/site-{hub.number()}", private=True)
    site.project.commit({"stack.yml": ""})
    installation = hub.install(app, site)
    shown = back(gateway, f"/setup/github?installation_id={installation.id}&setup_action=install")
    assert 'id="installed"' in shown.text
    until(lambda: store.repository_at("github", str(site.id)) is not None, 20)


def test_it_may_be_an_organizations(gateway: Gateway, hub: fake.GitHub) -> None:
    shown = page(gateway, "?organization=acme")
    assert urlsplit(shown.to_github()[0]).path == "/organizations/acme/settings/apps/new"
    back(gateway, made(hub, shown))
    assert hub.apps[stored_app(gateway.settings).id].owner.login == "acme"


def test_others_may_install_it_where_that_is_chosen(gateway: Gateway, hub: fake.GitHub) -> None:
    for query, public in (("?others=yes&organization=acme", True), ("?others=no", False)):
        shown = page(gateway, query)
        _, fields = shown.to_github()
        asked = json.loads(fields["manifest"])
        assert asked["public"] is public
        assert ("setup_url" in asked) is not public, "others know no password for it"
        assert ("checked" in shown.text) is public
        assert "allow list (SLIPWAY_POLICY)" in shown.text
    assert back(gateway, made(hub, page(gateway, "?others=yes"))).status_code == 303


@pytest.mark.parametrize("name", ["a/b", "../x", "a b", "-a", "a" * 40, '"><script>', "a--b", "ä"])
def test_what_is_no_organization_is_refused(gateway: Gateway, name: str) -> None:
    answer = gateway.call("GET", "/setup/github", params={"organization": name})
    assert answer.status_code == 400
    assert "text/plain" in answer.headers["Content-Type"]


def test_nothing_of_another_site_is_loaded_and_nobody_frames_it(
    gateway: Gateway, hub: fake.GitHub
) -> None:
    answer = gateway.call("GET", "/setup/github")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert policy.endswith(f"form-action 'self' {hub.url}")
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"(src|href)=", answer.text)
    assert "<script" not in answer.text


@pytest.mark.parametrize("path", ["/setup/github", "/setup/github/callback", "/setup"])
def test_it_is_for_the_administrator_alone(gateway: Gateway, path: str) -> None:
    answer = gateway.anonymous("GET", path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    builder = {"Authorization": f"Bearer {gateway.token}"}
    assert gateway.anonymous("GET", path, headers=builder).status_code == 403


def test_who_was_not_sent_from_here_brings_nothing(gateway: Gateway, hub: fake.GitHub) -> None:
    """Somebody else's App, which would get everything that we hand to it."""
    path = made(hub, page(gateway))
    code = parse_qs(urlsplit(path).query)["code"][0]
    for query in (f"code={code}", f"code={code}&state=", f"code={code}&state={'x' * 43}", ""):
        assert back(gateway, f"/setup/github/callback?{query}").status_code == 403
    assert not stored_app(gateway.settings).id
    assert code in hub.manifests, "GitHub was not asked"


def test_a_state_counts_once_and_for_an_hour(
    gateway: Gateway, hub: fake.GitHub, store: Store
) -> None:
    path = made(hub, page(gateway))
    (key,) = store.redis.scan_iter(f"{keys.ROOT}:setup:*")
    assert 0 < store.redis.ttl(key) <= 3600
    state = parse_qs(urlsplit(path).query)["state"][0]
    assert state.encode() not in key, "who reads the store cannot come back in somebody's place"
    assert back(gateway, path).status_code == 303
    before = stored_app(gateway.settings)
    assert back(gateway, path).status_code == 403
    assert stored_app(gateway.settings).id == before.id


@pytest.mark.parametrize("code", ["", "nothing", "a/b", "a?b", "x" * 300, "..", "é"])
def test_a_code_that_stands_for_nothing_is_refused(gateway: Gateway, code: str) -> None:
    action, _ = page(gateway).to_github()
    state = parse_qs(urlsplit(action).query)["state"][0]
    answer = gateway.call("GET", "/setup/github/callback", params={"code": code, "state": state})
    assert answer.status_code == 400
    assert not stored_app(gateway.settings).id


def test_an_outage_loses_nothing(gateway: Gateway, hub: fake.GitHub) -> None:
    path = made(hub, page(gateway))
    code = parse_qs(urlsplit(path).query)["code"][0]
    hub.forge.away = True
    answer = back(gateway, path)
    hub.forge.away = False
    assert answer.status_code == 503
    assert code not in answer.text
    assert back(gateway, path).status_code == 303, "the page is loaded again"


def test_replacing_asks_first(gateway: Gateway, hub: fake.GitHub) -> None:
    stale = made(hub, page(gateway))
    back(gateway, made(hub, page(gateway)))
    first = stored_app(gateway.settings)
    assert back(gateway, stale).status_code == 409, "begun before there was one"
    shown = page(gateway)
    assert [fields for method, _, fields in shown.forms if method == "get"] == [
        {"replace": "yes", "organization": ""}
    ]
    back(gateway, made(hub, page(gateway, "?replace=yes")))
    assert stored_app(gateway.settings).id not in (0, first.id)


def test_an_app_of_another_github_is_not_taken(gateway: Gateway, hub: fake.GitHub) -> None:
    path = made(hub, page(gateway))
    (app,) = [each for each in hub.manifests.values() if each.manifest][-1:]
    app.slug = "x"
    hub.web = "https://evil.example"
    try:
        assert back(gateway, path).status_code == 400
    finally:
        hub.web = ""
    assert not stored_app(gateway.settings).id


def test_a_broken_record_is_told_without_what_is_in_it(gateway: Gateway) -> None:
    file = app_file(gateway.settings)
    file.parent.mkdir(exist_ok=True, mode=0o700)
    file.write_text('{"id": 7, "pem": "hidden" ')
    answer = gateway.call("GET", "/setup/github")
    assert answer.status_code == 500
    assert str(file) in answer.text
    assert "hidden" not in answer.text


def test_on_loopback_there_is_no_webhook_and_the_page_says_so(
    short_tmp: Path, valkey: str, hub: fake.GitHub
) -> None:
    """GitHub refuses to make an App with such a webhook."""
    with running(short_tmp, valkey, SLIPWAY_GITHUB_URL=hub.url) as gateway:
        shown = page(gateway)
        assert "cannot reach" in shown.text
        assert "SLIPWAY_PUBLIC_URL" in shown.text
        action, fields = shown.to_github()
        asked = json.loads(fields["manifest"])
        assert "hook_attributes" not in asked
        _, fields = Page(requests.post(action, data=fields, timeout=10).text).to_github()
        told = requests.post(f"{hub.url}/settings/apps", fields, timeout=10, allow_redirects=False)
        path = told.headers["Location"].removeprefix(gateway.url)
        assert back(gateway, path).status_code == 303
        assert stored_app(gateway.settings).webhook_secret == ""


def test_an_app_of_the_settings_is_not_replaced(
    short_tmp: Path, valkey: str, hub: fake.GitHub
) -> None:
    key = short_tmp / "key.pem"
    key.write_text(hub.app().pem)
    with running(
        short_tmp,
        valkey,
        SLIPWAY_GITHUB_URL=hub.url,
        SLIPWAY_GITHUB_APP_ID="7",
        SLIPWAY_GITHUB_APP_KEY_FILE=str(key),
    ) as gateway:
        shown = page(gateway, "?replace=yes")
        assert "SLIPWAY_GITHUB_APP_ID names the App" in shown.text
        assert shown.forms == []


def test_nobody_else_reads_the_file_while_it_is_written(gateway: Gateway) -> None:
    """Whatever the umask is."""
    from forges.github.app import store_app

    before = os.umask(0)
    try:
        store_app(gateway.settings, App(id=7, pem="x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(app_file(gateway.settings).stat().st_mode) == 0o600
