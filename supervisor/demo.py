"""The demo: this checkout's stack.yml and functions/, pushed like anybody's repository.

``python -m supervisor.demo`` makes a commit of the two on top of what the remote's main has,
pushes it with the git client, waits for the release, calls one function, and says what to try
next. Where nothing changed there is nothing to push. The password travels in a file of ours.
Exit status 1: it said why on the screen; the platform runs all the same.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from core.errors import NotFound, SlipwayError, Unavailable
from core.names import function_url
from core.settings import ROOT, Settings
from core.signing import secret_file
from supervisor import parts

OWNER = REPOSITORY = "demo"
BRANCH = "main"
SHOWN = ("stack.yml", "functions")
RELEASE_SECONDS = 600.0
ANSWER_SECONDS = 60.0
"""How long the function may take to answer: after a restart it is being started."""
_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Slipway demo"), ("EMAIL", "demo@slipway.invalid"))
}


class DemoFailed(SlipwayError):
    """Something between the push and the answer went wrong; says what."""


class Demo:
    def __init__(self, settings: Settings, env: Mapping[str, str], folder: Path) -> None:
        """``folder``: a private one that is removed afterwards."""
        self.settings = settings
        self.folder = folder
        self.url = settings.base_url
        self.remote = f"{self.url}/git/{OWNER}/{REPOSITORY}.git"
        password = secret_file(settings.password_file)
        self.session = requests.Session()
        self.session.trust_env = False  # our own gateway: no proxy, no .netrc
        self.session.auth = ("admin", password)
        self.env = parts.passed(env) | _AUTHOR
        self.env |= {
            "HOME": str(folder),
            "GIT_DIR": str(folder / "demo.git"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "NO_PROXY": urlsplit(self.url).hostname or "",
            "no_proxy": urlsplit(self.url).hostname or "",
        }
        self.credentials = folder / "credentials"
        self.credentials.touch(mode=0o600)
        where = urlsplit(self.url)
        self.credentials.write_text(
            f"{where.scheme}://admin:{quote(password, safe='')}@{where.netloc}\n"
        )

    def run(self) -> None:
        """Pushes, waits, calls, shows. Raises DemoFailed."""
        commit = self._commit()
        if commit:
            say(f"pushing {' and '.join(SHOWN)} of {ROOT} to {self.remote}")
            self._push(commit)
        release = self._released(commit)
        answer = self._call(release)
        functions = self._get("/system/functions")
        self._show(release, answer, functions, unchanged=not commit)

    # git

    def _commit(self) -> str:
        """Makes the commit; returns its id, or '' where the remote's main has just that."""
        absent = [name for name in SHOWN if not (ROOT / name).exists()]
        if absent:
            raise DemoFailed(f"{ROOT} has no {' and no '.join(absent)} that could be pushed")
        self._git("init", "--quiet", "--bare")
        tree = self._tree()
        heads = self._heads()
        parent = []
        if heads:
            self._git("fetch", "--quiet", "--depth=1", self.remote, heads[0])
            if self._git("rev-parse", f"{heads[0]}^{{tree}}") == tree:
                return ""
            parent = ["-p", heads[0]]
        message = "The functions that Slipway's own checkout ships"
        return self._git("commit-tree", tree, *parent, "-m", message)

    def _heads(self) -> list[str]:
        """``[commit, ref]`` of the remote's main; [] where there is none yet."""
        asked = {"service": "git-upload-pack"}
        answer = self.session.get(f"{self.remote}/info/refs", params=asked, timeout=10)
        if answer.status_code == NotFound.status:
            return []  # the first push makes the repository
        return self._git("ls-remote", self.remote, f"refs/heads/{BRANCH}").split()

    def _tree(self) -> str:
        """The checkout's files as they are now, but for what its .gitignore names."""
        self._git(f"--work-tree={ROOT}", "add", "--", *SHOWN)
        return self._git("write-tree")

    def _push(self, commit: str) -> None:
        """Shows the push as it goes."""
        argv = self._argv("push", "--quiet", self.remote, f"{commit}:refs/heads/{BRANCH}")
        try:
            done = subprocess.run(
                argv, env=self.env, cwd=ROOT, timeout=RELEASE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"the push took over {RELEASE_SECONDS:.0f} s") from error
        if done.returncode:
            raise DemoFailed(f"git push ended with status {done.returncode}")

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(
            self._argv(*arguments),
            env=self.env,
            cwd=ROOT,
            timeout=60,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            command = next(each for each in arguments if not each.startswith("-"))
            raise DemoFailed(f"git {command}: {done.stderr.strip() or done.returncode}")
        return done.stdout.strip()

    def _argv(self, *arguments: str) -> Sequence[str]:
        helper = f"store --file={shlex.quote(str(self.credentials))}"  # git gives it to a shell
        settings = ("credential.helper=", f"credential.helper={helper}", "core.autocrlf=false")
        chosen = [word for setting in settings for word in ("-c", setting)]
        return ["git", *chosen, *arguments]

    # The platform

    def _released(self, commit: str) -> Mapping[str, Any]:
        """The repository's newest release, once it is live; started again if it is not."""
        path = f"/system/releases?namespace={OWNER}&repository={REPOSITORY}&limit=1"
        deadline = time.monotonic() + RELEASE_SECONDS
        again = not commit
        while time.monotonic() < deadline:
            found = self._get(path)
            newest = found[0] if found else None
            state = newest["state"] if newest else "missing"
            if newest and state == "live" and (not again or self._fits(newest)):
                return dict(newest)
            if state not in ("queued", "building", "testing", "staging"):
                if not again:
                    reason = newest["reason"] if newest else "the push made no release"
                    raise DemoFailed(f"its release is {state}: {reason}")
                again = False
                why = "for another runtime" if state == "live" else state
                say(f"its last release is {why}: releasing it again")
                self._post("/system/releases", {"namespace": OWNER, "repository": REPOSITORY})
            time.sleep(0.1)
        raise DemoFailed(f"its release is not live after {RELEASE_SECONDS:.0f} s")

    def _fits(self, release: Mapping[str, Any]) -> bool:
        """Whether it was built for what functions run on now."""
        kinds = {str(each["artifact"]).startswith("bundle:") for each in release["functions"]}
        return kinds <= {self.settings.runtime != "docker"}

    def _call(self, release: Mapping[str, Any]) -> tuple[str, str]:
        """Calls the first function until it answers: (URL, answer)."""
        names = sorted(row["name"] for row in release["functions"] if row["build"] != "removed")
        if not names:
            raise DemoFailed(f"{release['id']} is live without a function")
        path = f"/function/{names[0]}.{OWNER}"
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                answer = self.session.get(self.url + path, timeout=10, auth=_nobody)
                if answer.ok:
                    function = self._get(f"/system/function/{names[0]}?namespace={OWNER}")
                    return self._url(function), answer.text.strip()
                told = f"{answer.status_code}: {answer.text.strip()[:300]}"
            except requests.RequestException as error:
                told = f"no answer ({type(error).__name__})"
            if time.monotonic() > deadline:
                raise DemoFailed(f"{path} does not answer: {told}")
            time.sleep(0.1)

    def _url(self, function: Mapping[str, Any]) -> str:
        told, base = function.get("url"), self.settings.user_url
        return told or function_url(base, function["name"], function["namespace"])

    def _get(self, path: str) -> Any:
        return self._asked(lambda: self.session.get(self.url + path, timeout=10))

    def _post(self, path: str, body: Mapping[str, str]) -> Any:
        return self._asked(lambda: self.session.post(self.url + path, json=body, timeout=10))

    def _asked(self, ask: Any) -> Any:
        """Asks up to ten times: a part may just be coming back."""
        for attempt in range(10):
            try:
                answer = ask()
                if answer.ok:
                    return answer.json()
                told = f"{answer.status_code}: {answer.text.strip()[:300]}"
                if answer.status_code < 500:
                    raise DemoFailed(f"the gateway refused: {told}")
            except (requests.RequestException, ValueError) as error:
                told = f"{type(error).__name__}: {error}"
            time.sleep(0.2 * attempt)
        raise Unavailable(f"the gateway does not answer as it should: {told}")

    # The screen

    def _show(
        self,
        release: Mapping[str, Any],
        answer: tuple[str, str],
        functions: Sequence[Mapping[str, Any]],
        *,
        unchanged: bool,
    ) -> None:
        if unchanged:
            say(f"nothing changed since the last push: {release['id']} is live")
        url, body = answer
        print(f"\n$ curl {url}\n{body}\n")
        width = max(len(f"{each['name']}.{each['namespace']}") for each in functions)
        print(f"{'FUNCTION':<{width}}  REPLICAS  URL")
        for each in functions:
            name = f"{each['name']}.{each['namespace']}"
            replicas = f"{each['availableReplicas']}/{each['replicas']}"
            print(f"{name:<{width}}  {replicas:<8}  {self._url(each)}")
        host = urlsplit(self.settings.user_url)
        remote = f"{host.scheme}://admin@{host.netloc}/git/<namespace>/<repository>.git"
        print(
            f"\nTry next:\n"
            f"  curl '{url}/any/path?name=you'\n"
            f"  git push {remote} main      a repository with a stack.yml of your own\n"
            f"  {self.settings.user_url}/setup/github      connects GitHub; sign in as admin\n"
            f"  {_slipway()} list            functions; 'releases' and 'logs <release>' likewise\n"
            f"  {_slipway()} --help          what else there is\n"
            f"The password of admin is in {self.settings.password_file}\n"
        )


def say(text: str) -> None:
    print(f"slipway: {text}", flush=True)


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Functions are open: nobody's password goes there."""
    return request


def _slipway() -> str:
    beside = Path(sys.executable).with_name("slipway")
    try:
        return str(beside.relative_to(ROOT))
    except ValueError:
        return "slipway"


def main() -> int:
    settings = Settings.from_env(os.environ)
    folder = settings.demo_folder
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a supervisor that was killed
        folder.mkdir(mode=0o700)
        Demo(settings, os.environ, folder).run()
    except (SlipwayError, OSError, subprocess.SubprocessError) as error:
        say(f"the demo failed: {error}")
        say("the platform itself runs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
