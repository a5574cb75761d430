"""Backup and restore: a real round trip, and what is damaged, hostile or in the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from nacl.pwhash import argon2id
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from core import keys, queues
from core.errors import ConfigError, InvalidRequest, SlipwayError, Unavailable
from core.models import FunctionRecord, FunctionSpec, State, now
from core.repositories import Repository
from core.sealedbox import Place, decoded, seal
from core.sealing import SealingKey
from core.settings import ROOT, Settings
from core.signing import secret_file
from core.store import Store
from core.store.snapshot import Snapshot, checked
from gateway import bare, heads
from runtime.sealingkeys import SealingKeys
from supervisor import archive, archivereader, backup, claims, ownstore, restore
from supervisor.archive import MAGIC, MANIFEST, Writer
from tests.integration.gateway.harness import commit, git_environment, go_live, head, repository
from tests.waiting import until

ENV = {"PATH": os.environ["PATH"]}
SESAME = b"Open Sesame 51d0"


class House:
    """An installation that does not run, and the file of its backup."""

    def __init__(self, folder: Path, like: House | None = None) -> None:
        self.settings = Settings(state=folder / "state")
        self.settings.state.mkdir(mode=0o700, exist_ok=True)
        self.file = folder / "backup"
        self.elsewhere = Settings(state=folder / "elsewhere")
        self.live = like.live if like else ""
        self.later = like.later if like else ""

    def backup(self, passphrase: bytes = b"") -> backup.Made:
        return backup.backup(self.settings, ENV, self.file, passphrase)

    def restore(self, passphrase: bytes = b"", *, force: bool = False) -> Path | None:
        return restore.restore(self.elsewhere, ENV, self.file, passphrase, force=force)[1]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> House:
    """With a repository of its own whose live commit was pushed over, one of a forge, a function
    that was deployed by API, and a secret."""
    folder = tmp_path_factory.mktemp("house")
    made = House(folder)
    settings = made.settings
    for path in backup.key_files(settings).values():
        secret_file(path, length=32)
    held = SealingKeys(settings.sealing_keys)
    source = repository(folder / "work", {"stack.yml": "one"})
    made.live = head(source)
    with ownstore.started(settings, ENV) as store:
        path = bare.create(settings, store, "ann", "fns")
        push(source, path)
        ours = bare.settle_deploy_branch(settings, store, store.repository("ann", "fns"))
        go_live(store, released(store, ours, made.live))
        made.later = commit(source, {"stack.yml": "two"})
        subprocess.run(["git", "reset", "--quiet", "--soft", "HEAD~"], cwd=source, check=True)
        subprocess.run(
            ["git", "commit", "--quiet", "--amend", "-m", "Other"],
            cwd=source,
            env=git_environment(source),
            check=True,
        )
        made.later = head(source)
        push(source, path)
        failed = store.create_release(ours, made.later, "main")
        queues.dispatch(store, ours.key)
        store.move(failed.id, [State.QUEUED], State.FAILED, "it does not build")
        bare.create(settings, store, "ann", "never-pushed")
        store.claim_namespace("bob", "https://github.com#7")
        forge = Repository(
            namespace="bob", name="fns", source="github", full_name="Bob/fns", deploy_branch="main"
        )
        store.save_repository(forge)
        go_live(store, released(store, forge, "b" * 40), ["web"])
        spec = FunctionSpec(
            name="figlet", namespace="openfaas-fn", artifact="figlet:1", foreign=True,
            limits=None, deployment="d1", secrets=["api-key"],
        )  # fmt: skip
        record = FunctionRecord(spec=spec, release="", replicas=3, created_at=now())
        store.redis.hset(keys.FUNCTIONS, spec.function, msgspec.json.encode(record))
        key = store.sealing_key(settings.secrets_key)
        store.create_secret(key, "openfaas-fn", "api-key", SESAME)
        for number in (1, 2):
            if number == 2:
                store.want_new_sealing_key()
            held.tend(store)
            sealed = seal(decoded(store.sealing_key_of().key), place(store), SESAME)
            (folder / "work" / f"sealed-{number}").write_text(sealed)
    return made


@pytest.fixture
def house(made_once: House, short_tmp: Path) -> House:
    """A copy of that one."""
    for name in ("state", "work"):
        shutil.copytree(made_once.settings.state.parent / name, short_tmp / name)
    return House(short_tmp, made_once)


def place(store: Store) -> Place:
    return Place("ann", store.repository_id(store.repository("ann", "fns")), "db-password")


def push(source: Path, target: Path) -> None:
    subprocess.run(
        ["git", "push", "--quiet", "--force", str(target), "HEAD:refs/heads/main"],
        cwd=source,
        env=git_environment(source),
        check=True,
    )


def released(store: Store, known: Repository, commit: str) -> object:
    release = store.create_release(known, commit, "main")
    queues.dispatch(store, known.key)
    return release


def as_it_was(house: House, settings: Settings) -> None:
    with ownstore.started(settings, ENV) as store:
        functions = store.functions()
        assert {name: each.replicas for name, each in functions.items()} == {
            "figlet.openfaas-fn": 3
        }
        key = SealingKey.read(settings.secrets_key)
        assert store.secret_values(key, "openfaas-fn", ["api-key"]) == {"api-key": SESAME}
        assert {each.key for each in store.repositories()} == {
            "ann/fns", "ann/never-pushed", "bob/fns",
        }  # fmt: skip
        assert store.namespaces() == ["ann", "bob"]
        held = SealingKeys(settings.sealing_keys)
        held.tend(store)
        assert len(store.sealing_keys()) == 2, "none is made anew"
        for number in (1, 2):
            sealed = (house.file.parent / "work" / f"sealed-{number}").read_text()
            assert held.open(sealed, place(store)) == SESAME
        with pytest.raises(SlipwayError, match="github"):
            store.claim_namespace("bob", "git")
        # What was live is asked for, though not the head; what failed is not tried again.
        heads.compare(settings, store)
        waiting = {each.repository: each for each in store.releases() if each.namespace == "ann"}
        assert waiting["fns"].commit == house.live
        assert {each.state for each in store.releases()} == {State.QUEUED}
        assert all(store.pinned(each.id) and each.number > 3 for each in store.releases())
        assert store.head("ann/fns") == house.later
    path = bare.folder(settings, "ann", "fns")
    assert head(path, "refs/heads/main") == house.later
    assert head(path, f"{house.live}^{{commit}}") == house.live
    assert bare.existing(settings, "ann", "never-pushed")
    for name, before in backup.key_files(house.settings).items():
        after = backup.key_files(settings)[name]
        assert after.read_bytes() == before.read_bytes(), name
        assert after.stat().st_mode & 0o777 == 0o600, name
    assert settings.state.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in settings.state.iterdir()} <= {
        *backup.key_files(settings), *("forges", "sealing-keys", "git", "store"),
        *("lock", "parts", "run"),
    }  # fmt: skip


@pytest.mark.parametrize("passphrase", [b"", b"correct horse"])
def test_all_of_it_comes_back_elsewhere(house: House, passphrase: bytes) -> None:
    made = house.backup(passphrase)
    assert (made.functions, made.secrets, made.repositories) == (1, 1, 1)
    assert made.size == house.file.stat().st_size
    assert house.file.stat().st_mode & 0o777 == 0o600
    assert SESAME not in house.file.read_bytes()
    key = house.settings.secrets_key.read_bytes().strip()
    assert (key in house.file.read_bytes()) == (not passphrase)
    assert house.restore(passphrase) is None
    as_it_was(house, house.elsewhere)
    left = {path.name for path in house.elsewhere.state.parent.iterdir()}
    assert left <= {"state", "backup", "elsewhere", "work"}


def test_a_running_installation_is_backed_up_as_it_is(house: House) -> None:
    with ownstore.started(house.settings, ENV):
        assert house.backup().secrets == 1
        lock = claims.claim_state(house.elsewhere)
        with pytest.raises(ConfigError, match="another Slipway"):
            house.restore()
        os.close(lock)
    house.restore()
    as_it_was(house, house.elsewhere)


def test_what_is_there_is_kept_unless_it_is_moved_aside(house: House) -> None:
    house.backup()
    house.elsewhere.state.mkdir()
    (house.elsewhere.state / "admin-password").write_text("of another one\n")
    with pytest.raises(ConfigError, match="in use already"):
        house.restore()
    assert (house.elsewhere.state / "admin-password").read_text() == "of another one\n"
    earlier = house.restore(force=True)
    assert earlier is not None
    assert (earlier / "admin-password").read_text() == "of another one\n"
    as_it_was(house, house.elsewhere)
    (house.elsewhere.instances / "echo.demo-1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="still run"):
        house.restore(force=True)


def test_a_redis_of_ones_own_is_filled_if_it_is_empty(
    house: House, store: Store, valkey: str
) -> None:
    house.backup()
    house.elsewhere = replace(house.elsewhere, redis_url=valkey)
    store.claim_namespace("somebody", "git")
    with pytest.raises(ConfigError, match="Redis of SLIPWAY_REDIS_URL is in use"):
        house.restore()
    assert not (house.elsewhere.state / "git").exists()
    store.beat("controller", 60, "docker")
    with pytest.raises(ConfigError, match=r"a Slipway runs on the Redis .*\(controller\)"):
        house.restore(force=True)
    store.beat("controller", -1)
    ours = Repository(namespace="somebody", name="fns", source="git", deploy_branch="main")
    store.save_repository(ours)
    released(store, ours, "a" * 40)  # has a job in the queue
    stranger = {"rq:job:a-stranger": b"x", "rq:queue:others": b"y", "others": b"z"}
    for key, value in stranger.items():
        store.redis.set(key, value)
    house.restore(force=True)
    assert store.namespaces() == ["ann", "bob"]
    assert list(store.functions()) == ["figlet.openfaas-fn"]
    assert {key: store.redis.get(key) for key in stranger} == stranger
    assert queues.builds(store).job_ids == []
    assert {each.decode() for each in store.redis.scan_iter("rq:*")} - {"rq:queues"} == {
        each for each in stranger if each.startswith("rq:")
    }
    waiting = {each.repository: each for each in store.releases()}
    assert waiting["fns"].state is State.QUEUED
    assert queues.dispatch(store, "ann/fns")


@pytest.mark.parametrize("force", [False, True])
def test_a_redis_that_fails_leaves_all_as_it_was_and_it_can_be_done_again(
    house: House, store: Store, valkey: str, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    house.backup()
    house.elsewhere = replace(house.elsewhere, redis_url=valkey)
    if force:
        store.claim_namespace("somebody", "git")
        house.elsewhere.state.mkdir()
        (house.elsewhere.state / "admin-password").write_text("of another one\n")

    def away(*_: object) -> None:
        raise RedisConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_transaction", away)
        with pytest.raises(Unavailable, match="does not answer: away"):
            house.restore(force=force)
    assert store.namespaces() == (["somebody"] if force else [])
    state = house.elsewhere.state
    assert state.exists() == force
    assert not force or (state / "admin-password").read_text() == "of another one\n"
    assert not list(state.parent.glob("*before-restore*"))
    monkeypatch.setattr(restore, "_swap", lambda *_: away())
    with pytest.raises(Unavailable):
        house.restore(force=force)
    assert store.namespaces() == (["somebody"] if force else [])
    monkeypatch.undo()
    house.restore(force=force)
    assert store.namespaces() == ["ann", "bob"]


@pytest.fixture
def plain(house: House) -> bytes:
    house.backup()
    return house.file.read_bytes()


def refused(house: House, data: bytes, told: str, passphrase: bytes = b"") -> None:
    """It is refused, and nothing was changed."""
    house.file.write_bytes(data)
    with pytest.raises(SlipwayError, match=told) as error:
        house.restore(passphrase)
    assert isinstance(error.value, InvalidRequest | ConfigError)
    parent = house.elsewhere.state.parent
    assert {each.name for each in parent.iterdir()} <= {"state", "backup", "elsewhere", "work"}
    assert {each.name for each in house.elsewhere.state.iterdir()} <= {"lock", "parts"}


def test_one_byte_that_is_not_as_it_was_is_refused(house: House, plain: bytes) -> None:
    places = [0, len(MAGIC) + 3, 100, len(plain) // 2, len(plain) - 40, len(plain) - 1]
    for at in places:
        data = bytearray(plain)
        data[at] ^= 1
        refused(house, bytes(data), "damaged" if at else "no backup")
    for data in (plain[:-1], plain + b"\0", plain[: len(plain) // 2], plain[:40], b""):
        refused(house, data, "damaged|no backup")


def test_a_sealed_one_opens_with_its_passphrase_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Quickly; the round trip above has the real strength.
    monkeypatch.setattr(argon2id, "OPSLIMIT_MODERATE", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", argon2id.MEMLIMIT_MIN)
    house.backup(b"correct horse")
    sealed = house.file.read_bytes()
    refused(house, sealed, "passphrase-file")
    refused(house, sealed, "right passphrase", b"wrong horse")
    head, _, body = sealed.removeprefix(MAGIC).partition(b"\n")
    # Blocks that were cut off, with a checksum that is right again.
    refused(house, summed(MAGIC + head + b"\n" + body[:-32][:-17]), "passphrase", b"correct horse")
    house.backup()
    refused(house, house.file.read_bytes(), "not sealed", b"correct horse")


def summed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def written(house: House, pieces: dict[str, bytes]) -> bytes:
    """An archive that is whole, with these pieces in it."""
    writer = Writer(house.file, b"", "1", now())
    for name, data in pieces.items():
        writer.add(name, [data])
    writer.finish()
    return house.file.read_bytes()


def pieces_of(house: House) -> dict[str, bytes]:
    return {name: b"".join(data) for name, data in archivereader.read(house.file, b"")}


HOSTILE = (
    *("/etc/passwd", "../outside", "keys/../../outside", "keys/other", "git/../../x.bundle"),
    *("git/ann/../x.bundle", "git/ann/x/y.bundle", "git/ann/stranger.bundle", "git/Ann/fns.bundle"),
    *("git/ann/.bundle", "hooks/post-receive", "", "store.json/x"),
)


def test_pieces_that_a_backup_does_not_have_are_refused(house: House, plain: bytes) -> None:
    pieces = pieces_of(house)
    assert plain
    for name in HOSTILE:
        refused(house, written(house, {**pieces, name: b"#!/bin/sh\n"}), ".")
        assert not (house.elsewhere.state.parent / "outside").exists()


def test_other_hostile_archives_are_refused(house: House, plain: bytes) -> None:
    pieces = pieces_of(house)
    snapshot = msgspec.json.decode(pieces["store.json"], type=Snapshot)

    def with_store(**changed: object) -> bytes:
        odd = msgspec.structs.replace(snapshot, **changed)
        return written(house, {**pieces, "store.json": msgspec.json.encode(odd)})

    row = msgspec.json.encode(Repository(namespace="..", name="..", source="git"))
    hashes = snapshot.hashes
    odd_repositories = {**hashes, keys.REPOSITORIES: {"../..": row}}
    refused(house, with_store(hashes=odd_repositories), "does not fit")
    refused(house, with_store(hashes={**hashes, "rq:job": {"a": b"b"}}), "does not fit")
    refused(house, with_store(hashes={**hashes, keys.SECRETS: {"a/../b": b""}}), "does not fit")
    refused(house, with_store(heads={"ann/fns": "--upload-pack=x"}), "does not fit")
    refused(
        house, with_store(live=[{"repository": "x/y", "commit": "a" * 40, "branch": "main"}]), "."
    )
    refused(house, written(house, {**pieces, "store.json": b"[" * 10**6}), "damaged store.json")
    refused(house, written(house, {**pieces, "keys/spec-key": b"x" * 5000}), "more than 4096")
    refused(house, written(house, {k: v for k, v in pieces.items() if k != "store.json"}), "has no")
    refused(house, written(house, {**pieces, "git/ann/fns.bundle": b"no bundle"}), "ann/fns cannot")
    later = plain.replace(b'{"version":1}', b'{"version":2}', 1)
    refused(house, summed(later[:-32]), "of version 2")
    no_manifest = plain[: plain.index(MANIFEST.encode() + b"\n")]
    refused(house, summed(no_manifest), "damaged")
    long = MAGIC + b'{"version":1}\n' + b"store.json\n" + (2**31).to_bytes(4, "big") + b"x"
    refused(house, summed(long), "damaged")
    refused(house, summed(MAGIC + b'{"version":1}\n' + b"n" * 10**6), "damaged")


@pytest.mark.parametrize("place", ["my.key", "keys/k"])
def test_keys_in_the_state_folder_come_back_whatever_their_names_are(
    house: House, place: str
) -> None:
    def named(settings: Settings) -> Settings:
        return replace(
            settings,
            secrets_key_file=settings.state / place,
            admin_password_file=settings.state / f"{place}-of-admin",
            builder_token_file=settings.state / "x" / ".." / f"{place}-of-builder",
        )

    before = backup.key_files(house.settings)
    house.settings, house.elsewhere = named(house.settings), named(house.elsewhere)
    (house.settings.state / "x").mkdir()
    for name, path in backup.key_files(house.settings).items():
        path.parent.mkdir(exist_ok=True)
        before[name].rename(path)
    house.backup()
    house.restore()
    (house.elsewhere.state / "x").mkdir()
    for name, path in backup.key_files(house.settings).items():
        after = backup.key_files(house.elsewhere)[name]
        assert after.read_bytes() == path.read_bytes(), name
        assert after.stat().st_mode & 0o777 == 0o600


def test_a_release_without_a_record_is_told_and_hinders_no_backup(house: House) -> None:
    with ownstore.started(house.settings, ENV) as store:
        store.redis.delete(keys.release(store.live_release("ann/fns")))
    assert house.backup().lost == ("ann/fns",)
    house.restore()
    with ownstore.started(house.elsewhere, ENV) as store:
        assert [each.namespace for each in store.releases()] == ["bob"]
        heads.compare(house.elsewhere, store)
        assert [each.commit for each in store.releases("ann")] == [house.later]


@pytest.mark.parametrize("name", ["0" * 16, "../x", "0" * 15, "x/" + "0" * 16, ".draft"])
def test_a_sealing_key_that_is_none_or_has_another_s_name_is_refused(
    house: House, name: str
) -> None:
    house.backup()
    pieces = pieces_of(house)
    (file, _) = house.settings.sealing_keys.iterdir()
    for content in (file.read_bytes(), b"{}", b""):
        data = written(house, {**pieces, f"keys/sealing-keys/{name}": content})
        refused(house, data, "damaged sealing key|which a backup does not have")


def test_a_key_that_is_missing_or_another_one_is_told(house: House) -> None:
    house.backup()
    own = house.elsewhere.state.parent / "work" / "own-key"
    own.write_text("A" * 43)
    house.elsewhere = replace(house.elsewhere, secrets_key_file=own)
    refused(house, house.file.read_bytes(), "own-key is not the key")
    own.write_bytes(house.settings.secrets_key.read_bytes())
    house.restore()
    assert not (house.elsewhere.state / "secrets-key").exists()
    house.settings.secrets_key.unlink()
    before = house.file.read_bytes()
    with pytest.raises(ConfigError, match="could never be opened"):
        house.backup()
    assert house.file.read_bytes() == before


HELD = """
import os, sys
from pathlib import Path
from core.settings import Settings
from runtime.sealingkeys import SealingKeys
from supervisor import archive, backup
add = archive.Writer.add
def slowly(self, name, data):
    add(self, name, data)
    print(name, flush=True)
    if name.startswith("git/"):
        sys.stdin.read()
archive.Writer.add = slowly
backup.backup(Settings(state=Path(sys.argv[1])), dict(os.environ), Path(sys.argv[2]), b"")
"""


def test_a_killed_backup_leaves_no_half_file(house: House) -> None:
    house.file.write_bytes(b"an earlier backup")
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(house.settings.state), str(house.file)],
        env={**ENV, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    while not process.stdout.readline().startswith("git/"):
        assert process.poll() is None
    with pytest.raises(ConfigError, match="another backup"):
        house.backup()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert house.file.read_bytes() == b"an earlier backup"
    house.backup()
    assert len(pieces_of(house)) == 9
    assert [each.name for each in house.file.parent.glob(".*")] == []


def test_a_full_disk_leaves_what_was_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.file.write_bytes(b"an earlier backup")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        house.backup()
    assert house.file.read_bytes() == b"an earlier backup"
    assert [each.name for each in house.file.parent.glob(".*")] == []


@pytest.fixture
def pushing(house: House) -> Iterator[House]:
    """Somebody pushes all the time."""
    source = house.settings.state.parent / "work"
    path = bare.folder(house.settings, "ann", "fns")
    script = (
        'i=0; while :; do i=$((i+1)); git commit -q --allow-empty -m "$i"; '
        'git push -q --force "$1" HEAD:refs/heads/main "HEAD:refs/heads/b$i"; '
        'git -C "$1" repack -qad; done'
    )
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", str(path)],
        cwd=source,
        env=git_environment(source),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield house
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_repositories_are_whole_while_pushes_go_on(pushing: House) -> None:
    start = head(bare.folder(pushing.settings, "ann", "fns"), "refs/heads/main")
    until(lambda: head(bare.folder(pushing.settings, "ann", "fns"), "refs/heads/main") != start)
    for _ in range(2):
        pushing.backup()
        pushing.restore(force=True)
        path = bare.folder(pushing.elsewhere, "ann", "fns")
        done = subprocess.run(
            ["git", "-C", str(path), "fsck", "--full", "--strict"],
            env=git_environment(path),
            check=True,
            capture_output=True,
        )
        assert b"missing" not in done.stdout + done.stderr
        time.sleep(0.2)


def test_nothing_to_back_up_is_told(short_tmp: Path) -> None:
    with pytest.raises(ConfigError, match="there is no installation"):
        backup.backup(Settings(state=short_tmp / "none"), ENV, short_tmp / "backup", b"")
    away = Settings(state=short_tmp / "none", redis_url=f"unix://{short_tmp}/no.sock")
    with pytest.raises((SlipwayError, RedisError), match="does not answer"):
        backup.backup(away, ENV, short_tmp / "backup", b"")
    (short_tmp / "empty").write_bytes(b"\n")
    for path in (short_tmp / "empty", short_tmp / "missing"):
        with pytest.raises(ConfigError, match="passphrase"):
            archive.passphrase_in(path)


def test_environments_come_back_with_the_commits_that_are_live(short_tmp: Path) -> None:
    """They lie in their repository's bundle, also where a branch was pushed over since."""
    made = House(short_tmp)
    settings = made.settings
    for path in backup.key_files(settings).values():
        secret_file(path, length=32)
    source = repository(short_tmp / "work", {"stack.yml": "one"})
    with ownstore.started(settings, ENV) as store:
        path = bare.create(settings, store, "ann", "fns")
        push(source, path)
        ours = bare.settle_deploy_branch(settings, store, store.repository("ann", "fns"))
        staging = store.save_environment(ours, "staging", "develop")
        live = commit(source, {"stack.yml": "two"})
        subprocess.run(
            ["git", "push", "-q", str(path), f"{live}:refs/heads/develop"], cwd=source, check=True
        )
        release = store.create_release(staging, live, "develop")
        queues.dispatch(store, staging.key)
        go_live(store, release)
        subprocess.run(
            ["git", "push", "-q", str(path), ":refs/heads/develop"], cwd=source, check=True
        )
        store.redis.hset(keys.ENVIRONMENTS, ours.key, '{"staging":"develop"}')
        store.note_promotion_tag(ours.key, "promote/production/1", live)
    assert made.backup().repositories == 1
    made.restore()
    with ownstore.started(made.elsewhere, ENV) as store:
        assert {each.key for each in store.repositories()} == {"ann/fns", "ann--staging/fns"}
        assert store.repository("ann--staging", "fns") == staging
        assert store.wanted_environments() == {"ann/fns": {"staging": "develop"}}
        assert store.promotion_tags("ann/fns") == {"promote/production/1": live}
        waiting = store.newest_release("ann--staging/fns")
        assert waiting is not None
        assert (waiting.commit, waiting.branch, waiting.state) == (live, "develop", State.QUEUED)
        assert bare.own_commit(made.elsewhere, staging, live) == live
    assert not bare.folder(made.elsewhere, "ann--staging", "fns").exists()


def test_a_backup_with_odd_environments_is_refused() -> None:
    parent = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
    child = msgspec.structs.replace(parent, namespace="ann--x", parent="ann/fns", environment="x")

    def checked_with(record: Repository, environments: str) -> None:
        rows = {each.key: msgspec.json.encode(each) for each in (parent, record)}
        hashes = {keys.REPOSITORIES: rows, keys.ENVIRONMENTS: {"ann/fns": environments.encode()}}
        checked(Snapshot(sequence=1, hashes=hashes, functions={}, live=[], heads={}))

    checked_with(child, '{"x":"develop"}')
    for record, environments in (
        (msgspec.structs.replace(child, parent="../../etc"), "{}"),
        (msgspec.structs.replace(child, parent="ann"), "{}"),
        (child, '{"production":"x"}'),
        (child, '{"x":"a..b"}'),
        (child, "[]"),
    ):
        with pytest.raises(InvalidRequest, match="does not fit together"):
            checked_with(record, environments)
