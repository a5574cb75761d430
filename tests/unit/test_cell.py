"""What a cell refuses to be made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InvalidRequest
from core.sandbox import Cell, Mount

EVIL = "1\0--bind\0/\0/host"


@pytest.mark.parametrize(
    "parts",
    [
        {"env": {"A": EVIL}},
        {"env": {EVIL: "A"}},
        {"argv": ["true", EVIL]},
        {"cwd": EVIL},
        {"hostname": EVIL},
        {"mounts": [Mount(Path("/usr"), EVIL)]},
    ],
)
def test_nothing_can_become_an_option_of_bubblewrap(parts: dict[str, object]) -> None:
    told: dict[str, object] = {"argv": ["true"], "memory": 1, "cpus": 1, "pids": 1, **parts}
    with pytest.raises(InvalidRequest, match="NUL"):
        Cell(**told)  # type: ignore[arg-type]  # a test's shorthand
