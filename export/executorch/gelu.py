"""GELU written out. XNNPACK's operator is the exact one, and its partitioner takes `approximate="tanh"` without a word
(seen with executorch 1.5.1): every GELU would be off by up to 5e-4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.export import ExportedProgram


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Hendrycks and Gimpel, arXiv 1606.08415, section 2."""
    assert approximate == "tanh"
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + torch.tanh(inner))


def write_out_gelu(program: ExportedProgram) -> ExportedProgram:
    """The same program with tanh GELUs as products and a tanh, which XNNPACK takes as they are."""
    return program.run_decompositions({torch.ops.aten.gelu.default: _gelu})
