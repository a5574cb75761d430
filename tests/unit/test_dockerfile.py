"""Users' Dockerfiles: what is read, what is refused and why, and what BuildKit is given instead."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.engines import dockerfile as dockerfiles
from builder.engines import rules, sealed
from builder.engines.dockerfile import Dockerfile, parse, render
from builder.engines.images import check_name
from builder.engines.userpackages import with_user_packages
from core.errors import BuildFailed, InvalidRequest, NotAllowed
from core.settings import Settings


def read(text: str, **arguments: str) -> Dockerfile:
    return parse(text.encode(), "fn/Dockerfile", arguments)


def refused(text: str, **arguments: str) -> str:
    """The mistakes of a Dockerfile, one a line."""
    try:
        found = read(text, **arguments)
    except BuildFailed as error:
        return str(error)
    mistakes = rules.mistakes_of(found) + sealed.mistakes_of(found)
    return "\n".join(repr(each) for each in mistakes)


def rendered(text: str, **arguments: str) -> str:
    return render(read(text, **arguments)).decode()


# Reading


def test_it_is_written_out_plainly_and_each_line_stays_where_it_was() -> None:
    text = (
        "\ufeff# syntax=docker/dockerfile:1.4\r\n"
        "ARG TAG=3\n"
        "from --platform=linux/arm64 python:${TAG} as Build\n"
        "\n"
        "  run a \\\n"
        "    # a comment in the middle\n"
        "\n"
        "    b\n"
        "FROM BUILD\n"
        "COPY --from=BUILD --chown=1 x y\n"
    )
    assert rendered(text).split("\n") == [
        "",
        "ARG TAG=3",
        "FROM python:3 AS build",
        "",
        "RUN a     b",
        *("", "", ""),
        "FROM build AS slipway-stage-1",
        "COPY --from=build --chown=1 x y",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "arguments", "image"),
    [
        ("FROM a:1", {}, "a:1"),
        ("ARG V=1\nFROM a:$V", {}, "a:1"),
        ("ARG V=1\nFROM a:${V}-slim", {"V": "2"}, "a:2-slim"),
        ("ARG V='1'\nARG W=\"a:$V\"\nFROM ${W}", {}, "a:1"),
        ("ARG V\nFROM a:${V:-3}", {}, "a:3"),
        ("ARG V=2\nFROM a${V:+:new}", {}, "a:new"),
        ("ARG A=x B=y\nFROM $A/$B", {}, "x/y"),
    ],
)
def test_arguments_fill_the_image_in(text: str, arguments: dict[str, str], image: str) -> None:
    assert read(text, **arguments).images() == [(text.count("\n") + 1, image)]


@pytest.mark.parametrize(
    "text",
    [
        "FROM $V",
        "ARG V\nFROM a:$V",
        "ARG V=1\nFROM a:${V#1}",
        "FROM a\nARG V=1\nFROM b:$V",
        "ARG V='$W'\nFROM a:$V",
    ],
)
def test_an_image_that_cannot_be_told_is_refused(text: str) -> None:
    assert "cannot be told" in refused(text)
    assert "cannot be told" in refused(text, OTHER="x")


DOG = "ghcr.io/openfaas/of-watchdog:1"
PLATFORM = "FROM --platform=${TARGETPLATFORM:-linux/amd64}"


@pytest.mark.parametrize(
    ("text", "arguments", "images"),
    [
        (  # node
            f"{PLATFORM} {DOG} as watchdog\n{PLATFORM} node:20-alpine as ship\n"
            "ARG TARGETPLATFORM\nCOPY --from=watchdog /fwatchdog /usr/bin/fwatchdog\n"
            "RUN apk --no-cache add curl \\\n    && addgroup -S app && adduser -S -g app app\n"
            "ENV NPM_CONFIG_LOGLEVEL warn\nUSER app\nWORKDIR /home/app\n"
            "COPY --chown=app:app function/*.json ./\nRUN npm i\n"
            'ENV mode="http"\nHEALTHCHECK --interval=3s CMD [ -e /tmp/.lock ] || exit 1\n'
            'CMD ["fwatchdog"]\n',
            {},
            [DOG, "node:20-alpine"],
        ),
        (  # Go
            f"{PLATFORM} {DOG} AS watchdog\n"
            "FROM --platform=${BUILDPLATFORM:-linux/amd64} golang:1-alpine AS build\n"
            "ARG TARGETOS\nARG TARGETARCH\nCOPY --from=watchdog /fwatchdog /usr/bin/\nCOPY . .\n"
            'ARG GOPROXY=""\nARG CGO_ENABLED=0\nENV CGO_ENABLED=${CGO_ENABLED}\n'
            'RUN test -z "$(gofmt -l $(find . -name \'*.go\' -not -path "./vendor/*"))" || '
            '{ echo "Run \\"gofmt\\" on it"; exit 1; }\n'
            "RUN --mount=type=cache,target=/root/.cache/go-build \\\n"
            "    --mount=type=cache,target=/go/pkg/mod \\\n"
            '    GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build --ldflags "-s -w" -o handler .\n'
            f"{PLATFORM} alpine:3 AS ship\n"
            'COPY --from=build --chown=app /go/handler    .\nUSER app\nCMD ["./fwatchdog"]\n',
            {},
            [DOG, "golang:1-alpine", "alpine:3"],
        ),
        (  # PHP
            f"ARG TARGETPLATFORM\nARG BUILDPLATFORM\n\n{PLATFORM} {DOG} as watchdog\n"
            f"{PLATFORM} composer:latest AS composer\n{PLATFORM} php:8-alpine\n"
            "COPY --from=composer /usr/bin/composer /usr/bin/composer\nARG COMPOSER_AUTH='{}'\n"
            "ENV COMPOSER_AUTH=${COMPOSER_AUTH}\nRUN [[ -f x.sh ]] && sh ./x.sh && \\\n"
            "    chown -R app /home/app\nRUN apk del git && \\\n"
            "    { find / -type f -print0 | xargs -0r strip -p 2>/dev/null || true; }\n",
            {},
            [DOG, "composer:latest", "php:8-alpine"],
        ),
        (  # Python, with a version of the function's choice
            f"ARG PYTHON_VERSION=3.12\n{PLATFORM} {DOG} as watchdog\n"
            f"{PLATFORM} python:${{PYTHON_VERSION}}-slim as build\nARG UPGRADE_PACKAGES=false\n"
            'RUN if [ "${UPGRADE_PACKAGES}" = "true" ] || [ "$OTHER" = "1" ]; then \\\n'
            "    apt-get upgrade -y; fi\nCOPY --chown=app:app function/requirements.txt\t.\n"
            "FROM build as test\nARG TEST_COMMAND=tox\nARG TEST_ENABLED=true\n"
            'RUN [ "$TEST_ENABLED" = "false" ] && echo "skipped" || eval "$TEST_COMMAND"\n'
            "FROM build as ship\n",
            {"PYTHON_VERSION": "3.13"},
            [DOG, "python:3.13-slim"],
        ),
        (  # Ruby and Java: a space behind the backslash, stages that come late
            "FROM jdk:11-slim as builder\n\nRUN apt-get update -qqy \\ \n  && apt-get install \\\n"
            "   unzip\nENV PATH=$PATH:$GRADLE_HOME/bin\nCOPY . /home/app/\nRUN gradle build\n"
            f"FROM {DOG} as watchdog\nFROM jre:11-slim as ship\nCOPY --from=builder /a ./a\n",
            {},
            ["jdk:11-slim", DOG, "jre:11-slim"],
        ),
    ],
)
def test_what_the_templates_of_openfaas_use(
    text: str, arguments: dict[str, str], images: list[str]
) -> None:
    found = read(text, **arguments)
    assert [name for _, name in found.images()] == images
    assert refused(text, **arguments) == ""
    assert "--platform" not in render(found).decode()


@pytest.mark.parametrize(
    ("text", "after", "home"),
    [
        ("FROM x\nUSER app\nRUN pip install --user -r r.txt\nRUN y\n", 3, "/home/app"),
        ("FROM x AS a\nUSER snake:g\nRUN pip3 install -q --user x\nFROM a\n", 3, "/home/snake"),
        ("FROM x\nRUN pip install --user x\nUSER app\n", 0, ""),
        ("FROM x\nUSER root\nRUN pip install --user x\n", 0, ""),
        ("FROM x\nUSER 1000\nRUN pip install --user x\n", 0, ""),
        ("FROM x AS a\nUSER app\nFROM x\nRUN pip install --user x\n", 0, ""),
        ("FROM x\nUSER app\nRUN pip install x\n", 0, ""),
        ("FROM x\nUSER app\nRUN useradd --user y; pip install --username x\n", 0, ""),
        (f"FROM x\nUSER app\nRUN {'pip ' * 30_000}\n", 0, ""),
        (f"FROM x\nUSER app\nRUN {'pip ' * 30_000}--user\n", 3, "/home/app"),
    ],
)
def test_packages_in_a_users_home_are_found_by_others(text: str, after: int, home: str) -> None:
    lines = render(with_user_packages(read(text))).decode().splitlines()
    plain = rendered(text).splitlines()
    told = [f"ENV PYTHONUSERBASE={home}/.local"] if home else []
    assert lines == plain[:after] + told + plain[after:]


def test_images_are_those_of_copies_and_mounts_too() -> None:
    text = (
        "FROM a AS one\nFROM one\nCOPY --from=b x y\nCOPY --from=one x y\nCOPY --from=0 x y\n"
        "RUN --mount=type=bind,from=c,target=/c --mount=FROM=d,target=/d x\nFROM scratch\n"
    )
    assert read(text).images() == [(1, "a"), (3, "b"), (6, "c"), (6, "d")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it has no FROM"),
        ("# only a comment\n", "it has no FROM"),
        ("RUN x\nFROM a\n", "line 1: RUN comes before the first FROM"),
        ("FROM a b\n", "line 1: FROM has the form"),
        ("FROM a AS b\nFROM a AS B\n", "line 2: there are two stages named 'b'"),
        ("FROM a AS $x\n", "cannot be the name of a stage"),
        ("FROM a\nFRUM b\n", "line 2: 'FRUM' is not an instruction"),
        ("FROM a\nRUN x \\\\\n", "line 2: it ends in a backslash"),
        ("FROM a\nRUN x\x0b--network=host\n", "line 2: it has the character U+000B"),
        ("FROM a\nRUN\u00a0x\n", "line 2: it has the character U+00A0"),
        ("FROM a\nRUN a\rADD http://x /\n", "line 2: it has the character U+000D"),
        ("FROM a\nCOPY --from=late x y\nFROM b AS late\n", "a stage that does not come before it"),
        ("FROM a AS b\nCOPY --from=b x y\n", "a stage that does not come before it"),
        ("# escape=`\nFROM a\n", "line 1: another escape character"),
        ("# syntax=evil/frontend\nFROM a\n", "line 1: the frontend 'evil/frontend' is a program"),
        ("#SYNTAX = evil\nFROM a\n", "the frontend 'evil' is a program"),
    ],
)
def test_mistakes_of_form(text: str, told: str) -> None:
    assert told in refused(text)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(BuildFailed, match="not UTF-8 text"):
        parse(b"FROM a\nRUN \xff\n", "Dockerfile", {})
    with pytest.raises(BuildFailed, match="at most"):
        parse(b"FROM a\n" + b"#" * 200_000, "Dockerfile", {})


def test_what_would_take_long_to_read_is_refused_soon() -> None:
    begun = time.monotonic()
    assert "line 101: it has more than 100 stages" in refused("FROM a\n" * 200)
    many = "".join(f"FROM a AS s{n}\nCOPY --from=s{n} x y\n" for n in range(2000))
    for text in ("FROM a\n" * 18_000, "FROM a\n" + "RUN x\n" * 1000, many):
        assert "line 1001: it has more than 1000 instructions: join" in refused(text)
    assert not refused("#a=b" + " " * 100_000 + "c\nFROM a\n" + "RUN x\n" * 999)
    doubled = "".join(f"ARG a{n + 1}=$a{n}$a{n}\n" for n in range(40))
    assert "what FROM $a40 stands for cannot be told" in refused(f"ARG a0=x\n{doubled}FROM $a40\n")
    assert f"FROM {'x' * 512} AS" in rendered(f"ARG a0=x\n{doubled}FROM $a9\n")
    assert time.monotonic() - begun < 60


HIDDEN = "ADD http://169.254.169.254/x /meta\nCOPY --from=127.0.0.1:5000/bob/fn:1 / /x\nRUN true \\"


@pytest.mark.parametrize(
    "line",
    [
        *(
            "RUN cat <<EOF #'x",
            "RUN cat <<EOF",
            "RUN cat <<'EOF' > /x",
            "RUN <<-EOF",
            "COPY <<EOF /x",
        ),
        *('RUN cat <<EOF "', "RUN cat <<EOF \\'", "RUN cat 3<<EOF ${", "RUN cat <<EOF <<'X"),
        *("RUN ${A:-<}<EOF", "RUN <${A:-<}EOF", "RUN ${A:-${B:-<<}}EOF", 'RUN ${A:-"}"<}<EOF'),
        *("RUN cat \\\n<\\\n<EOF", "ADD <<EOF /x", "ONBUILD RUN <<EOF", "run\t<<EOF"),
    ],
)
def test_heredocs_are_refused_however_they_are_written(line: str) -> None:
    """BuildKit finds none where a quote is not closed, and takes the body for instructions."""
    told = refused(f"FROM a\n{line}\n{HIDDEN}\nEOF\n")
    assert "line 2: heredocs (<<) are not read here: write a script and COPY it" in told
    assert refused(f"FROM a\n{line}\nRUN x\n").startswith("fn/Dockerfile has 1 mistake:")


def test_what_is_no_heredoc_is_kept() -> None:
    for line in ("RUN bash -c 'cat <<< x'", "RUN a < ${F:-x}", "RUN <a cat ${F} <b", "ENV A=<<EOF"):
        assert not refused(f"FROM a\n{line}\n")


@pytest.mark.parametrize("word", sorted(dockerfiles.WORDS - {"FROM"}))
def test_an_instruction_without_anything_is_a_mistake(word: str) -> None:
    for line in (word, f"{word} ", f"{word} --chown=1", f"{word} --"):
        assert f"line 2: {word} has nothing after it" in refused(f"FROM a\n{line}\n")
    if word != "ONBUILD":
        assert f"ONBUILD {word} " in refused(f"FROM a\nONBUILD {word}\n")


def test_a_number_without_end_is_the_name_of_no_stage() -> None:
    assert not refused(f"FROM a\nCOPY --from={'1' * 5000} x y\n")


# What may not be asked for


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ADD http://169.254.169.254/latest /x", "fetch a URL"),
        ("ADD --chown=1 https://example.com/x /x", "fetch a URL"),
        ("ADD git@example.com:a/b.git /x", "fetch a URL"),
        ("ADD github.com/a/b /x", "fetch a URL"),
        ("ADD git\\hub.com/a/b /x", "fetch a URL"),
        ("ADD $URL /x", "fetch a URL"),
        ("ADD x ${URL} /x", "fetch a URL"),
        ('ADD "ht"tp://x /x', "fetch a URL"),
        ('ADD ["http://x", "/x"]', "fetch a URL"),
        ('ADD ["ht\\u0074p\\u003a//x", "/x"]', "fetch a URL"),
        ('ADD ["http://x", "/x"] junk', "fetch a URL"),
        ("add \\\n  http://x \\\n  /x", "fetch a URL"),
        ("ONBUILD ADD http://x /x", "ONBUILD ADD http://x"),
        ("ONBUILD RUN --network=host x", "ONBUILD --network=host"),
        ("ONBUILD COPY --from=other x y", "not checked where it runs"),
        ("ONBUILD ONBUILD RUN x", "is not an instruction"),
        ("RUN --network=host x", "only default and none"),
        ("RUN --security=insecure x", "no further rights"),
        ("RUN --device=nvidia x", "no devices"),
        ("RUN --mount=type=ssh x", "no ssh agent"),
        ("RUN --mount=type=secret,id=npmrc x", "handed no secrets"),
        ("RUN --mount=type=secret x", "handed no secrets"),
        ("RUN --mount=target=/x,TYPE=ssh x", "no ssh agent"),
        ("RUN --mount=type=$T,target=/x x", "without variables"),
        ("RUN --mount=type=bind,from=$F,target=/x x", "without variables"),
        ('RUN --mount="type=ssh" x', "without quotes"),
        ('RUN --"net"work=host x', "without quotes"),
        ("RUN --mount=type=cache,id=../bob/uv,target=/c x", "other owners"),
        ("RUN --mount=type=cache,target=../../bob/uv x", "other owners"),
        ("RUN --mount=type=cache,id=/a,target=/c x", "other owners"),
        ("RUN --mount=type=cache,id=$A,target=/c x", "without variables"),
        ("RUN --mount=type=cache,target=/c/$A x", "other owners"),
        ("RUN --mount=type=new x", "is not known"),
        ("COPY --from=$S x y", "without variables"),
    ],
)
def test_what_reaches_out_of_the_fence_is_refused(line: str, told: str) -> None:
    assert told in refused(f"FROM a AS other\nFROM a\n{line}\n")


def test_what_is_common_is_allowed() -> None:
    assert not refused(
        "FROM a AS build\nARG V=1\nENV A=$V\nADD app.tar.gz /srv/\nADD --chown=1:1 a b $HOME/\n"
        "RUN --mount=type=cache,target=/root/.cache --mount=type=cache,id=apt-$V x\n".replace(
            "apt-$V", "apt"
        )
        + "RUN --mount=type=bind,source=.,target=/src,rw --network=none make\n"
        "RUN --mount=type=secret,id=ca,target=/etc/ca.pem --mount=type=tmpfs,target=/t x\n"
        'HEALTHCHECK --interval=5s CMD x\nONBUILD COPY . .\nSHELL ["/bin/bash", "-c"]\n'
        'RUN curl http://example.com $X "quoted"\nFROM scratch\nCOPY --from=build --chown=1 / /\n'
    )


ESCAPES = st.sampled_from(["http://x /y", "git@h:a.git /y", "$U /y", "github.com/a/b /y"])


@given(
    ESCAPES,
    st.sampled_from(["ADD", "add", "aDd"]),
    st.lists(
        st.sampled_from([" ", "\t", " \\\n", "\\\n \t", "\\\n# comment\n", "\\\n\n"]), min_size=1
    ),
    st.sampled_from(["", "\n# c\n", "\r\n", "   "]),
)
def test_no_way_of_writing_hides_an_add(what: str, word: str, gaps: list[str], before: str) -> None:
    gap = "".join(gaps)
    if not gap.startswith((" ", "\t")):
        gap = " " + gap
    if not re.search(r"[ \t]\Z", gap):
        gap += " "
    assert "fetch a URL" in refused(f"FROM a\n{before}{word}{gap}{what}\n")


pieces = st.lists(
    st.sampled_from(
        [
            *("FROM a\n", "FROM a AS b\n", "FROM b\n", "RUN x", "COPY --from=b x y", "ADD x y"),
            *("--mount=type=cache,target=/x ", "ONBUILD ", "ENV a=b", "ARG x=1\n", "$x", "${x}"),
            *("<<EOF", "<<'EOF' ", "<<-X ", "EOF", "X", "\\", " ", "\t", "\n", "\n", "\n", "# c"),
            *("'", '"', "http://x", "\r\n", "\ufeff", "é", "--", "# syntax=x\n", "\u2028", "\x00"),
        ]
    ),
    max_size=30,
)


@given(pieces)
def test_what_is_written_out_is_read_the_same(parts: list[str]) -> None:
    try:
        found = read("FROM base AS z\n" + "".join(parts))
    except BuildFailed:
        return
    text = render(found)
    again = parse(text, "fn/Dockerfile", {})
    assert render(again) == text
    assert again.images() == found.images()
    assert again.stages == found.stages
    for line in filter(None, text.decode().split("\n")):
        assert line.split(" ")[0] in dockerfiles.WORDS, "every line is an instruction"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BuildFailed):
        assert parse(data, "Dockerfile", {}).stages


# The stage test


SEALED = (
    "ARG V=1\nFROM a:$V AS base\nRUN install\nFROM base AS tools\nRUN more\n"
    "FROM base AS Test\nARG X\nCOPY --from=tools /t /t\nCOPY --from=1 /u /u\n"
    "RUN --mount=type=bind,from=tools,target=/m check\nFROM base\nCMD run\n"
)


def test_the_stage_test_is_cut_out() -> None:
    plan = sealed.plan(read(SEALED))
    assert plan is not None
    assert plan.needed == ["base", "tools", "1"]
    assert not plan.runs
    cut = plan.cut({"base": "i:base", "tools": "i:tools", "1": "i:tools"}).decode()
    assert [line for line in cut.split("\n") if line] == [
        "ARG V=1",
        "FROM i:base AS test",
        "ARG X",
        "COPY --from=i:tools /t /t",
        "COPY --from=i:tools /u /u",
        "RUN --mount=type=bind,from=i:tools,target=/m check",
    ]


def test_a_command_of_the_stage_test_is_run() -> None:
    plan = sealed.plan(read('FROM a AS test\nENTRYPOINT ["x"]\nFROM b\n'))
    assert plan is not None
    assert plan.runs
    assert not plan.needed
    assert sealed.plan(read("FROM a\n")) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FROM a AS test\n", "line 1: the stage test is the last one"),
        ("FROM a\nFROM a AS TEST\n", "line 2: the stage test is the last one"),
        ("FROM a AS test\nFROM test\n", "line 2: it builds on the stage test"),
        ("FROM a AS test\nFROM a\nCOPY --from=test x y\n", "line 3: it builds on the stage test"),
        ("FROM a AS test\nFROM a\nCOPY --from=0 x y\n", "line 3: it builds on the stage test"),
        ("FROM a AS test\nFROM a\nRUN --mount=from=Test,target=/t x\n", "line 3: it builds on"),
    ],
)
def test_the_stage_test_stands_for_itself(text: str, told: str) -> None:
    assert told in refused(text)


# Names of images


HERE = Settings.from_env(
    {
        "SLIPWAY_REGISTRY": "127.0.0.1:5005/acme",
        "SLIPWAY_ALLOW_REGISTRIES": "10.1.2.3:5000,hub.internal",
        "SLIPWAY_PYTHON_IMAGE": "127.0.0.1:5005/base/python:3",
    }
)


@pytest.mark.parametrize(
    "name",
    [
        *("python", "python:3.11-slim", "library/python", "docker.io/library/python:3", "a/b/c"),
        *("127.0.0.1:5005/acme/ann/hello:x", "127.0.0.1:5005/base/python:3"),
        *("10.1.2.3:5000/x", "hub.internal/x", "hub.internal:443/x/y:1"),
        f"python@sha256:{'a' * 64}",
        *("slipway/ann/hello:x", "docker.io/slipway/ann/hello", "slipway-builder", "slipwayx/b"),
    ],
)
def test_images_that_may_be_built_on(name: str) -> None:
    check_name(name, HERE, "ann")


@pytest.mark.parametrize(
    "name",
    [
        *("127.0.0.1:5005/acme/bob/hello", "127.0.0.1:5005/acme/annx/hello", "127.0.0.1:5005/x"),
        *("127.0.0.1:5005/acme/ann", "127.0.0.1/x/y", "localhost/x", "localhost:5005/acme/bob/x"),
        *("10.0.0.1/x", "10.1.2.3:5001/x", "intern:5000/x", "0x7f.1/x", "2130706433:80/x"),
        *("169.254.169.254/latest/x", "127.1:5005/acme/bob/x", "slipway/bob/hello:x"),
        *("docker.io/slipway/bob/hello:x", "index.docker.io/slipway/bob/hello"),
        *("DOCKER.IO/slipway/bob/hello", "registry-1.docker.io/slipway/bob/x", "slipway/annx/x"),
        *("slipway-build:abcdef-1-2", "slipway-build", "library/slipway-build:x"),
        *("docker.io/library/slipway-build:x", "docker.io/slipway-build"),
        f"docker.io/library/slipway-build:x@sha256:{'a' * 64}",
        "example.com:5005/acme/bob/x",
    ],
)
def test_images_of_others_and_of_inside_are_refused(name: str) -> None:
    with pytest.raises(NotAllowed):
        check_name(name, HERE, "ann")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "a b",
        "http://x/y",
        "[::1]:5000/x",
        "user@host/x",
        "a@sha256:1",
        "-x",
        "../x",
        "a:",
        "é",
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name, HERE, "ann")


# Secrets of the function.


@pytest.mark.parametrize(
    ("written", "result"),
    [
        (
            "--mount=type=secret,id=a cat x",
            "--mount=type=secret,target=/run/secrets/a,id=1f cat x",
        ),
        ("--mount=id=a,type=secret,dst=/k x", "--mount=type=secret,dst=/k,id=1f x"),
        ("--mount=type=secret,ID=a,mode=0400 x", None),
        ("--mount=type=secret,id=a,env=A x", "--mount=type=secret,env=A,id=1f x"),
        ("--mount=type=cache,id=a,target=/c x", "--mount=type=cache,id=a,target=/c x"),
        ("--mount=type=secret,id=ca x", "--mount=type=secret,id=ca x"),
        ("--network=none --mount=type=secret,id=b x", None),
        ("echo --mount=type=secret,id=a", "echo --mount=type=secret,id=a"),
    ],
)
def test_secrets_are_asked_for_by_other_ids(written: str, result: str | None) -> None:
    found = parse(f"FROM a\nRUN {written}\n".encode(), "Dockerfile", {})
    text = render(dockerfiles.with_secrets(found, {"a": "1f", "b": "2e"})).decode()
    if result is not None:
        assert text == f"FROM a AS slipway-stage-0\nRUN {result}\n"
    assert "id=a " not in text or "cache" in text or "echo" in text
    assert "id=b" not in text


def test_a_dockerfile_mounts_the_functions_own_secrets_only() -> None:
    found = parse(b"FROM a\nRUN --mount=type=secret,id=a x\n", "Dockerfile", {})
    assert dockerfiles.secrets(found) == {"a"}
    assert rules.mistakes_of(found, secrets={"ca", "a"}) == []
    (mistake,) = rules.mistakes_of(found)
    assert mistake.line == 2
    assert "those of the function's build_secrets" in mistake.text
