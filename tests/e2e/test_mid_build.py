"""What becomes of a repository at its forge while one of its releases is made: it is fetched,
built, tested or about to be handed over, and stands there until the test lets it go on.

No branch head is looked for by itself here: all that is heard of is an event, where one is sent,
or is asked as the build goes on.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.failpoints import VARIABLE
from tests.chaos.points import Points
from tests.e2e.overtaking import held
from tests.e2e.platform import Answer, Platform, handler, running, stack
from tests.e2e.test_github_app import Hub
from tests.e2e.test_gitlab_gitea import GITEA_PUSH, SECRET, of_gitea, of_gitlab
from tests.forges import gitea as gitea_server
from tests.forges import gitlab as gitlab_server
from tests.forges.gitea import Gitea, serving_gitea
from tests.forges.github import GitHub, Installation, Repository, serving_github
from tests.forges.gitlab import GitLab, serving_gitlab
from tests.forges.server import git
from tests.waiting import until

SECONDS = 20
WENT_LIVE = ("live", "replaced")
CALLED_OFF = ("cancelled", "failed")
FETCHED, BUILT, TESTED, ALL_DONE = "checked-out", "assembled", "tested", "handing-over"


@dataclass
class World:
    """A platform with three forges."""

    hub: Hub
    gitlab: GitLab
    gitea: Gitea
    tokens: set[str] = field(default_factory=set)
    """Every one that a forge gave, also those that ended since."""

    @property
    def platform(self) -> Platform:
        return self.hub.platform

    @property
    def github(self) -> GitHub:
        return self.hub.github

    def release(self, id_: str) -> dict[str, Any]:
        return dict(self.platform.request(f"/system/releases/{id_}", admin=True).json())

    def ended(self, id_: str) -> dict[str, Any]:
        """A release, once it is decided."""
        moving = ("queued", "building", "testing", "staging")

        def decided() -> dict[str, Any] | None:
            found = self.release(id_)
            return None if found["state"] in moving else found

        return until(decided, SECONDS, self.platform.logs)

    def releases(self, repository: str) -> list[dict[str, Any]]:
        """Of ``<namespace>/<name>``, the newest first."""
        return [
            each
            for each in self.hub.releases(repository.partition("/")[0])
            if f"{each['namespace']}/{each['repository']}" == repository
        ]

    def rest(self, repository: str) -> list[dict[str, Any]]:
        """All of its releases, once all are decided."""
        for each in self.releases(repository):
            self.ended(each["id"])
        return self.releases(repository)

    def log(self, id_: str) -> str:
        """As far as it has got."""
        return self.platform.request(f"/system/releases/{id_}/logs", admin=True).text

    def status(self, path: str) -> int:
        """Of a page, as somebody gets it who has not signed in."""
        return self.platform.request(path).status

    @contextmanager
    def standing(self, step: str) -> Iterator[Points]:
        """Whatever release gets to the step next stands there until the end of the block."""
        points = Points(self.platform.folder / "points")
        points.arm(step)
        try:
            yield points
        finally:
            points.release(step)
            self.tokens |= {*self.github.tokens, self.gitlab.token, self.gitea.token}
            for each in self.gitlab.repositories.values():
                self.tokens |= {token["token"] for token in each.tokens}

    def stands(self, points: Points, step: str, repository: str) -> str:
        """Id of the release of this repository that has got there."""
        until(lambda: points.reached(step), SECONDS, self.platform.logs)
        return str(self.releases(repository)[0]["id"])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with (
        serving_github(folder / "github") as github,
        serving_gitlab(folder / "gitlab") as gitlab,
        serving_gitea(folder / "gitea") as gitea,
    ):
        app = github.app()
        for name, text in (("key", app.pem), ("lab", gitlab.token), ("tea", gitea.token)):
            (folder / name).write_text(f"{text}\n")
        extra = {
            VARIABLE: f"{folder}/points",
            "SLIPWAY_GITHUB_URL": github.url,
            "SLIPWAY_GITHUB_APP_ID": str(app.id),
            "SLIPWAY_GITHUB_APP_KEY_FILE": str(folder / "key"),
            "SLIPWAY_GITHUB_WEBHOOK_SECRET": str(app.webhook_secret),
            "SLIPWAY_GITLAB_URL": gitlab.url,
            "SLIPWAY_GITLAB_WEBHOOK_SECRET": SECRET,
            "SLIPWAY_GITLAB_TOKEN_FILE": str(folder / "lab"),
            "SLIPWAY_GITEA_URL": gitea.url,
            "SLIPWAY_GITEA_WEBHOOK_SECRET": SECRET,
            "SLIPWAY_GITEA_TOKEN_FILE": str(folder / "tea"),
            "SLIPWAY_SWEEP": "0s",
        }
        with running(folder, **extra) as platform:
            yield World(Hub(github, app, platform), gitlab, gitea)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Held:
    """A release at GitHub that stands, of ``v2``; ``v1`` is live. The repository and its function
    are called the same."""

    world: World
    repository: Repository
    installation: Installation
    commit: str
    key: str
    """What the repository is here."""
    id: str = ""

    @property
    def function(self) -> str:
        namespace, _, name = self.key.partition("/")
        return f"{name}.{namespace}"

    @property
    def page(self) -> str:
        return f"/releases/{self.id}/log"

    @property
    def badge(self) -> str:
        return f"/badge/{self.key}.svg"

    def told(self, action: str, installation: Installation | None = None) -> None:
        """The event that GitHub sends of a repository."""
        self.world.hub.send(
            "repository",
            action=action,
            repository=self.repository.shown(),
            installation={"id": (installation or self.installation).id},
        )

    def shows(self, conclusion: str) -> None:
        """The newest check run of a whole release of the commit."""

        def shown() -> bool:
            found = [
                each["conclusion"]
                for each in self.repository.checks
                if (each["name"], each["head_sha"]) == ("slipway", self.commit)
            ]
            return found[-1:] == [conclusion]

        until(shown, SECONDS, self.world.platform.logs)

    def goes_live(self) -> None:
        done = self.world.ended(self.id)
        assert done["state"] in WENT_LIVE, done
        self.world.hub.answers(self.function, "v2")

    def never_live(self, why: str) -> None:
        """It ends with that reason, and what was live of the repository comes down."""
        done = self.world.ended(self.id)
        assert done["state"] in CALLED_OFF, done
        assert why in done["reason"]
        assert why in self.world.log(self.id)
        self.world.hub.gone(self.function)
        for each in self.world.rest(self.key):
            assert each["commit"] != self.commit or each["state"] in CALLED_OFF


def files(name: str) -> dict[str, str]:
    """A function that is like no other: nothing of another repository is reused for it."""
    return {
        "stack.yml": stack(name),
        f"{name}/handler.py": handler("v1"),
        f"{name}/name.txt": name,
    }


@contextmanager
def live(world: World, name: str, owner: str = "Acme", *, private: bool = True) -> Iterator[Held]:
    """A repository whose ``v1`` is live, and which has ``v2`` of which nobody was told."""
    repository = world.github.repository(f"{owner}/{name}", private=private)
    repository.project.commit(files(name))
    installation = world.github.install(world.hub.app, repository)
    world.hub.installed(installation)
    world.hub.answers(f"{name}.{owner.lower()}", "v1")
    head = repository.project.commit({f"{name}/handler.py": handler("v2")})
    yield Held(world, repository, installation, head, f"{owner.lower()}/{name}")


@contextmanager
def building(
    world: World, name: str, step: str, owner: str = "Acme", *, private: bool = True
) -> Iterator[Held]:
    """The release of ``v2`` stands at the step until the end of the block."""
    with live(world, name, owner, private=private) as found, world.standing(step) as points:
        world.hub.push(found.repository, found.installation, found.commit)
        found.id = world.stands(points, step, found.key)
        yield found


# What changes nothing for anybody.


@pytest.mark.parametrize(("step", "heard"), [(FETCHED, True), (BUILT, False), (ALL_DONE, True)])
def test_renamed(world: World, step: str, heard: bool) -> None:
    with building(world, f"renamed-{step}", step) as release:
        world.github.rename(release.repository, f"other-{step}")
        if heard:
            release.told("renamed")
    release.goes_live()
    release.shows("success")
    states = {each["state"] for each in world.rest(release.key)}
    assert states <= {*WENT_LIVE, "superseded"}, "it keeps its name here"


def test_renamed_while_it_is_fetched(world: World) -> None:
    """By its old name nothing is fetched any more: it is released anew from where it is now."""
    with live(world, "moving") as release:
        with held(world.platform, *release.key.split("/")):
            told = world.hub.push(release.repository, release.installation, release.commit)
            release.id = json.loads(told)["release"]
            until(lambda: "checking out" in world.log(release.id), SECONDS, world.platform.logs)
            world.github.rename(release.repository, "moved")
        world.hub.answers(release.function, "v2")
        release.shows("success")
        assert world.rest(release.key)[0]["state"] == "live"


def test_its_owner_has_a_new_login(world: World) -> None:
    with building(world, "app", TESTED, "Before") as release:
        world.github.rename_owner(release.repository.owner, "After")
    release.goes_live()
    assert world.releases("after/app") == []


def test_archived(world: World) -> None:
    """GitHub takes nothing more of what is to be shown there."""
    with building(world, "archived", BUILT) as release:
        release.repository.archived = True
        release.told("archived")
    release.goes_live()
    until(lambda: "so is read-only" in world.log(release.id), SECONDS, world.platform.logs)


@pytest.mark.parametrize("heard", [True, False])
def test_made_private(world: World, heard: bool) -> None:
    with building(world, f"hides-{heard:d}", BUILT, private=False) as release:
        assert (world.status(release.page), world.status(release.badge)) == (200, 200)
        release.repository.private = True
        world.github.forge.private.add(release.repository.full_name)
        if heard:
            release.told("privatized")
            until(lambda: world.status(release.badge) == 404, SECONDS, world.platform.logs)
            assert world.status(release.page) == 401, "while it is built"
    release.goes_live()
    until(lambda: world.status(release.badge) == 404, SECONDS, world.platform.logs)
    assert world.status(release.page) == 401


def test_made_public(world: World) -> None:
    with building(world, "opens", BUILT) as release:
        assert (world.status(release.page), world.status(release.badge)) == (401, 404)
        release.repository.private = False
        world.github.forge.private.discard(release.repository.full_name)
        release.told("publicized")
    release.goes_live()
    until(lambda: world.status(release.badge) == 200, SECONDS, world.platform.logs)
    assert world.status(release.page) == 200


# Another commit, or none.


def test_pushed_by_force(world: World) -> None:
    with building(world, "forced", BUILT) as release:
        project = release.repository.project
        git(project.work, "reset", "--quiet", "--hard", "HEAD~1")
        head = project.commit({"forced/handler.py": handler("v3")}, force=True)
        world.hub.push(release.repository, release.installation, head)
    world.hub.answers(release.function, "v3")
    found = world.rest(release.key)
    assert [each["commit"] for each in found if each["state"] == "live"] == [head]


def test_its_branch_is_deleted(world: World) -> None:
    with building(world, "pruned", BUILT) as release:
        release.repository.project.point("refs/heads/main", "")
        world.hub.send(
            "push",
            ref="refs/heads/main",
            after="0" * 40,
            deleted=True,
            repository=release.repository.shown(),
            installation={"id": release.installation.id},
        )
    world.ended(release.id)
    world.hub.gone(release.function)
    assert world.rest(release.key)[0]["commit"] == "0" * 40


# What ends it.


@pytest.mark.parametrize(("step", "heard"), [(BUILT, True), (FETCHED, False), (ALL_DONE, False)])
def test_deleted(world: World, step: str, heard: bool) -> None:
    private = step == FETCHED
    with building(world, f"gone-{step}", step, private=private) as release:
        world.github.delete(release.repository)
        if heard:
            release.told("deleted")
            done = world.ended(release.id)  # at once: nobody waits for what is built
            assert (done["state"], done["reason"]) == ("cancelled", "the repository was deleted")
    release.never_live("deleted" if heard else "is not there any more")


@pytest.mark.parametrize("heard", [True, False])
def test_transferred(world: World, heard: bool) -> None:
    with building(world, f"sold-{heard:d}", BUILT) as release:
        world.github.transfer(release.repository, "Buyer")
        theirs = world.github.install(world.hub.app, release.repository)
        if heard:
            release.told("transferred", theirs)
    release.never_live("belongs to Buyer now")
    world.hub.answers(f"sold-{heard:d}.buyer", "v2")
    release.shows("success")


@pytest.mark.parametrize("heard", [True, False])
def test_taken_from_the_app(world: World, heard: bool) -> None:
    """A public one, which everybody could still fetch."""
    with building(world, f"taken-{heard:d}", TESTED, private=False) as release:
        release.installation.repositories -= {release.repository.id}
        if heard:
            world.hub.send(
                "installation_repositories",
                action="removed",
                installation={
                    "id": release.installation.id,
                    "account": release.repository.owner.shown(),
                },
                repositories_removed=[
                    {"id": release.repository.id, "full_name": release.repository.full_name}
                ],
            )
    told = "was taken from it" if heard else "no installation of the App has it any more"
    release.never_live(told)


@pytest.mark.parametrize("heard", [True, False])
def test_the_app_is_uninstalled(world: World, heard: bool) -> None:
    with building(world, f"left-{heard:d}", BUILT) as release:
        world.github.uninstall(release.installation)
        if heard:
            world.hub.installed(release.installation, "deleted")
    release.never_live("the App was uninstalled" if heard else "is not there any more")


# The same at other forges.


class AtGitLab:
    prefix = "lab"

    def __init__(self, world: World) -> None:
        self.world = world

    def made(self, name: str) -> gitlab_server.Repository:
        return self.world.gitlab.repository(f"lab-{name}/{name}")

    def push(self, project: gitlab_server.Repository, commit: str) -> None:
        assert of_gitlab(self.world.platform, project, commit).status == 202

    def rename(self, project: gitlab_server.Repository) -> None:
        self.world.gitlab.rename(project, f"{project.full_name}-moved")

    def delete(self, project: gitlab_server.Repository) -> None:
        self.world.gitlab.delete(project)

    def tell(self, project: gitlab_server.Repository, change: str) -> Answer:
        said = {
            "event_name": {"rename": "project_rename", "delete": "project_destroy"}[change],
            "project_id": project.id,
            "path_with_namespace": project.full_name,
            "project_visibility": "private",
        }
        headers = {
            "Content-Type": "application/json",
            "X-Gitlab-Event": "System Hook",
            "X-Gitlab-Event-UUID": str(uuid.uuid4()),
            "X-Gitlab-Token": SECRET,
        }
        return self.world.platform.request(
            "/webhooks/gitlab", method="POST", data=json.dumps(said).encode(), headers=headers
        )


class AtGitea:
    """It tells nobody that a repository is renamed."""

    prefix = "tea"

    def __init__(self, world: World) -> None:
        self.world = world

    def made(self, name: str) -> gitea_server.Repository:
        return self.world.gitea.repository(f"tea-{name}/{name}")

    def push(self, repository: gitea_server.Repository, commit: str) -> None:
        assert of_gitea(self.world.platform, repository, commit).status == 202

    def rename(self, repository: gitea_server.Repository) -> None:
        self.world.gitea.rename(repository, f"{repository.full_name}-moved")

    def delete(self, repository: gitea_server.Repository) -> None:
        self.world.gitea.delete(repository)

    def tell(self, repository: gitea_server.Repository, _: str) -> Answer:
        payload = {"action": "deleted", "repository": copy.deepcopy(GITEA_PUSH["repository"])}
        payload["repository"] |= repository.shown()
        body = json.dumps(payload).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Gitea-Event": "repository",
            "X-Gitea-Delivery": str(uuid.uuid4()),
            "X-Gitea-Signature": hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest(),
        }
        return self.world.platform.request(
            "/webhooks/gitea", method="POST", data=body, headers=headers
        )


@pytest.mark.parametrize(
    ("kind", "change", "heard"),
    [
        (AtGitLab, "rename", True),
        (AtGitLab, "rename", False),
        (AtGitLab, "delete", True),
        (AtGitLab, "delete", False),
        (AtGitea, "rename", False),
        (AtGitea, "delete", True),
        (AtGitea, "delete", False),
    ],
)
def test_at_other_forges(
    world: World, kind: type[AtGitLab] | type[AtGitea], change: str, heard: bool
) -> None:
    there: Any = kind(world)
    name = f"{change}-{heard:d}"
    owner = f"{there.prefix}-{name}"
    key, function = f"{owner}/{name}", f"{name}.{owner}"
    repository = there.made(name)
    there.push(repository, repository.project.commit(files(name)))
    world.hub.answers(function, "v1")
    head = repository.project.commit({f"{name}/handler.py": handler("v2")})
    with world.standing(BUILT) as points:
        there.push(repository, head)
        id_ = world.stands(points, BUILT, key)
        there.rename(repository) if change == "rename" else there.delete(repository)
        if heard:
            assert there.tell(repository, change).status == 202
    done = world.ended(id_)
    if change == "delete":
        assert done["state"] in CALLED_OFF, done
        assert ("deleted" if heard else "is not there any more") in done["reason"]
        world.hub.gone(function)
    else:
        assert done["state"] in WENT_LIVE, done
        world.hub.answers(function, "v2")
        until(
            lambda: "success" in {e["state"] for e in repository.statuses if e["sha"] == head},
            SECONDS,
            world.platform.logs,
        )
    world.rest(key)


def test_no_token_of_these_forges_was_written_down(world: World) -> None:
    """In no file of the state folder, the store's and logs among them. The last test: it looks for
    all of them."""
    assert len(world.tokens) > 10
    wanted = world.platform.folder / "wanted"
    wanted.write_text("".join(f"{each}\n" for each in world.tokens))
    argv = ("grep", "-rlF", "-D", "skip", "-f", str(wanted), str(world.platform.folder / "state"))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
