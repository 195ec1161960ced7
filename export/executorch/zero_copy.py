"""Constants from which a `.pte` is written without copying them: named data that is a view of a tensor.

ExecuTorch takes either bytes, which every delegate, merged store and joined segment would hold again, or a file, from which it
copies at the end. A tensor that is mapped or stays in memory anyway can stand in for that file.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, Self

import torch
from executorch.exir._serialize._cord import FileBackedData
from torch import Tensor

from dgemma.export.deferred import maker


class ZeroCopyData(FileBackedData):  # type: ignore[misc]
    """The bytes of a tensor, which must not change until they are written, or of the constant that it stands for."""

    def __init__(self, tensor: Tensor) -> None:
        """Bytes in the order of a contiguous tensor; one that is contiguous is not copied."""
        self._tensor, self._make = tensor.detach().contiguous(), maker(tensor)
        self._digest: bytes | None = None

    def _view(self) -> memoryview:
        tensor = self._tensor if self._make is None else self._make()
        return memoryview(tensor.flatten().view(torch.uint8).numpy().data)

    def __len__(self) -> int:
        return self._tensor.nbytes

    @property
    def key(self) -> str:
        """Equal for equal bytes; a deferred constant has a key of its own."""
        return self.sha256().hex() if self._make is None else f"deferred {self._tensor.data_ptr()}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def prefix(self, size: int) -> bytes:
        return bytes(self._view()[:size])

    def sha256(self) -> bytes:
        if self._digest is None:
            self._digest = hashlib.sha256(self._view()).digest()
        return self._digest

    def to_bytes(self) -> bytes:
        return bytes(self._view())

    def write_to_file(self, outfile: io.BufferedIOBase) -> None:
        outfile.write(self._view())

    def close(self) -> None:
        """Nothing to give back."""
