"""A Docker engine of the tests' own, to be killed, hung and restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from engine.client import Engine
from tests.conftest import missing

_START_SECONDS = 60.0


class PrivateEngine:
    """One dockerd, with a bridge, images and containers of its own."""

    def __init__(self, folder: Path) -> None:
        """``folder``: short, for sockets in it allow about a hundred bytes."""
        self.folder = folder
        self.url = f"unix://{folder}/b.sock"
        self._bridge = f"swt{os.getpid() % 0xFFFF:x}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "config.json").write_text("{}")
        address = f"172.29.{os.getpid() % 256}.1/24"
        for words in (
            ["link", "add", self._bridge, "type", "bridge"],
            ["addr", "add", address, "dev", self._bridge],
            ["link", "set", self._bridge, "up"],
        ):
            subprocess.run(["ip", *words], check=True, env=_PATH)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    f"--config-file={self.folder}/config.json",
                    *("--host", self.url),
                    *("--data-root", f"{self.folder}/data"),
                    *("--exec-root", f"{self.folder}/exec"),
                    *("--pidfile", f"{self.folder}/pid"),
                    *("--bridge", self._bridge),
                    *("--cgroup-parent", f"/{self._bridge}"),
                    *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
                    *("--ip-masq=false", "--userland-proxy=false", "--shutdown-timeout=3"),
                ],
                stdout=log,
                stderr=log,
                env=_PATH,
            )
        deadline = time.monotonic() + _START_SECONDS
        engine = Engine(self.url)
        while not engine.alive():
            told = (self.folder / "log").read_text()[-2000:]
            assert self._process.poll() is None, f"the test's engine ended: {told}"
            assert time.monotonic() < deadline, f"the test's engine does not start: {told}"
            time.sleep(0.05)

    def ensure(self) -> None:
        """Makes it run, whatever was done to it."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        self.go_on()

    def stop(self) -> None:
        """As a service manager does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Its containers live on until it is started again."""
        self._end(signal.SIGKILL)

    def hang(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def take_image(self, name: str, source: Engine) -> None:
        """Copies an image of another engine into this one."""
        with source.asking("the image is not saved") as api:
            data = api.get_image(name)
            with Engine(self.url).asking("the image is not loaded") as own:
                own.load_image(b"".join(data))

    def remove(self) -> None:
        """Ends it with everything that it made."""
        engine = Engine(self.url)
        with contextlib.suppress(Exception):
            self.ensure()
            with engine.asking("") as api:
                for each in api.containers(all=True):
                    api.remove_container(each["Id"], v=True, force=True)
        engine.close()
        with contextlib.suppress(Exception):
            self.stop()
        for line in Path("/proc/mounts").read_text().splitlines():
            point = line.split()[1]
            if point.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", point], check=False, env=_PATH)
        subprocess.run(["ip", "link", "del", self._bridge], check=False, env=_PATH)
        for group in Path("/sys/fs/cgroup").glob(f"*/{self._bridge}"):
            with contextlib.suppress(OSError):
                group.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None


_PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@contextlib.contextmanager
def private_engine(folder: Path) -> Iterator[PrivateEngine]:
    """Starts one in ``folder``; says what is missing where that is not possible."""
    if os.geteuid() != 0:
        missing("a Docker engine of the tests' own needs root")
    if not shutil.which("dockerd", path=_PATH["PATH"]):
        missing("a Docker engine of the tests' own needs dockerd on PATH")
    engine = PrivateEngine(folder)
    try:
        engine.start()
        yield engine
    finally:
        engine.remove()
