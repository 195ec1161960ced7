"""The operator of routed experts in ExecuTorch: the variant that writes to planned memory, as in the native library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgemma.export.experts import experts

_library = torch.library.Library("dgemma", "FRAGMENT")
_schema = str(torch.ops.dgemma.experts.default._schema)
_arguments = _schema[_schema.index("(") + 1 : _schema.rindex(") ->")]
_library.define(f"experts.out({_arguments}, *, Tensor(a!) out) -> Tensor(a!)")


@torch.library.impl(_library, "experts.out", "CompositeExplicitAutograd")
def _experts_out(*arguments: Any, out: Tensor) -> Tensor:
    return out.copy_(experts(*arguments))
