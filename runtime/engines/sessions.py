"""The only module that opens ONNX Runtime sessions: on the CPU, with exact integer products on every processor.

A bare `InferenceSession` would saturate products on x86 without VNNI (`exact_products.py`), so nothing else opens one.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Any

from dgemma.core.errors import EngineError
from dgemma.runtime.engines import wire
from dgemma.runtime.native import build

_OPSETS, _DOMAIN, _EXPERTS = 8, 1, b"dgemma.native"  # fields of onnx.proto, and who gives the operator
_FATAL = 4  # severity; errors arrive as exceptions, so the library has nothing to print


def session_options(threads: int | None = None) -> Any:
    """Options that every session starts from; `threads` of None leaves their number to the library."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(model: Path | bytes, options: Any = None) -> Any:
    """A session over a graph file, whose external weights lie beside it, or over a serialized model.

    Raises what onnxruntime raises.
    """
    from dgemma.runtime.engines import exact_products

    options = session_options() if options is None else options
    exact = exact_products.source(model, options) if isinstance(model, Path) else exact_products.model(model)
    return open_as_it_is(exact, options)


def release_freed() -> None:
    """Give memory that was freed back to the system. Opening a graph makes several copies of its weights; without this, glibc
    keeps up to four times of what a session holds."""
    with suppress(OSError, AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def open_as_it_is(model: str | bytes, options: Any) -> Any:
    """A session over a model whose products are known to be exact, or are to be found not to be.

    Raises what onnxruntime raises, and EngineError where the model needs an operator that cannot be built here.
    """
    import onnxruntime as ort

    if _has_experts(model):
        options.register_custom_ops_library(str(_experts_library()))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    release_freed()
    return session


def _has_experts(model: str | bytes) -> bool:
    """Whether a model imports the domain of routed experts; False where it is none, which onnxruntime will say."""
    try:
        data = memoryview(model if isinstance(model, bytes) else Path(model).read_bytes())
        imports = [data[value:end] for number, _, value, end in wire.fields(data) if number == _OPSETS]
        return any(field == _DOMAIN and part[v:e] == _EXPERTS for part in imports for field, _, v, e in wire.fields(part))
    except (OSError, IndexError):
        return False


def _experts_library() -> Path:
    try:
        return build.experts()
    except build.Unavailable as error:
        raise EngineError(
            f"a mixture of experts runs on a kernel that is built at first use, and here it cannot be: {error}; install a C++ "
            "compiler (Debian: apt-get install g++)"
        ) from None
