"""Recipes as data: bits per tensor class, checked against what each engine supports before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgemma.core.errors import UsageError

TensorClass = Literal["embedding", "attention", "mlp_up_gate", "mlp_down", "self_conditioning", "router", "experts"]
CLASSES: tuple[TensorClass, ...] = (
    "embedding", "attention", "mlp_up_gate", "mlp_down", "self_conditioning", "router", "experts",
)  # fmt: skip
# Weight bits that an engine's lowering can run; activations are dynamic int8 per token wherever weights are integers.
SUPPORTED_BITS: dict[str, frozenset[int]] = {"onnx": frozenset({8, 32}), "executorch": frozenset({8, 32})}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Weight bits per tensor class; 32 leaves a class in float32. Integers are symmetric per output channel."""

    name: str
    bits: dict[TensorClass, int]

    def check(self, engines: tuple[str, ...], *, experts: bool) -> None:
        """Raises UsageError when an engine cannot run this recipe."""
        for engine in engines:
            for tensor_class, bits in self.bits.items():
                if bits not in SUPPORTED_BITS[engine]:
                    raise UsageError(f"recipe {self.name!r}: {engine} cannot run {bits}-bit {tensor_class}; choose {names()}")
        if experts and self.quantizes:
            raise UsageError(f"recipe {self.name!r} does not cover mixture-of-experts checkpoints yet; use --recipe fp32")

    @property
    def quantizes(self) -> bool:
        return any(bits < 32 for bits in self.bits.values())


RECIPES: dict[str, Recipe] = {
    "fp32": Recipe(name="fp32", bits=dict.fromkeys(CLASSES, 32)),
    "w8": Recipe(name="w8", bits=dict.fromkeys(CLASSES, 8)),
}


def names() -> str:
    return " or ".join(RECIPES)


def find(name: str) -> Recipe:
    """Raises UsageError that lists the recipes."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name!r} is unknown; choose {names()}")
    return RECIPES[name]


def class_of(parameter: str) -> TensorClass | None:
    """Tensor class of a parameter by its name; None for norms, scalars and other vectors."""
    if parameter == "embed_tokens.weight":
        return "embedding"
    if parameter.startswith("self_conditioning.") and parameter.endswith("_proj.weight"):
        return "self_conditioning"
    if ".router.proj." in parameter:
        return "router"
    if ".experts." in parameter:
        return "experts"
    if ".self_attn." in parameter and parameter.endswith("_proj.weight"):
        return "attention"
    if ".mlp." in parameter:
        return "mlp_down" if ".down_proj." in parameter else "mlp_up_gate"
    return None
