"""A function's log as it is read while it is written: order, seam, rotation, slow readers."""

from __future__ import annotations

import json
import random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from core.logfiles import CURRENT, LogWriter
from core.models import FunctionLogLine, now
from gateway.logchain import Chain
from gateway.logreading import Reading, Wanted

MAYBE = "[slipway: lines may be missing: the log was dropped while it came]"


def line(text: str, second: float = 0, instance: str = "a") -> bytes:
    time_ = datetime.fromtimestamp(1_800_000_000 + second, UTC).isoformat(timespec="milliseconds")
    stamp = time_.replace("+00:00", "Z")
    return msgspec.json.encode(FunctionLogLine(time=stamp, instance=instance, text=text)) + b"\n"


def reading(chain: Chain, **wanted: object) -> Reading:
    chain.look()
    return Reading(chain, Wanted(name="f", namespace="n", **wanted))  # type: ignore[arg-type]


def texts(reading: Reading, *, look: bool = True) -> list[str]:
    """What there is now."""
    found = []
    if look:
        reading.chain.look()
    while block := reading.next():
        found += [json.loads(each)["text"] for each in block.splitlines()]
    return found


def test_messages_are_those_of_openfaas(tmp_path: Path) -> None:
    LogWriter(tmp_path, 10_000).append(line("täxt", 1, "i-1"))
    found = reading(Chain(tmp_path))
    assert json.loads(found.next()) == {
        "name": "f",
        "namespace": "n",
        "instance": "i-1",
        "timestamp": "2027-01-15T08:00:01.000Z",
        "text": "täxt",
    }
    assert found.next() == b""
    assert found.ended


def test_kept_lines_come_by_time_over_all_instances(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, 10_000_000)
    for instance in "ab":  # as after a restart: all of one, then all of the other
        for number in range(2000):
            log.append(
                line(f"{number} {instance} {'x' * 50}", number + (instance == "b") / 2, instance)
            )
    got = texts(reading(Chain(tmp_path)))
    assert [text.split()[:2] for text in got] == [[str(n), i] for n in range(2000) for i in "ab"]
    got = texts(reading(Chain(tmp_path), tail=3))
    assert [text.split()[:2] for text in got] == [["1998", "b"], ["1999", "a"], ["1999", "b"]]
    assert len(texts(reading(Chain(tmp_path), instance="b"))) == 2000


def test_since_counts_for_what_comes_too(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, 10_000)
    since = datetime(2126, 1, 1, tzinfo=UTC)
    early = msgspec.json.encode(FunctionLogLine(time=now(), instance="a", text="early")) + b"\n"
    exact = early.replace(now()[:4].encode(), b"2126", 1).replace(b"early", b"late")
    log.append(early)
    found = reading(Chain(tmp_path), since=since, follow=True)
    assert texts(found) == []
    log.append(early + exact + early)
    assert texts(found) == ["late"]


@pytest.mark.parametrize(
    ("fraction", "kept"), [("00", 2), ("00.000000", 2), ("00.001", 1), ("00.500", 1), ("01", 0)]
)
def test_since_is_the_earliest_time(tmp_path: Path, fraction: str, kept: int) -> None:
    log = LogWriter(tmp_path, 10_000)
    for stamp in ("00Z", "00.500Z"):
        struct = FunctionLogLine(time=f"2026-01-01T00:00:{stamp}", instance="a", text="x")
        log.append(msgspec.json.encode(struct) + b"\n")
    since = datetime.fromisoformat(f"2026-01-01T00:00:{fraction}+00:00")
    assert len(texts(reading(Chain(tmp_path), since=since))) == kept


def test_a_log_that_begins_later_is_followed(tmp_path: Path) -> None:
    found = reading(Chain(tmp_path / "f"), follow=True)
    assert texts(found) == []
    LogWriter(tmp_path / "f", 10_000).append(line("first"))
    assert texts(found) == ["first"]


def test_nothing_is_lost_or_doubled_while_files_come_and_go(tmp_path: Path) -> None:
    """Readers begin while another thread writes, and changes the file in the middle of it."""
    chain = Chain(tmp_path)
    done = threading.Event()

    def write() -> None:
        log = LogWriter(tmp_path, 1_000_000)  # all of it stays, in two files
        for number in range(8_000):
            log.append(line(str(number)))
            if number % 100 == 0:
                time.sleep(0.01)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    readings = [reading(chain, follow=True)]
    got: list[list[int]] = [[]]
    while not done.is_set():
        chain.look()
        if len(readings) < 20:
            readings.append(reading(chain, follow=True))
            got.append([])
        for each, numbers in zip(readings, got, strict=True):
            numbers += map(int, texts(each, look=False))
    writer.join()
    chain.look()
    for each, numbers in zip(readings, got, strict=True):
        numbers += map(int, texts(each, look=False))
        assert numbers == list(range(numbers[0], 8_000))
    assert got[0][0] == 0


def test_nothing_is_lost_over_many_files(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, 20_000)
    chain = Chain(tmp_path)
    chances = random.Random(4)
    readings: list[tuple[Reading, list[int]]] = []
    written, maybe = 0, False
    while written < 5_000:
        if len(readings) < 20:
            readings.append((reading(chain, follow=True), []))
        for _ in range(chances.randrange(200)):  # a file takes 130: up to two are new
            log.append(line(str(written)))
            written += 1
        chain.look()
        for each, numbers in readings:
            got = texts(each, look=False)
            numbers += [int(text) for text in got if text != MAYBE]
            maybe |= MAYBE in got
    for _, numbers in readings:
        assert numbers == list(range(numbers[0], written))
    assert maybe, "where the newest file was dropped, nobody knows how many came after it"
    assert [numbers[0] for _, numbers in readings] == sorted(numbers[0] for _, numbers in readings)


def test_a_slow_reader_is_told_what_it_missed(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, 10_000)
    log.append(line("first"))
    chain = Chain(tmp_path)
    slow = reading(chain, follow=True)
    assert texts(slow) == ["first"]
    written = b""
    for number in range(500):
        each = line(str(number))
        written += each
        log.append(each)
        chain.look()
    note, *rest = texts(slow)
    kept = b"".join(line(text) for text in rest)
    assert written.endswith(kept)
    assert note == f"[slipway: {len(written) - len(kept)} bytes of log left out: read too slowly]"
    log.append(line("last"))
    assert texts(slow) == ["last"]


def test_dropped_files_are_let_go(tmp_path: Path) -> None:
    """However slow a reader is: their space on disk is bounded."""
    log = LogWriter(tmp_path, 10_000)
    log.append(line("first"))
    chain = Chain(tmp_path)
    slow = [reading(chain, follow=True) for _ in range(3)]
    for number in range(2000):
        log.append(line(str(number)))
        if number % 10 == 0:
            chain.look()
    chain.look()
    held = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in held if str(tmp_path) in str(path) and "deleted" in str(path)]
    assert texts(slow[0])


def test_torn_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_bytes(
        line("one") + line("torn")[:-9] + line("two") + b"\xff\xfe\n[]\n" + b"x" * 300_000
    )
    found = reading(Chain(tmp_path), follow=True)
    assert texts(found) == ["one"]
    with (tmp_path / CURRENT).open("ab") as file:
        file.write(b"\n" + line("three")[:20])
    assert texts(found) == []
    with (tmp_path / CURRENT).open("ab") as file:
        file.write(line("three")[20:] + line("four"))
    assert texts(found) == ["three", "four"]


def test_a_log_that_went_and_came_back_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    LogWriter(folder, 10_000).append(line("one"))
    found = reading(Chain(folder), follow=True)
    assert texts(found) == ["one"]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert texts(found) == []
    assert found.chain.files == []
    LogWriter(folder, 10_000).append(line("two"))
    assert texts(found) == ["two"]


def test_the_number_of_a_removed_file_may_come_again(tmp_path: Path) -> None:
    """As on ext4; other file systems give each file a new one."""
    folder = tmp_path / "f"
    LogWriter(folder, 10_000).append(line("one"))
    found = reading(Chain(folder), follow=True)
    assert texts(found) == ["one"]
    (folder / CURRENT).unlink()
    for _ in range(2):
        assert texts(found) == []
    assert found.chain.last.closed
    LogWriter(folder, 10_000).append(line("two"))
    status = (folder / CURRENT).stat()
    found.chain.last.identity = (status.st_dev, status.st_ino)
    assert texts(found) == ["two"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(line("secret"))
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / CURRENT).symlink_to(tmp_path / "secret")
    assert texts(reading(Chain(tmp_path / "f"), follow=True)) == []
