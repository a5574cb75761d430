"""Bounded logs on disk."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from core.logfiles import LogWriter, read_lines


def test_newest_lines_are_kept_within_the_bound(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "log", 1000)
    for number in range(200):
        log.append(b"line %05d\n" % number)
        total = sum(path.stat().st_size for path in (tmp_path / "log").iterdir())
        assert total <= 1000
    log.close()
    lines = list(read_lines(tmp_path / "log"))
    assert lines == [b"line %05d\n" % number for number in range(200 - len(lines), 200)]
    assert len(lines) >= 45


def test_much_at_once_stays_within_the_bound(tmp_path: Path) -> None:
    lines = [b"line %05d\n" % number for number in range(1000)]
    log = LogWriter(tmp_path, 1000)
    log.append(b"first\n")
    log.append(b"".join(lines))
    log.close()
    kept = list(read_lines(tmp_path))
    assert kept == lines[-len(kept) :]
    assert 500 < sum(len(each) for each in kept) <= 1000


def test_line_that_fits_no_file_is_left_out(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, 1000)
    longest = b"x" * (log.longest - 1) + b"\n"
    log.append(b"a\n" + b"x" * log.longest + b"\n" + b"b\n" + longest)
    log.close()
    assert list(read_lines(tmp_path)) == [b"b\n", longest]


def test_writer_that_goes_on_stays_within_the_bound(tmp_path: Path) -> None:
    for number in range(9):
        log = LogWriter(tmp_path, 1000)
        log.append(b"%d" % number * 449 + b"\n")
        log.close()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    assert [line[:1] for line in read_lines(tmp_path)] == [b"7", b"8"]


def test_writer_goes_on_where_an_earlier_one_stopped(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = LogWriter(tmp_path, 1000)
        log.append(text)
        log.close()
    assert list(read_lines(tmp_path)) == [b"one\n", b"two\n"]


def test_nothing_written_is_nothing_read(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "none")) == []


def test_a_torn_line_takes_no_later_one_along(tmp_path: Path) -> None:
    (tmp_path / "current.ndjson").write_bytes(b"one\ntw")
    log = LogWriter(tmp_path, 1000)
    log.append(b"three\n")
    log.close()
    assert list(read_lines(tmp_path)) == [b"one\n", b"tw\n", b"three\n"]


def test_what_a_full_disk_took_in_part_is_ended_once_there_is_room(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, 10_000)
    log.append(b"one\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
        with pytest.raises(OSError, match="too large"):
            log.append(b"two\nthree\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    log.append(b"four\n")
    log.close()
    assert list(read_lines(tmp_path)) == [b"one\n", b"tw\n", b"four\n"]
