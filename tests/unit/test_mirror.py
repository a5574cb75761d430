"""The mirror against real repositories and real servers on loopback, friendly and hostile."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from builder import folders
from builder import mirror as mirrors
from builder.mirror import Mirror
from builder.origins import check_host, clone_url, local_url
from builder.source import Damaged, Source
from core.addresses import is_inside, outside_addresses
from core.errors import (
    CheckoutFailed,
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotSupported,
    SlipwayError,
    Unavailable,
)
from core.repositories import Repository
from core.settings import Settings
from tests.unit.gitserver import forge
from tests.unit.repositories import SUBMODULE, BareRepository, Content

REPOSITORY = Repository(namespace="alice", name="fns", source="git")
FILES: dict[str, Content] = {"stack.yml": "version: 1.0\n", "fn/handler.py": "one\n"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", build_timeout=30.0)


@pytest.fixture
def origin(settings: Settings) -> BareRepository:
    """The bare repository of our own git remote, with one commit on main."""
    origin = BareRepository(Path(local_url(settings, REPOSITORY)))
    origin.commit(FILES)
    return origin


@pytest.fixture
def mirror(settings: Settings) -> Mirror:
    return Mirror(settings, "alice", "fns")


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)


def fetched(mirror: Mirror, origin: BareRepository, wanted: str = "main") -> Source:
    return mirror.fetch(str(origin.path), wanted, local=True)


def failure(call: Callable[[], object]) -> CheckoutFailed:
    with pytest.raises(CheckoutFailed) as caught:
        call()
    return caught.value


# Our own git remote, by path.


def test_head_and_fetch(mirror: Mirror, origin: BareRepository) -> None:
    commit = origin.git("rev-parse", "main")
    assert mirror.head(str(origin.path), local=True) == ("main", commit)
    assert mirror.head(str(origin.path), "main", local=True) == ("main", commit)
    with fetched(mirror, origin, commit) as source:
        assert source.commit == commit
        assert source.read("fn/handler.py", 100) == b"one\n"
    with fetched(mirror, origin, "main") as source:
        assert source.commit == commit


def test_only_the_one_commit_is_fetched(mirror: Mirror, origin: BareRepository) -> None:
    first = origin.git("rev-parse", "main")
    second = origin.commit({**FILES, "fn/handler.py": "two\n"})
    with fetched(mirror, origin, second) as source:
        assert source.read("fn/handler.py", 100) == b"two\n"
    with pytest.raises(Damaged):
        Source(mirror.git_dir, first, max_files=9, max_bytes=9)


def test_a_commit_that_is_there_needs_no_origin(mirror: Mirror, origin: BareRepository) -> None:
    commit = origin.git("rev-parse", "main")
    fetched(mirror, origin, commit).close()
    origin.path.rename(origin.path.with_suffix(".away"))
    with fetched(mirror, origin, commit) as source:
        assert source.read("fn/handler.py", 100) == b"one\n"


def test_an_old_commit_can_be_fetched_after_a_new_one(
    mirror: Mirror, origin: BareRepository
) -> None:
    first = origin.git("rev-parse", "main")
    second = origin.commit({**FILES, "fn/handler.py": "two\n"})
    for commit, content in ((second, b"two\n"), (first, b"one\n")):
        with fetched(mirror, origin, commit) as source:
            assert source.read("fn/handler.py", 100) == content


def test_a_forced_push_is_followed(mirror: Mirror, origin: BareRepository) -> None:
    fetched(mirror, origin).close()
    forced = origin.commit({"other": "x"}, on_top=False)
    with fetched(mirror, origin) as source:
        assert source.commit == forced
        assert source.find("fn") is None


def test_what_is_not_there_is_named(
    mirror: Mirror, origin: BareRepository, settings: Settings
) -> None:
    url = str(origin.path)
    assert "has no branch 'gone'" in str(failure(lambda: mirror.head(url, "gone", local=True)))
    empty = BareRepository(settings.git_folder / "alice" / "empty.git")
    error = failure(lambda: mirror.head(str(empty.path), local=True))
    assert "has no commit on its default branch" in str(error)
    nowhere = str(settings.git_folder / "alice" / "nowhere.git")
    error = failure(lambda: mirror.head(nowhere, local=True))
    assert "alice/nowhere.git was not found" in str(error)
    assert not error.retryable
    error = failure(lambda: mirror.fetch(url, "1" * 40, local=True))
    assert "forced push" in str(error)
    assert str(settings.state) not in str(error)


def test_only_paths_of_our_git_remote_are_local(
    mirror: Mirror, origin: BareRepository, settings: Settings, tmp_path: Path
) -> None:
    outside = BareRepository(tmp_path / "outside.git")
    outside.commit(FILES)
    (settings.git_folder / "alice" / "link.git").symlink_to(outside.path)
    for path in (
        str(outside.path),
        str(settings.git_folder / "alice" / "link.git"),
        f"{settings.git_folder}/../../outside.git",
        str(settings.git_folder),
        "relative.git",
    ):
        error = failure(partial(mirror.fetch, path, "main", local=True))
        assert "not one of our own" in str(error)
    with pytest.raises(CheckoutFailed, match="only http and https"):
        mirror.fetch(str(origin.path), "main")


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/pwned",
        "file:///etc",
        "ssh://git@example.com/a/b.git",
        "git@example.com:a/b.git",
        "git://example.com/a/b.git",
        "--upload-pack=touch /tmp/pwned",
        "-c",
        "",
        "https://user:secret@example.com/a/b.git",
        "http://",
    ],
)
def test_other_urls_are_refused(mirror: Mirror, url: str) -> None:
    for call in (lambda: mirror.head(url), lambda: mirror.fetch(url, "main")):
        error = failure(call)
        assert "only http and https" in str(error)


@pytest.mark.parametrize(
    "branch", ["-x", "a..b", "a b", "a:b", "refs/*", "a@{1}", "x.lock", "a\n", "\x00", "a//b", "/a"]
)
def test_branches_are_checked(mirror: Mirror, origin: BareRepository, branch: str) -> None:
    with pytest.raises(InvalidRequest, match="not the name of a branch"):
        mirror.head(str(origin.path), branch, local=True)


def test_branches_with_slashes(mirror: Mirror, origin: BareRepository) -> None:
    commit = origin.commit(FILES, branch="feature/a-b.c")
    assert mirror.head(str(origin.path), "feature/a-b.c", local=True)[1] == commit


# Hostile content.


def test_hooks_never_run(mirror: Mirror, origin: BareRepository, tmp_path: Path) -> None:
    fetched(mirror, origin).close()
    proof = tmp_path / "ran"
    for folder in (mirror.git_dir, origin.path):
        for name in ("reference-transaction", "post-checkout", "pre-auto-gc", "post-merge"):
            hook = folder / "hooks" / name
            hook.parent.mkdir(exist_ok=True)
            hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
            hook.chmod(0o755)
    new = {**FILES, "hooks/post-checkout": ("100755", f"#!/bin/sh\ntouch {proof}\n")}
    # The hook does run where nothing forbids it, or the test would prove nothing.
    subprocess.run(
        [
            "git",
            f"--git-dir={mirror.git_dir}",
            "update-ref",
            "refs/x",
            origin.git("rev-parse", "main"),
        ],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    assert proof.exists()
    proof.unlink()
    commit = BareRepository(tmp_path / "other.git").commit(new)
    origin.git("-c", "core.hooksPath=/dev/null", "fetch", "-q", str(tmp_path / "other.git"), "main")
    origin.git("-c", "core.hooksPath=/dev/null", "update-ref", "refs/heads/main", commit)
    with fetched(mirror, origin) as source:
        assert source.commit == commit
    assert not proof.exists()


def test_submodules_are_never_fetched(
    mirror: Mirror, origin: BareRepository, tmp_path: Path
) -> None:
    proof = tmp_path / "ran"
    victim = BareRepository(tmp_path / "victim.git").commit({"secret": "x"})
    modules = (
        f'[submodule "a"]\n\tpath = a\n\turl = ext::sh -c touch% {proof}\n'
        f'[submodule "b"]\n\tpath = b\n\turl = file://{tmp_path}/victim.git\n'
    )
    origin.commit(
        {**FILES, ".gitmodules": modules, "a": (SUBMODULE, victim), "b": (SUBMODULE, victim)}
    )
    with fetched(mirror, origin) as source:
        assert source.read("fn/handler.py", 9) == b"one\n"
    assert not proof.exists()
    with pytest.raises(Damaged):
        Source(mirror.git_dir, victim, max_files=9, max_bytes=9)


def test_objects_that_do_not_pass_gits_checks(mirror: Mirror, origin: BareRepository) -> None:
    good = origin.git("rev-parse", "main")
    blob = origin.blob(b"[core]\n\thooksPath = x\n")
    git = origin.tree([("100644", b"config", blob)])
    bad = origin.commit_tree(origin.tree([("40000", b".git", git)]))
    error = failure(lambda: fetched(mirror, origin, bad))
    assert "do not pass git's checks" in str(error)
    assert "hasDotgit" in str(error)
    assert not error.retryable
    with fetched(mirror, origin, good) as source:
        assert source.find("fn")


def test_a_pack_over_the_bound_is_refused(settings: Settings, origin: BareRepository) -> None:
    small = Settings(state=settings.state, max_push=2**20)
    mirror = Mirror(small, "alice", "fns")
    good = origin.git("rev-parse", "main")
    bad = origin.commit({"large": noise(3 * 2**20)})
    error = failure(lambda: fetched(mirror, origin, bad))
    assert "SLIPWAY_MAX_PUSH" in str(error)
    assert not error.retryable
    left = [path for path in mirror.git_dir.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in left) < 2**16
    with fetched(mirror, origin, good) as source:
        assert source.find("fn")


def test_the_servers_environment_has_no_say(
    mirror: Mirror, origin: BareRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "ran"
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[url "{tmp_path}/elsewhere"]\n\tinsteadOf = {origin.path}\n'
        f"[core]\n\tfsmonitor = touch {proof}\n[uploadpack]\n\tpackObjectsHook = touch {proof}\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nonexistent")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    with fetched(mirror, origin) as source:
        assert source.read("fn/handler.py", 9) == b"one\n"
    assert not proof.exists()
    assert not (tmp_path / "trace").exists()


# A mirror that is damaged.


def packs(mirror: Mirror) -> list[Path]:
    found = sorted(mirror.git_dir.glob("objects/pack/*.pack"))
    for pack in found:
        pack.chmod(0o600)
    return found


def truncate(mirror: Mirror) -> None:
    for pack in packs(mirror):
        os.truncate(pack, 20)


def remove_packs(mirror: Mirror) -> None:
    for pack in packs(mirror):
        pack.unlink()


def break_head(mirror: Mirror) -> None:
    (mirror.git_dir / "HEAD").write_bytes(b"\0garbage")


def break_config(mirror: Mirror) -> None:
    (mirror.git_dir / "config").write_text("[core\n\trepositoryformatversion = 99\n")


def break_references(mirror: Mirror) -> None:
    for reference in (mirror.git_dir / "refs" / "slipway").iterdir():
        reference.write_text("not an id\n")


def remove_objects(mirror: Mirror) -> None:
    (mirror.git_dir / "objects").rename(mirror.git_dir / "gone")


@pytest.mark.parametrize(
    "damage",
    [truncate, remove_packs, break_head, break_config, break_references, remove_objects],
)
@pytest.mark.parametrize("new_commit", [False, True])
def test_a_damaged_mirror_is_made_anew(
    mirror: Mirror, origin: BareRepository, damage: Callable[[Mirror], None], new_commit: bool
) -> None:
    fetched(mirror, origin).close()
    damage(mirror)
    if new_commit:
        origin.commit({**FILES, "new": "x"})
    with fetched(mirror, origin) as source:
        assert source.read("fn/handler.py", 9) == b"one\n"
        assert (source.find("new") is not None) == new_commit


def test_a_file_that_cannot_be_read_marks_the_mirror(
    mirror: Mirror, origin: BareRepository
) -> None:
    content = noise(2**20)
    origin.commit({**FILES, "large": content})
    source = fetched(mirror, origin)
    [pack] = packs(mirror)
    with pack.open("r+b") as file:
        file.seek(2**19)
        file.write(b"\0" * 4096)
    with pytest.raises(Damaged, match="damaged") as caught:
        source.read("large", 2**21)
    assert caught.value.retryable
    source.close()
    with fetched(mirror, origin) as source:
        assert source.read("large", 2**21) == content


def test_many_packs_make_a_new_mirror_unless_somebody_reads(
    mirror: Mirror, origin: BareRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "_MAX_PACKS", 2)

    def push(number: int) -> Source:
        origin.commit({**FILES, "n": str(number)})
        return fetched(mirror, origin)

    reader = push(0)
    for number in range(1, 5):
        push(number).close()
    assert len(packs(mirror)) == 5
    assert reader.read("n", 9) == b"0"
    reader.close()
    with push(5) as source:
        assert len(packs(mirror)) == 1
        assert source.read("n", 9) == b"5"


def test_fetches_of_one_mirror_at_the_same_time(settings: Settings, origin: BareRepository) -> None:
    commits = [origin.commit({**FILES, "n": str(number)}) for number in range(8)]

    def fetch(number: int) -> bytes:
        with fetched(Mirror(settings, "alice", "fns"), origin, commits[number]) as source:
            return source.read("n", 9)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fetch, range(8))) == [str(n).encode() for n in range(8)]


# Forges, over HTTP.


@pytest.fixture
def upstream(tmp_path: Path) -> BareRepository:
    upstream = BareRepository(tmp_path / "forge" / "a" / "b.git")
    upstream.commit({**FILES, "fn/handler.py": "zero\n"})
    upstream.commit(FILES)
    return upstream


def test_a_forge(mirror: Mirror, upstream: BareRepository, tmp_path: Path) -> None:
    with forge(tmp_path / "forge") as (base, _):
        url = f"{base}/a/b.git"
        branch, commit = mirror.head(url)
        assert (branch, commit) == ("main", upstream.git("rev-parse", "main"))
        with mirror.fetch(url, commit) as source:
            assert source.read("fn/handler.py", 9) == b"one\n"
        with pytest.raises(Damaged):  # depth 1: its parent was not fetched
            Source(mirror.git_dir, upstream.git("rev-parse", "main~1"), max_files=9, max_bytes=9)
        with mirror.fetch(url, upstream.git("rev-parse", "main~1")) as source:
            assert source.read("fn/handler.py", 9) == b"zero\n"


def test_a_server_that_serves_branches_only(
    mirror: Mirror, upstream: BareRepository, tmp_path: Path
) -> None:
    upstream.git("update-server-info")
    commit = upstream.git("rev-parse", "main~1")
    with forge(tmp_path / "forge") as (base, seen):
        with mirror.fetch(f"{base}/static/a/b.git", commit, branch="main") as source:
            assert source.read("fn/handler.py", 9) == b"zero\n"
        assert any("/objects/" in path for path in seen), "it was served file by file"


def test_credentials(mirror: Mirror, upstream: BareRepository, tmp_path: Path) -> None:
    password = "Basic " + base64.b64encode(b"x-access-token:hunter2").decode()
    wrong = "Basic " + base64.b64encode(b"x-access-token:wrong").decode()
    with forge(tmp_path / "forge", password) as (base, _):
        url = f"{base}/a/b.git"
        for credential in ("", wrong):
            error = failure(partial(mirror.head, url, credential=credential))
            assert "asks for credentials" in str(error)
            assert not error.retryable
            assert wrong not in str(error)
        with mirror.fetch(url, "main", credential=password) as source:
            assert source.find("fn")
        failure(lambda: mirror.fetch(url, upstream.commit(FILES)))
    for file in mirror.git_dir.rglob("*"):
        if file.is_file():
            assert password.encode() not in file.read_bytes()


def test_credentials_are_on_no_command_line(tmp_path: Path) -> None:
    with forge(tmp_path / "forge") as (base, seen):
        small = Settings(state=tmp_path / "state", build_timeout=2)
        slow = Mirror(small, "alice", "slow")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(slow.head, f"{base}/slow/b.git", credential="Basic aHVudGVyMg==")
            while not seen:
                assert not waiting.done()
            lines = command_lines()
            error = waiting.exception(20)
    assert any(b"ls-remote" in line for line in lines)
    assert not any(b"aHVudGVyMg" in line for line in lines)
    assert isinstance(error, CheckoutFailed)
    assert "longer than 2 s" in str(error)
    assert "aHVudGVyMg" not in str(error)
    assert error.retryable


def command_lines() -> list[bytes]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append(path.read_bytes())
    return found


def test_failures_of_a_forge(mirror: Mirror, tmp_path: Path) -> None:
    with forge(tmp_path / "forge") as (base, seen):
        missing = failure(lambda: mirror.head(f"{base}/a/missing.git"))
        assert "was not found" in str(missing)
        assert not missing.retryable
        moved = failure(lambda: mirror.head(f"{base}/moved/b.git"))
        assert "redirect" in str(moved)
        assert not moved.retryable
        assert not any(path.startswith("/a/b") for path in seen), "it was not followed"
        broken = failure(lambda: mirror.fetch(f"{base}/broken/b.git", "1" * 40))
        assert "cannot be reached" in str(broken)
        assert broken.retryable


def test_a_forge_that_is_not_there(mirror: Mirror) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = failure(lambda: mirror.head(f"http://127.0.0.1:{taken.getsockname()[1]}/a/b.git"))
    assert "cannot be reached" in str(error)
    assert error.retryable


def test_no_git_process_outlives_a_timeout(tmp_path: Path) -> None:
    with forge(tmp_path / "forge") as (base, _):
        settings = Settings(state=tmp_path / "state", build_timeout=0.5)
        error = failure(lambda: Mirror(settings, "alice", "x").head(f"{base}/slow/b.git"))
        assert error.retryable
        port = base.rsplit(":", 1)[1].encode()
        deadline = time.monotonic() + 10  # killed is not yet gone
        while any(b"git" in line and port in line for line in command_lines()):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_release_that_was_decided_does_not_wait_for_git(tmp_path: Path) -> None:
    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() > begun + 0.3:
            raise Conflict

    with forge(tmp_path / "forge") as (base, _):
        settings = Settings(state=tmp_path / "state")
        mirror = Mirror(settings, "alice", "x", check=check)
        for ask in (mirror.head, partial(mirror.fetch, wanted="1" * 40)):
            with pytest.raises(Conflict):
                ask(f"{base}/slow/b.git")
        assert time.monotonic() - begun < 10
        port = base.rsplit(":", 1)[1].encode()
        while any(b"git" in line and port in line for line in command_lines()):
            assert time.monotonic() < begun + 15
            time.sleep(0.02)


def test_a_release_that_was_decided_does_not_wait_for_another(
    settings: Settings, origin: BareRepository
) -> None:
    busy, ended = Mirror(settings, "alice", "fns"), threading.Event()

    def check() -> None:
        if ended.is_set():
            raise Conflict

    threading.Timer(0.3, ended.set).start()
    begun = time.monotonic()
    with busy._changing(), pytest.raises(Conflict):
        fetched(Mirror(settings, "alice", "fns", check=check), origin)
    assert time.monotonic() - begun < 10


def test_what_is_fetched_leaves_the_disk_its_reserve(
    mirror: Mirror, origin: BareRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(mirror, origin).close()
    second = origin.commit({**FILES, "fn/handler.py": "two\n"})
    before = packs(mirror)
    monkeypatch.setattr(folders, "RESERVE", 2**60)
    with pytest.raises(Unavailable, match="no room for builds"):
        fetched(mirror, origin, second)
    assert packs(mirror) == before
    fetched(mirror, origin, origin.git("rev-parse", "main~1")).close()  # is there already


# Where a repository is cloned from.


def github(full_name: str) -> Repository:
    return Repository(namespace="alice", name="fns", source="github", full_name=full_name)


def test_clone_urls(settings: Settings) -> None:
    for name in ("Al-ice/fns.js", "alice/-fns", "alice/.github"):
        assert clone_url(settings, github(name)) == f"https://github.com/{name}.git"
    for name in (
        "alice",
        "-alice/x",
        "--upload-pack=x/y",
        "a/b/c",
        "../x",
        "a/..",
        "a/b?x",
        "a/b#c",
        "@evil.example/x",
        "a/b.git",
        "",
    ):
        with pytest.raises(InvalidRequest):
            clone_url(settings, github(name))
    with pytest.raises(NotSupported):
        clone_url(settings, REPOSITORY)
    assert local_url(settings, REPOSITORY).endswith("/git/alice/fns.git")


def test_inside_hosts_are_refused() -> None:
    settings = Settings(state=Path("/nonexistent"), github_url="http://127.0.0.1:9")
    check_host(settings, "http://127.0.0.1:9/a/b.git")  # the administrator's own word
    for host in (
        "localhost",
        "[::1]",
        "10.0.0.1",
        "169.254.169.254",
        "[::ffff:10.1.2.3]",
        "0.0.0.0",
    ):
        with pytest.raises(NotAllowed, match="SLIPWAY_ALLOW_HOSTS"):
            check_host(settings, f"http://{host}/a/b.git")
    allowed = Settings(state=Path("/nonexistent"), allow_hosts=("localhost",))
    check_host(allowed, "http://localhost/a/b.git")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1"),
        *("fec0::1", "64:ff9b:1::7f00:1", "::7f00:1", "::ffff:0:127.0.0.1"),
    ],
)
def test_inside_addresses(address: str) -> None:
    assert is_inside(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "140.82.121.3", "2606:4700::1111", "64:ff9b::808:808"]
)
def test_outside_addresses(address: str) -> None:
    assert not is_inside(address)
    assert outside_addresses(address, 443) == [address]


def test_names_that_do_not_resolve() -> None:
    for name in ("does-not-exist.invalid", "a" * 300, "\u0130" * 80):
        with pytest.raises(Unavailable, match="cannot be resolved"):
            outside_addresses(name, 443)


def test_the_mirror_is_nobody_elses(mirror: Mirror, origin: BareRepository) -> None:
    fetched(mirror, origin).close()
    assert stat.S_IMODE(mirror.git_dir.stat().st_mode) == 0o700


def test_namespace_and_name_are_checked(settings: Settings) -> None:
    for namespace, name in (("..", "x"), ("a", "../x"), ("a", "x.git"), ("a/b", "x")):
        with pytest.raises(SlipwayError):
            Mirror(settings, namespace, name)
