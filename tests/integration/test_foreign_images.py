"""Images that were not built here, run by the docker provider and judged by ``Replicas``, on a real
engine: whom they run as, what they may write to, when they are ready, and what is told of those
that cannot run."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from core.errors import InvalidRequest, NotFound, SlipwayError, Unavailable
from core.models import FunctionSpec, Resources
from engine.client import Engine
from runtime.providers import Instance
from runtime.providers.cells import UIDS
from runtime.providers.docker import DockerProvider
from runtime.providers.docker import document as documents
from runtime.providers.docker.user import reader
from runtime.replicas import Replicas
from tests import containers, foreign
from tests.contracts.test_provider import House, ask, exited, make_house, texts
from tests.integration.registries import Liar
from tests.waiting import until

pytestmark = pytest.mark.engine

ROOT = "RUN echo toor:x:0:0::/:/bin/sh >> /etc/passwd\n"
APP = "RUN groupadd -g 777 crew && useradd -u 4321 -g 777 -m app\n"


class Pier:
    """An installation whose provider runs images, and the names that they have in the engine."""

    def __init__(self, house: House, engine: Engine) -> None:
        self.house = house
        self.engine = engine
        provider = house.provider()
        assert isinstance(provider, DockerProvider)
        self.provider = provider
        self.names: set[str] = set()

    def image(self, more: str = "", name: str = "", **files: str) -> str:
        """The id of a watchdog's image, which gets this name as well."""
        made = foreign.image(self.house.settings, more, files)
        if name:
            with self.engine.asking("") as api:
                place, _, tag = name.rpartition(":")
                api.tag(made, place, tag=tag)
            self.names.add(name)
        return made

    def start(self, artifact: str, **more: Any) -> Instance:
        return self.provider.start(spec(artifact, **more))

    def inspect(self, instance: Instance) -> dict[str, Any]:
        with self.engine.asking("") as api:
            found: dict[str, Any] = api.inspect_container(instance.id)
            return found

    @contextlib.contextmanager
    def watching(self, **settings: Any) -> Iterator[Replicas]:
        """Replicas as the controller has them."""
        made = Replicas(replace(self.house.settings, **settings), self.provider, lambda: None)
        try:
            yield made
        finally:
            made.close()

    def clear(self) -> None:
        for instance in self.provider.instances():
            self.provider.remove(instance)

    def close(self) -> None:
        self.clear()
        for name in self.names:  # with its last name an image goes, too
            with contextlib.suppress(NotFound), self.engine.asking("") as api:
                api.remove_image(name)


def spec(artifact: str, **more: Any) -> FunctionSpec:
    told = {"name": "dog", "namespace": "openfaas-fn", **more}
    return FunctionSpec(artifact=artifact, foreign=True, **told)


@pytest.fixture(scope="module")
def house(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    assert engine
    yield from make_house("docker", tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def shared(house: House, engine: Engine) -> Iterator[Pier]:
    made = Pier(house, engine)
    yield made
    made.close()


@pytest.fixture
def pier(shared: Pier) -> Iterator[Pier]:
    yield shared
    shared.clear()


# What it finds.


def test_an_image_runs_its_own_program_with_what_the_deploy_says(pier: Pier) -> None:
    pier.image("ENV OWN=yes both=image PATH=/opt/x:/usr/local/bin:/usr/bin", "slipway-dog:1")
    instance = pier.start(
        "slipway-dog:1",
        env_process="cat -",
        env_vars={"both": "deploy", "LD_LIBRARY_PATH": "/x", "EMPTY": "", "port": "8080"},
    )
    told = ask(instance)
    env = told["env"]
    assert told["argv"] == ["a", "b"], "its ENTRYPOINT and CMD, though it says a template made it"
    assert env["fprocess"] == "cat -"
    assert (env["OWN"], env["both"], env["EMPTY"]) == ("yes", "deploy", "")
    assert env["PATH"] == "/opt/x:/usr/local/bin:/usr/bin"
    assert env["OPENFAAS_NAME"] == "dog"


def test_variables_of_the_deploy_are_verbatim(pier: Pier) -> None:
    image = pier.image()
    path = "/usr/local/bin:/usr/bin:/bin"
    env = ask(pier.start(image, env_vars={"PATH": path, "HOME": "/srv"}))["env"]
    assert (env["PATH"], env["HOME"]) == (path, "/srv")


def test_labels_that_pose_as_ours_and_a_thousand_variables_change_nothing(pier: Pier) -> None:
    many = " ".join(f"V{number}=x" for number in range(1000))
    image = pier.image(
        f"LABEL {documents.SPEC}={{}} {documents.SIGNATURE}=00 "
        f"{documents.INSTALLATION}={pier.house.settings.mark} traefik.enable=true\n"
        f"ENV {many}\nONBUILD RUN false\nSTOPSIGNAL SIGKILL\nHEALTHCHECK CMD false\n"
        "VOLUME /var/data"
    )
    instance = pier.start(image)
    assert ask(instance)["env"]["V999"] == "x"
    assert [each.id for each in pier.provider.instances()] == [instance.id]
    found = pier.inspect(instance)
    assert found["Config"]["Labels"]["traefik.enable"] == ""
    assert not [each for each in found["Mounts"] if each["Type"] == "volume"]
    assert "Health" not in found["State"]


def test_sigterm_ends_it_after_its_requests_whatever_its_stopsignal(pier: Pier) -> None:
    instance = pier.start(pier.image("STOPSIGNAL SIGKILL"))
    ask(instance)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, instance, "/slow")
        time.sleep(0.5)
        pier.provider.terminate(instance)
        assert slow.result(30) == "slow"
    assert exited(pier.provider, instance).exit_reason == "exited with status 0"
    pier.provider.remove(instance)
    assert "drained" in texts(pier.provider, "dog.openfaas-fn")


# Whom it runs as.


@pytest.mark.parametrize(
    ("more", "uid", "gid", "home"),
    [
        (APP + "USER app", 4321, 777, "/home/app"),
        (APP + "USER app:55", 4321, 55, "/home/app"),
        ("USER 1234:1234", 1234, 1234, "/"),
    ],
)
def test_an_image_runs_as_its_own_user(
    pier: Pier, more: str, uid: int, gid: int, home: str
) -> None:
    told = ask(pier.start(pier.image(more)))
    assert (told["uid"], told["gid"], told["groups"]) == (uid, gid, [gid])
    assert told["env"]["HOME"] == home
    assert told["caps"] == ["0000000000000000"]


@pytest.mark.parametrize("more", ["", "USER 00:0", "USER +0", ROOT + "USER toor"])
def test_an_image_that_wants_to_be_root_gets_a_user_of_its_own(pier: Pier, more: str) -> None:
    told = ask(pier.start(pier.image(more)))
    assert told["uid"] in UIDS
    assert told["gid"] == told["uid"]
    assert told["env"]["HOME"] == "/tmp"


def test_root_is_only_where_the_admin_lets_and_deploys_it(
    pier: Pier, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = replace(pier.house.settings, allow_root=True)
    monkeypatch.setattr(pier.provider._users, "_settings", trusting)
    image = pier.image(ROOT + "USER toor")
    told = ask(pier.start(image))
    assert (told["uid"], told["gid"]) == (0, 0)
    assert told["caps"] == ["0000000000000000"]
    known = pier.provider._images.get(spec(image))
    theirs = spec(image, namespace="ann", repository="fns")
    assert pier.provider._users.of(theirs, known) is None, "never by a repository"
    assert ask(pier.start(pier.image(APP + "USER app")))["uid"] == 4321


def test_a_container_that_is_gone_while_its_users_are_looked_up_is_tried_again(pier: Pier) -> None:
    with pytest.raises(Unavailable, match="another program"):
        reader(pier.engine, "slipway-test-gone")("/etc/passwd")


def test_a_user_that_the_image_does_not_have_is_told_and_leaves_nothing(pier: Pier) -> None:
    for more in ("USER ghost", "RUN ln -sf /proc/1/root/etc/shadow /etc/passwd\nUSER app"):
        with pytest.raises(InvalidRequest, match=r"USER 1000:1000"):
            pier.start(pier.image(more))
    with pier.engine.asking("") as api:
        label = documents.ours(pier.house.settings.mark)
        assert not api.containers(all=True, filters={"label": label})


# What it may write to, and how much it gets.


@pytest.mark.parametrize(
    ("given", "repository", "writes"),
    [(None, None, True), (False, None, True), (True, None, False), (False, "fns", False)],
)
def test_the_root_filesystem_is_as_given_where_the_admin_deploys(
    pier: Pier, given: bool | None, repository: str | None, writes: bool
) -> None:
    pier.image("RUN mkdir /var/data && chmod 777 /var/data\nUSER 1234:1234", "slipway-dog:w")
    made = spec("slipway-dog:w", read_only_root_filesystem=given)
    if repository:  # see above: what is remembered is what a release would have pulled
        made = msgspec.structs.replace(made, namespace="ann", repository=repository)
        id_ = pier.image("RUN mkdir /var/data && chmod 777 /var/data\nUSER 1234:1234")
        pier.provider._images.remember(made, id_)
    told = ask(pier.provider.start(made), "/write")
    assert told == {"/home/app": False, "/tmp": True, "/var/data": writes}


def test_limits_below_the_engines_least_are_raised_and_stay_as_written(pier: Pier) -> None:
    given = {
        "limits": Resources(memory="5Mi", cpu="1m"),
        "requests": Resources(memory="1Ki", cpu="1m"),
    }
    instance = pier.start(pier.image('ENTRYPOINT []\nCMD ["sleep", "60"]'), **given)
    host = pier.inspect(instance)["HostConfig"]
    assert host["Memory"] == 6 * 2**20
    assert host["CpuQuota"] / host["CpuPeriod"] == 0.01
    (found,) = pier.provider.instances()
    assert found.spec.limits == given["limits"]
    assert found.spec.requests == given["requests"]


# Which image it is.


def test_all_replicas_of_a_revision_run_the_same_image(pier: Pier, house: House) -> None:
    first = pier.image("ENV WHICH=first", "slipway-dog:moves")
    one = pier.start("slipway-dog:moves")
    assert ask(one)["env"]["WHICH"] == "first"
    pier.image("ENV WHICH=second", "slipway-dog:moves")
    other = pier.start("slipway-dog:moves")
    assert ask(other)["env"]["WHICH"] == "first"
    pier.provider.remove(other)
    again = house.provider()  # after a restart of the controller
    assert isinstance(again, DockerProvider)
    assert again._containers.image_of(spec("slipway-dog:moves")) == first
    again.close()  # two at once take each other's starts for what a crash left
    new = pier.start("slipway-dog:moves", deployment="anew")
    assert ask(new)["env"]["WHICH"] == "second"
    pier.provider.remove(one)
    woken = pier.start("slipway-dog:moves")
    assert ask(woken)["env"]["WHICH"] == "first", "also when none of them was left"
    assert pier.inspect(woken)["Image"] == first
    pier.provider.remove(woken)
    asleep = house.provider()  # and the controller restarted meanwhile
    assert isinstance(asleep, DockerProvider)
    woken = asleep.start(spec("slipway-dog:moves"))
    assert pier.inspect(woken)["Image"] == first
    asleep.remove(woken)
    asleep.tidy([], 3600.0)
    assert not list((pier.house.settings.state / "resolved-images").iterdir())
    asleep.close()


def test_an_image_that_was_removed_meanwhile_is_asked_for_anew(pier: Pier) -> None:
    pier.image("ENV WHICH=gone", "slipway-dog:gone")
    pier.provider.remove(pier.start("slipway-dog:gone"))
    with pier.engine.asking("") as api:
        api.remove_image(foreign.image(pier.house.settings, "ENV WHICH=gone"), force=True)
    containers.forget(foreign.image(pier.house.settings, "ENV WHICH=gone"))
    pier.image("ENV WHICH=new", "slipway-dog:gone")
    with contextlib.suppress(Unavailable):  # what was known of the old one is found out to be old
        pier.provider.remove(pier.start("slipway-dog:gone"))
    assert ask(pier.start("slipway-dog:gone"))["env"]["WHICH"] == "new"


def test_images_that_cannot_be_had_are_told(pier: Pier) -> None:
    with pytest.raises(SlipwayError, match=r"image slipway-test/none:latest .*the hub, docker\.io"):
        pier.start("slipway-test/none")
    with pytest.raises(Unavailable, match=r"the registry 127\.0\.0\.1:9 is not reached"):
        pier.start("127.0.0.1:9/none")
    with pytest.raises(InvalidRequest, match="not the name of an image"):
        pier.start("Nobody's")


def test_a_pull_for_what_nobody_wants_any_more_ends(pier: Pier) -> None:
    liar = Liar()
    try:
        given = spec(f"{liar.name}/hang:1")
        with pier.watching() as replicas:
            replicas.forget({(given.function, given.revision)})
            replicas.start(given, 1)
            until(lambda: liar.asked["hang"], 20)
            assert replicas.pending()
            replicas.forget(set())
            until(lambda: not replicas.pending() and not replicas._starting, 20)
            assert replicas.trouble((given.function, given.revision)) is None
    finally:
        liar.close()


# When it is ready.


@pytest.mark.parametrize(
    ("mode", "annotations"),
    [
        ("watchdog", {}),
        ("plain", {}),
        ("picky", {}),
        ("plain", {"com.openfaas.health.http.path": "/moved"}),
        ("failing", {"com.openfaas.health.http.path": "/"}),
        ("picky", {"com.openfaas.ready.http.path": "/ready"}),
        ("watchdog", {"com.openfaas.ready.http.initialDelay": "2s"}),
    ],
)
def test_an_image_is_ready_when_it_answers(
    pier: Pier, mode: str, annotations: dict[str, str]
) -> None:
    given = spec(pier.image(), env_vars={"MODE": mode}, annotations=annotations, deployment=mode)
    with pier.watching(health_timeout=20.0) as replicas:
        replicas.start(given, 1)
        until(lambda: replicas.ready() or replicas.trouble((given.function, given.revision)), 20)
        assert replicas.trouble((given.function, given.revision)) is None
        (instance,) = pier.provider.instances()
        waits = mode == "watchdog" or "com.openfaas.ready.http.path" in annotations
        if waits:
            assert time.time() - instance.started_at > 1, "the lock takes a second"


@pytest.mark.parametrize(
    ("env", "annotations", "told"),
    [
        ({"MODE": "deaf"}, {}, r"listen on TCP port 8080 of all addresses"),
        ({"port": "9090"}, {}, r"port 8080 .*from the variable 'port'"),
        ({"MODE": "failing"}, {}, r"/_/health answered 503: \"lock file not found"),
        ({}, {"com.openfaas.health.http.path": "/none\r\nX: y"}, r"no answer on"),
    ],
)
def test_an_image_that_does_not_become_ready_is_told(
    pier: Pier, env: dict[str, str], annotations: dict[str, str], told: str
) -> None:
    given = spec(pier.image(), env_vars=env, annotations=annotations, deployment=told)
    with pier.watching(health_timeout=1.5) as replicas:
        replicas.start(given, 1)
        trouble = until(lambda: replicas.trouble((given.function, given.revision)), 20)
        assert "did not become healthy within 1.5 s" in trouble.reason
        assert re.search(told, trouble.reason), trouble.reason


# What cannot run.


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('ENTRYPOINT ["/not/there"]', r"status 127 \(its ENTRYPOINT or CMD is not in the image"),
        ('ENTRYPOINT ["/etc/passwd"]', r"status 126 \(its ENTRYPOINT or CMD"),
        ('ENTRYPOINT ["sh", "-c", "exit 3"]', r"exited with status 3$"),
    ],
)
def test_a_program_that_does_not_run_is_told(pier: Pier, more: str, told: str) -> None:
    instance = pier.start(pier.image(f"{more}\nCMD []"))
    reason = exited(pier.provider, instance).exit_reason
    assert re.search(told, reason), reason


def test_an_image_for_another_processor_is_told(pier: Pier) -> None:
    """Its program is one that this machine cannot run either: an ELF file of another kind."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        program = b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\0\xb7\0" + b"\0" * 64
        for name, data in (
            ("Dockerfile", b'FROM scratch\nCOPY run /run\nCMD ["/run"]\n'),
            ("run", program),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            out.addfile(member, io.BytesIO(data))
    wanted = {"custom_context": True, "platform": "linux/arm64", "tag": "slipway-dog:arm"}
    with pier.engine.asking("") as api:
        for _ in range(5):  # what no image names yet, another test's sweep may remove
            tar.seek(0)
            told = b"".join(api.build(fileobj=tar, rm=True, **wanted))
            if b"unable to find image" not in told:
                break
        assert b"error" not in told, told
        if api.inspect_image("slipway-dog:arm")["Architecture"] == api.version()["Arch"]:
            pytest.skip("this engine takes no platform")
    pier.names.add("slipway-dog:arm")
    reason = exited(pier.provider, pier.start("slipway-dog:arm")).exit_reason
    assert "the image is for arm64, and this machine is" in reason
