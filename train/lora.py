"""Low-rank adapters (Hu et al., arXiv 2106.09685) on the layers' linear maps, in the file layout of the peft package.

peft itself is not used: importing it imports transformers and accelerate, which no room of this package loads, and all that is
needed of it is y = W x + (α/r) B A x and two files. Their names are those of transformers' model, where peft reads them. There
the encoder's layers are modules of their own, tied to the decoder's by their weights alone, so the file holds their adapters
twice. Experts and routers of mixtures, norms and the embedding stay as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dgemma.core.errors import CheckpointError
from dgemma.model.denoiser import Denoiser
from dgemma.model.hf_config import read_json
from dgemma.model.weight_files import DECODER, ENCODER

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NAMES = rf"model\.(decoder|encoder\.language_model)\..*\.({'|'.join(_TARGETS)})"  # peft's way to leave out the vision tower
_PLAIN = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
}


class LoraLinear(nn.Module):
    """A frozen linear map [O, I] and the low-rank one beside it: A [r, I], B [O, r], B zero at first."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale, self.is_on = base, scale, True
        bound = 1 / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] → [..., O]."""
        if not self.is_on:
            return torch.as_tensor(self.base(x))
        beside: Tensor = nn.functional.linear(nn.functional.linear(x, self.lora_A), self.lora_B) * self.scale
        out: Tensor = self.base(x) + beside
        return out


def alpha_of(rank: int) -> int:
    return 2 * rank


def targets(model: Denoiser) -> dict[str, nn.Linear]:
    """Names in the model → the linear maps that an adapter is put on."""
    modules = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: module for name, module in modules.items() if name.rpartition(".")[2] in _TARGETS}


def attach(model: Denoiser, rank: int, seed: int) -> None:
    """Put an adapter on every target, in place; only adapters have gradients then, and outputs are the same as before."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, linear in targets(model).items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoraLinear(linear, rank, alpha_of(rank) / rank, generator))


def is_attached(model: Denoiser) -> bool:
    return any(isinstance(module, LoraLinear) for module in model.modules())


@contextmanager
def switched_off(model: Denoiser) -> Iterator[None]:
    """The model computes without its adapters while it lasts."""
    adapters = [module for module in model.modules() if isinstance(module, LoraLinear)]
    for adapter in adapters:
        adapter.is_on = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.is_on = True


def save(folder: Path, tensors: Mapping[str, Tensor], rank: int, base: str) -> None:
    """Write both files; `tensors` are the trained ones by their names in the model.

    Raises CheckpointError where the folder cannot be written.
    """
    named = {
        f"{_PREFIX}{half}{name}.weight": tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
        for half in ((DECODER, ENCODER) if name.startswith("layers.") else (DECODER,))
        if name.endswith(("lora_A", "lora_B"))
    }
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha_of(rank),
        "lora_dropout": 0.0, "target_modules": _NAMES, "inference_mode": True, "init_lora_weights": True,
        "use_rslora": False, **_PLAIN,
    }  # fmt: skip
    try:
        save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be written ({error}); choose another folder or free some space") from None


def merge(model: Denoiser, folder: Path) -> int:
    """Add an adapter's products to the model's weights, W + (α/r) B A, in place; how many maps it changed.

    Raises:
        CheckpointError: the folder is no plain LoRA adapter, or does not fit the model.
    """
    if not (folder / CONFIG).is_file():
        cure = "give a folder that `dgemma finetune --lora` or peft wrote"
        raise CheckpointError(f"{folder}: is not an adapter: it has no {CONFIG}; {cure}")
    config = read_json(folder / CONFIG)
    scale = _scale(folder / CONFIG, config)
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]}); copy the adapter again") from None
    linears, changed = targets(model), set[str]()
    for name, tensor in tensors.items():
        own = name.removeprefix(_PREFIX).removeprefix(DECODER).removeprefix(ENCODER)
        module, _, kind = own.removesuffix(".weight").rpartition(".")
        if module not in linears or kind not in ("lora_A", "lora_B"):
            raise CheckpointError(
                f"{path}: tensor {name} does not belong to this checkpoint; give the one that the adapter was trained on"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; train the adapter again")
        twin = tensors.get(f"{_PREFIX}{DECODER}{own}", tensor)
        if twin.shape != tensor.shape or not torch.equal(twin, tensor):
            raise CheckpointError(
                f"{path}: the adapters of {module} in encoder and decoder differ, but a checkpoint has one matrix for both; "
                "train one for both, as `dgemma finetune --lora` does"
            )
        changed.add(module)
    if not changed:
        raise CheckpointError(f"{path}: holds no adapter; give a folder that `dgemma finetune --lora` or peft wrote")
    with torch.no_grad():
        for module in sorted(changed):
            pair = [tensors.get(f"{_PREFIX}{DECODER}{module}.{kind}.weight") for kind in ("lora_A", "lora_B")]
            weight, (down, up) = linears[module].weight, pair
            if down is None or up is None or (up.shape[0], down.shape[1]) != weight.shape or up.shape[1] != down.shape[0]:
                raise CheckpointError(
                    f"{path}: the adapter of {module} does not fit {list(weight.shape)}; give the checkpoint that it "
                    "was trained on"
                )
            linears[module].weight = nn.Parameter(weight + (up.float() @ down.float()) * scale, requires_grad=False)
    return len(changed)


def _scale(path: Path, config: Mapping[str, Any]) -> float:
    """α/r, or α/√r where the adapter says so."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type {config.get('peft_type')!r} is not supported; only LORA is")
    for key, plain in _PLAIN.items():
        if config.get(key, plain) not in (plain, None):
            raise CheckpointError(f"{path}: {key} {config[key]!r} is not supported; train the adapter without it")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path}: r and lora_alpha must be numbers; copy the adapter again")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
