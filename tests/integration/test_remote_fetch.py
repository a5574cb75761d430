"""A worker on another machine: commits come over HTTP from a real gateway, with its token."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from builder.mirror import Mirror
from builder.origins import Origin, origin
from builder.source import Source
from core.errors import CheckoutFailed
from core.repositories import Repository
from core.settings import Settings
from tests.integration.gateway.harness import (
    Gateway,
    commit,
    git_environment,
    head,
    repository,
    running,
)

FNS = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")


@pytest.fixture
def gateway(short_tmp: Path, valkey: str) -> Iterator[Gateway]:
    with running(short_tmp / "gateway", valkey) as there:
        yield there


@pytest.fixture
def worker(gateway: Gateway, tmp_path: Path) -> Settings:
    """Its settings: a state folder of its own, the gateway's URL and a copy of the token."""
    token = tmp_path / "token"
    token.write_text(gateway.token + "\n")
    return Settings.from_env(
        {
            "SLIPWAY_STATE": str(tmp_path / "worker"),
            "SLIPWAY_GATEWAY_URL": gateway.url,
            "SLIPWAY_BUILDER_TOKEN_FILE": str(token),
        }
    )


@pytest.fixture
def work(gateway: Gateway, tmp_path: Path) -> Path:
    """The working tree of what lies in the gateway's repository."""
    work = repository(tmp_path / "work", {"stack.yml": "version: 1.0\n", "fn/handler.py": "one\n"})
    publish(gateway, work)
    return work


def publish(gateway: Gateway, work: Path) -> str:
    there = gateway.settings.git_folder / "ann/fns.git"
    if not there.exists():
        there.mkdir(parents=True)
        _git("init", "--quiet", "--bare", "--initial-branch=main", cwd=there)
    _git("push", "--quiet", "--force", str(there), "HEAD:main", cwd=work)
    return head(work)


def _git(*argv: str, cwd: Path) -> None:
    subprocess.run(["git", *argv], cwd=cwd, env=git_environment(cwd), check=True)


def fetched(mirror: Mirror, where: Origin, wanted: str) -> Source:
    return mirror.fetch(
        where.url, wanted, branch="main", local=where.local, credential=where.credential
    )


def test_a_commit_comes_over_http_where_the_repositories_are_not(
    gateway: Gateway, worker: Settings, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # for the outside, not for the gateway
    where = origin(worker, FNS)
    assert where.url == f"{gateway.url}/git/ann/fns.git"
    assert not where.local
    seen: list[str] = []

    def look() -> None:
        for process in psutil.process_iter():
            try:
                seen.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue

    mirror = Mirror(worker, "ann", "fns", check=look)
    with fetched(mirror, where, head(work)) as source:
        assert source.read("fn/handler.py", 100) == b"one\n"
    commit(work, {"fn/handler.py": "two\n"})
    second = publish(gateway, work)
    commit(work, {"fn/handler.py": "three\n"})
    publish(gateway, work)
    with fetched(mirror, where, second) as source:  # not the head of the branch any more
        assert source.read("fn/handler.py", 100) == b"two\n"
    assert any("fetch" in line and gateway.url in line for line in seen), "git was watched"
    assert not [line for line in seen if gateway.token in line]
    for path in worker.state.rglob("*"):
        assert not path.is_file() or gateway.token.encode() not in path.read_bytes(), path


def test_where_the_repositories_are_no_network_is_needed(gateway: Gateway, work: Path) -> None:
    where = origin(gateway.settings, FNS)
    assert where == Origin(str(gateway.settings.git_folder / "ann/fns.git"), local=True)
    with fetched(Mirror(gateway.settings, "ann", "fns"), where, head(work)) as source:
        assert source.read("fn/handler.py", 100) == b"one\n"


def test_a_wrong_token_is_refused_and_not_told(worker: Settings, work: Path) -> None:
    assert worker.builder_token_file
    worker.builder_token_file.write_text("not-the-token-at-all\n")
    where = origin(worker, FNS)
    with pytest.raises(CheckoutFailed, match="asks for credentials") as told:
        fetched(Mirror(worker, "ann", "fns"), where, head(work))
    assert "not-the-token-at-all" not in str(told.value) + repr(where)


def test_a_gateway_that_is_away_can_be_asked_again(worker: Settings, work: Path) -> None:
    away = replace(worker, gateway_url="http://127.0.0.1:9")
    with pytest.raises(CheckoutFailed, match="cannot be reached now") as told:
        fetched(Mirror(away, "ann", "fns"), origin(away, FNS), head(work))
    assert told.value.retryable
