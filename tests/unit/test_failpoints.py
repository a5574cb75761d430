"""The table of steps is the code's and the documentation's; who stands at one is let go or not."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from pathlib import Path

import pytest

from core import failpoints
from core.errors import ConfigError
from core.settings import ROOT, Settings
from supervisor import parts
from tests.waiting import until

PACKAGES = ("builder", "core", "engine", "forges", "gateway", "runtime", "supervisor", "cli")


def test_every_step_is_at_one_place_of_the_code() -> None:
    found = Counter(
        step
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for step in re.findall(r"failpoints\.at\(([^)]*)\)", path.read_text())
    )
    assert found == Counter(f'"{step}"' for step in failpoints.STEPS)


def test_the_documentation_has_the_same_steps() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.partition("## Who dies where\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == list(failpoints.STEPS)


def test_without_the_variable_nobody_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planned").touch()
    failpoints.at("planned")
    assert [each.name for each in tmp_path.iterdir()] == ["planned"]


def test_one_of_several_stands_until_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_FOLDER", str(tmp_path))
    failpoints.at("planned")  # nobody has asked for it
    (tmp_path / "planned").touch()
    threads = [threading.Thread(target=failpoints.at, args=("planned",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: sum(thread.is_alive() for thread in threads) == 1)
    reached = tmp_path / "planned.reached"
    until(reached.exists)
    assert reached.read_text() == str(os.getpid())
    assert any(thread.is_alive() for thread in threads)
    (tmp_path / "planned.go").touch()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_it_is_no_setting_and_reaches_parts_alone() -> None:
    with pytest.raises(ConfigError, match="is not a setting"):
        Settings.from_env({"SLIPWAY_FAILPOINTS": "/tmp"})
    env = {failpoints.VARIABLE: "/tmp/points"}
    assert Settings.from_env(env) == Settings.from_env({})
    assert parts.environment(env, Settings())[failpoints.VARIABLE] == "/tmp/points"
    assert failpoints.VARIABLE not in parts.environment({}, Settings())
    assert failpoints.VARIABLE not in parts.daemon(env)
