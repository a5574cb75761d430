"""What tests of the docker runtime share: images made of a few files, and tidying up.

Images are built by the classic builder of the engine, which needs no program; each content once.
They stay until the session ends.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import tarfile
from collections.abc import Mapping, Sequence

from docker.errors import APIError, NotFound

from core import cgroup
from core.errors import SlipwayError
from core.settings import Settings
from engine.client import Engine
from runtime.providers.docker.network import FunctionsNetwork

# What a watchdog of Slipway's does: the code finds its socket open, and serves descriptor 3.
WRAPPER = """\
#!/usr/bin/env python3
import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", 8080))
listener.listen(1024)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"] = "1"
os.environ["PATH"] = "/opt/slipway/bin:" + os.environ["PATH"]
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    print(f"{sys.argv[1]}: {error.strerror}", flush=True)
    sys.exit(127)
"""

_SESSION = secrets.token_hex(8)
"""In each image: one that another session has of the same files is another one."""
_made: dict[tuple[str, str], str] = {}
"""(engine, content) → id."""


def image(
    settings: Settings,
    files: Mapping[str, str],
    process: Sequence[str],
    *,
    more: str = "",
    wrapped: bool = True,
) -> str:
    """The id of an image with these files in /home/app that runs ``process``.

    ``more``: lines of its Dockerfile. ``wrapped``: it listens on port 8080 before its code runs.
    """
    dockerfile = _dockerfile(settings.python_image, process, more, wrapped)
    content = {**files, ".wrapper": WRAPPER, ".Dockerfile": dockerfile}
    key = (settings.engine_url, json.dumps(content, sort_keys=True))
    if key not in _made:
        try:
            _made[key] = _build(settings, content)
        except AssertionError as error:
            # Removing an image takes its unnamed parents along, under a build that stands on them.
            if "unable to find image" not in str(error):
                raise
            _made[key] = _build(settings, content)
    return _made[key]


def _dockerfile(base: str, process: Sequence[str], more: str, wrapped: bool) -> str:
    labels = f"LABEL com.slipway.template=test session={_SESSION}"
    lines = [f"FROM {base}", labels, "WORKDIR /home/app", "COPY . ."]
    if wrapped:
        lines.append('ENTRYPOINT ["python3", "/home/app/.wrapper"]')
    if process:
        lines.append(f"CMD {json.dumps(list(process))}")
    return "\n".join([*lines, more, ""])


def _build(settings: Settings, content: Mapping[str, str]) -> str:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, text in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    context.seek(0)
    engine = Engine(settings.engine_url)
    try:
        with engine.asking("the test's image is not built") as api:
            made = ""
            for told in api.build(
                fileobj=context,
                custom_context=True,
                dockerfile=".Dockerfile",
                rm=True,
                forcerm=True,
                decode=True,
            ):
                assert "error" not in told, told["error"]
                made = (told.get("aux") or {}).get("ID", made)
            return str(made)
    finally:
        engine.close()


def remove_images() -> None:
    """At the end of the session; base images stay."""
    for (url, _), made in _made.items():
        engine = Engine(url)
        with contextlib.suppress(SlipwayError), engine.asking("") as api:
            api.remove_image(made, force=True)
        engine.close()
    _made.clear()


def remove_network(settings: Settings) -> None:
    """With every container that is still on it, and their control group: they are the test's."""
    engine = Engine(settings.engine_url)
    try:
        with engine.asking("") as api:
            label = f"com.slipway.installation={settings.mark}"
            for each in api.containers(all=True, filters={"label": label}):
                with contextlib.suppress(APIError, NotFound):
                    api.remove_container(each["Id"], v=True, force=True)
        FunctionsNetwork(settings, engine).remove()
        cgroup.end_containers(settings.mark)
    finally:
        engine.close()


def forget(id_: str) -> None:
    """A test removed it itself."""
    for key in [key for key, made in _made.items() if made == id_]:
        del _made[key]
