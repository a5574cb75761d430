"""Functions that are forked of a warm parent: which are, how like started ones, each early end.

That they are fenced in as any other is held by tests/integration/test_sandbox.py and by the
contract suite of providers, which run on them too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core.bundle import HOME, LAYER_MOUNTS, layer_folder
from core.models import FunctionSpec
from core.sandbox import PATH, Cell, Mount, Network, Outlets, Process, Sandbox, alive, program
from core.settings import Settings
from runtime.providers import Instance, seeds, warm
from runtime.providers.process import ProcessProvider
from tests import forked
from tests.contracts.test_provider import ask, exited
from tests.waiting import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root forks functions"),
]
CHECKOUT = Path(__file__).resolve().parents[2]

HANDLER = """
import json, logging, os, random, resource, secrets, signal, socket, ssl, sys, tempfile, time, uuid
AT_IMPORT = random.random()

def look():
    main = sys.modules["__main__"]
    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    return {
        "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": str(sys.flags),
        "executable": sys.executable, "prefix": sys.prefix, "encoding": sys.getfilesystemencoding(),
        "environment": dict(os.environ), "cwd": os.getcwd(), "pids": [os.getpid(), os.getppid()],
        "session": [os.getsid(0), os.getpgid(0)], "umask": os.umask(0o022),
        "hostname": socket.gethostname(), "groups": os.getgroups(),
        "main": [main.__name__, main.__file__, main.__spec__, type(main.__loader__).__name__],
        "watchdog": sys.modules["slipway_watchdog"].__file__,
        "uvloop": sys.modules["uvloop"].__file__,
        "streams": {
            name: [each.encoding, each.errors, each.line_buffering, each.write_through, each.name,
                   each.mode, each.newlines, each.isatty(), each.fileno()]
            for name, each in streams.items()
        },
        "signals": {each.name: str(signal.getsignal(each)).partition(" at ")[0]
                    for each in signal.Signals},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "limits": {name: resource.getrlimit(getattr(resource, name))
                   for name in dir(resource) if name.startswith("RLIMIT_")},
        "command": [each for each in open("/proc/self/cmdline").read().split("\\0") if each],
        "comm": open("/proc/self/comm").read(),
        "files": sorted(os.listdir("/home/app")) + sorted(os.listdir("/run")),
        "etc": [open(f"/etc/{name}").read().replace(str(os.getuid()), "UID")
                for name in ("passwd", "group", "hosts", "nsswitch.conf", "resolv.conf")],
        "cgroup": open("/proc/self/cgroup").read(),
        "tempdir": tempfile.gettempdir(), "zone": time.tzname, "site": __import__("site").USER_SITE,
    }

def fresh():
    return {
        "random": AT_IMPORT, "uuid": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()),
        "temporary": next(tempfile._get_candidate_names()), "ssl": ssl.RAND_bytes(16).hex(),
        "secrets": secrets.token_hex(), "urandom": os.urandom(8).hex(),
        "started": logging.LogRecord("", 0, "", 0, "", (), None).relativeCreated < 5000,
        "cpu": time.process_time() < 1.0,
    }

def seen():
    return {
        "mounts": [line.split()[3:5] for line in open("/proc/self/mountinfo")],
        "foreign": [name for name in sys.modules if name.partition(".")[0] == "core"],
        "children": [int(name) for name in os.listdir("/proc") if name.isdigit()],
    }

def modules():
    return sorted({name.partition(".")[0] for name in sys.modules})

def reach(pids):
    import ctypes
    libc, reached = ctypes.CDLL(None), []
    for pid in map(int, pids.split(",")):
        try: os.kill(pid, 0); reached.append(pid)
        except OSError: pass
        if os.path.exists(f"/proc/{pid}/status") or libc.ptrace(16, pid, 0, 0) == 0:
            reached.append(pid)
    try: os.kill(1, signal.SIGKILL)
    except OSError: pass
    try: open("/proc/1/mem", "r+b"); reached.append("memory of the init")
    except OSError: pass
    return reached

def handle(event, context):
    query = {name: value for name, value in event.query.items()}
    return {"statusCode": 200, "body": json.dumps(globals()[event.path.strip("/")](**query))}
"""


@pytest.fixture
def settings(short_tmp: Path) -> Iterator[Settings]:
    settings = Settings(state=short_tmp / "state", edge="none", function_memory=96 * 2**20)
    short_tmp.chmod(0o755)
    yield settings
    provider = ProcessProvider(settings, b"key")
    for each in provider.instances():
        provider.remove(each)
    provider.close()
    shutil.rmtree(settings.run)


@pytest.fixture
def artifact(settings: Settings) -> str:
    return forked.bundle(settings, {"function/handler.py": HANDLER})


@pytest.fixture
def provider(settings: Settings, artifact: str) -> Iterator[ProcessProvider]:
    provider = ProcessProvider(settings, b"key")
    yield forked.warmed(provider, artifact)
    provider.close()


def spec(artifact: str, **more: Any) -> FunctionSpec:
    return FunctionSpec(**{"name": "echo", "namespace": "demo", "artifact": artifact} | more)


def process(provider: ProcessProvider, instance: Instance) -> Process:
    found = provider.process(instance)
    assert found
    return found


def was_forked(provider: ProcessProvider, instance: Instance) -> bool:
    return process(provider, instance).monitor == 0


def called(what: str) -> list[int]:
    """Processes of which the first word of the command line begins so."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(what.encode()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def groups(settings: Settings) -> list[str]:
    while True:
        with suppress(FileNotFoundError):  # another test's went while we looked
            found = Path("/sys/fs/cgroup").glob(f"**/slipway-{settings.mark}/*/")
            return sorted({each.name for each in found})


def parent_pids(settings: Settings) -> list[int]:
    return called(f"slipway-warm:{settings.mark}:")


# ------------------------------------------------------------------------------ like any other one


def test_a_forked_function_finds_what_a_started_one_does(
    provider: ProcessProvider, artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec(artifact, env_vars={"X": " a b", "TZ": "Asia/Tokyo", "exec_timeout": "5s"})
    one = provider.start(wanted)
    monkeypatch.setattr(provider._warmth, "parent", lambda *_: None)
    other = provider.start(wanted)
    assert was_forked(provider, one)
    assert not was_forked(provider, other)
    found, expected = ask(one, "/look"), ask(other, "/look")
    assert found.pop("streams") == expected.pop("streams")
    assert "slipway" not in found.pop("cgroup"), "its own is the top"
    del expected["cgroup"]
    assert found == expected


def test_siblings_share_no_random_state_and_no_clock(
    provider: ProcessProvider, artifact: str
) -> None:
    made = [provider.start(spec(artifact)) for _ in range(3)]  # one more than were forked ahead
    assert all(was_forked(provider, each) for each in made)
    found = [ask(each, "/fresh") for each in made]
    for name in found[0]:
        values = [each[name] for each in found]
        assert values == [True] * 3 if name in ("started", "cpu") else len(set(values)) == 3, name


def test_nothing_of_the_parent_or_of_others_is_in_sight(
    provider: ProcessProvider, artifact: str, settings: Settings
) -> None:
    one, other = provider.start(spec(artifact)), provider.start(spec(artifact, name="victim"))
    found = ask(one, "/seen")
    ours = f"/{artifact.removeprefix('bundle:sha256:')}/app"
    assert [at for root, at in found["mounts"] if root.endswith(ours)] == [HOME]
    state = [at for root, at in found["mounts"] if str(settings.bundles) in root
             or str(settings.layers) in root]  # fmt: skip
    assert sorted(state) == [HOME, "/opt/slipway/layers/python"] or not state
    assert not [at for _, at in found["mounts"] if at.startswith("/run")]
    assert found["foreign"] == []
    assert found["children"] == [1, 2]
    victim = process(provider, other)
    pids = [victim.pid, program(victim), *parent_pids(settings)]
    assert ask(one, f"/reach?pids={','.join(map(str, pids))}") == []
    assert alive(victim)
    assert alive(process(provider, one))
    for pid in parent_pids(settings):
        text = Path(f"/proc/{pid}/mountinfo").read_text()
        if "bwrap" not in Path(f"/proc/{pid}/exe").readlink().name:
            assert str(settings.bundles) not in text
            assert artifact.removeprefix("bundle:sha256:") not in text


def test_what_it_reads_does_not_hang_on_our_umask(settings: Settings, artifact: str) -> None:
    before = os.umask(0o077)
    try:
        provider = forked.warmed(ProcessProvider(settings, b"key"), artifact)
        try:
            instance = provider.start(spec(artifact))
            assert was_forked(provider, instance)
            assert all(ask(instance, "/look")["etc"])
        finally:
            provider.close()
    finally:
        os.umask(before)


POPULAR = """
import sys
THERE = sorted({"requests", "urllib3"} & set(sys.modules))
import requests

def handle(event, context):
    return {"statusCode": 200, "body": __import__("json").dumps([THERE, requests.__file__])}
"""


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ({}, ["requests", "urllib3"]),
        ({"chardet.py": ""}, []),
        ({"gevent/__init__.py": ""}, []),
        ({"urllib3/__init__.py": ""}, None),
    ],
)
def test_popular_packages_are_there_already_where_they_are_the_same(
    settings: Settings, artifact: str, files: dict[str, str], there: list[str] | None
) -> None:
    fetches = forked.bundle(
        settings, {"function/handler.py": POPULAR, **files}, packages=["requests"]
    )
    provider = forked.warmed(ProcessProvider(settings, b"key"), fetches, artifact)
    try:
        plain = provider.start(spec(artifact))
        assert was_forked(provider, plain)
        assert [name for name in ask(plain, "/modules") if name == "requests"] == []
        instance = provider.start(spec(fetches))
        assert was_forked(provider, instance)
        if there is not None:
            assert ask(instance, "/") == [there, f"{LAYER_MOUNTS['python']}/requests/__init__.py"]
        assert provider._warmth._packages["demo", fetches] == (("requests",) if there else ())
    finally:
        provider.close()


# ------------------------------------------------------------------------------------ which are


@pytest.mark.parametrize(
    ("files", "more", "why"),
    [
        ({"index.py": "import os\nexec(open('real.py').read())"}, {}, "index.py is not"),
        ({"slipway_watchdog/options.py": ""}, {}, "options.py is not"),
        ({"json.py": ""}, {}, "its own json"),
        ({"uvloop.py": ""}, {}, "its own uvloop"),
        ({}, {"artifact": "uvloop/__init__.py,sha256=x,many\n"}, "it cannot be compared"),
        ({}, {"artifact": ".,sha256=x,1\n\xff"}, "it cannot be compared"),
        ({}, {"env_vars": {"PYTHONHASHSEED": "1"}}, ""),
        ({}, {"env_vars": {"LD_PRELOAD": "/home/app/x.so"}}, ""),
        ({}, {"env_vars": {"LANG": "C"}}, ""),
        ({}, {"env_process": "python3 -O index.py"}, ""),
        ({}, {"artifact": "uvloop/__init__.py,sha256=x,1\n"}, "its uvloop is 0.1, not"),
    ],
)
def test_what_is_not_as_the_parent_is_started(
    settings: Settings, artifact: str, files: dict[str, str], more: dict[str, Any], why: str
) -> None:
    provider = forked.warmed(ProcessProvider(settings, b"key"), artifact)
    try:
        other = forked.bundle(settings, {"function/handler.py": HANDLER, **files})
        if record := more.pop("artifact", ""):
            (info,) = layer_folder(settings, "demo", forked.LAYER).glob("uvloop-*.dist-info")
            text = (info / "METADATA").read_text()
            (info / "METADATA").write_text(text.replace("Version: 0.", "Version: 0.1\nX: 0.", 1))
            (info / "RECORD").write_text(record, encoding="latin-1")
            provider._warmth._reasons.clear()
        instance = provider.start(spec(other, **more))
        assert not was_forked(provider, instance)
        assert why in provider._warmth._reasons["demo", other]
        if not why:
            again = provider.start(spec(other))
            assert was_forked(provider, again), "it is its start that differs"
    finally:
        provider.close()


def test_the_first_start_of_an_owner_makes_the_parent_of_the_next(
    settings: Settings, artifact: str
) -> None:
    provider = ProcessProvider(settings, b"key")
    try:
        assert not was_forked(provider, provider.start(spec(artifact)))
        until(lambda: provider._warmth._parents)
        instance = provider.start(spec(artifact))
        assert was_forked(provider, instance)
        assert "forked" in provider.enforced()["starts"]
    finally:
        provider.close()


def test_an_owner_whose_functions_are_gone_has_no_parent_and_there_are_never_many(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "MOST", 1)
    made = {
        owner: forked.bundle(settings, {"function/handler.py": HANDLER}, owner=owner)
        for owner in ("one", "two")
    }
    specs = {owner: spec(artifact, namespace=owner) for owner, artifact in made.items()}
    provider = ProcessProvider(settings, b"key")
    parents = provider._warmth._parents
    try:
        provider.prepare(list(specs.values()))
        until(lambda: [key.namespace for key in parents] == ["one"])
        provider.start(specs["two"])
        until(lambda: [key.namespace for key in parents] == ["two"])
        running = provider.start(specs["two"])
        assert was_forked(provider, running)
        provider.prepare([])
        assert not parents
        until(lambda: not parent_pids(settings))
        assert ask(running, "/fresh"), "functions live on"
    finally:
        provider.close()


# ------------------------------------------------------------------------------------ early ends


def test_a_parent_that_dies_between_fork_and_release_changes_nothing(
    provider: ProcessProvider, artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parent,) = provider._warmth._parents.values()
    replace = provider._records.replace

    def kill_the_parent(record: Any) -> None:
        for pid in parent._group.pids():
            os.kill(pid, signal.SIGKILL)
        replace(record)

    monkeypatch.setattr(provider._records, "replace", kill_the_parent)
    instance = provider.start(spec(artifact))
    monkeypatch.undo()
    assert was_forked(provider, instance)
    assert ask(instance, "/fresh")
    until(lambda: parent.broken)
    assert not was_forked(provider, provider.start(spec(artifact))), "no error, and a new parent"
    until(lambda: provider._warmth._parents)
    assert was_forked(provider, provider.start(spec(artifact)))


@pytest.mark.parametrize("step", ["before it is told", "before its release"])
def test_a_child_that_dies_is_started_instead(
    provider: ProcessProvider, artifact: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (parent,) = provider._warmth._parents.values()
    if step == "before it is told":
        for spare in parent._spares:
            os.kill(spare.pid, signal.SIGKILL)
    else:
        replace, died = provider._records.replace, []

        def kill_the_child(record: Any) -> None:
            if not died:
                died.append(record.process)
                os.kill(record.process.pid, signal.SIGKILL)
                until(lambda: not alive(record.process))
            replace(record)

        monkeypatch.setattr(provider._records, "replace", kill_the_child)
    instance = provider.start(spec(artifact))
    assert not was_forked(provider, instance)
    assert ask(instance, "/fresh")


# Dies, as by kill -9, at the moment that its first argument names.
STARTER = """
import os, sys
from pathlib import Path
from core.models import FunctionSpec
from core.sandbox import warm
from core.settings import Settings
from runtime.providers.process import ProcessProvider
from tests import forked
when, state, artifact = sys.argv[1:]
provider = ProcessProvider(Settings(state=Path(state), edge="none"), b"key")
forked.warmed(provider, artifact)
def die(*_, **__): os._exit(9)
if when == "before the child is told": warm._Spare.become = die
if when == "before the document": provider._records.replace = die
if when == "before the release": warm._Spare.release = die
provider.start(FunctionSpec(name="cut", namespace="demo", artifact=artifact))
if when == "after the start": die()
"""


@pytest.mark.parametrize(
    "when",
    ["before the child is told", "before the document", "before the release", "after the start"],
)
def test_a_fork_that_was_cut_off_is_found_or_ended(
    settings: Settings, artifact: str, when: str
) -> None:
    argv = [sys.executable, "-c", STARTER, when, str(settings.state), artifact]
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"}
    starter = subprocess.run(argv, env=environment, check=False, timeout=60)
    assert starter.returncode == 9
    until(lambda: not [pid for pid in parent_pids(settings) if _is_parent(pid)])
    waiting = called("slipway:cut.demo")
    assert bool(waiting) == (when != "before the child is told")
    provider = ProcessProvider(settings, b"key")
    try:
        found = provider.instances()
        if when == "after the start":
            assert [each.phase for each in found] == ["running"]
            assert ask(found[0], "/fresh")
            provider.remove(found[0])
        else:
            assert list(found) == []
        assert not called("slipway:cut.demo")
        until(lambda: not parent_pids(settings))
        assert list(settings.instances.iterdir()) == []
        assert groups(settings) == []
    finally:
        provider.close()


def _is_parent(pid: int) -> bool:
    """Not a child that waits for its release."""
    try:
        return "\nNSpid:\t" + str(pid) + "\n" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_sigterm_right_at_the_release_ends_it_and_its_end_is_told(
    provider: ProcessProvider, artifact: str
) -> None:
    for _ in range(3):
        instance = provider.start(spec(artifact))
        provider.terminate(instance)
        assert exited(provider, instance).exit_reason in (
            "killed by SIGTERM",
            "exited with status 0",
        )


def test_nothing_is_left_of_parents_when_the_provider_closes(
    settings: Settings, artifact: str
) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    provider = forked.warmed(ProcessProvider(settings, b"key"), artifact)
    provider.remove(provider.start(spec(artifact)))
    provider.close()
    assert parent_pids(settings) == []
    assert groups(settings) == []
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


# --------------------------------------------------------------------------------------- network


def test_a_forked_cell_has_the_network_that_was_ready_for_it(tmp_path: Path) -> None:
    network = Network("forkt", "10.98.7.0/24", 8080)
    network.setup()
    outlets = Outlets(network)
    sandbox = Sandbox("forkt", network)
    parent = sandbox.warm(seeds.seed("python3-http"), "net", outlets)
    started: list[Process] = []
    try:
        outlets.want()
        until(lambda: len(outlets._ready) > 1)
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
        (tmp_path / "function").mkdir()
        (tmp_path / "function" / "handler.py").write_text(
            "import json, os, socket, time\n"
            "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
            "    s.connect(('10.98.7.1', 8080)); print(json.dumps(s.getsockname()[0]))\n"
            "time.sleep(60)"
        )
        for number in range(2):
            with (tmp_path / f"out{number}").open("w") as out:
                started.append(
                    sandbox.start(
                        Cell(
                            argv=["python3", "index.py"],
                            env={"PATH": PATH},
                            cwd=HOME,
                            mounts=[Mount(tmp_path, HOME)],
                            uid=1_950_000_010 + number,
                            memory=2**26,
                            cpus=1,
                            pids=20,
                            network="egress",
                        ),
                        f"net-{number}",
                        output=out.fileno(),
                        parent=parent,
                    )
                )
        assert all(each.monitor == 0 for each in started)
        texts = [until((tmp_path / f"out{number}").read_text) for number in range(2)]
        assert [json.loads(text) for text in texts] == [each.address for each in started]
        assert len(set(texts)) == 2
    finally:
        for each in started:
            sandbox.end(each)
        parent.close()
        outlets.close()
        network.teardown()
        sandbox.cgroups.clear()
    until(lambda: not list(Path("/sys/class/net").glob("slforkt*")))
