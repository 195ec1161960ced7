"""The native operators in ExecuTorch: the variants that write to planned memory, as in the native library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dgemma.export.attention import attention
from dgemma.export.experts import experts

_library = torch.library.Library("dgemma", "FRAGMENT")


def _define(name: str, operator: Callable[..., Tensor]) -> None:
    schema = str(getattr(torch.ops.dgemma, name).default._schema)
    arguments = schema[schema.index("(") + 1 : schema.rindex(") ->")]
    _library.define(f"{name}.out({arguments}, *, Tensor(a!) out) -> Tensor(a!)")

    def out_of(*arguments: Any, out: Tensor) -> Tensor:
        return out.copy_(operator(*arguments))

    torch.library.impl(_library, f"{name}.out", "CompositeExplicitAutograd")(out_of)


_define("experts", experts)
_define("attention", attention)
