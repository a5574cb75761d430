"""Bad stack files: the push tells every mistake with its line, and the good version stays live."""

from __future__ import annotations

import pytest

from tests.e2e.bad_input.victim import Victim
from tests.e2e.platform import stack

NAME = "stack-files"
LINES = 'version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  "{name}":\n'
RULE = "use lower-case letters, digits and '-', at most 63 characters"


def one(*, name: str = NAME, lang: str = "python3-http", where: str = f"./{NAME}") -> str:
    """A stack file with one function: its name in line 5, lang in 6, handler in 7."""
    return LINES.format(name=name) + f"    lang: {lang}\n    handler: {where}\n"


def laughs() -> str:
    """Nine lists of nine aliases each: 9^9 values in 500 bytes."""
    lists = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lists += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lists) + "\n" + one()


BAD: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty": ("", ("stack.yml has 1 mistake", "the file is empty: it needs 'provider:'")),
    "not YAML": (
        "provider: [\n  name: x\n",
        ("stack.yml has 1 mistake", "line 3: this is not YAML", "expected ',' or ']'"),
    ),
    "not text": (b"functions:\n  \xff\xfe: x\n", ("line 2: the file is not UTF-8 text", "save it")),
    "10 MB": (
        one() + "# " + "x" * 10_000_000,
        ("'stack.yml' has 10000", "1000000 are allowed: make it smaller"),
    ),
    "exploding aliases": (
        laughs(),
        ("more than 100000 values once its aliases are written out: use fewer", "line "),
    ),
    "too many aliases": (
        "x-one: &one 1\nx-all:\n" + "  - *one\n" * 101 + one(),
        ("line 103: more than 100 aliases ('*one'): write some of them out",),
    ),
    "aliases of much text": (
        f"x-one: &one {'x' * 300_000}\nx-all: [{', '.join(['*one'] * 99)}]\n" + one(),
        ("line 2: more than 2000000 bytes of text once its aliases are written out",),
    ),
    "copies without end": (
        one() + f"    copy: [{', '.join(f'd{n}' for n in range(90_000))}]\n",
        ("line 8: stack-files.copy names 90000 paths, and 100 are allowed: name folders",),
    ),
    "limits beyond the server's": (
        one() + "    limits: {memory: 1000000Gi, cpu: 5000}\n",
        (
            "line 8: stack-files.limits.cpu is '5000', and at most 4.0 is allowed here",
            "stack-files.limits.memory is '1000000Gi', and at most 4Gi is allowed here",
            "SLIPWAY_FUNCTION_MAX_CPUS",
            "SLIPWAY_FUNCTION_MAX_MEMORY",
        ),
    ),
    "a form of substitution that is none": (
        one() + "    fprocess: ${X:?must be set}\n",
        ("line 8: ${X:?must be set} is a form that is not substituted here",),
    ),
    "a substitution bomb": (
        one() + "    environment: {A: " + "${X:=" * 7 + "y" * 900_000 + "}" * 7 + "}\n",
        ("line 8: ", "more work than a stack file may"),
    ),
    "files above": (
        one() + "    environment_file: [stack.yml, ../../etc/passwd]\n",
        ("line 8: stack-files.environment_file: '../../etc/passwd' leads out of the repository",),
    ),
    "a secret of the build above": (
        one() + "    build_secrets:\n      key: ../../etc/passwd\n",
        ("line 9: stack-files.build_secrets.key: '../../etc/passwd' leads out",),
    ),
    "a ready-made image": (
        one() + "    skip_build: true\n    image: me/fn:1\n",
        ("line 9: skip_build: the image me/fn:1 cannot run here", "SLIPWAY_RUNTIME=docker"),
    ),
    "other files that are not there": (
        one() + "x-stacks: [api/stack.yml, ../up.yml]\n",
        (
            "stack.yml has 2 mistakes",
            "line 8: x-stacks: '../up.yml' leads out of the repository",
            "line 8: x-stacks: commit ",
            "has no 'api/stack.yml'",
        ),
    ),
    "10,000 functions": (
        "provider: {name: openfaas}\nfunctions:\n"
        + "".join(f"  f{n}: {{lang: node, handler: f{n}}}\n" for n in range(10_000)),
        ("line 2: 10000 functions are more than the 200 allowed here",),
    ),
    "configuration without end": (
        one() + "    labels:\n" + "".join(f"      l{n}: {'v' * 100_000}\n" for n in range(3)),
        ("line 8: stack-files: environment, labels, annotations and the like have 300006 bytes",),
    ),
    "an annotation that is misspelt": (
        one() + "    annotations:\n      com.slipway.egress: flase\n",
        ("line 9: stack-files.annotations.com.slipway.egress is 'flase': write true or false",),
    ),
    "unknown language": (
        one(lang="cobol"),
        ("line 6: there is no template 'cobol'", "node, python3-flask, python3-http"),
    ),
    "dockerfile": (
        one(lang="dockerfile"),
        ("line 6: lang 'dockerfile' needs the docker runtime", "use one of node, python3-flask"),
    ),
    "two of one name": (
        one() + f"  {NAME}:\n    lang: node\n    handler: ./other\n",
        (f"line 8: '{NAME}' stands here twice: it is in line 5 already", "rename or remove one"),
    ),
    "handler above": (
        one(where="../../../etc"),
        ("line 7: stack-files.handler '../../../etc' leads out of the repository",),
    ),
    "handler from within to above": (
        one(where=f"./{NAME}/../../x"),
        (f"line 7: {NAME}.handler './{NAME}/../../x' leads out of the repository",),
    ),
    "handler of the machine": (
        one(where="/etc"),
        ("line 7: stack-files.handler '/etc' is not a path within the repository",),
    ),
    "handler of git": (
        one(where="./.git/hooks"),
        ("line 7: stack-files.handler './.git/hooks' leads into git's own folder",),
    ),
    "handler that is not there": (
        one(where="./nowhere"),
        ("line 7: ", "has no folder 'nowhere': is it committed"),
    ),
    "secrets": (
        one() + "    secrets: [db-password]\n",
        ("line 8: vic has not the secret db-password: create it with 'slipway secret create",),
    ),
    "namespace of another owner": (
        one() + "    namespace: bob\n",
        ("line 8: stack-files.namespace is 'bob'", "belongs to 'vic': leave the field out"),
    ),
    "name with ..": (one(name=".."), (f"line 5: '..' is not a function name: {RULE}",)),
    "name with /": (one(name="a/b"), (f"line 5: 'a/b' is not a function name: {RULE}",)),
    "name in upper case": (one(name="Upper"), ("line 5: 'Upper' is not a function name", RULE)),
    "name of 200 characters": (
        one(name="n" * 200),
        (f"line 5: '{'n' * 77}...' is not a function name", RULE),
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_stack_file_is_refused(victim: Victim, kind: str) -> None:
    text, words = BAD[kind]
    victim.refuses({"stack.yml": text}, *words)


def test_a_repository_without_one_is_told_what_is_missing(victim: Victim) -> None:
    victim.reset()
    victim.repository.git("rm", "--quiet", "stack.yml")
    victim.repository.commit({})
    victim.refused(
        victim.push(),
        "stack.yaml or stack.yml",
        "has none at its root or below: add one that names",
    )


def test_all_mistakes_are_told_at_once_each_with_its_line(victim: Victim) -> None:
    text = stack("..", "a/b", "Upper", "n" * 200, lang="python3-http") + (
        "  fine:\n    lang: python3-http\n    handler: ../up\n    secrets: [NOT-one]\n"
        "    limits:\n      memory: lots\n      cpu: -1\n    skip_build: maybe\n  bare: {}\n"
    )
    found = victim.refuses(
        {"stack.yml": text},
        "stack.yml has 12 mistakes",
        "line 5: '..' is not a function name",
        "line 8: 'a/b' is not",
        "line 11: 'Upper' is not",
        "line 14: 'nnn",
        "line 19: fine.handler '../up' leads out",
        "line 20: 'NOT-one' is not the name of a secret",
        "line 22: fine.limits.memory is 'lots': write a size such as 128Mi",
        "line 23: fine.limits.cpu is '-1': write CPUs such as 0.5",
        "line 24: fine.skip_build has to be true or false",
        "line 25: bare has no 'lang:'",
        "line 25: bare has no 'handler:'",
    )
    assert [row["build"] for row in found["functions"]] == [], "nothing of it was begun"
