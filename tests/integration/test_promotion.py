"""A promoted release in the builder: what it takes as it is, and what it refuses to build instead;
with real stores, git and bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from builder import jobs, pipeline
from builder.lease import Lease
from builder.origins import local_url
from core import queues
from core.bundle import discard_bundle
from core.models import Artifact, Build, Promotion, Release, State
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from tests.unit.repositories import BareRepository

FNS = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
STACK = """\
provider: {name: openfaas}
x-environments: {staging: develop}
functions:
  one:
    lang: node
    handler: ${DIR:-one}
    environment: {WHERE: "${WHERE}"}
    build_args: {ARG: "${ARG:-1}"}
  two: {lang: node, handler: two, namespace: ann}
"""
HANDLER = "module.exports = async () => 'x'\n"
FILES = {
    "stack.yml": STACK,
    "one/handler.js": HANDLER,
    "two/handler.js": f"{HANDLER}\n",
    "other/handler.js": f"{HANDLER}\n\n",
}


class Shop:
    """A repository with staging, whose releases are built for real and go live by the store."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        store.claim_namespace("ann", "git", FNS)
        self.staging = store.save_environment(FNS, "staging", "develop")
        store.set_variables("ann", {"WHERE": "production"})
        store.set_variables("ann--staging", {"WHERE": "staging"})
        self.git = BareRepository(Path(local_url(settings, FNS)))
        self.commit = self.git.commit(dict(FILES), branch="develop")
        self.handed: dict[str, tuple[list[Artifact], dict[str, str]]] = {}

    def build(self, release: Release) -> Release:
        queues.dispatch(self.store, f"{release.namespace}/{release.repository}")
        with Lease(self.store, release.id) as lease:
            jobs._build(release.id, self.settings, self.store, lease)
        return self.store.release(release.id)

    def hand_over(
        self,
        _: Settings,
        release: Release,
        artifacts: Sequence[Artifact],
        environments: Mapping[str, str],
    ) -> None:
        self.handed[release.namespace] = (list(artifacts), dict(environments))
        self.store.put_artifacts(release.id, release.commit, artifacts)

    def staged(self) -> Release:
        """What is live in staging."""
        release = self.build(self.store.create_release(self.staging, self.commit, "develop"))
        assert release.state is State.STAGING, release.reason
        self.store.switch(release.id, lambda _: 1)
        return self.store.finish(release.id, "http://here")

    def promote(self, of: Release) -> Release:
        return self.build(
            self.store.create_release(
                FNS,
                of.commit,
                of.branch,
                again=True,
                pinned=True,
                promoted_from=Promotion(environment="staging", release=of.id),
            )
        )


@pytest.fixture
def shop(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(settings, store)
    monkeypatch.setattr(pipeline, "hand_over", shop.hand_over)
    return shop


def test_the_very_same_artifacts_run_with_other_settings(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = shop.staged()
    before, environments = shop.handed["ann--staging"]
    assert environments == {"staging": "develop"}
    assert {each.spec.artifacts_namespace for each in before} == {"ann"}
    assert not (shop.settings.bundles / "ann--staging").exists(), "they lie with the owner's"

    def builds(*_: object) -> None:
        pytest.fail("something was built")

    monkeypatch.setattr(pipeline, "write_context", builds)
    # What the server adds to builds is another by now: the artifact was tested with what it has.
    monkeypatch.setattr("builder.key.platform_inputs", lambda: {"python": "4.0"})
    release = shop.promote(live)
    assert release.state is State.STAGING, release.reason
    after, _ = shop.handed["ann"]
    assert [(a.artifact, a.key) for a in after] == [(b.artifact, b.key) for b in before]
    assert [each.spec.env_vars for each in after] == [{"WHERE": "production"}, None]
    assert {each.spec.namespace for each in after} == {"ann"}
    assert {row.build for row in release.functions} == {Build.REUSED}
    texts = [getattr(line, "text", "") for _, line in shop.store.read_log(release.id)]
    assert f"promoted from staging {live.id}: nothing is built" in texts


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ARG": "2"}, ["one: build_args ARG differs"]),
        ({"DIR": "other"}, ["one: handler differs"]),
        ({"ARG": "2", "DIR": "other"}, ["one: build_args ARG differs", "one: handler differs"]),
    ],
)
def test_what_variables_would_have_built_otherwise_is_refused(
    shop: Shop, variables: dict[str, str], told: list[str]
) -> None:
    live = shop.staged()
    shop.store.set_variables("ann", variables)
    release = shop.promote(live)
    assert release.state is State.FAILED
    assert f"what staging {live.id} has cannot be promoted as it is" in release.reason
    lines = [line for line in release.reason.splitlines() if line.startswith(("one", "two"))]
    assert lines == told
    assert "2" not in lines[0], "values are nobody else's to read"
    assert "ann" not in shop.handed


def test_an_artifact_that_is_gone_is_told(shop: Shop) -> None:
    live = shop.staged()
    one = next(each for each in shop.handed["ann--staging"][0] if each.name == "one")
    discard_bundle(shop.settings, "ann", one.artifact)
    release = shop.promote(live)
    assert release.state is State.FAILED
    assert "one: its artifact is not kept any more" in release.reason
