"""Images as people have them who never heard of Slipway: a server that behaves as OpenFaaS'
watchdogs do, or as a plain HTTP server does, built by nothing but the engine."""

from __future__ import annotations

from collections.abc import Mapping

from core.settings import Settings
from tests import containers

# By its variable MODE:
#   watchdog  /_/health is 503 until /tmp/.lock is there, a second after the start
#   plain     has no /_/health: 404
#   picky     answers 500 to all that it does not know
#   deaf      listens nowhere
#   failing   503 for ever, as a watchdog whose function does not come up
SERVER = """
import http.server, json, os, signal, sys, threading, time

MODE, LOCK = os.environ.get("MODE", "watchdog"), "/tmp/.lock"

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def answer(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/_/health":
            up = os.path.exists(LOCK)
            self.answer({"watchdog": 200 if up else 503, "plain": 404, "picky": 500}.get(MODE, 503),
                        "OK" if up else "lock file not found")
        elif self.path == "/ready":
            self.answer(204 if os.path.exists(LOCK) else 500, "")
        elif self.path == "/moved":
            self.send_response(302); self.send_header("Location", "/"); self.end_headers()
        elif self.path == "/slow":
            time.sleep(2); self.answer(200, "slow")
        elif self.path == "/write":
            told = {}
            for folder in ("/home/app", "/tmp", "/var/data"):
                try:
                    open(folder + "/written", "w").close(); told[folder] = True
                except OSError: told[folder] = False
            self.answer(200, told)
        else:
            caps = [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")]
            self.answer(200, {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
                "caps": caps, "env": dict(os.environ), "argv": sys.argv[1:]})

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False

if MODE == "deaf":
    time.sleep(600)
server = Server(("", int(os.environ.get("port", "8080"))), Handler)
def end(*_):
    if os.path.exists(LOCK): os.unlink(LOCK)
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, end)
if MODE != "failing":
    threading.Timer(1, lambda: open(LOCK, "w").close()).start()
server.serve_forever()
server.server_close()
print("drained")
"""


def image(settings: Settings, more: str = "", files: Mapping[str, str] | None = None) -> str:
    """The id of an image that serves; ``more``: further lines of its Dockerfile. It carries a label
    as what Slipway builds does."""
    lines = f'ENTRYPOINT ["python3", "/home/app/dog.py"]\nCMD ["a", "b"]\n{more}'
    return containers.image(
        settings, {"dog.py": SERVER, **(files or {})}, [], more=lines, wrapped=False
    )
