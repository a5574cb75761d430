"""Packages that a template installs into the home of the image's user, for whoever runs the image.

The Python templates of OpenFaaS run ``pip install --user`` as the user ``app``. A replica of ours
runs as a user of its own, and tests may run as root: their homes are others, so Python is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from builder.engines.dockerfile import Dockerfile, Instruction, Stage

_PIP = re.compile(r"\bpip[0-9.]* ")
_FLAG = re.compile(r"--user\b")
_USER = re.compile(r"(?!root$)[a-z_][a-z0-9_-]{0,31}")
"""A name: a user whose home is /home/<name>, and can be read by all."""


def with_user_packages(dockerfile: Dockerfile) -> Dockerfile:
    """The Dockerfile with a ``PYTHONUSERBASE`` behind each ``pip install --user``."""
    stages = []
    for stage in dockerfile.stages:
        stages.append(replace(stage, instructions=tuple(_with_base(stage))))
    return replace(dockerfile, stages=tuple(stages))


def _with_base(stage: Stage) -> Iterator[Instruction]:
    user = ""
    for each in stage.instructions:
        yield each
        if each.word == "USER":
            user = each.rest.partition(":")[0].strip()
        elif each.word == "RUN" and _USER.fullmatch(user) and _installs(each.rest):
            yield Instruction(each.line, "ENV", f"PYTHONUSERBASE=/home/{user}/.local")


def _installs(command: str) -> bool:
    pip = _PIP.search(command)
    return bool(pip and _FLAG.search(command, pip.end()))
