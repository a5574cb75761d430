"""Commands in a shell that knows nothing of the settings that an installation runs with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from cli.main import main
from core.settings import Settings
from supervisor import claims
from tests.conftest import valkey_binary
from tests.waiting import until

Begin = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLIPWAY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def begin(short_tmp: Path) -> Iterator[Begin]:
    """Has the state folder and says so, as the supervisor does."""
    with ExitStack() as stack:

        def begin(**env: str) -> Settings:
            settings = Settings.from_env({"SLIPWAY_STATE": str(short_tmp / "state"), **env})
            stack.callback(os.close, claims.claim_state(settings))
            claims.tell_settings(settings)
            return settings

        yield begin


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--state", str(settings.state), *arguments])


def words(told: Result) -> list[list[str]]:
    return [line.split() for line in told.stdout.splitlines()]


def test_config_is_of_what_runs_and_tells_what_differs(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = begin(SLIPWAY_PORT="7", SLIPWAY_RUNTIME="process", SLIPWAY_BUILD_MEMORY="1G")
    done = run(settings, "config")
    assert ["SLIPWAY_PORT", "7"] in words(done)
    assert done.stderr == ""
    for name, value in {"PORT": "9", "RUNTIME": "auto", "BUILD_MEMORY": "1000M"}.items():
        monkeypatch.setenv(f"SLIPWAY_{name}", value)
    done = run(settings, "config")
    assert ["SLIPWAY_PORT", "7"] in words(done)
    assert done.stderr == "slipway: SLIPWAY_PORT is 9 in this shell, and 7 in what runs\n"
    assert "SLIPWAY_PORT is 9 in this shell, and 7 in what runs" in run(settings, "doctor").stdout


def test_what_an_earlier_run_used_is_not_told_of_a_later_one(tmp_path: Path) -> None:
    settings = Settings.from_env({"SLIPWAY_STATE": str(tmp_path), "SLIPWAY_PORT": "7"})
    lock = claims.claim_state(settings)
    claims.tell_settings(settings)
    os.close(lock)
    assert ["SLIPWAY_PORT", "8080"] in words(run(settings, "config"))
    lock = claims.claim_state(settings)  # it is starting
    assert claims.told_settings(settings.state) is None
    os.close(lock)


def test_commands_ask_what_runs_wherever_this_shell_would(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = begin(SLIPWAY_PORT="9")
    monkeypatch.setenv("SLIPWAY_PORT", "7")
    assert "at http://127.0.0.1:9:" in run(settings, "list").stderr
    monkeypatch.setenv("SLIPWAY_GATEWAY_URL", "http://127.0.0.1:5")
    assert "at http://127.0.0.1:5:" in run(settings, "list").stderr
    assert "at http://127.0.0.1:6:" in run(settings, "--url", "http://127.0.0.1:6", "list").stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sesame@127.0.0.1:1/0",
        "redis://sue:se@s/sesame@127.0.0.1:1",
        "unix://sue:sesame@/nowhere/redis.sock?db=0",
        "redis://127.0.0.1:1/0?password=sesame&db=1",
    ],
)
def test_secrets_are_not_written_down(begin: Begin, url: str) -> None:
    settings = begin(SLIPWAY_GITHUB_WEBHOOK_SECRET="sesame", SLIPWAY_REDIS_URL=url)
    path = settings.state / "settings.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "sesame" not in path.read_text()
    told = run(settings, "config")
    assert "sesame" not in told.output
    assert ["SLIPWAY_GITHUB_WEBHOOK_SECRET", "********"] in words(told)


def test_a_store_whose_password_is_not_known_here_is_no_alarm(
    begin: Begin, short_tmp: Path
) -> None:
    path = short_tmp / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--requirepass", "sesame", "--save", ""]
    process = subprocess.Popen(
        [valkey_binary(), *options, "--dir", str(short_tmp)], stdout=subprocess.DEVNULL
    )
    try:
        url = f"unix://:sesame@{path}"
        with redis.Redis.from_url(url) as connection:
            until(path.exists)
            until(connection.ping)
        done = run(begin(SLIPWAY_REDIS_URL=url), "doctor")
    finally:
        process.kill()
        process.wait()
    (line,) = [line for line in done.stdout.splitlines() if " store " in line]
    assert line.startswith("ok "), line
    assert "wants a password that is not known here" in line
