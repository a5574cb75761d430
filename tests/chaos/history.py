"""What was pushed, and what may have become of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from core.names import NO_COMMIT
from tests.chaos.scenario import BAD, Scenario


@dataclass(frozen=True)
class Function:
    """One function of a commit, as far as it can be seen from outside."""

    name: str
    code: str
    level: str
    broken: str = ""
    """The kind of change that broke it."""

    @property
    def answer(self) -> tuple[int, str]:
        """Status, and the text where it has one."""
        return (500, "") if self.broken == "worse" else (200, self.text)

    @property
    def text(self) -> str:
        return f"{self.name} {self.code} {self.level}"

    def files(self) -> dict[str, str]:
        ends = {"dies": "raise RuntimeError('as wanted')\n", "hangs": "time.sleep(3600)\n"}
        fails = "    raise RuntimeError('as wanted')\n" if self.broken == "worse" else ""
        return {
            f"{self.name}/handler.py": (
                f"import os\nimport time\n\n{ends.get(self.broken, '')}\n"
                f"CODE = {self.code!r}\n\n\n"
                "def handle(event, context):\n"
                f"{fails}    return '{self.name} ' + CODE + ' ' + os.environ['LEVEL']\n"
            ),
            f"{self.name}/check.py": (
                "import sys\nimport time\n\n"
                f"time.sleep({1.5 if self.broken == 'cancel' else 0})\n"
                f"sys.exit({int(self.broken == 'bad-test')})\n"
            ),
            f"{self.name}/requirements.txt": "no such ! thing\n"
            if self.broken == "bad-build"
            else "",
        }

    def stanza(self) -> str:
        told = {
            "lang": "python3-http",
            "handler": f"./{'nowhere' if self.broken == 'bad-stack' else self.name}",
            "environment": {"LEVEL": self.level},
            "secrets": ["word"],
            "build_args": {"TEST_COMMAND": "python3 check.py"},
        }
        return f"  {self.name}: {json.dumps(told)}\n"


@dataclass(frozen=True)
class Commit:
    """All functions of a commit."""

    functions: Mapping[str, Function]
    id: str = ""
    kind: str = "edit"

    @property
    def good(self) -> bool:
        """Whether it passes its tests, and becomes healthy."""
        return self.kind not in BAD

    def files(self) -> dict[str, str]:
        stack = "version: 1.0\nprovider: {name: openfaas}\nfunctions:\n"
        files = {"stack.yml": stack + "".join(f.stanza() for f in self.functions.values())}
        for function in self.functions.values():
            files |= function.files()
        return files

    def changed(self, scenario: Scenario) -> list[Commit]:
        """What the scenario pushes upon this one, in its order."""
        number, kind = str(scenario.seed), scenario.kind
        now = {name: replace(each, broken="") for name, each in self.functions.items()}
        first = replace(now["a"], code=number)
        match kind:
            case "config":
                now["a"] = replace(now["a"], level=number)
            case "add":
                now["c"] = Function("c", number, "0")
            case "drop":
                del now["b"]
            case "gone":
                return [Commit({}, NO_COMMIT, kind)]
            case "twice":
                both = (replace(now["a"], code=f"{number}-{half}") for half in (1, 2))
                return [Commit(now | {"a": each}, kind=kind) for each in both]
            case "edit" | "back" | "back-one":
                now["a"] = first
            case _:
                now["a"] = replace(first, broken=kind)
        return [Commit(now, kind=kind)]


BASE = Commit({name: Function(name, "0", "0") for name in ("a", "b")})


@dataclass
class Accepted:
    """A push that git took."""

    commit: Commit
    cancelled: bool | None = False
    """None: it was asked for, and nobody knows whether that was heard."""
    left: bool | None = False
    """Whether it was live, and was gone back from; None: perhaps."""


@dataclass
class History:
    """All accepted pushes of one repository to its deploy branch, in their order."""

    pushes: list[Accepted] = field(default_factory=list)
    pinned: dict[str, str] = field(default_factory=dict)
    """Function → the rollback that set it, since the last push."""

    def accept(self, commit: Commit) -> Accepted:
        self.pinned.clear()
        self.pushes.append(Accepted(commit))
        return self.pushes[-1]

    def commit(self, id_: str) -> Commit | None:
        return next((each.commit for each in self.pushes if each.commit.id == id_), None)

    def allowed(self, push: Accepted) -> set[str]:
        """States that its release may have come to."""
        last = push is self.pushes[-1]
        if push.cancelled:
            return {"cancelled"}
        if push.left:
            return {"rolled-back"}
        states = {"live", "replaced"} - ({"replaced"} if last else set())
        if not push.commit.good:
            states = {"failed"}
        if push.cancelled is None:
            states.add("cancelled")
        if push.left is None:
            states.add("rolled-back")
        return states if last else states | {"superseded"}
