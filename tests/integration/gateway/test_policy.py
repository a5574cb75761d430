"""The policy at a real gateway: where it is read from, what a broken one does, and what is refused
by it."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import requests
from click.testing import CliRunner

from cli.main import main
from core import keys, queues
from core.bundle import Bundle, bundle_folder
from core.errors import NotAllowed
from core.models import State, now
from core.names import NO_COMMIT
from core.policy import Held, Owner, Policy
from core.repositories import Repository, Request
from core.scopes import Scope
from core.settings import Settings
from core.store import Store
from gateway import heads, policysources
from gateway.app import create_app
from gateway.policy import check_release, look, require_allowed
from gateway.policysources import MAX_BYTES
from tests.integration.gateway.conftest import SECRET
from tests.integration.gateway.harness import (
    BUILDER,
    Gateway,
    Hand,
    artifact,
    commit,
    deploy,
    go_live,
    head,
    repository,
    running,
)
from tests.integration.gateway.test_gateway_webhooks import PUSH
from tests.integration.gateway.test_gateway_webhooks import send as webhook
from tests.waiting import until

BROKEN = "owners: [acme]\nfunktions: 3\n"


def held(store: Store) -> Held:
    found = store.held_policy()
    assert found
    return found


def looked(settings: Settings, store: Store) -> Held:
    found = look(settings, store)
    assert found
    in_store = store.held_policy()
    assert in_store
    assert (in_store.policy, in_store.mark) == (found.policy, found.mark), "for all to read"
    return found


# Sources


@pytest.fixture
def file(settings: Settings, short_tmp: Path) -> tuple[Settings, Path]:
    path = short_tmp / "policy.yml"
    return replace(settings, policy=str(path)), path


def test_a_broken_file_leaves_the_last_good_one(file: tuple[Settings, Path], store: Store) -> None:
    settings, path = file
    first = looked(settings, store)
    assert (first.policy, first.since) == (None, "")
    assert first.trouble == f"there is no file {path}"
    assert not store.policy(settings.policy).allows("github", "acme", "1")
    path.write_text("owners: [acme]")
    good = looked(settings, store)
    assert (good.trouble, good.source) == ("", str(path))
    assert store.policy(settings.policy).allows("github", "acme", "1")
    assert looked(settings, store) == good, "the same file is not read again"
    path.write_text(BROKEN)
    broken = looked(settings, store)
    assert "line 2: funktions is not known" in broken.trouble
    assert (broken.policy, broken.since) == (good.policy, good.since)
    path.unlink()
    assert looked(settings, store).trouble == f"there is no file {path}"
    assert held(store).policy == good.policy
    path.mkdir()
    assert "there is no file" in looked(settings, store).trouble
    path.rmdir()
    path.write_text("owners: [acme, bob]")
    fixed = looked(settings, store)
    assert fixed.trouble == ""
    assert store.policy(settings.policy).allows("gitea", "bob", "2")


def test_another_source_does_not_inherit_what_held(
    file: tuple[Settings, Path], store: Store
) -> None:
    settings, path = file
    path.write_text("owners: [acme]")
    looked(settings, store)
    other = replace(settings, policy=f"{path}.other")
    assert looked(other, store).policy is None
    assert not store.policy(other.policy).allows("github", "acme", "1")
    assert look(replace(settings, policy=""), store) is None
    assert store.held_policy() is None, "nothing is bounded any more"


def test_what_is_older_does_not_replace_what_is_newer(
    file: tuple[Settings, Path], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, path = file
    path.write_text("owners: [old]")
    looked(settings, store)
    path.write_text("owners: [older]")
    read = policysources.File.read

    def slowly(source: policysources.File, mark: str) -> tuple[bytes, str] | None:
        found = read(source, mark)
        monkeypatch.setattr(policysources.File, "read", read)
        path.write_text("owners: [newest]")  # and the other gateway reads it
        looked(settings, store)
        return found

    monkeypatch.setattr(policysources.File, "read", slowly)
    looked(settings, store)
    assert store.policy(settings.policy).owners == (Owner(login="newest"),)


def test_a_large_file_is_refused(file: tuple[Settings, Path], store: Store) -> None:
    settings, path = file
    path.write_text("#" * (MAX_BYTES + 1))
    assert looked(settings, store).trouble == f"the policy has more than {MAX_BYTES} bytes"


class Web:
    """A server of one document, that keeps what was asked of it."""

    def __init__(self) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda _: None
        self.asked: list[dict[str, str]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append({name.lower(): value for name, value in self.headers.items()})
                web.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/policy.yml?token=hush"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, status: int, body: bytes = b"", **headers: str) -> None:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name.replace("_", "-"), value)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

        self.answer = answer

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    found = Web()
    yield found
    found.close()


def test_a_url_is_asked_whether_it_changed(settings: Settings, store: Store, web: Web) -> None:
    settings = replace(settings, policy=web.url)
    web.says(200, b"owners: [acme]", ETag='"one"')
    assert looked(settings, store).trouble == ""
    assert "if-none-match" not in web.asked[-1]
    assert "hush" not in held(store).source
    web.says(304)
    assert looked(settings, store).trouble == ""
    assert web.asked[-1]["if-none-match"] == '"one"'
    web.says(200, b"owners: [bob]", Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")
    assert looked(settings, store).trouble == ""
    assert store.policy(settings.policy).allows("github", "bob", "1")
    looked(settings, store)
    assert web.asked[-1]["if-modified-since"] == "Thu, 01 Jan 2026 00:00:00 GMT"


def test_what_a_url_answers_wrongly_changes_nothing(
    settings: Settings, store: Store, web: Web
) -> None:
    settings = replace(settings, policy=web.url)
    web.says(304)
    assert "answers with 304" in looked(settings, store).trouble, "there is none to be the same as"
    web.says(200, b"owners: [acme]", ETag='"one"')
    good = looked(settings, store)
    for status, body, headers, told in (
        (302, b"", {"Location": web.url}, "answers with 302"),
        (404, b"", {}, "answers with 404"),
        (500, b"owners: []", {}, "answers with 500"),
        (200, b"#" * (MAX_BYTES + 1), {}, f"more than {MAX_BYTES} bytes"),
        (200, b"<html>", {}, "it has to have 'owners:'"),
        (200, b"", {}, "it has to have 'owners:'"),
    ):
        web.says(status, body, **headers)
        count = len(web.asked)
        after = looked(settings, store)
        assert told in after.trouble
        assert "hush" not in after.trouble
        assert after.policy == good.policy
        assert len(web.asked) == count + 1, "no redirect is followed"
        assert web.asked[-1]["if-none-match"] == '"one"', "of the last good one"
    web.says(304)
    assert looked(settings, store).trouble == "", "it is back"


def test_a_url_that_does_not_answer_changes_nothing(
    settings: Settings, store: Store, web: Web
) -> None:
    settings = replace(settings, policy=web.url)
    web.says(200, b"owners: [acme]")
    good = looked(settings, store)
    web.close()
    after = looked(settings, store)
    assert "does not answer (ConnectionError)" in after.trouble
    assert after.policy == good.policy


def test_the_url_s_password_is_sent_and_not_told(
    settings: Settings, store: Store, web: Web
) -> None:
    settings = replace(settings, policy=web.url.replace("http://", "http://me:p%40ss@"))
    web.says(401)
    found = looked(settings, store)
    assert web.asked[-1]["authorization"] == "Basic bWU6cEBzcw=="
    assert "p%40ss" not in found.source + found.trouble


@pytest.fixture(scope="module")
def in_git(valkey: str) -> Iterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, valkey, SLIPWAY_POLICY="git:ops/policy:rules/policy.yml") as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)


def test_a_push_changes_the_policy(in_git: Gateway, store: Store, tmp_path: Path) -> None:
    settings, place = in_git.settings, "rules/policy.yml"
    assert "nothing was pushed to ops/policy" in looked(settings, store).trouble
    work = repository(tmp_path / "w", {place: BROKEN})

    def push() -> str:
        status, told = in_git.run("push", in_git.remote("ops/policy"), "main", cwd=work)
        assert status == 0, told
        return told

    told = push()
    assert "line 2: funktions is not known" in told
    assert "slipway: the policy is NOT taken: nobody may deploy" in told
    commit(work, {place: "owners: [acme]"})
    assert "slipway: the policy is in force" in push()
    assert held(store).mark == head(work)
    good = held(store).policy
    assert good
    assert store.policy(settings.policy).allows("github", "acme", "1")
    for files in (
        {place: BROKEN},
        {place: "#" * (MAX_BYTES + 1)},
        {f"{place}/inside": "x"},
    ):
        shutil.rmtree(work / "rules")
        commit(work, dict(files))
        assert "slipway: the policy is NOT taken: the one before stays in force" in push()
        assert held(store).policy == good
    shutil.rmtree(work / "rules")
    (work / "rules").mkdir()
    (work / place).symlink_to("/etc/passwd")
    commit(work, {})
    assert f"remote: '{place}' of ops/policy at {head(work)[:12]} cannot be read" in push()
    (work / place).unlink()
    commit(work, {place: "owners: [bob]"})
    assert "slipway: the policy is in force" in push()
    assert store.policy(settings.policy).allows("github", "bob", "1")
    heads.compare(settings, store)
    assert store.releases("ops", "policy") == [], "it is read, and not deployed"


def test_the_policy_is_the_admin_s_alone(in_git: Gateway, store: Store, tmp_path: Path) -> None:
    work = repository(tmp_path / "w", {"rules/policy.yml": "owners: [acme]"})
    remote = in_git.remote("ops/policy")
    told = in_git.run("push", "--force", remote, "main", cwd=work)
    assert "the policy is in force" in told[1]
    token = store.create_token("ops", list(Scope)).token
    good = held(store).policy
    commit(work, {"rules/policy.yml": "{}"})

    def push(name: str, refspec: str) -> tuple[int, str]:
        address = in_git.remote(name).replace("://", f"://x:{token}@")
        keeps = ("-c", "credential.helper=")  # else git keeps the token, for the admin's pushes
        return in_git.run(*keeps, "push", "--force", address, refspec, cwd=work)

    for refspec in ("main", "main:other", ":main"):
        status, said = push("ops/policy", refspec)
        assert status, refspec
        assert "403" in said
    assert push("ops/else", "main:topic")[0] == 0
    owners = {"Authorization": f"Bearer {token}"}
    body = {"namespace": "ops", "repository": "policy"}
    for method, path in (
        ("GET", "/git/ops/policy.git/info/refs?service=git-receive-pack"),
        ("POST", "/git/ops/policy.git/git-receive-pack"),
        ("POST", "/system/releases"),
        ("POST", "/system/rollback"),
    ):
        more = {"json": body} if path.startswith("/system") else {}
        refused = in_git.anonymous(method, path, headers=owners, **more)
        assert refused.status_code == 403, path
        assert refused.text.startswith("ops/policy has the policy of this installation")
    assert in_git.call("POST", "/system/rollback", json=body).status_code == 409, "none was live"
    assert looked(in_git.settings, store).policy == good
    assert store.releases("ops", "policy") == []


def test_a_release_waits_for_the_first_policy(
    in_git: Gateway, store: Store, tmp_path: Path
) -> None:
    look(in_git.settings, store)
    work = repository(tmp_path / "fns", {"stack.yml": "version: 1.0\n"})
    told: list[str] = []

    def push() -> None:
        told.append(in_git.run("push", in_git.remote("ann/waits"), "main", cwd=work)[1])

    pushing = threading.Thread(target=push)
    with Hand(store, lambda release: go_live(store, release)):
        pushing.start()
        until(lambda: store.releases("ann", "waits"), 10, lambda: str(told))
        assert queues.dispatch(store, "ann/waits") == ""
        rules = repository(tmp_path / "rules", {"rules/policy.yml": "{}"})
        pushed = in_git.run("push", "--force", in_git.remote("ops/policy"), "main", cwd=rules)
        assert "the policy is in force" in pushed[1]
        assert queues.dispatch(store, "ann/waits") == store.releases("ann", "waits")[0].id
        pushing.join(20)
    assert "waits: nobody may deploy here now" in told[0]
    assert "slipway: live" in told[0]


# What is refused


@pytest.fixture(scope="module")
def bounded(valkey: str) -> Iterator[Gateway]:
    """A gateway whose runtime takes images; its policy is a file."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    policy = folder / "policy.yml"
    policy.write_text("{}")
    with running(
        folder,
        valkey,
        SLIPWAY_POLICY=str(policy),
        SLIPWAY_RUNTIME="docker",
        SLIPWAY_GITHUB_WEBHOOK_SECRET=SECRET,
    ) as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def rule(bounded: Gateway, store: Store) -> Callable[[str], None]:
    """Changes the policy of ``bounded``."""

    def change(text: str) -> None:
        Path(bounded.settings.policy).write_text(text)
        assert looked(bounded.settings, store).trouble == ""

    store.claim_namespace("acme", "git")
    store.claim_namespace("acme--staging", "git")
    return change


Rule = Callable[[str], None]


FORKS = Repository(
    namespace="acme--pr-5",
    name="fns",
    source="github",
    parent="acme/fns",
    request=Request(number=5, fork=True),
)


def send(gateway: Gateway, name: str, space: str = "acme", **body: Any) -> requests.Response:
    image = {"service": name, "image": "ghcr.io/openfaas/figlet:0.1", "namespace": space}
    return gateway.call("POST", "/system/functions", json=image | body)


def test_the_number_of_functions_is_bounded(bounded: Gateway, store: Store, rule: Rule) -> None:
    rule("default: {functions: 1}\npolicies: {acme: {functions: 2}}")
    assert send(bounded, "a").status_code == 202
    assert send(bounded, "b", "acme--staging").status_code == 202
    refused = send(bounded, "c")
    assert refused.status_code == 403
    assert refused.text.startswith(
        "acme would have 3 functions with its environments and previews, where the most is "
        "2: remove a function, or ask the administrator"
    )
    assert sorted(store.functions()) == ["a.acme", "b.acme--staging"]
    again = {"service": "a", "image": "ghcr.io/openfaas/figlet:0.2", "namespace": "acme"}
    assert bounded.call("PUT", "/system/functions", json=again).status_code == 202
    rule("default: {functions: 1}")
    refused = bounded.call("PUT", "/system/functions", json=again)
    assert refused.status_code == 403, "what is too much is not renewed"
    gone = {"functionName": "b", "namespace": "acme--staging"}
    assert bounded.call("DELETE", "/system/functions", json=gone).status_code == 202
    assert bounded.call("PUT", "/system/functions", json=again).status_code == 202


def test_memory_and_cpus_are_summed(bounded: Gateway, rule: Rule) -> None:
    rule("default: {memory: 1Gi, cpus: 2}")
    assert send(bounded, "a", limits={"memory": "512Mi", "cpu": "500m"}).status_code == 202
    assert send(bounded, "b").status_code == 202, "256Mi and a CPU, as everything without limits"
    refused = send(bounded, "c", limits={"memory": "300Mi", "cpu": "0.6"})
    assert refused.status_code == 403
    memory, processors = refused.text.splitlines()[:2]
    assert memory.startswith("acme would have 1068Mi of memory with its environments")
    assert processors.startswith("acme would have 2.1 cpus with its environments")
    labels = {"com.openfaas.scale.min": "2"}
    refused = send(bounded, "c", limits={"memory": "128Mi", "cpu": "0.3"}, labels=labels)
    assert "2.1 cpus" in refused.text, "for each replica"
    assert send(bounded, "c", limits={"memory": "256Mi", "cpu": "0.5"}).status_code == 202


def test_replicas_are_bounded(bounded: Gateway, store: Store, rule: Rule) -> None:
    rule("default: {replicas: 3}")
    assert send(bounded, "a").status_code == send(bounded, "b").status_code == 202

    def scale(name: str, replicas: int) -> requests.Response:
        body = {"serviceName": name, "replicas": replicas, "namespace": "acme"}
        return bounded.call("POST", f"/system/scale-function/{name}", json=body)

    assert scale("a", 2).status_code == 202
    refused = scale("a", 3)
    assert (refused.status_code, "4 replicas" in refused.text) == (403, True)
    assert scale("b", 0).status_code == 202
    assert scale("a", 3).status_code == 403, "it wakes with one"
    alert = {"alerts": [{"status": "firing", "labels": {"function_name": "a.acme"}}]}
    refused = bounded.call("POST", "/system/alert", json=alert)
    assert (refused.status_code, "[0] acme would have 4" in refused.text) == (403, True)
    rule("default: {replicas: 1}")
    assert scale("a", 1).status_code == 202, "less is always allowed"
    assert store.functions()["a.acme"].replicas == 1


def test_ready_made_images_may_be_refused(bounded: Gateway, rule: Rule) -> None:
    rule("policies: {acme: {skip-build: false}}")
    refused = send(bounded, "a")
    assert refused.status_code == 403
    assert "a: acme may run only what is built here, and no ready-made image" in refused.text
    assert send(bounded, "a", "openfaas-fn").status_code == 202


def test_nobody_deploys_where_there_is_no_policy_yet(bounded: Gateway, store: Store) -> None:
    store.claim_namespace("acme", "git")
    refused = send(bounded, "a")
    assert refused.status_code == 403
    assert refused.text.startswith("nobody may deploy here now: the policy")


def test_what_takes_everything_down_is_taken_all_the_same(settings: Settings, store: Store) -> None:
    gateway = SimpleNamespace(settings=replace(settings, policy="/policy.yml"), store=store)
    known = Repository(namespace="acme", name="fns", source="git")
    release = store.create_release(known, NO_COMMIT, "main")
    spec = artifact(release, "a").spec
    with pytest.raises(NotAllowed, match="could not be read yet"):
        check_release(gateway, release, [spec])()  # type: ignore[arg-type]  # of it only these
    check_release(gateway, release, [])()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundles(valkey: str) -> Iterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    policy = folder / "policy.yml"
    policy.write_text("default: {functions: 3}")
    with running(folder, valkey, SLIPWAY_POLICY=str(policy)) as found:
        bundle = bundle_folder(found.settings, "acme", f"bundle:sha256:{'0' * 64}")
        bundle.mkdir(parents=True)
        document = Bundle(template="python3-http", process=["python3", "index.py"])
        (bundle / "bundle.json").write_bytes(msgspec.json.encode(document))
        yield found
    shutil.rmtree(folder, ignore_errors=True)


def put(gateway: Gateway, store: Store, name: str, functions: list[str]) -> requests.Response:
    """A release of acme's repository ``name`` is built and handed over."""
    known = Repository(namespace="acme", name=name, source="git", deploy_branch="main")
    store.claim_namespace("acme", "git", known)
    store.save_repository(known)
    release = store.create_release(known, "a" * 40, "main", again=True)
    assert queues.dispatch(store, known.key) == release.id
    store.move(release.id, BUILDER, State.BUILDING)
    made = [msgspec.to_builtins(artifact(release, each)) for each in functions]
    body = {"commit": release.commit, "functions": made}
    answer = gateway.anonymous(
        "PUT",
        f"/system/releases/{release.id}/artifacts",
        json=body,
        headers={"Authorization": f"Bearer {gateway.token}"},
    )
    if answer.status_code == 403:
        store.move(release.id, BUILDER, State.FAILED, answer.text)
    return answer


def test_two_releases_side_by_side_do_not_pass_together(bundles: Gateway, store: Store) -> None:
    look(bundles.settings, store)
    assert put(bundles, store, "one", ["a", "b"]).status_code == 200
    refused = put(bundles, store, "two", ["c", "d"])
    assert refused.status_code == 403, "the first is in staging"
    assert "acme would have 4 functions" in refused.text
    assert put(bundles, store, "two", ["c"]).status_code == 200
    assert put(bundles, store, "one", ["a", "b", "c2"]).status_code == 403
    assert put(bundles, store, "one", ["a"]).status_code == 200, "in the place of its older one"
    assert put(bundles, store, "two", ["c", "d"]).status_code == 200
    assert len(store.staging()) == 2


def test_many_at_once_keep_the_bound(bundles: Gateway, store: Store) -> None:
    look(bundles.settings, store)
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda n=n: answers.append(put(bundles, store, f"r{n}", [f"f{n}"]).status_code)
        )
        for n in range(6)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert sorted(answers) == [200, 200, 200, 403, 403, 403]


def bring(gateway: Gateway, store: Store, name: str, functions: list[str]) -> None:
    """A release goes the whole way."""
    assert put(gateway, store, name, functions).status_code == 200
    (release,) = [each for each in store.staging() if each.repository == name]
    store.switch(release.id, lambda _: 1)
    store.finish(release.id, "http://slipway.test")


def test_an_owner_does_not_go_back_beyond_the_bound(bundles: Gateway, store: Store) -> None:
    look(bundles.settings, store)
    for name in ("one", "two", "three"):
        bring(bundles, store, name, [f"{name}-a", f"{name}-b"])
        bring(bundles, store, name, [])
    token = store.create_token("acme", [Scope.DEPLOY]).token
    owners = {"Authorization": f"Bearer {token}"}

    def back(name: str, **body: str) -> requests.Response:
        wanted = {"namespace": "acme", "repository": name} | body
        return bundles.anonymous("POST", "/system/rollback", json=wanted, headers=owners)

    first = back("one")
    assert first.status_code == 202
    # It is under way: what it brings counts, for other rollbacks, releases and deploys.
    refused = back("two")
    assert refused.status_code == 403
    assert refused.text.startswith("acme would have 4 functions with its environments")
    assert put(bundles, store, "four", ["c", "d"]).status_code == 403
    rolling = store.rollback(first.json()["id"])
    store.roll_back(rolling.id, store.rollback_specs(rolling), lambda _: 1)
    store.finish_rollback(rolling.id)
    assert back("two").status_code == 403
    (had,) = [each for each in store.releases("acme", "two") if store.revisions(each.id)]
    one = back("two", function="two-a", to=had.id)
    assert one.status_code == 202, one.text
    store.fail_rollback(one.json()["id"], "the next one shall be possible")
    # While what takes functions away may still fail, their places are not free.
    assert put(bundles, store, "one", []).status_code == 200
    assert back("two").status_code == 403
    assert (
        bundles.call(
            "POST", "/system/rollback", json={"namespace": "acme", "repository": "two"}
        ).status_code
        == 202
    ), "the administrator's way back is never closed"


def test_rollbacks_side_by_side_keep_the_bound(bundles: Gateway, store: Store) -> None:
    look(bundles.settings, store)
    for number in range(6):
        bring(bundles, store, f"r{number}", [f"f{number}"])
        bring(bundles, store, f"r{number}", [])
    owners = {"Authorization": f"Bearer {store.create_token('acme', [Scope.DEPLOY]).token}"}
    answers: list[int] = []

    def back(name: str) -> None:
        with requests.Session() as session:
            answers.append(
                session.post(
                    f"{bundles.url}/system/rollback",
                    json={"namespace": "acme", "repository": name},
                    headers=owners,
                    timeout=20,
                ).status_code
            )

    threads = [threading.Thread(target=back, args=(f"r{number}",)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert sorted(answers) == [202, 202, 202, 403, 403, 403]


# Who may deploy


@pytest.mark.parametrize(
    ("owner", "id_", "allowed"), [("Acme", "1", True), ("bob", "7", True), ("eve", "2", False)]
)
def test_who_is_not_on_the_list_is_told_what_to_do(
    file: tuple[Settings, Path], store: Store, owner: str, id_: str, *, allowed: bool
) -> None:
    settings, path = file
    app = create_app(settings, store)
    with pytest.raises(NotAllowed, match="nobody may deploy here now"):
        require_allowed(app, "github", owner, id_)
    path.write_text("owners: [acme, 'github:7']")
    looked(settings, store)
    if allowed:
        require_allowed(app, "github", owner, id_)
        return
    with pytest.raises(NotAllowed) as raised:
        require_allowed(app, "github", owner, id_)
    assert str(raised.value) == (
        "eve at github may not deploy here: the administrator can add 'github:2' to the owners of "
        "the policy (SLIPWAY_POLICY). What runs stays as it is"
    )
    require_allowed(app, "github", owner, "")  # the builder knows the id
    with pytest.raises(NotAllowed, match="can add 'gitlab:eve'"):
        require_allowed(app, "gitlab", owner, "")
    require_allowed(create_app(replace(settings, policy=""), store), "github", owner, id_)


def test_an_event_is_refused_before_any_work(bounded: Gateway, store: Store, rule: Rule) -> None:
    owner = PUSH["repository"]["owner"]
    rule("owners: [acme]")
    unsigned = webhook(bounded, "push", PUSH, X_Hub_Signature_256="sha256=" + "0" * 64)
    assert unsigned.status_code == 401, "the signature comes first"
    refused = webhook(bounded, "push", PUSH)
    assert refused.status_code == 403
    assert f"{owner['login']} at github may not deploy here" in refused.text
    assert f"'github:{owner['id']}'" in refused.text
    assert store.releases() == []
    assert store.repositories() == []
    assert "codertocat" not in store.namespaces()
    gone = PUSH | {"deleted": True, "after": "0" * 40}
    assert webhook(bounded, "push", gone).status_code == 202, "what is taken down needs no right"
    rule(f"owners: ['github:{owner['id']}']")
    assert webhook(bounded, "push", PUSH).status_code == 202
    (release,) = store.releases()
    rule("owners: []")
    again = webhook(bounded, "push", PUSH, X_GitHub_Delivery="another")
    assert again.status_code == 403, "no new releases"
    assert [each.id for each in store.releases()] == [release.id]


def test_an_app_s_installation_is_refused_likewise(bounded: Gateway, rule: Rule) -> None:
    account = {"login": "Eve", "id": 5, "type": "User"}
    added = {"id": 1, "name": "fns", "full_name": "Eve/fns", "private": False}
    event = {
        "action": "created",
        "installation": {"id": 3, "account": account},
        "repositories": [added],
        "sender": account,
    }
    rule("owners: [acme]")
    refused = webhook(bounded, "installation", event)
    assert (refused.status_code, "Eve at github may not" in refused.text) == (403, True)
    rule("owners: [eve]")
    assert webhook(bounded, "installation", event).status_code == 202


# What is told


def test_what_is_in_force_and_used_is_told(bounded: Gateway, store: Store, rule: Rule) -> None:
    rule("owners: [acme, 'gitlab:7']\ndefault: {functions: 9}\npolicies: {acme: {memory: 1Gi}}")
    found = bounded.call("GET", "/system/policy").json()
    assert found["source"] == bounded.settings.policy
    assert (found["trouble"], found["owners"]) == ("", ["acme", "gitlab:7"])
    assert (found["default"]["functions"], found["policies"]) == (9, ["acme"])
    assert found["since"] <= now()
    deploy(store, "hello.acme--staging", [])
    store.count_built("acme", 90.0)
    found = bounded.call("GET", "/system/policy/acme--staging").json()
    assert (found["namespace"], found["owner"]) == ("acme--staging", "acme")
    assert found["bounds"]["memory"] == 2**30
    assert found["bounds"]["cpus"] is None
    assert found["used"] == {
        "functions": 1,
        "memory": 256 * 2**20,
        "cpus": 1.0,
        "replicas": 1,
        "buildMinutes": 1.5,
        "concurrentBuilds": 0,
    }
    assert bounded.call("GET", "/system/policy/No_Name").status_code == 400
    assert bounded.anonymous("GET", "/system/policy").status_code == 401


def test_trouble_is_told(bounded: Gateway, store: Store, rule: Rule) -> None:
    rule("owners: [acme]")
    Path(bounded.settings.policy).write_text(BROKEN)
    look(bounded.settings, store)
    found = bounded.call("GET", "/system/policy").json()
    assert found["owners"] == ["acme"]
    assert "funktions is not known" in found["trouble"]
    store.redis.delete(keys.POLICY)
    found = bounded.call("GET", "/system/policy").json()
    assert (found["owners"], found["since"]) == ([], "")
    assert "nobody may deploy" in found["trouble"]


def test_without_a_policy_nothing_is_bounded(gateway: Gateway, store: Store) -> None:
    store.hold_policy(None, Held(source="/left/behind", policy=Policy(owners=())))
    found = gateway.call("GET", "/system/policy").json()
    assert (found["source"], found["owners"], found["trouble"]) == ("", None, "")


def test_the_command_tells_the_same(bounded: Gateway, store: Store, rule: Rule) -> None:
    def run(*arguments: str) -> list[str]:
        options = ["--state", str(bounded.settings.state), "--url", bounded.url, "policy"]
        done = CliRunner().invoke(main, [*options, *arguments])
        assert (done.exit_code, done.stderr) == (0, "")
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    rule("owners: []\ndefault: {memory: 1Gi, templates: [node, python3-http], egress: false}")
    deploy(store, "hello.acme", [])
    told = run()
    assert told[0] == f"source {bounded.settings.policy}"
    assert told[2:5] == ["trouble -", "owners nobody", "own bounds -"]
    assert "memory 1024Mi" in told
    assert "templates node, python3-http" in told
    told = run("acme--pr-5")
    assert told[0] == "owner acme"
    assert "functions unlimited 1" in told
    assert "memory 1024Mi 256Mi" in told
    assert "egress no" in told
    assert "fork-previews approve" in told
    found = json.loads("\n".join(run("acme", "--output", "json")))
    assert found["used"]["functions"] == 1
    rule("{}")
    Path(bounded.settings.policy).write_text(BROKEN)
    look(bounded.settings, store)
    told = run()
    assert told[3] == "owners everybody whose events are signed"
    assert told[2].startswith("trouble the policy has 1 mistake")


def test_what_forks_have_counts_apart(bounded: Gateway, store: Store, rule: Rule) -> None:
    rule("default: {functions: 1}")
    store.claim_namespace(FORKS.namespace, "request acme/fns#5")
    store.save_repository(FORKS)
    assert send(bounded, "theirs", FORKS.namespace).status_code == 202
    assert send(bounded, "ours").status_code == 202, "a stranger's takes nobody's place"
    refused = send(bounded, "more", FORKS.namespace)
    assert refused.status_code == 403
    assert refused.text.startswith(
        "acme would have 2 functions in previews of requests from forks, where the most is 1"
    )
    assert "2 functions with its environments and previews" in send(bounded, "more").text
    for space in ("acme", FORKS.namespace):
        told = bounded.call("GET", f"/system/policy/{space}").json()
        assert (told["owner"], told["used"]["functions"]) == ("acme", 1)
