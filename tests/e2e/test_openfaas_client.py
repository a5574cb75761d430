"""What OpenFaaS' command-line client does on the wire, command by command.

Source: the client's own requests (proxy/*.go of faas-cli, client.go of its go-sdk): paths, queries,
bodies, headers, and the statuses that it takes for success.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from engine.client import Engine
from tests import containers
from tests.e2e.platform import Answer, Platform, fresh_folder, running, stack
from tests.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.network]

DONE = (200, 201, 202)
SECRET = "/var/openfaas/secrets/api-key"
TOLD = f"""\
    print("called", path, flush=True)
    try:
        secret = open({SECRET!r}).read()
    except OSError:
        secret = ""
    told = {{"method": method, "path": path, "headers": headers, "body": body, "secret": secret,
             "mode": os.environ.get("mode"), "fprocess": os.environ.get("fprocess")}}
"""
HANDLER = f"""\
import json, os, sys

if os.environ.get("broken"):
    sys.exit(3)

def handle(event, context):
    method, body = event.method, event.body.decode()
    path = event.path + ("?" + "&".join(f"{{k}}={{v}}" for k, v in event.query.items())
                         if event.query else "")
    headers = {{name.lower(): value for name, value in event.headers.items()}}
{TOLD}
    return json.dumps(told)
"""
SERVER = f"""\
import http.server, json, os, signal, sys, threading

if os.environ.get("broken"):
    sys.exit(3)

def handle(method, path, headers, body):
{TOLD}
    return json.dumps(told).encode()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        given = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        headers = {{name.lower(): value for name, value in self.headers.items()}}
        healthy = self.path == "/_/health"
        body = b"OK" if healthy else handle(self.command, self.path, headers, given)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_PUT = do_GET

server = http.server.ThreadingHTTPServer(("", 8080), Handler)
server.daemon_threads = False
server.handle_error = lambda *_: None  # a connection that the edge let go
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
"""


class Refused(Exception):
    """The client prints the status and the body."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} - {answer.text}")
        self.status = answer.status


class Client:
    """The commands, each as the requests that it sends."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.password = platform.password
        self.sent: list[tuple[str, str, int]] = []
        """(method, path with query, status) of every request."""

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        **query: str | int,
    ) -> Answer:
        target = path + (f"?{urlencode(query)}" if query else "")
        token = base64.b64encode(f"admin:{self.password}".encode()).decode()
        headers = {
            "User-Agent": "faas-cli/0.17.8",
            "Authorization": f"Basic {token}",
            "Accept-Encoding": "gzip",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        answer = self.platform.request(target, method=method, data=data, headers=headers)
        self.sent.append((method, target, answer.status))
        return answer

    def done(self, answer: Answer, accepted: tuple[int, ...] = DONE) -> Answer:
        if answer.status not in accepted:
            raise Refused(answer)
        return answer

    def login(self) -> None:
        self.done(self.send("GET", "/system/functions"), (200,))

    def deploy(self, *, replace: bool = False, **function: Any) -> None:
        if replace:
            self.remove(function["service"], function.get("namespace", ""))
        answer = self.send("POST" if replace else "PUT", "/system/functions", function)
        if answer.status == 404 and not replace:
            answer = self.send("POST", "/system/functions", function)
        self.done(answer)

    def list(self, namespace: str = "") -> list[dict[str, Any]]:
        query = {"namespace": namespace} if namespace else {}
        found: list[dict[str, Any]] = self.done(
            self.send("GET", "/system/functions", **query), (200,)
        ).json()
        return found

    def describe(self, name: str, namespace: str) -> dict[str, Any]:
        path = f"/system/function/{name}"
        answer = self.send("GET", path, namespace=namespace, usage=1)
        found: dict[str, Any] = self.done(answer, (200,)).json()
        return found

    def remove(self, name: str, namespace: str) -> None:
        body = {"functionName": name} | ({"namespace": namespace} if namespace else {})
        self.done(self.send("DELETE", "/system/functions", body), (*DONE, 404))

    def scale(self, name: str, namespace: str, replicas: int) -> None:
        body = {"serviceName": name, "replicas": replicas, "namespace": namespace}
        self.done(self.send("POST", f"/system/scale-function/{name}", body))

    def secret(self, method: str, name: str, namespace: str, value: str = "") -> None:
        body = {"name": name, "namespace": namespace} | ({"value": value} if value else {})
        self.done(self.send(method, "/system/secrets", body))

    def secrets(self, namespace: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.done(
            self.send("GET", "/system/secrets", namespace=namespace), (200, 202)
        ).json()
        return found

    def logs(self, name: str, namespace: str, **more: str | int) -> list[dict[str, Any]]:
        query = {"name": name, "namespace": namespace, "follow": "0", **more}
        text = self.done(self.send("GET", "/system/logs", **query), (200,)).text
        return [json.loads(line) for line in text.splitlines()]

    def invoke(
        self,
        name: str,
        namespace: str,
        body: bytes = b"",
        *,
        asynchronous: bool = False,
        query: str = "",
        **headers: str,
    ) -> Answer:
        """Without the password: functions shall not see it."""
        prefix = "/async-function" if asynchronous else "/function"
        path = f"{prefix}/{name}.{namespace or 'openfaas-fn'}{query}"
        told = {"Content-Type": "text/plain", **headers}
        answer = self.platform.request(path, method="POST", data=body, headers=told)
        return self.done(answer, (202,) if asynchronous else (200,))


@dataclass
class Installation:
    platform: Platform
    client: Client
    image: str
    """Of a function that tells what it got."""
    namespace: str
    """Where it may be deployed; empty: where the client says none."""

    def function(self, **more: Any) -> dict[str, Any]:
        """As the client makes it of a stack file's entry: empty where there is nothing."""
        return {
            "service": "echo",
            "image": self.image,
            "namespace": self.namespace,
            "envProcess": "",
            "envVars": {"mode": "0644"},
            "constraints": None,
            "secrets": [],
            "labels": {"team": "a"},
            "annotations": {"topic": "x"},
            "limits": {"memory": "64Mi", "cpu": "500m"},
            "requests": None,
            "readOnlyRootFilesystem": False,
            **more,
        }

    def ready(self, replicas: int = 1, name: str = "echo") -> None:
        def there() -> bool:
            space = self.namespace or "openfaas-fn"
            # Not described: that waits until it was measured.
            (found,) = [
                each
                for each in self.client.list(space)
                if (each["name"], each["namespace"]) == (name, space)
            ]
            settled = "com.slipway.trouble" not in found.get("annotations", {})
            return settled and found.get("availableReplicas", 0) == replicas

        until(there, 30, lambda: self.platform.logs())

    def echo(self) -> dict[str, Any]:
        told: dict[str, Any] = self.client.invoke("echo", self.namespace).json()
        return told


@pytest.fixture(scope="module", params=["process", "docker"])
def installation(request: pytest.FixtureRequest) -> Iterator[Installation]:
    if request.param == "process":
        platform: Platform = request.getfixturevalue("platform")
        files = {"stack.yml": stack("mother"), "mother/handler.py": HANDLER}
        pushed = platform.repository("cli", "fns").push(files)
        assert pushed.last.startswith("slipway: live"), pushed.text
        made = Installation(platform, Client(platform), "", "cli")
        made.image = made.client.describe("mother", "cli")["image"]
        yield made
        return
    engine: Engine = request.getfixturevalue("engine")
    name = f"sw-echo-{secrets.token_hex(4)}"
    with (
        fresh_folder() as folder,
        running(folder, SLIPWAY_RUNTIME="docker", SLIPWAY_DRAIN_TIMEOUT="3s") as platform,
    ):
        entry = 'ENTRYPOINT ["python3", "/home/app/echo.py"]'
        id_ = containers.image(
            platform.settings, {"echo.py": SERVER}, [], more=entry, wrapped=False
        )
        with engine.asking("no name for the test's image") as api:
            api.tag(id_, name, "1")
        try:
            yield Installation(platform, Client(platform), f"{name}:1", "")
        finally:
            platform.stop()
            containers.remove_network(platform.settings)
            with engine.asking("") as api:
                api.remove_image(f"{name}:1")


@pytest.fixture
def deployed(installation: Installation) -> Iterator[Installation]:
    """With the function ``echo`` deployed and ready, and gone afterwards."""
    installation.client.deploy(**installation.function())
    installation.ready()
    yield installation
    installation.client.remove("echo", installation.namespace)


def test_login_and_version(installation: Installation) -> None:
    client = installation.client
    client.login()
    stranger = Client(installation.platform)
    stranger.password = "guess"
    with pytest.raises(Refused, match="401"):
        stranger.login()
    info = client.done(client.send("GET", "/system/info"), (200,)).json()
    assert info["provider"]["provider"] == "slipway"
    assert info["provider"]["orchestration"] == installation.platform.env["SLIPWAY_RUNTIME"]
    for version in (info["version"], info["provider"]["version"]):
        assert version["release"]
        assert isinstance(version["sha"], str)


def test_deploy_list_describe_invoke_and_remove(installation: Installation) -> None:
    client, space = installation.client, installation.namespace
    client.sent.clear()
    client.deploy(**installation.function())
    assert [(method, status) for method, _, status in client.sent] == [("PUT", 404), ("POST", 202)]
    installation.ready()
    (listed,) = [each for each in client.list(space) if each["name"] == "echo"]
    described = client.describe("echo", space)
    for found in (listed, described):
        assert found["image"] == installation.image
        assert found["envVars"] == {"mode": "0644"}
        assert found["limits"] == {"memory": "64Mi", "cpu": "500m"}
        assert found["labels"]["team"] == "a"
        assert found["annotations"]["topic"] == "x"
        assert (found["replicas"], found["availableReplicas"]) == (1, 1)
    assert described["usage"]["totalMemoryBytes"] > 2**20
    assert any(each["name"] == "echo" for each in client.list()), "without a namespace: all"
    answer = client.invoke("echo", space, b"hello", query="?a=1&b=x", **{"X-Own": "mine"})
    told = answer.json()
    assert answer.headers["X-Served-By"].startswith("slipway/")
    assert answer.headers["X-Call-Id"]
    assert (told["method"], told["path"], told["body"]) == ("POST", "/?a=1&b=x", "hello")
    assert (told["headers"]["x-own"], told["mode"]) == ("mine", "0644")
    assert "authorization" not in told["headers"]
    if not space:  # the old way, without a namespace
        assert installation.platform.call("echo").status == 200
    client.deploy(replace=True, **installation.function(envVars={"mode": "new"}))
    assert [each[0] for each in client.sent[-2:]] == ["DELETE", "POST"]
    until(lambda: _mode(installation) == "new", 30)
    client.remove("echo", space)
    client.remove("echo", space)  # "No existing function to remove"
    with pytest.raises(Refused, match="404"):
        client.describe("echo", space)
    until(lambda: installation.platform.call(f"echo.{space or 'openfaas-fn'}").status == 404, 10)


def _mode(installation: Installation) -> Any:
    try:
        return installation.echo()["mode"]
    except Refused:
        return None


def test_an_update_loses_no_request_and_a_broken_one_changes_nothing(
    deployed: Installation,
) -> None:
    seen: list[tuple[int, str]] = []
    done = threading.Event()
    url = f"{deployed.platform.url}/function/echo.{deployed.namespace or 'openfaas-fn'}"

    def keep_calling() -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not done.is_set():
                answer = session.post(url, data=b"x", timeout=20)
                told = answer.json()["mode"] if answer.ok else answer.text
                seen.append((answer.status_code, told))

    callers = [threading.Thread(target=keep_calling) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        deployed.client.deploy(**deployed.function(envVars={"mode": "second"}))
        until(lambda: deployed.echo()["mode"] == "second", 30)
        deployed.client.deploy(**deployed.function(envVars={"mode": "third", "broken": "1"}))

        def trouble() -> str:
            found = deployed.client.describe("echo", deployed.namespace)
            return str(found.get("annotations", {}).get("com.slipway.trouble", ""))

        until(lambda: "exited with status" in trouble(), 30, trouble)
        assert trouble().endswith("what was deployed before it still serves")
        time.sleep(0.5)
        assert deployed.echo()["mode"] == "second"
        deployed.client.deploy(**deployed.function(envVars={"mode": "fourth"}))
        until(lambda: (200, "fourth") in seen, 30)
    finally:
        done.set()
        for caller in callers:
            caller.join()
    assert {status for status, _ in seen} == {200}
    assert {mode for _, mode in seen} == {"0644", "second", "fourth"}


def test_scale(deployed: Installation) -> None:
    client, space = deployed.client, deployed.namespace
    client.scale("echo", space, 2)
    deployed.ready(2)
    client.scale("echo", space, 0)
    deployed.ready(0)
    assert deployed.echo()["mode"] == "0644", "a call wakes it"
    deployed.ready(1)
    for wrong in (-1, 1000):
        with pytest.raises(Refused, match="400"):
            client.scale("echo", space, wrong)
    with pytest.raises(Refused, match="404"):
        client.scale("nobody", space, 1)


def test_secrets(installation: Installation) -> None:
    client, space = installation.client, installation.namespace
    function = installation.function(secrets=["api-key"])
    with pytest.raises(Refused, match=r"400 - secrets: .*api-key"):
        client.deploy(**function)
    client.secret("POST", "api-key", space, "first")
    with pytest.raises(Refused, match="409"):
        client.secret("POST", "api-key", space, "again")
    listed = {"name": "api-key", "namespace": space or "openfaas-fn"}
    assert client.secrets(space) == [listed]
    client.deploy(**function)
    installation.ready()
    assert installation.echo()["secret"] == "first"
    client.secret("PUT", "api-key", space, "second")
    client.deploy(**function)
    until(lambda: installation.echo()["secret"] == "second", 30)
    client.remove("echo", space)
    client.secret("DELETE", "api-key", space)
    assert client.secrets(space) == []
    with pytest.raises(Refused, match="404"):
        client.secret("PUT", "api-key", space, "third")


def test_logs(deployed: Installation) -> None:
    client, space = deployed.client, deployed.namespace
    for word in ("one", "two"):
        client.invoke("echo", space, query=f"?{word}=1")

    def texts(**more: str | int) -> list[str]:
        return [line["text"] for line in client.logs("echo", space, **more)]

    until(lambda: any("two" in text for text in texts()), 10)
    assert texts(tail=1) == ["called /?two=1"]
    (line,) = client.logs("echo", space, tail=1)
    assert set(line) == {"name", "namespace", "instance", "timestamp", "text"}
    assert texts(since="2999-01-01T00:00:00Z") == []
    with pytest.raises(Refused, match="404"):
        client.logs("nobody", space)
    query = urlencode({"name": "echo", "namespace": space, "follow": "1", "tail": "1"})
    with requests.get(
        f"{deployed.platform.url}/system/logs?{query}",
        auth=("admin", client.password),
        stream=True,
        timeout=20,
    ) as followed:
        lines = (json.loads(raw)["text"] for raw in followed.iter_lines(1) if raw.strip())
        assert next(lines) == "called /?two=1"
        client.invoke("echo", space, query="?three=1")
        assert next(lines) == "called /?three=1"


def test_an_asynchronous_call(deployed: Installation) -> None:
    client, space = deployed.client, deployed.namespace
    answer = client.invoke("echo", space, b"later", asynchronous=True, query="?later=1")
    assert answer.headers["X-Call-Id"]
    until(
        lambda: any("later" in line["text"] for line in client.logs("echo", space)),
        20,
        lambda: deployed.platform.logs(),
    )


def test_namespaces(installation: Installation) -> None:
    client = installation.client
    body = {"name": "dev", "labels": {"openfaas": "1"}, "annotations": {"openfaas": "1"}}
    client.done(client.send("POST", "/system/namespace/", body))
    try:
        found = client.done(client.send("GET", "/system/namespaces"), (200,)).json()
        assert {"dev", "openfaas-fn"} <= set(found)
        assert client.done(client.send("GET", "/system/namespace/dev"), (200,)).json() == body
        if not installation.namespace:  # an image is nobody's, a bundle its owner's
            client.deploy(**installation.function(namespace="dev"))
            answer = until(lambda: _asked(client, "dev"), 30)
            assert answer["mode"] == "0644"
            with pytest.raises(Refused, match="409"):
                client.done(client.send("DELETE", "/system/namespace/dev", body))
            client.remove("echo", "dev")
    finally:
        client.done(client.send("DELETE", "/system/namespace/dev", body))
    assert "dev" not in client.send("GET", "/system/namespaces").json()


def _asked(client: Client, namespace: str) -> Any:
    try:
        return client.invoke("echo", namespace).json()
    except Refused:
        return None


def test_what_cannot_run_here_says_why(installation: Installation) -> None:
    bundle = installation.platform.env["SLIPWAY_RUNTIME"] == "process"
    image = "ghcr.io/openfaas/figlet:0.1" if bundle else f"bundle:sha256:{'0' * 64}"
    with pytest.raises(Refused, match=r"501 - image: .*this installation runs"):
        installation.client.deploy(**installation.function(service="other", image=image))
    assert all(each["name"] != "other" for each in installation.client.list())
