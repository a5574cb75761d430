"""Fuzzes what reads the events of forges, and what checks their signatures (atheris).

    python -m tests.fuzz.webhooks --seconds 600 --seed 1

It begins with the forges' real events, changes them as JSON and as bytes, and goes on with what
reached something new. A parser that raises anything but InvalidRequest, gives something that is not
safe (``tests.forges.examples.safe``), or a check that takes a signature it should not, ends it with
another status than 0 and the input that did it. ``--planted`` puts a mistake in, to see it found.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["forges", "core.names", "core.signing"]):
    from core.errors import BadCredentials, InvalidRequest
    from forges import payloads
    from forges.gitea import webhooks as gitea_webhooks
    from tests.forges.examples import WEBHOOKS, examples, safe

EXAMPLES = list(examples())
SECRET = "it is a secret to everybody"
SIGNING = f"whsec_{base64.b64encode(SECRET.encode()).decode()}"
MAX_BYTES = 100_000
SLOW = 5
"""Seconds that one input may take; they take microseconds."""

_DELIVERY = re.compile(r"[-0-9A-Za-z]{0,64}")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**63, 2**64, 1e308, "", [], {}, "0" * 40, "a" * 40, "a" * 64),
    *("..", "a/b", "a/b/c", "../x", "a/.github", "a/x.lock", "refs/heads/main", "refs/heads/-x"),
    *("refs/tags/..", "x" * 2000, "\x00", "é", "http://x", "javascript:x", "deleted", "closed"),
)


def one_input(data: bytes) -> None:
    """The first byte chooses kind and forge, the second what is done with the rest."""
    if len(data) < 2:
        return
    example = EXAMPLES[data[0] % len(EXAMPLES)]
    webhooks, body = WEBHOOKS[example.forge], data[2:]
    if data[1] % 8 == 0:
        _signatures(example.forge, body)
        return
    try:
        event = webhooks.read(example.headers, bytearray(body) if data[1] % 2 else body)
    except InvalidRequest:
        return
    safe(event)


def _signatures(forge: str, body: bytes) -> None:
    """What is signed with the secret is taken; with what was made up in its place it is not."""
    webhooks = WEBHOOKS[forge]
    given = body[:200].decode("latin-1")
    for secret, headers in _signed(forge, body):
        webhooks.check(secret, headers, body)
        for name in headers:
            made_up = {**headers, name: given}
            if made_up == headers:
                continue
            for wanted in {secret, secret + "x", "x", ""} - {given}:
                try:
                    webhooks.check(wanted, made_up, body)
                except BadCredentials:
                    continue
                raise AssertionError(f"{forge} takes {made_up!r} for {wanted!r}")
    delivered = dict.fromkeys(("X-GitHub-Delivery", "Idempotency-Key", "X-Gitea-Delivery"), given)
    assert _DELIVERY.fullmatch(webhooks.delivery(delivered))


def _signed(forge: str, body: bytes) -> list[tuple[str, dict[str, str]]]:
    """(secret, headers as the forge would send them)."""
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    if forge == "github":
        return [(SECRET, {"X-Hub-Signature-256": f"sha256={digest}"})]
    if forge == "gitea":
        return [(SECRET, {"X-Gitea-Signature": digest})]
    told = str(int(time.time()))
    mac = hmac.new(SECRET.encode(), f"id.{told}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(mac).decode()}"
    sent = {"webhook-id": "id", "webhook-timestamp": told, "webhook-signature": signature}
    return [(SECRET, {"X-Gitlab-Token": SECRET}), (SIGNING, sent)]


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """Mostly changed as JSON, so that it stays JSON; at times as bytes."""
    chance = random.Random(seed)
    head, body = data[:2].ljust(2, b"\x01"), data[2:]
    if chance.random() < 0.1:
        head = bytes((chance.randrange(256), chance.randrange(256)))
        if chance.random() < 0.5:
            body = json.dumps(EXAMPLES[head[0] % len(EXAMPLES)].payload).encode()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))
    if chance.random() < 0.1:
        return bytes(atheris.Mutate(data, max_size))
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        value = _changed(value, chance)
    made: bytes = head + json.dumps(value, ensure_ascii=chance.random() < 0.9).encode(
        "utf-8", "surrogatepass"
    )
    return made if len(made) <= max_size else data


def _changed(value: Any, chance: random.Random) -> Any:
    """One place of it, at any depth, is another value, gone, there twice, or changed a little."""
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        made: Any = value.copy()
        key = chance.choice(list(made)) if isinstance(made, dict) else chance.randrange(len(made))
        if chance.random() < 0.1:
            del made[key]
        else:
            made[key] = _changed(made[key], chance)
        return made
    if isinstance(value, str) and chance.random() < 0.5:
        at = chance.randrange(len(value) + 1)
        return (
            value[:at]
            + chance.choice("/.-~^:@{\\ \x00\x7fé*?[x0")
            + value[at + chance.choice((0, 1)) :]
        )
    if isinstance(value, int) and chance.random() < 0.3:
        return value + chance.choice((-1, 1, 2**31, -(2**63)))
    if chance.random() < 0.2:
        return _part(chance.choice(EXAMPLES).payload, chance)
    return chance.choice(_VALUES)


def _part(value: Any, chance: random.Random) -> Any:
    while isinstance(value, dict | list) and value and chance.random() < 0.8:
        value = chance.choice(list(value.values()) if isinstance(value, dict) else value)
    return value


def _plant_reference() -> None:
    payloads.reference = lambda value: value


def _plant_title() -> None:
    """An index that is not always there."""

    def title(value: str) -> str:
        return value.split()[0][:300]

    payloads.title = title


def _plant_signature() -> None:
    """One that begins like the right one is enough."""
    gitea_webhooks.same_secret = lambda given, expected: (
        bool(expected) and expected.startswith(given)
    )


PLANTED: dict[str, Callable[[], None]] = {
    "reference": _plant_reference,
    "title": _plant_title,
    "signature": _plant_signature,
}
"""Mistakes: references are not checked; a title of nothing is not thought of; half a signature."""


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.webhooks", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--planted", choices=PLANTED)
    parser.add_argument("input", nargs="?", help="do one input that was found once more")
    options = parser.parse_args(argv)
    if options.planted:
        PLANTED[options.planted]()
    if options.input:
        one_input(Path(options.input).read_bytes())
        return
    folder = Path(tempfile.mkdtemp(prefix="slipway-fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, each in enumerate(EXAMPLES):
        for how in (0, 1, 2):
            seed = bytes((number, how)) + json.dumps(each.payload).encode()
            (corpus / f"{number}-{how}").write_bytes(seed)
    print(f"inputs that fail are kept in {folder}", file=sys.stderr)
    atheris.Setup(
        [
            "webhooks",
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed}",
            f"-max_len={MAX_BYTES}",
            f"-timeout={SLOW}",
            "-rss_limit_mb=2048",
            f"-artifact_prefix={folder}/",
            "-print_final_stats=1",
            str(corpus),
        ],
        one_input,
        custom_mutator=mutated,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
