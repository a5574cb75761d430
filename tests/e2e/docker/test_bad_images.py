"""Dockerfiles and images that cannot or shall not work, pushed to a whole platform on Docker.

Each is tried over a good version that is live; afterwards that one answers, the reason was told in
the push, the API and the log, and no container of the bad one is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import docker
import pytest

from tests.conftest import missing
from tests.e2e.bad_input.victim import GOOD, log_of
from tests.e2e.platform import Platform, Pushed, Repository, fresh_folder, running, stack
from tests.waiting import until

NAME = "box"
SERVER = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        body = answer(self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
def answer(path): return TEXT
TEXT = "the good version"
"""
SERVE = """
if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
BASE = "FROM python:3.11-slim-bookworm\nCOPY . /home/app\nWORKDIR /home/app\n"
GOOD_IMAGE = BASE + 'EXPOSE 8080\nCMD ["python3", "server.py"]\n'


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    try:
        docker.from_env(version="auto", timeout=10).close()
    except docker.errors.DockerException as error:
        missing(f"a Docker engine: {error}")
    with (
        fresh_folder() as folder,
        running(
            folder,
            SLIPWAY_RUNTIME="docker",
            SLIPWAY_BUILD_TIMEOUT="45s",
            SLIPWAY_BUILD_MEMORY="256Mi",
            SLIPWAY_BUILD_OUTPUT="64Ki",
            SLIPWAY_HEALTH_TIMEOUT="6s",
            SLIPWAY_DRAIN_TIMEOUT="3s",
            SLIPWAY_MAX_CONTEXT="8Mi",
        ) as up,
    ):
        yield up


class Box:
    """One repository with one Dockerfile function, whose good version is live."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.repository: Repository = platform.repository("ann", NAME)
        pushed = self.push({})
        assert pushed.last.startswith("slipway: live "), pushed.text + platform.logs()
        self.engine = docker.APIClient(version="auto")

    def push(
        self, files: Mapping[str, str | bytes], dockerfile: str = GOOD_IMAGE, server: str = ""
    ) -> Pushed:
        return self.repository.push(
            {
                "stack.yml": stack(NAME, lang="dockerfile"),
                f"{NAME}/Dockerfile": dockerfile,
                f"{NAME}/server.py": SERVER + server + SERVE,
                **files,
            }
        )

    def containers(self) -> set[str]:
        label = f"com.slipway.installation={self.platform.settings.mark}"
        found = self.engine.containers(all=True, filters={"label": label})
        return {name for each in found for name in each["Names"]}

    def refuses(
        self,
        dockerfile: str,
        *words: str,
        files: Mapping[str, str | bytes] | None = None,
        server: str = "",
    ) -> str:
        """The release fails for a reason with these words; what was live stays; returns its log."""
        before = self.containers()
        pushed = self.push(files or {}, dockerfile, server)
        release = self.platform.release("ann", NAME)
        shown = pushed.text + self.platform.logs()
        assert pushed.status == 0, shown
        assert pushed.last.startswith(f"slipway: failed {release['id']}: "), shown
        assert release["state"] == "failed"
        told = "\n".join(line.get("text", "") for line in log_of(self.platform, release["id"]))
        for word in words:
            assert word in release["reason"] + told, (
                f"{word!r} is not in {release['reason']}\n{told}"
            )
        answer = self.platform.call(f"{NAME}.ann")
        assert (answer.status, answer.text) == (200, GOOD)
        until(
            lambda: self.containers() <= before,
            30,
            lambda: f"left: {self.containers() - before}\n{self.platform.logs()}",
        )
        if files:
            for name in files:
                (self.repository.folder / name).unlink(missing_ok=True)
        return told


@pytest.fixture(scope="module")
def box(platform: Platform) -> Box:
    return Box(platform)


# ------------------------------------------------------------------------------------- building


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("RUN mount -t tmpfs none /mnt", ["exit code"]),
        ("RUN --mount=type=bind,from=127.0.0.1:5000/bob/secret,target=/x cat /x/*", ["127.0.0.1"]),
        ("COPY --from=169.254.169.254/x /a /b", ["169.254.169.254"]),
        ("ADD http://169.254.169.254/latest/meta-data/ /x", ["ADD", "169.254.169.254"]),
        ("RUN cat /proc/1/root/etc/shadow /var/run/docker.sock", ["exit code"]),
        ("RUN --security=insecure id", ["security"]),
        ("RUN exit 3", ["exit code", "3"]),
        ("NOT an instruction", ["NOT"]),
    ],
)
def test_lines_of_a_dockerfile_that_reach_out(box: Box, line: str, words: list[str]) -> None:
    box.refuses(BASE + line + "\n", *words)


def test_a_foreign_frontend_and_a_base_that_is_not_there(box: Box) -> None:
    box.refuses("# syntax=evil.example.com/frontend:1\n" + GOOD_IMAGE, "the frontend")
    box.refuses("FROM slipway-no-such-image:7\n", "slipway-no-such-image:7")
    box.refuses("", "Dockerfile")


def test_the_build_reaches_nothing_inside(box: Box, platform: Platform) -> None:
    """Its own network: neither what listens on this host nor link-local addresses."""
    probe = (
        "import socket, sys\n"
        "for host, port in (('169.254.169.254', 80), (sys.argv[1], int(sys.argv[2]))):\n"
        "    try: socket.create_connection((host, port), 3); print('REACHED', host)\n"
        "    except OSError as error: print('denied', host, error)\n"
    )
    settings = platform.settings
    gateway = settings.builds_subnet.replace(".0/24", ".1")
    told = box.refuses(
        BASE + f"RUN python3 probe.py {gateway} {platform.port}; exit 9\n",
        "denied 169.254.169.254",
        f"denied {gateway}",
        files={f"{NAME}/probe.py": probe},
    )
    assert "REACHED" not in told


def test_a_build_that_never_ends_is_ended(box: Box) -> None:
    begun = time.monotonic()
    box.refuses(BASE + "RUN sleep 600\n", "SLIPWAY_BUILD_TIMEOUT")
    assert time.monotonic() - begun < 90


def test_a_build_that_prints_a_gigabyte(box: Box) -> None:
    line = "import sys; [sys.stdout.write('x' * 99 + chr(10)) for _ in range(10 ** 7)]"
    told = box.refuses(BASE + f'RUN python3 -c "{line}"; exit 1\n', "SLIPWAY_BUILD_OUTPUT")
    assert len(told) < 300_000


def test_a_build_that_uses_all_memory(box: Box) -> None:
    line = "b = bytearray(2 ** 31); b[:] = bytes([1]) * 2 ** 31"
    box.refuses(BASE + f'RUN python3 -c "{line}"\n', "memory")


def test_a_context_of_five_gigabytes_is_refused_by_its_size(box: Box) -> None:
    """Refused from what git says of it; here with a bound of 8 MiB and a file of 9."""
    box.refuses(GOOD_IMAGE, "SLIPWAY_MAX_CONTEXT", files={f"{NAME}/large.bin": bytes(9 * 2**20)})


# ---------------------------------------------------------------------------------------- tests


def test_a_failing_test_stage_fails_the_release(box: Box) -> None:
    stages = (
        "FROM python:3.11-slim-bookworm AS build\nCOPY . /home/app\nWORKDIR /home/app\n"
        "FROM build AS test\n"
        'RUN python3 -c \'import server; assert server.answer("/") == 42, "not 42"\'\n'
        'FROM build\nEXPOSE 8080\nCMD ["python3", "server.py"]\n'
    )
    box.refuses(stages, "not 42")


def test_the_test_stage_has_no_network(box: Box) -> None:
    stages = (
        "FROM python:3.11-slim-bookworm AS build\nCOPY . /home/app\nWORKDIR /home/app\n"
        "FROM build AS test\n"
        "RUN ls /sys/class/net | grep -v '^lo$' && exit 5; echo only loopback; exit 6\n"
        'FROM build\nCMD ["python3", "server.py"]\n'
    )
    box.refuses(stages, "only loopback")


# -------------------------------------------------------------------------------------- running


def test_an_image_without_a_server(box: Box) -> None:
    box.refuses(BASE + 'CMD ["sleep", "600"]\n', "did not become healthy", "SLIPWAY_HEALTH_TIMEOUT")


def test_an_image_that_exits_at_once(box: Box) -> None:
    told = box.refuses(
        BASE + 'CMD ["python3", "-c", "print(\'my last words\'); raise SystemExit(3)"]\n',
        "exited with status 3",
    )
    assert "my last words" in told


def test_an_image_whose_program_is_not_there(box: Box) -> None:
    box.refuses(BASE + 'CMD ["/no/such/program"]\n', "/no/such/program")


def test_an_image_that_eats_its_memory(box: Box) -> None:
    line = "b = bytearray(2 ** 30); b[:] = bytes([1]) * 2 ** 30"
    box.refuses(BASE + f'CMD ["python3", "-c", "{line}"]\n', "memory limit")


def test_an_image_that_ignores_sigterm_is_replaced_all_the_same(
    box: Box, platform: Platform
) -> None:
    pushed = box.push({}, server="signal.signal(signal.SIGTERM, signal.SIG_IGN)\n")
    assert pushed.last.startswith("slipway: live "), pushed.text
    before = box.containers()
    pushed = box.push({}, server="TEXT = 'the next one'\n")
    assert pushed.last.startswith("slipway: live "), pushed.text
    assert platform.call(f"{NAME}.ann").text == "the next one"
    until(lambda: not (before & box.containers()), 20, lambda: str(box.containers()))
    assert box.push({}).last.startswith("slipway: live ")


def test_what_a_function_may_not_do_in_its_container(box: Box, platform: Platform) -> None:
    probe = """
def answer(path):
    import subprocess, socket
    def tried(argv):
        return subprocess.run(argv, capture_output=True).returncode
    if path == "/probe":
        told = []
        status = dict(l.split(":", 1) for l in open("/proc/self/status"))
        told.append("caps " + status["CapEff"].strip())
        told.append("nnp " + status["NoNewPrivs"].strip())
        told.append("uid " + str(os.getuid() != 0))
        for place in ("/home/app/x", "/x", "/etc/x"):
            try: open(place, "w"); told.append("WROTE " + place)
            except OSError: told.append("readonly")
        open("/tmp/x", "w").write("y")
        told.append("mount " + str(tried(["mount", "-t", "tmpfs", "none", "/mnt"]) != 0))
        return " ".join(told)
    return TEXT
"""
    pushed = box.push({}, server=probe)
    assert pushed.last.startswith("slipway: live "), pushed.text
    text = platform.call(f"{NAME}.ann", path="/probe").text
    assert text == "caps 0000000000000000 nnp 1 uid True readonly readonly readonly mount True"
    assert box.push({}).last.startswith("slipway: live ")


def test_an_image_that_forges_our_labels(box: Box, platform: Platform) -> None:
    """What its labels say does not count: ours replace them, and its container is healed as any."""
    ours = box.engine.containers(
        filters={"label": f"com.slipway.installation={platform.settings.mark}"}
    )[0]["Labels"]
    labels = "".join(
        f"LABEL {name}='{value}'\n"
        for name, value in ours.items()
        if name.startswith("com.slipway.") and "'" not in value
    )
    pushed = box.push({}, GOOD_IMAGE + labels + "LABEL com.slipway.template=python3-http\n")
    assert pushed.last.startswith("slipway: live "), pushed.text
    image = platform.request("/system/function/box?namespace=ann", admin=True).json()["image"]
    foreign = box.engine.create_container(image, command=["sleep", "100"])["Id"]
    box.engine.start(foreign)
    try:
        time.sleep(5)
        assert box.engine.inspect_container(foreign)["State"]["Running"], "it is not ours to end"
        assert platform.call(f"{NAME}.ann").text == GOOD
        listed = platform.request("/system/function/box?namespace=ann", admin=True).json()
        assert listed["availableReplicas"] == 1
    finally:
        box.engine.remove_container(foreign, force=True)


def test_somebody_removes_or_stops_the_container(box: Box, platform: Platform) -> None:
    def mine() -> list[str]:
        label = f"com.slipway.installation={platform.settings.mark}"
        found = box.engine.containers(filters={"label": label})
        return [each["Id"] for each in found if any(f"/{NAME}.ann-" in n for n in each["Names"])]

    for harm in (
        lambda id_: box.engine.remove_container(id_, force=True),
        lambda id_: box.engine.stop(id_, timeout=1),
        lambda id_: box.engine.kill(id_),
    ):
        (before,) = mine()
        harm(before)
        until(lambda: bool(mine()) and before not in mine(), 20, platform.logs)  # noqa: B023 - used at once
        until(lambda: platform.call(f"{NAME}.ann").text == GOOD, 20, platform.logs)
