"""Pushes that are refused before there is a release: by credentials, name, size or content."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
import subprocess
import zlib

import pytest

from tests.e2e.bad_input.victim import Victim
from tests.e2e.platform import Answer, Platform, handler
from tests.waiting import until

RECEIVE = "/git/vic/pushes.git/git-receive-pack"
ZERO = "0" * 40
FORM = "a remote's URL has the form /git/<namespace>/<repository>.git"


def releases(platform: Platform) -> list[str]:
    found = platform.request("/system/releases?limit=500", admin=True).json()
    return [each["id"] for each in found]


# -------------------------------------------------------------------------------- credentials


@pytest.mark.parametrize("user", ["admin:wrong", "admin:", "root:{password}", "admin:{password}x"])
def test_a_push_with_wrong_credentials(victim: Victim, user: str) -> None:
    before = releases(victim.platform)
    victim.reset()
    victim.repository.commit({"pushes/handler.py": handler("of nobody")})
    told = user.format(password=victim.platform.password)
    url = victim.repository.url.replace("://", f"://{told}@")
    done = subprocess.run(
        ["git", "push", "--force", url, "HEAD:main"],
        cwd=victim.folder,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 128
    assert "remote: invalid credentials" in done.stderr
    assert "Authentication failed" in done.stderr
    assert victim.platform.password not in done.stderr
    assert releases(victim.platform) == before
    victim.unharmed()


def test_a_push_without_credentials_is_asked_for_them(victim: Victim) -> None:
    for path, method in (
        ("/git/vic/pushes.git/info/refs?service=git-receive-pack", "GET"),
        ("/git/vic/pushes.git/info/refs?service=git-upload-pack", "GET"),
        (RECEIVE, "POST"),
        ("/git/vic/unheard-of.git/info/refs?service=git-receive-pack", "GET"),
    ):
        answer = victim.platform.request(path, method=method)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert not (victim.platform.settings.git_folder / "vic" / "unheard-of.git").exists()


def test_the_builders_token_does_not_push(victim: Victim) -> None:
    token = victim.platform.settings.token_file.read_text().strip()
    answer = victim.platform.request(
        RECEIVE, method="POST", data=b"0000", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status == 403
    assert "the builder's token is for handing over artifacts only" in answer.text


# --------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("Ann/x", "'Ann' is not a namespace: use lower-case letters"),
        ("a_b/x", "'a_b' is not a namespace"),
        ("%2e%2e/x", "'..' is not a namespace"),
        ("system/x", "the namespace 'system' is reserved: choose another one"),
        ("openfaas-fn/x", "the namespace 'openfaas-fn' is reserved"),
        ("kube-system/x", "the namespace 'kube-system' is reserved"),
        ("a--b/x", "has '--' in it, which is kept for derived namespaces"),
        ("n" * 200 + "/x", "...' is not a namespace"),
        ("vic/" + "n" * 201, "...' is not a repository name: use letters, digits"),
        ("vic/.", "'.' is not a repository name"),
        ("vic/a..b", "'a..b' is not a repository name"),
        ("vic/-x", "'-x' is not a repository name"),
        ("vic/x.lock", "'x.lock' is not a repository name"),
        ("vic/x.git", "'x.git' is not a repository name"),
        ("vic/$(id)", "'$(id)' is not a repository name"),
        ("vic/a%00b", "is not a repository name"),
        ("vic/%2e%2e%2f%2e%2e%2fetc", FORM),
        ("vic/a/b", FORM),
        ("vic", FORM),
    ],
)
def test_a_push_to_a_hostile_name(victim: Victim, path: str, words: str) -> None:
    folder = victim.platform.settings.git_folder
    before = sorted(str(each) for each in folder.glob("*/*"))
    done = victim.repository.git(
        "push", f"{victim.platform.url}/git/{path}.git", "HEAD:main", check=False
    )
    assert done.returncode == 128
    assert words in done.stderr
    assert done.stderr.startswith("remote: "), "it is told in our words"
    answer = victim.platform.request(
        f"/git/{path}.git/info/refs?service=git-receive-pack", admin=True
    )
    assert answer.status in (400, 404)
    assert words in answer.text
    assert sorted(str(each) for each in folder.glob("*/*")) == before, "nothing was made"


def test_a_line_break_in_a_name(victim: Victim) -> None:
    """git itself does not ask for one."""
    answer = victim.platform.request(
        "/git/vic/a%0Ab.git/info/refs?service=git-receive-pack", admin=True
    )
    assert answer.status == 400
    assert answer.text.startswith(r"'a\nb' is not a repository name")


@pytest.mark.parametrize(
    "path", ["config", "HEAD", "objects/info/packs", "hooks/post-receive", "../pushes.git/config"]
)
def test_files_of_a_repository_are_not_served(victim: Victim, path: str) -> None:
    answer = victim.platform.request(f"/git/vic/pushes.git/{path}", admin=True)
    assert answer.status == 404
    assert FORM in answer.text


# ---------------------------------------------------------------------------------------- size


def test_a_push_over_the_limit(victim: Victim) -> None:
    before = releases(victim.platform)
    victim.reset()
    victim.repository.commit({"pushes/noise.bin": os.urandom(8 * 2**20)})
    pushed = victim.push()
    assert pushed.status == 1
    assert "remote: fatal: pack exceeds maximum allowed size (5.00 MiB)" in pushed.text
    assert "! [remote rejected] HEAD -> main" in pushed.text
    assert releases(victim.platform) == before
    assert head(victim) != victim.repository.git("rev-parse", "HEAD").stdout.strip()
    victim.unharmed()


# ------------------------------------------------------------------------------- corrupt packs


def packet(text: str) -> bytes:
    """One line of git's protocol: its length in four hex digits, then itself."""
    return f"{len(text) + 4:04x}{text}".encode()


def command(new: str, ref: str = "refs/heads/main", old: str = ZERO) -> bytes:
    return packet(f"{old} {new} {ref}\0 report-status") + b"0000"


def pack(*objects: bytes, count: int | None = None) -> bytes:
    """A pack of these (already encoded) objects, its checksum as it should be."""
    told = len(objects) if count is None else count
    body = b"PACK" + struct.pack(">II", 2, told) + b"".join(objects)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def encoded(kind: int, data: bytes) -> bytes:
    """An object of a pack: a head with kind (1 commit, 2 tree, 3 blob) and size, then deflated."""
    size, head_ = len(data), []
    first = (kind << 4) | (size & 15)
    size >>= 4
    while size:
        head_.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    return bytes([*head_, first]) + zlib.compress(data)


def receive(platform: Platform, body: bytes, **headers: str) -> Answer:
    told = {"Content-Type": "application/x-git-receive-pack-request", **headers}
    return platform.request(RECEIVE, method="POST", data=body, headers=told, admin=True)


def head(victim: Victim) -> str:
    listing = victim.repository.git("ls-remote", victim.repository.url, "refs/heads/main").stdout
    return listing.split()[0]


BLOB = encoded(3, b"some content")
COMMIT = b"tree " + b"1" * 40 + b"\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n"
PACKS: dict[str, tuple[bytes, str]] = {
    "nothing after the commands": (b"", "unpack eof before pack header was fully read"),
    "no pack": (b"GARB" + bytes(64), "unpack protocol error (pack signature mismatch detected)"),
    "a pack of another version": (b"PACK\0\0\0\7\0\0\0\0", "unpack protocol error"),
    "objects that are none": (pack(b"\xff" * 40), "unpack index-pack abnormal exit"),
    "fewer objects than it says": (pack(BLOB, count=9), "unpack index-pack abnormal exit"),
    "a wrong checksum": (pack(BLOB)[:-1] + b"\0", "unpack index-pack abnormal exit"),
    "an end that is missing": (pack(BLOB)[:-20], "unpack index-pack abnormal exit"),
    "a size that is not true": (
        pack(bytes([0x3F]) + zlib.compress(b"x" * 5000)),
        "unpack index-pack abnormal exit",
    ),
    "a commit without its tree": (pack(encoded(1, COMMIT)), "ng refs/heads/main"),
    "a tree that is broken": (pack(encoded(2, b"100644 x\0short")), "unpack index-pack abnormal"),
}


@pytest.mark.parametrize("kind", PACKS)
def test_a_corrupt_pack(victim: Victim, kind: str) -> None:
    before = releases(victim.platform)
    victim.reset()
    at = head(victim)
    body, words = PACKS[kind]
    new = hashlib.sha1(f"commit {len(COMMIT)}\0".encode() + COMMIT, usedforsecurity=False)
    answer = receive(victim.platform, command(new.hexdigest(), old=at) + body)
    assert answer.status == 200, "git's own way to tell"
    assert words in answer.text
    assert "ng refs/heads/main" in answer.text
    assert head(victim) == at
    assert releases(victim.platform) == before
    victim.unharmed()


@pytest.mark.parametrize(
    "body", [b"zzzz", b"\0" * 100, b"ffff", b"0005", packet("hello") + b"0000"]
)
def test_what_is_not_gits_protocol_changes_nothing(victim: Victim, body: bytes) -> None:
    before = releases(victim.platform)
    victim.reset()
    at = head(victim)
    assert b"ok refs" not in receive(victim.platform, body).body
    assert b"ok refs" not in receive(victim.platform, body, **{"Content-Encoding": "gzip"}).body
    assert (head(victim), releases(victim.platform)) == (at, before)
    victim.unharmed()


def test_a_push_that_breaks_off(victim: Victim) -> None:
    """The client announces more than it sends, and goes away."""
    before = releases(victim.platform)
    victim.reset()
    at = head(victim)
    token = base64.b64encode(f"admin:{victim.platform.password}".encode()).decode()
    body = command("1" * 40, old=at) + pack(BLOB)[:-8]
    with socket.create_connection(("127.0.0.1", victim.platform.port), timeout=10) as client:
        client.sendall(
            f"POST {RECEIVE} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
            "Content-Type: application/x-git-receive-pack-request\r\n"
            f"Content-Length: {len(body) + 1000}\r\n\r\n".encode()
        )
        client.sendall(body)
    until(lambda: head(victim) == at, 5, lambda: "a half push moved the branch")
    victim.unharmed()
    assert releases(victim.platform) == before
