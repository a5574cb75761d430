"""HTTP by ``requests``, where the whole of an answer has its time.

The timeouts of ``requests`` bound a silence. Who sends a byte now and then would hold a thread for
as long as they like: in the head of an answer, or in a body that is read piece by whole piece.
"""

from __future__ import annotations

import threading
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from core.errors import TooLarge
from core.http import deadline
from core.trust import trusted

PIECE = 2**16


class Late(requests.Timeout):
    """An answer did not come whole in its time."""


def session() -> requests.Session:
    """One that trusts whom the machine trusts, and whose answers have their heads within the time
    that a silence may last, all told. Their bodies are to be read by ``whole``."""
    made = requests.Session()
    made.verify = trusted()
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter())
    return made


def whole(answer: requests.Response, limit: int, seconds: float) -> bytes:
    """The body of a streamed answer.

    Raises:
        TooLarge: it has more than ``limit`` bytes.
        Late: it is not there within so many seconds.
        requests.RequestException: it broke off.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        try:
            answer.raw.shutdown()
        except (AttributeError, OSError, ValueError, RuntimeError):
            return  # it has ended meanwhile; or TLS lies in TLS, and the silence alone is bound

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    content = bytearray()
    try:
        for piece in answer.iter_content(PIECE):
            content += piece
            if len(content) > limit:
                raise TooLarge(f"the answer has more than {limit} bytes")
    except (requests.RequestException, AttributeError, OSError, ValueError) as error:
        # The last three where it is cut off as TLS is about to read.
        if late.is_set():
            raise Late(f"no whole answer within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()
    if late.is_set():  # one without a length looks whole wherever it is cut
        raise Late(f"no whole answer within {seconds:g} s")
    return bytes(content)


class _Connection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 has it
        sock, seconds = self.sock, self.timeout
        if sock is None or not isinstance(seconds, int | float):
            return super().getresponse()
        with deadline(sock, seconds) as late:
            answer = super().getresponse()
        if late():  # a head that is cut looks whole
            answer.close()
            raise TimeoutError(f"no answer within {seconds:g} s")
        return answer


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        made = super().proxy_manager_for(proxy, **more)
        if not proxy.lower().startswith("socks"):  # those have pools of their own
            made.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return made
