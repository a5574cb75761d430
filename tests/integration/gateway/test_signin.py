"""Signing in: the way through a forge and back, what the cookies hold, and who is sent away."""

from __future__ import annotations

import base64
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests

from core.repositories import Repository
from core.store import Store
from tests.forges import gitlab_pages
from tests.forges.github import GitHub, serving_github
from tests.forges.gitlab_pages import GitLab
from tests.forges.server import Part, serving
from tests.integration.gateway.harness import Gateway, running

CLIENT, SECRET = "Iv1.0123456789abcdef", "the-clients-secret"


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving_github(folder) as github:
        github.clients[CLIENT] = SECRET
        yield github
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def gitlab() -> Iterator[GitLab]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving(folder) as forge:
        gitlab = GitLab({"id": 5, "username": "gina", "namespace_id": 77})
        forge.serve(Part("/", gitlab.handle))
        gitlab.user["web_url"] = f"{forge.url}/gina"
        yield gitlab
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def signing(valkey: str, github: GitHub, gitlab: GitLab) -> Iterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    for name, secret in (("github", SECRET), ("gitlab", gitlab_pages.SECRET)):
        (folder / name).write_text(secret)
    told = {
        "SLIPWAY_GITHUB_URL": github.url,
        "SLIPWAY_GITHUB_CLIENT_ID": CLIENT,
        "SLIPWAY_GITHUB_CLIENT_SECRET_FILE": str(folder / "github"),
        "SLIPWAY_GITLAB_URL": gitlab.user["web_url"].rpartition("/")[0],
        "SLIPWAY_GITLAB_CLIENT_ID": gitlab_pages.ID,
        "SLIPWAY_GITLAB_CLIENT_SECRET_FILE": str(folder / "gitlab"),
    }
    with running(folder, valkey, **told) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def browser(store: Store) -> Iterator[requests.Session]:
    """Keeps cookies with their paths, as browsers do; follows nothing by itself."""
    assert store.holders() == {}
    with requests.Session() as session:
        session.trust_env = False
        yield session


def get(browser: requests.Session, url: str, **more: object) -> requests.Response:
    return browser.get(url, allow_redirects=False, timeout=20, **more)  # type: ignore[arg-type]  # requests' own types


def sign_in(browser: requests.Session, signing: Gateway, forge: str) -> requests.Response:
    """The whole way; the last answer, which sets the session's cookie."""
    begun = get(browser, f"{signing.url}/login/{forge}")
    assert begun.status_code == 302, begun.text
    back = get(browser, begun.headers["Location"])
    assert back.status_code == 302, back.text
    return get(browser, back.headers["Location"])


def test_the_way_through_github(
    signing: Gateway, github: GitHub, browser: requests.Session, store: Store
) -> None:
    ann = github.account("ann")
    ann.memberships = {"corp": "admin", "club": "member"}
    ids = {name: github.account(name, "Organization").id for name in ("corp", "club", "other")}
    for space, id_ in {"ann": ann.id, **ids}.items():
        store.claim_namespace(space, f"{github.url}#{id_}")
    store.claim_namespace("elsewhere", f"https://github.example#{ann.id}")
    store.link_owner(f"{github.url}#{ann.id}", "shared")
    github.visitor = ann

    page = get(browser, f"{signing.url}/login")
    assert "Sign in with GitHub" in page.text
    assert "Sign in with GitLab" in page.text
    answer = sign_in(browser, signing, "github")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/system/whoami")

    who = get(browser, f"{signing.url}/system/whoami").json()
    everything = ["read", "deploy", "secrets", "push"]
    assert who["role"] == "session"
    assert who["namespaces"] == {
        **dict.fromkeys(["ann", "corp", "shared"], everything),
        "club": ["read"],
    }
    # Each function call on this origin goes without the cookie.
    sent = get(browser, f"{signing.url}/function/x").request.headers
    assert "Cookie" not in sent
    assert github.tokens == {}, "the forge's token was given up"


def test_what_a_check_links_to_leads_to_the_sign_in(
    signing: Gateway, github: GitHub, browser: requests.Session, store: Store
) -> None:
    ann = github.visitor = github.account("ann")
    store.claim_namespace("ann", f"{github.url}#{ann.id}")
    shop = Repository(namespace="ann", name="shop", source="github", full_name="Ann/shop")
    store.save_repository(shop)
    path = f"/system/releases/{store.create_release(shop, 'a' * 40, 'main').id}/page"
    begun = get(browser, f"{signing.url}{path}")
    assert begun.status_code == 303
    assert begun.headers["Location"] == f"/login?next={quote(path, safe='')}"
    shown = get(browser, f"{signing.url}{begun.headers['Location']}")
    assert f'href="{path}?password=yes"' in shown.text, "the administrator knows a password"
    assert get(browser, f"{signing.url}{path}?password=yes").status_code == 401
    wrong = get(browser, f"{signing.url}{path}", auth=("admin", "wrong"))
    assert wrong.status_code == 401
    back = get(browser, f"{signing.url}/login/github", params={"next": path})
    back = get(browser, get(browser, back.headers["Location"]).headers["Location"])
    assert back.headers["Location"] == path
    assert get(browser, f"{signing.url}{path}").status_code == 200
    assert get(browser, f"{signing.url}/system/releases").status_code == 200
    browser.cookies.clear()
    assert get(browser, f"{signing.url}/system/releases").status_code == 401, "no page"


def test_what_the_cookie_is(signing: Gateway, github: GitHub, browser: requests.Session) -> None:
    github.visitor = github.account("ann")
    answer = sign_in(browser, signing, "github")
    cookies = SimpleCookie()
    for header in answer.raw.headers.getlist("Set-Cookie"):
        cookies.load(header)
    session = cookies["slipway-session"]
    assert (session["path"], session["samesite"]) == ("/system", "Lax")
    assert session["httponly"]
    assert session["max-age"] == str(12 * 3600)
    assert not session["secure"], "the users' URL is plain HTTP here"
    assert cookies["slipway-login"]["max-age"] == "0"
    said = _inside(session.value)
    assert b"gho_" not in said
    assert str(github.account("ann").id).encode() in said


def _inside(cookie: str) -> bytes:
    """What itsdangerous has signed: base64 of JSON, packed where that is shorter."""
    packed, _, _ = cookie.rpartition(".")
    text, _, _ = packed.rpartition(".")
    data = base64.urlsafe_b64decode(text.lstrip(".") + "==")
    return zlib.decompress(data) if text.startswith(".") else data


def test_the_way_through_gitlab(
    signing: Gateway, gitlab: GitLab, browser: requests.Session, store: Store
) -> None:
    url = signing.settings.gitlab_url
    # A user's id is not that of their namespace: 5 here is somebody else's group.
    for space, id_ in (("gina", 77), ("five", 5), ("owned", 10), ("seen", 11), ("guest", 12)):
        store.claim_namespace(space, f"{url}#{id_}")
    gitlab.groups = [(10, 50, None), (11, 30, None), (12, 10, None), (13, 50, 10)]
    gitlab.groups += [(number, 20, None) for number in range(100, 210)]
    assert sign_in(browser, signing, "gitlab").status_code == 302
    spaces = get(browser, f"{signing.url}/system/whoami").json()["namespaces"]
    assert set(spaces) == {"gina", "owned", "seen"}
    assert spaces["seen"] == ["read"]
    assert gitlab.tokens == set()
    assert len(gitlab.revoked) == 1


def test_a_session_is_over_with_its_key_or_its_form(
    signing: Gateway, github: GitHub, browser: requests.Session
) -> None:
    github.visitor = github.account("ann")
    sign_in(browser, signing, "github")
    good = browser.cookies.get("slipway-session") or ""
    login = get(browser, f"{signing.url}/login/github").cookies["slipway-login"]
    other = "A" if good[-10] != "A" else "B"  # the last one has bits that do not count
    for cookie in (f"{good[:-10]}{other}{good[-9:]}", good[1:], "", login, "x.y.z"):
        told = {"Cookie": f"slipway-session={cookie}"}
        assert signing.anonymous("GET", "/system/whoami", headers=told).status_code == 401
    told = {"Cookie": f"slipway-session={good}"}
    assert signing.anonymous("GET", "/system/whoami", headers=told).status_code == 200
    # Nowhere but below /system, whatever a client sends.
    assert signing.anonymous("GET", "/metrics", headers=told).status_code == 401
    # Credentials that are wrong are not made good by a cookie.
    told["Authorization"] = "Bearer x"
    assert signing.anonymous("GET", "/system/whoami", headers=told).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, 204),
    ],
)
def test_pages_of_others_cannot_write_with_a_session(
    signing: Gateway,
    github: GitHub,
    browser: requests.Session,
    store: Store,
    headers: dict[str, str],
    status: int,
) -> None:
    ann = github.account("ann")
    store.claim_namespace("ann", f"{github.url}#{ann.id}")
    github.visitor = ann
    sign_in(browser, signing, "github")
    host = signing.url.removeprefix("http://")
    told = {name: value.format(host=host) for name, value in headers.items()}
    body = {"namespace": "ann", "variables": {"A": "b"}}
    answer = browser.put(f"{signing.url}/system/variables", json=body, headers=told, timeout=20)
    assert answer.status_code == status
    assert store.variables("ann") == ({"A": "b"} if status == 204 else {})
    out = browser.post(f"{signing.url}/logout", headers=told, timeout=20)
    assert out.status_code == (200 if status == 204 else 403)
    assert ("slipway-session" in browser.cookies) is (status == 403)


# Those who are sent away.


def callback(signing: Gateway, browser: requests.Session, **query: str) -> requests.Response:
    return get(browser, f"{signing.url}/login/github/callback", params=query)


def test_the_state_is_this_browser_s_and_good_once(
    signing: Gateway, github: GitHub, browser: requests.Session
) -> None:
    github.visitor = github.account("ann")
    begun = get(browser, f"{signing.url}/login/github")
    kept = browser.cookies.get("slipway-login") or ""
    back = get(browser, begun.headers["Location"]).headers["Location"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    with requests.Session() as other:  # a page that sends somebody its own code
        other.trust_env = False
        assert get(other, back).status_code == 400
        get(other, f"{signing.url}/login/github")
        assert get(other, back).status_code == 400
    assert callback(signing, browser, **{**query, "state": "x"}).status_code == 400
    assert callback(signing, browser, code=query["code"]).status_code == 400
    gitlab = back.replace("/login/github/", "/login/gitlab/")
    assert get(browser, gitlab).status_code == 400
    assert get(browser, back).status_code == 302
    again = signing.anonymous(
        "GET",
        back.removeprefix(signing.url),
        headers={"Cookie": f"slipway-login={kept}"},
        allow_redirects=False,
    )
    assert (again.status_code, "used already" in again.text) == (400, True)


def test_a_code_that_is_none_signs_nobody_in(
    signing: Gateway, github: GitHub, browser: requests.Session
) -> None:
    github.visitor = github.account("ann")
    begun = get(browser, f"{signing.url}/login/github")
    state = parse_qs(urlsplit(begun.headers["Location"]).query)["state"][0]
    answer = callback(signing, browser, state=state, code="0" * 20)
    assert answer.status_code == 403
    assert "bad_verification_code" in answer.text
    assert "slipway-session" not in browser.cookies
    assert SECRET not in answer.text


def test_who_declines_is_not_signed_in(
    signing: Gateway, github: GitHub, browser: requests.Session
) -> None:
    github.visitor = None
    assert sign_in(browser, signing, "github").status_code == 403
    assert "slipway-session" not in browser.cookies


@pytest.mark.parametrize(
    ("given", "to"),
    [
        ("/system/functions", "/system/functions"),
        ("/system/releases?limit=1", "/system/releases?limit=1"),
        ("//evil.test", "/system/whoami"),
        ("/\\evil.test", "/system/whoami"),
        ("/x\\y", "/system/whoami"),
        ("https://evil.test", "/system/whoami"),
        ("javascript:alert(1)", "/system/whoami"),
        ("/a\r\nSet-Cookie: b", "/system/whoami"),
        ("", "/system/whoami"),
    ],
)
def test_nobody_is_led_elsewhere(
    signing: Gateway, github: GitHub, browser: requests.Session, given: str, to: str
) -> None:
    github.visitor = github.account("ann")
    begun = get(browser, f"{signing.url}/login/github", params={"next": given})
    sent = parse_qs(urlsplit(begun.headers["Location"]).query)
    assert sent["redirect_uri"] == [f"{signing.settings.user_url}/login/github/callback"]
    back = get(browser, begun.headers["Location"]).headers["Location"]
    assert get(browser, back).headers["Location"] == to


def test_the_host_that_a_request_names_is_not_where_the_forge_sends_people(
    signing: Gateway, browser: requests.Session
) -> None:
    begun = get(browser, f"{signing.url}/login/github", headers={"Host": "evil.test"})
    assert "evil.test" not in begun.headers["Location"]


def test_a_forge_that_is_away_is_told(
    signing: Gateway, github: GitHub, browser: requests.Session
) -> None:
    github.visitor = github.account("ann")
    begun = get(browser, f"{signing.url}/login/github")
    back = get(browser, begun.headers["Location"]).headers["Location"]
    github.forge.away = True
    try:
        assert get(browser, back).status_code == 503
    finally:
        github.forge.away = False
