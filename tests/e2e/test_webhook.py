"""GitHub's push webhooks, with GitHub's own payloads and a real git server that stands for it."""

from __future__ import annotations

import copy
import hashlib
import hmac
import http.client
import json
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.forge import Forge, Project, serving
from tests.e2e.overtaking import held
from tests.e2e.platform import Answer, Platform, handler, running, stack
from tests.waiting import until

EXAMPLES = Path(__file__).resolve().parents[1] / "projects" / "github"
PUSH: dict[str, Any] = next(
    each
    for each in json.loads((EXAMPLES / "push.json").read_text())
    if each["ref"] == "refs/heads/master"
)
PING: dict[str, Any] = json.loads((EXAMPLES / "ping.json").read_text())[0]
STAR: dict[str, Any] = json.loads((EXAMPLES / "star.json").read_text())[0]
SECRET = "5ebe2294ecd0e0f08eab7690d2a6ee69"
FULL_NAME = PUSH["repository"]["full_name"]
OWNER, NAME = "codertocat", "Hello-World"
FUNCTION = f"greet.{OWNER}"


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving(folder) as there:
        yield there
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def hooked(forge: Forge) -> Iterator[Platform]:
    """A platform for which our forge is GitHub."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, SLIPWAY_GITHUB_URL=forge.url, SLIPWAY_GITHUB_WEBHOOK_SECRET=SECRET) as up:
        yield up
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def project(forge: Forge, hooked: Platform) -> Project:
    """The repository of the examples, its first commit live."""
    made = forge.repository(FULL_NAME)
    head = made.commit({"stack.yml": stack("greet"), "greet/handler.py": handler("v1")})
    release = released(hooked, deliver(hooked, push(head)))
    assert release["state"] == "live", hooked.logs()
    assert hooked.call(FUNCTION).text == "v1"
    return made


def push(after: str, **repository: Any) -> dict[str, Any]:
    """GitHub's example of a push, of another commit and, if need be, repository."""
    payload = copy.deepcopy(PUSH)
    payload["after"] = after
    payload["repository"] |= repository
    return payload


def signed(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def deliver(
    platform: Platform,
    payload: Mapping[str, Any] | bytes,
    event: str = "push",
    *,
    guid: str = "",
    signature: str | None = None,
) -> Answer:
    """Sends an event as GitHub does; ``signature`` '' leaves the header out."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-GitHub-Delivery": guid or str(uuid.uuid4()),
        "X-GitHub-Event": event,
        "X-Hub-Signature-256": signed(body) if signature is None else signature,
    }
    headers = {name: value for name, value in headers.items() if value}
    begun = time.monotonic()
    answer = platform.request("/webhooks/github", method="POST", data=body, headers=headers)
    assert time.monotonic() - begun < 5, "a webhook answers at once"
    return answer


def released(platform: Platform, answer: Answer) -> dict[str, Any]:
    """The release that an accepted event made, once it is decided."""
    assert answer.status == 202, answer.text
    id_ = answer.json()["release"]
    deadline = time.monotonic() + 60
    while True:
        release = dict(platform.request(f"/system/releases/{id_}", admin=True).json())
        if release["state"] not in ("queued", "building", "testing", "staging"):
            return release
        assert time.monotonic() < deadline, f"{release}\n{platform.logs()}"
        time.sleep(0.05)


def releases(platform: Platform) -> list[str]:
    found = platform.request("/system/releases?limit=500", admin=True).json()
    return [each["id"] for each in found]


# ---------------------------------------------------------------------------------- good events


def test_a_push_goes_live(hooked: Platform, project: Project) -> None:
    head = project.commit({"greet/handler.py": handler("v2")})
    release = released(hooked, deliver(hooked, push(head)))
    assert (release["state"], release["commit"]) == ("live", head)
    assert (release["namespace"], release["repository"]) == (OWNER, NAME)
    assert release["branch"] == "master"
    assert [row["url"] for row in release["functions"]] == [f"{hooked.url}/function/{FUNCTION}"]
    assert hooked.call(FUNCTION).text == "v2"


def test_a_delivery_that_comes_again_is_the_same_release(
    hooked: Platform, project: Project
) -> None:
    head = project.commit({"greet/handler.py": handler("v3")})
    first = deliver(hooked, push(head), guid="72d3162e-cc78-11e3-81ab-4c9367dc0958")
    again = deliver(hooked, push(head), guid="72d3162e-cc78-11e3-81ab-4c9367dc0958")
    assert first.json() == again.json()
    assert released(hooked, again)["state"] == "live"
    last = deliver(hooked, push(head), guid="72d3162e-cc78-11e3-81ab-4c9367dc0958")
    assert last.json() == first.json(), "also when it is over"
    assert hooked.call(FUNCTION).text == "v3"


def test_a_stale_event_releases_the_head(hooked: Platform, project: Project) -> None:
    stale = project.commit({"greet/handler.py": handler("old")})
    head = project.commit({"greet/handler.py": handler("v4")})
    release = released(hooked, deliver(hooked, push(stale)))
    assert (release["state"], release["commit"]) == ("live", head)
    assert hooked.call(FUNCTION).text == "v4"


def test_a_commit_that_there_is_not_releases_the_head(hooked: Platform, project: Project) -> None:
    head = project.commit({"greet/handler.py": handler("v5")})
    release = released(hooked, deliver(hooked, push("f" * 40)))
    assert (release["state"], release["commit"]) == ("live", head)
    assert hooked.call(FUNCTION).text == "v5"


def test_ping_and_other_events_make_no_release(hooked: Platform) -> None:
    before = releases(hooked)
    ping = deliver(hooked, PING, "ping")
    assert (ping.status, "pong" in ping.text) == (200, True)
    star = deliver(hooked, STAR, "star")
    assert (star.status, star.text) == (202, "nothing to do for the event 'star'")
    assert releases(hooked) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ref": "refs/heads/feature"}, "feature is not the default branch (master)"),
        ({"ref": "refs/tags/v1"}, "refs/tags/v1 is not a branch"),
        (
            {"ref": "refs/heads/feature", "deleted": True, "after": "0" * 40},
            "refs/heads/feature was deleted",
        ),
    ],
)
def test_what_is_not_deployed_is_said(hooked: Platform, change: dict[str, Any], words: str) -> None:
    before = releases(hooked)
    answer = deliver(hooked, PUSH | change)
    assert answer.status == 202
    assert f"not deployed: {words}" in answer.text
    assert releases(hooked) == before


def test_a_deleted_deploy_branch_takes_its_functions_down(hooked: Platform, forge: Forge) -> None:
    full_name = f"{FULL_NAME.split('/')[0]}/Leaving"
    repository = {"id": 999, "name": "Leaving", "full_name": full_name}
    deleted = push("0" * 40, **repository) | {"deleted": True}
    before = releases(hooked)
    unknown = deliver(hooked, deleted)
    assert (unknown.status, releases(hooked)) == (202, before)
    assert f"nothing of {full_name} is here" in unknown.text
    project = forge.repository(full_name)
    head = project.commit({"stack.yml": stack("leaving"), "leaving/handler.py": handler("v1")})
    assert released(hooked, deliver(hooked, push(head, **repository)))["state"] == "live"

    branch, aside = project.bare / "refs/heads/master", project.bare.with_name("aside")
    branch.unlink()
    project.bare.rename(aside)
    away = released(hooked, deliver(hooked, deleted))
    assert (away["state"], "was not found" in away["reason"]) == ("failed", True)
    assert hooked.call(f"leaving.{OWNER}").text == "v1", "a forge that does not know says nothing"
    aside.rename(project.bare)
    gone = released(hooked, deliver(hooked, deleted))
    assert (gone["state"], gone["commit"]) == ("live", "0" * 40)
    assert [row["build"] for row in gone["functions"]] == ["removed"]
    assert hooked.call(f"leaving.{OWNER}").status == 404
    branch.write_text(f"{head}\n")
    assert released(hooked, deliver(hooked, push(head, **repository)))["state"] == "live"
    assert hooked.call(f"leaving.{OWNER}").text == "v1"


def test_of_five_quick_events_the_first_and_the_last_are_built(
    hooked: Platform, project: Project
) -> None:
    ids, heads = [], []
    with held(hooked, OWNER, NAME):
        for number in range(5):
            heads.append(project.commit({"greet/handler.py": handler(f"quick {number}")}))
            ids.append(deliver(hooked, push(heads[-1])).json()["release"])
            if not number:
                until(lambda: found(hooked, ids[0])["state"] == "building")
    until(lambda: found(hooked, ids[-1])["state"] == "live", 30)
    states = [found(hooked, each)["state"] for each in ids]
    assert states == ["replaced", *["superseded"] * 3, "live"]
    assert found(hooked, ids[-1])["commit"] == heads[-1]
    assert hooked.call(FUNCTION).text == "quick 4"


def found(platform: Platform, id_: str) -> dict[str, Any]:
    return dict(platform.request(f"/system/releases/{id_}", admin=True).json())


# ----------------------------------------------------------------------------------- bad events


def unharmed(platform: Platform, forge: Forge, before: tuple[list[str], int, str]) -> None:
    """No release was made, the forge was not asked, and what was live answers as before."""
    assert state(platform, forge) == before


def state(platform: Platform, forge: Forge) -> tuple[list[str], int, str]:
    return releases(platform), len(forge.asked), platform.call(FUNCTION).text


BODY = json.dumps(PUSH).encode()
FORGED = {
    "none": ("", "the header X-Hub-Signature-256 is missing"),
    "of another secret": (signed(BODY, "guessed"), "is not of this body"),
    "truncated": (signed(BODY)[:-1], "is not of this body"),
    "empty": ("sha256=", "is not of this body"),
    "of another body": (signed(BODY + b" "), "is not of this body"),
    "SHA-1": ("sha1=" + hmac.new(SECRET.encode(), BODY, "sha1").hexdigest(), "is not of this body"),
    "without its kind": (signed(BODY).removeprefix("sha256="), "is not of this body"),
}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("event", ["push", "ping"])
def test_a_forged_event_is_refused(hooked: Platform, forge: Forge, kind: str, event: str) -> None:
    before = state(hooked, forge)
    signature, words = FORGED[kind]
    answer = deliver(hooked, BODY, event, signature=signature)
    assert answer.status == 401
    assert words in answer.text
    assert "SLIPWAY_GITHUB_WEBHOOK_SECRET" in answer.text, "what to do"
    assert SECRET not in answer.text
    unharmed(hooked, forge, before)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "body", [b"payload=%7B%7D", b"{", b"", b"[]", b"null", b'{"ref": 1}', b"\xff\xfe", b"[" * 99999]
)
def test_a_body_that_is_no_push_is_refused(hooked: Platform, forge: Forge, body: bytes) -> None:
    before = state(hooked, forge)
    answer = deliver(hooked, body)
    assert answer.status == 400
    assert "the body is not such an event in JSON" in answer.text
    assert "is the webhook's content type application/json?" in answer.text
    unharmed(hooked, forge, before)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("signature", ["sha256=" + "0" * 64, ""])
def test_an_oversize_body_is_refused_unread(hooked: Platform, forge: Forge, signature: str) -> None:
    """By what is announced: not a byte of it is sent."""
    before = state(hooked, forge)
    told = f"X-Hub-Signature-256: {signature}\r\n" if signature else ""
    with socket.create_connection(("127.0.0.1", hooked.port), timeout=10) as client:
        client.sendall(
            b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nX-GitHub-Event: push\r\n"
            + told.encode()
            + b"Content-Length: 25000001\r\n\r\n"
        )
        with http.client.HTTPResponse(client) as answer:
            answer.begin()
            text = answer.read().decode()
    if signature:
        assert answer.status == 413
        assert "the body has more than 25000000 bytes" in text
    else:
        assert answer.status == 401, "who sends no signature is not told more"
    unharmed(hooked, forge, before)


def test_only_the_configured_forge_is_asked(
    hooked: Platform, forge: Forge, project: Project
) -> None:
    """Validly signed: whatever URLs and names the payload has, one place alone is fetched from."""
    head = project.commit({"greet/handler.py": handler("v6")})
    stranger = forge.repository("Mallory/evil")
    stranger.commit({"stack.yml": stack("greet"), "greet/handler.py": handler("evil")})
    elsewhere = {
        "clone_url": f"{forge.url}/Mallory/evil.git",
        "git_url": f"git://127.0.0.1/{FULL_NAME}.git",
        "ssh_url": "ext::sh -c touch% /tmp/x",
        "svn_url": "file:///etc",
        "url": f"{forge.url}/Mallory/evil",
        "html_url": f"{forge.url}/Mallory/evil",
        "archive_url": "http://169.254.169.254/{archive_format}",
    }
    forge.asked.clear()
    release = released(hooked, deliver(hooked, push(head, **elsewhere)))
    assert (release["state"], release["commit"]) == ("live", head)
    assert hooked.call(FUNCTION).text == "v6"
    assert forge.asked
    of_api = f"/api/v3/repositories/{PUSH['repository']['id']}"
    asked = {path.split(".git/")[0] for path in forge.asked}
    assert asked <= {f"/{FULL_NAME}", of_api}, "its name, and whether that still is its name"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "full_name",
    [
        *("../../etc", "a/../b", "a/b/c", "/b", "a/", "a", "a/b.git", "-a/b", "a b/c"),
        *("a/b?x=1", "a/b#c", "a@evil.example/b", "a:x/b", "a\n/b", "a/b\x00"),
    ],
)
def test_a_name_that_is_none_is_refused(hooked: Platform, forge: Forge, full_name: str) -> None:
    before = state(hooked, forge)
    name = full_name.partition("/")[2]
    answer = deliver(hooked, push("a" * 40, full_name=full_name, name=name))
    assert answer.status == 400
    assert "is not the full name of a repository" in answer.text or (
        "is not a repository name" in answer.text
    )
    unharmed(hooked, forge, before)


@pytest.mark.usefixtures("project")
def test_an_owner_who_is_somebody_else_is_refused(hooked: Platform, forge: Forge) -> None:
    """The login is held by the owner's id: who takes the name over does not get the functions."""
    before = state(hooked, forge)
    payload = push("a" * 40)
    payload["repository"]["owner"]["id"] += 1
    payload["repository"]["id"] += 1
    answer = deliver(hooked, payload)
    assert answer.status == 409
    assert OWNER in answer.text
    unharmed(hooked, forge, before)


@pytest.mark.usefixtures("project")
def test_the_owners_namespace_cannot_be_pushed_to_by_git(hooked: Platform) -> None:
    repository = hooked.repository(OWNER, "mine")
    pushed = repository.push({"stack.yml": stack("greet"), "greet/handler.py": handler("evil")})
    assert pushed.status == 128
    assert f"remote: the namespace {OWNER!r}" in pushed.text, pushed.text
    assert "409" in pushed.text
    assert hooked.call(FUNCTION).text != "evil"


@pytest.mark.usefixtures("project")
def test_a_repository_that_there_is_not(hooked: Platform) -> None:
    payload = push("a" * 40, name="gone", full_name="Codertocat/gone", id=7)
    release = released(hooked, deliver(hooked, payload))
    assert release["state"] == "failed"
    assert "/Codertocat/gone.git was not found: check that it exists" in release["reason"]
    log = hooked.request(f"/system/releases/{release['id']}/logs", admin=True).text
    assert "was not found: check that it exists" in log
    assert json.loads(log.splitlines()[-1]) == {"state": "failed", "reason": release["reason"]}


def test_a_bad_commit_leaves_what_is_live(hooked: Platform, project: Project) -> None:
    project.commit({"greet/handler.py": handler("v7")})
    assert released(hooked, deliver(hooked, push("a" * 40)))["state"] == "live"
    head = project.commit({"stack.yml": "functions: [\n"})
    release = released(hooked, deliver(hooked, push(head)))
    assert (release["state"], release["commit"]) == ("failed", head)
    assert "this is not YAML" in release["reason"]
    assert hooked.call(FUNCTION).text == "v7"
    project.commit({"stack.yml": stack("greet"), "greet/handler.py": handler("v8")})
    assert released(hooked, deliver(hooked, push("a" * 40)))["state"] == "live"
    assert hooked.call(FUNCTION).text == "v8"


def test_a_forge_that_is_away(hooked: Platform, forge: Forge, project: Project) -> None:
    head = project.commit({"greet/handler.py": handler("v9")})
    before = hooked.call(FUNCTION).text
    forge.away = True
    try:
        release = released(hooked, deliver(hooked, push(head)))
    finally:
        forge.away = False
    assert release["state"] == "failed"
    assert "cannot be reached now" in release["reason"]
    assert "check the forge and the network" in release["reason"]
    assert hooked.call(FUNCTION).text == before
    assert released(hooked, deliver(hooked, push(head)))["state"] == "live"
    assert hooked.call(FUNCTION).text == "v9"


def test_without_a_secret_every_event_is_refused(short_tmp: Path) -> None:
    with running(short_tmp / "none") as up:
        for signature in (signed(BODY, ""), signed(BODY), ""):
            answer = deliver(up, BODY, signature=signature)
            assert answer.status == 401
            assert "webhooks of GitHub are refused: no secret is set" in answer.text
            assert "SLIPWAY_GITHUB_WEBHOOK_SECRET" in answer.text
        assert releases(up) == []
