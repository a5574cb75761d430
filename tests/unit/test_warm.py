"""What a warm parent imports is what functions are given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from core.settings import ROOT
from runtime.providers import seeds


def test_what_a_parent_imports_is_pinned_where_functions_get_theirs() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = dict(line.partition(" ;")[0].split("==") for line in lines)
    for template in seeds.TEMPLATES:
        for line in (ROOT / "templates" / template / "requirements.txt").read_text().split():
            name, _, version = line.partition("==")
            assert constraints[name] == version, f"{template}: {line}"


RECORDED = """
import json, sys
tried = set()
class Last:
    def find_spec(self, name, path=None, target=None):
        if path is None:
            tried.add(name.partition(".")[0])
sys.meta_path.append(Last())
sys.path.insert(0, sys.argv[1])
for name in json.loads(sys.argv[2]):
    __import__(name)
print(json.dumps(sorted(tried - sys.stdlib_module_names)))
"""


def test_what_popular_packages_look_for_is_known(tmp_path: Path) -> None:
    """With one of these a function would have others than its parent."""
    for package, modules in seeds.POPULAR.items():
        folder = tmp_path / package
        folder.mkdir()
        for each in seeds.closure((package,)):
            for name in {Path(str(file)).parts[0] for file in each.files or ()} - {".."}:
                (folder / name).symlink_to(str(each.locate_file(name)))
        told = [str(folder), json.dumps(modules)]
        argv = [sys.executable, "-I", "-S", "-c", RECORDED, *told]
        tried = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
        assert "simplejson" in tried
        assert set(tried) - {"org"} <= seeds.LOOKED_FOR  # Jython's, of pickle
