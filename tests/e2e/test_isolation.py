"""What a function of a running platform reaches, seen from inside a request: nothing of ours.

The functions of this module run the program that a request brings and answer with what it leaves
in ``answer``, so that each probe stands beside what it must find.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.settings import ROOT
from tests.e2e.outside import FORBIDDEN, HOST, PUBLIC, Outside, outside
from tests.e2e.platform import Answer, Platform, fresh_folder, running

pytestmark = pytest.mark.root

SUBNET = "10.95.0.0/24"
RUNNER = """
import json

def handle(event, context):
    scope = {}
    exec(event.body, scope)
    return json.dumps(scope["answer"])
"""
STACK = """
version: 1.0
provider:
  name: openfaas
functions:
  probe:
    lang: python3-http
    handler: ./probe
    environment:
      GREETING: hello
  peer:
    lang: python3-http
    handler: ./probe
  hungry:
    lang: python3-http
    handler: ./probe
    limits:
      memory: 64Mi
  shut:
    lang: python3-http
    handler: ./probe
    annotations:
      com.slipway.egress: "false"
"""
OTHER = """
import json

SECRET = "bob's own"

def handle(event, context):
    told = {"body": event.body.decode(), "from": event.headers.get("X-Forwarded-For")}
    return json.dumps(told)
"""
UNREACHABLE = {"EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT"}
REACH = """
import errno, socket

def reach(address, port):
    with socket.socket() as client:
        client.settimeout(1)
        try:
            client.connect((address, port))
            return "connected, seen as " + client.recv(100).decode()
        except TimeoutError:
            return "ETIMEDOUT"
        except OSError as error:
            return errno.errorcode[error.errno]
"""
ASK = """
import http.client, os
from urllib.parse import urlsplit

def ask(method, target, headers={}, body=None):
    connection = http.client.HTTPConnection(urlsplit(os.environ["OPENFAAS_URL"]).netloc, timeout=10)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return [answer.status, answer.read().decode()]
    finally:
        connection.close()
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Outside]:
    with outside() as made:
        yield made


@pytest.fixture(scope="module")
def fenced(world: Outside) -> Iterator[Platform]:
    """A platform with the functions of two owners. It comes after the world, whose cable is one
    of the uplinks that it finds as it starts."""
    assert world
    with fresh_folder() as folder, running(folder, SLIPWAY_SUBNET=SUBNET) as up:
        files = {"probe/handler.py": RUNNER}
        pushed = up.repository("eve", "probes").push({"stack.yml": STACK, **files})
        assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
        stack = STACK.partition("  probe:")[0] + "  other: {lang: python3-http, handler: other}\n"
        pushed = up.repository("bob", "fns").push({"stack.yml": stack, "other/handler.py": OTHER})
        assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
        yield up


def send(platform: Platform, code: str, function: str = "probe.eve") -> Answer:
    return platform.call(function, textwrap.dedent(code).encode())


def ask(platform: Platform, code: str, function: str = "probe.eve") -> Any:
    """What the program leaves in ``answer``."""
    answer = send(platform, code, function)
    assert answer.status == 200, answer.text
    return json.loads(answer.body)


def reach(
    platform: Platform, *targets: tuple[str, int], function: str = "probe.eve"
) -> dict[str, str]:
    """Address → what came of connecting."""
    code = f"{REACH}\nanswer = [reach(*target) for target in {targets!r}]"
    found = ask(platform, code, function)
    return dict(zip((f"{host}:{port}" for host, port in targets), found, strict=True))


# ------------------------------------------------------------------------------- files, processes


def test_files_of_the_host_and_of_others_are_not_there(fenced: Platform) -> None:
    state = fenced.settings.state
    (others,) = (state / "bundles" / "bob").glob("*/app/function/handler.py")
    assert "bob's own" in others.read_text()
    (instance,) = (state / "instances").glob("other.bob-*")
    tried = ["/etc/shadow", "/root", str(state), str(fenced.settings.password_file), str(others)]
    tried += [str(state / "git"), str(instance), str(ROOT / "core"), "/sys/fs/cgroup"]
    tried += [f"/proc/{os.getpid()}/environ"]
    assert [each for each in tried if not Path(each).exists()] == [], "to root they are there"
    tried += ["/proc/1/root/etc/shadow", "/proc/kcore", "/dev/mem"]  # not every host has them
    found = ask(
        fenced,
        f"""
        import os
        def look(path):
            try:
                return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(9).hex()
            except OSError:
                return None
        answer = {{path: look(path) for path in {tried!r}}}
        """,
    )
    # An interpreter in a private home is shown at its own path, with nothing beside it.
    assert {path: what for path, what in found.items() if what and path != "/root"} == {}
    assert set(found["/root"] or ()) <= {".pyenv"}


def test_no_file_of_another_function_is_anywhere(fenced: Platform) -> None:
    found = ask(
        fenced,
        """
        import os
        answer = []
        for folder, folders, files in os.walk("/"):
            if folder == "/":
                folders[:] = [each for each in folders if each not in ("proc", "usr", "sys")]
            for name in files:
                path = os.path.join(folder, name)
                try:
                    if name == "handler.py" and "bob" in open(path).read():
                        answer.append(path)
                    elif name in ("bundle.json", "admin-password", "instance"):
                        answer.append(path)
                except OSError:
                    pass
        """,
    )
    assert found == []


def test_own_files_are_read_only_and_tmp_is_bounded(fenced: Platform) -> None:
    found = ask(
        fenced,
        """
        import errno, os
        def write(path):
            try:
                with open(path, "a"):
                    return "written"
            except OSError as error:
                return errno.errorcode[error.errno]
        answer = {path: write(path) for path in (
            "/home/app/new", "/home/app/function/handler.py", "/home/app/index.py", "/new",
            "/etc/passwd", "/usr/bin/new", "/opt/slipway/layers/python/new", "/run/new",
            "/home/new")}
        answer["/tmp/small"] = write("/tmp/small")
        size = 0
        try:
            with open("/tmp/large", "wb", buffering=0) as file:
                while size < 100 * 2**20:
                    size += file.write(bytes(2**20))
        except OSError as error:
            answer["full"] = errno.errorcode[error.errno]
        os.unlink("/tmp/large")
        answer["size"] = size
        """,
    )
    assert found.pop("/tmp/small") == "written"
    assert found.pop("full") == "ENOSPC"
    assert 60 * 2**20 < found.pop("size") <= 64 * 2**20
    assert set(found.values()) <= {"EROFS", "EACCES"}


def test_identity(fenced: Platform) -> None:
    code = """
        import os
        lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
        answer = {
            "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
            "caps": [lines[name].strip() for name in lines if name.startswith("Cap")],
            "locked": [lines["NoNewPrivs"].strip(), lines["Seccomp"].strip()],
        }
        """
    one, two = ask(fenced, code), ask(fenced, code, "peer.eve")
    for found in (one, two):
        assert found["uid"] == found["gid"] >= 1_000_000
        assert found["groups"] == []
        assert {int(each, 16) for each in found["caps"]} == {0}
        assert len(found["caps"]) == 5
        assert found["locked"] == ["1", "2"]
    assert one["uid"] != two["uid"], "each replica is a user of its own"
    found = [process.info["uids"] for process in psutil.process_iter(["uids"])]
    uids = {each.real for each in found if each}
    assert {one["uid"], two["uid"]} <= uids, "and it is one to the host as well"


def test_processes_of_others_are_neither_seen_nor_signalled(fenced: Platform) -> None:
    uid = ask(fenced, "import os\nanswer = os.getuid()", "peer.eve")
    (victim,) = (
        process.pid
        for process in psutil.process_iter(["uids"])
        if process.info["uids"] and process.info["uids"].real == uid
    )
    found = ask(
        fenced,
        f"""
        import errno, os, signal
        def kill(pid):
            try:
                os.kill(pid, signal.SIGKILL)
                return "signalled"
            except OSError as error:
                return errno.errorcode[error.errno]
        answer = [[int(each) for each in os.listdir("/proc") if each.isdigit()],
                  kill({victim}), kill({os.getpid()})]
        """,
    )
    assert set(found[0]) == {1, 2}, "the sandbox's init and the program"
    assert found[1:] == ["ESRCH", "ESRCH"]
    assert psutil.pid_exists(victim)


def test_the_environment_tells_nothing_of_us(fenced: Platform) -> None:
    found = ask(fenced, "import os\nanswer = dict(os.environ)")
    assert found["GREETING"] == "hello"
    assert found["OPENFAAS_NAME"] == "probe"
    assert found["OPENFAAS_NAMESPACE"] == "eve"
    assert [name for name in found if name.startswith("SLIPWAY")] == []
    told = json.dumps(found)
    for ours in (str(fenced.folder), str(ROOT), fenced.password):
        assert ours not in told
    usual = {"PATH", "HOME", "PWD", "LANG", "PYTHONPATH", "PYTHONUNBUFFERED", "NODE_OPTIONS"}
    usual |= {"PYTHONDONTWRITEBYTECODE", "LISTEN_FDS", "LISTEN_FDNAMES", "fprocess", "GREETING"}
    assert set(found) <= usual | {"OPENFAAS_NAME", "OPENFAAS_NAMESPACE", "OPENFAAS_URL"}


def test_our_sockets_are_not_there(fenced: Platform) -> None:
    ours = [str(each) for each in fenced.settings.run.rglob("*") if each.is_socket()]
    assert {"store/redis.sock", "edge/admin.sock", "gateway/gateway.sock"} <= {
        "/".join(Path(each).parts[-2:]) for each in ours
    }
    assert any("/f/" in each for each in ours), "the other functions' own"
    found = ask(
        fenced,
        f"""
        import errno, socket
        def connect(path):
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(path)
                    return "connected"
                except OSError as error:
                    return errno.errorcode[error.errno]
        answer = [connect(path) for path in {ours!r}]
        """,
    )
    assert set(found) == {"ENOENT"}


# ---------------------------------------------------------------------------------------- network


def test_the_outside_is_reached_through_nat(fenced: Platform, world: Outside) -> None:
    assert reach(fenced, (PUBLIC, 80)) == {f"{PUBLIC}:80": f"connected, seen as {HOST}"}
    assert world.seen[-1] == (PUBLIC, HOST)


def test_private_and_metadata_addresses_are_out_of_reach(fenced: Platform, world: Outside) -> None:
    for address in FORBIDDEN:
        with socket.create_connection((address, 80), 3) as reachable:
            assert reachable.recv(100), "the host itself reaches it"
    before = len(world.seen)
    found = reach(fenced, *((address, 80) for address in FORBIDDEN))
    assert set(found.values()) <= UNREACHABLE, found
    assert len(world.seen) == before


def test_the_hosts_own_addresses_are_out_of_reach(fenced: Platform) -> None:
    bridge = str(ask(fenced, "import os\nanswer = os.environ['OPENFAAS_URL']"))
    bridge = bridge.removeprefix("http://").partition(":")[0]
    own = {
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    }
    assert {HOST, bridge} <= own
    with contextlib.ExitStack() as held:
        # What stands where the public port would be if it were bound to more than loopback.
        held.enter_context(socket.create_server((HOST, fenced.port)))
        service = held.enter_context(socket.create_server(("0.0.0.0", 0))).getsockname()[1]
        targets = [(address, service) for address in own]
        targets += [(address, fenced.port) for address in own - {bridge}]
        found = reach(fenced, *targets)
        assert set(found.values()) <= UNREACHABLE, found
        loopback = reach(fenced, ("127.0.0.1", service), ("127.0.0.1", fenced.port))
        assert set(loopback.values()) == {"ECONNREFUSED"}, "its own loopback, not the host's"


def test_functions_do_not_reach_one_another_directly(fenced: Platform) -> None:
    address = ask(
        fenced,
        f"""
        import socket, threading
        listener = socket.create_server(("0.0.0.0", 9000))
        def serve():
            for _ in range(1):
                listener.accept()[0].sendall(b"reached")
        threading.Thread(target=serve, daemon=True).start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(({PUBLIC!r}, 80))
            answer = probe.getsockname()[0]
        """,
        "peer.eve",
    )
    assert address.startswith("10.95.0.")
    assert set(reach(fenced, (address, 9000)).values()) <= UNREACHABLE
    own = reach(fenced, ("127.0.0.1", 9000), function="peer.eve")
    assert own == {"127.0.0.1:9000": "connected, seen as reached"}, "it did listen"


def test_functions_call_one_another_through_the_edge(fenced: Platform) -> None:
    found = ask(
        fenced,
        ASK
        + """
answer = [
    ask("POST", "/function/other.bob/deep?q=1", body=b"hi bob"),
    ask("POST", "/function/peer.eve", body=b"answer = 'a neighbour'"),
    ask("GET", "/function/nobody.bob"),
]
""",
    )
    assert found[0][0] == 200
    told = json.loads(found[0][1])
    assert told["body"] == "hi bob"
    assert told["from"].startswith("10.95.0."), "the edge tells who asked"
    assert found[1] == [200, '"a neighbour"']
    assert found[2][0] == 404
    assert "nobody.bob" in found[2][1]


CLOSED = [
    "/",
    "/healthz",
    "/metrics",
    "/dashboard",
    "/system/functions",
    "/system/info",
    "/git/eve/probes.git/info/refs?service=git-upload-pack",
    "/webhooks/github",
    "/internal/pushes/eve/probes",
    "/function/../system/functions",
    "/function/nobody.eve/../../system/functions",
    "/function/nobody.eve/%2e%2e/%2e%2e/system/functions",
    "/function/%2e%2e/system/functions",
    "/function/..%2fsystem/functions",
    "/async-function/../system/functions",
    "//system/functions",
    "/./system/functions",
    "/%73ystem/functions",
    "/function",
    "/FUNCTION/other.bob",
    "http://{public}/system/functions",
    "http://{public}/function/../system/functions",
]


def test_functions_reach_nothing_else_of_the_edge(fenced: Platform) -> None:
    """Not even with the admin's own password."""
    token = base64.b64encode(f"admin:{fenced.password}".encode()).decode()
    public = f"127.0.0.1:{fenced.port}"
    headers = {"Authorization": f"Basic {token}", "Host": public, "X-Original-URL": "/system/info"}
    requests = [
        (method, target.format(public=public), headers)
        for method in ("GET", "POST", "PUT", "DELETE")
        for target in CLOSED
    ]
    found = ask(fenced, f"{ASK}\nanswer = [ask(*each) for each in {requests!r}]")
    told = {each[:2]: answer for each, answer in zip(requests, found, strict=True)}
    assert {each: answer for each, answer in told.items() if answer[0] != 403} == {}
    assert {"only /function/ and /async-function/" in text for _, text in found} == {True}
    allowed = fenced.request("/system/functions", admin=True)
    assert allowed.status == 200, "from elsewhere the same request is answered"


def test_a_live_function_gets_such_paths_itself(fenced: Platform) -> None:
    """``..`` behind the name of a live function is a part of that function's path, no more."""
    found = ask(
        fenced,
        f"{ASK}\nanswer = ask('POST', '/function/other.bob/%2e%2e/../../system/info', body=b'x')",
    )
    assert found[0] == 200
    assert json.loads(found[1])["body"] == "x"


def test_the_edge_is_no_forward_proxy_and_no_tunnel(fenced: Platform, world: Outside) -> None:
    before = len(world.seen)
    found = ask(
        fenced,
        f"""{ASK}
gateway, far = "127.0.0.1:{fenced.port}", {PUBLIC!r}
upgrade = {{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}}
upgrade["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
answer = [
    ask("CONNECT", gateway, {{"Host": gateway}})[0],
    ask("GET", "http://" + far + "/", {{"Host": far}})[0],
    ask("GET", "http://" + far + "/function/other.bob", {{"Host": "elsewhere"}})[0],
    ask("GET", "/system/functions", upgrade)[0],
]
""",
    )
    assert found == [405, 403, 400, 403]
    assert len(world.seen) == before


def test_egress_off_means_no_network_at_all(fenced: Platform) -> None:
    network = ask(fenced, "import os\nanswer = os.environ['OPENFAAS_URL']")
    bridge, _, port = network.removeprefix("http://").partition(":")
    found = reach(fenced, (PUBLIC, 80), (bridge, int(port)), function="shut.eve")
    assert set(found.values()) <= UNREACHABLE
    assert ask(
        fenced,
        """
        import os, socket
        answer = [[name for _, name in socket.if_nameindex()], "OPENFAAS_URL" in os.environ]
        """,
        "shut.eve",
    ) == [["lo"], False]


# ----------------------------------------------------------------------------------------- limits


def test_memory_over_the_stack_files_limit_ends_that_replica_alone(fenced: Platform) -> None:
    born = "import os\nanswer = os.stat('/proc/self').st_ctime_ns, os.uname().nodename"
    before = ask(fenced, born, "hungry.eve")
    bystanders: set[int] = set()
    done = threading.Event()

    def keep_calling() -> None:
        while not done.is_set():
            bystanders.add(fenced.call("other.bob", b"").status)
            bystanders.add(send(fenced, "answer = 1").status)

    client = threading.Thread(target=keep_calling)
    client.start()
    try:
        eaten = send(
            fenced, "hoard = [bytearray(2**20) for _ in range(200)]\nanswer = 1", "hungry.eve"
        )
        assert eaten.status in (502, 503), eaten.text
        deadline = time.monotonic() + 15
        while (back := send(fenced, born, "hungry.eve")).status != 200:
            assert time.monotonic() < deadline, back.text
            time.sleep(0.1)
    finally:
        done.set()
        client.join()
    assert json.loads(back.body) != before, "a new replica answers"
    assert bystanders == {200}
    listed = fenced.request("/system/function/hungry?namespace=eve", admin=True).json()
    assert listed["limits"] == {"memory": "64Mi"}
    assert "over its memory limit of 64Mi" in fenced.logs()


def test_a_function_within_its_limit_is_left_alone(fenced: Platform) -> None:
    answer = send(fenced, "hoard = bytearray(16 * 2**20)\nanswer = len(hoard)", "hungry.eve")
    assert answer.text == str(16 * 2**20)
