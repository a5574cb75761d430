"""package.json and package-lock.json, hostile ones included."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder import packagejson
from builder.node_dependencies import merged
from builder.packagejson import Manifest
from core.errors import BuildFailed


def read(content: Any) -> Manifest:
    return packagejson.parse(json.dumps(content).encode(), "package.json")


def refused(content: Any) -> str:
    with pytest.raises(BuildFailed) as caught:
        read(content)
    return str(caught.value)


def lock(entry: dict[str, Any], place: str = "node_modules/a", version: int = 3) -> str:
    content = {"lockfileVersion": version, "packages": {"": {"name": "x"}, place: entry}}
    return packagejson.parse_lock(json.dumps(content).encode(), "package-lock.json")


VERSIONS = "^1.2.3|~1|*||latest|>=1.0 <2|1.x|1.0.0-rc.1+5|1 - 2|npm:other@^1|npm:@scope/other@1.0.0"


@pytest.mark.parametrize("spec", [*VERSIONS.split("|"), "1 || 2"])
def test_versions_from_the_registry_pass(spec: str) -> None:
    manifest = read({"name": "mine", "dependencies": {"@scope/a": spec, "b.c_d": spec}})
    assert json.loads(manifest.text())["dependencies"] == {"@scope/a": spec, "b.c_d": spec}


ELSEWHERE = [
    *("git+https://evil.example/x.git", "git://x/y", "github:a/b", "a/b", "a/b#main", "./x", ".."),
    *("https://evil.example/x.tgz", "http://127.0.0.1/", "file:../x", "~/x", "/x", "x.tgz"),
    *("X.TAR.GZ", "link:x", "workspace:*", "npm:a/b", "npm:git+ssh://x"),
]
NONSENSE = ["1\n2", "c:\\x", "1" * 300, 7, None, ["1"], {"version": "1"}]


@pytest.mark.parametrize("spec", [*ELSEWHERE, *NONSENSE])
@pytest.mark.parametrize("kind", packagejson.KINDS)
def test_everything_else_is_refused(kind: str, spec: object) -> None:
    told = refused({kind: {"a": spec}})
    assert f"{kind}: a is " in told
    assert "only versions from the registry" in told


@pytest.mark.parametrize("name", ["../x", "a/b", ".bin", "@a", "a b", "http://x", "", "@/a", "a\n"])
def test_names_that_are_none(name: str) -> None:
    assert "is not a package name" in refused({"dependencies": {name: "1"}})


def test_all_mistakes_at_once() -> None:
    told = refused(
        {
            "workspaces": ["x"],
            "dependencies": {"a": "file:x"},
            "devDependencies": ["b"],
            "scripts": {"test": 7},
            "overrides": {"a": {"b": "git+ssh://x/y"}},
        }
    )
    assert "5 mistakes" in told
    assert "overrides.a.b" in told


def test_overrides_of_versions_pass() -> None:
    overrides = {"a": "1", "b": {".": "2", "c": "$d"}}
    assert json.loads(read({"overrides": overrides}).text())["overrides"] == overrides


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 60_000, b"1" * 6000])
def test_what_is_not_an_object(data: bytes) -> None:
    with pytest.raises(BuildFailed, match=r"not JSON|not a JSON object"):
        packagejson.parse(data, "package.json")


def test_too_large() -> None:
    with pytest.raises(BuildFailed, match="at most 65536"):
        packagejson.parse(b" " * 65537, "package.json")


def test_npm_is_told_nothing_but_packages() -> None:
    told = json.loads(
        read(
            {
                "scripts": {"preinstall": "touch /x"},
                "bin": "x",
                "publishConfig": {"registry": "http://evil"},
                "dependencies": {"a": "1"},
            }
        ).text()
    )
    assert told == {
        "name": "function",
        "version": "0.0.0",
        "private": True,
        "dependencies": {"a": "1"},
    }


def test_a_locks_addresses_are_dropped_and_its_hashes_kept() -> None:
    entry = {
        "version": "1.0.0",
        "resolved": "https://evil.example/a.tgz",
        "integrity": "sha512-x",
        "dependencies": {"b": "^1"},
    }
    told = json.loads(lock(entry))
    assert told["packages"]["node_modules/a"] == {
        "version": "1.0.0",
        "integrity": "sha512-x",
        "dependencies": {"b": "^1"},
    }
    assert "evil" not in lock(entry)


@pytest.mark.parametrize(
    ("entry", "place", "told"),
    [
        ({"version": "1", "resolved": "git+ssh://x/y"}, "node_modules/a", "not from the registry"),
        ({"version": "1", "resolved": "file:../x"}, "node_modules/a", "not from the registry"),
        ({"resolved": "x", "link": True}, "node_modules/a", "not from the registry"),
        ({"version": "1"}, "node_modules/../../x", "not a package below"),
        ({"version": "1"}, "packages/a", "not a package below"),
        ({"version": "1"}, "/etc", "not a package below"),
        ({"version": "http://x/"}, "node_modules/a", "has no version"),
        ({}, "node_modules/a", "has no version"),
        ({"version": "1", "dependencies": {"b": "http://x/y"}}, "node_modules/a", "only versions"),
    ],
)
def test_hostile_locks(entry: dict[str, Any], place: str, told: str) -> None:
    with pytest.raises(BuildFailed, match=told):
        lock(entry, place)


def test_an_old_lock_says_how_to_renew_it() -> None:
    with pytest.raises(BuildFailed, match="npm install --package-lock-only"):
        lock({"version": "1"}, version=1)


@pytest.mark.parametrize(
    ("script", "real"),
    [
        (None, False),
        ("", False),
        ('echo "Error: no test specified" && exit 1', False),
        ('echo "Error: no test specified" && exit 0', False),
        ("exit 0", False),
        ("true", False),
        ("echo skipped", False),
        ("node --test", True),
        ("echo start && node --test", True),
        ("mocha", True),
        ("npm run lint && exit 0", True),
    ],
)
def test_which_test_scripts_do_something(script: str | None, real: bool) -> None:
    manifest = read({"scripts": {} if script is None else {"test": script}})
    assert packagejson.has_test_script(manifest) is real


def test_a_templates_packages_join_and_may_not_disagree() -> None:
    function = read({"dependencies": {"a": "1", "b": "2"}, "devDependencies": {"t": "1"}})
    template = read({"dependencies": {"b": "2", "c": "3"}, "devDependencies": {"u": "1"}})
    both = merged(function, template, "node")
    assert both.wanted == {
        "dependencies": {"a": "1", "b": "2", "c": "3"},
        "devDependencies": {"t": "1"},
    }
    with pytest.raises(BuildFailed, match="'1' here, '9' in the template"):
        merged(function, read({"dependencies": {"a": "9"}}), "node")
