"""The reference: one function put up by hand, as one would without a platform.

Its folder is the template with the handler inside, its dependencies are installed beside it, and
`python3 index.py` serves it: no sandbox, no edge, no tests, one request to see whether it answers.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import uv

from bench import harness, processes
from bench.harness import BenchError
from bench.repository import write_handler
from core.settings import ROOT

TEMPLATE = ROOT / "templates" / "python3-http"


class Server:
    """One function's server, and the folder that it runs from."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.app = folder / "app"
        self.dependencies = folder / "dependencies"
        self.port = harness.free_port()
        self.output = folder / "output"
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, text: str) -> None:
        """Copies the template and the handler's new code to where the server runs."""
        shutil.copytree(TEMPLATE, self.app, dirs_exist_ok=True)
        write_handler(self.app / "function", text)

    def write_code(self, code: str, packages: Sequence[str] = ()) -> None:
        """The same with a whole handler.py, and what it needs besides the template's packages."""
        self.write("")
        (self.app / "function" / "handler.py").write_text(code)
        with (self.app / "requirements.txt").open("a") as out:
            out.writelines(f"{each}\n" for each in packages)

    def install(self) -> None:
        """Installs the dependencies; uv's cache is below HOME."""
        argv = [uv.find_uv_bin(), "pip", "install", "--quiet", "--system-certs"]
        argv += ["--python", sys.executable, "--target", str(self.dependencies)]
        argv += ["-r", str(self.app / "requirements.txt")]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"uv failed: {done.stderr}")

    def start(self) -> None:
        """Starts `python3 index.py`; it does not answer yet when this returns."""
        env = self._env | {"PYTHONPATH": str(self.dependencies), "port": str(self.port)}
        with self.output.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "index.py"],
                cwd=self.app,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def memory(self) -> int:
        """Bytes (PSS) of the server, which runs."""
        assert self._process is not None
        return sum(map(processes.pss, processes.tree([self._process.pid])))

    def stop(self) -> None:
        """SIGTERM, and waits for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchError("the server by hand did not end 40 s after SIGTERM") from None
