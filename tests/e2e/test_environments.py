"""Branches that are environments, and what is promoted from one to another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from core.settings import ROOT
from tests.e2e.platform import Platform, Repository, fresh_folder, running, stack
from tests.waiting import until

ENVIRONMENTS = "x-environments:\n  staging: develop\n"
TELLS = """
import os
from pathlib import Path

def handle(event, context):
    return f"{VERSION} {os.environ['WHERE']} {Path('/var/openfaas/secrets/key').read_text()}"
"""


def tells(version: str) -> str:
    return TELLS.replace("{VERSION}", version)


FILES = {
    "stack.yml": ENVIRONMENTS
    + stack("tell", secrets="[key]", environment="{WHERE: '${WHERE}'}", build_args="{A: '${ARG}'}"),
    "tell/handler.py": tells("v1"),
}


@pytest.fixture(scope="module")
def up() -> Iterator[Platform]:
    with fresh_folder() as folder, running(folder) as platform:
        yield platform


@pytest.fixture(scope="module")
def fns(up: Platform) -> Repository:
    """Both branches, released with their own variables and secrets."""
    for space, where in (("ann", "production"), ("ann--staging", "staging")):
        made = asked(up, "POST", "/system/namespace/", name=space, labels={"openfaas": "1"})
        assert made.status == 201, made.text
        variables(up, space, WHERE=where, ARG="1")
        secret(up, space, f"secret of {where}")
    repository = up.repository("ann", "fns")
    pushed = repository.push(FILES, "HEAD:main", "HEAD:develop")
    assert pushed.status == 0, pushed.text
    assert f"tell: {up.url}/function/tell.ann" in told(pushed.text), pushed.text + up.logs()
    staging = f"tell: {up.url}/function/tell.ann--staging"
    assert staging in told(pushed.text), pushed.text + up.logs()
    assert pushed.last.startswith("slipway: live r"), pushed.text
    return repository


def told(text: str) -> list[str]:
    """The lines that Slipway told a push."""
    lines = [line for line in text.splitlines() if line.startswith("remote:")]
    return [line.removeprefix("remote:").strip() for line in lines]


def asked(up: Platform, method: str, path: str, **body: Any) -> Any:
    headers = {"Content-Type": "application/json"}
    data = json.dumps(body).encode()
    return up.request(path, method=method, admin=True, data=data, headers=headers)


def variables(up: Platform, space: str, **values: str) -> None:
    up.slipway("variables", "set", space, *(f"{name}={value}" for name, value in values.items()))


def secret(up: Platform, space: str, value: str) -> None:
    argv = ["-m", "cli.main", "secret", "create", "key", "--namespace", space]
    subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=up.env, input=value, text=True, check=True
    )


def artifacts(up: Platform, space: str) -> dict[str, str]:
    """Function → artifact of what is live."""
    release = up.release(space, "fns")
    assert release["state"] == "live", release
    return {row["name"]: row["artifact"] for row in release["functions"]}


@pytest.mark.usefixtures("fns")
def test_each_branch_answers_with_its_own_settings(up: Platform) -> None:
    assert up.call("tell.ann").text == "v1 production secret of production"
    assert up.call("tell.ann--staging").text == "v1 staging secret of staging"
    assert artifacts(up, "ann") == artifacts(up, "ann--staging"), "built once"
    assert up.release("ann--staging", "fns")["branch"] == "develop"


def test_what_is_live_in_staging_is_promoted_as_it_is(up: Platform, fns: Repository) -> None:
    pushed = fns.push({"tell/handler.py": tells("v2")}, "HEAD:develop")
    assert pushed.last.startswith("slipway: live r"), pushed.text + up.logs()
    staged = pushed.last.split()[-1]
    assert up.call("tell.ann--staging").text == "v2 staging secret of staging"
    assert up.call("tell.ann").text == "v1 production secret of production"

    done = up.slipway("promote", "ann/fns", "--from", "staging", "--output", "json")
    release = json.loads(done.stdout)
    assert release["promotedFrom"] == {"environment": "staging", "release": staged}
    assert release["commit"] == up.release("ann--staging", "fns")["commit"]
    assert [row["build"] for row in release["functions"]] == ["reused"]
    assert artifacts(up, "ann") == artifacts(up, "ann--staging")
    assert up.call("tell.ann").text == "v2 production secret of production"
    log = up.slipway("logs", release["id"]).stdout
    assert f"promoted from staging {staged}: nothing is built" in log
    up.slipway("rollback", "ann/fns")
    assert up.call("tell.ann").text == "v1 production secret of production"


def test_a_tag_promotes_and_says_why_not(up: Platform, fns: Repository) -> None:
    commit = up.release("ann--staging", "fns")["commit"]
    fns.git("tag", "-a", "-m", "ship it", "promote/production/one", commit)
    pushed = fns.git("push", fns.url, "promote/production/one")
    assert "promoted from staging" in pushed.stderr, pushed.stderr
    assert f"tell: {up.url}/function/tell.ann" in told(pushed.stderr), pushed.stderr
    assert up.call("tell.ann").text == "v2 production secret of production"

    never = fns.commit({"note": "never pushed to a branch"})
    fns.git("tag", "promote/production/two", never)
    refused = fns.git("push", fns.url, "promote/production/two").stderr
    assert "promote/production/two: not promoted: " in refused
    assert "was live in no other environment of ann/fns" in refused
    fns.git("tag", "promote/nowhere/one", commit)
    refused = fns.git("push", fns.url, "promote/nowhere/one").stderr
    assert "ann/fns has no environment 'nowhere', it has production, staging" in refused
    assert up.release("ann", "fns")["promotedFrom"]["environment"] == "staging"


@pytest.mark.usefixtures("fns")
def test_what_would_be_built_otherwise_is_not_promoted(up: Platform) -> None:
    before = up.call("tell.ann").text
    variables(up, "ann", WHERE="production", ARG="2")
    done = up.slipway("promote", "ann/fns", check=False)
    assert done.returncode == 1
    assert "tell: build_args A differs" in done.stdout, done.stdout + done.stderr
    variables(up, "ann", WHERE="production", ARG="1")
    assert up.call("tell.ann").text == before


def test_one_that_is_not_named_any_more_is_taken_down(up: Platform, fns: Repository) -> None:
    deleted = fns.push({"stack.yml": FILES["stack.yml"].replace(ENVIRONMENTS, "")}, "HEAD:main")
    assert deleted.last.startswith("slipway: live r"), deleted.text
    until(lambda: up.call("tell.ann--staging").status == 404, 20, up.logs)
    assert up.call("tell.ann").status == 200
    stored = fns.push({"note": "x"}, "HEAD:develop")
    assert stored.last == "slipway: stored, nothing to deploy", stored.text
    refused = asked(up, "POST", "/system/releases", namespace="ann--staging", repository="fns")
    assert refused.status == 409
    assert "the stack file of main does not name it any more" in refused.text

    again = fns.push({"stack.yml": FILES["stack.yml"]}, "HEAD:main", "HEAD:develop")
    staging = f"tell: {up.url}/function/tell.ann--staging"
    assert staging in told(again.text), again.text + up.logs()
    assert up.call("tell.ann--staging").status == 200


def test_a_branch_that_is_deleted_takes_its_environment_down(up: Platform, fns: Repository) -> None:
    deleted = fns.git("push", fns.url, ":develop").stderr
    assert "develop: deleted; all functions of ann--staging/fns are taken down" in deleted
    assert told(deleted)[-1].startswith("slipway: live r"), deleted
    assert up.call("tell.ann--staging").status == 404
    assert up.call("tell.ann").status == 200
