"""From a commit to a function's files: the layout, and all that has to be refused before it."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import check, folders
from builder.check import check_stack
from builder.context import MODIFIED, write_context
from builder.hardened_git import HardenedGit
from builder.source import Damaged, Source
from builder.templaterepositories import Repositories
from builder.templates import FOLDER, available, find_template
from builder.templatesources import Templates
from core.errors import (
    BuildFailed,
    ConfigError,
    Conflict,
    InvalidRequest,
    InvalidStack,
    NotFound,
    NotSupported,
    TooLarge,
    Unavailable,
)
from core.settings import Settings
from core.stackfile import Stack, StackFunction, parse, read_environment_file
from tests.unit.repositories import EXECUTABLE, LINK, SUBMODULE, BareRepository, Content

Open = Callable[..., Source]

HANDLER: dict[str, Content] = {"fn/handler.py": "def handle(event, context): ...\n"}


@pytest.fixture
def repository(tmp_path: Path) -> BareRepository:
    return BareRepository(tmp_path / "repository.git")


@pytest.fixture
def opened(repository: BareRepository) -> Iterator[Open]:
    """Commits files, or takes a commit, and opens it; all are closed at the end."""
    sources = []

    def open_(
        what: Mapping[str, Content] | str, *, max_files: int = 20_000, max_bytes: int = 2**28
    ) -> Source:
        commit = what if isinstance(what, str) else repository.commit(what)
        source = Source(repository.path, commit, max_files=max_files, max_bytes=max_bytes)
        sources.append(source)
        return source

    yield open_
    for source in sources:
        source.close()


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A folder with one template, small and complete."""
    folder = tmp_path / "templates"
    write(folder / "py" / "template.yml", "language: python3\nfprocess: python3 'index.py'\n")
    write(folder / "py" / "index.py", "print('server')\n")
    write(folder / "py" / "start.sh", "#!/bin/sh\n", mode=0o755)
    write(folder / "py" / "function" / "handler.py", "def handle(*_): return 'sample'\n")
    write(folder / "py" / "function" / "handler_test.py", "def test(): ...\n")
    write(folder / "py" / "function" / "__init__.py", "")
    write(folder / "py" / "function" / "requirements.txt", "")
    write(folder / "py" / "__pycache__" / "index.cpython-311.pyc", "left over")
    return folder


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def function(
    handler: str = "fn", *, lang: str = "py", copy: list[str] | None = None
) -> StackFunction:
    return StackFunction(name="fn", lang=lang, handler=handler, lines={"name": 1}, copy=copy or [])


def built(source: Source, templates: Path, folder: Path, of: StackFunction | None = None) -> str:
    return write_context(source, of or function(), find_template("py", templates), folder)


def look_up(source: Source, stack: Stack, settings: Settings, templates: Path) -> None:
    own = Templates(source, stack, "alice", Repositories(settings), folder=templates)
    check_stack(source, stack, settings, namespace="alice", templates=own)


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# The layout.


def test_template_handler_and_copies(opened: Open, templates: Path, tmp_path: Path) -> None:
    source = opened(
        {
            **HANDLER,
            "fn/requirements.txt": "requests\n",
            "fn/deep/er/data.bin": b"\0\xff",
            "fn/build/x": "left out",
            "fn/template/x": "left out",
            "fn/deep/build/x": "kept",
            "common/lib.py": "lib",
            "data/one.json": "{}",
            "data/two.json": "{}",
            "other/handler.py": "not ours",
        }
    )
    built(source, templates, tmp_path / "app", function(copy=["common", "data/one.json"]))
    assert listing(tmp_path / "app") == {
        "template.yml": b"language: python3\nfprocess: python3 'index.py'\n",
        "index.py": b"print('server')\n",
        "start.sh": b"#!/bin/sh\n",
        "function/__init__.py": b"",
        "function/handler.py": b"def handle(event, context): ...\n",
        "function/requirements.txt": b"requests\n",
        "function/deep/er/data.bin": b"\0\xff",
        "function/deep/build/x": b"kept",
        "function/common/lib.py": b"lib",
        "function/data/one.json": b"{}",
    }


def test_the_sample_handler_is_never_served(opened: Open, templates: Path, tmp_path: Path) -> None:
    built(opened({"fn/main.py": "x"}), templates, tmp_path / "app")
    names = set(listing(tmp_path / "app" / "function"))
    assert names == {"__init__.py", "main.py", "requirements.txt"}


def test_copied_files_win(opened: Open, templates: Path, tmp_path: Path) -> None:
    source = opened({**HANDLER, "fn/common/a": "handler's", "common/a": "copied"})
    built(source, templates, tmp_path / "app", function(copy=["common"]))
    assert (tmp_path / "app" / "function" / "common" / "a").read_bytes() == b"copied"


def test_the_whole_repository_as_a_handler(opened: Open, templates: Path, tmp_path: Path) -> None:
    source = opened({"handler.py": "x", "stack.yml": "y", "template/py/index.py": "left out"})
    built(source, templates, tmp_path / "app", function("."))
    assert {"handler.py", "stack.yml"} <= set(listing(tmp_path / "app" / "function"))
    assert not (tmp_path / "app" / "function" / "template").exists()


def test_without_a_template_the_handler_lies_at_the_root(opened: Open, tmp_path: Path) -> None:
    source = opened({"fn/Dockerfile": "FROM scratch\n"})
    write_context(source, function(lang="dockerfile"), None, tmp_path / "app")
    assert listing(tmp_path / "app") == {"Dockerfile": b"FROM scratch\n"}


def test_modes_and_times_are_fixed(opened: Open, templates: Path, tmp_path: Path) -> None:
    source = opened({**HANDLER, "fn/run": (EXECUTABLE, "#!/bin/sh\n")})
    before = os.umask(0o077)
    try:
        built(source, templates, tmp_path / "app")
    finally:
        os.umask(before)
    modes = {}
    for path in [tmp_path / "app", *(tmp_path / "app").rglob("*")]:
        status = path.lstat()
        assert status.st_mtime == MODIFIED, path
        modes[str(path.relative_to(tmp_path))] = stat.S_IMODE(status.st_mode)
    assert {path for path, mode in modes.items() if mode == 0o755} == {
        "app",
        "app/function",
        "app/function/run",
        "app/start.sh",
    }
    assert set(modes.values()) == {0o755, 0o644}


def test_the_digest_is_of_content_modes_and_names(
    opened: Open, templates: Path, tmp_path: Path
) -> None:
    variants: list[dict[str, Content]] = [
        {**HANDLER, "fn/x": "1"},
        {**HANDLER, "fn/x": "2"},
        {**HANDLER, "fn/x": (EXECUTABLE, "1")},
        {**HANDLER, "fn/y": "1"},
        {**HANDLER, "fn/x": "1", "fn/y": ""},
    ]
    digests = [
        built(opened(files), templates, tmp_path / f"a{number}")
        for number, files in enumerate(variants)
    ]
    assert len(set(digests)) == len(variants)
    again = built(opened({**variants[0], "elsewhere": "y"}), templates, tmp_path / "again")
    assert again == digests[0]


def test_many_threads_share_one_source(opened: Open, templates: Path, tmp_path: Path) -> None:
    source = opened({f"f{n}/data{i}": f"{n}-{i}\n" * 5000 for n in range(12) for i in range(3)})

    def build(number: int) -> bool:
        built(source, templates, tmp_path / f"app{number}", function(f"f{number}"))
        return all(
            (tmp_path / f"app{number}" / "function" / f"data{i}").read_text()
            == f"{number}-{i}\n" * 5000
            for i in range(3)
        )

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(build, range(12)))


def test_fifty_functions_are_read_by_one_git(
    opened: Open, templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened({f"f{n}/{name}.py": str(n) for n in range(50) for name in "abc"})
    started: list[object] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a) or popen(*a, **k))
    for number in range(50):
        built(source, templates, tmp_path / f"app{number}", function(f"f{number}"))
    assert len(started) <= 1


# Attributes, filters and replacements have no say.


def test_attributes_change_nothing(
    opened: Open, repository: BareRepository, templates: Path, tmp_path: Path
) -> None:
    attributes = (
        "* text eol=crlf\n*.txt export-subst ident\nsecret export-ignore\n*.py filter=evil\n"
    )
    files: dict[str, Content] = {
        "fn/handler.py": "one\ntwo\n",
        "fn/version.txt": "$Format:%H$ $Id$\n",
        "fn/secret": "kept\n",
        "fn/.gitattributes": attributes,
        ".gitattributes": attributes,
    }
    proof = tmp_path / "ran"
    repository.git("config", "filter.evil.smudge", f"touch {proof}")
    write(repository.path / "info" / "attributes", attributes)
    built(opened(files), templates, tmp_path / "app")
    found = listing(tmp_path / "app" / "function")
    assert found["handler.py"] == b"one\ntwo\n"
    assert found["version.txt"] == b"$Format:%H$ $Id$\n"
    assert found["secret"] == b"kept\n"
    assert found[".gitattributes"] == attributes.encode()
    assert not proof.exists()


def test_replaced_objects_are_not_followed(opened: Open, repository: BareRepository) -> None:
    source = opened(HANDLER)
    real = source.tree_id("fn/handler.py")
    repository.git("replace", real, repository.blob(b"evil"))
    assert opened(source.commit).read("fn/handler.py", 99) == b"def handle(event, context): ...\n"


def test_git_lfs_pointers_are_told(opened: Open, templates: Path, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    with pytest.raises(BuildFailed, match="Git LFS") as caught:
        built(opened({**HANDLER, "fn/model.bin": pointer}), templates, tmp_path / "app")
    assert "function/model.bin" in str(caught.value)


# What is refused, by name, before anything is written.


def refused(source: Source, templates: Path, folder: Path, of: StackFunction | None = None) -> str:
    with pytest.raises(BuildFailed) as caught:
        built(source, templates, folder, of)
    assert not folder.exists(), "nothing was written"
    assert caught.value.function == "fn"
    return str(caught.value)


def test_links_in_a_handler(opened: Open, templates: Path, tmp_path: Path) -> None:
    files: dict[str, Content] = {
        **HANDLER,
        "fn/passwd": (LINK, "/etc/passwd"),
        "fn/sub/up": (LINK, "../../other"),
        "fn/inside": (LINK, "handler.py"),
    }
    text = refused(opened(files), templates, tmp_path / "app")
    for path in ("'fn/passwd'", "'fn/sub/up'", "'fn/inside'"):
        assert f"{path} is a symbolic link" in text


def test_a_handler_through_a_link(opened: Open, templates: Path, tmp_path: Path) -> None:
    source = opened({"real/fn/handler.py": "x", "link": (LINK, "real"), "out": (LINK, "/etc")})
    for handler in ("link", "link/fn", "out", "out/ssl"):
        text = refused(source, templates, tmp_path / "app", function(handler))
        assert f"{handler.split('/')[0]!r} is a symbolic link" in text


def test_copies_through_a_link(opened: Open, templates: Path, tmp_path: Path) -> None:
    source = opened({**HANDLER, "etc": (LINK, "/etc"), "common/x": (LINK, "/etc/shadow")})
    for path in ("etc", "etc/passwd", "common", "common/x"):
        text = refused(source, templates, tmp_path / "app", function(copy=[path]))
        assert "is a symbolic link" in text


def test_submodules(opened: Open, templates: Path, tmp_path: Path) -> None:
    modules = '[submodule "x"]\n\tpath = fn/x\n\turl = ext::sh -c id\n'
    files: dict[str, Content] = {
        **HANDLER,
        ".gitmodules": modules,
        "fn/x": (SUBMODULE, "1" * 40),
        "vendor": (SUBMODULE, "2" * 40),
    }
    text = refused(opened(files), templates, tmp_path / "app")
    assert "'fn/x' is a submodule" in text
    text = refused(opened(files), templates, tmp_path / "app", function("vendor/lib"))
    assert "'vendor' is a submodule" in text
    del files["fn/x"]
    built(opened(files), templates, tmp_path / "app")  # elsewhere it is nobody's business


BAD_NAMES = [
    *(b"..", b".", b".git", b".GIT", b".Git ", b".git.", b"git~1", b"GIT~2", b".git::$INDEX"),
    *("‌.git".encode(), ".g‍it".encode(), b"a\nb", b"a\x1b[31mb", b"a\\b", b"a\x7f"),
    *(b"a\xff", "a\x85b".encode(), "a\u2028b".encode()),
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("folder", [False, True])
def test_names_that_cannot_be_built(
    opened: Open,
    repository: BareRepository,
    templates: Path,
    tmp_path: Path,
    name: bytes,
    folder: bool,
) -> None:
    blob = repository.blob(b"x")
    bad = repository.tree([("100644", b"config", blob)]) if folder else blob
    fn = repository.tree(
        [("40000" if folder else "100644", name, bad), ("100644", b"handler.py", blob)]
    )
    commit = repository.commit_tree(repository.tree([("40000", b"fn", fn)]))
    text = refused(opened(commit), templates, tmp_path / "app")
    assert "has a name that" in text
    assert text.isprintable()


def test_names_with_a_slash_in_a_tree(
    opened: Open, repository: BareRepository, templates: Path, tmp_path: Path
) -> None:
    blob = repository.blob(b"x")
    fn = repository.tree([("100644", b"../../../tmp/evil", blob)])
    commit = repository.commit_tree(repository.tree([("40000", b"fn", fn)]))
    assert "has a name that" in refused(opened(commit), templates, tmp_path / "app")


def test_two_entries_of_one_name(
    opened: Open, repository: BareRepository, templates: Path, tmp_path: Path
) -> None:
    one, two = repository.blob(b"1"), repository.blob(b"2")
    inner = repository.tree([("100644", b"x", one)])
    fn = repository.tree([("100644", b"a", two), ("40000", b"a", inner)])
    commit = repository.commit_tree(repository.tree([("40000", b"fn", fn)]))
    assert "has 'a' twice: repair it" in refused(opened(commit), templates, tmp_path / "app")


def test_names_and_paths_that_no_file_system_takes(
    opened: Open, templates: Path, tmp_path: Path
) -> None:
    longest = "ä" * 127 + "x"
    assert built(opened({**HANDLER, f"fn/{longest}": ""}), templates, tmp_path / "good")
    source = opened({**HANDLER, f"fn/{longest}y": "", f"fn/{'n' * 300}/x": ""})
    why = refused(source, templates, tmp_path / "app")
    assert "has a name of 256 bytes, and 255 are the most: shorten it" in why
    assert "has a name of 300 bytes" in why
    deep = "/".join(["d" * 100] * 9)  # each within its bounds, together not
    source = opened({**HANDLER, f"{deep}/{deep}/x": ""})
    why = refused(source, templates, tmp_path / "app", function(copy=[f"{deep}/{deep}"]))
    assert "as it is laid out, is more than 64 folders deep or 1024 bytes long" in why


def test_a_file_where_the_template_has_a_folder(
    opened: Open, templates: Path, tmp_path: Path
) -> None:
    write(templates / "py" / "function" / "static" / "x", "x")
    text = refused(opened({**HANDLER, "fn/static": "a file"}), templates, tmp_path / "app")
    assert "'function/static' is a file in one place and a folder in another" in text


def test_unusual_names_that_are_fine(opened: Open, templates: Path, tmp_path: Path) -> None:
    names = ["with space", "ünïcode", "-rf", "$(id)", "a;b", ".gitignore", ".github", "git", "*"]
    built(opened({f"fn/{name}": name for name in names}), templates, tmp_path / "app")
    assert set(names) <= set(listing(tmp_path / "app" / "function"))


# Counts and sizes, from names and headers alone.


def test_a_hundred_thousand_files(
    opened: Open, repository: BareRepository, templates: Path, tmp_path: Path
) -> None:
    blob = repository.blob(b"x")
    fn = repository.tree([("100644", b"%06d" % number, blob) for number in range(100_000)])
    source = opened(repository.commit_tree(repository.tree([("40000", b"fn", fn)])))
    begun = time.monotonic()
    with pytest.raises(TooLarge, match="more than 20000 files"):
        built(source, templates, tmp_path / "app")
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "app").exists()


def test_a_tree_that_unfolds_without_end(
    opened: Open, repository: BareRepository, templates: Path, tmp_path: Path
) -> None:
    tree = repository.tree([("100644", b"x", repository.blob(b"x"))])
    for _ in range(12):
        tree = repository.tree([("40000", b"%d" % number, tree) for number in range(10)])
    source = opened(repository.commit_tree(repository.tree([("40000", b"fn", tree)])))
    begun = time.monotonic()
    with pytest.raises(TooLarge, match="more than 20000 files"):  # of 10**12
        built(source, templates, tmp_path / "app")
    assert time.monotonic() - begun < 60


def test_a_path_without_end(
    opened: Open, repository: BareRepository, templates: Path, tmp_path: Path
) -> None:
    tree = repository.tree([("100644", b"x", repository.blob(b"x"))])
    for _ in range(100):
        tree = repository.tree([("40000", b"d", tree)])
    source = opened(repository.commit_tree(repository.tree([("40000", b"fn", tree)])))
    assert "folders deep" in refused(source, templates, tmp_path / "app")


def test_a_large_file_is_refused_unread(
    opened: Open, repository: BareRepository, templates: Path, tmp_path: Path
) -> None:
    size = 300 * 2**20
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    blob = repository.git("-c", "core.bigFileThreshold=1m", "hash-object", "-w", str(sparse))
    fn = repository.tree([("100644", b"large", blob)])
    source = opened(repository.commit_tree(repository.tree([("40000", b"fn", fn)])))
    begun = time.monotonic()
    with pytest.raises(TooLarge, match=rf"seen at 'large', which has {size}"):
        built(source, templates, tmp_path / "app")
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "app").exists()


def test_copies_count_as_well(opened: Open, templates: Path, tmp_path: Path) -> None:
    files: dict[str, Content] = {**HANDLER, "a/x": "x" * 600, "b/x": "x" * 600}
    source = opened(files, max_bytes=1000)
    with pytest.raises(TooLarge, match="with what it copies"):
        built(source, templates, tmp_path / "app", function(copy=["a", "b"]))
    source = opened(files, max_files=2)
    with pytest.raises(TooLarge, match="with what it copies"):
        built(source, templates, tmp_path / "app", function(copy=["a", "b"]))


def test_copying_ends_with_the_path_that_is_too_much(
    opened: Open, templates: Path, tmp_path: Path
) -> None:
    files: dict[str, Content] = {f"c{number}/{name}": "" for number in range(9) for name in "abc"}
    listed: list[str] = []
    source = opened({**HANDLER, **files}, max_files=7)
    source.check = lambda: listed.append("")
    with pytest.raises(TooLarge, match="up to 'c2'"):
        built(source, templates, tmp_path / "app", function(copy=[f"c{n}" for n in range(9)]))
    assert len(listed) < 40


def test_all_functions_of_a_commit_are_bounded_together(
    opened: Open, templates: Path, tmp_path: Path
) -> None:
    source = opened(HANDLER, max_files=1, max_bytes=1000)  # one block and 1000 bytes, four times
    for number in range(4):
        built(source, templates, tmp_path / f"app{number}")
    with pytest.raises(TooLarge, match="functions of this commit are too large together"):
        built(source, templates, tmp_path / "one-more")


def test_a_context_leaves_the_disk_its_reserve(
    opened: Open, templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened({**HANDLER, "fn/data": "x" * 5_000_000})
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(folders, "RESERVE", free - 2_000_000)
    with pytest.raises(Unavailable, match="no room for builds"):
        built(source, templates, tmp_path / "app")
    assert not list((tmp_path / "app").rglob("*")), "known before a file is written"
    monkeypatch.setattr(folders, "RESERVE", free - 50_000_000)
    assert built(source, templates, tmp_path / "small")


def test_a_write_that_fails_leaves_the_other_files_readable(opened: Open) -> None:
    source = opened({"large": "x" * 3_000_000, "small": "y"})
    large, small = source.files(".")
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="space"):
        source.copy(large, full)
    target = io.BytesIO()
    source.copy(small, target)
    assert target.getvalue() == b"y"


def test_large_folders_take_little_memory(repository: BareRepository) -> None:
    """Six levels, each a folder of as many names as are read at all."""
    blob = repository.blob(b"")
    many = [("100644", b"%06d" % number, blob) for number in range(120_000)]
    tree = repository.tree(many)
    for _ in range(5):
        tree = repository.tree([*many, ("40000", b"d", tree)])
    commit = repository.commit_tree(tree)
    program = f"""
import re
from pathlib import Path
from builder.source import Source
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
with Source(Path({str(repository.path)!r}), {commit!r}, max_files=9, max_bytes=9) as source:
    assert source.find("/".join("d" * 5) + "/000001")
print(peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(run.stdout) < 110 * 1024  # KiB
    too_many = [("100644", b"%06d" % number, blob) for number in range(130_000)]
    with pytest.raises(TooLarge, match=r"a tree of the commit .* 4194304 are allowed"):
        Source(
            repository.path,
            repository.commit_tree(repository.tree(too_many)),
            max_files=9,
            max_bytes=9,
        )


def test_reading_one_file_is_bounded(opened: Open) -> None:
    source = opened({"x": "12345", "folder/y": ""})
    assert source.read("x", 5) == b"12345"
    with pytest.raises(TooLarge, match="5 bytes, and 4 are allowed"):
        source.read("x", 4)
    with pytest.raises(NotFound, match="has no 'z'"):
        source.read("z", 4)
    with pytest.raises(NotFound, match="is a folder"):
        source.read("folder", 4)
    with pytest.raises(NotFound):
        source.read("x/y", 4)


def test_a_commit_that_is_none(repository: BareRepository) -> None:
    repository.commit(HANDLER)
    tree = repository.git("rev-parse", "main^{tree}")
    for wrong in ("1" * 40, tree):
        with pytest.raises(Damaged):
            Source(repository.path, wrong, max_files=9, max_bytes=9)
    with pytest.raises(InvalidRequest, match="not a full commit id"):
        Source(repository.path, "main", max_files=9, max_bytes=9)


# The stack file, held against the commit.

STACK = "provider: {name: openfaas}\nfunctions:"


def test_all_that_a_stack_file_names_is_looked_up(opened: Open, templates: Path) -> None:
    text = f"""{STACK}
  ok: {{lang: py, handler: fn, environment_file: [env.yml], namespace: alice}}
  lost:
    lang: cobol
    handler: nowhere
    build_options: [dev]
  linked:
    lang: py
    handler: link
    build_options: [dev]
    copy: [missing]
  file:
    lang: py@1.2
    handler: README
    namespace: bob
    environment_file: [gone.yml, README]
  docker: {{lang: dockerfile, handler: fn}}
"""
    source = opened(
        {**HANDLER, "env.yml": "environment: {A: b}", "link": (LINK, "fn"), "README": "hello"}
    )
    stack, _ = parse(text.encode(), "stack.yml", max_functions=9)
    with pytest.raises(InvalidStack) as caught:
        look_up(source, stack, Settings(), templates)
    mistakes = caught.value.mistakes
    told = [(mistake.line, mistake.text) for mistake in mistakes]
    expected = [
        (5, "no template 'cobol': this installation has py"),
        (6, "no folder 'nowhere'"),
        (7, "no template 'cobol'"),
        (10, "'link' is a symbolic link"),
        (11, "no build option 'dev'"),
        (12, "has no 'missing'"),
        (14, "no 'source:' is given"),
        (15, "'README' is a file"),
        (16, "belongs to 'alice'"),
        (17, "README has 1 mistake"),
        (17, "has no 'gone.yml'"),
        (18, "needs the docker runtime"),
    ]
    assert [line for line, _ in told] == [line for line, _ in expected]
    for (_, text_), (_, why) in zip(told, expected, strict=True):
        assert why in text_
    assert all(mistake.text.count(str(source.git_dir)) == 0 for mistake in mistakes)


def checked(source: Source, templates: Path, text: str, **settings: str) -> list[tuple[int, str]]:
    """The mistakes of the function ``fn`` with these fields, their own first line being 1."""
    head = f"{STACK}\n  fn:\n    lang: py\n    handler: fn\n"
    fields = "".join(f"    {line}\n" for line in text.splitlines())
    stack, _ = parse(f"{head}{fields}".encode(), "stack.yml", max_functions=9)
    env = {f"SLIPWAY_{name.upper()}": value for name, value in settings.items()}
    try:
        look_up(source, stack, Settings.from_env(env), templates)
    except InvalidStack as error:
        return [(mistake.line - 5, mistake.text) for mistake in error.mistakes]
    return []


PYTHON, WEB = "python3-http", "node"


@pytest.mark.parametrize(
    ("lang", "files", "missing"),
    [
        (PYTHON, ["fn/main.py", "fn/handler.js"], "'fn/handler.py'"),
        ("python3-flask", ["fn/Handler.py"], "'fn/handler.py'"),
        ("python3", ["fn/sub/handler.py"], "'fn/handler.py'"),
        (WEB, ["fn/handler.py", "fn/index.js"], "'fn/handler.js'"),
        ("node20", ["fn/handler.ts", "fn/watchdog/handler.js"], "'fn/handler.js'"),
        (PYTHON, ["fn/handler.py"], ""),
        (PYTHON, ["fn/handler/__init__.py"], ""),
        (PYTHON, ["fn/handler.cpython-312-x86_64-linux-gnu.so"], ""),
        (PYTHON, ["fn/handler.pyc"], ""),
        (PYTHON, ["fn/x", "handler.py", "copy: [handler.py]"], ""),
        (PYTHON, ["fn/x", "handler/__init__.py", "copy: [handler]"], ""),
        (PYTHON, ["fn/x", "fprocess: python3 function/x"], ""),
        (PYTHON, ["fn/__init__.py", "fn/main.py"], ""),  # which may name another module
        (WEB, ["fn/handler.js"], ""),
        (WEB, ["fn/handler.mjs"], ""),
        (WEB, ["fn/handler.cjs", "fn/package.json"], ""),
        (WEB, ["fn/x", "handler.mjs", "copy: [handler.mjs]"], ""),
    ],
)
def test_a_handler_file_that_is_missing_is_told_with_its_line(
    opened: Open, lang: str, files: list[str], missing: str
) -> None:
    fields = "".join(f"    {each}\n" for each in files if ": " in each)
    told = f"functions:\n  f:\n    lang: {lang}\n    handler: ./fn\n{fields}"
    text = f"provider: {{name: openfaas}}\n{told}"
    stack, _ = parse(text.encode(), "stack.yml", max_functions=9)
    source = opened({each: "content" for each in files if ": " not in each})
    if not missing:
        look_up(source, stack, Settings.from_env({}), FOLDER)
        return
    with pytest.raises(InvalidStack) as caught:
        look_up(source, stack, Settings.from_env({}), FOLDER)
    (mistake,) = caught.value.mistakes
    assert mistake.line == 5
    assert f"f.handler: commit {source.commit[:12]} has no file {missing}, " in mistake.text


def test_what_another_template_takes_is_its_own_matter(
    opened: Open, templates: Path, tmp_path: Path
) -> None:
    """Whether it is somebody else's in the place of ours, or one of this installation's own."""
    told = "functions:\n  f: {lang: python3-http, handler: fn}\n  g: {lang: own, handler: fn}\n"
    text = f"provider: {{name: openfaas}}\n{told}"
    stack, _ = parse(text.encode(), "stack.yml", max_functions=9)
    write(templates / "own" / "template.yml", "language: go\nfprocess: ./serve\n")
    write(templates / "own" / "function" / "handler.go", "package function\n")
    yml = "template/python3-http/template.yml"
    files: dict[str, Content] = {
        yml: "language: python\nfprocess: python3 index.py\n",
        "template/python3-http/function/handler.py": "",
        "fn/main.py": "",
    }
    settings = Settings.from_env({"SLIPWAY_STATE": str(tmp_path / "state")})
    look_up(opened(files), stack, settings, templates)


def test_limits_have_a_ceiling(opened: Open, templates: Path) -> None:
    source = opened(HANDLER)
    assert checked(source, templates, "limits: {memory: 4Gi, cpu: 4}") == []
    assert checked(source, templates, "limits: {cpu: 4000m}\nrequests: {memory: 9Gi, cpu: 9}") == []
    assert checked(source, templates, "limits: {memory: 5Gi}", function_max_memory="5Gi") == []
    for cpu in ("5000", "4.5", "4001m", "9" * 18):
        found = checked(
            source, templates, f"fprocess: x\nlimits: {{memory: 1000000Gi, cpu: {cpu}}}"
        )
        assert [line for line, _ in found] == [2, 2]
        told = "\n".join(text for _, text in found)
        assert f"fn.limits.cpu is '{cpu}', and at most 4.0 is allowed here" in told
        assert "SLIPWAY_FUNCTION_MAX_CPUS" in told
        assert "fn.limits.memory is '1000000Gi', and at most 4Gi is allowed here" in told
        assert "SLIPWAY_FUNCTION_MAX_MEMORY" in told


def test_the_configuration_of_a_function_is_bounded(opened: Open, templates: Path) -> None:
    def variables(prefix: str, size: int) -> str:
        return "".join(f"  {prefix}{n}: {'v' * 100_000}\n" for n in range(size))

    source = opened(
        {
            **HANDLER,
            "one.yml": f"environment:\n{variables('A', 1)}",
            "two.yml": f"environment:\n{variables('B', 2)}",
            "big.yml": "environment: {}\n#" + "x" * 300_000,
        }
    )
    inline = f"labels: {{a: b}}\nenvironment:\n{variables('C', 1)}"
    assert checked(source, templates, f"{inline}environment_file: [one.yml]") == []
    ((line, told),) = checked(source, templates, f"{inline}environment_file: [two.yml]")
    assert line == 4
    assert "fn: environment, labels, annotations and the like have 3000" in told
    assert "262144 are allowed: keep data in files beside the handler" in told
    ((line, told),) = checked(source, templates, f"fprocess: x\nlabels:\n{variables('l', 3)}")
    assert line == 2
    many = ", ".join(["x" * 4000] * 70)
    ((line, told),) = checked(source, templates, f"fprocess: x\nconstraints: [{many}]")
    assert line == 2
    assert "have 280001 bytes together" in told
    ((line, told),) = checked(source, templates, "environment_file: big.yml")
    assert "'big.yml' has 300017 bytes, and 262144 are allowed" in told


def test_the_configurations_of_a_commit_are_bounded(opened: Open, templates: Path) -> None:
    """They are handed over in one request: a small file that all name is not small any more."""
    source = opened({**HANDLER, "e.yml": "environment:\n  A: " + "v" * 120_000})
    text = STACK + "".join(
        f"\n  f{n}: {{lang: py, handler: fn, environment_file: e.yml}}" for n in range(40)
    )
    stack, _ = parse(text.encode(), "stack.yml", max_functions=99)
    with pytest.raises(InvalidStack, match=r"line 37: f34: .* functions up to here") as caught:
        look_up(source, stack, Settings(), templates)
    assert len(caught.value.mistakes) == 1


class Ended(Conflict):
    """What a check raises once its time is over."""


def test_files_of_variables_weigh_what_is_read_of_them(
    opened: Open, templates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 256 KiB without a variable takes a quarter of a second; 20,000 can be named."""
    read: list[int] = []

    def counted(data: bytes, path: str) -> dict[str, str]:
        read.append(len(data))
        return read_environment_file(data, path)

    monkeypatch.setattr(check, "read_environment_file", counted)
    for begin in ("environment: {}", "x: no environment"):
        read.clear()
        files = {f"e{n}.yml": f"{begin}\n#{'x' * 200_000}{n}" for n in range(100)}
        source = opened({**HANDLER, **files})
        named = f"{{lang: py, handler: fn, environment_file: [{', '.join(files)}]}}"
        text = STACK + "".join(f"\n  f{n}: {named}" for n in range(100))
        stack, _ = parse(text.encode(), "stack.yml", max_functions=100)
        with pytest.raises(InvalidStack, match="bytes together, and 262144 are allowed"):
            look_up(source, stack, Settings(), templates)
        assert sum(read) < check.MAX_CONFIGURATIONS + 2 * check.MAX_CONFIGURATION


def test_looking_up_ends_when_it_is_told_to(opened: Open, templates: Path) -> None:
    files = {f"e{n}.yml": f"environment: {{A{n}: x}}\n" for n in range(100)}
    source = opened({**HANDLER, **files})
    left = iter(range(50))

    def ending() -> None:
        if next(left, None) is None:
            raise Ended

    source.check = ending
    with pytest.raises(Ended):
        checked(source, templates, f"environment_file: [{', '.join(files)}]")


def test_listing_and_writing_end_when_they_are_told_to(
    opened: Open, templates: Path, tmp_path: Path
) -> None:
    source = opened({**HANDLER, **{f"fn/d{n}/x": str(n) for n in range(100)}})
    for allowed in (5, 50, 150, 250):  # in the middle of folders, sizes and contents
        left = iter(range(allowed))

        def check(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Ended

        source.check = check
        with pytest.raises(Ended):
            built(source, templates, tmp_path / str(allowed))
        source.check = lambda: None
        assert source.read("fn/d7/x", 9) == b"7", "what was begun does no harm"


# Templates.


def test_a_template_is_read(templates: Path) -> None:
    write(
        templates / "py" / "template.yml",
        "language: python3\nfprocess: python3 -u 'in dex.py'\nhandler_folder: src/app\n"
        "welcome_message: |\n  Hello\nbuild_options:\n"
        "  - name: dev\n    packages: [make, gcc]\n  - name: db\n    packages: [libpq, gcc]\n",
    )
    template = find_template("py", templates)
    assert template.process == ["python3", "-u", "in dex.py"]
    assert template.handler_folder == "src/app"
    assert template.packages(["dev", "db"]) == ["gcc", "libpq", "make"]
    assert template.packages([]) == []
    assert not any("pycache" in path for path in template.files)
    with pytest.raises(InvalidRequest, match="it has db, dev"):
        template.packages(["tex"])


@pytest.mark.parametrize(
    "lang", ["..", "../py", "py/../py", "/etc", "PY", "", "py\n", "py/function"]
)
def test_a_lang_is_never_a_path(templates: Path, lang: str) -> None:
    with pytest.raises(InvalidRequest, match="there is no template"):
        find_template(lang, templates)


def test_langs_that_wait_for_later(templates: Path) -> None:
    with pytest.raises(NotSupported, match="docker runtime"):
        find_template("dockerfile", templates)
    with pytest.raises(NotSupported, match="write 'py'"):
        find_template("py@v1", templates)


def test_links_within_templates_are_followed(templates: Path, tmp_path: Path) -> None:
    write(templates / "two" / "template.yml", "language: b\nfprocess: b\n")
    (templates / "two" / "index.py").symlink_to("../py/index.py")
    (templates / "two" / "shared").symlink_to("../py/function", target_is_directory=True)
    template = find_template("two", templates)
    assert set(template.files) == {
        "index.py",
        "template.yml",
        *(
            f"shared/{n}"
            for n in ("__init__.py", "handler.py", "handler_test.py", "requirements.txt")
        ),
    }
    before = template.digest
    write(templates / "py" / "index.py", "print('changed')\n")
    assert find_template("two", templates).digest != before
    (templates / "two" / "out").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out"):
        find_template("two", templates)


def test_a_link_to_itself_in_a_template(templates: Path) -> None:
    (templates / "py" / "again").symlink_to(".", target_is_directory=True)
    with pytest.raises(ConfigError, match="link to itself"):
        find_template("py", templates)


def test_the_digest_of_a_template(templates: Path) -> None:
    digests = {find_template("py", templates).digest}
    (templates / "py" / "index.py").chmod(0o755)
    write(templates / "py" / "index.py", "print('more')\n", mode=0o755)
    digests.add(find_template("py", templates).digest)
    write(templates / "py" / "new", "")
    digests.add(find_template("py", templates).digest)
    assert len(digests) == 3
    write(templates / "py" / "__pycache__" / "x.pyc", "tools leave this behind")
    assert find_template("py", templates).digest in digests


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("language: x\n", "no 'fprocess:'"),
        ("fprocess: x\n", "no 'language:'"),
        ('language: x\nfprocess: "\'open"\n', "not a command line"),
        ("language: x\nfprocess: y\nfunction_folder: z\n", "not known"),
        ("language: x\nfprocess: y\nhandler_folder: ../z\n", "leads out"),
        ("language: x\nfprocess: y\nbuild_options: [a]\n", "has to be a mapping"),
        ("language: [", "not YAML"),
    ],
)
def test_a_template_that_is_wrong(templates: Path, text: str, why: str) -> None:
    write(templates / "py" / "template.yml", text)
    with pytest.raises(ConfigError, match=why):
        find_template("py", templates)


def test_the_installations_own_templates_are_right() -> None:
    names = available()
    assert {"python3-http", "python3-flask", "node"} <= set(names)
    for name in names:
        assert find_template(name).process


def test_an_object_that_goes_while_folders_are_read_ahead_mixes_up_nothing(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers that were not read by then are not taken for those to the next questions."""
    source = opened({f"{name}/{name}.py": name for name in "abc"})
    gone = "0" * 40
    headers = HardenedGit.headers

    def there(git: HardenedGit, oids: Sequence[str]) -> dict[str, tuple[str, int]]:
        return {gone: ("tree", 1), **headers(git, oids)}

    monkeypatch.setattr(HardenedGit, "headers", there)
    source.read_ahead("abc")
    assert [source.read(f"{name}/{name}.py", 9) for name in "cab"] == [b"c", b"a", b"b"]
    assert [node.name for node in (source.listing(source.tree_id("b")) or {}).values()] == ["b.py"]
