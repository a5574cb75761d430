"""What an image may be called, whose it is, and whom it runs as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import InvalidRequest, NotAllowed
from core.settings import Settings
from engine import references
from engine.references import parse, refuse_others
from runtime.providers.docker.user import by_name, identity

SHA = "sha256:" + "a" * 64
FILES = {
    "/etc/passwd": b"root:x:0:0::/root:/bin/sh\n# a remark\nbad line\n"
    b"app:x:100:101::/home/app:/bin/sh\ntoor:x:00:0::/:\nodd:x:1e3:1:::\n1000:x:0:0::/:\n"
    b"two:x:7:7::/:\ntwo:x:8:8::/:\n",
    "/etc/group": b"root:x:0:\ncrew:x:200:app\n",
}


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path, registry="127.0.0.1:5000")


@pytest.mark.parametrize(
    ("text", "host", "name"),
    [
        ("figlet", "", "figlet:latest"),
        ("me/figlet:1", "", "me/figlet:1"),
        ("docker.io/me/figlet", "", "docker.io/me/figlet:latest"),
        ("ghcr.io/me/figlet:1", "ghcr.io", "ghcr.io/me/figlet:1"),
        ("GHCR.io/me/figlet", "ghcr.io", "GHCR.io/me/figlet:latest"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000", "127.0.0.1:5000/x:latest"),
        ("localhost/x", "localhost", "localhost/x:latest"),
        (f"me/figlet:1@{SHA}", "", f"me/figlet@{SHA}"),
        (SHA, "", SHA),
        ("cafe", "", "cafe:latest"),
    ],
)
def test_names_are_taken_apart_as_the_engine_does(text: str, host: str, name: str) -> None:
    found = parse(text)
    assert (found.host, found.name) == (host, name)


@pytest.mark.parametrize(
    "text",
    [
        *("", " figlet", "Figlet", "a//b", "../a", "a/../b", "http://a/b", "a:b:c", "a@b", "a\n"),
        *("a@sha256:" + "A" * 64, "a" * 600, "-a", "a/", "a?b", "a b", "a;b", "é", "a:é"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not the name of an image"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["figlet", "me/figlet", "docker.io/x/y", "127.0.0.1:5000/ann/x:1", "slipway/ann/x"]
)
def test_an_owner_may_use_what_is_public_or_its_own(here: Settings, text: str) -> None:
    refuse_others(here, "ann", text)


@pytest.mark.parametrize(
    "text",
    [
        SHA,
        f"127.0.0.1:5000/bob/x@{SHA}",
        "127.0.0.1:5000/annie/x",
        "127.0.0.1:5000/ann",
        "localhost:5000/bob/x",
        "127.0.0.2:5000/ann/x",
        "127.1:5000/bob/x",
        "slipway/bob/x",
        "docker.io/slipway/bob/x",
        "slipway-build:1",
        "169.254.169.254/latest/meta",
        "10.0.0.1:5000/x",
        "registry:5000/x",
        "localhost/x",
    ],
)
def test_an_owner_may_not_use_others_images_or_inside_registries(here: Settings, text: str) -> None:
    with pytest.raises(NotAllowed):
        refuse_others(here, "ann", text)


def test_the_admin_can_allow_a_registry_inside(here: Settings) -> None:
    refuse_others(replace(here, allow_registries=("10.0.0.1:5000",)), "ann", "10.0.0.1:5000/x")


def test_credentials_are_the_admins_on_the_whole_host_and_an_owners_below_its_path(
    here: Settings, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("pw")
    ours = replace(
        here, registry="ghcr.io/acme", registry_user="me", registry_password_file=password
    )

    def given(name: str, owner: str = "") -> bool:
        return references.credentials_for(ours, parse(name), owner) is not None

    assert given("ghcr.io/other/x")
    assert given("ghcr.io/acme/ann/x", "ann")
    assert not given("ghcr.io/acme/bob/x", "ann")
    assert not given("ghcr.io/other/x", "ann")
    for name in ("figlet", "ghcr.io.evil.com/acme/x", "ghcr.io:444/acme/x", "acme/x"):
        assert not given(name)
    assert references.credentials_for(replace(ours, registry=""), parse("figlet")) is None


@pytest.mark.parametrize(
    "user", ["", ":", ":crew", "0", "00", "+0", "-0", "0:0", "0:5", "root", "root:crew", "toor"]
)
def test_root_is_root_however_it_is_spelt(user: str) -> None:
    assert identity(user, FILES.__getitem__)[0] == 0


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", (100, 101)),
        ("app:crew", (100, 200)),
        ("app:55", (100, 55)),
        ("100", (100, 101)),
        ("1000", (1000, 0)),  # a number is a number, whatever names there are
        ("4321:crew", (4321, 200)),
        ("4321:4321", (4321, 4321)),
        ("two", (7, 7)),
    ],
)
def test_users_are_found_as_the_engine_does(user: str, expected: tuple[int, int]) -> None:
    assert identity(user, FILES.__getitem__) == expected


@pytest.mark.parametrize(
    "user",
    ["nobody", "odd", "app:none", " 0", "0x0", "\N{ARABIC-INDIC DIGIT ZERO}", "-5", "9" * 12],
)
def test_a_user_that_is_none_is_refused(user: str) -> None:
    with pytest.raises(InvalidRequest, match=r"run as|is no user"):
        identity(user, FILES.__getitem__)


def test_files_are_read_only_for_names() -> None:
    assert not by_name("")
    assert not by_name("1:1")
    assert by_name("1")
    assert by_name("app:1")
    assert identity("7", lambda _: b"") == (7, 0)
