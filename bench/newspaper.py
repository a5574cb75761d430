"""Fifteen repositories of ten functions each, and one release of them after the other.

What is edited comes out of a seed: one to three functions a release, code or configuration, now and
then one more function or one less. A bad release breaks one function in one of four ways; the next
release of that repository mends it.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bench.harness import Platform
from bench.repository import Repository

REPOSITORIES, FUNCTIONS = 15, 10
_TESTED = 3
"""Functions of each repository that have a test of their own."""
_MOST = 12
_MORE_OR_LESS = 0.1
_CONFIGURED = 0.3
"""Shares of releases that add or remove a function, and of edits that leave the code alone."""

Bad = Literal["build", "test", "never healthy", "errors"]
BAD: tuple[Bad, ...] = ("build", "test", "never healthy", "errors")

_HANDLER = """\
import os


def handle(event, context):
    return "{text} " + os.environ["NOTE"]
"""
_TEST = """\
from .handler import handle


def test_says_who_it_is(monkeypatch):
    monkeypatch.setenv("NOTE", "n")
    assert handle(None, None).startswith("{name} ")
"""
_ERRORS = """\
def handle(event, context):
    return {{"statusCode": 500, "body": "{text} broken"}}
"""


@dataclass(frozen=True)
class Function:
    """One function as a commit has it."""

    name: str
    code: int = 0
    note: int = 0
    tested: bool = False
    bad: Bad | None = None

    @property
    def text(self) -> str:
        return f"{self.name} v{self.code}"

    @property
    def answer(self) -> str:
        """What a user gets of it, and of no other version."""
        return f"{self.text} broken" if self.bad == "errors" else f"{self.text} n{self.note}"


@dataclass(frozen=True)
class Edit:
    """What one release changes."""

    before: dict[str, Function]
    after: dict[str, Function]
    bad: Bad | None = None

    @property
    def changed(self) -> list[Function]:
        """Functions that are new or other ones."""
        return [each for name, each in self.after.items() if self.before.get(name) != each]

    @property
    def removed(self) -> list[str]:
        return [name for name in self.before if name not in self.after]


@dataclass
class Clone:
    """A working clone of one repository."""

    repository: Repository
    first: dict[str, Function]
    """What it begins the year with."""
    committed: dict[str, Function] = field(default_factory=dict)
    live: dict[str, Function] = field(default_factory=dict)
    """What was live last, by the platform's word."""
    _born: int = FUNCTIONS

    @classmethod
    def make(cls, folder: Path, platform: Platform, number: int) -> Clone:
        name = f"r{number:02}"
        names = [f"{name}-f{each:02}" for each in range(FUNCTIONS)]
        first = {each: Function(each, tested=each in names[:_TESTED]) for each in names}
        return cls(Repository(folder, platform, name), first)

    def edit(self, dice: random.Random, bad: Bad | None) -> Edit:
        """Writes the next release's files and commits them."""
        after = {name: self._mended(each) for name, each in self.committed.items()}
        if not bad and dice.random() < _MORE_OR_LESS:
            self._more_or_less(after, dice)
        known = [name for name in after if name in self.live]
        names = dice.sample(known, dice.randint(1, 3))
        for name in names:
            each = after[name]
            if not bad and dice.random() < _CONFIGURED:
                after[name] = replace(each, note=each.note + 1)
            else:
                after[name] = replace(each, code=each.code + 1)
        if bad:
            after[names[0]] = replace(after[names[0]], bad=bad)
        edit = Edit(before=dict(self.live), after=after, bad=bad)
        self.write(after)
        return edit

    def write(self, after: dict[str, Function]) -> None:
        """Makes the files those of ``after``, and commits."""
        for name in self.committed.keys() - after.keys():
            shutil.rmtree(self.repository.folder / name)
        for name, each in after.items():
            if self.committed.get(name) != each or not (self.repository.folder / name).exists():
                _write(self.repository.folder / name, each)
        lines = ["version: 1.0", "provider:", "  name: openfaas", "functions:"]
        for name, each in after.items():
            lines += [f"  {name}:", "    lang: python3-http", f"    handler: ./{name}"]
            lines += ["    environment:", f"      NOTE: n{each.note}"]
        (self.repository.folder / "stack.yml").write_text("\n".join(lines) + "\n")
        self.committed = after
        self.repository.commit()

    @staticmethod
    def _mended(each: Function) -> Function:
        return replace(each, code=each.code + 1, bad=None) if each.bad else each

    def _more_or_less(self, after: dict[str, Function], dice: random.Random) -> None:
        if len(after) >= _MOST or (len(after) > FUNCTIONS - 2 and dice.random() < 0.5):
            del after[dice.choice(list(after))]
        else:
            name = f"{self.repository.name}-f{self._born:02}"
            self._born += 1
            after[name] = Function(name)


def schedule(releases: int, share: float, dice: random.Random) -> list[Bad | None]:
    """Which releases are bad, in equal parts, and which are good."""
    count = round(releases * share)
    kinds: list[Bad | None] = [BAD[number % len(BAD)] for number in range(count)]
    kinds += [None] * (releases - count)
    dice.shuffle(kinds)
    return kinds


def _write(folder: Path, each: Function) -> None:
    folder.mkdir(exist_ok=True)
    source = _ERRORS if each.bad == "errors" else _HANDLER
    code = source.format(text=each.text)
    if each.bad == "never healthy":
        code = f"import time\n\ntime.sleep(3600)\n{code}"
    (folder / "handler.py").write_text(code)
    requirements, test = folder / "requirements.txt", folder / "handler_test.py"
    # Of a package that there is, a version that there is not.
    requirements.write_text("requests==0.0.99\n" if each.bad == "build" else "")
    if each.bad == "test":
        test.write_text("def test_fails():\n    assert False\n")
    elif each.tested and not each.bad:  # these two would fail it, or never end it
        test.write_text(_TEST.format(name=each.name))
    else:
        test.unlink(missing_ok=True)
