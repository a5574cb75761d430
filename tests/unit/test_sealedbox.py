"""Values sealed for one place: what opens, what does not, and what is said about it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import sodium_pad
from nacl.public import PublicKey, SealedBox

from core import sealedbox
from core.errors import ConfigError, InvalidRequest
from core.sealedbox import KEY_BYTES, MAX_VALUE, KeyPair, Place, Sealed, parse, seal

OURS, OTHERS = KeyPair(b"\1" * KEY_BYTES), KeyPair(b"\2" * KEY_BYTES)
PLACE = Place("acme", "github:123", "db-password")
SESAME = b"Open Sesame 9c1e"
TEXTS = st.text(max_size=80)
PLACES = st.builds(Place, TEXTS, TEXTS, TEXTS)


@given(st.binary(min_size=1, max_size=4096), PLACES)
def test_a_value_opens_at_its_place_with_its_key(value: bytes, place: Place) -> None:
    text = seal(OURS.public, place, value)
    sealed = parse(text)
    assert sealed.fingerprint == OURS.fingerprint != OTHERS.fingerprint
    assert OURS.open(sealed, place) == value
    assert len(value) < 4 or value not in sealed.box
    with pytest.raises(InvalidRequest, match="another installation"):
        OTHERS.open(sealed, place)


@given(PLACES, PLACES)
def test_it_opens_at_no_other_place_and_tells_which_part_differs(
    meant: Place, other: Place
) -> None:
    sealed = parse(seal(OURS.public, meant, SESAME))
    if meant == other:
        assert OURS.open(sealed, other) == SESAME
        return
    with pytest.raises(InvalidRequest) as told:
        OURS.open(sealed, other)
    pairs = zip(Place._fields, meant, other, strict=True)
    parts = " and ".join(part for part, one, two in pairs if one != two)
    assert f"for another {parts} than" in str(told.value)


def test_what_it_was_sealed_for_is_not_told() -> None:
    meant = Place("secretive-owner", "github:987654", "name-of-theirs")
    with pytest.raises(InvalidRequest) as told:
        OURS.open(parse(seal(OURS.public, meant, SESAME)), PLACE)
    for part in (*meant, SESAME.decode()):
        assert part not in str(told.value)


def test_no_two_parts_can_be_shifted_into_one_another() -> None:
    sealed = parse(seal(OURS.public, Place("ab", "c", "d"), SESAME))
    for other in (Place("a", "bc", "d"), Place("ab", "cd", ""), Place("abc", "", "d")):
        with pytest.raises(InvalidRequest, match="sealed for another"):
            OURS.open(sealed, other)


@settings(max_examples=300)
@given(st.integers(0, 255), st.integers(0, 10_000))
def test_one_byte_changed_or_less_does_not_open(byte: int, at: int) -> None:
    box = bytearray(parse(seal(OURS.public, PLACE, SESAME)).box)
    at %= len(box)
    for broken in (bytes(box[:at]), bytes(box[:at]) + bytes([byte ^ box[at] or 1]) + box[at + 1 :]):
        if broken != bytes(box):
            with pytest.raises(InvalidRequest, match="does not open"):
                OURS.open(Sealed(OURS.fingerprint, broken), PLACE)


@pytest.mark.parametrize("at", range(26))
def test_every_character_before_the_box_counts(at: int) -> None:
    text = seal(OURS.public, PLACE, SESAME)
    changed = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
    if 9 <= at < 25:  # of a key that nobody has
        assert parse(changed).fingerprint != OURS.fingerprint
    else:
        with pytest.raises(InvalidRequest, match="no sealed value"):
            parse(changed)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "hunter2",
            "sealed:",
            "sealed:1:",
            "sealed:2:{0}:{1}",
            "sealed:1:{0}:",
            "sealed:1:{0}",
        ),
        *("sealed:1:{0}:{1}=", "sealed:1:{0}:{1} ", " sealed:1:{0}:{1}", "sealed:1:{0}:{1}\n"),
        *("sealed:1:{0}:+{1}", "sealed:1:{0}é:{1}", "SEALED:1:{0}:{1}", "sealed:1:{0}:AAAA"),
        "sealed:1:{0}:" + "A" * sealedbox.MAX_TEXT,
    ],
)
def test_what_has_not_the_form_is_refused_and_not_shown(text: str) -> None:
    box = seal(OURS.public, PLACE, SESAME).rpartition(":")[2]
    with pytest.raises(InvalidRequest, match="no sealed value") as told:
        parse(text.format(OURS.fingerprint, box))
    assert box not in str(told.value)
    assert "hunter2" not in str(told.value)


def test_a_text_has_one_form_only() -> None:
    """Bits that base64 leaves over would give one box several texts."""
    text = seal(OURS.public, PLACE, SESAME)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same = []
    for last in alphabet:
        try:
            same += [last] if parse(text[:-1] + last).box == parse(text).box else []
        except InvalidRequest:
            continue
    assert same == [text[-1]]


def test_the_length_shows_in_steps_alone() -> None:
    lengths = {len(seal(OURS.public, PLACE, b"x" * size)) for size in range(1, 129)}
    assert len(lengths) <= 3


def test_the_largest_value_fits_and_no_larger_one() -> None:
    place = Place("n" * 63, "gitea:" + "9" * 60, "s" * 253)
    text = seal(OURS.public, place, b"x" * MAX_VALUE)
    assert OURS.open(parse(text), place) == b"x" * MAX_VALUE
    for value, why in ((b"x" * (MAX_VALUE + 1), "are the most"), (b"", "has no value")):
        with pytest.raises(InvalidRequest, match=why):
            seal(OURS.public, place, value)


@pytest.mark.parametrize("key", [b"", b"\1" * 31, b"\1" * 33, bytes(32)])
def test_what_is_no_public_key_seals_nothing(key: bytes) -> None:
    with pytest.raises(InvalidRequest, match="no public key"):
        seal(key, PLACE, SESAME)


@pytest.mark.parametrize("key", [b"", b"\1" * 31, b"\1" * 33])
def test_what_is_no_private_key_is_told(key: bytes) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        KeyPair(key)


@pytest.mark.parametrize(
    "document",
    [
        msgspec.msgpack.encode([2, *PLACE, SESAME]),
        msgspec.msgpack.encode([1, *PLACE]),
        msgspec.msgpack.encode([1, *PLACE, SESAME, "more"]),
        msgspec.msgpack.encode([1, *PLACE, "text"]),
        msgspec.msgpack.encode({"version": 1}),
        msgspec.msgpack.encode([1, *PLACE, SESAME]) + b"x",
        b"\x91" * 5000,
        b"",
    ],
)
def test_a_box_with_another_document_does_not_open(document: bytes) -> None:
    box = SealedBox(PublicKey(OURS.public)).encrypt(sodium_pad(document, sealedbox.STEP))
    with pytest.raises(InvalidRequest, match="does not open"):
        OURS.open(Sealed(OURS.fingerprint, bytes(box)), PLACE)


def test_a_box_without_padding_does_not_open() -> None:
    for inside in (b"", bytes(63), bytes(64), msgspec.msgpack.encode([1, *PLACE, SESAME])):
        box = SealedBox(PublicKey(OURS.public)).encrypt(inside)
        with pytest.raises(InvalidRequest, match="does not open"):
            OURS.open(Sealed(OURS.fingerprint, bytes(box)), PLACE)


def test_a_key_pair_does_not_print_its_key() -> None:
    assert repr(OURS) == f"KeyPair({OURS.fingerprint})"
    assert sealedbox.encoded(b"\1" * KEY_BYTES)[:8] not in f"{OURS!r} {vars(OURS)}"
