"""What the requests meet: a real gateway and store with something of everything, a function that
answers, and parts that prune. Each request finds the same store."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
from itsdangerous import URLSafeTimedSerializer

from core import keys, queues
from core.logfiles import LogWriter
from core.models import (
    Call,
    CallState,
    FunctionLogLine,
    FunctionRecord,
    FunctionSpec,
    Observed,
    Release,
    Rollback,
    State,
    Usage,
    now,
)
from core.pruning import Answer, Pruned
from core.repositories import Repository
from core.scopes import Scope
from core.signing import secret_file
from core.store import Store, connect
from core.store.base import encode
from core.store.calls import Answered
from core.store.forges import new_hook
from core.store.repositories import identified
from core.store.tokens import Kept
from forges.signin import challenge
from gateway import previews
from gateway.prune import PARTS
from runtime.schedules import Schedules
from runtime.sealingkeys import SealingKeys
from tests.forges import github, gitlab_pages
from tests.forges.github import serving_github
from tests.forges.gitlab_pages import GitLab
from tests.forges.server import Part, serving
from tests.fuzz.good import (
    APP,
    ASKED,
    CALL,
    CLAIMED,
    CODE,
    EMPTY,
    HOOK,
    KNOWN,
    LETTER,
    MOVED,
    NUMBER,
    OWNER,
    PROMOTED,
    PUBLIC,
    SEALING,
    SECRET,
    SENT,
    STATE,
    TOKEN,
    VERIFIER,
    good_requests,
)
from tests.integration.gateway.harness import BUILDER, Gateway, go_live, line, running
from tests.integration.requests_of import event, known


class World:
    """A gateway, requests that it answers with success, and the store that they find."""

    def __init__(self, gateway: Gateway, store: Store, endpoint: str) -> None:
        self.gateway = gateway
        self._redis = store.redis
        self._redis.flushall()
        self.good = good_requests(*_fill(gateway, store, endpoint), _begun(gateway))
        self._kept = {key: self._redis.dump(key) or b"" for key in self._redis.scan_iter()}

    def restore(self) -> None:
        """Undoes what the last request did."""
        pipe = self._redis.pipeline()
        pipe.flushdb()
        for key, value in self._kept.items():
            pipe.restore(key, 0, value)
        pipe.execute()


@contextmanager
def world(valkey: str) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    connection = connect(valkey)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Function)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    secret = folder / "gitlab-client"
    secret.write_text(gitlab_pages.SECRET)
    overrides = {
        "SLIPWAY_GITLAB_CLIENT_ID": gitlab_pages.ID,
        "SLIPWAY_GITLAB_CLIENT_SECRET_FILE": str(secret),
    }
    overrides |= {"SLIPWAY_RUNTIME": "docker", "SLIPWAY_GITHUB_WEBHOOK_SECRET": SECRET}
    arguments = ["--worker-class", "tests.fuzz.impatient.Worker"]
    try:
        with (
            serving_github(folder / "github") as hub,
            _gitlab(folder / "gitlab") as overrides["SLIPWAY_GITLAB_URL"],
            running(
                folder,
                valkey,
                arguments=arguments,
                SLIPWAY_GITHUB_API_URL=hub.url + github.API,
                **overrides,
            ) as gateway,
            _pruning(Store(connection)),
        ):
            hub.web = gateway.settings.github_url
            hub.manifests[APP] = hub.app()
            yield World(gateway, Store(connection), f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _gitlab(folder: Path) -> Iterator[str]:
    """Somebody may sign in there; gives its URL."""
    gitlab = GitLab({"id": 1, "username": KNOWN, "namespace_id": 2}, codes_stay=True)
    gitlab.asked[CODE] = {"code_challenge": challenge(VERIFIER), "redirect_uri": "*"}
    with serving(folder) as forge:
        forge.serve(Part("/", gitlab.handle))
        yield forge.url


def _begun(gateway: Gateway) -> str:
    """The cookie of a browser that was sent to GitLab."""
    begun = {"forge": "gitlab", "state": STATE, "verifier": VERIFIER, "afterwards": "/"}
    key = secret_file(gateway.settings.session_key)
    signed = URLSafeTimedSerializer(key, salt="login").dumps(begun)
    return f"slipway-login={signed!s}"


@contextmanager
def _pruning(store: Store) -> Iterator[None]:
    """The parts that are asked to prune."""
    ended = threading.Event()

    def answer() -> None:
        while not ended.wait(0.02):
            for part in PARTS:
                if ask := store.take_prune(part):
                    found = [Pruned(kind="image", name=f"of the {part}", bytes=1)]
                    store.answer_prune(part, ask, Answer(pruned=found))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Function(BaseHTTPRequestHandler):
    """A function that reads its request and answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def log_message(self, *_: object) -> None:
        pass


def _fill(gateway: Gateway, store: Store, endpoint: str) -> tuple[Release, Release, Rollback, str]:
    """Returns a release that waits, one that is being built, a rollback that is under way, and the
    fingerprint of an old sealing key."""
    for namespace in (EMPTY, KNOWN, CLAIMED):
        store.claim_namespace(namespace, "git")
    token = Kept(
        id=TOKEN,
        namespace=KNOWN,
        description="",
        scopes=[Scope.READ],
        created_at=now(),
        hash="0" * 64,
    )
    store.redis.hset(keys.TOKENS, TOKEN, encode(token))
    store.set_variables(KNOWN, {KNOWN: "v"})
    key = store.sealing_key(gateway.settings.secrets_key)
    store.create_secret(key, "openfaas-fn", KNOWN, b"v")
    seen = {}
    for namespace, repository in (("openfaas-fn", None), (KNOWN, None), (CLAIMED, KNOWN)):
        spec = FunctionSpec(
            name=KNOWN,
            namespace=namespace,
            artifact="example.org/known:1",
            foreign=repository is None,
            repository=repository,
            annotations={"topic": "cron-function", "schedule": "@hourly"},
        )
        record = FunctionRecord(spec=spec, release="", replicas=1, created_at=now())
        store.redis.hset(keys.FUNCTIONS, spec.function, encode(record))
        seen[spec.function] = Observed(available=1, endpoints=[endpoint])
        store.save_usage({spec.function: Usage(cpu=1.0, total_memory_bytes=2.0**20)})
        log = LogWriter(gateway.settings.logs / spec.function, 10_000)
        for number in range(3):
            each = FunctionLogLine(time=now(), instance="one", text=f"line {number}")
            log.append(msgspec.json.encode(each) + b"\n")
        log.close()
    store.save_observed(seen)
    schedules = Schedules(gateway.settings, store, lambda: 0.0)
    schedules.tell(store.functions())
    schedules.look()
    _calls(gateway, store)
    sealed = key.seal(SECRET.encode(), f"hook {HOOK}")
    store.add_hook(new_hook(HOOK, "github", "ann/fns", sealed))
    store.link_owner(OWNER, KNOWN)
    base = known(KNOWN, "9", ASKED)
    store.save_repository(base)
    previews.apply(gateway.settings, store, event(number=NUMBER, of=base, head="666"), base)
    store.keep_setup(SENT, "0")
    for part in ("worker", "queue", "reporter", "controller"):
        store.beat(part, 86_400)
    building, waiting = (_release(store, name) for name in (KNOWN, PUBLIC))
    store.move(building.id, BUILDER, State.BUILDING)
    store.append_log(building.id, [line(KNOWN, "context", "step", "building")])
    store.redis.set(keys.lease(building.id), "a worker")
    for name in (MOVED, "rolling"):
        for functions in (["before"], ["before", "after"]):
            go_live(store, _release(store, name), [f"{name}-{each}" for each in functions])
    home = Repository(namespace=KNOWN, name=PROMOTED, source="github", deploy_branch="main")
    store.save_repository(home)
    staging = store.save_environment(home, "staging", "develop")
    go_live(store, store.create_release(staging, "a" * 40, "develop"), ["promoted"])
    store.save_repository(
        identified(Repository(namespace=KNOWN, name=SEALING, source="git", deploy_branch="main"))
    )
    held = SealingKeys(gateway.settings.sealing_keys)
    held.tend(store)
    old = store.sealing_key_of().fingerprint
    store.want_new_sealing_key()
    held.tend(store)
    return waiting, building, store.create_rollback(KNOWN, "rolling"), old


def _calls(gateway: Gateway, store: Store) -> None:
    """A dead letter, and a call that waits."""
    store.next_call(0.01)
    store.add_call(Call(id=LETTER, name=KNOWN, target="/", headers=[], body=b"\xff"), 2**20)
    taken = store.next_call(0.01)
    assert taken
    store.begin_call(taken)
    answered = Answered(500, [("Content-Type", "text/html")], b"<p>no", "", 5, 0.1)
    failed = (CallState.FAILED, "the function answered 500")
    store.settle_call(taken, *failed, answered, gateway.settings, dead=True)
    store.add_call(Call(id=CALL, name=KNOWN, target="/", headers=[]), 2**20)


def _release(store: Store, name: str) -> Release:
    repository = Repository(
        namespace=KNOWN,
        name=name,
        source="github",
        full_name=f"{KNOWN}/{name}",
        deploy_branch="main",
        public=name == PUBLIC,
    )
    store.save_repository(repository)
    release = store.create_release(repository, "a" * 40, "main", again=True)
    queues.dispatch(store, repository.key)
    return release
