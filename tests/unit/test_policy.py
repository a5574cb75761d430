"""The administrator's policy: what the document may say, and whom it lets deploy."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import names, policydocument
from core.errors import ConfigError, InvalidStack, NotAllowed
from core.policy import OPEN, Held, Owner, OwnerPolicy, Policy, in_force, shown
from core.settings import Settings

WHOLE = """
owners: [acme, "github:Initech", "gitlab:7", GITEA:forgers]
default: {functions: 20, memory: 2Gi, cpus: 500m, replicas: 20, build-minutes: 600,
  concurrent-builds: 2, templates: [python3-http, node22], dockerfile: false, skip-build: false,
  egress: false, domain: false, fork-previews: never, fork-network: true}
policies:
  Acme: {functions: 50, templates: unlimited, memory: unlimited, egress: true, domain: true}
  openfaas-fn: {functions: 0}
"""


def read(text: str) -> Policy:
    return policydocument.read(text.encode(), "policy.yml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(InvalidStack) as raised:
        read(text)
    return [repr(each) for each in raised.value.mistakes]


def test_a_whole_document_is_read() -> None:
    policy = read(WHOLE)
    assert policy.owners == (
        Owner(login="acme"),
        Owner(forge="github", login="initech"),
        Owner(forge="gitlab", id="7"),
        Owner(forge="gitea", login="forgers"),
    )
    default = OwnerPolicy(
        functions=20,
        memory=2 * 2**30,
        cpus=0.5,
        replicas=20,
        build_minutes=600,
        concurrent_builds=2,
        templates=("python3-http", "node22"),
        dockerfile=False,
        skip_build=False,
        egress=False,
        domain=False,
        fork_previews="never",
        fork_network=True,
    )
    assert policy.default == policy.of("somebody") == default
    acme = policy.of("acme")
    assert (acme.functions, acme.memory, acme.templates, acme.egress) == (50, None, None, True)
    assert acme.domain
    assert (acme.cpus, acme.build_minutes) == (0.5, 600), "the rest is as for everybody"
    assert policy.of("openfaas-fn").functions == 0


def test_what_is_not_written_is_not_bounded() -> None:
    policy = read("{}")
    assert policy == OPEN
    bounds = policy.of("anybody")
    assert (bounds.functions, bounds.memory, bounds.dockerfile, bounds.egress) == (
        None,
        None,
        True,
        True,
    )
    assert bounds.domain
    assert (bounds.fork_previews, bounds.fork_network) == ("approve", False)


def test_a_plain_list_is_taken() -> None:
    policy = read("# our customers\nAcme\n\ngithub:initech  # new\n  gitlab:7\n")
    assert policy.owners == (
        Owner(login="acme"),
        Owner(forge="github", login="initech"),
        Owner(forge="gitlab", id="7"),
    )
    assert read("acme").owners == (Owner(login="acme"),)


@pytest.mark.parametrize(
    ("forge", "login", "id_", "allowed"),
    [
        ("github", "acme", "1", True),
        ("gitea", "ACME", "1", True),
        ("github", "INITECH", "2", True),
        ("gitlab", "initech", "2", False),
        ("gitlab", "whatever", "7", True),
        ("gitlab", "7", "8", False),  # a login that looks like an id
        ("github", "seven", "7", False),
        ("github", "", "", False),
        ("gitlab", "acm", "", False),
        ("git", "ann", "", True),  # our own remote
    ],
)
def test_who_may_deploy(forge: str, login: str, id_: str, *, allowed: bool) -> None:
    assert read(WHOLE).allows(forge, login, id_) is allowed
    assert read("owners: []").allows(forge, login, id_) is (forge == "git")
    assert read("default: {}").allows(forge, login, id_), "everybody whose events are signed"
    assert not Policy(closed="no").allows(forge, login, id_)


def test_all_mistakes_are_told_with_their_lines() -> None:
    told = mistakes(
        """owners:
  - acme
  - ACME
  - "bitbucket:x"
  - "git hub"
  - [nested]
default:
  functions: -1
  memory: much
  cpus: 0
  replicas: 1e3
  concurrent-builds: 0
  templates: python3-http
  dockerfile: yes
  fork-previews: maybe
  region: eu
policies:
  Acme: {functions: 1}
  acme: {functions: 2}
  bad--name: {}
  kube-system: {}
  bob:
  eve: {funktions: 3}
extra: 1
"""
    )
    assert told == [
        "line 3: owners: 'ACME' stands in line 2 already: case makes no difference; remove one",
        "line 4: owners: 'bitbucket:x' is no owner: write a login, <forge>:<login> or <forge>:<id>;"
        " forges are github, gitlab, gitea",
        "line 5: owners: 'git hub' is no owner: write a login, <forge>:<login> or <forge>:<id>; "
        "forges are github, gitlab, gitea",
        "line 6: owners: an item is no owner: write a login, <forge>:<login> or <forge>:<id>; "
        "forges are github, gitlab, gitea",
        "line 8: default.functions is '-1': write a whole number from 0, or unlimited",
        "line 9: default.memory is 'much': write a size such as 512Mi or 1G, at most 1024Ti",
        "line 10: default.cpus is '0': write CPUs such as 0.5 or 500m",
        "line 11: default.replicas is '1e3': write a whole number from 0, or unlimited",
        "line 12: default.concurrent-builds is '0': write a whole number from 1, or unlimited",
        "line 13: default.templates is 'python3-http': write a list of templates' names, or "
        "unlimited",
        "line 14: default.dockerfile is 'yes': write true or false",
        "line 15: default.fork-previews is 'maybe': write one of approve, always, never",
        told[12],
        "line 19: policies.acme: 'acme' stands in line 18 already: case makes no difference; "
        "remove one",
        "line 20: policies: the namespace 'bad--name' has '--' in it, which is kept for derived "
        "namespaces (<owner>--<environment>): choose one without",
        "line 21: policies: the namespace 'kube-system' is reserved: choose another one",
        "line 22: policies.bob has to be a mapping of 'name: value' lines",
        "line 23: policies.eve.funktions is not known: did you mean 'functions'?",
        "line 24: extra is not known: known are owners, default, policies",
    ]
    assert told[12].startswith("line 16: default.region is not known: known are functions, memory")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it has to have 'owners:'"),
        ("# nobody\n", "it has to have 'owners:'"),
        ("~", "it has to have 'owners:'"),
        ("- acme\n- initech\n", "it has to have 'owners:'"),
        ("owners:\n", "owners has to be a list; to allow nobody write []"),
        ("owners: acme", "owners has to be a list"),
        ("owners: {acme: true}", "owners has to be a list"),
        ("default:\n", "default has to be a mapping"),
        ("default: 5", "default has to be a mapping"),
        ("policies: []", "policies has to be a mapping"),
        ("default: {functions: }", "default.functions is empty"),
        ("default: {functions: 99999999999}", "write a whole number"),
        ("default: {functions: ٣}", "write a whole number"),
        ("default: {functions: 0x10}", "write a whole number"),
        ("default: {functions: [1]}", "default.functions is a list or mapping"),
        ("default: {memory: 9e99}", "write a size"),
        ("default: {cpus: .inf}", "write CPUs"),
        ("default: {templates: ['../x']}", "write a list of templates' names"),
        ("default: {egress: no}", "write true or false"),
        ("default: {domain: no}", "write true or false"),
        ("default: {domains: true}", "did you mean 'domain'?"),
        ("default: {functions: 1}\ndefault: {functions: 2}", "stands here twice"),
        ("owners: [acme", "this is not YAML"),
        ("--- {}\n--- {}", "a second document"),
        ("!!python/object:os.system x: 1", "has no meaning here"),
        ("a: &a [x]\n" + "owners: [" + "*a, " * 200 + "]", "more than 100 aliases"),
        ("[" * 100, "levels deep"),
        ("x" * 1_000_001, "1000000 are allowed"),
        ("acme\ngithub:initech\nbitbucket:x\n", "line 3: the list: 'bitbucket:x' is no owner"),
        ("acme\nAcme\n", "line 2: the list: 'Acme' stands in line 1 already"),
        ("acme\ninitech corp\n", "it has to have 'owners:'"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, told: str) -> None:
    assert any(told in each for each in mistakes(text)), mistakes(text)


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert any("once its aliases are written out" in each for each in mistakes("\n".join(lines)))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidStack, match="line 2: the file is not UTF-8"):
        policydocument.read(b"owners:\n- \xff", "policy.yml")


@given(st.text(st.sampled_from("owners:default{}[],&*!acme-#'\"\n \t0123")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidStack):
        policy = read(text)
        assert policy.closed == ""
        assert policy == OPEN or text.strip(), "an empty file opens nothing"


# What is in force.


def test_without_a_good_document_nobody_may_deploy() -> None:
    assert in_force(None, "") == OPEN
    good = Policy(owners=())
    held = Held(source="/etc/policy.yml", policy=good, trouble="line 3: no")
    assert in_force(held, "/etc/policy.yml") == good, "the last good one holds"
    assert in_force(held, "") == OPEN
    for nothing in (None, Held(source="/etc/policy.yml", trouble="it is away"), held):
        closed = in_force(nothing, "/etc/policy.yml" if nothing is not held else "/other")
        assert not closed.allows("github", "acme", "1")
        with pytest.raises(NotAllowed, match="nobody may deploy"):
            closed.require_open()
    told = in_force(Held(source="/a", trouble="it is away"), "/a").closed
    assert told.endswith("SLIPWAY_POLICY) could not be read yet: it is away")


def test_a_source_is_shown_without_what_opens_it() -> None:
    assert shown("https://me:secret@host/p.yml?token=x") == "https://host/p.yml"
    assert shown("git:ops/policy:policy.yml") == "git:ops/policy:policy.yml"
    assert shown("/etc/slipway/policy.yml") == "/etc/slipway/policy.yml"


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("/etc/slipway/policy.yml", True),
        ("https://example.com/policy.yml", True),
        ("http://me:word@10.0.0.1:8080/p?x=1", True),
        ("git:ops/policy:policy.yml", True),
        ("git:ops/policy:a/b c.yml", True),
        ("policy.yml", False),
        ("git:ops/policy", False),
        ("git:ops/policy:", False),
        ("git:ops/policy:/etc/passwd", False),
        ("git:Ops/policy:x", False),
        ("git:../policy:x", False),
        ("https://", False),
        ("ftp://example.com/x", False),
    ],
)
def test_where_a_policy_may_lie(source: str, *, right: bool) -> None:
    if right:
        assert Settings.from_env({"SLIPWAY_POLICY": source}).policy == source
        return
    with pytest.raises(ConfigError, match="write a file's absolute path, an http"):
        Settings.from_env({"SLIPWAY_POLICY": source})


# Whose a namespace is.


def test_derived_namespaces_are_their_owners() -> None:
    long = "a" * 60
    cut = names.derived_namespace(long, "staging")
    known = {"acme", "acme-corp", long}
    for space, owner in (
        ("acme", "acme"),
        ("acme--staging", "acme"),
        ("acme-corp--pr-5", "acme-corp"),
        (cut, long),
        ("nobody--x", "nobody"),
        ("nobody", "nobody"),
    ):
        assert names.owner_of(space, known) == owner
        assert names.is_of(space, owner)
    assert not names.is_of("acme-corp", "acme")
    assert not names.is_of("acme-corp--pr-5", "acme")
    assert not names.is_of("acme--a--b", "acme"), "nobody makes one"
