"""The native library through ctypes: programs, methods, arrays in and out. The C header says what each call does."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.core.errors import EngineError
from dgemma.runtime.native.build import Unavailable

_DTYPES = {
    np.dtype(name): code
    for name, code in {
        "uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4, "float32": 6, "float64": 7, "bool": 11,
    }.items()
}  # fmt: skip
_NUMPY = {code: dtype for dtype, code in _DTYPES.items()}
_MAX_RANK = 8


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int32 * _MAX_RANK),
    )


@once
def load(library: Path) -> ctypes.CDLL:
    """The library with its signatures; raises Unavailable when it does not load."""
    try:
        lib = ctypes.CDLL(str(library))
    except OSError as error:
        raise Unavailable(f"it does not load: {error}".replace("\n", " ")) from None
    text, pointer, tensors = ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(_Tensor)
    for name, result, arguments in (
        ("dg_open", pointer, (text, ctypes.c_int, text)),
        ("dg_close", None, (pointer,)),
        ("dg_has", ctypes.c_int, (pointer, text)),
        ("dg_load", ctypes.c_int, (pointer, text)),
        ("dg_run", ctypes.c_int, (pointer, text, tensors, ctypes.c_int, tensors, ctypes.c_int)),
        ("dg_unlock", ctypes.c_int, (text,)),
        ("dg_threads", ctypes.c_int, ()),
        ("dg_error", text, ()),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Program:
    """One open `.pte`; `close` frees it and all its methods. Not for use by several threads at once."""

    def __init__(self, library: Path, file: Path, *, threads: int | None = None, packed: Path | None = None) -> None:
        """Map a program. Its methods share packed weights, in memory or in the file `packed`, which is written if need be.

        Raises:
            Unavailable: the library does not load. EngineError: the program cannot be opened.
        """
        self._lib, self._file = load(library), file
        self._buffers: dict[str, tuple[Any, Any]] = {}
        name = str(packed).encode() if packed else None
        self._model = self._lib.dg_open(str(file).encode(), threads or 0, name)
        if not self._model:
            raise EngineError(f"executorch cannot load {file}: {self._why()}")

    def has(self, method: str) -> bool:
        return int(self._lib.dg_has(self._model, method.encode())) == 1

    def load(self, method: str, inputs: int, outputs: int) -> None:
        """Make a method ready for so many inputs and at most so many outputs; raises EngineError."""
        if self._lib.dg_load(self._model, method.encode()) < 0:
            raise EngineError(f"executorch cannot load {self._file}: {self._why()}")
        self._buffers[method] = ((_Tensor * inputs)(), (_Tensor * outputs)())

    def run(self, method: str, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run a loaded method on contiguous arrays by position; outputs are the caller's own. Raises RuntimeError."""
        given, found = self._buffers[method]
        for slot, array in zip(given, arrays, strict=True):
            slot.data, slot.dtype, slot.rank = array.ctypes.data, _DTYPES[array.dtype], array.ndim
            slot.shape[: array.ndim] = array.shape
        count = self._lib.dg_run(self._model, method.encode(), given, len(given), found, len(found))
        if count < 0:
            raise RuntimeError(self._why())
        return [_copy(slot) for slot in found[:count]]

    def unlock(self, packed: Path) -> int:
        """See dg_unlock."""
        return int(self._lib.dg_unlock(str(packed).encode()))

    def close(self) -> None:
        """Free everything; the program must not run again."""
        if self._model:
            self._lib.dg_close(self._model)
        self._model = None
        self._buffers.clear()

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()

    def _why(self) -> str:
        return (self._lib.dg_error() or b"unknown reason").decode(errors="replace")[:300]


def _copy(slot: _Tensor) -> npt.NDArray[Any]:
    shape, dtype = tuple(slot.shape[: slot.rank]), _NUMPY.get(slot.dtype)
    if dtype is None:
        raise EngineError(f"executorch: an output has type {slot.dtype}, which is not supported")
    array = np.empty(shape, dtype)
    ctypes.memmove(array.ctypes.data, slot.data, array.nbytes)
    return array
