"""Dependencies with the real uv and npm: from a registry on loopback, and from the real ones."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder import dependencies, folders, node_dependencies, python_dependencies, tool
from builder.packagejson import Manifest
from builder.templates import Template
from core.bundle import Layer, layer_folder
from core.errors import BuildFailed, Unavailable
from core.settings import Settings


def template(name: str, fprocess: str) -> Template:
    return Template(name=name, folder=Path("/"), language=name, fprocess=fprocess, digest="")


PYTHON = template("python3-http", "python3 index.py")
NODE = template("node", "node index.js")


class Registry(ThreadingHTTPServer):
    """A package registry for both tools: path → (status, type, content)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, str, bytes]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def wheel(self, name: str, version: str, files: dict[str, str], requires: str = "") -> str:
        """Adds a wheel; returns its SHA-256."""
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += f"Requires-Dist: {requires}\n" if requires else ""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
            archive.writestr(f"{info}/METADATA", metadata)
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        return self.file(name, f"{name}-{version}-py3-none-any.whl", content.getvalue())

    def file(self, project: str, name: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.answers[f"/files/{name}"] = (200, "application/octet-stream", content)
        path = f"/simple/{project}/"
        page = self.answers.get(path, (200, "text/html", b"<!DOCTYPE html>"))[2]
        page += f'<a href="/files/{name}#sha256={digest}">{name}</a>'.encode()
        self.answers[path] = (200, "text/html", page)
        return digest

    def package(self, name: str, version: str, files: dict[str, str], **fields: object) -> None:
        """Adds an npm package."""
        manifest = {"name": name, "version": version, **fields}
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            for path, text in {**files, "package.json": json.dumps(manifest)}.items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        data = content.getvalue()
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        tarball = f"/{name}/-/{name}-{version}.tgz"
        self.answers[tarball] = (200, "application/octet-stream", data)
        dist = {"tarball": self.url + tarball, "integrity": integrity}
        document = {
            "name": name,
            "dist-tags": {"latest": version},
            "versions": {version: {**manifest, "dist": dist}},
        }
        self.answers[f"/{name}"] = (200, "application/json", json.dumps(document).encode())


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, kind, content = self.server.answers.get(self.path, (404, "text/plain", b"no"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry that uv and npm are told of by the builder's own environment."""
    server = Registry()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url}/simple")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", server.url)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "state").mkdir()
    return Settings.from_env(
        {"SLIPWAY_STATE": str(tmp_path / "state"), "SLIPWAY_BUILD_TIMEOUT": "60"}
    )


class Log(list[str]):
    """Collects the lines that users would see."""

    def __call__(self, line: str) -> None:
        self.append(line)


def app(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def install(
    settings: Settings,
    folder: Path,
    files: dict[str, str],
    of: Template = PYTHON,
    namespace: str = "alice",
    out: Log | None = None,
) -> list[Layer]:
    used = out if out is not None else Log()
    return dependencies.install(settings, namespace, of, app(folder, files), used)


def left_over(settings: Settings) -> list[str]:
    return [str(p) for p in settings.state.rglob(f"{folders.HALF_MADE}*") if "/uv/" not in str(p)]


# Python


def test_template_and_function_are_resolved_together_into_one_read_only_layer(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": "x = 1\n"})
    registry.wheel("alpha", "2.0", {"alpha.py": "x = 2\n"})
    registry.wheel("beta", "1.0", {"beta/__init__.py": "import alpha\n"}, requires="alpha<2")
    log = Log()
    files = {"requirements.txt": "alpha>=1\n", "function/requirements.txt": "beta\n"}
    (layer,) = install(settings, tmp_path / "app", files, out=log)
    assert layer.kind == "python"
    folder = layer_folder(settings, "alice", layer)
    assert (folder / "alpha.py").read_text() == "x = 1\n", "the one that fits both"
    assert list(folder.glob("__pycache__/alpha.cpython-*.pyc"))
    modes = {path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert modes == {0o555, 0o444}
    assert "resolved 2 packages" in log
    assert not any(sys.executable in line for line in log), "nothing of this machine is told"
    assert left_over(settings) == []


def test_nothing_required_means_no_layer_and_no_tool(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "run", pytest.fail)
    assert install(settings, tmp_path / "a", {"function/handler.py": ""}) == []
    assert install(settings, tmp_path / "b", {"function/requirements.txt": "# none\n"}) == []
    assert install(settings, tmp_path / "c", {"function/package.json": "{}"}, NODE) == []
    assert (
        install(settings, tmp_path / "d", {"requirements.txt": "six"}, template("x", "./x")) == []
    )


def test_unchanged_requirements_need_neither_network_nor_resolver(
    tmp_path: Path, settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    first = install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    registry.wheel("alpha", "2.0", {"alpha.py": ""})
    monkeypatch.setattr(tool, "run", pytest.fail)
    files = {"requirements.txt": "# words\nalpha\n"}
    app(tmp_path / "b", files)
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        assert dependencies.install(settings, "alice", PYTHON, tmp_path / "b", Log()) == first
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.1


def test_a_layer_that_is_gone_is_made_again_from_its_lock(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    (first,) = install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    registry.wheel("alpha", "2.0", {"alpha.py": ""})
    folders.remove(layer_folder(settings, "alice", first))
    assert install(settings, tmp_path / "b", {"requirements.txt": "alpha\n"}) == [first]


def test_a_lock_whose_files_are_gone_is_resolved_anew(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    (first,) = install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    folders.remove(layer_folder(settings, "alice", first))
    folders.remove(settings.caches / "alice/uv")
    registry.answers.clear()
    registry.wheel("alpha", "2.0", {"alpha.py": ""})
    log = Log()
    (second,) = install(settings, tmp_path / "b", {"requirements.txt": "alpha\n"}, out=log)
    assert second != first
    assert any("resolving them anew" in line for line in log)


def test_each_owner_has_a_cache_and_layers_of_their_own(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    (hers,) = install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    (his,) = install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"}, namespace="bob")
    assert hers == his
    file = "alpha.py"
    hers_file = layer_folder(settings, "alice", hers) / file
    his_file = layer_folder(settings, "bob", his) / file
    assert hers_file.stat().st_ino != his_file.stat().st_ino
    assert registry.asked.count("/files/alpha-1.0-py3-none-any.whl") >= 2


def test_many_functions_at_once_make_one_layer(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    found: list[list[Layer]] = []
    logs = [Log() for _ in range(4)]

    def work(number: int) -> None:
        files = {"requirements.txt": "alpha\n"}
        found.append(install(settings, tmp_path / str(number), files, out=logs[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(each == found[0] for each in found)
    assert sum("resolved 1 package" in log for log in logs) == 1
    assert [p.name for p in (settings.layers / "alice").iterdir()] == [found[0][0].digest]


def test_what_does_not_resolve_is_explained(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    files = {"requirements.txt": "alpha>=1\n", "function/requirements.txt": "alpha>=3\nno-such\n"}
    with pytest.raises(BuildFailed, match="do not resolve") as caught:
        install(settings, tmp_path / "a", files)
    assert "alpha" in str(caught.value)
    assert "No solution found" in str(caught.value)
    assert caught.value.step == "dependencies"
    assert left_over(settings) == []
    with pytest.raises(BuildFailed, match="not found in the package registry"):
        install(settings, tmp_path / "b", {"requirements.txt": "no-such\n"})


def test_source_packages_are_refused_and_never_run(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    proof = tmp_path / "ran"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in {
            "setup.py": f"open({str(proof)!r}, 'w')\n",
            "PKG-INFO": "Metadata-Version: 2.1\nName: gamma\nVersion: 1.0\n",
        }.items():
            member = tarfile.TarInfo(f"gamma-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    registry.file("gamma", "gamma-1.0.tar.gz", content.getvalue())
    with pytest.raises(BuildFailed, match="source packages run foreign code"):
        install(settings, tmp_path / "a", {"requirements.txt": "gamma\n"})
    assert not proof.exists()


@pytest.mark.parametrize("trouble", ["closed", "error"])
def test_a_registry_in_trouble_can_be_tried_again(
    tmp_path: Path,
    settings: Settings,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    if trouble == "closed":
        monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:hunter2@127.0.0.1:9/simple")
    else:
        registry.answers["/simple/alpha/"] = (503, "text/plain", b"later")
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    assert caught.value.retryable
    assert "hunter2" not in str(caught.value)


def test_the_users_hashes_hold(tmp_path: Path, settings: Settings, registry: Registry) -> None:
    right = registry.wheel("alpha", "1.0", {"alpha.py": ""})
    for digest, fits in ((right, True), ("0" * 64, False)):
        files = {"function/requirements.txt": f"alpha==1.0 --hash=sha256:{digest}\n"}
        if fits:
            assert install(settings, tmp_path / digest[:4], files)
        else:
            with pytest.raises(BuildFailed, match="none of the hashes"):
                install(settings, tmp_path / digest[:4], files)


def test_a_file_changed_behind_its_hash_is_refused(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": "good = 1\n"})
    (layer,) = install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    lock = next((settings.caches / "alice/locks").glob("*.txt")).read_text()
    registry.answers.clear()
    registry.wheel("alpha", "1.0", {"alpha.py": "evil = 1\n"})
    folders.remove(layer_folder(settings, "alice", layer))
    folders.remove(settings.caches / "alice/uv")
    with pytest.raises(BuildFailed, match=r"(?i)hash"):
        python_dependencies.install_lock(settings, "alice", "python", lock, Log())
    assert not layer_folder(settings, "alice", layer).exists()


def test_nothing_of_a_repository_configures_uv(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    evil = '[[index]]\nurl = "http://127.0.0.1:9/simple"\ndefault = true\n'
    files = {
        "requirements.txt": "alpha\n",
        "function/uv.toml": evil,
        "function/pyproject.toml": f"[tool.uv]\n{evil.replace('[[index', '[[tool.uv.index')}",
        "uv.toml": evil,
    }
    assert install(settings, tmp_path / "a", files)


def test_installed_programs_name_the_functions_own_interpreter(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    entry = {"alpha.py": "def main(): pass\n"}
    entry["alpha-1.0.dist-info/entry_points.txt"] = "[console_scripts]\nalpha = alpha:main\n"
    registry.wheel("alpha", "1.0", entry)
    (layer,) = install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    script = layer_folder(settings, "alice", layer) / "bin/alpha"
    assert script.read_text().startswith("#!/opt/slipway/bin/python3\n")
    assert script.stat().st_mode & 0o777 == 0o555


def test_a_full_disk_is_met_before_it_hurts(
    tmp_path: Path, settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    monkeypatch.setattr(folders, "RESERVE", 2**60)
    with pytest.raises(Unavailable, match="no room for builds"):
        install(settings, tmp_path / "a", {"requirements.txt": "alpha\n"})
    assert left_over(settings) == []


@pytest.mark.parametrize("name", ["package.json", "package-lock.json", "requirements.txt"])
def test_a_folder_in_the_place_of_a_file(tmp_path: Path, settings: Settings, name: str) -> None:
    of = PYTHON if name == "requirements.txt" else NODE
    with pytest.raises(BuildFailed, match=f"'{name}' is a folder") as caught:
        install(settings, tmp_path / "a", {f"function/{name}/x": ""}, of)
    assert "rename the folder" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_killed_build_leaves_nothing_that_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of what it put together nor of a layer; what somebody is at stays."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom builder import folders\n"
        "kept = [folders.making(Path(place)) for place in sys.argv[1:]]\n"
        "for each in kept:\n"
        "    (each.__enter__() / 'file').write_text('x')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    places = [settings.state / folders.WORK, settings.layers / "alice"]
    env = {"PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-c", program, *map(str, places)]
    assert subprocess.run(argv, env=env, check=False).returncode == -9
    assert all(len(list(place.iterdir())) == 1 for place in places)
    with folders.making(places[0]) as mine:
        assert dependencies.sweep(settings) == 0, "it may be at work still"
        monkeypatch.setattr(folders, "_STALE", -1)
        assert dependencies.sweep(settings) == 2
        assert list(places[0].iterdir()) == [mine]
    assert not any(list(place.iterdir()) for place in places)


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_layer(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.wheel("alpha", "1.0", {"alpha.py": ""})
    app(tmp_path / "a", {"requirements.txt": "alpha\n"})
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from builder import folders, python_dependencies\n"
        "from core.settings import Settings\n"
        "folders.settle = lambda *_: os.kill(os.getpid(), 9)\n"
        "settings = Settings.from_env({'SLIPWAY_STATE': sys.argv[1]})\n"
        "python_dependencies.install(settings, 'alice', {'r': b'alpha'}, print)\n"
    )
    env = {
        "PATH": "/usr/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "UV_DEFAULT_INDEX": f"{registry.url}/simple",
    }
    killed = subprocess.run(
        [sys.executable, "-c", program, str(settings.state)], env=env, check=False
    )
    assert killed.returncode == -9
    assert all(p.name.startswith(".new-") for p in (settings.layers / "alice").iterdir())
    (layer,) = install(settings, tmp_path / "b", {"requirements.txt": "alpha\n"})
    assert (layer_folder(settings, "alice", layer) / "alpha.py").is_file()


@pytest.mark.network
def test_the_real_python_registry(tmp_path: Path, settings: Settings) -> None:
    log = Log()
    files = {"requirements.txt": "uvicorn[standard]~=0.30\n", "function/requirements.txt": "six\n"}
    (layer,) = install(settings, tmp_path / "a", files, out=log)
    folder = layer_folder(settings, "alice", layer)
    assert {"six.py", "uvicorn", "uvloop"} <= {p.name for p in folder.iterdir()}
    assert re.search(r"resolved \d+ packages", log[0])


# Node


def node_app(folder: Path, manifest: object, lock: object = None) -> Path:
    files = {"function/package.json": json.dumps(manifest)}
    if lock:
        files["function/package-lock.json"] = json.dumps(lock)
    return app(folder, files)


def install_node(
    settings: Settings, folder: Path, manifest: object, lock: object = None, out: Log | None = None
) -> list[Layer]:
    used = out if out is not None else Log()
    return dependencies.install(settings, "alice", NODE, node_app(folder, manifest, lock), used)


def test_node_modules_without_scripts_and_without_what_only_tests_need(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    proof = tmp_path / "ran"
    scripts = {"postinstall": f"touch {proof}", "install": f"touch {proof}"}
    registry.package("alpha", "1.0.0", {"index.js": "1"}, scripts=scripts)
    registry.package("dev", "1.0.0", {"index.js": "1"})
    manifest = {
        "dependencies": {"alpha": "^1"},
        "devDependencies": {"dev": "1"},
        "scripts": {"preinstall": f"touch {proof}", "prepare": f"touch {proof}"},
    }
    (layer,) = install_node(settings, tmp_path / "a", manifest)
    folder = layer_folder(settings, "alice", layer)
    assert sorted(p.name for p in folder.iterdir()) == [".package-lock.json", "alpha"]
    assert not proof.exists()
    assert (folder / "alpha/index.js").stat().st_mode & 0o777 == 0o444
    tests = dependencies.node_layer(settings, "alice", NODE, tmp_path / "a", Log(), True)
    assert tests is not None
    assert (layer_folder(settings, "alice", tests) / "dev").is_dir()
    assert left_over(settings) == []


def test_unchanged_packages_need_no_npm(
    tmp_path: Path, settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.package("alpha", "1.0.0", {"index.js": "1"})
    first = install_node(settings, tmp_path / "a", {"dependencies": {"alpha": "^1"}})
    monkeypatch.setattr(tool, "run", pytest.fail)
    again = {"dependencies": {"alpha": "^1"}, "scripts": {"test": "x"}, "version": "7"}
    assert install_node(settings, tmp_path / "b", again) == first


def test_a_lock_decides_the_version_and_its_hash_holds(
    tmp_path: Path, settings: Settings, registry: Registry
) -> None:
    registry.package("alpha", "1.0.0", {"index.js": "1"})
    document = json.loads(registry.answers["/alpha"][2])
    registry.package("alpha", "1.5.0", {"index.js": "2"})
    newer = json.loads(registry.answers["/alpha"][2])
    newer["versions"].update(document["versions"])
    registry.answers["/alpha"] = (200, "application/json", json.dumps(newer).encode())
    manifest = {"dependencies": {"alpha": "^1"}}

    def lock(integrity: str) -> dict[str, object]:
        entry = {
            "version": "1.0.0",
            "integrity": integrity,
            "resolved": "http://127.0.0.1:9/evil.tgz",
        }
        return {
            "lockfileVersion": 3,
            "packages": {"": manifest, "node_modules/alpha": entry},
        }

    good = document["versions"]["1.0.0"]["dist"]["integrity"]
    (layer,) = install_node(settings, tmp_path / "a", manifest, lock(good))
    found = json.loads((layer_folder(settings, "alice", layer) / "alpha/package.json").read_text())
    assert found["version"] == "1.0.0"
    with pytest.raises(BuildFailed, match="EINTEGRITY"):
        install_node(settings, tmp_path / "b", manifest, lock("sha512-" + "A" * 86 + "=="))
    with pytest.raises(BuildFailed, match=r"EUSAGE|in sync"):
        install_node(settings, tmp_path / "c", {"dependencies": {"alpha": "^1.5"}}, lock(good))


@pytest.mark.parametrize("kind", ["http", "git", "file"])
def test_a_packages_own_dependencies_come_from_the_registry_too(
    tmp_path: Path, settings: Settings, registry: Registry, kind: str
) -> None:
    inner = Registry()  # stands for a server that only the builder can reach
    thread = threading.Thread(target=inner.serve_forever)
    thread.start()
    try:
        specs = {
            "http": f"{inner.url}/x.tgz",
            "git": f"git+{inner.url}/x.git",
            "file": "file:/etc",
        }
        registry.package("alpha", "1.0.0", {}, dependencies={"x": specs[kind]})
        with pytest.raises(BuildFailed):
            install_node(settings, tmp_path / "a", {"dependencies": {"alpha": "1"}})
        # Nor would npm take them from us, should our own check ever miss one.
        manifest = Manifest({"dependencies": {"x": specs[kind]}})
        with pytest.raises(BuildFailed):
            node_dependencies.install(settings, "alice", manifest, "", Log())
        assert inner.asked == []
    finally:
        inner.shutdown()
        thread.join()
        inner.server_close()


@pytest.mark.usefixtures("registry")
def test_what_npm_does_not_find_is_explained(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildFailed, match="E404"):
        install_node(settings, tmp_path / "a", {"dependencies": {"no-such": "1"}})
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot reach") as caught:
        install_node(settings, tmp_path / "b", {"dependencies": {"alpha": "1"}})
    assert caught.value.retryable
    assert left_over(settings) == []


@pytest.mark.network
def test_the_real_node_registry(tmp_path: Path, settings: Settings) -> None:
    (layer,) = install_node(settings, tmp_path / "a", {"dependencies": {"is-odd": "3.0.1"}})
    folder = layer_folder(settings, "alice", layer)
    assert {"is-odd", "is-number"} <= {p.name for p in folder.iterdir()}
