"""One denoising step of a model that answers a prompt, as inputs of a backend's methods and the outputs they should give.

The model computes with the integers' values, so any difference comes from lowering. It knows nothing of backends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgemma.core.sampler import SamplerConfig
from dgemma.export.delegates.forms import Form
from dgemma.export.static import FEWEST_SLOTS, Array
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.ranges import with_stored_weights

HIDDEN = -1e4  # as the hosts have it: added to the score of a key that must not be seen
ROUNDED = 3e-2  # error of a step in float16 from the model in float32; tiny's is a tenth of it, and an overflow far beyond
STEPS = 2  # the second has a soft embedding to read


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The last step. `entering`: what each layer reads, and last what the norm reads, [1, N, D]; `new`: keys and values of each
    layer [1, N, K, d]; `masks`: bool [N, S+N], sliding and full."""

    model: Denoiser
    condition: tuple[Tensor, Tensor, Tensor]
    entering: Sequence[Tensor]
    positions: Tensor
    masks: tuple[Tensor, Tensor]
    prefix: Sequence[tuple[Tensor, Tensor]]
    hidden: Tensor
    new: Sequence[tuple[Tensor, Tensor]]

    def takes(self, form: Form) -> bool:
        """Whether a method has this step's shapes: all rows, and slots that the prompt fits into."""
        return form.rows == self.hidden.shape[1] and (form.part != "layers" or form.slots >= self.prefix[0][0].shape[1])

    def feeds(self, form: Form) -> dict[str, Array]:
        """Inputs of a method by name, float32."""
        if form.part == "condition":
            return {"embedded": _array(self.condition[0]), "soft": _array(self.condition[1])}
        if form.part == "head":
            return {"hidden": _array(self.hidden)}
        found = {"x": _array(self.entering[form.span[0]])}
        shapes = {t.name: t.shape for t in form.inputs}
        for full, kind in ((False, "sliding"), (True, "full")):
            if f"bias_{kind}" in shapes:
                angles = self.positions.float()[:, None, None] * getattr(self.model, f"{kind}_frequencies")
                found |= {f"cos_{kind}": _array(angles.cos()), f"sin_{kind}": _array(angles.sin())}
                found[f"bias_{kind}"] = self._bias(self.masks[full], shapes[f"bias_{kind}"])
        for i in range(*form.span):
            found[f"scalar_{i}"] = _array(self.model.get_buffer(f"layers.{i}.denoise_scalar"))
            for kind, cache in zip(("key", "value"), self.prefix[i], strict=True):
                room = np.zeros([int(n) for n in shapes[f"prefix_{kind}_{i}"]], np.float32)
                room[:, : cache.shape[1]] = _array(cache)
                found[f"prefix_{kind}_{i}"] = room
        return found

    def _bias(self, mask: Tensor, shape: Sequence[Any]) -> Array:
        rows = int(shape[0])
        seen, filled = mask.expand(rows, -1).numpy(), mask.shape[-1] - rows
        bias = np.full([int(n) for n in shape], HIDDEN, np.float32)
        bias[:, :filled] = np.where(seen[:, :filled], 0, HIDDEN)
        bias[:, -rows:] = np.where(seen[:, filled:], 0, HIDDEN)
        return bias

    def wanted(self, form: Form) -> dict[str, Array]:
        """Outputs of a method by name, as the float model gives them."""
        if form.part == "condition":
            return {"conditioned": _array(self.condition[2])}
        if form.part == "head":
            return {"products": _array(self.hidden @ self.model.embed_tokens.weight[slice(*form.span)].t())}
        last = form.span[1]
        found = {"hidden": _array(self.hidden if last == self.model.config.num_layers else self.entering[last])}
        for i in range(*form.span):
            found |= {f"new_key_{i}": _array(self.new[i][0]), f"new_value_{i}": _array(self.new[i][1])}
        return found


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().numpy()
    return found


@torch.no_grad()
def record(
    model: Denoiser, quantized: Mapping[str, QuantizedMatrix], sampler: SamplerConfig, prompt: Sequence[int]
) -> Recorded:
    """The second step of the first canvas behind a prompt, which is cut so that it fits into the shortest prefix."""
    model = with_stored_weights(model, quantized)
    kept: dict[str, Any] = {}
    plain, entering = model.stack, dict[int, Tensor]()

    def stack(x: Tensor, positions: Tensor, masks: Any, prefix: Any, mode: Any) -> Any:
        hidden, new = plain(x, positions, masks, prefix, mode)
        if mode == "denoise":
            read = [entering[i] for i in range(len(model.layers) + 1)]
            kept.update(positions=positions, masks=masks, prefix=prefix, hidden=hidden, new=new, entering=read)
        return hidden, new

    def keep(index: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            entering[index] = inputs[0]

        return hook

    def conditioned(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        kept["condition"] = (*inputs, output)

    handles = [module.register_forward_pre_hook(keep(i)) for i, module in enumerate([*model.layers, model.norm])]
    handles.append(model.self_conditioning.register_forward_hook(conditioned))
    model.stack = stack  # type: ignore[method-assign]
    try:
        room = min(FEWEST_SLOTS, model.config.max_position_embeddings - model.config.canvas_length) // 2
        limit = replace(sampler, steps=min(sampler.steps, STEPS))
        generate(model, limit, list(prompt)[: max(1, room)], seed=0, max_new_tokens=1)
    finally:
        del model.stack
        for handle in handles:
            handle.remove()
    return Recorded(model=model, **kept)


def error(got: Array, wanted: Array) -> float:
    """Relative: norm of the difference over the norm of what is wanted; infinite where a value is no number."""
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.linalg.norm(got.astype(np.float64) - wanted) / max(float(np.linalg.norm(wanted.astype(np.float64))), 1e-30))
