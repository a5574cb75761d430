"""git's post-receive hook: tells the gateway what was pushed and shows what becomes of it.

Run by ``python -I -S`` so that it starts quickly: the standard library only, and little of it.
The push is stored when this runs, and nothing here can undo it: it always exits with 0.
HTTP/1.0 is spoken because its answers are neither chunked nor kept alive: the bytes that come
after the header are the lines to show, until the connection ends.
"""

import os
import socket
import sys
from contextlib import suppress


def main() -> None:
    updates = sys.stdin.buffer.read()
    try:
        ended = show(updates)
        trouble = "the gateway went away"
    except Exception as error:  # whatever it is, a pushing user has no use for a traceback
        ended, trouble = False, str(error)
    if not ended:
        follow = f"follow it with: slipway wait {commit(updates)}"
        with suppress(OSError):  # the client went away
            tell(f"slipway: the push is stored ({trouble}); {follow}\n".encode("utf-8", "replace"))


def show(updates: bytes) -> bool:
    """Prints the gateway's lines as they come; True if they came to their end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gateway:
        gateway.connect(os.environ["SLIPWAY_PUSH_SOCKET"])
        head = (
            f"POST {os.environ['SLIPWAY_PUSH_PATH']} HTTP/1.0\r\n"
            f"Authorization: Bearer {os.environ['SLIPWAY_PUSH_TOKEN']}\r\n"
            f"Content-Length: {len(updates)}\r\n\r\n"
        )
        gateway.sendall(head.encode() + updates)
        got = b""
        while b"\r\n\r\n" not in got:
            more = gateway.recv(65536)
            if not more:
                raise ValueError("the gateway went away")
            got += more
        head_lines, _, body = got.partition(b"\r\n\r\n")
        good = head_lines.split(b" ", 2)[1:2] == [b"200"]
        last = b""
        while True:
            if good:
                tell(body)
            last = (last + body)[-65536:]
            body = gateway.recv(65536)
            if not body:
                break
        if not good:
            raise ValueError(last.decode("utf-8", "replace").strip()[:500])
        return last.rstrip(b"\n").rpartition(b"\n")[2].startswith(b"slipway: ")


def commit(updates: bytes) -> str:
    """The new commit of the first branch that was pushed."""
    for line in updates.split(b"\n"):
        _, _, moved = line.partition(b" ")
        new, _, ref = moved.partition(b" ")
        if ref.startswith(b"refs/heads/") and new.strip(b"0"):
            return new.decode("ascii", "replace")
    return "<commit>"


def tell(text: bytes) -> None:
    """Not by ``sys.stdout``, which would try again at exit what could not be written."""
    while text:
        text = text[os.write(1, text) :]


if __name__ == "__main__":
    main()
