"""What bubblewrap is told, and what a function's specification becomes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.bundle import Bundle, Layer
from core.errors import InvalidRequest
from core.models import FunctionSpec, Resources
from core.quantities import cpus
from core.sandbox import PATH, Cell, Mount, bwrap, describe_exit, seccomp
from core.sandbox.interpreters import Interpreters
from core.settings import Settings
from runtime.providers.cells import cell_of

NOTHING = Interpreters((), (), ())


def cell(**more: Any) -> Cell:
    return Cell(argv=["serve"], memory=2**26, cpus=1, pids=10, **more)


def options(what: Cell, *, root: bool = True, to_the_end: bool = False) -> list[str]:
    return bwrap.options(what, 1234, NOTHING, {}, root=root, to_the_end=to_the_end, status=False)


def test_what_the_loader_reads_waits_until_privileges_are_gone() -> None:
    loader = {"LD_PRELOAD": "/home/app/x.so", "GLIBC_TUNABLES": "a", "GCONV_PATH": "b"}
    what = cell(env={"PLAIN": "1", **loader})
    early = options(what)
    assert not loader.keys() & set(early)
    assert early[early.index("PLAIN") - 1 :][:3] == ["--setenv", "PLAIN", "1"]
    command = bwrap.command(what, 1234, root=True)
    dropped = command.index("/usr/bin/env")
    assert command[0] == "/usr/bin/setpriv"
    assert command[dropped + 1 : dropped + 4] == [f"{k}={v}" for k, v in loader.items()]
    assert command[-1] == "serve"


def test_a_program_s_name_is_no_option_of_setpriv() -> None:
    command = bwrap.command(replace(cell(), argv=["--reset-env", "serve"]), 1234, root=True)
    assert command[-3:] == ["--", "--reset-env", "serve"]


def test_root_needs_no_user_namespace_and_users_have_one() -> None:
    assert "--unshare-user" not in options(cell())
    users = options(cell(), root=False)
    assert {"--unshare-user", "--disable-userns"} <= set(users)
    assert "--cap-add" not in users
    assert bwrap.command(cell(), 1234, root=False) == ["serve"]


def test_only_runs_to_the_end_die_with_us() -> None:
    assert "--die-with-parent" not in options(cell())
    assert "--die-with-parent" in options(cell(), to_the_end=True)


def test_every_folder_above_an_entry_is_open_to_the_function() -> None:
    argv = options(cell(mounts=[Mount(Path("/srv/x"), "/home/app"), Mount(Path("/y"), "/a/b/c")]))
    made = {argv[i + 1] for i, word in enumerate(argv) if word == "--dir"}
    assert {"/home", "/a", "/a/b", "/etc", "/var", "/var/openfaas", "/run"} <= made
    for before, word in pairwise(range(len(argv))):
        if argv[word] == "--dir":
            assert argv[before - 1 : word] == ["--perms", "0755"]
    assert argv.index("/a/b") < argv.index("/a/b/c")


def test_mounts_are_read_only_unless_said() -> None:
    argv = options(
        cell(mounts=[Mount(Path("/x"), "/home/app"), Mount(Path("/y"), "/out", writable=True)])
    )
    assert argv[argv.index("/home/app") - 2] == "--ro-bind"
    assert argv[argv.index("/out") - 2] == "--bind"
    ends = argv[argv.index("/out") :]
    assert ends[ends.index("--remount-ro") + 2 :][:2] == ["--remount-ro", "/"]


def test_filter_is_a_bpf_program() -> None:
    program = seccomp.program()
    assert len(program) % 8 == 0, "sock_filter has 8 bytes"
    assert len(program) // 8 < 4096, "BPF_MAXINSNS"
    assert program is seccomp.program()


@pytest.mark.parametrize(
    ("status", "out_of_memory", "told"),
    [
        (0, False, "exited with status 0"),
        (3, True, "exited with status 3"),
        (137, False, "killed by SIGKILL"),
        (137, True, "killed: over its memory limit of 1G"),
        (None, True, "killed: over its memory limit of 1G"),
        (139, False, "killed by SIGSEGV"),
        (255, False, "exited with status 255"),
        (None, False, "ended (its exit status is not known)"),
    ],
)
def test_ends_are_told_in_words(status: int | None, out_of_memory: bool, told: str) -> None:
    assert describe_exit(status, out_of_memory=out_of_memory, memory="1G") == told


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0.5", 0.5), ("2", 2.0), ("500m", 0.5), ("1m", 0.001), (".5", 0.5), ("2.", 2.0)),
        *(("1e-1", 0.1), ("500000u", 0.5), ("1E3", 1000.0)),
    ],
)
def test_cpus_are_read_as_kubernetes_writes_them(text: str, value: float) -> None:
    assert cpus(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1k", "0.5.1", "m", "1e4", "0e9", "5000", "1M"])
def test_cpus_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match="CPUs"):
        cpus(text)


def spec(**more: Any) -> FunctionSpec:
    return FunctionSpec(name="hi", namespace="demo", artifact="bundle:sha256:" + "a" * 64, **more)


BUNDLE = Bundle(
    template="python3-http",
    process=["python3", "index.py"],
    layers=[Layer(kind="python", digest="d"), Layer(kind="test", digest="t")],
)


def make(what: FunctionSpec, **settings: Any) -> Cell:
    return cell_of(
        Settings(state=Path("/state"), **settings),
        what,
        BUNDLE,
        uid=7,
        edge="http://10.99.0.1:8080",
    )


def test_cell_of_a_function() -> None:
    made = make(spec(limits=Resources(memory="128Mi", cpu="250m")))
    assert (made.memory, made.cpus, made.uid, made.hostname) == (2**27, 0.25, 7, "hi")
    assert made.argv == ["python3", "index.py"]
    assert {mount.target for mount in made.mounts} == {"/home/app", "/opt/slipway/layers/python"}
    assert not any(mount.writable for mount in made.mounts)
    assert made.env["PYTHONPATH"] == "/opt/slipway/layers/python"
    assert made.env["PATH"] == PATH
    assert made.env["OPENFAAS_URL"] == "http://10.99.0.1:8080"


def test_defaults_are_the_settings() -> None:
    made = make(spec(), function_memory=2**26, function_cpus=2.0, function_pids=40)
    assert (made.memory, made.cpus, made.pids) == (2**26, 2.0, 40)


def test_egress_is_off_by_annotation_and_by_policy() -> None:
    assert make(spec()).network == "egress"
    off = spec(annotations={"com.slipway.egress": "False"})
    for made in (make(off), make(spec(), egress=False)):
        assert made.network == "none"
        assert "OPENFAAS_URL" not in made.env


def test_own_paths_come_after_the_platforms() -> None:
    own = {"PATH": "/home/app/bin", "PYTHONPATH": "/home/app/lib", "LANG": "de_DE.UTF-8"}
    env = make(spec(env_vars={**own, "LISTEN_PID": "1", "HOME": "/root"})).env
    assert env["PATH"] == f"{PATH}:/home/app/bin"
    assert env["PYTHONPATH"] == "/opt/slipway/layers/python:/home/app/lib"
    assert env["LANG"] == "de_DE.UTF-8"
    assert env["HOME"] == "/tmp"
    assert "LISTEN_PID" not in env


@pytest.mark.parametrize(
    "what",
    [
        {"limits": Resources(memory="lots")},
        {"limits": Resources(cpu="fast")},
        {"env_process": "python3 'index.py"},
        {"env_process": "  "},
        {"env_vars": {"A=B": "x"}},
    ],
)
def test_what_cannot_run_is_told(what: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        make(spec(**what))
