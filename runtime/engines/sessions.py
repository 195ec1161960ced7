"""The one place that opens ONNX Runtime sessions: on the CPU, with exact integer products on every processor.

A bare `InferenceSession` would saturate products on x86 without VNNI (`exact_products.py`), so nothing else opens one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def open_as_it_is(model: str | bytes, options: Any) -> Any:
    """A session over a model whose products are known to be exact, or are to be found not to be."""
    import onnxruntime as ort

    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
