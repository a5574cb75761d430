"""Encryption at rest: what opens, what does not, and what is said about it."""

from __future__ import annotations

import base64
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.sealing import KEY_BYTES, SealingKey
from core.settings import ROOT
from core.signing import secret_file


def key(byte: int = 1) -> SealingKey:
    return SealingKey(base64.urlsafe_b64encode(bytes([byte]) * KEY_BYTES).decode(), Path("key"))


@given(st.binary(max_size=4096), st.text(max_size=100), st.text(max_size=100))
def test_a_value_opens_with_its_key_at_its_place_alone(
    value: bytes, place: str, other: str
) -> None:
    sealed = key().seal(value, place)
    assert key().open(sealed, place) == value
    assert key(2).open(sealed, place) is None
    assert other == place or key().open(sealed, other) is None
    assert len(value) < 4 or value not in sealed


@given(st.integers(0, 255), st.integers(0, 10_000))
def test_a_value_with_one_byte_changed_or_less_does_not_open(byte: int, at: int) -> None:
    sealed = bytearray(key().seal(b"sesame", "demo/api-key"))
    at %= len(sealed)
    assert key().open(bytes(sealed[:at]), "demo/api-key") is None
    before, sealed[at] = sealed[at], byte
    assert byte == before or key().open(bytes(sealed), "demo/api-key") is None


def test_no_two_seals_are_the_same() -> None:
    assert key().seal(b"sesame", "here") != key().seal(b"sesame", "here")


def test_a_file_made_once_is_the_key(tmp_path: Path) -> None:
    path = tmp_path / "secrets-key"
    secret_file(path, length=KEY_BYTES)
    assert path.stat().st_mode & 0o777 == 0o600
    sealed = SealingKey.read(path).seal(b"sesame", "here")
    assert SealingKey.read(path).open(sealed, "here") == b"sesame"
    assert SealingKey.read(path).fingerprint == SealingKey.read(path).fingerprint
    assert key().fingerprint != key(2).fingerprint


@pytest.mark.parametrize("text", ["", "short", "A" * 42, "A" * 44 + "B", "ü" * 43, "!" * 43])
def test_what_is_no_key_is_told_with_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secrets-key"
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)) as told:
        SealingKey.read(path)
    assert not text or text not in str(told.value)


def test_a_missing_key_is_told_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "secrets-key"
    with pytest.raises(ConfigError, match=f"{path} is not there"):
        SealingKey.read(path)
    assert not path.exists()


def test_who_holds_the_key_leaves_no_core_dump_and_does_not_print_it() -> None:
    child = os.fork()
    if child == 0:
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))
        made = key()
        printed = (
            base64.urlsafe_b64encode(b"\1" * KEY_BYTES).decode()[:8] in f"{made!r} {vars(made)}"
        )
        os._exit(resource.getrlimit(resource.RLIMIT_CORE)[0] != 0 or printed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_in_our_logs_does_not_tell_what_variables_hold(form: str) -> None:
    code = (
        "from core import logging\n"
        f"logging.configure('test', {form!r})\n"
        "def fail(value): raise RuntimeError('on purpose')\n"
        "try: fail('Open ' + 'Sesame')\n"
        "except RuntimeError: logging.get().exception('failed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "on purpose" in done.stderr
    assert "Open Sesame" not in done.stderr
