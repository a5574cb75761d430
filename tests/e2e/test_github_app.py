"""A GitHub App, private repositories, and what becomes of a repository: a whole platform, and a
GitHub on loopback that holds every request against GitHub's own description."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import Platform, handler, running, stack
from tests.e2e.test_webhook import deliver
from tests.forges.github import App, GitHub, Installation, Repository, serving_github
from tests.waiting import until

SECONDS = 30


@dataclass
class Hub:
    """A platform that is an App at a GitHub."""

    github: GitHub
    app: App
    platform: Platform

    def send(self, event: str, **payload: Any) -> str:
        """Delivers an event, as signed by the App; returns what it is told."""
        body = json.dumps(payload).encode()
        digest = hmac.new(str(self.app.webhook_secret).encode(), body, hashlib.sha256).hexdigest()
        answer = deliver(self.platform, body, event, signature=f"sha256={digest}")
        assert answer.status == 202, answer.text
        return answer.text

    def push(self, repository: Repository, installation: Installation, commit: str) -> str:
        return self.send(
            "push",
            ref="refs/heads/main",
            after=commit,
            repository=repository.shown(),
            installation={"id": installation.id},
        )

    def installed(self, installation: Installation, action: str = "created") -> str:
        listed = [self.github.repositories[each] for each in installation.repositories]
        return self.send(
            "installation",
            action=action,
            installation={"id": installation.id, "account": installation.account.shown()},
            repositories=[
                {"id": each.id, "full_name": each.full_name, "private": each.private}
                for each in listed
            ],
        )

    def answers(self, function: str, wanted: str, seconds: float = SECONDS) -> None:
        def right() -> bool:
            answer = self.platform.call(function)
            return answer.status == 200 and answer.text == wanted

        until(right, seconds, self.platform.logs)

    def gone(self, function: str, seconds: float = SECONDS) -> None:
        until(lambda: self.platform.call(function).status == 404, seconds, self.platform.logs)

    def never_taken_down(self, namespace: str) -> None:
        """For after what was taken up later is live: looks are taken in their order."""
        commits = {each["commit"] for each in self.releases(namespace)}
        assert "0" * 40 not in commits

    def releases(self, namespace: str) -> list[dict[str, Any]]:
        path = f"/system/releases?namespace={namespace}"
        return list(self.platform.request(path, admin=True).json())


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with serving_github(folder / "github") as github:
        app = github.app()
        key = folder / "app.pem"
        key.write_text(app.pem)
        with running(
            folder,
            SLIPWAY_GITHUB_URL=github.url,
            SLIPWAY_GITHUB_APP_ID=str(app.id),
            SLIPWAY_GITHUB_APP_KEY_FILE=str(key),
            SLIPWAY_GITHUB_WEBHOOK_SECRET=str(app.webhook_secret),
            SLIPWAY_SWEEP="2s",
        ) as platform:
            yield Hub(github, app, platform)
    shutil.rmtree(folder, ignore_errors=True)


def made(hub: Hub, full_name: str, function: str, *, private: bool = True) -> Repository:
    """A repository at GitHub with one function."""
    repository = hub.github.repository(full_name, private=private)
    repository.project.commit(
        {"stack.yml": stack(function), f"{function}/handler.py": handler("v1")}
    )
    return repository


def change(repository: Repository, function: str, text: str) -> str:
    return repository.project.commit({f"{function}/handler.py": handler(text)})


def test_a_private_repository_from_installation_to_live(hub: Hub) -> None:
    repository = made(hub, "Acme/shop", "cart")
    installation = hub.github.install(hub.app, repository)
    assert "looked at" in hub.installed(installation)
    hub.answers("cart.acme", "v1")
    head = change(repository, "cart", "v2")
    told = json.loads(hub.push(repository, installation, head))
    hub.answers("cart.acme", "v2")
    release = hub.platform.request(f"/system/releases/{told['release']}", admin=True).json()
    assert (release["state"], release["commit"]) == ("live", head)
    _nowhere(hub, [*hub.github.tokens, hub.app.pem.splitlines()[3]])


def _nowhere(hub: Hub, values: list[str]) -> None:
    """No token is in a file of the state folder, a log, the store, a function's environment."""
    assert values
    assert len(values[0]) > 20
    state = hub.platform.folder / "state"
    for folder, _, files in os.walk(state):
        for name in files:
            path = Path(folder, name)
            if path.is_file():  # no socket
                content = path.read_bytes()
                for value in values:
                    assert value.encode() not in content, path
    for value in values:
        assert value not in hub.platform.logs()


def test_hooks_that_are_all_lost(hub: Hub) -> None:
    repository = made(hub, "Quiet/site", "page")
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("page.quiet", "v1")
    begun = time.monotonic()
    change(repository, "page", "v2")
    hub.answers("page.quiet", "v2")
    assert time.monotonic() - begun < SECONDS


def test_a_renamed_repository_stays_what_it_is(hub: Hub) -> None:
    repository = made(hub, "Movers/old", "one")
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("one.movers", "v1")
    hub.github.rename(repository, "new")
    head = change(repository, "one", "v2")
    hub.push(repository, installation, head)
    hub.answers("one.movers", "v2")
    live = [each for each in hub.releases("movers") if each["state"] == "live"]
    assert [each["repository"] for each in live] == ["old"], "it keeps its name here"


def test_a_rename_that_nobody_told_of(hub: Hub) -> None:
    repository = made(hub, "Silent/old", "two")
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("two.silent", "v1")
    hub.github.rename(repository, "other")
    change(repository, "two", "v2")
    hub.answers("two.silent", "v2")


def test_a_late_event_of_the_old_name_changes_nothing(hub: Hub) -> None:
    """Somebody else may have taken the name that was given up."""
    repository = made(hub, "Late/first", "three")
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("three.late", "v1")
    before = repository.shown()
    hub.github.rename(repository, "second")
    hub.push(repository, installation, change(repository, "three", "v2"))
    hub.answers("three.late", "v2")
    repository.project.work = repository.project.work.rename(hub.platform.folder / "moved")
    squatter = hub.github.repository("Late/first")
    squatter.project.commit({"stack.yml": stack("three"), "three/handler.py": handler("evil")})
    hub.send(
        "push",
        ref="refs/heads/main",
        after=repository.project.at("refs/heads/main"),
        repository=before,
        installation={"id": installation.id},
    )
    hub.push(repository, installation, change(repository, "three", "v3"))
    hub.answers("three.late", "v3")


def test_who_takes_a_name_that_was_given_up_gets_nothing(hub: Hub) -> None:
    """No event comes through; the sweep finds a new head under the old name."""
    repository = made(hub, "Given/up", "eight", private=False)
    hub.installed(hub.github.install(hub.app, repository))
    hub.answers("eight.given", "v1")
    hub.github.rename(repository, "moved")
    repository.project.work = repository.project.work.rename(hub.platform.folder / "moved-too")
    squatter = hub.github.repository("Given/up")
    squatter.project.commit({"stack.yml": stack("eight"), "eight/handler.py": handler("evil")})
    change(repository, "eight", "v2")
    answered = set()

    def right() -> bool:
        answered.add(hub.platform.call("eight.given").text)
        return "v2" in answered

    until(right, SECONDS, hub.platform.logs)
    assert "evil" not in answered


def test_an_owner_with_a_new_login_keeps_its_functions(hub: Hub) -> None:
    repository = made(hub, "Before/app", "nine", private=False)
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("nine.before", "v1")
    repository.owner.login = "After"
    new = hub.github.forge.folder / "After" / "app.git"
    new.parent.mkdir(exist_ok=True)
    repository.project.bare = repository.project.bare.rename(new)
    hub.push(repository, installation, change(repository, "nine", "v2"))
    hub.answers("nine.before", "v2")


def test_what_is_deleted_is_taken_down(hub: Hub) -> None:
    repository = made(hub, "Ends/here", "four", private=False)
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("four.ends", "v1")
    shown = repository.shown()
    late = {"action": "deleted", "repository": shown, "installation": {"id": installation.id}}
    hub.send("repository", **late)
    hub.push(repository, installation, change(repository, "four", "v2"))
    hub.answers("four.ends", "v2")
    hub.never_taken_down("ends")
    hub.github.delete(repository)
    hub.send("repository", **late)
    hub.gone("four.ends")


def test_an_app_that_is_uninstalled(hub: Hub) -> None:
    repository = made(hub, "Leaves/soon", "five")
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("five.leaves", "v1")
    hub.installed(installation, "deleted")  # a late one, of an earlier installation
    hub.push(repository, installation, change(repository, "five", "v2"))
    hub.answers("five.leaves", "v2")
    hub.never_taken_down("leaves")
    hub.github.uninstall(installation)
    hub.installed(installation, "deleted")
    hub.gone("five.leaves")
    again = hub.github.install(hub.app, repository)
    hub.installed(again)
    hub.answers("five.leaves", "v2")


def test_a_repository_that_is_transferred(hub: Hub) -> None:
    repository = made(hub, "Seller/app", "six")
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("six.seller", "v1")
    bare = repository.project.bare
    hub.github.forge.private.add("Buyer/app")
    repository.owner = hub.github.account("Buyer")
    new = hub.github.forge.folder / "Buyer" / "app.git"
    new.parent.mkdir(exist_ok=True)
    bare.rename(new)
    repository.project.bare = new
    theirs = hub.github.install(hub.app, repository)
    hub.github.uninstall(installation)
    hub.installed(theirs)
    hub.answers("six.buyer", "v1")
    hub.gone("six.seller")


def test_a_public_repository_that_is_made_private(hub: Hub) -> None:
    repository = made(hub, "Opener/lib", "seven", private=False)
    installation = hub.github.install(hub.app, repository)
    hub.installed(installation)
    hub.answers("seven.opener", "v1")
    repository.private = True
    hub.github.forge.private.add(repository.full_name)
    change(repository, "seven", "v2")  # and no event came through
    hub.answers("seven.opener", "v2")
