"""Control groups: found in a tree of plain files, which takes the same writes as the kernel's."""

from __future__ import annotations

from pathlib import Path

from core.cgroup import HIGH, Cgroup, Cgroups, Hierarchy, discover


def version_2(root: Path) -> Path:
    """A mounted hierarchy of version 2 whose controllers are handed down already."""
    for folder in (root, root / "slipway-abc"):
        folder.mkdir()
        (folder / "cgroup.controllers").write_text("cpuset cpu io memory pids")
        (folder / "cgroup.subtree_control").write_text("cpu memory pids")
    return root


def found(tmp_path: Path, mountinfo: str, own: str, *, top: bool = True) -> Cgroups:
    (tmp_path / "mountinfo").write_text(mountinfo)
    (tmp_path / "cgroup").write_text(own)
    return discover("abc", top=top, mountinfo=tmp_path / "mountinfo", own=tmp_path / "cgroup")


def line(point: Path, kind: str, options: str) -> str:
    shown = str(point).replace(" ", "\\040")
    return f"30 24 0:26 / {shown} rw,relatime shared:4 - {kind} cgroup rw,{options}\n"


def test_version_2_is_found(tmp_path: Path) -> None:
    root = version_2(tmp_path / "with space")
    groups = found(tmp_path, line(root, "cgroup2", "nsdelegate"), "0::/user.slice\n")
    assert groups.controllers == dict.fromkeys(("cpu", "memory", "pids"), "cgroup v2")
    assert groups.hierarchies[0].folder == root / "slipway-abc"


def test_users_have_theirs_below_their_own_group(tmp_path: Path) -> None:
    root = tmp_path / "unified"
    root.mkdir()
    (root / "cgroup.controllers").write_text("memory pids")
    own = version_2(root / "app.scope")
    groups = found(tmp_path, line(root, "cgroup2", "nsdelegate"), "0::/app.scope\n", top=False)
    assert groups.hierarchies[0].folder == own / "slipway-abc"
    assert set(groups.controllers) == {"memory", "pids"}


def test_version_1_is_found_and_one_controller_counts_once(tmp_path: Path) -> None:
    text = ""
    for name in ("cpu,cpuacct", "memory"):
        (tmp_path / name).mkdir()
        text += line(tmp_path / name, "cgroup", name)
    root = version_2(tmp_path / "unified")
    text += line(root, "cgroup2", "nsdelegate")
    groups = found(tmp_path, text, "4:memory:/x\n5:cpu,cpuacct:/\n0::/\n")
    assert groups.controllers == {"cpu": "cgroup v1", "memory": "cgroup v1", "pids": "cgroup v2"}


def test_what_was_used_is_read_from_either_version(tmp_path: Path) -> None:
    first = {
        "memory": {
            "memory.usage_in_bytes": "9000000\n",
            "memory.stat": "inactive_file 5\ntotal_inactive_file 1000000\n",
        },
        "cpu": {"cpu.stat": "nr_periods 0\n"},
        "cpuacct": {"cpuacct.usage": "2500000000\n"},
    }
    for name, files in first.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert Cgroup([tmp_path / name for name in first]).used() == (2.5, 8_000_000)
    assert Cgroup([tmp_path / "memory", tmp_path / "cpu"]).used() is None, "no CPU time"

    second = tmp_path / "second"
    second.mkdir()
    (second / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert Cgroup([second]).used() is None, "no memory"
    (second / "memory.current").write_text("4096\n")
    (second / "memory.stat").write_text("active_file 1\ninactive_file 96\n")
    assert Cgroup([second]).used() == (1.5, 4000)


def test_the_counter_of_version_1_is_joined_and_bounds_nothing(tmp_path: Path) -> None:
    text = ""
    for name in ("cpu", "cpuacct"):
        (tmp_path / name).mkdir()
        text += line(tmp_path / name, "cgroup", name)
    groups = found(tmp_path, text, "4:cpu:/\n5:cpuacct:/\n")
    assert groups.controllers == {"cpu": "cgroup v1"}
    assert tmp_path / "cpuacct" / "slipway-abc" / "x" in groups.named("x").folders


def test_nothing_that_can_be_written(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    groups = found(tmp_path, line(gone, "cgroup", "memory"), "4:memory:/\n")
    assert groups.controllers == {}
    group = groups.create("x", memory=1, cpus=1, pids=1)
    group.join(1)
    assert group.out_of_memory() == 0
    group.remove()


def prepared(folder: Path, files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in files.split():
        (folder / name).touch()
    return folder


def test_limits_of_version_2(tmp_path: Path) -> None:
    names = "memory.max memory.swap.max memory.oom.group pids.max cpu.max cgroup.procs"
    cell = prepared(tmp_path / "slipway-abc" / "one", names)
    every = frozenset({"memory", "pids", "cpu"})
    groups = Cgroups([Hierarchy(tmp_path / "slipway-abc", 2, every)])
    group = groups.create("one", memory=2**20, cpus=0.25, pids=7)
    written = {path.name: path.read_text() for path in cell.iterdir()}
    assert written == {
        "memory.max": "1048576",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "7",
        "cpu.max": "25000 100000",
        "cgroup.procs": "",
    }
    groups.create("one", memory=2**20, cpus=0.25, pids=7, one_fate=False)
    assert (cell / "memory.oom.group").read_text().startswith("0")
    group.join(77)
    assert (cell / "cgroup.procs").read_text() == "77"
    (cell / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n")
    assert group.out_of_memory() == 2


def test_limits_of_version_1_where_swap_is_not_counted(tmp_path: Path) -> None:
    names = "memory.limit_in_bytes cpu.cfs_period_us cpu.cfs_quota_us pids.max cgroup.procs"
    cell = prepared(tmp_path / "one", names)
    every = frozenset({"memory", "pids", "cpu"})
    Cgroups([Hierarchy(tmp_path, 1, every)]).create("one", memory=4096, cpus=2, pids=7)
    assert (cell / "memory.limit_in_bytes").read_text() == "4096"
    assert (cell / "cpu.cfs_quota_us").read_text() == "200000"
    (cell / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert Cgroup([cell]).out_of_memory() == 1


def test_functions_have_a_large_share_of_the_cpu_in_either_version(tmp_path: Path) -> None:
    """Of the folder that holds them all, so that it is not one for each."""
    for version, name, wanted in ((1, "cpu.shares", "16384"), (2, "cpu.weight", "1600")):
        root = tmp_path / str(version)
        root.mkdir()
        mount = line(root, "cgroup", "cpu")
        if version == 2:
            (root / "two").mkdir()
            root = version_2(root / "two" / "unified")
            mount = line(root, "cgroup2", "nsdelegate")
        prepared(root / "slipway-abc", name)
        (tmp_path / "mountinfo").write_text(mount)
        (tmp_path / "cgroup").write_text("4:cpu:/\n0::/\n")
        for share in (1.0, HIGH):
            groups = discover(
                "abc",
                top=True,
                share=share,
                mountinfo=tmp_path / "mountinfo",
                own=tmp_path / "cgroup",
            )
            assert groups.controllers["cpu"] == f"cgroup v{version}"
            assert (root / "slipway-abc" / name).read_text() == (wanted if share > 1 else "")


def test_what_joins_a_group_without_bounds_has_its_share_alone(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "workers", "cgroup.procs cpu.max memory.max")
    groups = Cgroups([Hierarchy(tmp_path, 2, frozenset({"memory", "pids", "cpu"}), share=0.25)])
    groups.join("workers", 77)
    assert {each.name: each.read_text() for each in folder.iterdir()} == {
        "cgroup.procs": "77",
        "cpu.max": "",
        "memory.max": "",
    }


def test_what_leads_others_has_a_larger_share_among_them(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "workers", "cgroup.procs cpu.shares")
    Cgroups([Hierarchy(tmp_path, 1, frozenset({"cpu"}))]).join("workers", 77, 8.0)
    assert (folder / "cpu.shares").read_text() == "8192"
    assert (folder / "cgroup.procs").read_text() == "77"
