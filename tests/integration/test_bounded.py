"""The bounded runner against real processes that misbehave."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from builder import bounded
from core.errors import ConfigError


def run(program: str, folder: Path, **bounds: object) -> bounded.Ended:
    told: dict[str, object] = {"timeout": 10.0, "max_output": 10**6, **bounds}
    return bounded.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PATH": "/usr/bin", "GIVEN": "1"},
        **told,  # type: ignore[arg-type]  # a test's shorthand
    )


def gone(pid: int) -> bool:
    """Whether a process has ended, given a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_both_outputs_line_by_line_and_the_status(tmp_path: Path) -> None:
    lines: list[str] = []
    ended = run(
        "import os, sys; print('one', flush=True); print('two', file=sys.stderr, flush=True)\n"
        "sys.stdout.write('rest'); sys.exit(3)",
        tmp_path,
        on_line=lines.append,
    )
    assert (ended.status, ended.outcome, ended.ok) == (3, "exited", False)
    assert lines == ["one", "two", "rest"]
    assert ended.tail == ("one", "two", "rest")


def test_only_the_given_environment_folder_and_no_input(tmp_path: Path) -> None:
    ended = run(
        "import os, sys; print(sorted(os.environ)); print(os.getcwd()); print(sys.stdin.read())\n"
        "print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])",
        tmp_path,
    )
    names, folder, text, descriptors = ended.tail
    assert set(eval(names)) <= {"PATH", "GIVEN", "LC_CTYPE"}
    assert folder == str(tmp_path)
    assert text == ""
    assert descriptors == "[0, 1, 2]"


def test_the_whole_group_dies_at_the_timeout(tmp_path: Path) -> None:
    begun = time.monotonic()
    ended = run(
        "import os, time\n"
        "child = os.fork()\n"
        "if child: print(os.getpid(), child, flush=True)\n"
        "time.sleep(60)",
        tmp_path,
        timeout=1.0,
    )
    assert ended.outcome == "timeout"
    assert time.monotonic() - begun < 5
    for pid in ended.tail[0].split():
        assert gone(int(pid))


def test_a_child_that_keeps_the_pipe_holds_nobody_up(tmp_path: Path) -> None:
    begun = time.monotonic()
    ended = run(
        "import os, time\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True); os._exit(0)\n"
        "time.sleep(60)",
        tmp_path,
    )
    assert ended.ok
    assert time.monotonic() - begun < 5
    assert gone(int(ended.tail[0]))


def test_endless_output_ends_it_with_flat_memory(tmp_path: Path) -> None:
    count = 0

    def line(text: str) -> None:
        nonlocal count
        assert len(text) <= bounded.LINE_BYTES
        count += len(text)

    ended = run("while True: print('x' * 100_000)", tmp_path, max_output=10**6, on_line=line)
    assert ended.outcome == "output"
    assert 900_000 < count < 1_200_000


def test_stop_is_asked_and_obeyed(tmp_path: Path) -> None:
    begun = time.monotonic()
    ended = run("import time; time.sleep(60)", tmp_path, stop=lambda: True)
    assert ended.outcome == "stopped"
    assert time.monotonic() - begun < 5


def test_an_error_of_the_reader_ends_the_program(tmp_path: Path) -> None:
    pids: list[str] = []

    def line(text: str) -> None:
        pids.append(text)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run(
            "import os, time; print(os.getpid(), flush=True); time.sleep(60)",
            tmp_path,
            on_line=line,
        )
    assert gone(int(pids[0]))


def test_lines_are_safe_to_show(tmp_path: Path) -> None:
    ended = run(
        "import sys; write = sys.stdout.buffer.write\n"
        r"write(b'\x1b[31mred\x1b[0m\x07 \xff\n10%\r20%\rdone\n\x1b]0;t')",
        tmp_path,
    )
    assert ended.tail == ("red \ufffd", "done", "]0;t")


@pytest.mark.parametrize("end", ["", "\\n"])
@pytest.mark.parametrize(
    "word", ["hunter2-very-secret-token", "0123456789abcdef" * 192 + ".", "ä" * 20]
)
def test_a_hidden_word_is_not_told_wherever_it_is_cut(tmp_path: Path, word: str, end: str) -> None:
    hidden = bounded.Hidden([word])
    for before in (0, 4090, 4095, 8190, 12_000):
        program = (
            f"import sys, time; sys.stdout.buffer.write(('.' * {before} + {word[:9]!r}).encode())\n"
            f"sys.stdout.flush(); time.sleep(0.05)\n"
            f"sys.stdout.buffer.write(({word[9:]!r} + ',' * 9000 + '{end}').encode())"
        )
        told: list[str] = []
        ended = run(program, tmp_path, on_line=told.append, hidden=hidden)
        everything = "".join(told)
        assert everything == "".join(ended.tail)
        masked = everything.strip(".,")
        assert set(masked) == {"*"}, masked
        assert (everything.count("."), everything.count(",")) == (before, 9000)
        assert all(len(each) <= bounded.LINE_BYTES for each in told)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be started"):
        bounded.run([str(tmp_path / "no")], cwd=tmp_path, env={}, timeout=1, max_output=1)
