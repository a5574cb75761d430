"""Pushes with the real git client, through gunicorn, http-backend and the hook."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.models import Build, Release, State
from core.store import Store
from gateway.hooks import post_receive
from tests.integration.gateway.harness import (
    BUILDER,
    Gateway,
    Hand,
    commit,
    descendants,
    go_live,
    head,
    line,
    memory_mb,
    repository,
    running,
)
from tests.waiting import until

FILES: dict[str, str | bytes] = {"stack.yml": "version: 1.0\n"}


def stored(gateway: Gateway, name: str, ref: str) -> str:
    """What a ref of a repository of the remote is, or ''."""
    path = gateway.settings.git_folder / f"{name}.git"
    done = subprocess.run(
        ["git", f"--git-dir={path}", "rev-parse", "--verify", "--quiet", ref],
        env={"PATH": os.environ["PATH"], "HOME": str(gateway.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def remote_lines(told: str) -> list[str]:
    lines = [each for each in told.splitlines() if each.startswith("remote:")]
    return [each.removeprefix("remote: ").rstrip() for each in lines]


def test_a_push_goes_live(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    work = repository(tmp_path / "w", FILES)
    with Hand(store, lambda release: go_live(store, release, ["hello", "other"])):
        status, told = gateway.run("push", gateway.remote("live/fns"), "main", cwd=work)
    (release,) = store.releases("live", "fns")
    assert status == 0, told
    assert (release.commit, release.branch) == (head(work), "main")
    lines = remote_lines(told)
    assert lines[-1] == f"slipway: live {release.id}"
    assert lines[-3:-1] == [
        "hello: http://slipway.test/function/hello.live",
        "other: http://slipway.test/function/other.live",
    ]
    assert "hello: building" in lines
    known = store.repository("live", "fns")
    assert (known.source, known.deploy_branch) == ("git", "main")
    assert stored(gateway, "live/fns", "HEAD") == head(work)


def test_progress_is_seen_while_it_happens(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    work = repository(tmp_path / "w", FILES)
    seen = threading.Event()

    def build(release: Release) -> None:
        store.append_log(release.id, [line("slow", "context", "step", "building")])
        assert seen.wait(10), "the client did not see the line while the build ran"
        go_live(store, release, ["slow"])

    push = gateway.start("push", gateway.remote("progress/fns"), "main", cwd=work)
    assert push.stdout is not None
    with Hand(store, build), push.stdout:
        for told in push.stdout:
            if "slow: building" in told and not seen.is_set():
                assert store.releases("progress")[0].state is State.QUEUED
                seen.set()
    assert push.wait() == 0


def test_a_failing_step_shows_its_last_lines(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)

    def build(release: Release) -> None:
        output = [line("hello", "test", "stdout", f"output {n}\x1b[31m") for n in range(80)]
        store.append_log(release.id, [line("hello", "test", "step", "testing"), *output])
        store.append_log(release.id, [line("hello", "test", "step", "failed: 1 test failed")])
        store.move(release.id, BUILDER, State.FAILED, "hello test: 1 test failed\nsee above")

    with Hand(store, build):
        status, told = gateway.run("push", gateway.remote("failing/fns"), "main", cwd=work)
    (release,) = store.releases("failing")
    lines = remote_lines(told)
    assert status == 0, "the push itself is stored"
    assert lines[-1] == f"slipway: failed {release.id}: hello test: 1 test failed; see above"
    assert lines[-3:-1] == [
        "hello: test failed: 1 test failed",
        f"its whole log: slipway logs {release.id}",
    ]
    shown = [each.strip() for each in lines if "output" in each]
    assert shown == [f"hello | output {n}" for n in range(30, 80)]


def test_a_push_that_is_overtaken_is_told_so(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    remote = gateway.remote("overtaken/fns")
    first = gateway.start("push", remote, "main", cwd=work)
    until(lambda: len(store.releases("overtaken")) == 1)
    newest = commit(work, {"a": "1"})
    with Hand(store, lambda release: release.commit == newest and go_live(store, release)):
        status, told = gateway.run("push", remote, "main", cwd=work)
        assert first.stdout is not None
        with first.stdout:
            before = first.stdout.read()
    assert first.wait() == status == 0
    newer, older = store.releases("overtaken")
    assert remote_lines(before)[-1].startswith(f"slipway: superseded {older.id}: {newer.id}")
    assert remote_lines(told)[-1] == f"slipway: live {newer.id}"


def test_other_branches_and_tags_are_stored_and_not_deployed(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES, branch="feature")
    remote = gateway.remote("branches/fns")
    _, told = gateway.run("push", remote, "feature", "feature:v2", cwd=work)
    assert "feature: stored, not deployed: push main or master to deploy" in remote_lines(told)
    assert store.releases("branches") == []
    with Hand(store, lambda release: go_live(store, release)):
        _, told = gateway.run("push", remote, "feature:master", "feature:refs/tags/t1", cwd=work)
    lines = remote_lines(told)
    assert "t1: stored, not deployed: only branches are" in lines
    (release,) = store.releases("branches")
    assert (release.branch, lines[-1]) == ("master", f"slipway: live {release.id}")
    commit(work, {"a": "1"})
    _, told = gateway.run("push", remote, "feature:main", cwd=work)
    assert remote_lines(told) == [
        "main: stored, not deployed: the deploy branch is master",
        "slipway: stored, nothing to deploy",
    ]
    _, told = gateway.run("push", remote, ":v2", cwd=work)
    assert remote_lines(told)[0] == "v2: deleted; nothing was deployed from it"
    assert len(store.releases("branches")) == 1
    assert stored(gateway, "branches/fns", "refs/heads/main") == head(work)
    assert stored(gateway, "branches/fns", "refs/heads/v2") == ""


def test_a_branch_of_any_name_is_reported(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    """Some characters end a line for Python, and for git they do not."""
    work = repository(tmp_path / "w", FILES)
    odd = [f"main:refs/heads/a{character}b" for character in "\u2028\u2029\x85é"]
    with Hand(store, lambda release: go_live(store, release)):
        status, told = gateway.run("push", gateway.remote("odd/fns"), "main", *odd, cwd=work)
    (release,) = store.releases("odd")
    assert (status, f"remote: slipway: live {release.id}" in told) == (0, True), told
    assert told.count("stored; deployed if the stack file of main makes it") == len(odd)


OLD, NEW = "0" * 40, "a" * 40


@pytest.mark.parametrize(
    ("updates", "told"),
    [
        (f"{OLD} {NEW} refs/heads/main\n", NEW),
        (f"{OLD} {NEW} refs/heads/a\u2028b c\x85\n", NEW),
        (f"{OLD} {OLD} refs/heads/x\n{OLD} {NEW} refs/tags/x\n", "<commit>"),
        ("no update\n\n \n", "<commit>"),
        ("", "<commit>"),
    ],
)
@pytest.mark.parametrize("answer", [None, b"", b"nonsense", b"HTTP/1.0 500 No\r\n\r\nno\xff"])
def test_the_hook_always_ends_with_a_word_of_its_own(
    short_tmp: Path, updates: str, told: str, answer: bytes | None
) -> None:
    """Whatever it reads, and whatever the gateway does; None: there is no gateway."""

    def once() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(answer or b"")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp / "s"))
        if answer is not None:
            listener.listen()
            threading.Thread(target=once, daemon=True).start()
        done = run_hook(updates, subprocess.PIPE, SLIPWAY_PUSH_SOCKET=str(short_tmp / "s"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"slipway: the push is stored (")
    assert done.stdout.endswith(f"follow it with: slipway wait {told}\n".encode())


def test_the_hook_needs_nobody_to_read_it() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_hook(f"{OLD} {NEW} refs/heads/main\n", writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def run_hook(updates: str, stdout: int, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", "-S", post_receive.__file__],
        input=updates.encode(),
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={
            "LC_ALL": "C",
            "SLIPWAY_PUSH_PATH": "/internal/pushes/a/b",
            "SLIPWAY_PUSH_TOKEN": "x",
            **variables,
        },
        timeout=20,
        check=False,
    )


def test_deleting_the_deploy_branch_takes_its_functions_down(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    remote = gateway.remote("gone/fns")
    with Hand(store, lambda release: go_live(store, release)):
        gateway.run("push", remote, "main", "main:other", cwd=work)
    with Hand(store, lambda release: go_live(store, release, [])):
        status, told = gateway.run("push", remote, ":main", ":other", cwd=work)
    newest = store.releases("gone")[0]
    assert (status, newest.commit, newest.branch) == (0, "0" * 40, "main"), told
    assert {row.name: row.build for row in newest.functions} == {"hello": Build.REMOVED}
    lines = remote_lines(told)
    assert "other: deleted; nothing was deployed from it" in lines
    assert "main: deleted; all functions of gone/fns are taken down" in lines
    assert lines[-2:] == ["hello: removed", f"slipway: live {newest.id}"]
    body = {"namespace": "gone", "repository": "fns"}
    refused = gateway.call("POST", "/system/releases", json=body)
    assert (refused.status_code, "main of gone/fns was deleted" in refused.text) == (409, True)
    nothing = gateway.call("POST", "/system/releases", json=body | {"commit": "0" * 40})
    assert (nothing.status_code, "no commit" in nothing.text) == (400, True)
    with Hand(store, lambda release: go_live(store, release)):
        _, told = gateway.run("push", remote, "main", cwd=work)
    assert remote_lines(told)[-1] == f"slipway: live {store.releases('gone')[0].id}"


def test_a_namespace_goes_once_nothing_was_left_in_its_repositories(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    remote = gateway.remote("leaving/fns")
    with Hand(store, lambda release: go_live(store, release, [])):
        gateway.run("push", remote, "main", "main:slipway/rollback-b1", "main:v1", cwd=work)
    refused = gateway.call("DELETE", "/system/namespace/leaving")
    assert refused.status_code == 409
    assert "leaving/fns still has refs/heads/main, refs/heads/v1: delete" in refused.text
    with Hand(store, lambda release: go_live(store, release, [])):
        gateway.run("push", remote, ":main", ":v1", cwd=work)
    assert gateway.call("DELETE", "/system/namespace/leaving").status_code == 202
    assert store.find_repository("leaving/fns") is None
    assert not list((gateway.settings.git_folder / "leaving").iterdir())
    with Hand(store, lambda release: go_live(store, release, [])):
        status, told = gateway.run("push", remote, "main", cwd=work)
    assert (status, "slipway: live" in told) == (0, True), "it can begin again"


def test_what_was_pushed_can_be_cloned(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"f{n}": str(n) for n in range(30)}
    work = repository(tmp_path / "w", files)
    remote = gateway.remote("cloned/fns")
    with Hand(store, lambda release: go_live(store, release)):
        gateway.run("push", remote, "main", cwd=work)
        for n in range(3):
            commit(work, {f"g{n}": str(n)})
        gateway.run("push", remote, "main", cwd=work)
    status, told = gateway.run("clone", "--quiet", remote, str(tmp_path / "c"), cwd=tmp_path)
    assert status == 0, told
    assert head(tmp_path / "c") == head(work)
    token = {"Authorization": f"Bearer {gateway.token}"}
    path = "/git/cloned/fns.git/info/refs?service="
    assert gateway.anonymous("GET", path + "git-upload-pack", headers=token).status_code == 200
    assert gateway.anonymous("GET", path + "git-receive-pack", headers=token).status_code == 403


def test_a_wrong_password_stores_nothing(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    work = repository(tmp_path / "w", FILES)
    status, told = gateway.run(
        "push", gateway.remote("wrong/fns"), "main", cwd=work, password="guess"
    )
    assert status != 0
    assert "Authentication failed" in told
    assert not (gateway.settings.git_folder / "wrong").exists()
    assert store.find_repository("wrong/fns") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Upper/fns", "is not a namespace"),
        ("kube-system/fns", "reserved"),
        ("a--b/fns", "'--'"),
        ("names/..%2Fx", ""),
        ("names/x.lock", "is not a repository name"),
    ],
)
def test_names_that_are_none_are_refused(
    gateway: Gateway, tmp_path: Path, name: str, said: str
) -> None:
    work = repository(tmp_path / "w", FILES)
    status, told = gateway.run("push", gateway.remote(name), "main", cwd=work)
    assert status != 0
    assert said in told


def test_a_namespace_of_a_forge_is_refused(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    store.claim_namespace("taken", "https://github.com#7")
    work = repository(tmp_path / "w", FILES)
    status, told = gateway.run("push", gateway.remote("taken/fns"), "main", cwd=work)
    assert status != 0
    assert "belongs to https://github.com#7: use another" in told
    assert "link" not in told, "nothing can be linked to our own remote"
    assert not (gateway.settings.git_folder / "taken").exists()


def test_a_push_over_the_limit_is_refused(
    valkey: str, store: Store, short_tmp: Path, tmp_path: Path
) -> None:
    small = {"SLIPWAY_MAX_PUSH": "1Mi"}
    work = repository(tmp_path / "w", {"big": os.urandom(3 * 2**20)})
    with running(short_tmp, valkey, **small) as gateway:
        status, told = gateway.run("push", gateway.remote("large/fns"), "main", cwd=work)
        assert status != 0
        assert "pack exceeds maximum allowed size (1024.00 KiB)" in told
        assert stored(gateway, "large/fns", "refs/heads/main") == ""
        objects = gateway.settings.git_folder / "large/fns.git/objects"
        assert sum(each.stat().st_size for each in objects.rglob("*") if each.is_file()) == 0
    assert store.releases("large") == []


def test_a_corrupt_pack_is_refused(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    work = repository(tmp_path / "w", FILES)
    gateway.call("GET", "/git/corrupt/fns.git/info/refs?service=git-receive-pack")
    command = f"{'0' * 40} {head(work)} refs/heads/main\0 report-status\n"
    pack = b"PACK" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + os.urandom(500)
    body = f"{len(command) + 4:04x}{command}0000".encode() + pack
    answer = gateway.call(
        "POST",
        "/git/corrupt/fns.git/git-receive-pack",
        data=body,
        headers={"Content-Type": "application/x-git-receive-pack-request"},
    )
    assert b"unpack" in answer.content
    assert b"ng refs/heads/main" in answer.content
    assert stored(gateway, "corrupt/fns", "refs/heads/main") == ""
    assert store.releases("corrupt") == []


def test_an_object_that_git_calls_broken_is_refused(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    broken = f"tree {head(work, 'HEAD^{tree}')}\nauthor nobody\ncommitter nobody\n\nx\n"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    made = subprocess.run(
        ["git", "-C", str(work), "hash-object", "-t", "commit", "-w", "--literally", "--stdin"],
        input=broken,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    status, told = gateway.run(
        "push", gateway.remote("fsck/fns"), f"{made}:refs/heads/main", cwd=work
    )
    assert status != 0
    assert "missingEmail" in told or "bad" in told.lower()
    assert stored(gateway, "fsck/fns", "refs/heads/main") == ""
    assert store.releases("fsck") == []


def test_a_client_that_goes_away_stops_nothing(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    push = gateway.start("push", gateway.remote("away/fns"), "main", cwd=work)
    until(lambda: len(store.releases("away")) == 1)
    (release,) = store.releases("away")
    os.killpg(push.pid, signal.SIGKILL)
    push.communicate()
    worker = gateway.worker()
    store.append_log(release.id, [line("", "plan", "step", "reading")])
    until(lambda: not descendants(worker), 20)
    assert stored(gateway, "away/fns", "refs/heads/main") == head(work)
    assert go_live(store, release).state is State.LIVE


def test_a_gateway_that_dies_loses_no_push(
    valkey: str, store: Store, short_tmp: Path, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    with running(short_tmp, valkey) as gateway:
        push = gateway.start("push", gateway.remote("dies/fns"), "main", cwd=work)
        until(lambda: len(store.releases("dies")) == 1)
        below = descendants(gateway.process.pid)
        os.killpg(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()
        push.communicate()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 20)
        assert stored(gateway, "dies/fns", "refs/heads/main") == head(work)
    (release,) = store.releases("dies")
    assert (release.state, release.commit) == (State.QUEUED, head(work))


def test_a_gateway_that_stops_tells_the_client_how_to_follow(
    valkey: str, store: Store, short_tmp: Path, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    with running(short_tmp, valkey) as gateway:
        push = gateway.start("push", gateway.remote("stops/fns"), "main", cwd=work)
        until(lambda: len(store.releases("stops")) == 1)
        gateway.process.send_signal(signal.SIGTERM)
        told, _ = push.communicate(timeout=20)
    assert push.returncode == 0, told
    assert f"follow it with: slipway wait {head(work)}" in told


def test_the_gateway_finds_the_deploy_branch_of_an_older_push(
    valkey: str, store: Store, short_tmp: Path, tmp_path: Path
) -> None:
    """A crash between storing a push and its hook: the next start tells the sweep of heads."""
    work = repository(tmp_path / "w", FILES, branch="master")
    with running(short_tmp, valkey) as gateway:
        gateway.call("GET", "/git/crash/fns.git/info/refs?service=git-receive-pack")
        bare = gateway.settings.git_folder / "crash/fns.git"
        status, told = gateway.run("push", str(bare), "master", cwd=work)
        assert status == 0, told
    assert store.repository("crash", "fns").deploy_branch == ""
    with running(short_tmp, valkey):
        until(lambda: store.repository("crash", "fns").deploy_branch == "master")


def test_pushes_that_cannot_be_watched_are_stored(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    work = repository(tmp_path / "w", FILES)
    pushes = [
        gateway.start("push", gateway.remote(f"watch/fns{n}"), "main", cwd=work) for n in range(8)
    ]
    until(lambda: len(store.releases("watch")) == 8)
    status, told = gateway.run("push", gateway.remote("watch/last"), "main", cwd=work)
    last = remote_lines(told)[-1]
    assert status == 0
    assert "too many pushes are watched" in last
    assert last.endswith(f"slipway wait {head(work)}")
    assert len(store.releases("watch", "last")) == 1
    with Hand(store, lambda release: go_live(store, release, [release.repository])):
        for push in pushes:
            told, _ = push.communicate(timeout=30)
            assert remote_lines(told)[-1].startswith("slipway: live "), told


def test_only_smart_http_is_served(gateway: Gateway, store: Store, tmp_path: Path) -> None:
    work = repository(tmp_path / "w", FILES)
    with Hand(store, lambda release: go_live(store, release)):
        gateway.run("push", gateway.remote("dumb/fns"), "main", cwd=work)
    for path in ("HEAD", "config", "objects/info/packs", "info/refs", "../x.git/HEAD"):
        answer = gateway.call("GET", f"/git/dumb/fns.git/{path}")
        assert answer.status_code in (400, 404), path
        assert "ref:" not in answer.text
    assert (
        gateway.call("GET", "/git/none/x.git/info/refs?service=git-upload-pack").status_code == 404
    )
    assert not (gateway.settings.git_folder / "none").exists()
    assert gateway.anonymous("GET", "/git/dumb/fns.git/HEAD").status_code == 401


def test_a_page_of_another_site_cannot_push(gateway: Gateway) -> None:
    for headers in ({"Origin": "http://evil.test"}, {"Sec-Fetch-Site": "cross-site"}):
        path = "/git/origin/fns.git/info/refs?service=git-receive-pack"
        assert gateway.call("GET", path, headers=headers).status_code == 403
    assert not (gateway.settings.git_folder / "origin").exists()


def test_the_hooks_route_wants_the_token_of_a_running_push(gateway: Gateway) -> None:
    body = f"{'0' * 40} {'a' * 40} refs/heads/main\n"
    for authorization in ("", "Bearer x", f"Bearer {gateway.token}"):
        answer = gateway.anonymous(
            "POST",
            "/internal/pushes/live/fns",
            data=body,
            headers={"Authorization": authorization},
        )
        assert answer.status_code == 401


def test_a_large_push_takes_no_memory(
    valkey: str, store: Store, short_tmp: Path, tmp_path: Path
) -> None:
    size = 40 * 2**20
    work = repository(tmp_path / "w", {"big": os.urandom(size)})
    with running(short_tmp, valkey) as gateway, Hand(store, lambda r: go_live(store, r)):
        worker = gateway.worker()
        before = memory_mb(worker)
        status, told = gateway.run("push", gateway.remote("big/fns"), "main", cwd=work)
        grown = memory_mb(worker) - before
        assert status == 0, told
        assert stored(gateway, "big/fns", "refs/heads/main") == head(work)
    assert grown < 20, f"the worker grew by {grown:.0f} MB for a pack of {size / 2**20:.0f} MB"
