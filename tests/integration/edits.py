"""A repository of functions that is edited at random, each edit one commit: what the oracle plans.

Two stack files, functions that share folders by ``copy``, templates of the repository's own, build
arguments and options, build secrets, environment files. The same seed makes the same commits.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.unit.repositories import EXECUTABLE, FILE, LINK, BareRepository

Files = dict[str, tuple[str, bytes]]
"""Path → (mode, content)."""
PINNED = ("handler.py", "template.yml", "Dockerfile")
"""Names of files without which the commit could not be built."""
ROOT, BELOW = "stack.yml", "web/stack.yml"
VARIABLE = "TAG"
_TEMPLATE = {
    "template.yml": "",
    "index.py": "serve()\n",
    "requirements.txt": "",
    "function/handler.py": "sample = 1\n",
    "function/__init__.py": "",
    "function/test_handler.py": "sample test\n",
}
_NAMES = ("a.py", "b c.txt", "ä.py", "deep/er/x", "build/out", "template/t", "lib/common/x", "z.sh")


@dataclass
class State:
    """What one commit holds, and what of the outside counts when it is planned."""

    files: Files = field(default_factory=dict)
    stacks: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Stack file → function → its entries."""
    looks: dict[str, int] = field(default_factory=dict)
    """Stack file → how it is written: order, comments, blank lines."""
    templates: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Folder of a template → what its template.yml says."""
    variable: str = "one"
    base: str = "base 1"
    """What the engine says that builds stand on."""

    def tree(self) -> Files:
        """All files of the commit."""
        files = dict(self.files)
        for folder, says in self.templates.items():
            files[f"{folder}/template.yml"] = (FILE, json.dumps(says).encode())
        for path, functions in self.stacks.items():
            files[path] = (FILE, self._stack(path, functions).encode())
        return files

    def _stack(self, path: str, functions: dict[str, dict[str, Any]]) -> str:
        look = random.Random(self.looks.get(path, 0))
        lines = ["version: 1.0", "provider:", "  name: openfaas"]
        if path == ROOT:
            lines.append(f"x-stacks: [{BELOW}]")
        lines.append("functions:")
        for name in look.sample(sorted(functions), len(functions)):
            lines += [f"# {look.random()}"] * look.randint(0, 2)
            lines.append(f"  {name}:" + " " * look.randint(0, 3))
            entries = functions[name]
            for key in look.sample(sorted(entries), len(entries)):
                lines.append(f"    {key}: {json.dumps(entries[key])}")
            lines += [""] * look.randint(0, 1)
        return "\n".join(lines) + "\n"


def first() -> State:
    """The commit that all edits begin with."""
    state = State()
    for folder in ("fn/a", "fn/b", "fn/c", "web/x"):
        state.files[f"{folder}/handler.py"] = (FILE, f"# {folder}\n".encode())
        state.files[f"{folder}/more.py"] = (FILE, b"more\n")
    state.files["fn/image/Dockerfile"] = (FILE, b"FROM example.org/base\n")
    state.files["fn/image/run.sh"] = (EXECUTABLE, b"run\n")
    for path in (
        "lib/common/x.py",
        "lib/util/y.py",
        "data/one.txt",
        "data/two.txt",
        "web/lib/w.py",
    ):
        state.files[path] = (FILE, path.encode())
    state.files["tool.sh"] = (EXECUTABLE, b"tool\n")
    state.files["README.md"] = (FILE, b"about\n")
    state.files["secrets/npmrc"] = (FILE, b"token\n")
    for path in ("env/one.yml", "env/two.yml"):
        state.files[path] = (FILE, b"environment: {A: b}\n")
    for folder in ("template/own", "web/template/other"):
        state.templates[folder] = {
            "language": "own",
            "fprocess": "python3 index.py",
            "build_options": [
                {"name": "dev", "packages": ["gcc", "make"]},
                {"name": "same", "packages": ["make", "gcc"]},
                {"name": "git", "packages": ["git"]},
            ],
        }
        for name, text in _TEMPLATE.items():
            if name != "template.yml":
                state.files[f"{folder}/{name}"] = (FILE, text.encode())
    state.stacks[ROOT] = {
        "a": {"lang": "python3-http", "handler": "./fn/a", "copy": ["./lib/common", "tool.sh"]},
        "b": {"lang": "own", "handler": "./fn/b", "copy": ["lib"], "build_options": ["dev"]},
        "c": {"lang": "own", "handler": "fn/c", "build_args": {"TAG": "${TAG:-none}", "B": "1"}},
        "twin": {"lang": "python3-http", "handler": "fn/a", "environment_file": ["env/one.yml"]},
        "image": {
            "lang": "dockerfile",
            "handler": "fn/image",
            "copy": ["data/one.txt"],
            "build_secrets": {"npmrc": "secrets/npmrc"},
        },
    }
    state.stacks[BELOW] = {
        "x": {"lang": "other", "handler": "./x", "copy": ["lib"]},
        "whole": {"lang": "python3-http", "handler": ".", "fprocess": "python3 index.py"},
        "up": {"lang": "own", "handler": "x"},
    }
    return state


class Editor:
    """Edits one at a time; ``name`` tells what the last one was."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.state = first()
        self.before: list[State] = []
        self.name = "the first commit"

    def edit(self) -> State:
        """Makes one edit, now and then two; returns the state after it."""
        self.before.append(copy.deepcopy(self.state))
        kinds, weights = zip(*_KINDS, strict=True)
        chosen = self.chance.choices(kinds, weights, k=self.chance.choice((1, 1, 1, 2)))
        for kind in chosen:
            kind(self)
        self.name = " and ".join(kind.__name__.strip("_").replace("_", " ") for kind in chosen)
        return copy.deepcopy(self.state)

    # Files

    def _some_file(self, *, pinned: bool = True) -> str:
        links = {path for path, (mode, _) in self.state.files.items() if mode == LINK}
        return self.chance.choice(
            [
                path
                for path in sorted(self.state.files.keys() - links)
                if pinned or not path.endswith(PINNED)
            ]
        )

    def _free_path(self) -> str:
        folders = ("fn/a", "fn/b", "fn/c", "fn/image", "web/x", "lib/common", "lib/util", "web")
        folder = self.chance.choice((*folders, "docs", "template/own/function", "template/own"))
        name = self.chance.choice(_NAMES)
        path = f"{folder}/{name}{self.chance.randint(0, 9)}"
        return path if self._fits(path) else self._free_path()

    def _fits(self, path: str) -> bool:
        """Whether nothing is in the way: a file where a folder would be, or the other way."""
        there = self.state.files
        above = [path[:end] for end, each in enumerate(path) if each == "/"]
        below = any(each.startswith(f"{path}/") for each in there)
        return not (path in there or below or any(each in there for each in above))

    def change_content(self) -> None:
        path = self._some_file()
        mode, data = self.state.files[path]
        if path.startswith("env/"):
            data = b"environment: {A: %d}\n" % self.chance.randint(0, 9)
        else:
            data = data[:40] + b"# %d\n" % self.chance.randint(0, 99)
        self.state.files[path] = (mode, data)

    def change_mode(self) -> None:
        path = self._some_file()
        mode, data = self.state.files[path]
        self.state.files[path] = (FILE if mode == EXECUTABLE else EXECUTABLE, data)

    def change_the_mode_of_a_copied_file(self) -> None:
        if "tool.sh" in self.state.files:
            mode, data = self.state.files["tool.sh"]
            self.state.files["tool.sh"] = (FILE if mode == EXECUTABLE else EXECUTABLE, data)

    def rename_file(self) -> None:
        path = self._some_file(pinned=False)
        if not self._named(path) and self._alone(path) > 1:
            content = self.state.files.pop(path)
            self.state.files[self._free_path()] = content

    def delete_file(self) -> None:
        path = self._some_file(pinned=False)
        if not self._named(path) and self._alone(path) > 1:
            del self.state.files[path]

    def add_file(self) -> None:
        self.state.files[self._free_path()] = (
            self.chance.choice((FILE, EXECUTABLE)),
            b"%d" % self.chance.randint(0, 99),
        )

    def add_link(self) -> None:
        """Where no build takes it."""
        path = self.chance.choice(("docs", "fn/a/build", "fn/c/template")) + "/link"
        if self._fits(path):
            self.state.files[path] = (LINK, b"%d" % self.chance.randint(0, 9))

    def move_a_handler(self) -> None:
        """Its folder gets another name, and all that name it follow."""
        old = self.chance.choice(("fn/b", "fn/c", "fn/moved-b", "fn/moved-c"))
        new = old.replace("moved-", "") if "moved" in old else old.replace("fn/", "fn/moved-")
        inside = [path for path in self.state.files if path.startswith(f"{old}/")]
        if not inside or any(path.startswith(f"{new}/") for path in self.state.files):
            return
        for path in inside:
            self.state.files[new + path.removeprefix(old)] = self.state.files.pop(path)
        for entries in self.state.stacks[ROOT].values():
            if entries["handler"].removeprefix("./") == old:
                entries["handler"] = new

    def _named(self, path: str) -> bool:
        return path in json.dumps(self.state.stacks)

    def _alone(self, path: str) -> int:
        """Files in its folder and below: git has no empty ones."""
        folder = path.rpartition("/")[0]
        return sum(each.startswith(f"{folder}/") for each in self.state.files)

    # Templates

    def edit_a_template(self) -> None:
        folder = self.chance.choice(sorted(self.state.templates))
        path = self.chance.choice(sorted(p for p in self.state.files if p.startswith(f"{folder}/")))
        self.state.files[path] = (FILE, b"# %d\n" % self.chance.randint(0, 9))

    def edit_template_yml(self) -> None:
        says = self.chance.choice([self.state.templates[each] for each in self.state.templates])
        match self.chance.randrange(3):
            case 0:
                says["fprocess"] = self.chance.choice(("python3 index.py", "python3 -u index.py"))
            case 1:
                option = self.chance.choice(says["build_options"])
                option["packages"] = self.chance.sample(("gcc", "make", "git", "curl"), 2)
            case _:
                says["welcome_message"] = str(self.chance.randint(0, 3))

    # Stack files

    def _some_function(self) -> dict[str, Any]:
        return self.chance.choice(
            [each for _, stack in sorted(self.state.stacks.items()) for each in stack.values()]
        )

    def change_build_args(self) -> None:
        values = ("1", "2", "on", f"${{{VARIABLE}}}")
        arguments = self._some_function().setdefault("build_args", {})
        name = self.chance.choice(("A", "B", "TAG"))
        if name in arguments and self.chance.random() < 0.3:
            del arguments[name]
        else:
            arguments[name] = self.chance.choice(values)

    def change_build_options(self) -> None:
        entries = self._some_function()
        if entries["lang"] != "dockerfile":
            own = ("dev", "git") if entries["lang"] == "python3-http" else ("dev", "same", "git")
            entries["build_options"] = self.chance.sample(own, self.chance.randint(0, len(own)))

    def change_copies(self) -> None:
        entries = self._some_function()
        below = any(entries is each for each in self.state.stacks[BELOW].values())
        paths = ("lib", "x") if below else ("lib", "lib/util", "data/one.txt", "data", "tool.sh")
        there = [p for p in paths if self._there(f"web/{p}" if below else p)]
        entries["copy"] = self.chance.sample(there, self.chance.randint(0, min(2, len(there))))

    def _there(self, path: str) -> bool:
        files = self.state.files
        return path in files or any(each.startswith(f"{path}/") for each in files)

    def change_lang(self) -> None:
        entries = self._some_function()
        if entries["lang"] != "dockerfile":
            entries["lang"] = self.chance.choice(("python3-http", "own"))
            entries.pop("build_options", None)

    def change_configuration(self) -> None:
        entries = self._some_function()
        number = str(self.chance.randint(0, 3))
        key, value = self.chance.choice(
            (
                ("environment", {"LEVEL": number, "B": "x"}),
                ("labels", {"com.example.l": number}),
                ("annotations", {"topic": number}),
                ("limits", {"memory": f"{64 + int(number)}Mi"}),
                ("fprocess", f"python3 index.py {number}"),
                ("readonly_root_filesystem", True),
            )
        )
        entries[key] = value

    def rewrite_a_stack_file(self) -> None:
        """Comments, blank lines and the order, nothing else."""
        path = self.chance.choice((ROOT, BELOW))
        self.state.looks[path] = self.chance.randint(0, 99)

    def rename_function(self) -> None:
        stack = self.state.stacks[ROOT]
        name = self.chance.choice(sorted(stack))
        fresh = f"f{self.chance.randint(0, 999)}"
        if fresh not in stack:
            stack[fresh] = stack.pop(name)

    def add_function(self) -> None:
        stack = self.state.stacks[ROOT]
        if len(stack) < 8:
            like = stack[self.chance.choice(sorted(stack))]
            stack.setdefault(f"f{self.chance.randint(0, 999)}", copy.deepcopy(like))

    def remove_function(self) -> None:
        stack = self.state.stacks[ROOT]
        if len(stack) > 4:
            del stack[self.chance.choice(sorted(stack))]

    # All at once, and the outside

    def go_back(self) -> None:
        """To an earlier commit; the outside stays as it is."""
        now = self.state
        self.state = copy.deepcopy(self.chance.choice(self.before))
        self.state.variable, self.state.base = now.variable, now.base

    def change_the_variable(self) -> None:
        self.state.variable = self.chance.choice(("one", "two", "three"))

    def move_the_base_image(self) -> None:
        self.state.base = f"base {self.chance.randint(1, 3)}"


_KINDS: list[tuple[Callable[[Editor], None], int]] = [
    (Editor.change_content, 12),
    (Editor.change_mode, 4),
    (Editor.change_the_mode_of_a_copied_file, 2),
    (Editor.rename_file, 5),
    (Editor.delete_file, 4),
    (Editor.add_file, 8),
    (Editor.add_link, 2),
    (Editor.move_a_handler, 3),
    (Editor.edit_a_template, 4),
    (Editor.edit_template_yml, 3),
    (Editor.change_build_args, 5),
    (Editor.change_build_options, 4),
    (Editor.change_copies, 5),
    (Editor.change_lang, 2),
    (Editor.change_configuration, 8),
    (Editor.rewrite_a_stack_file, 6),
    (Editor.rename_function, 2),
    (Editor.add_function, 2),
    (Editor.remove_function, 2),
    (Editor.go_back, 5),
    (Editor.change_the_variable, 1),
    (Editor.move_the_base_image, 1),
]


def committed(repository: BareRepository, states: list[State]) -> list[str]:
    """Commits each state on top of the one before, all in one go; returns the commits' ids."""
    said: list[bytes] = []
    for number, state in enumerate(states, 1):
        said += [b"commit refs/heads/main", b"mark :%d" % number]
        said += [b"committer A <a@example.com> 1 +0000", b"data 1", b"m", b"deleteall"]
        for path, (mode, data) in state.tree().items():
            name = json.dumps(path, ensure_ascii=False).encode() if " " in path else path.encode()
            said.append(b"M %s inline %s\ndata %d\n%s" % (mode.encode(), name, len(data), data))
    marks = repository.path / "marks"
    repository.git(
        *("fast-import", "--quiet", "--force", "--done", f"--export-marks={marks}"),
        stdin=b"\n".join([*said, b"done\n"]),
    )
    of = dict(line.split() for line in marks.read_text().splitlines())
    return [of[f":{number}"] for number in range(1, len(states) + 1)]
