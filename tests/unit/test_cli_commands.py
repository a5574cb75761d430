"""Usage, exit statuses and what is said where nothing answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli.arguments import REPOSITORY
from cli.main import main
from core.settings import ROOT, Settings
from supervisor import parts


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLIPWAY_")]:
        monkeypatch.delenv(name)


def run(*arguments: str, state: Path | str = "/nowhere/state") -> Result:
    return CliRunner().invoke(main, ["--state", str(state), *arguments])


def nobody() -> str:
    """A URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["releases"],
        ["logs", "r1-abcdef0"],
        ["invoke", "hello.alice"],
        ["cancel", "r1-abcdef0"],
        ["redeploy", "alice/fns"],
        ["deploy", "hello", "ghcr.io/me/hello"],
        ["remove", "hello.alice"],
        ["scale", "hello", "2"],
        ["describe", "hello"],
        ["namespaces"],
        ["schedules"],
    ],
)
def test_where_nothing_answers_it_says_what_to_do(tmp_path: Path, arguments: list[str]) -> None:
    url = nobody()
    done = run("--url", url, *arguments, state=tmp_path)
    assert done.exit_code == 1
    assert f"nothing answers at {url}: is it running? Start it with 'make up'" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [], "a client makes no password"


def test_an_empty_release_is_none_to_go_back_to(tmp_path: Path) -> None:
    done = run("--url", nobody(), "rollback", "ann/shop", "--to", "", state=tmp_path)
    assert done.exit_code == 2
    assert "'' is not a release id: see 'slipway releases'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["why", ""], "'' is not a function name"),
        (["why", "ann/greetings"], "'ann/greetings' is not a function name"),
        (["describe", "../x"], "is not a function name"),
        (["scale", "", "2"], "'' is not a function name"),
        (["remove", "a.b?c"], "'b?c' is not a namespace"),
        (["invoke", "x/../../system/info"], "is not a"),
        (["release", ""], "'' is not a release id"),
        (["wait", "../functions"], "'../functions' is not a release id"),
        (["cancel", "r1/logs"], "'r1/logs' is not a release id"),
        (["logs", ""], "'' is not a release id"),
        (["logs", "f.g", "--tail", "-1"], "-1 is not in the range"),
        (["redeploy", "ann/"], "'' is not a repository name"),
        (["rollback", "ann/../x"], "is not the full name of a repository"),
        (["rollback", ""], "'' is not a function name"),
    ],
)
def test_what_can_be_no_name_is_told_before_anybody_is_asked(
    arguments: list[str], told: str
) -> None:
    done = run("--url", nobody(), *arguments)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert "/system" not in done.stderr.partition("Error")[2].replace("x/../../system/info", "")


def test_a_project_may_be_given_by_its_path_at_gitlab() -> None:
    @click.command()
    @REPOSITORY
    def command(repository: str) -> None:
        click.echo(repository)

    for path, name in (
        ("acme/fns", "acme/fns"),
        ("acme/shop/fns", "acme/shop--fns"),
        ("Acme/a/b/Fns", "acme/a--b--Fns"),
    ):
        assert CliRunner().invoke(command, [path]).output == f"{name}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["list", "--nonsense"],
        ["wait"],
        ["releases", "--limit", "0"],
        ["redeploy", "fns"],
        ["invoke", "hello", "--header", "nonsense"],
        ["list", "--output", "xml"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_body_that_cannot_be_read_is_told() -> None:
    done = run("invoke", "hello", "-d", "@/nowhere/body")
    assert done.exit_code == 1
    assert "/nowhere/body cannot be read" in done.stderr


def test_wrong_settings_are_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_PORT", "eighty")
    done = run("up")
    assert done.exit_code == 1
    assert "SLIPWAY_PORT='eighty'" in done.stderr


def test_config_shows_settings_and_masks_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_GITHUB_WEBHOOK_SECRET", "hush")
    done = run("config", "--output", "json", state=tmp_path)
    told = json.loads(done.stdout)
    assert told["settings"]["SLIPWAY_STATE"] == str(tmp_path)
    assert told["settings"]["SLIPWAY_PORT"] == "8080"
    assert told["enforced"]
    assert "hush" not in done.output
    assert "hush" not in run("config", state=tmp_path).output


def test_the_state_folder_of_the_checkout_is_the_default() -> None:
    done = CliRunner().invoke(main, ["config", "--output", "json"])
    assert json.loads(done.stdout)["settings"]["SLIPWAY_STATE"] == str(ROOT / ".slipway")


def test_commands_find_an_installation_on_another_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "url").write_text("http://127.0.0.1:9\n")
    assert "at http://127.0.0.1:9:" in run("list", state=tmp_path).stderr
    monkeypatch.setenv("SLIPWAY_PORT", "7")
    assert "at http://127.0.0.1:7:" in run("list", state=tmp_path).stderr


def test_in_compose_no_supervisor_has_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").mkdir()
    monkeypatch.setenv("SLIPWAY_STATE", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_PORT", "7")
    assert "at http://127.0.0.1:7:" in CliRunner().invoke(main, ["list"]).stderr


def test_a_state_folder_without_an_installation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "none"
    told = f"slipway: there is no installation in {state}: name its folder with --state"
    monkeypatch.setenv("SLIPWAY_PORT", "7")  # of another installation, perhaps
    named = run("list", state=state)
    monkeypatch.setenv("SLIPWAY_STATE", str(state))
    for done in (named, CliRunner().invoke(main, ["list"])):
        assert (done.exit_code, told in done.stderr) == (1, True), done.stderr
    assert not state.exists()
    url = nobody()
    monkeypatch.setenv("SLIPWAY_GATEWAY_URL", url)
    assert f"nothing answers at {url}" in run("list", state=state).stderr


def test_doctor_looks_at_the_machine_where_nothing_runs(tmp_path: Path) -> None:
    done = run("doctor", "--output", "json", state=tmp_path)
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["python"]["state"] == found["git"]["state"] == found["uv"]["state"] == "ok"
    assert found["running"]["state"] == "warn"
    failed = [each for each in found.values() if each["state"] == "FAIL"]
    assert done.exit_code == (1 if failed else 0)
    assert all(each["advice"] for each in found.values() if each["state"] != "ok")


def test_doctor_fails_where_others_read_the_password(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "admin-password"
    path.write_text("x")
    path.chmod(0o644)
    done = run("doctor", state=tmp_path)
    assert done.exit_code == 1
    assert f"chmod go= {path}" in done.stdout


def test_up_hands_settings_on_and_nothing_else(tmp_path: Path) -> None:
    """It becomes the supervisor, which refuses a state folder that is a file."""
    state = tmp_path / "file"
    state.write_text("")
    settings = Settings.from_env({})
    env = {**parts.passed(os.environ), "SLIPWAY_PORT": str(settings.port)}
    done = subprocess.run(
        [*parts.python("cli.main"), "--state", str(state), "up", "--no-demo"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"the state folder {state} cannot be used" in done.stderr


def test_a_rollback_is_waited_for_over_a_restart_and_until_its_branch_is_known(
    tmp_path: Path,
) -> None:
    begun = {
        **{"id": "b7", "namespace": "ann", "repository": "shop", "state": "starting"},
        **{"to": "r1", "reason": "", "branch": None},
    }
    others = {
        "/system/releases/r1": {"id": "r1", "watch": {"verdict": "returned"}},
        "/system/releases": [{"id": "r3", "state": "building"}, {"id": "r2", "state": "live"}],
    }
    done = begun | {"state": "done"}
    answers = iter([(202, begun), (503, {}), None, (502, {}), (200, begun), (200, done)])
    last = (200, done | {"branch": "slipway/rollback-b7"})

    class Restarting(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            other = others.get(self.path.partition("?")[0])
            given = next(answers, last) if other is None else (200, other)
            if given is None:  # it broke off
                self.close_connection = True
                return
            body = json.dumps(given[1]).encode()
            self.send_response(given[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Restarting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        told = run("--url", url, "rollback", "ann/shop", state=tmp_path)
        server.shutdown()
    assert told.exit_code == 0, told.output
    assert "r1 serves again (b7)" in told.stdout
    assert "merge the branch slipway/rollback-b7" in told.stdout
    assert "r1 was taken back by itself when it was new" in told.stderr
    assert "r3 is building and takes its place once it is live: 'slipway cancel r3'" in told.stderr
    assert "r2" not in told.stderr
    assert next(answers, None) is None
