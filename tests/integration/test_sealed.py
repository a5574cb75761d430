"""Values sealed in git: the runtime's keys, and a real function that finds an opened value."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from core import keys, sealedbox
from core.bundle import PREFIX, Bundle
from core.errors import ConfigError, Conflict, InvalidRequest, NotFound, Unavailable
from core.http import request
from core.models import Artifact, FunctionSpec, State
from core.repositories import Repository
from core.sandbox import SECRETS
from core.sealedbox import KeyPair, Place, decoded, parse, seal
from core.settings import Settings
from core.store import Store
from core.store.repositories import identified
from runtime.controller import Controller
from runtime.providers.process import ProcessProvider
from runtime.sealingkeys import SealingKeys, read_key
from runtime.secrets import reader
from tests.integration.test_controller import BUILDER, KEY, SERVER, BusyEdge
from tests.waiting import until

PLACE = Place("ann", "git:1234", "db-password")
SESAME = b"Open Sesame 4411"


@pytest.fixture
def held(settings: Settings, store: Store) -> SealingKeys:
    """The keys of a runtime that has looked once."""
    made = SealingKeys(settings.sealing_keys)
    assert made.tend(store) == ""
    return made


def sealed(store: Store, place: Place, value: bytes = SESAME) -> str:
    return seal(decoded(store.sealing_key_of().key), place, value)


def files(held: SealingKeys) -> set[str]:
    return {path.name for path in held.folder.iterdir()}


def published(store: Store) -> set[str]:
    return {each.fingerprint for each in store.sealing_keys()}


# Keys.


def test_a_first_key_is_made_kept_to_the_runtime_and_published(
    settings: Settings, store: Store
) -> None:
    with pytest.raises(Unavailable, match="the runtime makes it when it starts"):
        store.sealing_key_of()
    held = SealingKeys(settings.sealing_keys)
    held.tend(store)
    (name,) = files(held)
    assert held.folder.stat().st_mode & 0o777 == 0o700
    assert (held.folder / name).stat().st_mode & 0o777 == 0o600
    assert published(store) == {name}
    held.tend(store)
    assert files(held) == {name}
    private = msgspec.json.decode((held.folder / name).read_bytes())["key"]
    for key in store.redis.scan_iter():
        kind = store.redis.type(key).decode()
        raw = store.redis.hgetall(key) if kind == "hash" else {}
        assert private.encode() not in b" ".join([*raw, *raw.values()])
    assert held.open(sealed(store, PLACE), PLACE) == SESAME


def test_a_new_key_seals_and_the_old_one_opens_until_it_is_dropped(
    held: SealingKeys, store: Store
) -> None:
    old, text = store.sealing_key_of(), sealed(store, PLACE)
    assert store.want_new_sealing_key() == store.want_new_sealing_key() == 2  # asked twice: once
    held.tend(store)
    held.tend(store)
    new = store.sealing_key_of()
    assert (old.number, new.number, len(files(held))) == (1, 2, 2)
    assert parse(sealed(store, PLACE)).fingerprint == new.fingerprint != old.fingerprint
    assert held.open(text, PLACE) == SESAME
    with pytest.raises(Conflict, match="is what is sealed with now"):
        store.drop_sealing_key(new.fingerprint)
    store.drop_sealing_key(old.fingerprint)
    assert published(store) == {new.fingerprint}
    with pytest.raises(NotFound, match="there is no sealing key"):
        store.drop_sealing_key(old.fingerprint)
    held.tend(store)
    assert files(held) == {new.fingerprint}
    assert store.sealing_wishes().unwanted == frozenset()
    with pytest.raises(ConfigError, match=f"the key {old.fingerprint} .* is not here any more"):
        held.open(text, PLACE)


def test_the_number_of_keys_is_bounded(
    held: SealingKeys, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.store.sealingkeys.MAX_KEYS", 2)
    store.want_new_sealing_key()
    held.tend(store)
    with pytest.raises(Conflict, match="there are 2 sealing keys"):
        store.want_new_sealing_key()


def test_a_store_that_was_lost_is_told_anew(held: SealingKeys, store: Store) -> None:
    before = published(store)
    store.redis.flushall()
    held.tend(store)
    assert published(store) == before


class Killed(BaseException):
    """The process is no more."""


def die(*_: object, **__: object) -> NoReturn:
    raise Killed


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.rename", "publish"])
def test_who_is_killed_while_a_key_is_made_publishes_none_that_is_lost(
    held: SealingKeys, store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = store.sealing_key_of()
    store.want_new_sealing_key()
    with monkeypatch.context() as patch:
        if step == "publish":
            patch.setattr(store, "publish_sealing_keys", die)
        else:
            patch.setattr(step, die)
        with pytest.raises(Killed):
            held.tend(store)
    assert store.sealing_key_of() == before
    later = SealingKeys(held.folder)
    later.tend(store)
    assert files(later) == published(store)
    assert len(files(later)) == 2
    text = sealed(store, PLACE)
    assert later.open(text, PLACE) == SESAME


def test_who_is_killed_while_a_key_is_deleted_is_followed_by_one_who_tells_it(
    held: SealingKeys, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.sealing_key_of()
    store.want_new_sealing_key()
    held.tend(store)
    store.drop_sealing_key(old.fingerprint)
    with monkeypatch.context() as patch:
        patch.setattr(store, "publish_sealing_keys", die)
        with pytest.raises(Killed):
            held.tend(store)
    assert old.fingerprint not in files(held)
    assert store.sealing_wishes().unwanted == {old.fingerprint}
    held.tend(store)
    assert store.sealing_wishes().unwanted == frozenset()
    assert published(store) == files(held)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"number": 1}', b"\xff" * 200, b"["])
def test_a_damaged_file_is_told_and_not_published(
    held: SealingKeys, store: Store, content: bytes
) -> None:
    (name,) = files(held)
    text = sealed(store, PLACE)
    kept = (held.folder / name).read_bytes()
    (held.folder / name).write_bytes(content)
    assert f"{name} holds no private key" in held.tend(store)
    assert name not in published(store)
    assert len(published(store)) == 1
    with pytest.raises(ConfigError, match="holds no private key"):
        held.open(text, PLACE)
    (held.folder / name).write_bytes(kept)
    assert held.tend(store) == ""
    assert held.open(text, PLACE) == SESAME


def test_a_key_under_another_ones_name_is_refused(held: SealingKeys) -> None:
    (name,) = files(held)
    with pytest.raises(ConfigError, match=f"holds another key, {name}"):
        read_key((held.folder / name).read_bytes(), "0" * 16)


def test_a_key_that_a_function_needs_is_not_dropped(held: SealingKeys, store: Store) -> None:
    old = store.sealing_key_of()
    spec = FunctionSpec(
        name="fn",
        namespace="ann",
        artifact="x",
        repository="fns",
        secrets=["db-password"],
        sealed={"db-password": sealed(store, PLACE)},
        repository_id="git:1234",
    )
    known = identified(Repository(namespace="ann", name="fns", source="git"))
    store.save_repository(known)
    release = store.create_release(known, "a" * 40, "main")
    store.take_turn(known.key)
    store.move(release.id, BUILDER, State.BUILDING)
    artifact = Artifact(name="fn", key="", artifact="x", spec=spec)
    store.put_artifacts(release.id, release.commit, [artifact])
    store.want_new_sealing_key()
    held.tend(store)
    for _ in ("staged", "live"):
        with pytest.raises(Conflict, match=r"still needed by fn\.ann: seal their values anew"):
            store.drop_sealing_key(old.fingerprint)
        if store.release(release.id).state is State.STAGING:
            store.switch(release.id, lambda _: 1)
            store.finish(release.id, "http://slipway.test")
    store.redis.delete(keys.FUNCTIONS)
    store.drop_sealing_key(old.fingerprint)


# Repositories' ids.


def test_a_repository_s_id_stays_and_a_new_one_has_another(store: Store) -> None:
    old = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
    store.save_repository(old)  # made before there were ids
    first = store.repository_id(old)
    assert first.startswith("git:")
    assert store.repository_id(old) == first
    assert store.repository("ann", "fns").deploy_branch == "main"
    child = Repository(namespace="ann--staging", name="fns", source="git", parent="ann/fns")
    preview = Repository(namespace="ann--pr-1", name="fns", source="git", parent="ann/fns")
    store.save_repository(child)
    assert store.repository_id(child) == store.repository_id(preview) == first
    store.redis.hdel(keys.REPOSITORIES, "ann/fns")
    with pytest.raises(NotFound):
        store.repository_id(child)
    store.save_repository(old)
    assert store.repository_id(old) != first
    theirs = Repository(namespace="bob", name="fns", source="github")
    store.save_repository(theirs)
    with pytest.raises(Conflict, match="github has not told yet"):
        store.repository_id(theirs)


# A function.

READS = SERVER.replace(
    'body = os.environ["TEXT"].encode()',
    f'body = b" ".join(open("{SECRETS}/" + n, "rb").read() for n in os.listdir("{SECRETS}"))',
)


class World:
    """A controller with a real provider, and releases of one function as the gateway puts them."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self.edge = BusyEdge()
        self.edge.busy = False
        digest = hashlib.sha256(READS.encode()).hexdigest()
        folder = settings.bundles / "ann" / digest
        (folder / "app").mkdir(parents=True)
        (folder / "app" / "server.py").write_text(READS)
        bundle = Bundle(template="test", process=["python3", "server.py"])
        (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
        self.artifact = PREFIX + digest
        self.provider = ProcessProvider(settings, KEY, read_secrets=reader(settings, store))
        self.controller = Controller(settings, store, self.provider, self.edge, None)
        self.controller._adopt()
        self.repository = identified(
            Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
        )
        store.save_repository(self.repository)
        self.place = Place("ann", store.repository_id(self.repository), "db-password")

    def release(self, text: str, **more: object) -> State:
        """What becomes of one whose function has this value sealed."""
        number = len(self.store.releases())
        release = self.store.create_release(self.repository, f"{number:040x}", "main", again=True)
        self.store.take_turn(self.repository.key)
        self.store.move(release.id, BUILDER, State.BUILDING)
        spec = FunctionSpec(
            name="f",
            namespace="ann",
            artifact=self.artifact,
            repository="fns",
            secrets=["db-password"],
            sealed={"db-password": text},
            repository_id=self.place.repository,
        )
        spec = msgspec.structs.replace(spec, **more)
        artifact = Artifact(name="f", key="", artifact=self.artifact, spec=spec)
        self.store.put_artifacts(release.id, release.commit, [artifact])
        self.until(lambda: self.store.release(release.id).state.final)
        return self.store.release(release.id).state

    @property
    def reason(self) -> str:
        return self.store.releases()[0].reason

    def answer(self) -> bytes:
        (endpoint,) = self.edge.table["f.ann"].endpoints
        return request(endpoint, "GET", "/", timeout=5)[1]

    def until(self, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not check():
            assert time.monotonic() < deadline
            self.controller.pass_()
            time.sleep(0.02)


@pytest.fixture
def world(short_tmp: Path, valkey: str, store: Store) -> Iterator[World]:
    env = {
        "SLIPWAY_STATE": str(short_tmp / "state"),
        "SLIPWAY_REDIS_URL": valkey,
        "SLIPWAY_HEALTH_TIMEOUT": "4s",
        "SLIPWAY_WATCH": "0s",
        "SLIPWAY_WARM": "0s",
        "SLIPWAY_EGRESS": "0",
    }
    (short_tmp / "state").mkdir()
    settings = Settings.from_env(env)
    SealingKeys(settings.sealing_keys).tend(store)
    made = World(settings, store)
    yield made
    made.controller.replicas.close()
    for instance in made.provider.instances():
        made.provider.remove(instance)
    made.provider.close()


def test_a_function_finds_the_value_and_a_copied_one_changes_nothing(world: World) -> None:
    mine = sealed(world.store, world.place)
    assert world.release(mine) is State.LIVE, world.reason
    assert world.answer() == SESAME

    elsewhere = {
        "name": world.place._replace(name="other"),
        "repository": world.place._replace(repository="git:another"),
        "namespace": world.place._replace(namespace="bob"),
    }
    for part, place in elsewhere.items():
        assert world.release(sealed(world.store, place)) is State.FAILED
        assert f"db-password of ann does not open: it was sealed for another {part}" in world.reason
        assert "'slipway seal db-password --repository ann/fns'" in world.reason
        assert world.answer() == SESAME
    stranger = KeyPair(b"\7" * sealedbox.KEY_BYTES)
    assert world.release(seal(stranger.public, world.place, SESAME)) is State.FAILED
    assert f"the key {stranger.fingerprint}" in world.reason
    forged = mine[:-40] + ("A" if mine[-40] != "A" else "B") + mine[-39:]
    assert world.release(forged) is State.FAILED
    assert "a character of it is changed" in world.reason
    assert world.answer() == SESAME

    # Sealed anew it is a new revision, and the old key goes on opening.
    assert world.release(sealed(world.store, world.place, b"new")) is State.LIVE, world.reason
    assert world.answer() == b"new"
    world.store.want_new_sealing_key()
    held = SealingKeys(world.settings.sealing_keys)
    held.tend(world.store)
    assert world.release(mine) is State.LIVE, world.reason
    assert world.answer() == SESAME


def test_sealed_ones_count_before_the_store_s_and_both_can_be_had(world: World) -> None:
    store = world.store
    store.claim_namespace("ann", "git")
    key = store.sealing_key(world.settings.secrets_key)
    for name in ("db-password", "api-key"):
        store.create_secret(key, "ann", name, b"of the store")
    text = sealed(store, world.place)
    assert world.release(text, secrets=["api-key", "db-password"]) is State.LIVE, world.reason
    assert sorted(world.answer().split(b" ")) == sorted(b"of the store".split() + SESAME.split())


def test_a_preview_has_the_secrets_of_the_namespace_that_it_is_told(world: World) -> None:
    read = reader(world.settings, world.store)
    world.store.claim_namespace("ann", "git")
    key = world.store.sealing_key(world.settings.secrets_key)
    world.store.create_secret(key, "ann", "api-key", b"of ann")
    spec = FunctionSpec(
        name="f",
        namespace="ann--pr-1",
        artifact="x",
        secrets=["api-key", "db-password"],
        secrets_namespace="ann",
        sealed={"db-password": sealed(world.store, world.place)},
        repository_id=world.place.repository,
    )
    assert read(spec) == {"api-key": b"of ann", "db-password": SESAME}
    own = msgspec.structs.replace(spec, secrets_namespace="")
    with pytest.raises(InvalidRequest, match="another namespace"):
        read(own)
    with pytest.raises(NotFound, match="ann--pr-1 has not the secret api-key"):
        read(msgspec.structs.replace(own, sealed=None, secrets=["api-key"]))


def test_the_keys_are_looked_after_while_the_controller_runs(world: World) -> None:
    stop = threading.Event()
    keeper = threading.Thread(
        target=world.controller.sealing_keys.follow, args=[world.store, stop], daemon=True
    )
    keeper.start()
    number = world.store.want_new_sealing_key()
    until(lambda: world.store.sealing_key_of().number == number, 10, "the new key")
    stop.set()
    keeper.join(5)
    assert not keeper.is_alive()


def test_neither_a_store_nor_a_disk_that_is_away_ends_the_keeping(
    held: SealingKeys, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    troubles: list[Exception] = [RedisConnectionError("away"), OSError(28, "full"), ValueError("x")]
    tend = SealingKeys.tend

    def troubled(self: SealingKeys, store: Store) -> str:
        if troubles:
            raise troubles.pop()
        stop.set()
        return tend(self, store)

    monkeypatch.setattr(SealingKeys, "tend", troubled)
    monkeypatch.setattr("runtime.sealingkeys.LOOK_EVERY", 0.01)
    held.follow(store, stop)
    assert troubles == []
