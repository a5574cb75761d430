"""Where templates come from, against real repositories over HTTP, friendly and hostile."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from builder import folders, templaterepositories, templatesources
from builder.engines.process import ProcessEngine
from builder.source import Source
from builder.templaterepositories import Place, Repositories
from builder.templates import ALIASES, Template, available, described, find_template
from builder.templatesources import Templates
from core.errors import (
    BuildFailed,
    CheckoutFailed,
    ConfigError,
    InvalidRequest,
    InvalidStack,
    NotAllowed,
    NotFound,
    NotSupported,
    SlipwayError,
    TooLarge,
    Unavailable,
)
from core.pruning import prune
from core.settings import Settings
from core.stackfile import Stack, TemplateSource
from tests.unit.gitserver import forge
from tests.unit.repositories import EXECUTABLE, LINK, SUBMODULE, BareRepository, Content

PY: dict[str, Content] = {
    "template.yml": "language: py\nfprocess: python3 index.py\n",
    "Dockerfile": "FROM python:3\n",
    "index.py": "one\n",
    "start.sh": (EXECUTABLE, "#!/bin/sh\n"),
    "function/requirements.txt": "",
}


def template(name: str, **files: Content) -> dict[str, Content]:
    """A template's files in the folder ``template``; ``files`` come on top ("_" for ".")."""
    found = PY | {path.replace("_", "."): content for path, content in files.items()}
    return {f"template/{name}/{path}": content for path, content in found.items()}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", allow_hosts=("127.0.0.1",), build_timeout=30.0)


@pytest.fixture
def upstream(tmp_path: Path) -> BareRepository:
    return BareRepository(tmp_path / "forge" / "a" / "templates.git")


class Commit:
    """A commit of a user's repository, in which templates are looked for."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.repository = BareRepository(folder)
        self.commit({"stack.yml": "x"})

    def commit(self, files: Mapping[str, Content]) -> None:
        self.id = self.repository.commit(files)

    def find(
        self, lang: str, *named: tuple[str, str], path: str = "stack.yml", namespace: str = "alice"
    ) -> Template:
        sources = [TemplateSource(name=n, source=s, line=7) for n, s in named]
        stack = Stack(path=path, functions=[], templates=sources)
        limits = {"max_files": self.settings.max_files, "max_bytes": self.settings.max_context}
        source = Source(self.repository.path, self.id, **limits)
        with source, Repositories(self.settings) as repositories:
            return Templates(source, stack, namespace, repositories).find(lang)


@pytest.fixture
def commit(settings: Settings, tmp_path: Path) -> Commit:
    return Commit(settings, tmp_path / "own.git")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    with forge(tmp_path / "forge") as (base, seen):
        yield f"{base}/a/templates.git", seen


def refused(kind: type[SlipwayError], commit: Commit, lang: str, *named: tuple[str, str]) -> str:
    with pytest.raises(kind) as caught:
        commit.find(lang, *named)
    assert type(caught.value) is kind
    return str(caught.value)


# In which order.


def test_the_commits_own_comes_first(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]]
) -> None:
    upstream.commit(template("node", index_py="theirs\n"))
    assert commit.find("node").ours
    found = commit.find("node", ("node", served[0]))
    assert (found.ours, found.files["index.py"].read_text()) == (False, "theirs\n")
    commit.commit({**template("node"), **{f"deep/{p}": c for p, c in template("node").items()}})
    found = commit.find("node", ("node", served[0]))
    assert found.files["index.py"].read_text() == "one\n"
    assert found.place == "template/node of the commit"
    assert found.files["start.sh"].stat().st_mode & 0o777 == 0o555
    assert found.files["index.py"].stat().st_mode & 0o777 == 0o444
    assert commit.find("node", path="deep/stack.yml").place == "deep/template/node of the commit"
    assert commit.find("node", path="other/stack.yml").place == "template/node of the commit"


def test_a_repository_holds_more_than_it_is_listed_for(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]]
) -> None:
    url, seen = served
    upstream.commit(template("go-http") | template("go-other") | template("node"))
    assert not commit.find("go-other", ("go-http", url)).ours
    seen.clear()
    assert commit.find("node", ("go-http", url)).ours, "ours, as nothing is listed under its name"
    assert seen == []


def test_several_langs_of_one_source_fetch_once(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]], settings: Settings
) -> None:
    url, seen = served
    upstream.commit(template("one") | template("two"))
    named = [TemplateSource(name=name, source=url, line=1) for name in ("one", "two")]
    stack = Stack(path="stack.yml", functions=[], templates=named)
    with (
        Source(commit.repository.path, commit.id, max_files=9, max_bytes=99) as source,
        Repositories(settings) as repositories,
    ):
        templates = Templates(source, stack, "alice", repositories)
        assert templates.find("one").name == "one"
        asked = len(seen)
        assert templates.find("two").name == "two"
        assert templates.find("one") is templates.find("one")
    assert len(seen) == asked


@pytest.mark.parametrize(("lang", "own"), sorted(ALIASES.items()))
def test_names_of_openfaas_that_are_ours(commit: Commit, lang: str, own: str) -> None:
    assert commit.find(lang) == find_template(own)


def test_none_of_that_name(commit: Commit) -> None:
    told = refused(InvalidRequest, commit, "ruby-http")
    assert "there is no template 'ruby-http': this installation has node, python3" in told
    assert "template/ruby-http" in told
    assert "https://github.com/openfaas/templates" in told
    told = refused(NotFound, commit, "golang-http", ("golang-http", ""))
    assert told.startswith("stack.yml line 7: no 'source:' is given for the template 'golang-http'")
    assert "https://github.com/openfaas/golang-http-template" in told
    assert "'source:'" in refused(NotFound, commit, "node@1.0")
    assert commit.find("node", ("node", "")).ours, "a name of the store's that we have"
    assert "docker runtime" in refused(NotSupported, commit, "dockerfile")


@pytest.mark.parametrize("lang", ["..", "../own", "a/b", "/etc", ".git", "", "node\n", "x" * 200])
def test_a_lang_is_never_a_path(commit: Commit, lang: str) -> None:
    commit.commit({"template/x": "a file", "template/y/z": "no template.yml"})
    assert "there is no template" in refused(InvalidRequest, commit, lang)
    assert "there is no template 'x'" in refused(InvalidRequest, commit, "x")
    assert "there is no template.yml of the template y" in refused(InvalidRequest, commit, "y")


# Refs.


def test_branches_tags_and_commits(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]]
) -> None:
    url, seen = served
    first = upstream.commit(template("py", index_py="1\n"))
    upstream.git("tag", "light", first)
    upstream.git("tag", "--annotate", "--message=m", "1.0", first)
    second = upstream.commit(template("py", index_py="2\n"))
    upstream.commit(template("py", index_py="3\n"), branch="next/one")

    def content(ref: str, lang: str = "py", name: str = "py") -> str:
        found = commit.find(lang, (name, f"{url}#{ref}" if ref else url))
        return found.files["index.py"].read_text().strip()

    assert [content(ref) for ref in ("", "main", "light", "1.0", "next/one")] == list("22113")
    assert content(f"sha-{first}") == "1"
    assert content(f"sha-{second[:7]}") == "2"
    assert content("main", "py@1.0") == "1", "the lang's own ref counts"
    assert content("", "py", "py@1.0") == "1"
    assert content("main", f"py@sha-{first[:12]}") == "1"
    assert commit.find("py", ("py", f"{url}#1.0")).place == f"{url}#1.0 at commit {first}"
    seen.clear()
    assert content(f"sha-{first}") == "1"
    assert seen == [], "a commit that is named and there is not asked for"


def test_a_short_commit_that_no_ref_points_to(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]]
) -> None:
    url, _ = served
    first = upstream.commit(template("py", index_py="1\n"))
    upstream.commit(template("py", index_py="2\n"))
    assert commit.find("py", ("py", url)).files["index.py"].read_text() == "2\n"
    found = commit.find("py", ("py", f"{url}#sha-{first[:8]}"))
    assert found.files["index.py"].read_text() == "1\n"
    told = refused(CheckoutFailed, commit, "py", ("py", f"{url}#sha-{'0' * 7}"))
    assert "write all 40 digits" in told


def test_a_short_commit_is_one_of_the_repositorys_own(
    commit: Commit,
    upstream: BareRepository,
    served: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mirror is shared, and forges serve what lies in forks by its whole id."""
    monkeypatch.setattr(templaterepositories, "_SHA", re.compile(r"sha-([0-9a-f]{4,40})"))
    url, _ = served
    upstream.git("config", "uploadpack.allowAnySHA1InWant", "true")
    legit = upstream.commit(template("py", index_py="good\n"))
    upstream.commit(template("py", index_py="newer\n"))
    tree = upstream.git("rev-parse", upstream.commit(template("py", index_py="evil\n")) + "^{tree}")
    upstream.git("update-ref", "refs/heads/main", "refs/heads/main^")
    head = f"tree {tree}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\n"
    forged = (f"{head}{number}\n".encode() for number in itertools.count())
    evil = next(
        each
        for each in forged
        if hashlib.sha1(b"commit %d\0%s" % (len(each), each)).hexdigest().startswith(legit[:4])
    )
    id_ = upstream.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=evil)

    def content(ref: str, namespace: str = "alice") -> str:
        found = commit.find("py", ("py", f"{url}#sha-{ref}"), namespace=namespace)
        return found.files["index.py"].read_text().strip()

    assert content(id_, "mallory") == "evil", "who writes a whole id says exactly what he wants"
    assert content(legit[:4]) == "good", "before anything else was fetched"
    assert content(legit[:4]) == "good"
    told = refused(CheckoutFailed, commit, "py", ("py", f"{url}#sha-{id_[:12]}"))
    assert f"no commit on its branches and tags whose id begins with {id_[:12]}" in told
    upstream.git("update-ref", "refs/heads/taken-in", id_)
    assert content(id_[:12]) == "evil"
    told = refused(CheckoutFailed, commit, "py", ("py", f"{url}#sha-{legit[:4]}"))
    assert "more than one commit" in told


def test_a_moved_tag_is_another_template_and_the_same_content_is_not(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]]
) -> None:
    url, _ = served
    upstream.git("tag", "1.0", upstream.commit(template("py")))
    before = commit.find("py", ("py", f"{url}#1.0"))
    upstream.git("tag", "--force", "1.0", upstream.commit(template("py") | {"README": "new"}))
    same = commit.find("py", ("py", f"{url}#1.0"))
    assert (same.digest, same.place == before.place) == (before.digest, False)
    upstream.git("tag", "--force", "1.0", upstream.commit(template("py", index_py="moved\n")))
    assert commit.find("py", ("py", f"{url}#1.0")).digest != before.digest
    assert before.files["index.py"].read_text() == "one\n", "what was kept stays what it is"


def test_where_the_repository_is_away(
    commit: Commit, upstream: BareRepository, tmp_path: Path
) -> None:
    first = upstream.commit(template("py"))
    with forge(tmp_path / "forge") as (base, _):
        url = f"{base}/a/templates.git"
        commit.find("py", ("py", url))
    with pytest.raises(CheckoutFailed, match=r"line 7: the template py: .*cannot be reached"):
        commit.find("py", ("py", url))
    assert commit.find("py", ("py", f"{url}#sha-{first}")).name == "py"


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("gone", "has no branch and no tag 'gone'"),
        ("--upload-pack=x", "is not the name of a branch"),
        ("-x", "is not the name of a branch"),
        ("a..b", "is not the name of a branch"),
        ("a:b", "is not the name of a branch"),
        ("sha-xyz", "7 to 40 hex digits"),
        ("sha-abc", "7 to 40 hex digits"),
        (f"sha-{'a' * 41}", "7 to 40 hex digits"),
        (f"sha-{'a' * 40}", "does not have the commit"),
    ],
)
def test_refs_that_are_none(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]], ref: str, told: str
) -> None:
    upstream.commit(template("py"))
    with pytest.raises(SlipwayError, match=told) as caught:
        commit.find("py", ("py", f"{served[0]}#{ref}"))
    assert not caught.value.retryable


# Sources.


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("git@github.com:openfaas/templates.git", "is not fetched: write a URL"),
        ("ssh://github.com/openfaas/templates", "is not fetched"),
        ("file:///etc", "is not fetched"),
        ("/etc", "is not fetched"),
        ("../templates", "is not fetched"),
        ("ext::sh -c id", "is not fetched"),
        ("ext::id", "is not fetched"),
        ("--upload-pack=id", "is not fetched"),
        ("https://github.com/a/b\n--upload-pack=id", "is not fetched"),
        ("https://github.com/a/b c", "is not fetched"),
        ("https://github.com/ä", "is not fetched"),
        ("https:///a/b", "is not fetched"),
        ("https://github.com:99999/a/b", "is not fetched"),
        ("https://github.com:x/a/b", "is not fetched"),
        ("https://[::1/a", "is not fetched"),
        ("https://github.com\\@evil/a", "user or a password"),
        (f"https://github.com/{'a' * 2000}", "is not fetched"),
        ("https://github.com", "is not the URL of a repository"),
        ("https://github.com/a/b?x=y", "is not the URL of a repository"),
        ("https://github.com/a/../b", "is not the URL of a repository"),
        ("https://github.com/a/b#", "is not the URL of a repository"),
        ("http://github.com/a/b", "in the clear: write https"),
    ],
)
def test_sources_that_are_none(settings: Settings, source: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        Place.of(source, settings)


def test_no_credentials_in_a_source(settings: Settings) -> None:
    for user in ("user", "user:hunter2", "", ":hunter2"):
        with pytest.raises(InvalidRequest, match="user or a password") as caught:
            Place.of(f"https://{user}@github.com/a/b", settings)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["evil.example.com", "github.com.evil.org", "localhost", "[::1]", "169.254.169.254"]
)
def test_hosts_that_are_not_asked(settings: Settings, host: str) -> None:
    with pytest.raises(NotAllowed, match="SLIPWAY_TEMPLATE_HOSTS"):
        Place.of(f"https://{host}/a/b", settings)


def test_what_the_administrator_opens() -> None:
    settings = Settings(template_hosts=("git.example.org",), allow_hosts=("inside",))
    assert Place.of("https://git.example.org/a/b#1.0", settings).ref == "1.0"
    assert Place.of("https://GIT.example.org./a/b", settings).ref == ""
    assert str(Place.of("http://inside:3000/a/b#x", settings)) == "http://inside:3000/a/b#x"
    with pytest.raises(NotAllowed, match=r"but from git\.example\.org"):
        Place.of("https://github.com/a/b", settings)


def test_an_allowed_name_with_an_inside_address(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]]
) -> None:
    """SLIPWAY_TEMPLATE_HOSTS says whose templates are taken, not that we may look inside."""
    url, seen = served
    first = upstream.commit(template("py"))
    commit.settings = replace(commit.settings, allow_hosts=(), template_hosts=("127.0.0.1",))
    url = url.replace("http:", "https:")
    for ref in ("", "#main", f"#sha-{first}", f"#sha-{first[:9]}"):
        told = refused(NotAllowed, commit, "py", ("py", f"{url}{ref}"))
        assert "has the inside address 127.0.0.1" in told
    assert seen == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("moved", "answers with a redirect, which is not followed"),
        ("gone", "was not found"),
        ("broken", "cannot be reached"),
    ],
)
def test_servers_that_misbehave(
    commit: Commit,
    upstream: BareRepository,
    served: tuple[str, list[str]],
    path: str,
    told: str,
) -> None:
    url, seen = served
    upstream.commit(template("py"))
    with pytest.raises(CheckoutFailed, match=told):
        commit.find("py", ("py", url.replace("/a/", f"/{path}/")))
    assert not any(each.startswith("/a/") for each in seen)


def test_a_host_that_hangs(
    commit: Commit, served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templaterepositories, "ASK", 0.5)
    begun = time.monotonic()
    with pytest.raises(CheckoutFailed, match=r"took longer than 0\.5 s") as caught:
        commit.find("py", ("py", f"{served[0].replace('/a/', '/slow/')}#main"))
    assert caught.value.retryable
    assert time.monotonic() - begun < 15


def test_more_repositories_than_are_taken(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]]
) -> None:
    upstream.commit(template("py"))
    monkeys = [(f"x{n}", f"{served[0]}#main") for n in range(30)]
    refused(InvalidRequest, commit, "nowhere", *monkeys)


def test_a_repository_that_fails_is_asked_once(
    commit: Commit, served: tuple[str, list[str]], settings: Settings
) -> None:
    url, seen = served
    stack = Stack(path="s", functions=[], templates=[TemplateSource(name="x", source=url, line=1)])
    with (
        Source(commit.repository.path, commit.id, max_files=9, max_bytes=99) as source,
        Repositories(settings) as repositories,
    ):
        templates = Templates(source, stack, "alice", repositories)
        for lang in ("x", "y", "z"):
            with pytest.raises(CheckoutFailed, match="was not found"):
                templates.find(lang)
    assert len(seen) == 1


# Contents.


@pytest.mark.parametrize(
    ("file", "kind", "told"),
    [
        ((LINK, "../../../etc/passwd"), BuildFailed, "is a symbolic link"),
        ((LINK, "index.py"), BuildFailed, "is a symbolic link"),
        ((SUBMODULE, "1" * 40), BuildFailed, "is a submodule"),
        (b"version https://git-lfs.github.com/spec/v1\n", BuildFailed, "Git LFS"),
        (b"x" * 5000, TooLarge, "has more than 4000 bytes"),
    ],
)
def test_what_a_template_may_not_hold(
    commit: Commit,
    upstream: BareRepository,
    served: tuple[str, list[str]],
    file: Content,
    kind: type[SlipwayError],
    told: str,
) -> None:
    commit.settings = replace(commit.settings, max_context=4000)
    files = template("py") | {"template/py/more": file}
    upstream.commit(files)
    commit.commit(files)
    assert told in refused(kind, commit, "py")
    commit.commit({})
    assert told in refused(kind, commit, "py", ("py", served[0]))
    assert not list(commit.settings.templates.glob("*/*")), "nothing half-made stays"


def test_a_template_of_very_many_files(commit: Commit) -> None:
    files = {f"template/py/{n // 500}/{n}": "" for n in range(20_002)}
    commit.commit({**template("py"), **files})
    assert "has more than 20000 files" in refused(TooLarge, commit, "py")


def test_folders_that_are_deep(commit: Commit) -> None:
    def files(depth: int) -> dict[str, Content]:
        return template("py") | {f"template/py/{'d/' * depth}x": "deep\n"}

    commit.commit(files(63))
    assert "d/" * 63 + "x" in commit.find("py").files
    commit.commit(files(64))
    told = refused(BuildFailed, commit, "py")
    assert "'template/py/d/d/" in told
    assert "folders deep" in told
    assert str(commit.settings.state) not in told


def test_a_link_in_place_of_the_folder(commit: Commit) -> None:
    commit.commit({**template("real"), "template/py": (LINK, "real")})
    assert "is a symbolic link" in refused(BuildFailed, commit, "py")


def test_a_template_yml_of_ten_megabytes(commit: Commit) -> None:
    commit.commit(template("py", template_yml="language: x\n" + "#" * 10_000_000))
    assert "1000000 are allowed" in refused(InvalidStack, commit, "py")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('fprocess: "\'open"\n', "line 1: fprocess is not a command line"),
        ("language: x\nhandler_folder: ../x\n", "line 2: handler_folder '../x' leads out"),
        ("handler_folder: .\n", "line 1: handler_folder has to be a folder below"),
        ("handler_folder: /etc\n", "is not a path within"),
        ("handler_folder: a/.git/b\n", "git's own folder"),
        ("build_options: [a]\n", "line 1: an item of build_options has to be a mapping"),
        ("build_options:\n- name: x\n", "has to have a name and packages"),
        ("build_options: x\n", "build_options has to be a list"),
        ("language: x\nmount_ssh: true\n", "line 2: mount_ssh: builds have no ssh agent"),
        ("mount_ssh: perhaps\n", "mount_ssh has to be true or false"),
        ("language: [", "line 2: this is not YAML"),
        ("- x\n", "has to be a mapping"),
        ("language: {a: b}\n", "has to be a single value"),
    ],
)
def test_mistakes_of_a_template_yml_are_told_with_file_and_line(
    commit: Commit, text: str, told: str
) -> None:
    commit.commit(template("py", template_yml=text))
    said = refused(InvalidStack, commit, "py")
    assert told in said
    assert "template.yml of the template py (template/py of the commit) has 1 mistake" in said


@pytest.mark.parametrize(
    "text", ["", "language: x\n", "fprocess:\n", "mount_ssh: false\nmore: 1\n"]
)
def test_everything_in_a_template_yml_may_be_missing(commit: Commit, text: str) -> None:
    commit.commit(template("py", template_yml=text))
    found = commit.find("py")
    assert (found.process, found.deployed_process, found.handler_folder) == ([], None, "function")


def test_a_template_yml_in_full() -> None:
    text = (
        b"language: golang\nfprocess: ./handler -v\nhandler_folder: src/fn\nmount_ssh: false\n"
        b"build_options:\n- name: dev\n  packages: [make, gcc]\n- name: ssl\n  packages:\n"
        b"  - openssl-dev\n  - make\nwelcome_message: |\n  Hello\nextra: {}\n"
    )
    fields, warnings = described(text, "template.yml", ours=False)
    found = Template("go", Path(), digest="", ours=False, **fields)
    assert found.deployed_process == "./handler -v"
    assert found.handler_folder == "src/fn"
    assert found.packages(["ssl", "dev"]) == ["gcc", "make", "openssl-dev"]
    assert found.welcome_message == "Hello\n"
    assert [repr(each) for each in warnings] == ["line 14: extra is not known and has no effect"]
    with pytest.raises(InvalidStack, match="extra is not known"):
        described(text, "template.yml", ours=True)


def test_ours_are_deployed_with_what_is_in_their_images() -> None:
    assert {find_template(name).deployed_process for name in available()} == {None}


# Processes.


def test_a_template_for_images_does_not_run_as_a_process(commit: Commit) -> None:
    commit.commit(template("node20") | template("perl"))
    with pytest.raises(NotSupported) as caught:
        as_process(commit, "node20")
    told = str(caught.value)
    assert "the template node20 (template/node20 of the commit) is made for its Docker" in told
    assert "which needs the docker runtime" in told
    assert "use node, which takes the same handlers" in told
    with pytest.raises(NotSupported, match=r"use one of this installation's own \(node, python3"):
        as_process(commit, "perl")


def as_process(commit: Commit, lang: str) -> Template:
    stack = Stack(path="stack.yml", functions=[])
    with (
        Source(commit.repository.path, commit.id, max_files=999, max_bytes=10**7) as source,
        Repositories(commit.settings) as repositories,
    ):
        templates = Templates(source, stack, "alice", repositories)
        return ProcessEngine(commit.settings).template(lang, templates)


def test_templates_in_the_form_of_ours_run_as_processes(commit: Commit) -> None:
    ours = find_template("python3-http")
    vendored = {f"template/mine/{p}": f.read_bytes() for p, f in ours.files.items()}
    plain = {p: c for p, c in template("plain").items() if not p.endswith("Dockerfile")}
    commit.commit({**vendored, **plain, "template/sh/template.yml": "fprocess: sh x\n"})
    found = as_process(commit, "mine")
    assert (found.process, found.digest) == (["python3", "index.py"], ours.digest)
    assert as_process(commit, "plain").process == ["python3", "index.py"]
    assert as_process(commit, "node").ours
    with pytest.raises(InvalidRequest, match=r"only python3 and node .* can|python3 and node can"):
        as_process(commit, "sh")


# What is kept.


def test_an_owner_never_reads_what_another_one_keeps(commit: Commit) -> None:
    commit.commit(template("py"))
    alices = commit.find("py").folder
    bobs = commit.find("py", namespace="bob").folder
    assert alices != bobs
    assert commit.find("py").folder == alices


def test_templates_leave_the_reserve_of_the_disk_free(
    commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = 3_000_000
    commit.commit(template("py") | {"template/py/big": b"x" * big})
    free = folders.RESERVE + big
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 0, free))
    assert "has no room" in refused(Unavailable, commit, "py")
    assert not list(commit.settings.templates.glob("*/*"))
    free += 100_000
    assert commit.find("py").name == "py"


def test_what_is_kept_for_one_owner_is_bounded(commit: Commit) -> None:
    def heavy(name: str) -> dict[str, Content]:
        return template(name) | {f"template/{name}/big": name.encode() * 110_000}

    commit.settings = replace(commit.settings, max_context=130_000, max_files=6)
    homes = []
    for name in "abcd":  # four have room
        commit.commit(heavy(name))
        homes.append(commit.find(name).folder)
    commit.commit(heavy("a") | heavy("e"))
    assert "that you used within 6 hours take 67" in refused(TooLarge, commit, "e")
    assert all(home.is_dir() for home in homes)
    assert commit.find("e", namespace="bob").name == "e", "others are not concerned"
    for age, home in enumerate(homes):
        long_ago = time.time() - templatesources._IN_USE - 60 + age
        os.utime(home, (long_ago, long_ago))
    commit.find("a")  # which uses it again
    commit.find("e")
    assert [home.is_dir() for home in homes] == [True, False, True, True]


def pruned(settings: Settings) -> int:
    """How many templates and mirrors went."""
    found = itertools.chain(templatesources.unused(settings), templaterepositories.unused(settings))
    return len(prune(found).pruned)


def test_what_no_build_uses_goes(
    commit: Commit, upstream: BareRepository, served: tuple[str, list[str]], settings: Settings
) -> None:
    upstream.commit(template("py"))
    commit.commit(template("own", index_py="own\n"))
    kept = commit.find("own").folder
    gone = commit.find("py", ("py", served[0])).folder
    mirrors = settings.mirrors / "slipway"
    assert pruned(settings) == 0
    long_ago = time.time() - templaterepositories.UNUSED - 60
    for old in (gone, kept, *mirrors.glob("*.used")):
        os.utime(old, (long_ago, long_ago))
    commit.find("own")  # which uses it again
    assert pruned(settings) == 2
    assert kept.is_dir()
    assert not gone.exists()
    assert not list(mirrors.glob("*.git"))
    assert commit.find("py", ("py", served[0])).folder.is_dir()
    assert pruned(settings) == 0


@pytest.mark.parametrize("short", [False, True])
def test_a_mirror_that_was_damaged_is_made_anew(
    commit: Commit,
    upstream: BareRepository,
    served: tuple[str, list[str]],
    settings: Settings,
    short: bool,
) -> None:
    first = upstream.commit(template("py"))
    ref = f"#sha-{first[:9]}" if short else ""
    commit.find("py", ("py", f"{served[0]}{ref}"))
    for pack in settings.mirrors.rglob("*.pack"):
        pack.chmod(0o600)
        pack.write_bytes(b"rubbish")
    for folder in settings.templates.glob("*"):
        shutil.rmtree(folder)
    assert commit.find("py", ("py", f"{served[0]}{ref}")).files["index.py"].read_text() == "one\n"


def test_a_wrong_template_of_ours_is_the_installations_mistake(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "template.yml").write_text("language: x\n")
    with pytest.raises(ConfigError):
        find_template("x", tmp_path)


def test_a_host_that_does_not_resolve(commit: Commit) -> None:
    commit.settings = replace(commit.settings, template_hosts=("no-such-host.invalid",))
    told = refused(Unavailable, commit, "py", ("py", "https://no-such-host.invalid/a/b"))
    assert "cannot be resolved" in told
