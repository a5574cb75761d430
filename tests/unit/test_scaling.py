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
