"""Numbers of replicas by OpenFaaS' labels."""

from __future__ import annotations

import pytest

from core import scaling

MIN, MAX, FACTOR = scaling.MIN, scaling.MAX, scaling.FACTOR


def test_a_deploy_keeps_the_scale_within_its_labels() -> None:
    assert scaling.deployed(None, 0) == 1
    assert scaling.deployed(None, 7) == 7, "no capacity is taken away"
    assert scaling.deployed({MIN: "3"}, 1) == 3
    assert scaling.deployed({MAX: "2"}, 7) == 2
    assert scaling.deployed({MIN: "99", MAX: "99"}, 0) == scaling.MAX_REPLICAS


@pytest.mark.parametrize(
    ("labels", "now", "firing", "then"),
    [
        ({}, 1, True, 2),  # 10 per cent of 5, rounded up
        ({}, 5, True, 5),
        ({}, 9, True, 9),  # set by hand: an alert that fires takes nothing away
        ({}, 9, False, 1),
        ({MIN: "2", MAX: "10", FACTOR: "50"}, 2, True, 7),
        ({MIN: "2", MAX: "10", FACTOR: "50"}, 7, True, 10),
        ({MIN: "2", MAX: "10", FACTOR: "50"}, 10, False, 2),
        ({FACTOR: "0"}, 3, True, 3),
        ({FACTOR: "0"}, 3, False, 3),
        ({MAX: "100", FACTOR: "100"}, 1, True, scaling.MAX_REPLICAS),
        ({MAX: "²", FACTOR: "9" * 5000}, 1, True, 2),
    ],
)
def test_an_alert_moves_the_scale_as_openfaas_does(
    labels: dict[str, str], now: int, firing: bool, then: int
) -> None:
    assert scaling.alerted(labels, now, firing=firing) == then


def test_the_defaults_are_openfaas() -> None:
    rule = scaling.rule(None)
    assert (rule.least, rule.most, rule.type, rule.target) == (1, 20, "capacity", 45.0)
    assert (rule.window, rule.idle, rule.grows) == (60.0, 0.0, False)
    assert scaling.rule({scaling.ZERO: "true"}).idle == 900.0
    assert scaling.rule(None, sleeps=True).idle == 900.0, "as the installation says"
    assert scaling.rule({scaling.ZERO: "false"}, sleeps=True).idle == 0.0
    assert scaling.rule({scaling.MAX: "3"}).grows


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (MIN, "-1"),
        (MIN, "1.5"),
        (MAX, "²"),
        (MAX, "9" * 5000),
        (MAX, "10000"),
        (FACTOR, "101"),
        (scaling.TYPE, "queue"),
        (scaling.TARGET, "0"),
        (scaling.TARGET, "-5"),
        (scaling.TARGET, "1000001"),
        (scaling.PROPORTION, "0"),
        (scaling.PROPORTION, "1.01"),
        (scaling.PROPORTION, "."),
        (scaling.PROPORTION, "nan"),
        (scaling.WINDOW, "6m"),
        (scaling.WINDOW, "soon"),
        (scaling.ZERO, "maybe"),
        (scaling.ZERO, ""),
        (scaling.IDLE, "0s"),
        (scaling.IDLE, "169h"),
        (scaling.IDLE, "1h" * 1000),
    ],
)
def test_a_bad_label_is_told_and_counts_as_the_default(label: str, value: str) -> None:
    [(name, told)] = scaling.mistakes({label: value, "other": "anything"})
    assert name == label
    assert told.startswith("is '")
    assert "write " in told
    assert len(told) < 300
    assert scaling.rule({label: value}).least == 1
    usual = scaling.rule({label: {scaling.ZERO: "false"}.get(label, "1")})
    found = scaling.rule({label: value})
    assert (found.idle, found.type) == (usual.idle, "capacity")


def test_a_minimum_above_the_maximum_is_told() -> None:
    assert list(scaling.mistakes({MIN: "5", MAX: "2"})) == [(MIN, f"is 5, which is above {MAX}, 2")]


def test_replicas_for_a_load() -> None:
    rule = scaling.rule({MIN: "2", MAX: "6", scaling.TARGET: "10", scaling.PROPORTION: "0.5"})
    found = [scaling.for_load(rule, load) for load in (0, 10, 10.1, 15, 15.1, 29, 1e9)]
    assert found == [2, 2, 3, 3, 4, 6, 6]
