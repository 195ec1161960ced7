"""Signal handlers written in Python run inside whatever call they interrupt, and their exceptions come out of that call."""

from __future__ import annotations

import signal
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any


def raised_in_handler(error: BaseException) -> bool:
    """Whether an exception came out of a signal handler, told by its traceback: its type may be any."""
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    """The code of a function, a method, a partial or an object that is called; None for SIG_DFL, SIG_IGN and C functions."""
    while isinstance(handler, partial):
        handler = handler.func
    if not isinstance(handler, FunctionType | MethodType):
        handler = type(handler).__dict__.get("__call__")
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
