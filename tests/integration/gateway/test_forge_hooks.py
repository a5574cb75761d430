"""Hooks of single repositories, owners' namespaces, and events that say what is not known."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from typing import Any

import msgspec
import pytest
import requests
from click.testing import CliRunner

from cli.main import main
from core.errors import Conflict
from core.models import State
from core.names import NO_COMMIT
from core.repositories import Repository
from core.settings import Settings
from core.signing import secret_file
from core.store import Store
from core.store.base import encode
from core.store.forges import MAX_LOOKS, Look
from forges.events import ForgeRepository
from gateway import environments
from tests.integration.gateway.conftest import SECRET
from tests.integration.gateway.harness import Gateway, go_live

HUB = "https://github.com"


def repository(id_: int = 10, full_name: str = "Ann/fns", owner: int = 2, **more: Any) -> Any:
    login, _, name = full_name.partition("/")
    return {
        "id": id_,
        "name": name,
        "full_name": full_name,
        "private": False,
        "default_branch": "main",
        "owner": {"id": owner, "login": login},
        **more,
    }


def push(said: Any, commit: str = "a" * 40, branch: str = "main") -> Any:
    return {"ref": f"refs/heads/{branch}", "after": commit, "repository": said}


def send(
    gateway: Gateway, hook: dict[str, str], payload: Any, event: str = "push", secret: str = ""
) -> requests.Response:
    body = json.dumps(payload).encode()
    digest = hmac.new((secret or hook["secret"]).encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": f"sha256={digest}",
    }
    path = f"/webhooks/github/{hook['id']}".rstrip("/")
    return gateway.anonymous("POST", path, data=body, headers=headers)


def tell(gateway: Gateway, payload: Any, event: str = "push") -> requests.Response:
    """An event that the installation's own secret signed, which counts for all repositories."""
    return send(gateway, {"id": "", "secret": SECRET}, payload, event)


def hook_for(gateway: Gateway, full_name: str = "Ann/fns") -> dict[str, str]:
    wanted = {"forge": "github", "repository": full_name}
    answer = gateway.call("POST", "/system/hooks", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.fixture
def hook(gateway: Gateway, store: Store) -> dict[str, str]:
    """Of a repository that is known."""
    assert tell(gateway, push(repository(), "0" * 39 + "1")).status_code == 202
    assert len(store.releases()) == 1
    return hook_for(gateway)


def test_a_hook_speaks_for_its_repository(
    gateway: Gateway, store: Store, hook: dict[str, str]
) -> None:
    assert hook["url"].endswith(f"/webhooks/github/{hook['id']}")
    answer = send(gateway, hook, push(repository()))
    assert answer.status_code == 202
    assert store.release(answer.json()["release"]).namespace == "ann"
    listed = gateway.call("GET", "/system/hooks").json()
    assert [(each["id"], each["bound"]) for each in listed] == [(hook["id"], True)]
    assert hook["secret"] not in gateway.call("GET", "/system/hooks").text
    assert hook["secret"].encode() not in b"".join(store.redis.hgetall("slipway:hooks").values()), (
        "sealed"
    )


@pytest.mark.parametrize(
    ("forge", "path", "events"),
    [("gitlab", "acme/shop/fns", "tag push"), ("gitea", "crew/shop", "synchronized")],
)
def test_the_command_says_what_is_entered_at_the_forge(
    gateway: Gateway, forge: str, path: str, events: str
) -> None:
    state = ["--state", str(gateway.settings.state), "--url", gateway.settings.base_url]
    told = CliRunner().invoke(main, [*state, "hook", "create", forge, path])
    assert told.exit_code == 0, told.output
    assert events in told.stderr
    assert "SLIPWAY_PUBLIC_URL" in told.stderr, "nobody reaches loopback from elsewhere"
    assert events not in told.stdout


def test_and_for_no_other(gateway: Gateway, store: Store, hook: dict[str, str]) -> None:
    for bound in (False, True):
        for other in (repository(11), repository(11, "Bob/fns", 3), repository(11, "Ann/other")):
            if not bound and other["full_name"] == "Ann/fns":
                continue  # the name that it was made for
            answer = send(gateway, hook, push(other))
            assert (answer.status_code, "this hook" in answer.text) == (403, True) or (
                answer.status_code == 403 and "that repository alone" in answer.text
            )
        if not bound:
            assert send(gateway, hook, push(repository())).status_code == 202
    assert len(store.releases()) == 2
    installation = {
        "action": "created",
        "installation": {"id": 1, "account": {"id": 3, "login": "Bob"}},
        "repositories": [{"id": 12, "full_name": "Bob/fns"}],
    }
    answer = send(gateway, hook, installation, "installation")
    assert answer.status_code == 403
    assert store.looks() == []


def test_a_hook_takes_over_no_repository_that_is_known(
    gateway: Gateway, store: Store, hook: dict[str, str]
) -> None:
    """Whoever has the secret writes what he likes into the first event."""
    assert tell(gateway, push(repository(20, "Acme/shop", 4))).status_code == 202
    theirs = hook_for(gateway, "Mallory/evil")
    for said in (
        repository(20, "Mallory/evil", 9),
        repository(20, "Acme/shop", 4),
        repository(20, "Mallory/evil", 4),
    ):
        assert send(gateway, theirs, push(said)).status_code == 403, said
    assert not gateway.call("GET", "/system/hooks").json()[-1]["bound"]
    assert store.repository("acme", "shop").full_name == "Acme/shop"
    assert hook


def test_of_a_hook_s_first_event_the_forge_is_asked(gateway: Gateway, store: Store) -> None:
    """Nothing of what it says of the owner counts."""
    store.link_owner(f"{HUB}#4", "acme")
    theirs = hook_for(gateway, "Mallory/evil")
    answer = send(gateway, theirs, push(repository(21, "Mallory/evil", 4)))
    assert (answer.status_code, "is asked for" in answer.text) == (202, True)
    assert store.repositories() == []
    waiting = store.redis.hgetall("slipway:repositories:looks")
    (look,) = [msgspec.json.decode(raw, type=Look) for raw in waiting.values()]
    said = msgspec.json.decode(look.said, type=ForgeRepository)
    assert (said.owner_id, look.hook, look.installation) == ("", True, "")
    assert not gateway.call("GET", "/system/hooks").json()[-1]["bound"], "the forge has to tell"
    other = send(gateway, theirs, push(repository(21, "Acme/shop", 4)))
    assert other.status_code == 403, "nor is it bound to that id"
    for number in range(22, 25):
        assert send(gateway, theirs, push(repository(number, "Mallory/evil"))).status_code == 202
    waiting = store.redis.hgetall("slipway:repositories:looks")
    assert [msgspec.json.decode(raw, type=Look).forge_id for raw in waiting.values()] == ["24"]


def test_another_secret_opens_no_hook(gateway: Gateway, store: Store, hook: dict[str, str]) -> None:
    other = hook_for(gateway, "Bob/fns")
    answer = send(gateway, hook, push(repository()), secret=other["secret"])
    assert (answer.status_code, "SLIPWAY_" in answer.text) == (401, False)
    assert "the same as what 'slipway hook create' printed" in answer.text
    assert send(gateway, {**hook, "id": "f" * 16}, push(repository())).status_code == 401
    assert gateway.call("DELETE", f"/system/hooks/{hook['id']}").status_code == 202
    assert send(gateway, hook, push(repository())).status_code == 401
    assert gateway.call("DELETE", f"/system/hooks/{hook['id']}").status_code == 404
    assert len(store.releases()) == 1


def test_what_an_event_says_anew_is_asked_of_the_forge(
    gateway: Gateway, store: Store, hook: dict[str, str]
) -> None:
    assert send(gateway, hook, push(repository(), "f" * 40)).status_code == 202
    for number, said in enumerate(
        (
            repository(full_name="Ann/renamed"),
            repository(full_name="Bob/fns", owner=3),
            repository(private=True),
            repository(default_branch="trunk"),
        )
    ):
        answer = send(gateway, hook, push(said, f"{number}" * 40))
        assert (answer.status_code, "is asked for" in answer.text) == (202, True), said
    assert len(store.releases()) == 2
    known = store.repository("ann", "fns")
    assert (known.full_name, known.public, known.deploy_branch) == ("Ann/fns", True, "main")


def test_a_deletion_is_asked_about(gateway: Gateway, store: Store, hook: dict[str, str]) -> None:
    deleted = {"action": "deleted", "repository": repository()}
    absent = {"action": "deleted", "repository": repository(99, "Ann/none")}
    assert "nothing of Ann/none is here" in tell(gateway, absent, "repository").text
    assert "is asked for" in send(gateway, hook, deleted, "repository").text
    assert not store.repository("ann", "fns").gone


def test_two_logins_that_are_one_in_lower_case(gateway: Gateway, store: Store) -> None:
    assert tell(gateway, push(repository())).status_code == 202
    answer = tell(gateway, push(repository(11, "ANN/more", 9)))
    assert answer.status_code == 409
    assert f"slipway owner link {HUB}#9 ann" in answer.text
    linked = {"owner": f"{HUB}#9", "namespace": "ann"}
    assert gateway.call("PUT", "/system/owners", json=linked).status_code == 202
    assert tell(gateway, push(repository(11, "ANN/more", 9))).status_code == 202
    assert gateway.call("GET", "/system/owners").json() == [linked]
    answer = tell(gateway, push(repository(11, "ANN/fns", 9)))
    assert "is asked for" in answer.text, "another name than it had"
    answer = tell(gateway, push(repository(12, "ANN/fns", 9)))
    assert (answer.status_code, "would be called the same" in answer.text) == (409, True)
    assert {each.key for each in store.repositories()} == {"ann/fns", "ann/more"}


def test_a_login_that_is_no_namespace_is_given_one(gateway: Gateway, store: Store) -> None:
    answer = tell(gateway, push(repository(full_name="system/fns")))
    assert (answer.status_code, f"{HUB}#2" in answer.text) == (400, True)
    linked = {"owner": f"{HUB}#2", "namespace": "ours"}
    assert gateway.call("PUT", "/system/owners", json=linked).status_code == 202
    assert tell(gateway, push(repository(full_name="system/fns"))).status_code == 202
    assert store.repository("ours", "fns").full_name == "system/fns"
    unlinked = {"owner": f"{HUB}#2"}
    assert gateway.call("DELETE", "/system/owners", json=unlinked).status_code == 202
    assert gateway.call("DELETE", "/system/owners", json=unlinked).status_code == 404


def test_an_owner_with_a_new_login_is_the_same(gateway: Gateway, store: Store) -> None:
    assert tell(gateway, push(repository())).status_code == 202
    assert tell(gateway, push(repository(11, "Anna/more"))).status_code == 202
    assert {each.key for each in store.repositories()} == {"ann/fns", "ann/more"}


def test_who_was_known_by_its_path_alone_is_known_by_its_id_then(store: Store) -> None:
    first = Repository(namespace="crew", name="a", source="gitlab", forge_id="1")
    store.adopt_repository(first, "https://gitlab.com#path:crew")
    second = msgspec.structs.replace(first, name="b", forge_id="2", owner_id="7")
    with pytest.raises(Conflict):
        store.adopt_repository(second, "https://gitlab.com#8", "https://gitlab.com#path:other")
    store.adopt_repository(second, "https://gitlab.com#7", "https://gitlab.com#path:crew")
    assert store.holders()["crew"] == "https://gitlab.com#7"
    with pytest.raises(Conflict):
        store.adopt_repository(first, "https://gitlab.com#path:crew")


def test_environments_go_where_their_repository_goes(store: Store) -> None:
    parent = Repository(namespace="ann", name="a", source="github", forge_id="1", full_name="Ann/a")
    store.adopt_repository(parent, f"{HUB}#2")
    child = msgspec.structs.replace(
        parent, namespace="ann--staging", parent="ann/a", environment="staging"
    )
    store.save_repository(child)
    store.adopt_repository(msgspec.structs.replace(parent, full_name="Ann/b"), f"{HUB}#2")
    assert store.repository("ann--staging", "a").full_name == "Ann/b"
    assert store.repository_at("github", "1") == store.repository("ann", "a")


def test_what_an_older_version_wrote_is_found_by_its_id(store: Store) -> None:
    old = Repository(namespace="ann", name="a", source="github", forge_id="1")
    store.redis.hset("slipway:repositories", old.key, encode(old))
    assert store.repository_at("github", "1") is None
    store.index_repositories()
    assert store.repository_at("github", "1") == old


def test_what_is_gone_is_taken_down_whoever_died(settings: Settings, store: Store) -> None:
    """The mark was written, and nothing after it."""
    gone = Repository(
        namespace="ann", name="a", source="github", forge_id="1", deploy_branch="main", gone="x"
    )
    store.adopt_repository(gone, f"{HUB}#2")
    go_live(store, store.create_release(gone, "a" * 40, "main"), ["f"])
    environments.settle(settings, store)
    newest = store.newest_release("ann/a")
    assert newest is not None
    assert newest.commit == NO_COMMIT
    store.move(newest.id, [State.QUEUED], State.FAILED, "three dead workers")
    environments.settle(settings, store)
    again = store.newest_release("ann/a")
    assert again is not None
    assert (again.commit, again.state) == (NO_COMMIT, State.QUEUED)


@pytest.mark.parametrize("owner", ["", "#1", "https://evil.example#1", f"{HUB}#", "x" * 400])
def test_who_is_no_owner_gets_no_namespace(gateway: Gateway, store: Store, owner: str) -> None:
    linked = {"owner": owner, "namespace": "ann"}
    assert gateway.call("PUT", "/system/owners", json=linked).status_code == 400
    assert store.owners() == {}


def test_looks_are_bounded_and_the_newest_counts(store: Store) -> None:
    look = Look(forge="github", forge_id="1", said=b"{}", due=time.time() + 3600)
    rows = {f"github {number}": encode(look) for number in range(MAX_LOOKS)}
    store.redis.hset("slipway:repositories:looks", mapping=rows)
    assert store.ask_to_look(look), "it takes the place of the one that waits"
    assert not store.ask_to_look(Look(forge="github", forge_id="new", said=b"{}"))


def test_a_look_that_was_asked_for_again_meanwhile_stays(store: Store) -> None:
    first = Look(forge="github", forge_id="1", said=b"{}")
    store.ask_to_look(first)
    store.ask_to_look(Look(forge="github", forge_id="1", said=b"{}", commit="a" * 40))
    store.looked(first)
    (left,) = store.looks()
    assert left.commit == "a" * 40
    store.looked(left)
    assert store.looks() == []


def test_a_hook_s_event_does_not_replace_what_was_signed_for_all(store: Store) -> None:
    store.ask_to_look(Look(forge="github", forge_id="1", said=b'"all"', installation="7"))
    store.ask_to_look(
        Look(forge="github", forge_id="1", said=b'"hook"', commit="a" * 40, hook=True)
    )
    (left,) = store.looks()
    assert (left.said, left.hook) == (b'"all"', False)
    assert (left.installation, left.commit) == ("7", "a" * 40)
    store.ask_to_look(Look(forge="github", forge_id="1", said=b'"newer"'))
    assert store.looks()[0].said == b'"newer"'


def test_the_credential_is_the_builder_s_alone(gateway: Gateway, store: Store) -> None:
    store.save_repository(Repository(namespace="ann", name="fns", source="github"))
    path = "/internal/repositories/ann/fns/credential"
    for method, each in (("GET", path), ("POST", path.replace("credential", "look"))):
        assert gateway.anonymous(method, each).status_code == 401
        assert gateway.call(method, each).status_code == 401, "nor the admin's"


def test_where_there_is_no_token_the_setting_is_named(gateway: Gateway, store: Store) -> None:
    store.save_repository(Repository(namespace="ann", name="fns", source="gitlab"))
    path = "/internal/repositories/ann/fns/credential"
    builder = {"Authorization": f"Bearer {secret_file(gateway.settings.token_file)}"}
    told = gateway.anonymous("GET", path, headers=builder).json()
    assert told["trouble"].startswith("the administrator sets SLIPWAY_GITLAB_TOKEN_FILE")
