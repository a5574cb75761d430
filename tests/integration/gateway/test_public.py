"""Pages of releases and badges: for everybody where the repository is public, else not."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec
import pytest

from core.models import LogLine, State, now
from core.repositories import Repository
from core.store import Store
from tests.integration.gateway.harness import Gateway, go_live

SHOP = Repository(
    namespace="ann",
    name="shop",
    source="github",
    full_name="Ann/shop",
    deploy_branch="main",
    public=True,
)
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def release(store: Store) -> str:
    store.claim_namespace("ann", "https://github.com#1")
    store.save_repository(SHOP)
    made = store.create_release(SHOP, "a" * 40, "main")
    line = LogLine(time=now(), function="cart", step="build", stream="stdout", text=HOSTILE)
    store.append_log(made.id, [line])
    return made.id


def test_a_public_release_is_shown_to_everybody(gateway: Gateway, release: str) -> None:
    page = gateway.anonymous("GET", f"/releases/{release}")
    assert page.status_code == 200
    assert 'id="state">queued' in page.text
    assert 'http-equiv="refresh"' in page.text, "it is on its way"
    assert HOSTILE not in page.text
    assert "&lt;script&gt;" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    log = gateway.anonymous("GET", f"/releases/{release}/log")
    assert (log.status_code, log.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert log.headers["Content-Type"].startswith("text/plain")
    assert HOSTILE in log.text


def test_a_live_one_names_its_functions(gateway: Gateway, store: Store, release: str) -> None:
    go_live(store, store.release(release), ["cart"])
    page = gateway.anonymous("GET", f"/releases/{release}").text
    assert 'href="http://slipway.test/function/cart.ann"' in page


@pytest.mark.parametrize("path", ["/releases/{}", "/releases/{}/log"])
def test_a_private_one_and_none_are_told_alike(
    gateway: Gateway, store: Store, release: str, path: str
) -> None:
    store.save_repository(msgspec.structs.replace(SHOP, public=False))
    for id_ in (release, "r999-aaaaaaa"):
        answer = gateway.anonymous("GET", path.format(id_), allow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["Location"].endswith(f"/system/releases/{id_}/page")
    assert gateway.anonymous("GET", path.format(release)).status_code == 401
    assert gateway.call("GET", f"/system/releases/{release}/page").status_code == 200
    assert gateway.call("GET", "/system/releases/r999-aaaaaaa/page").status_code == 404


def test_the_badge(gateway: Gateway, store: Store, release: str) -> None:
    def badge() -> str:
        answer = gateway.anonymous("GET", "/badge/ann/shop.svg")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("image/svg+xml")
        assert "no-cache" in answer.headers["Cache-Control"]
        return ET.fromstring(answer.text).attrib["aria-label"]

    assert badge() == "slipway: queued"
    go_live(store, store.release(release), ["cart"])
    assert badge() == "slipway: live aaaaaaa"
    again = store.create_release(SHOP, "b" * 40, "main")
    assert badge() == "slipway: queued · live aaaaaaa"
    store.move(again.id, [State.QUEUED], State.FAILED, "its own fault")
    assert badge() == "slipway: failed · live aaaaaaa"
    answer = gateway.anonymous("GET", "/badge/ann/shop.svg")
    told = {"If-None-Match": answer.headers["ETag"]}
    assert gateway.anonymous("GET", "/badge/ann/shop.svg", headers=told).status_code == 304


def test_there_is_none_of_what_is_not_public(gateway: Gateway, store: Store, release: str) -> None:
    store.save_repository(msgspec.structs.replace(SHOP, public=False))
    texts = set()
    for path in ("/badge/ann/shop.svg", "/badge/ann/other.svg", "/badge/nobody/shop.svg"):
        answer = gateway.anonymous("GET", path)
        assert answer.status_code == 404, release
        texts.add(answer.text)
    assert len(texts) == 1
