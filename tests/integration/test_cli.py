"""The commands against a real gateway; releases are driven by the store, as the builder would."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import requests
from click.testing import CliRunner, Result

from cli.main import main
from core import keys
from core.bundle import Bundle, bundle_folder
from core.logfiles import LogWriter
from core.models import (
    Artifact,
    Build,
    Change,
    ChangeKind,
    FunctionLogLine,
    FunctionRecord,
    FunctionRow,
    FunctionSpec,
    LogLine,
    Observed,
    Release,
    State,
    now,
)
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from runtime.schedules import Schedules
from supervisor import parts

COMMIT = "abcdef0" + "1" * 33
FNS = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")
BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)


@dataclass
class Gateway:
    settings: Settings
    store: Store
    url: str

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        options = ["--state", str(self.settings.state), "--url", self.url]
        return CliRunner().invoke(main, [*options, *arguments], input=io.BytesIO(stdin))

    def release(self, commit: str = COMMIT) -> Release:
        self.store.save_repository(FNS)
        return self.store.create_release(FNS, commit, "main")

    def go_live(
        self,
        release: Release,
        name: str = "hello",
        why: list[Change] | None = None,
        since: str = "",
    ) -> None:
        spec = FunctionSpec(
            name=name,
            namespace="alice",
            artifact="bundle:sha256:" + "0" * 64,
            repository="fns",
            commit=release.commit,
        )
        artifact = Artifact(name=name, key="k" * 64, artifact=spec.artifact, spec=spec)
        store = self.store
        store.move(release.id, BUILDER, State.BUILDING)
        row = FunctionRow(
            name=name, key=artifact.key, build=Build.BUILT, seconds=0.5, why=why, since=since
        )
        store.save_row(release.id, row)
        store.put_artifacts(release.id, release.commit, [artifact])
        store.switch(release.id, lambda _: 1)
        store.finish(release.id, self.url)


@pytest.fixture
def gateway(settings: Settings, store: Store) -> Iterator[Gateway]:
    settings = replace(settings, edge="none")
    settings.gateway_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        part = parts.gateway(settings, [listener.fileno()])
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            part.argv,
            env={**parts.environment(os.environ, settings), **part.env},
            pass_fds=part.listeners,
        )
        try:
            requests.get(f"{url}/healthz", timeout=30)
            yield Gateway(settings, store, url)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def function(gateway: Gateway, short_tmp: Path) -> Iterator[str]:
    """A live function whose one replica answers with what it was asked; says 418 to /teapot."""
    gateway.go_live(gateway.release())
    path = short_tmp / "f.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    thread = threading.Thread(target=_answer, args=[listener])
    thread.start()
    observed = Observed(available=1, endpoints=[f"unix@{path}"])
    gateway.store.save_observed({"hello.alice": observed})
    yield "hello.alice"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as reader:
            head = []
            while (line := reader.readline()) not in (b"\r\n", b""):
                head.append(line.decode().strip())
            fields = {k.lower(): v.strip() for k, _, v in (each.partition(":") for each in head)}
            if fields.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(reader.readline(), 16):
                    body += reader.read(size)
                    reader.readline()
                reader.readline()
            else:
                body = reader.read(int(fields.get("content-length", 0)))
            method, path, _ = head[0].split()
            mark, auth = fields.get("x-mark", "-"), fields.get("authorization", "-")
            told = f"{method} {path} {mark} {auth} ".encode() + body + b"\xff"
            status = b"418 I'm a teapot" if path == "/teapot" else b"200 OK"
            head_out = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            connection.sendall(head_out % (status, len(told)) + told)


def later(work: Callable[[], object], seconds: float = 0.5) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def test_list_shows_functions(gateway: Gateway, function: str) -> None:
    lines = gateway.run("list").stdout.splitlines()
    url = f"{gateway.url}/function/{function}"
    release = gateway.store.releases()[0].id
    assert lines[1].split() == ["hello", "alice", "1/1", "0", release, url]
    assert json.loads(gateway.run("list", "-o", "json").stdout)[0]["name"] == "hello"
    assert json.loads(gateway.run("list", "-n", "bob", "-o", "json").stdout) == []


def test_releases_and_one_release(gateway: Gateway) -> None:
    release = gateway.release()
    assert release.id in gateway.run("releases", "-n", "alice", "-r", "fns").stdout
    assert json.loads(gateway.run("releases", "-n", "bob", "-o", "json").stdout) == []
    for wanted in (release.id, COMMIT, COMMIT[:7]):
        assert json.loads(gateway.run("release", wanted, "-o", "json").stdout)["id"] == release.id
    assert "queued" in gateway.run("release", release.id).stdout
    missing = gateway.run("release", "r99-0000000")
    assert missing.exit_code == 1
    assert "there is no release" in missing.stderr


def test_logs_follow_to_the_end(gateway: Gateway) -> None:
    release = gateway.release()

    def line(text: str) -> LogLine:
        return LogLine(time="T", function="hello", step="test", stream="stdout", text=text)

    def fail() -> None:
        gateway.store.append_log(release.id, [line("two\x1b[2J")])
        gateway.store.move(release.id, BUILDER, State.FAILED, "it broke")

    gateway.store.append_log(release.id, [line("one")])
    assert gateway.run("logs", release.id).stdout == "T hello test | one\n"
    timer = later(fail)
    followed = gateway.run("logs", COMMIT, "-f")
    timer.join()
    assert followed.stdout.splitlines() == [
        "T hello test | one",
        "T hello test | two[2J",
        "failed: it broke",
    ]
    told = [
        json.loads(each)
        for each in gateway.run("logs", release.id, "-o", "json").output.splitlines()
    ]
    assert told[-1] == {"state": "failed", "reason": "it broke"}


def test_logs_of_a_function(gateway: Gateway) -> None:
    log = LogWriter(gateway.settings.logs / "hello.openfaas-fn", 10_000)
    ago = [datetime.now(UTC) - timedelta(minutes=each) for each in (90, 30, 0)]
    for number, moment in enumerate(ago):
        each = FunctionLogLine(
            time=f"{moment:%Y-%m-%dT%H:%M:%SZ}", instance=f"i{number % 2}", text=f"n{number}\x1b[2J"
        )
        log.append(msgspec.json.encode(each) + b"\n")
    log.close()
    stamp = f"{ago[0]:%Y-%m-%dT%H:%M:%SZ}"
    for name in ("hello", "hello.openfaas-fn"):
        shown = gateway.run("logs", name).stdout.splitlines()
        assert [line.split()[1:] for line in shown] == [
            ["i0", "n0[2J"],
            ["i1", "n1[2J"],
            ["i0", "n2[2J"],
        ]
        assert shown[0] == f"{stamp} i0 n0[2J"

    def texts(*options: str) -> list[str]:
        done = gateway.run("logs", "hello.openfaas-fn", "-o", "json", *options)
        assert done.exit_code == 0, done.output
        return [json.loads(line)["text"][1] for line in done.stdout.splitlines()]

    assert texts("--tail", "2") == ["1", "2"]
    assert texts("--instance", "i0", "--since", "1h") == ["2"]
    assert texts("--since", stamp) == ["0", "1", "2"]
    wrong = gateway.run("logs", "hello", "--since", "yesterday")
    assert (wrong.exit_code, "since must be a time of RFC 3339" in wrong.stderr) == (1, True)
    nobody = gateway.run("logs", "nobody")
    assert (nobody.exit_code, "there is no release" in nobody.stderr) == (1, True)


def test_options_for_functions_logs_are_not_for_releases(gateway: Gateway) -> None:
    release = gateway.release()
    for what in (release.id, COMMIT[:7]):
        for option in (("--tail", "3"), ("--since", "1h"), ("--instance", "i0")):
            done = gateway.run("logs", what, *option)
            assert done.exit_code == 2, done.stderr
            assert f"{what} is a release: --tail, --since and --instance are for" in done.stderr
    nobody = gateway.run("logs", "nobody", "--tail", "3")
    assert (nobody.exit_code, "there is no function nobody" in nobody.stderr) == (1, True)


def test_removing_a_secret_that_is_not_there_tells_just_that(gateway: Gateway) -> None:
    gateway.store.claim_namespace("ann", "git")
    removed = gateway.run("secret", "remove", "k9", "-n", "ann")
    assert (removed.exit_code, removed.stderr) == (1, "slipway: ann has not the secret k9\n")
    updated = gateway.run("secret", "update", "k9", "-n", "ann", stdin=b"x")
    assert "create it with" in updated.stderr


@pytest.mark.parametrize("command", ["why", "describe", "logs", "remove", "rollback"])
def test_a_name_without_its_namespace_is_looked_for(gateway: Gateway, command: str) -> None:
    gateway.go_live(gateway.release())
    done = gateway.run(command, "hello")
    assert done.exit_code == 1
    assert done.stderr.rstrip().endswith("Did you mean hello.alice?"), done.stderr
    nobody = gateway.run(command, "nobody")
    assert (nobody.exit_code, "Did you mean" in nobody.stderr) == (1, False)


def test_why_tells_what_changed(gateway: Gateway) -> None:
    handler = Change(
        kind=ChangeKind.BUILD, what="handler", before="a" * 12, after="b" * 12, names=["handler.py"]
    )
    level = Change(kind=ChangeKind.CONFIGURATION, what="environment", names=["LEVEL"])
    release = gateway.release()
    gateway.go_live(release, why=[handler, level], since="r0-aaaaaaa")
    told = json.loads(gateway.run("why", "hello.alice", "-o", "json").stdout)
    assert (told["release"], told["since"], told["build"]) == (release.id, "r0-aaaaaaa", "built")
    assert [each["kind"] for each in told["changes"]] == ["build", "configuration"]
    assert told["summary"] == "handler changed (handler.py), environment changed (LEVEL)"
    lines = gateway.run("why", "hello.alice").stdout.splitlines()
    assert lines[1] == f"why       {told['summary']}"
    assert lines[-2].split() == ["handler", "a" * 12, "b" * 12, "handler.py"]
    assert lines[-1].split() == ["environment", "LEVEL"]
    row = json.loads(gateway.run("release", release.id, "-o", "json").stdout)["functions"][0]
    assert (row["why"], row["since"]) == (told["changes"], "r0-aaaaaaa")


def test_schedules_are_listed(gateway: Gateway) -> None:
    annotations = {"topic": "cron-function", "schedule": "@hourly"}
    spec = FunctionSpec(name="tick", namespace="alice", artifact="x", annotations=annotations)
    record = FunctionRecord(spec=spec, release="", replicas=0, created_at=now())
    gateway.store.redis.hset(keys.FUNCTIONS, spec.function, msgspec.json.encode(record))
    schedules = Schedules(gateway.settings, gateway.store, lambda: 1.0)
    schedules.tell(gateway.store.functions())
    schedules.look()
    (told,) = json.loads(gateway.run("schedules", "-n", "alice", "--output", "json").stdout)
    assert (told["name"], told["next"]) == ("tick", "1970-01-01T01:00:00Z")
    assert gateway.run("schedules").stdout.splitlines()[1].split() == [
        *("tick.alice", "@hourly", "UTC", "1970-01-01T01:00:00Z", "-")
    ]
    assert gateway.run("schedules", "-n", "bob", "-o", "json").stdout == "[]\n"
    described = gateway.run("describe", "tick.alice").stdout
    assert "next=1970-01-01T01:00:00Z" in described


def test_why_of_what_is_not_known(gateway: Gateway) -> None:
    assert "there is no function gone.alice" in gateway.run("why", "gone.alice").stderr
    gateway.go_live(gateway.release())
    told = json.loads(gateway.run("why", "hello.alice", "-o", "json").stdout)
    assert (told["changes"], told["summary"].partition(":")[0]) == ([], "not known")
    spec = FunctionSpec(name="api", namespace="openfaas-fn", artifact="example.org/x:1")
    record = FunctionRecord(spec=spec, release="", replicas=1, created_at=now())
    gateway.store.redis.hset(keys.FUNCTIONS, spec.function, msgspec.json.encode(record))
    told = json.loads(gateway.run("why", "api", "-o", "json").stdout)
    assert told["summary"].startswith("deployed by API")
    assert (told["release"], told["build"]) == ("", None)


def test_wait_succeeds_when_it_goes_live(gateway: Gateway) -> None:
    release = gateway.release()
    timer = later(lambda: gateway.go_live(release))
    done = gateway.run("wait", COMMIT)
    timer.join()
    assert (done.exit_code, done.stdout) == (0, f"live {release.id}\n")


def test_wait_fails_with_the_reason(gateway: Gateway) -> None:
    release = gateway.release()
    gateway.store.move(release.id, BUILDER, State.FAILED, "it broke")
    done = gateway.run("wait", release.id)
    assert (done.exit_code, done.stdout) == (1, f"failed {release.id}: it broke\n")


def test_wait_gives_up_in_time(gateway: Gateway) -> None:
    release = gateway.release()
    begun = time.monotonic()
    done = gateway.run("wait", release.id, "--timeout", "0.3")
    assert done.exit_code == 1
    assert "is still queued" in done.stderr
    assert time.monotonic() - begun < 5


def test_invoke_prints_the_answer_as_it_is(gateway: Gateway, function: str, tmp_path: Path) -> None:
    assert gateway.run("invoke", function).stdout_bytes == b"GET / - - \xff"
    done = gateway.run(
        "invoke", function, "-d", "text", "--path", "/a%2Fb//c?x=1", "-H", "X-Mark: m"
    )
    assert done.stdout_bytes == b"POST /a%2Fb//c?x=1 m - text\xff"
    (tmp_path / "body").write_bytes(b"\0\1\xfe")
    done = gateway.run("invoke", function, "-d", f"@{tmp_path / 'body'}", "-X", "PUT")
    assert done.stdout_bytes == b"PUT / - - \0\1\xfe\xff"
    done = gateway.run("invoke", function, "-d", "-", stdin=b"piped")
    assert done.stdout_bytes == b"POST / - - piped\xff"
    assert done.exit_code == 0


def test_invoke_fails_from_400_on_and_still_prints(gateway: Gateway, function: str) -> None:
    done = gateway.run("invoke", function, "--path", "/teapot")
    assert done.exit_code == 1
    assert done.stdout_bytes == b"GET /teapot - - \xff"
    assert "hello.alice answered 418" in done.stderr
    assert gateway.run("invoke", "nobody.alice").exit_code == 1


def test_cancel_says_where_a_build_takes_long_to_end(gateway: Gateway) -> None:
    release = gateway.release()
    assert gateway.store.take(keys.lease(release.id), "a worker's", 60)
    told = gateway.run("cancel", release.id).stdout
    assert told == f"cancelled {release.id}: its build is still ending\n"


def test_cancel_and_redeploy(gateway: Gateway) -> None:
    release = gateway.release()
    assert gateway.run("cancel", release.id).stdout == f"cancelled {release.id}\n"
    again = gateway.run("cancel", release.id)
    assert again.exit_code == 1
    assert "cancelled already" in again.stderr
    unknown = gateway.run("redeploy", "alice/unknown")
    assert unknown.exit_code == 1
    assert "there is no repository alice/unknown" in unknown.stderr


def test_a_wrong_password_is_told(gateway: Gateway, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--state", str(tmp_path), "--url", gateway.url, "list"])
    assert done.exit_code == 1
    assert "invalid credentials" in done.stderr
    assert str(tmp_path / "admin-password") in done.stderr


def test_doctor_names_parts_that_do_not_answer(gateway: Gateway) -> None:
    done = gateway.run("doctor")
    assert done.exit_code == 1
    assert "FAIL  worker" in done.stdout
    assert "ok    gateway" in done.stdout


def test_something_else_on_the_port_is_told(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_not_json, args=[listener])
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        options = ["--state", str(settings.state), "--url", url]
        done = CliRunner().invoke(main, [*options, "list"])
        thread.join()
    assert done.exit_code == 1
    assert "is it Slipway that listens there?" in done.stderr


def _not_json(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")


def test_functions_are_deployed_scaled_described_and_removed(gateway: Gateway) -> None:
    gateway.store.claim_namespace("alice", "git")
    artifact = "bundle:sha256:" + "0" * 64
    folder = bundle_folder(gateway.settings, "alice", artifact)
    folder.mkdir(parents=True)
    document = Bundle(template="python3-http", process=["python3", "index.py"])
    (folder / "bundle.json").write_bytes(msgspec.json.encode(document))
    for env in ("A=b=c", "A=d"):  # POST after PUT, then PUT alone
        done = gateway.run("deploy", "hello.alice", artifact, "-e", env, "--memory", "5Mi")
        assert (done.exit_code, done.stderr) == (0, "")
    assert gateway.run("scale", "hello.alice", "3").exit_code == 0
    told = gateway.run("describe", "hello.alice").stdout.splitlines()
    lines = [line.split(None, 1) for line in told]
    assert ["replicas", "3"] in lines
    assert ["envVars", "A=d"] in lines
    assert ["limits", "memory=5Mi"] in lines
    found = json.loads(gateway.run("describe", "hello.alice", "-o", "json").stdout)
    assert (found["image"], found["replicas"]) == (artifact, 3)
    assert gateway.run("namespaces").stdout.split() == ["alice", "openfaas-fn"]
    assert gateway.run("remove", "hello.alice").exit_code == 0
    gone = gateway.run("remove", "hello.alice")
    assert (gone.exit_code, "there is no function hello.alice" in gone.stderr) == (1, True)
    wrong = gateway.run("deploy", "hello.alice", "ghcr.io/me/x")
    assert (wrong.exit_code, "without images" in wrong.stderr) == (1, True)
    for env in ("A", "=b"):
        wrong = gateway.run("deploy", "hello", "x", "-e", env)
        assert (wrong.exit_code, "is no NAME=VALUE" in wrong.stderr) == (2, True)


def test_tokens_of_owners(gateway: Gateway, tmp_path: Path) -> None:
    for space in ("alice", "bob"):
        gateway.store.claim_namespace(space, "git")
    gateway.go_live(gateway.release())
    done = gateway.run("token", "create", "alice", "-d", "Al's laptop", "--days", "30")
    assert done.exit_code == 0, done.output
    file = tmp_path / "token"
    file.write_text(done.stdout)
    (kept,) = gateway.store.tokens()
    assert done.stdout == f"slipway_{kept.id}_{done.stdout[-65:-1]}\n", "it stands alone"
    assert kept.expires_at
    assert gateway.run("token", "create", "alice", "--scope", "read").exit_code == 0
    told = gateway.run("token", "list").stdout.splitlines()
    assert [line.split()[1:3] for line in told[1:]] == [
        ["alice", "read,deploy,secrets,push"],
        ["alice", "read"],
    ]
    assert "Al's laptop" in told[1]

    def owner(*arguments: str) -> Result:
        return gateway.run("--token-file", str(file), *arguments)

    assert "hello" in owner("list").stdout
    assert "bob" not in owner("secret", "list").stdout
    assert owner("variables", "set", "alice", "A=b").exit_code == 0
    refused = owner("variables", "set", "bob", "A=b")
    assert (refused.exit_code, gateway.store.variables("bob")) == (1, {})
    assert owner("token", "create", "alice").exit_code == 1
    assert owner("prune").exit_code == 1
    assert gateway.run("token", "revoke", kept.id).exit_code == 0
    gone = owner("list")
    assert (gone.exit_code, "was revoked" in gone.stderr) == (1, True)
    for content in ("", "two words", "\u00fc"):
        file.write_text(content)
        assert "token file" in owner("list").stderr
    file.unlink()
    assert "cannot be read" in owner("list").stderr
    for wrong in (["create", "openfaas-fn"], ["create", "a--b"], ["revoke", "x"]):
        assert gateway.run("token", *wrong).exit_code == 2
