"""What a warm parent imports is what functions are given."""

from __future__ import annotations

from core.settings import ROOT
from runtime.providers import warm


def test_what_a_parent_imports_is_pinned_where_functions_get_theirs() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = dict(line.partition(" ;")[0].split("==") for line in lines)
    for template in warm.TEMPLATES:
        for line in (ROOT / "templates" / template / "requirements.txt").read_text().split():
            name, _, version = line.partition("==")
            assert constraints[name] == version, f"{template}: {line}"
