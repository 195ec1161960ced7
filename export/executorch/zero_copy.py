"""Constants that a `.pte` is written from without a copy of them: named data that is a view of a tensor.

ExecuTorch takes bytes, which every delegate, merged store and joined segment would hold again, or a file to copy from when all
is written. A tensor that stays in memory anyway, or mapped, can stand in for that file.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, Self

import torch
from executorch.exir._serialize._cord import FileBackedData
from torch import Tensor


class ZeroCopyData(FileBackedData):  # type: ignore[misc]
    """The bytes of a tensor, which must not change until they are written."""

    def __init__(self, tensor: Tensor) -> None:
        """Bytes in the order of a contiguous tensor; one that is contiguous is not copied."""
        self._view = memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        self._digest: bytes | None = None

    def __len__(self) -> int:
        return self._view.nbytes

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def prefix(self, size: int) -> bytes:
        return bytes(self._view[:size])

    def sha256(self) -> bytes:
        if self._digest is None:
            self._digest = hashlib.sha256(self._view).digest()
        return self._digest

    def to_bytes(self) -> bytes:
        return bytes(self._view)

    def write_to_file(self, outfile: io.BufferedIOBase) -> None:
        outfile.write(self._view)

    def close(self) -> None:
        """Nothing to give back."""
