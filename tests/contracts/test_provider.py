"""The suite that every provider passes: see runtime/providers/__init__.py for what it holds to.

A provider joins by an entry in PROVIDERS: how it is made, how it gets an artifact out of a
folder with a server in it, and what is to be tidied up after its tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from core.bundle import PREFIX, Bundle
from core.errors import InvalidRequest, NotFound, NotSupported
from core.models import FunctionSpec, Resources
from core.sandbox import SECRETS, Cell, Process, Sandbox
from core.sealedbox import KEY_BYTES, MAX_VALUE, KeyPair, Place, seal
from core.settings import Settings
from engine.client import Engine
from runtime.providers import Instance, Phase, Provider
from runtime.providers.docker import DockerProvider
from runtime.providers.process import ProcessProvider
from runtime.providers.secretfolders import ReadSecrets, SecretFolders, no_secrets
from tests import containers, forked
from tests.conftest import missing
from tests.waiting import until

KEY = b"the key of these tests"
SERVER = """
import http.server, json, os, signal, socket, subprocess, sys, threading, time
from urllib.parse import parse_qs, urlsplit

class Handler(http.server.BaseHTTPRequestHandler):
    def address_string(self): return "-"
    def log_message(self, *_): pass
    def do_GET(self):
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        result = globals()["do_" + (url.path.strip("/") or "hello")](**query)
        body = json.dumps(result).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def do_hello(): return "hello"
def do_env(): return dict(os.environ)
def do_slow(seconds): time.sleep(float(seconds)); return "slow"
def do_me():
    return {"uid": os.getuid(), "cwd": os.getcwd(), "host": socket.gethostname()}
def do_say(text, times="1"):
    for _ in range(int(times)): print(text)
    return "said"
def do_flood(megabytes):
    block = (b"x" * 99 + b"\\n") * 10000
    for _ in range(int(megabytes)): sys.stdout.buffer.write(block)
    print("the last words")
    return "flooded"
def do_exit(status): os._exit(int(status))
def do_signal(number): signal.pthread_kill(threading.get_ident(), int(number)); return "alive"
def do_burn():
    def burn():
        while True: pass
    threading.Thread(target=burn, daemon=True).start()
    return "burning"
def do_eat(megabytes):
    block = bytearray(int(megabytes) * 2**20)
    for i in range(0, len(block), 4096): block[i] = 1
    return len(block)
def do_fork(count):
    made = 0
    try:
        for _ in range(int(count)):
            subprocess.Popen(["sleep", "60"]); made += 1
    except OSError: pass
    return made
def do_detach():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "61"])
        os._exit(0)
    return "detached"
def do_listdir(path): return sorted(os.listdir(path))
def do_secret(path):
    told = {}
    for name, deed in {
        "write": lambda: open(path, "a").close(),
        "open up": lambda: os.chmod(path, 0o777),
        "remove": lambda: os.unlink(path),
        "add": lambda: open(os.path.dirname(path) + "/new", "w").close(),
    }.items():
        try: deed(); told[name] = "done"
        except OSError as error: told[name] = error.strerror
    status, folder = os.stat(path), os.stat(os.path.dirname(path))
    mounts = [line.split(" ") for line in open("/proc/self/mountinfo")]
    under = max((m for m in mounts if (path + "/").startswith(m[4].rstrip("/") + "/")),
                key=lambda m: len(m[4]))
    return {
        "value": open(path).read(),
        "mode": oct(status.st_mode),
        "mine": status.st_uid == os.getuid(),
        "others": folder.st_mode & 0o007,
        "names": sorted(os.listdir(os.path.dirname(path))),
        "kind": under[under.index("-") + 1],
        "refused": sorted(deed for deed, how in told.items() if how != "done"),
    }

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = False
    def server_bind(self): pass
    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("-", 0)

server = Server("-", Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving")
server.serve_forever()
server.server_close()
print("drained")
"""


class House:
    """One installation: makes providers of its state, and asks their instances."""

    def __init__(
        self, settings: Settings, make: Callable[[Settings, ReadSecrets], Provider]
    ) -> None:
        self.settings = settings
        self.secrets: dict[str, bytes] = {}
        """Of the namespace demo, as the store would have them."""
        self.asked: FunctionSpec | None = None
        """The last one whose secrets were read."""
        self._make = make
        self._open: list[Provider] = []
        self.artifact = ""
        self.missing = ""

    def provider(self) -> Provider:
        provider = self._make(self.settings, self.read_secrets)
        self._open.append(provider)
        return provider

    def read_secrets(self, spec: FunctionSpec) -> dict[str, bytes]:
        self.asked = spec
        for name in spec.secrets or ():
            if spec.namespace != "demo" or name not in self.secrets:
                raise NotFound(f"{spec.namespace} has not the secret {name}")
        return {name: self.secrets[name] for name in spec.secrets or ()}

    def spec(self, name: str = "echo", **more: Any) -> FunctionSpec:
        return FunctionSpec(name=name, namespace="demo", artifact=self.artifact, **more)

    def close(self) -> None:
        last = self.provider()
        for instance in last.instances():
            last.remove(instance)
        for provider in self._open:
            provider.close()


class ProcessParts:
    """How the suite meets the process provider."""

    missing = PREFIX + "0" * 64
    """An artifact that is not there."""

    def provider(self, settings: Settings, read: ReadSecrets = no_secrets) -> Provider:
        return ProcessProvider(settings, KEY, Sandbox.from_settings(settings), read)

    def artifact(self, settings: Settings, files: dict[str, str], process: list[str]) -> str:
        digest = hashlib.sha256(json.dumps([files, process]).encode()).hexdigest()
        folder = settings.bundles / "demo" / digest
        (folder / "app").mkdir(parents=True)
        for name, text in files.items():
            (folder / "app" / name).write_text(text)
        bundle = Bundle(template="test", process=process)
        (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
        return PREFIX + digest

    def tidy(self, settings: Settings) -> None:
        shutil.rmtree(settings.run)


class DockerParts:
    """How the suite meets the docker provider."""

    missing = "sha256:" + "0" * 64

    def provider(self, settings: Settings, read: ReadSecrets = no_secrets) -> Provider:
        return DockerProvider(settings, KEY, read)

    def artifact(self, settings: Settings, files: dict[str, str], process: list[str]) -> str:
        return containers.image(settings, files, process)

    def tidy(self, settings: Settings) -> None:
        containers.remove_network(settings)
        shutil.rmtree(settings.run)


class ForkedParts(ProcessParts):
    """The same with functions that are forked of a warm parent: the server is in the handler, and
    ends the process before the template's would begin."""

    def provider(self, settings: Settings, read: ReadSecrets = no_secrets) -> Provider:
        sandbox = Sandbox.from_settings(settings)
        start = sandbox.start

        def fork(cell: Cell, *arguments: Any, **options: Any) -> Process:
            process = start(cell, *arguments, **options)
            assert process.monitor == 0 or cell.argv != forked.COMMAND, "it was not forked"
            return process

        sandbox.start = fork  # type: ignore[method-assign]  # so that no test passes by a start
        return forked.warmed(ProcessProvider(settings, KEY, sandbox, read), self.made)

    def artifact(self, settings: Settings, files: dict[str, str], process: list[str]) -> str:  # noqa: ARG002 - the template's
        handler = f"{files['server.py']}\nos._exit(0)\n"
        self.made = forked.bundle(settings, files | {"function/handler.py": handler})
        return self.made


PROVIDERS: dict[str, Callable[[], ProcessParts | DockerParts]] = {
    "process": ProcessParts,
    "forked": ForkedParts,
    "docker": DockerParts,
}


@pytest.fixture(params=PROVIDERS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    if request.param == "docker":
        request.getfixturevalue("engine")
    if request.param == "forked" and os.geteuid() != 0:
        pytest.skip("only root forks functions")
    yield from make_house(request.param, tmp_path)


def make_house(provider: str, state: Path) -> Iterator[House]:
    """An installation with this provider; ended and tidied up afterwards."""
    parts = PROVIDERS[provider]()
    settings = Settings(
        state=state,
        runtime="docker" if provider == "docker" else "process",
        # Not drawn by the state folder: engines refuse addresses of a network that is there.
        subnet=f"10.{random.randrange(200, 250)}.{random.randrange(256)}.0/24",
        function_memory=96 * 2**20,
        function_pids=24,
        function_log=2**18,
    )
    house = House(settings, parts.provider)
    house.artifact = parts.artifact(settings, {"server.py": SERVER}, ["python3", "server.py"])
    house.missing = parts.missing
    try:
        yield house
        house.close()
    finally:
        parts.tidy(settings)


@contextlib.contextmanager
def connection(instance: Instance, timeout: float = 30) -> Iterator[http.client.HTTPConnection]:
    kind, _, path = instance.address.partition("@")
    with contextlib.ExitStack() as held:
        client = http.client.HTTPConnection("function", timeout=timeout)
        if kind == "unix":
            client.sock = held.enter_context(socket.socket(socket.AF_UNIX))
            client.sock.settimeout(timeout)
            client.sock.connect(path)
        else:
            host, _, port = instance.address.rpartition(":")
            client.sock = held.enter_context(socket.create_connection((host, int(port)), timeout))
        yield client


def ask(instance: Instance, path: str = "/", timeout: float = 30) -> Any:
    """Asks as the edge does, but that a function which is only just starting is waited for: a
    container has no socket that listens before its code runs."""
    until(lambda: listens(instance))
    with connection(instance, timeout) as client:
        client.request("GET", path)
        with client.getresponse() as response:
            assert response.status == 200
            return json.loads(response.read())


def listens(instance: Instance) -> bool:
    with contextlib.suppress(ConnectionRefusedError), connection(instance, 5):
        return True
    return False


def find(provider: Provider, id: str) -> Instance | None:
    return next((each for each in provider.instances() if each.id == id), None)


T = TypeVar("T")


def exited(provider: Provider, instance: Instance) -> Instance:
    def look() -> Instance | None:
        found = find(provider, instance.id)
        return found if found and found.phase == Phase.EXITED else None

    return until(look)


def texts(provider: Provider, function: str = "echo.demo", **more: Any) -> list[str]:
    return [line.text for line in provider.logs(function, **more)]


def host_processes(needle: str) -> list[int]:
    """Processes of the host whose command line has this in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_started_instance_answers_at_its_address(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    assert ask(instance) == "hello"
    assert instance.phase == Phase.RUNNING
    assert [each.id for each in provider.instances()] == [instance.id]
    assert instance.function == "echo.demo"
    assert instance.id.startswith(f"echo.demo-{instance.revision}-")


def test_replicas_have_ids_addresses_and_users_of_their_own(house: House) -> None:
    provider = house.provider()
    first, second = provider.start(house.spec()), provider.start(house.spec())
    assert first.id != second.id
    assert first.address != second.address
    one, two = ask(first, "/me"), ask(second, "/me")
    assert one["uid"] != 0
    assert two["uid"] not in (0, one["uid"])
    assert one["host"] == "echo"
    assert one["cwd"] == "/home/app"


def test_address_is_not_used_again(house: House) -> None:
    provider = house.provider()
    seen = set()
    for _ in range(3):
        instance = provider.start(house.spec())
        assert instance.address not in seen
        seen.add(instance.address)
        provider.remove(instance)


def test_environment_is_as_given(house: House) -> None:
    provider = house.provider()
    given = {
        "plain": "1.10",
        "SPACES": " a  b ",
        "MULTI": "one\ntwo=three",
        "EMPTY": "",
        "LISTEN_FDS": "9",
        "OPENFAAS_NAME": "other",
        "PATH": "/home/app/bin",
        "LD_LIBRARY_PATH": "/home/app/lib",
    }
    instance = provider.start(house.spec(env_vars=given, env_process="python3 ./server.py"))
    env = ask(instance, "/env")
    for name in ("plain", "SPACES", "MULTI", "EMPTY", "LD_LIBRARY_PATH"):
        assert env[name] == given[name]
    assert env["LISTEN_FDS"] == "1"
    assert env["OPENFAAS_NAME"] == "echo"
    assert env["OPENFAAS_NAMESPACE"] == "demo"
    assert env["fprocess"] == "python3 ./server.py"
    assert env["PATH"].endswith(":/home/app/bin")
    assert env["PATH"].startswith("/opt/slipway/bin:")
    assert env["HOME"] == "/tmp"
    assert not {name for name in env if name.startswith(("SLIPWAY", "PYTEST", "VIRTUAL"))}


@pytest.mark.parametrize("variables", [{"a=b": "1"}, {"": "1"}, {"a": "b\0c"}])
def test_environment_that_cannot_be_is_refused(house: House, variables: dict[str, str]) -> None:
    provider = house.provider()
    with pytest.raises(InvalidRequest, match="environment variable"):
        provider.start(house.spec(env_vars=variables))
    assert provider.instances() == []


def test_missing_artifact_and_secret_are_told(house: House) -> None:
    provider = house.provider()
    spec = house.spec()
    with pytest.raises(NotFound):
        provider.start(msgspec.structs.replace(spec, artifact=house.missing))
    with pytest.raises(NotFound, match="api-key"):
        provider.start(msgspec.structs.replace(spec, secrets=["api-key"]))
    assert provider.instances() == []


def test_secrets_are_files_that_the_function_alone_reads(house: House) -> None:
    provider = house.provider()
    house.secrets = {"api-key": b"sesame", "tls.crt": b"\0\xff" * 1000, "other": b"not named"}
    instance = provider.start(house.spec(secrets=["api-key", "tls.crt"]))
    found = ask(instance, f"/secret?path={SECRETS}/api-key")
    assert found == {
        "value": "sesame",
        "mode": "0o100400",
        "mine": True,
        "others": 0,
        "names": ["api-key", "tls.crt"],
        "kind": "tmpfs",
        "refused": ["add", "open up", "remove", "write"],
    }


def test_a_secret_s_value_is_nowhere_else(
    house: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("runtime", "core", "engine", "docker", "urllib3"):
        caplog.set_level("DEBUG", name)
    value = secrets.token_hex(16)
    house.secrets = {"api-key": value.encode()}
    provider = house.provider()
    instance = provider.start(house.spec(secrets=["api-key"]))
    assert ask(instance, f"/secret?path={SECRETS}/api-key")["value"] == value
    assert value not in json.dumps(ask(instance, "/env"))
    for process in Path("/proc").glob("[0-9]*"):
        for path in (process / "cmdline", process / "environ", process / "mountinfo"):
            with contextlib.suppress(OSError):  # it has ended
                assert value.encode() not in path.read_bytes(), path
    for path in house.settings.state.rglob("*"):
        if path.is_file():
            assert value.encode() not in path.read_bytes(), path
    if isinstance(provider, DockerProvider):
        engine = Engine(house.settings.engine_url)
        with engine.asking("") as api:
            told = api.inspect_container(instance.id)
        engine.close()
        assert instance.id in json.dumps(told)
        assert value not in json.dumps(told)
    assert value not in msgspec.json.encode(provider.instances()).decode()
    folder = SecretFolders(house.settings).folder
    assert folder.stat().st_mode & 0o777 == 0o700
    provider.remove(instance)
    house.secrets["api-key"] = value.encode() * 2**19
    with pytest.raises(InvalidRequest, match="together") as refused:
        provider.start(house.spec(secrets=["api-key"]))
    assert value not in str(refused.value)
    assert value not in caplog.text
    told_out = capfd.readouterr()
    assert value not in told_out.out + told_out.err
    assert not folder.exists()


def test_a_changed_secret_is_for_what_starts_after_it(house: House) -> None:
    provider = house.provider()
    house.secrets = {"api-key": b"old"}
    spec = house.spec(secrets=["api-key"], secret_versions={"api-key": "1"})
    first = provider.start(spec)
    house.secrets["api-key"] = b"new"
    again = provider.start(spec)
    later = provider.start(msgspec.structs.replace(spec, secret_versions={"api-key": "2"}))
    values = [
        ask(each, f"/secret?path={SECRETS}/api-key")["value"] for each in (first, again, later)
    ]
    assert values == ["old", "new", "new"]
    assert first.revision == again.revision != later.revision


def test_what_is_sealed_reaches_the_reader_and_is_found_again_as_it_is(house: House) -> None:
    place = Place("demo", "git:1", "api-key")
    public = KeyPair(b"\1" * KEY_BYTES).public
    sealed = {"api-key": seal(public, place, b"x" * MAX_VALUE), "other": seal(public, place, b"y")}
    spec = house.spec(secrets=sorted(sealed), sealed=sealed, repository_id="git:1")
    house.secrets = {"api-key": b"opened", "other": b"as well"}
    instance = house.provider().start(spec)
    assert house.asked == spec
    assert ask(instance, f"/secret?path={SECRETS}/api-key")["value"] == "opened"
    (found,) = house.provider().instances()
    assert found.spec == spec
    assert found.revision == spec.revision


def test_secrets_go_with_the_instance_and_leftovers_at_the_next_start(house: House) -> None:
    house.secrets = {"api-key": b"sesame"}
    folder = SecretFolders(house.settings).folder
    old = house.provider()
    stays, goes = (old.start(house.spec(secrets=["api-key"])) for _ in range(2))
    assert {each.name for each in folder.iterdir()} == {stays.id, goes.id}
    old.remove(goes)
    assert {each.name for each in folder.iterdir()} == {stays.id}
    with pytest.raises(InvalidRequest):  # what a start that fails had laid out
        old.start(house.spec(secrets=["api-key"], env_vars={"a=b": "1"}))
    old.close()
    house._open.remove(old)
    (folder / "of-one-that-was-killed").mkdir()
    new = house.provider()
    assert [each.id for each in new.instances()] == [stays.id]
    until(lambda: {each.name for each in folder.iterdir()} == {stays.id})
    assert ask(stays, f"/secret?path={SECRETS}/api-key")["value"] == "sesame"
    new.remove(stays)
    assert not folder.exists()


def test_terminate_lets_requests_in_flight_finish(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    assert ask(instance) == "hello"
    answers: list[str] = []
    client = threading.Thread(target=lambda: answers.append(ask(instance, "/slow?seconds=1")))
    client.start()
    time.sleep(0.3)
    provider.terminate(instance)
    found = find(provider, instance.id)
    assert found is not None
    assert found.phase == Phase.STOPPING
    provider.terminate(instance)
    client.join()
    assert answers == ["slow"]
    assert exited(provider, instance).exit_reason == "exited with status 0"
    until(lambda: "drained" in texts(provider))


def test_terminate_reaches_one_that_has_only_just_started(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    provider.terminate(instance)
    assert exited(provider, instance).exit_reason in ("killed by SIGTERM", "exited with status 0")
    deaf = provider.start(house.spec(env_process="sleep 60"))
    time.sleep(0.2)
    provider.terminate(deaf)
    assert exited(provider, deaf).exit_reason == "killed by SIGTERM"


def test_what_a_dead_function_left_running_is_ended(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    assert ask(instance, "/detach") == "detached"
    pids = until(lambda: host_processes("sleep\0" + "61"))
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(instance, "/exit?status=0")
    exited(provider, instance)
    until(lambda: not set(pids) & set(host_processes("sleep\0" + "61")))


def test_remove_leaves_nothing_but_the_log(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    assert ask(instance, "/detach") == "detached"
    until(lambda: "serving" in texts(provider))
    pids = until(lambda: host_processes("sleep\0" + "61"))
    provider.remove(instance)
    provider.remove(instance)
    assert provider.instances() == []
    assert not set(pids) & set(host_processes("sleep\0" + "61"))
    assert not host_processes(instance.id)
    assert "serving" in texts(provider)
    left = {str(path) for path in house.settings.state.rglob("*") if instance.id in str(path)}
    assert left == set()
    with pytest.raises(OSError, match=r"No such file|refused|No route"), connection(instance):
        pass


def test_new_provider_finds_what_an_old_one_started(house: House) -> None:
    old = house.provider()
    running, dead, stopping = (old.start(house.spec()) for _ in range(3))
    assert ask(running) == "hello"
    old.terminate(stopping)
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(dead, "/exit?status=3")
    exited(old, dead)
    exited(old, stopping)
    old.close()
    house._open.remove(old)

    new = house.provider()
    found = {each.id: each for each in new.instances()}
    assert set(found) == {running.id, dead.id, stopping.id}
    assert found[running.id] == running
    assert ask(found[running.id]) == "hello"
    assert found[dead.id].phase == Phase.EXITED
    assert found[dead.id].exit_reason == "exited with status 3"
    assert ask(running, "/say?text=still+heard") == "said"
    until(lambda: "still heard" in texts(new))
    new.remove(found[running.id])
    assert find(new, running.id) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/exit?status=0", "exited with status 0"),
        ("/exit?status=7", "exited with status 7"),
        ("/signal?number=11", "killed by SIGSEGV"),
        ("/eat?megabytes=200", "killed: over its memory limit of 64Mi"),
    ],
)
def test_end_is_noticed_and_explained(house: House, path: str, reason: str) -> None:
    provider = house.provider()
    instance = provider.start(house.spec(limits=Resources(memory="64Mi")))
    if "memory limit" in reason and "cgroup" not in provider.enforced()["memory"]:
        missing("memory is not bounded on this machine: " + provider.enforced()["memory"])
    assert ask(instance) == "hello"
    provider.wait(0)
    started = time.monotonic()
    provider.wait(0.2)
    assert time.monotonic() - started >= 0.19, "nothing has ended yet"
    result: list[Any] = []

    def call() -> None:
        with contextlib.suppress(http.client.HTTPException, OSError):
            result.append(ask(instance, path))

    client = threading.Thread(target=call)
    client.start()
    started = time.monotonic()
    provider.wait(20)
    assert time.monotonic() - started < 15
    client.join()
    assert result == []
    assert exited(provider, instance).exit_reason == reason


def test_end_seen_by_instances_still_wakes_wait(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(instance, "/exit?status=1")
    exited(provider, instance)
    started = time.monotonic()
    provider.wait(10)
    assert time.monotonic() - started < 5
    started = time.monotonic()
    provider.wait(0.2)
    assert time.monotonic() - started >= 0.19


def test_function_that_is_no_program_ends_with_a_reason_in_its_log(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec(env_process="no-such-program"))
    assert "127" in exited(provider, instance).exit_reason
    until(lambda: any("no-such-program" in text for text in texts(provider)))


def test_processes_are_bounded(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    made = ask(instance, "/fork?count=60")
    assert 5 < made < house.settings.function_pids
    assert ask(provider.start(house.spec())) == "hello", "others are not held back by it"


def test_cpu_is_bounded(house: House) -> None:
    provider = house.provider()
    if "cgroup" not in provider.enforced()["cpu"]:
        missing("CPU time is not bounded on this machine: " + provider.enforced()["cpu"])
    burn = "import time; t = time.monotonic()\nwhile time.process_time() < 0.3: pass\n"
    burn += "print(time.monotonic() - t)"
    provider.start(
        house.spec(
            limits=Resources(cpu="200m"), env_process=f"python3 -c {burn!r}".replace("\\n", "\n")
        )
    )
    seconds = float(until(lambda: texts(provider))[0])
    assert seconds > 0.9


def test_what_functions_use_is_measured(house: House) -> None:
    provider = house.provider()
    if "cgroup" not in provider.enforced()["memory"]:
        missing("memory is not counted on this machine: " + provider.enforced()["memory"])
    busy, idle, _ = (provider.start(house.spec(name)) for name in ("busy", "idle", "other"))
    two = [provider.start(house.spec("two")) for _ in range(2)]
    for each in (busy, idle, *two):
        ask(each)
    assert ask(busy, "/burn") == "burning"
    used = provider.usage(["busy.demo", "idle.demo", "two.demo", "none.demo"])
    assert set(used) == {"busy.demo", "idle.demo", "two.demo"}
    assert used["busy.demo"].cpu > used["idle.demo"].cpu + 150
    assert used["busy.demo"].cpu < 1100, "one thread burns one core at most"
    assert 2**20 < used["idle.demo"].total_memory_bytes < house.settings.function_memory
    one = used["idle.demo"].total_memory_bytes
    assert used["two.demo"].total_memory_bytes > 1.5 * one, "of all replicas"
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(idle, "/exit?status=3")
    exited(provider, idle)
    assert provider.usage(["idle.demo"]) == {}, "the dead use nothing"


def test_log_is_kept_after_death_in_order_and_bounded(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    assert ask(instance, "/say?text=first") == "said"
    assert ask(instance, f"/say?text={'long' * 12000}") == "said"
    assert ask(instance, "/say?text=second") == "said"
    until(lambda: "second" in texts(provider))
    provider.remove(instance)
    lines = list(provider.logs("echo.demo"))
    assert [line.text for line in lines if len(line.text) < 100] == ["serving", "first", "second"]
    assert {line.instance for line in lines} == {instance.id}
    assert 16000 < max(len(line.text) for line in lines) < 17000
    assert texts(provider, tail=1) == ["second"]
    assert texts(provider, since=lines[-1].time) == []
    assert texts(provider, since="2020-01-01T00:00:00Z")[0] == "serving"
    assert texts(provider, function="unknown.demo") == []


def test_flood_neither_fills_the_disk_nor_drowns_others(house: House) -> None:
    provider = house.provider()
    loud, quiet = provider.start(house.spec("loud")), provider.start(house.spec("quiet"))
    flood = threading.Thread(target=ask, args=(loud, "/flood?megabytes=100", 60))
    flood.start()
    try:
        assert ask(quiet, "/say?text=heard") == "said"
        until(lambda: "heard" in texts(provider, "quiet.demo"), 5)
    finally:
        flood.join()
    until(lambda: "the last words" in texts(provider, "loud.demo"))
    assert any("bytes left out" in text for text in texts(provider, "loud.demo"))
    size = sum(path.stat().st_size for path in house.settings.logs.rglob("*") if path.is_file())
    assert size <= 2 * house.settings.function_log + 2**17


def test_writing_goes_on_without_the_control_plane(house: House) -> None:
    old = house.provider()
    instance = old.start(house.spec())
    assert ask(instance) == "hello"
    old.close()
    house._open.remove(old)
    assert ask(instance, "/say?text=alone&times=100") == "said"
    new = house.provider()
    until(lambda: texts(new).count("alone") == 100)


def test_listing_is_cheap(house: House) -> None:
    provider = house.provider()
    for _ in range(10):
        provider.start(house.spec(env_process="sleep 60"))
    provider.instances()
    started = time.perf_counter()
    for _ in range(20):
        assert len(provider.instances()) == 10
    assert (time.perf_counter() - started) / 20 < 0.05


def test_many_start_at_once(house: House) -> None:
    provider = house.provider()
    with contextlib.ExitStack() as stack:
        threads = [threading.Thread(target=provider.start, args=(house.spec(),)) for _ in range(8)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    found = provider.instances()
    assert len(found) == 8
    assert len({ask(each, "/me")["uid"] for each in found}) == 8


def test_no_descriptor_is_lost(house: House) -> None:
    provider = house.provider()
    provider.remove(provider.start(house.spec()))
    before = open_descriptors()
    for _ in range(3):
        provider.remove(provider.start(house.spec()))
    assert open_descriptors() == before


def test_an_image_that_was_not_built_here_runs_or_is_refused_with_the_reason(house: House) -> None:
    provider = house.provider()
    spec = house.spec("stranger", foreign=True, env_process="other")
    if provider.name == "docker":
        instance = provider.start(spec)
        assert ask(instance) == "hello"
        assert ask(instance, "/env")["fprocess"] == "other"
        assert provider.tidy({spec.artifact}, 0.0).pruned == [], "it was not pulled"
    else:
        with pytest.raises(NotSupported, match=r"as processes.*SLIPWAY_RUNTIME=docker"):
            provider.start(spec)
        assert provider.tidy(set(), 0.0).pruned == []
        assert provider.instances() == []
