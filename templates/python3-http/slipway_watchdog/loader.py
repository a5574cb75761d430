"""Imports the handler, or says in one line why that cannot be."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import site
import sys
import traceback
from collections.abc import Callable
from typing import Any

from slipway_watchdog import options, watchdog

MODULE = "function.handler"
FILE = "function/handler.py"


def start(signature: str, adapt: Callable[[Callable[..., Any]], watchdog.Invoke]) -> None:
    """Loads ``handle`` and serves it; what is wrong with it is told, and ends the process with 1.

    ``signature``: how the template calls it, like ``handle(event, context)``.
    ``adapt``: makes of ``handle`` what the watchdog calls for a request.
    """
    # As process 1 we would not see a SIGTERM without a handler; nothing is in flight yet.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # Dependencies may carry .pth files, which PYTHONPATH alone does not read.
    for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if folder:
            site.addsitedir(folder)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        wanted = options.read()
        watchdog.serve(wanted, adapt(load(signature)))
    except BaseException as error:
        if not isinstance(error, CannotStart | options.BadOption):
            traceback.print_exception(error)
        elif error.__cause__ is not None:
            traceback.print_exception(_from_handler(error.__cause__))
        sys.stderr.write(f"slipway: the function cannot start: {_one_line(error)}\n")
        sys.stderr.flush()
        os._exit(1)  # not by sys.exit: a thread that the import started could keep us here


class CannotStart(Exception):
    """The handler cannot be used; the message is the cause in one line."""


def load(signature: str) -> Callable[..., Any]:
    """Imports function/handler.py and returns its ``handle``.

    Raises:
        CannotStart: with the import's own exception as its cause, where there is one.
    """
    try:
        module = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        if error.name in (MODULE, "function"):
            raise CannotStart(f"there is no {FILE}") from None
        raise CannotStart(
            f"{FILE} imports {error.name!r}, which is not there: add the package that brings it to "
            "function/requirements.txt"
        ) from error
    except SyntaxError as error:
        place = f"{_place(error.filename)}, line {error.lineno}"
        raise CannotStart(f"syntax error in {place}: {error.msg}") from error
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
        raise CannotStart(f"importing {FILE} failed with {told}") from error
    handle = getattr(module, "handle", None)
    if handle is None:
        raise CannotStart(f"{FILE} defines no {signature}")
    if not callable(handle):
        raise CannotStart(f"handle in {FILE} is not a function: define {signature}")
    _check(handle, signature)
    return handle  # type: ignore[no-any-return]


def _check(handle: Callable[..., Any], signature: str) -> None:
    """Finds out now what would otherwise fail every request."""
    if inspect.iscoroutinefunction(handle):
        raise CannotStart(f"handle in {FILE} is async: this template calls plain {signature}")
    try:
        found = inspect.signature(handle)
    except (TypeError, ValueError):  # written in C
        return
    try:
        found.bind(*signature.partition("(")[2].rstrip(")").split(", "))
    except TypeError:
        raise CannotStart(
            f"{FILE} defines handle{found}, and this template calls {signature}: "
            "change one of handler and lang"
        ) from None


def _from_handler(error: BaseException) -> BaseException:
    """Without the frames of the import machinery and of this module."""
    trace = error.__traceback__
    while trace is not None and _inner(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return error.with_traceback(trace)


def _inner(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")


def _place(filename: str | None) -> str:
    return os.path.relpath(filename) if filename else FILE


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:500]
    ours = isinstance(error, CannotStart | options.BadOption)
    return text if ours else f"{type(error).__name__}: {text}"
