"""Rollbacks as commits: what stands on the branch, and when there is none."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.errors import SlipwayError
from core.models import Release, RollbackState
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from gateway import rollbackbranch
from gateway.plumbing import MAX_OUTPUT
from tests.integration.gateway.harness import BUILDER, Gateway, artifact, git_environment
from tests.waiting import until

Files = Mapping[str | bytes, str | bytes]
PROVIDER = "provider:\n  name: openfaas\n"


def stack(*functions: str, handler: str = "", more: str = "") -> str:
    """A stack file; the first function has the handler."""
    told = f"{PROVIDER}functions:\n"
    for number, each in enumerate(functions):
        folder = handler if handler and not number else each
        told += f"  {each}:\n    lang: python3-http\n    handler: '{folder}'\n"
    return told + more


class Shop:
    """A bare repository of the gateway's own remote, and what was released of it."""

    def __init__(self, settings: Settings, store: Store, name: str = "shop") -> None:
        self.settings, self.store = settings, store
        self.known = Repository(namespace="ann", name=name, source="git", deploy_branch="main")
        store.save_repository(self.known)
        self.path = settings.git_folder / "ann" / f"{name}.git"
        self.path.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main")
        self.releases: list[Release] = []

    def git(self, *arguments: str | bytes, input_: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=git_environment(Path("/nonexistent")),
            input=input_,
            capture_output=True,
            check=True,
        )
        return done.stdout.rstrip(b"\n")

    def tree(self, entries: Mapping[bytes, bytes]) -> bytes:
        """Writes one; the entries are ``<mode> <type> <id>``."""
        rows = b"".join(b"%s\t%s\0" % (entry, name) for name, entry in entries.items())
        return self.git("mktree", "-z", input_=rows)

    def blob(self, content: str | bytes) -> bytes:
        data = content if isinstance(content, bytes) else content.encode()
        return b"100644 blob " + self.git("hash-object", "-w", "--stdin", input_=data)

    def folder(self, files: Files) -> bytes:
        """The tree with these files."""
        entries: dict[bytes, bytes] = {}
        below: dict[bytes, dict[str | bytes, str | bytes]] = {}
        for path, content in files.items():
            raw = path if isinstance(path, bytes) else path.encode()
            name, slash, rest = raw.partition(b"/")
            if slash:
                below.setdefault(name, {})[rest] = content
            else:
                entries[name] = self.blob(content)
        for name, inner in below.items():
            entries[name] = b"040000 tree " + self.folder(inner)
        return self.tree(entries)

    def release(self, tree: bytes | Files, *functions: str) -> str:
        """Commits a tree to main and makes it live; returns the commit."""
        made = tree if isinstance(tree, bytes) else self.folder(tree)
        parents = ["-p", self.releases[-1].commit] if self.releases else []
        commit = self.git("commit-tree", made, *parents, "-m", "Change").decode()
        self.git("update-ref", "refs/heads/main", commit)
        store = self.store
        release = store.create_release(self.known, commit, "main", again=True)
        number = len(self.releases)
        store.move(release.id, BUILDER, BUILDER[1])
        made_ = [artifact(release, name, str(number)) for name in functions or ("one", "two")]
        store.put_artifacts(release.id, commit, made_)
        store.switch(release.id, lambda _: 1)
        self.releases.append(store.finish(release.id, "http://slipway.test"))
        return commit

    def back(self, function: str = "") -> str | None:
        """The branch of a rollback to the first release."""
        to = self.releases[0].id
        rollback = self.store.create_rollback("ann", self.known.name, function, to)
        assert rollback.branch is None
        rollbackbranch.write_missing(self.settings, self.store)
        self.store.fail_rollback(rollback.id, "the next one shall be possible")
        return self.store.rollback(rollback.id).branch

    def none(self, function: str, why: str) -> None:
        """There is no branch, for that reason."""
        assert self.back(function) == ""
        assert b"slipway" not in self.git("for-each-ref")
        rollback = self.store.create_rollback("ann", self.known.name, function, self.releases[0].id)
        with pytest.raises(SlipwayError, match=why):
            rollbackbranch._written(self.settings, self.store, rollback)

    def changes(self, branch: str | None) -> set[bytes]:
        """Paths in which a branch differs from main."""
        assert branch
        assert branch.startswith("slipway/rollback-b"), "there is one"
        assert self.git("rev-parse", f"{branch}^") == self.git("rev-parse", "main")
        return set(self.git("diff", "--name-only", "-z", "main", branch).split(b"\0")) - {b""}

    def show(self, branch: str | None, path: str) -> str:
        return self.git("cat-file", "blob", f"{branch}:{path}").decode() + "\n"


@pytest.fixture
def shop(settings: Settings, store: Store) -> Shop:
    return Shop(settings, store)


def test_of_a_repository_it_is_the_old_tree(shop: Shop) -> None:
    first = shop.release({"stack.yml": stack("one"), "one/a": "1", "gone": "1"})
    shop.release({"stack.yml": stack("one"), "one/a": "2", "new": "2"})
    branch = shop.back()
    assert shop.changes(branch) == {b"one/a", b"gone", b"new"}
    assert shop.git("rev-parse", f"{branch}^{{tree}}") == shop.git("rev-parse", f"{first}^{{tree}}")


@pytest.mark.parametrize(
    "handler", ["one", "deep/er/one", "-r", "--help", ":(glob)**", ":!two", ":^two", "*", "a b/ü"]
)
def test_of_a_function_it_is_its_folder_and_its_entry(shop: Shop, handler: str) -> None:
    """Folders are what they are called; files beside them stay, whatever those are called."""
    odd: Files = dict.fromkeys([b"new\nline", b"-dash", b"\xff\xfe", b":(top)", b'q"t\\'], "odd")
    label = "    labels: {team: blue}\n"
    shop.release(
        {
            **odd,
            "stack.yml": stack("two", "one").replace("'one'\n", f"'{handler}'\n{label}"),
            f"{handler}/a": "1\n",
            f"{handler}/gone\n": "1",
            "two/a": "1",
        }
    )
    shop.release(
        {
            **odd,
            "stack.yml": stack("one", "two", handler=handler, more="# the end\n"),
            f"{handler}/a": "2",
            f"{handler}/-new": "2",
            "two/a": "2",
        }
    )
    branch = shop.back("one")
    folder = handler.encode()
    assert shop.changes(branch) == {
        b"stack.yml",
        *(folder + b"/" + each for each in (b"a", b"gone\n", b"-new")),
    }
    assert shop.show(branch, f"{handler}/a") == "1\n"
    told = shop.show(branch, "stack.yml")
    assert told == stack("one", "two", handler=handler, more="# the end\n").replace(
        f"'{handler}'\n", f"'{handler}'\n{label}"
    )


def test_folders_come_and_go(shop: Shop) -> None:
    shop.release({"stack.yml": stack("one", "two", handler="was/one"), "was/one/a": "1"})
    now = stack("one", "two", handler="now/one")
    shop.release({"stack.yml": now, "now/one/a": "2", "two/a": "2"})
    branch = shop.back("one")
    assert shop.changes(branch) == {b"stack.yml", b"was/one/a"}


def test_a_folder_that_became_a_file_is_none(shop: Shop) -> None:
    shop.release({"stack.yml": stack("one", "two", handler="was/one"), "was/one/a": "1"})
    shop.release({"stack.yml": stack("one", "two", handler="one"), "was": "2", "one/a": "2"})
    shop.none("one", "'was' is no folder any more")


def test_what_is_shared_is_not_put_back(shop: Shop) -> None:
    shared = "    copy: [lib]\n"
    first = stack("one", "two", more=shared).replace("'one'\n", f"'one'\n{shared}")
    shop.release({"stack.yml": first, "one/a": "1", "two/a": "1", "lib/a": "1"})
    shop.release({"stack.yml": first, "one/a": "2", "two/a": "2", "lib/a": "1"})
    branch = shop.back("one")
    assert shop.changes(branch) == {b"one/a"}, "what is shared is the same"
    shop.git("branch", "-D", str(branch))
    shop.release({"stack.yml": first, "one/a": "2", "two/a": "2", "lib/a": "2"})
    shop.none("two", "'lib' is shared with other functions")


def test_a_function_that_is_the_whole_repository_has_none_but_where_nothing_changed(
    shop: Shop,
) -> None:
    shop.release({"stack.yml": stack("one", handler="."), "a": "1"}, "one")
    shop.release({"stack.yml": stack("one", handler="."), "a": "2"}, "one")
    shop.none("one", "'.' is shared")


def test_all_stack_files_that_count_are_read(shop: Shop) -> None:
    """``svc`` is one's alone, ``lib`` also that of a function of another file."""
    other = f"{PROVIDER}functions:\n  two:\n    lang: python3-http\n    handler: two\n"
    root = stack("one", handler="svc", more="x-stacks: [more/stack.yml, three.yml]\n")
    three = stack("three", handler="lib")

    def files(content: str, root: str) -> Files:
        return {
            "stack.yml": root,
            "three.yml": three,
            "more/stack.yml": other,
            **{f"{each}/a": content for each in ("svc", "lib", "more/two")},
        }

    shop.release(files("1", root), "one", "two", "three")
    shop.release(files("2", root), "one", "two", "three")
    assert shop.changes(shop.back("one")) == {b"svc/a"}
    assert shop.changes(shop.back("two")) == {b"more/two/a"}


def test_a_folder_shared_by_functions_of_two_files_is_not_put_back(shop: Shop) -> None:
    root = stack("one", more="    copy: [lib]\nx-stacks: [more.yml]\n")
    for content in ("1", "2"):
        shop.release({"stack.yml": root, "more.yml": stack("two", handler="lib"), "lib/a": content})
    assert shop.back("one") == ""


@pytest.mark.parametrize(
    ("why", "root"),
    [
        ("no stack file is at the root", {"sub/stack.yml": stack("one", "two")}),
        ("this is not YAML", {"stack.yml": "functions: ["}),
        ("has mistakes: version", {"stack.yml": f"version: 7\n{stack('one', 'two')}"}),
        ("'away.yml' is no file", {"stack.yml": stack("one", more="x-stacks: [away.yml]\n")}),
        ("'stack.yml' is no file", {"stack.yml/a": "", "sub/stack.yml": stack("one")}),
        ("'stack.yml' is larger", {"stack.yml": stack("one", more=f"# {'x' * 10**6}\n")}),
        ("no stack file names one", {"stack.yml": stack("two")}),
    ],
    ids=["none at the root", "no YAML", "mistakes", "away", "a folder", "too large", "not named"],
)
def test_what_cannot_be_read_as_it_stands_has_none(
    shop: Shop, why: str, root: dict[str | bytes, str | bytes]
) -> None:
    for content in ("1", "2"):
        shop.release({**root, "one/a": content, "sub/one/a": content})
    shop.none("one", why)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
def test_line_ends_that_only_yaml_knows(shop: Shop, end: str) -> None:
    """Lines are counted in another way there, and the wrong ones would be put back."""
    text = f"# a{end}# b{end}# c{end}# d{end}{stack('one', 'two')}"
    shop.release({"stack.yml": text + "    labels: {a: b}\n", "two/a": "1"})
    shop.release({"stack.yml": text, "two/a": "2"})
    shop.none("two", "line ends that only YAML knows")


def test_a_git_bomb_is_no_work(shop: Shop) -> None:
    """64 ** 12 files in 13 objects: whoever unfolds them never ends."""
    bomb = shop.blob("boom")
    for _ in range(12):
        tree = shop.tree({b"%02d" % number: bomb for number in range(64)})
        bomb = b"040000 tree " + tree
    text = shop.blob(stack("one", "two"))
    before = b"040000 tree " + shop.folder({"a": "1"})
    names = (b"one", b"two", b"bomb")
    for entries in ((before, before, bomb), (bomb, bomb, bomb)):
        shop.release(shop.tree({b"stack.yml": text, **dict(zip(names, entries, strict=True))}))
    branch = shop.back("one")
    assert branch
    told = dict(row.split(b"\t")[::-1] for row in shop.git("ls-tree", branch).split(b"\n"))
    assert told == {b"stack.yml": text, b"one": before, b"two": bomb, b"bomb": bomb}


def test_a_folder_that_is_too_wide_is_none(shop: Shop) -> None:
    blob = shop.blob("")
    wide = {b"%04000d" % number: blob for number in range(MAX_OUTPUT // 4000)}
    text = shop.blob(stack("one", "two", handler="wide/one"))
    for content in ("1", "2"):
        inner = {b"one": b"040000 tree " + shop.folder({"a": content})}
        entry = b"040000 tree " + shop.tree({**wide, **inner})
        shop.release(shop.tree({b"stack.yml": text, b"wide": entry}))
    shop.none("one", "a bound was met")


def test_what_a_gateway_that_died_left_is_written_while_it_counts(shop: Shop) -> None:
    store = shop.store
    shop.release({"stack.yml": stack("one"), "one/a": "1"}, "one")
    shop.release({"stack.yml": stack("one"), "one/a": "2"}, "one")

    def rolled() -> str:
        found = store.create_rollback("ann", "shop", to=shop.releases[0].id)
        store.roll_back(found.id, store.rollback_specs(found), lambda _: 1)
        store.finish_rollback(found.id)
        return found.id

    done = rolled()
    rollbackbranch.write_missing(shop.settings, store)
    assert shop.changes(store.rollback(done).branch) == {b"one/a"}
    head = shop.git("rev-parse", f"slipway/rollback-{done}")
    rollbackbranch.write_missing(shop.settings, store)
    assert shop.git("rev-parse", f"slipway/rollback-{done}") == head, "it is written once"
    shop.release({"stack.yml": stack("one"), "one/a": "3"}, "one")
    overtaken = rolled()
    shop.release({"stack.yml": stack("one"), "one/a": "4"}, "one")
    failed = store.create_rollback("ann", "shop").id
    store.fail_rollback(failed, "x")
    rollbackbranch.write_missing(shop.settings, store)
    assert [store.rollback(each).branch for each in (overtaken, failed)] == ["", ""]
    assert store.rollback(failed).state is RollbackState.FAILED


def test_trouble_of_one_is_not_the_others(shop: Shop) -> None:
    broken = Shop(shop.settings, shop.store, "broken")
    for each in (broken, shop):
        each.release({"stack.yml": stack("one"), "one/a": "1"}, f"one-{each.known.name}")
        each.release({"stack.yml": stack("one"), "one/a": "2"}, f"one-{each.known.name}")
    (broken.path / "HEAD").unlink()
    lost = shop.store.create_rollback("ann", "broken")
    assert shop.changes(shop.back()) == {b"one/a"}
    assert shop.store.rollback(lost.id).branch == ""


def test_the_gateway_answers_first_and_writes_it_then(gateway: Gateway, store: Store) -> None:
    shop = Shop(gateway.settings, store, "asked")
    shop.release({"stack.yml": stack("one"), "one/a": "1"}, "asked")
    shop.release({"stack.yml": stack("one"), "one/a": "2"}, "asked")
    answer = gateway.call(
        "POST", "/system/rollback", json={"namespace": "ann", "function": "asked"}
    )
    assert (answer.status_code, answer.json()["branch"]) == (202, None)
    where = answer.headers["Location"]
    assert until(lambda: gateway.call("GET", where).json()["branch"] is not None)
    body = {"namespace": "ann", "repository": "asked"}
    store.fail_rollback(answer.json()["id"], "x")
    where = gateway.call("POST", "/system/rollback", json=body).headers["Location"]
    branch = until(lambda: gateway.call("GET", where).json()["branch"])
    assert shop.changes(branch) == {b"one/a"}
