"""The documentation says what the code says."""

from __future__ import annotations

import re
from dataclasses import fields

import click
import pytest

from cli.main import main
from core.settings import PREFIX, ROOT, Settings

README = (ROOT / "README.md").read_text()


def table() -> str:
    """The README's table of settings, as the code has it."""
    shown = Settings.from_env({}).describe()
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for each in fields(Settings):
        name = PREFIX + each.name.upper()
        default = ".slipway" if each.name == "state" else shown[name]
        default = f"`{default}`" if default else ""
        rows.append(f"| `{name}` | {default} | {each.metadata['about']} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_the_code_s() -> None:
    match = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)
    assert match
    assert match[1] == table(), f"put this into README.md:\n{table()}"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"`{name}" in README


def test_every_command_has_help() -> None:
    for name, command in main.commands.items():
        assert isinstance(command, click.Command)
        assert command.help, name


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/decisions/README.md").read_text()
    for page in (ROOT / "docs/decisions").glob("0*.md"):
        assert page.name in listed


def test_what_users_are_told_to_set_can_be_set() -> None:
    """The gateway is left out: it has variables of its own between it and git."""
    known = {PREFIX + each.name.upper() for each in fields(Settings)}
    for folder in ("builder", "cli", "core", "engine", "forges", "runtime", "supervisor"):
        for page in (ROOT / folder).rglob("*.py"):
            found = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", page.read_text()))
            assert found <= known, f"{page}: {found - known}"
