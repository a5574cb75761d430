"""What the matrix test meets: in each of a few namespaces something of everything, named after it.

Everything that belongs to a namespace has its ``mark`` in its name, so that a leak is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from itsdangerous import URLSafeTimedSerializer

from core import keys, queues
from core.bundle import Bundle, bundle_folder
from core.models import Call, CallState, FunctionRecord, FunctionSpec, Release, now
from core.repositories import Repository
from core.scopes import Scope
from core.settings import Settings
from core.signing import secret_file
from core.store import Store
from core.store.base import encode
from core.store.calls import Answered
from core.store.sealingkeys import PublishedKey
from gateway import bare
from tests.integration.gateway.harness import Gateway, go_live

FORGE = "https://github.com"
ANN, CORP = "1001", "1002"
"""Ids at the forge: a user, an organisation."""
IMAGE = "bundle:sha256:" + "d" * 64
_LETTER = "1b4e28ba-2fa1-41d2-883f-{:012x}"


@dataclass(frozen=True)
class Place:
    """One namespace, and what is in it."""

    space: str
    mark: str
    live: str
    queued: str
    rollback: str
    letter: str
    token: str


class Places:
    """The namespaces by name, credentials by role, and the store as it is at the beginning."""

    def __init__(self, gateway: Gateway, store: Store) -> None:
        self.gateway, self.store = gateway, store
        holders = {"acme": "git", "ann": f"{FORGE}#{ANN}", "corp": f"{FORGE}#{CORP}"}
        holders |= {"umbrella": f"{FORGE}#1003", "openfaas-fn": ""}
        self.of = {
            space: _fill(gateway.settings, store, space, holder, number)
            for number, (space, holder) in enumerate(holders.items())
        }
        public = PublishedKey(fingerprint="0" * 16, key="A" * 43, number=1, created_at=now())
        store.publish_sealing_keys([public])
        self.headers = self._headers()
        bare.create(gateway.settings, store, "acme", "new-acmemark")
        redis = store.redis
        self._kept = {key: redis.dump(key) or b"" for key in redis.scan_iter()}
        self._values = self._read()
        self.dirty = False

    def restore(self) -> None:
        """Undoes what the last request did, where it did something."""
        if not self.dirty:
            return
        self.dirty = False
        pipe = self.store.redis.pipeline()
        pipe.flushdb()
        for key, value in self._kept.items():
            pipe.restore(key, 0, value)
        pipe.execute()

    def changed(self) -> set[str]:
        """Keys that are not as at the beginning, but for those that count or keep time."""
        there = self._read()
        passing = (keys.TOKENS_USED, keys.BATCHES, keys.BEATS, f"{keys.ROOT}:lock:")
        passing += (keys.traffic(""), keys.ROLLBACK_SEQUENCE, keys.SEQUENCE)
        found = {
            key.decode()
            for key in there.keys() | self._values.keys()
            if there.get(key) != self._values.get(key) and not key.decode().startswith(passing)
        }
        self.dirty = bool(found)
        return found

    def _read(self) -> dict[bytes, Any]:
        with self.store.redis.pipeline(transaction=False) as pipe:
            read: dict[bytes, Any] = {
                b"string": pipe.get,
                b"hash": pipe.hgetall,
                b"set": pipe.smembers,
                b"zset": lambda key: pipe.zrange(key, 0, -1, withscores=True),
                b"list": lambda key: pipe.lrange(key, 0, -1),
                b"stream": pipe.xrange,
            }
            found = sorted(self.store.redis.scan_iter())
            for key in found:
                pipe.type(key)
            kinds = pipe.execute()
            for key, kind in zip(found, kinds, strict=True):
                read[kind](key)
            return dict(zip(found, pipe.execute(), strict=True))

    def _headers(self) -> dict[str, dict[str, str]]:
        """Role → what it sends along."""
        store, gateway = self.store, self.gateway
        tokens = {
            "all": store.create_token("acme", list(Scope)),
            **{each.value: store.create_token("acme", [each]) for each in Scope},
            "revoked": store.create_token("acme", list(Scope)),
            "expired": store.create_token(
                "acme", list(Scope), expires=datetime(2100, 1, 1, tzinfo=UTC)
            ),
        }
        store.revoke_token(tokens["revoked"].id)
        self._expire(tokens["expired"].id)
        roles = {role: {"Authorization": f"Bearer {each.token}"} for role, each in tokens.items()}
        return {
            "nobody": {},
            "wrong": {"Authorization": "Bearer " + tokens["all"].token[:-1] + "g"},
            "builder": {"Authorization": f"Bearer {gateway.token}"},
            **roles,
            "user": self.session(owns=[ANN], member=[]),
            "member": self.session(owns=["1004"], member=[CORP]),
        }

    def _expire(self, id_: str) -> None:
        raw = self.store.redis.hget(keys.TOKENS, id_)
        assert raw
        self.store.redis.hset(keys.TOKENS, id_, bytes(raw).replace(b"2100-", b"2020-"))

    def session(self, *, owns: list[str], member: list[str], key: str = "") -> dict[str, str]:
        said: dict[str, Any] = {"forge": "github", "url": FORGE, "id": owns[0], "login": "ann"}
        signer = URLSafeTimedSerializer(
            key or secret_file(self.gateway.settings.session_key), salt="session"
        )
        cookie = signer.dumps({**said, "owns": owns, "member": member})
        return {"Cookie": f"slipway-session={cookie!s}"}


def _fill(settings: Settings, store: Store, space: str, holder: str, number: int) -> Place:
    mark = f"{space[:4]}mark"
    if holder:
        store.claim_namespace(space, holder)
        token = store.create_token(space, [Scope.READ], f"of {mark}").id
    else:
        token = "0" * 12
    store.set_variables(space, {f"V_{mark}": mark})
    store.create_secret(store.sealing_key(settings.secrets_key), space, f"secret-{mark}", b"v")
    folder = bundle_folder(settings, space, IMAGE)
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(template="python3-http", process=["python3", "index.py"])
    (folder / "bundle.json").write_bytes(encode(bundle))
    spec = FunctionSpec(
        name=f"f-{mark}",
        namespace=space,
        artifact=IMAGE,
        annotations={"topic": "cron-function", "schedule": "@hourly"},
    )
    record = FunctionRecord(spec=spec, release="", replicas=1, created_at=now())
    store.redis.hset(keys.FUNCTIONS, spec.function, encode(record))
    # Whose branches are written already, and whose turn it is not: no thread of the gateway comes.
    live = [_release(store, space, f"back-{mark}", live=each) for each in (["a"], ["a", "b"])]
    rolling = [_release(store, space, f"roll-{mark}", live=each) for each in (["c"], ["c", "d"])]
    rollback = store.create_rollback(space, rolling[-1].repository)
    store.save_rollback_branch(rollback.id, "")
    queued = _release(store, space, f"wait-{mark}")
    letter = _LETTER.format(number)
    store.next_call(0.01)
    call = Call(id=letter, name=f"f-{mark}.{space}", target="/", headers=[], body=mark.encode())
    store.add_call(call, 2**20)
    taken = store.next_call(0.01)
    assert taken
    store.begin_call(taken)
    answered = Answered(500, [("Content-Type", "text/plain")], b"no", "", 2, 0.1)
    store.settle_call(taken, CallState.FAILED, f"no {mark}", answered, settings, dead=True)
    return Place(space, mark, live[0].id, queued.id, rollback.id, letter, token)


def _release(store: Store, space: str, name: str, live: list[str] | None = None) -> Release:
    known = Repository(
        namespace=space,
        name=name,
        source="github",
        full_name=f"{space}/{name}",
        forge_id=f"{space}-{name}",
        deploy_branch="b",
    )
    store.save_repository(known)
    release = store.create_release(known, "a" * 40, f"branch-{name}", again=True)
    queues.dispatch(store, known.key)
    return go_live(store, release, [f"{each}-{name}" for each in live]) if live else release
