from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.quantities import cpus, seconds, size
from core.settings import Settings


def test_every_mistake_is_told_at_once() -> None:
    env = {
        "SLIPWAY_PORT": "99999",
        "SLIPWAY_PROT": "1",
        "SLIPWAY_EDGE": "nginx",
        "SLIPWAY_BUILD_MEMORY": "much",
        "SLIPWAY_FUNCTION_LOG": "65Mi",
        "SLIPWAY_ASYNC_RESULTS": "0",
    }
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(env)
    text = str(caught.value)
    assert "SLIPWAY_PROT is not a setting: did you mean SLIPWAY_PORT?" in text
    assert "SLIPWAY_PORT='99999': write a whole number from 1 to 65535" in text
    assert "choose one of haproxy, none" in text
    assert "SLIPWAY_BUILD_MEMORY='much'" in text
    assert "SLIPWAY_FUNCTION_LOG='65Mi': write at most 64Mi" in text
    assert "SLIPWAY_ASYNC_RESULTS='0': write at least 1Mi" in text


def test_other_peoples_variables_are_not_read() -> None:
    assert Settings.from_env({"PORT": "1", "HOME": "/x"}).port == 8080


def test_an_empty_value_counts_as_unset() -> None:
    assert Settings.from_env({"SLIPWAY_PORT": ""}).port == 8080


def test_settings_survive_the_way_into_a_child() -> None:
    env = {
        "SLIPWAY_STATE": "/tmp/x",
        "SLIPWAY_EGRESS": "0",
        "SLIPWAY_ALLOW_HOSTS": "a.test, B.test",
        "SLIPWAY_BUILD_MEMORY": "512Mi",
        "SLIPWAY_BUILD_TIMEOUT": "1m30s",
    }
    first = Settings.from_env(env)
    assert Settings.from_env(first.environment()) == first
    assert first.allow_hosts == ("a.test", "b.test")
    assert (first.build_memory, first.build_timeout, first.egress) == (2**29, 90.0, False)


def test_secrets_are_masked() -> None:
    told = Settings.from_env({"SLIPWAY_GITHUB_WEBHOOK_SECRET": "hunter2"}).describe()
    assert told["SLIPWAY_GITHUB_WEBHOOK_SECRET"] == "********"
    assert "hunter2" not in str(told)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@h:1/0", "redis://u:hunt/er2@h", "redis://h?password=hunter2"]
)
def test_passwords_in_urls_are_masked(url: str) -> None:
    told = Settings.from_env({"SLIPWAY_REDIS_URL": url}).describe()["SLIPWAY_REDIS_URL"]
    assert "********" in told
    assert "er2" not in told


def test_what_is_told_reads_as_the_same_settings() -> None:
    settings = Settings.from_env(
        {
            "SLIPWAY_STATE": "/tmp/x",
            "SLIPWAY_BUILD_TIMEOUT": "90.5s",
            "SLIPWAY_EGRESS": "0",
            "SLIPWAY_MAX_IMAGE": "1000001",
            "SLIPWAY_ALLOW_HOSTS": "a.example,b.example",
            "SLIPWAY_FUNCTION_CPUS": "0.1",
        }
    )
    assert Settings.from_env(settings.describe()) == settings


def test_sockets_get_a_short_folder_where_state_lies_deep() -> None:
    deep = Settings.from_env({"SLIPWAY_STATE": "/tmp/" + "d" * 80})
    assert len(str(deep.run)) <= 60
    near = Settings.from_env({"SLIPWAY_STATE": "/tmp/near"})
    assert near.run == Path("/tmp/near/run")
    assert deep.run != Settings.from_env({"SLIPWAY_STATE": "/tmp/" + "e" * 80}).run


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("64k", 64_000),
        ("128Mi", 2**27),
        ("1.5Gi", 3 * 2**29),
        ("2G", 2 * 10**9),
        ("1.5T", 15 * 10**11),
        ("1Ti", 2**40),
        ("1024Ti", 2**50),
        ("1e3", 1000),
        ("12E+2", 1200),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize("text", ["1025Ti", "999999999999999999Gi", "1e16", "1e", "1e3Ki", "1E5G"])
def test_sizes_that_nothing_has_or_nobody_writes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a size"):
        size(text)


@pytest.mark.parametrize(
    ("text", "value"), [("30", 30), ("30s", 30), ("500ms", 0.5), ("1m30s", 90), ("1h", 3600)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "-1", "1x", "s", "1 2"])
def test_odd_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        seconds(text)


@pytest.mark.parametrize("text", ["9" * 400, "1" + "0" * 5000 + "Gi", "²", ".", "٣", "1e99"])
@pytest.mark.parametrize("read", [size, cpus, seconds])
def test_no_number_overflows(read: Callable[[str], float], text: str) -> None:
    with pytest.raises(ValueError, match="write "):
        read(text)
