"""The health checks of containers, with a real store and a gateway that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.alive import main, place
from core.settings import Settings
from core.store import Store
from tests.integration.gateway.harness import running


def status(settings: Settings, *arguments: str) -> int:
    return main(list(arguments), settings.environment())


def test_a_part_lives_by_its_beat(
    settings: Settings, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(settings, "controller") == 1
    assert "no sign of life of the controller" in capsys.readouterr().err
    store.beat("controller", 10, "docker")
    assert status(settings, "controller") == 0
    store.beat("controller", -1)
    assert status(settings, "controller") == 1


def test_the_workers_of_another_container_do_not_count(settings: Settings, store: Store) -> None:
    store.beat("worker:other", 10, "here pid:[1]")
    assert status(settings, "worker") == 1
    store.beat("worker:mine", 10, place())
    assert status(settings, "worker") == 0


def test_a_gateway_lives_if_it_answers(short_tmp: Path, valkey: str) -> None:
    with running(short_tmp, valkey) as gateway:
        assert gateway.anonymous("GET", "/healthz").status_code == 503, "others are missing"
        assert status(gateway.settings, "gateway") == 0
    assert status(gateway.settings, "gateway") == 1


def test_a_store_that_is_away_is_said(short_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away = Settings.from_env({"SLIPWAY_STATE": str(short_tmp)})
    assert status(away, "worker") == 1
    assert "the store does not answer" in capsys.readouterr().err


def test_usage(settings: Settings) -> None:
    assert status(settings) == status(settings, "nobody") == 2
