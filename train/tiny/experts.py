"""`tiny-moe`: tiny with half of each dense MLP replaced by routed experts, as small as a mixture of the released form goes.

Positions compute as much as in tiny: 256 dense channels and two of eight experts of 128, in place of 512 dense channels.

python -m dgemma.train.tiny.experts checkpoints/tiny --out DIR, and then `dgemma train train/tiny/mixture.toml`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from dgemma.core.config import ModelConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.train.runs import copy_texts

EXPERTS, CHOSEN, EXPERT_WIDTH = 8, 2, 128
APART = 0.3  # noise on the weights of an expert, as a share of their deviation: copies would never part


def mixture_config(dense: ModelConfig) -> ModelConfig:
    """The dense config with half of its MLP width in experts."""
    return dataclasses.replace(
        dense,
        intermediate_size=dense.intermediate_size // 2,
        num_experts=EXPERTS,
        top_k_experts=CHOSEN,
        moe_intermediate_size=EXPERT_WIDTH,
    )


def from_dense(dense: Denoiser, generator: torch.Generator) -> Denoiser:
    """A mixture that starts from a dense model: the first half of each MLP stays, the second half becomes the experts.

    Even experts begin with the third quarter of the channels and odd ones with the fourth, each with its own noise
    (sparse upcycling, arXiv 2212.05055); everything else is copied, and routers are drawn anew.
    """
    model = Denoiser(mixture_config(dense.config))
    kept = dense.state_dict()
    half = dense.config.intermediate_size // 2
    for name, new in model.state_dict().items():  # the parameters themselves: what is copied into them stays
        if name.endswith(("gate_proj.weight", "up_proj.weight")):  # of the self-conditioning, too
            new.copy_(kept[name][:half])
        elif name.endswith("down_proj.weight"):
            new.copy_(kept[name][:, :half])
        elif name.endswith("router.proj.weight"):
            new.normal_(0.0, 0.5, generator=generator)  # the router divides by √D: scores deviate by 0.5
        elif name.endswith(("post_feedforward_layernorm_1.weight", "post_feedforward_layernorm_2.weight")):
            new.fill_(0.7)  # two branches of unit variance add up to about one
        elif name.endswith("pre_feedforward_layernorm_2.weight"):
            new.copy_(kept[name.replace("_2.weight", ".weight")])
        elif "experts." in name:
            mlp = name.split("experts.")[0] + "mlp."
            for e in range(EXPERTS):
                channels = slice(half + e % 2 * EXPERT_WIDTH, half + (e % 2 + 1) * EXPERT_WIDTH)
                if name.endswith("gate_up_proj"):
                    taken = torch.cat([kept[f"{mlp}{part}_proj.weight"][channels] for part in ("gate", "up")])
                else:
                    taken = kept[f"{mlp}down_proj.weight"][:, channels]
                noise = torch.randn(taken.shape, generator=generator) * taken.std() * APART
                new[e].copy_(taken + noise)
        elif name in kept:
            new.copy_(kept[name])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.train.tiny.experts", description="Make a mixture of a dense model.")
    parser.add_argument("dense", type=Path, help="checkpoint folder")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    loaded = checkpoint.load(options.dense)
    model = from_dense(loaded.model, torch.Generator().manual_seed(options.seed))
    checkpoint.save(options.out, model, loaded.sampler)
    copy_texts(options.dense, options.out)


if __name__ == "__main__":
    main()
