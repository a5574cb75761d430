"""Repositories that try to make git or the builder do something else than read one commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.bad_input.victim import Victim, log_of
from tests.e2e.platform import Platform, handler, stack

NAME = "repositories"


def submodule(victim: Victim, path: str, url: str) -> None:
    """Commits a submodule, as ``git submodule add`` would, had it let itself be asked for this."""
    modules = f'[submodule "m"]\n\tpath = {path}\n\turl = {url}\n'
    victim.repository.commit({".gitmodules": modules})
    entry = f"160000,{victim.good},{path}"
    victim.repository.git("update-index", "--add", "--cacheinfo", entry)
    victim.repository.git("commit", "--quiet", "-m", "submodule")


def index(victim: Victim, entries: str) -> None:
    """Commits entries of git's index that stand for no files of the working tree."""
    git = ["git", "update-index", "--index-info"]
    subprocess.run(git, cwd=victim.folder, input=entries.encode(), check=True, timeout=60)
    victim.repository.git("commit", "--quiet", "-m", "entries")


def blob(victim: Victim, content: str) -> str:
    (victim.folder / ".git" / "content").write_text(content)
    return victim.repository.git("hash-object", "-w", ".git/content").stdout.strip()


# --------------------------------------------------------------------------------------- links


def test_a_link_to_etc_passwd_in_the_handler(victim: Victim) -> None:
    victim.reset()
    (victim.folder / NAME / "users").symlink_to("/etc/passwd")
    victim.repository.commit({})
    words = f"'{NAME}/users' is a symbolic link: commit the file itself in its place"
    found = victim.refused(victim.push(), words)
    told = "\n".join(line.get("text", "") for line in log_of(victim.platform, found["id"]))
    assert "root:" not in told


def test_a_handler_that_is_a_link(victim: Victim) -> None:
    victim.reset()
    victim.repository.git("rm", "-r", "--quiet", NAME)
    (victim.folder / NAME).symlink_to("/etc")
    victim.repository.commit({})
    victim.refused(victim.push(), f"line 7: '{NAME}' is a symbolic link: commit the file itself")


def test_a_handler_through_a_link(victim: Victim) -> None:
    victim.reset()
    (victim.folder / "way").symlink_to(".")
    victim.repository.commit({"stack.yml": stack(NAME).replace("./", "./way/")})
    victim.refused(victim.push(), "line 7: 'way' is a symbolic link: commit the file itself")


def test_a_stack_file_that_is_a_link(victim: Victim) -> None:
    victim.reset()
    (victim.folder / "stack.yml").unlink()
    (victim.folder / "stack.yml").symlink_to("/etc/passwd")
    victim.repository.commit({})
    found = victim.refused(victim.push(), "'stack.yml' is a symbolic link: commit the file itself")
    assert "root:" not in found["reason"]


def test_an_environment_file_through_a_link(victim: Victim) -> None:
    victim.reset()
    (victim.folder / "env").symlink_to("/etc")
    text = stack(NAME, environment_file="[env/passwd]")
    victim.repository.commit({"stack.yml": text})
    victim.refused(victim.push(), "line 8: 'env' is a symbolic link")


# ---------------------------------------------------------------------------------- submodules


@pytest.mark.parametrize("url", ["file:///etc", 'ext::sh -c \\"touch {proof}\\"', "/etc/.git"])
def test_a_submodule_in_the_handler_is_not_fetched(
    victim: Victim, url: str, tmp_path: Path
) -> None:
    proof = tmp_path / "ran"
    victim.reset()
    submodule(victim, f"{NAME}/m", url.format(proof=proof))
    words = f"'{NAME}/m' is a submodule, which is not fetched: commit its files in its place"
    victim.refused(victim.push(), words)
    assert not proof.exists()


def test_a_submodule_elsewhere_is_left_alone(bounded: Platform, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    other = Victim.live(bounded, "vic", "elsewhere")
    other.reset()
    submodule(other, "m", f'ext::sh -c \\"touch {proof}\\"')
    other.repository.commit({"elsewhere/handler.py": handler("beside a submodule")})
    assert other.push().last.startswith("slipway: live ")
    assert bounded.call("elsewhere.vic").text == "beside a submodule"
    assert not proof.exists()


def test_a_submodule_url_that_is_an_option_is_refused_by_git(victim: Victim) -> None:
    victim.reset()
    submodule(victim, "m", "--upload-pack=touch /tmp/x")
    pushed = victim.push()
    assert pushed.status == 1
    assert "gitmodulesUrl: disallowed submodule url: --upload-pack" in pushed.text
    victim.unharmed()


# --------------------------------------------------------------------------------------- hooks


def test_hooks_of_a_repository_never_run(bounded: Platform, tmp_path: Path) -> None:
    """Neither as files of a tree that lies like a bare repository, nor with a configuration."""
    proof = tmp_path / "ran"
    script = f"#!/bin/sh\ntouch {proof}\n"
    hooks = ("post-receive", "pre-receive", "update", "post-checkout", "reference-transaction")
    other = Victim.live(bounded, "vic", "hooks")
    other.reset()
    other.repository.write({f"hooks/{hook}": script for hook in hooks})
    for hook in hooks:
        (other.folder / "hooks" / hook).chmod(0o755)
    other.repository.commit(
        {
            "HEAD": "ref: refs/heads/main\n",
            "objects/info/alternates": "/\n",
            "config": f"[core]\n\thooksPath = hooks\n\tfsmonitor = touch {proof}\n",
            ".gitattributes": "* filter=evil diff=evil\n",
            "hooks/handler.py": handler("with hooks"),
        }
    )
    pushed = other.push()
    assert pushed.last.startswith("slipway: live "), pushed.text
    assert bounded.call("hooks.vic").text == "with hooks"
    assert not proof.exists()
    kept = bounded.settings.git_folder / "vic" / "hooks.git"
    assert "hooksPath" not in (kept / "config").read_text()
    assert not list(kept.glob("hooks/*"))


def test_a_folder_of_git_in_the_tree_is_refused_by_git(victim: Victim) -> None:
    victim.reset()
    config = blob(victim, "[core]\n\tfsmonitor = touch /tmp/x\n")
    trees = [f"100644 blob {config}\tconfig\n"]
    trees.append("040000 tree {}\t.git\n")
    made = ""
    for text in trees:
        made = subprocess.run(
            ["git", "mktree"],
            cwd=victim.folder,
            input=text.format(made),
            text=True,
            check=True,
            capture_output=True,
            timeout=10,
        ).stdout.strip()
    commit = victim.repository.git("commit-tree", made, "-m", "x", "-p", victim.good).stdout.strip()
    done = victim.repository.git("push", victim.repository.url, f"+{commit}:main", check=False)
    assert done.returncode == 1
    assert "hasDotgit: contains '.git'" in done.stderr
    victim.unharmed()


# --------------------------------------------------------------------------------------- names


def test_a_name_that_no_file_system_takes(victim: Victim) -> None:
    victim.reset()
    index(victim, f"100644 {blob(victim, 'x')}\t{NAME}/{'n' * 300}\n")
    victim.refused(victim.push(), "has a name of 300 bytes, and 255 are the most: shorten it")


def test_a_folder_in_the_place_of_a_lock(victim: Victim) -> None:
    files = {"stack.yml": stack(NAME, lang="node"), f"{NAME}/handler.js": ""}
    files[f"{NAME}/package-lock.json/x"] = ""
    victim.refuses(files, "'package-lock.json' is a folder", "rename the folder")


# ---------------------------------------------------------------------------------------- size


def test_a_hundred_thousand_files(victim: Victim) -> None:
    victim.reset()
    one = blob(victim, "x")
    index(
        victim,
        "".join(f"100644 {one}\t{NAME}/d{n // 1000}/f{n}\n" for n in range(100_000)),
    )
    victim.refused(
        victim.push(),
        f"the folder '{NAME}' has more than 20000 files",
        "leave out what is not needed (node_modules, data)",
        "SLIPWAY_MAX_FILES",
    )


def test_a_file_of_256_megabytes_in_a_small_push(victim: Victim) -> None:
    victim.reset()
    with (victim.folder / NAME / "big.bin").open("wb") as file:
        file.truncate(2**28)
    victim.repository.git("-c", "core.compression=1", "add", "-A")
    victim.repository.commit({})
    before = _used(victim.platform)
    victim.refused(
        victim.push(),
        f"the folder '{NAME}' has more than 2097152 bytes",
        "'big.bin', which has 268435456",
        "leave out what is not needed",
        "SLIPWAY_MAX_CONTEXT",
    )
    assert _used(victim.platform) - before < 32 * 2**20, "it was never unfolded"


def _used(platform: Platform) -> int:
    return sum(each.lstat().st_blocks * 512 for each in platform.settings.state.rglob("*"))


# -------------------------------------------------------------------------------------- claims


def test_a_function_of_another_repository(victim: Victim) -> None:
    thief = Victim.live(victim.platform, "vic", "thief")
    thief.refuses(
        {"stack.yml": stack("thief", NAME), f"{NAME}/handler.py": handler("stolen")},
        f"the function {NAME} of vic belongs to the repository vic/{NAME}",
        "rename yours, remove it there first, or have it move here",
    )
    victim.reset()
    victim.unharmed()
