"""A micro mixture of experts whose routers meet what is rare, on every row: experts without rows and ties.

In layer 0 all rows choose experts 1 and 2. In layer 1 nobody chooses expert 0, and 3 and 4, which are the same expert twice,
have equal scores. Run as a script, it makes the bundle that Java's tests read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import micro
import micro_bundle
import shared
import torch

from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser, Experts

CONFIG = replace(micro.CONFIG, num_experts=6, top_k_experts=2, moe_intermediate_size=16)
FOR_JAVA = Path(__file__).parents[1] / "vectors" / "mixture-w8.dgemma"
ALL, NOBODY, TWINS = (1, 2), 0, (3, 4)
SEED = 11  # its golden trajectories have no near-ties: versions of ONNX Runtime and kernels of attention give the same


def model() -> Denoiser:
    made = micro.model(CONFIG, SEED)
    first, second = (layer.router for layer in made.layers)
    stacks = made.layers[1].experts
    assert isinstance(stacks, Experts)
    with torch.no_grad():
        made.embed_tokens.weight[:, 0] = 6.0  # a column that is large in every row, and that no logit hears of
        made.norm.weight[0] = 0.0
        first.proj.weight.zero_()
        first.proj.weight[:, 0] = torch.tensor([0.0, 2.0, 1.0, -1.0, -2.0, -3.0])
        a, b = second.proj.weight[1].clone(), second.proj.weight[3].clone()
        second.proj.weight.copy_(torch.stack([torch.zeros_like(a), a, -a, b, b, -b]))  # two of them are above 0
        for stack in (stacks.gate_up_proj, stacks.down_proj, second.per_expert_scale):
            stack[TWINS[1]] = stack[TWINS[0]]
    return made


@cache
def folder() -> Path:
    """The model as a checkpoint."""
    path = Path(mkdtemp(dir=micro_bundle.root())) / "mixture"
    checkpoint.save(path, model(), micro.POLICY)
    return path


@cache
def bundle(engine: str, recipe: str = "fp32") -> Path:
    """Exported once a run, golden trajectories included."""
    return shared.bundle(f"mixture-{engine}-{recipe}", lambda out: micro_bundle.export_of(folder(), out, engine, recipe))


if __name__ == "__main__":
    rmtree(FOR_JAVA, ignore_errors=True)
    print(micro_bundle.export_of(folder(), FOR_JAVA, "onnx", "w8"))
