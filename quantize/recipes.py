"""Recipes as data: bits, method and rotation per tensor class, checked against what each engine runs before work starts.

A recipe is one of `RECIPES` or `ACCELERATED`, or a JSON file with the same keys. Nothing here touches weights, or needs torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.shapes import Shape, parameter_shapes

TensorClass = Literal["embedding", "attention", "mlp_up_gate", "mlp_down", "self_conditioning", "router", "experts"]
CLASSES: tuple[TensorClass, ...] = (
    "embedding",
    "attention",
    "mlp_up_gate",
    "mlp_down",
    "self_conditioning",
    "router",
    "experts",
)
Method = Literal["nearest", "searched", "gptq"]
METHODS: tuple[Method, ...] = ("nearest", "searched", "gptq")
BITS = (4, 8, 32)
ACTIVATIONS = (8, 16)
ROUTER_BITS = 8  # at least: a router that errs sends tokens to other experts
SMALLEST_GROUP = 32  # that a recipe's group is halved to where it does not divide a matrix's inputs
_EXTREMES = 2  # columns that a `.pte` keeps beside an 8-bit matrix; a 4-bit one has a group more
_GRAPH = 70_000  # bytes of graphs and padding for each layer


@dataclass(frozen=True, kw_only=True)
class Support:
    """What an engine's lowering runs; activations are dynamic int8 per token wherever weights are integers."""

    bits: frozenset[int]
    group_multiple: int  # that 4-bit groups must be of
    product: str  # the operator that has these limits


SUPPORT: dict[str, Support] = {
    "onnx": Support(bits=frozenset(BITS), group_multiple=1, product="MatMulIntegerToFloat"),
    "executorch": Support(bits=frozenset(BITS), group_multiple=32, product="XNNPACK's blockwise int4 linear"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How each matrix of a model is quantized.

    Args:
        name: of a letter or more; goes into reports and manifests.
        bits: 4, 8 or 32 (left in float32) for every tensor class; routers at least 8.
        group: inputs that share a multiplier where there are 4 bits, at most: see `group_of`.
        methods: class → method. `nearest` takes scales as they come, `searched` the ones of least squared error, and `gptq`
            lets later columns make up for the error of earlier ones, which needs calibration prompts. A class that is not named
            gets `gptq` where there are calibration prompts, and `searched` otherwise; the embedding always `searched`, for its
            rows are looked up as well, and what calibration does for the head costs there.
        rotation: largest block of the Hadamard rotation of mlp_down's inputs, a power of two; 0 for none.
        overrides: (pattern of parameter names, as in `fnmatch`; bits); the last that matches wins over `bits`.
        activations: bits that a product's inputs are rounded to: 8, per token, as they come; or 16, in ranges that are recorded
            at export, which an accelerator's graphs have (those for processors then keep 8).
    Raises:
        UsageError: a class is missing or unknown, or a value is out of range.
    """

    name: str
    bits: Mapping[TensorClass, int]
    group: int = 128
    methods: Mapping[TensorClass, Method] = field(default_factory=dict)
    rotation: int = 0
    overrides: tuple[tuple[str, int], ...] = ()
    activations: int = 8

    def __post_init__(self) -> None:
        where = f"recipe {self.name!r}:"
        if not isinstance(self.name, str) or not self.name:
            raise UsageError(f"recipe name {self.name!r} must be a string with at least one character")
        if wrong := sorted(set(self.bits) ^ set(CLASSES)):
            raise UsageError(f"{where} bits of {wrong[0]!r} are missing or unknown; name {', '.join(CLASSES)}")
        if wrong := sorted(set(self.methods) - set(CLASSES)):
            raise UsageError(f"{where} method for an unknown class {wrong[0]!r}; choose {', '.join(CLASSES)}")
        for key, bits in (*self.bits.items(), *self.overrides):
            if bits not in BITS or isinstance(bits, bool):
                raise UsageError(f"{where} {bits!r} bits for {key} must be 4, 8 or 32")
        for key, method in self.methods.items():
            if method not in METHODS:
                raise UsageError(f"{where} method {method!r} for {key} is unknown; choose {', '.join(METHODS)}")
        if self.bits["router"] < ROUTER_BITS:
            raise UsageError(f"{where} routers need {ROUTER_BITS} bits or more, not {self.bits['router']}")
        if not _is_count(self.group) or self.group < 1:
            raise UsageError(f"{where} group {self.group!r} must be a positive integer")
        if self.activations not in ACTIVATIONS or isinstance(self.activations, bool):
            raise UsageError(f"{where} activations {self.activations!r} must be 8 or 16 bits")
        if self.activations == 16 and not self.quantizes:
            raise UsageError(f"{where} 16-bit activations need 8-bit or 4-bit weights; otherwise leave `activations` out")
        if not _is_count(self.rotation) or self.rotation < 0 or self.rotation & (self.rotation - 1):
            raise UsageError(f"{where} rotation {self.rotation!r} must be a power of two, or 0 for none")

    @property
    def quantizes(self) -> bool:
        return any(bits < 32 for bits in (*self.bits.values(), *(bits for _, bits in self.overrides)))

    @property
    def needs_calibration(self) -> bool:
        return "gptq" in self.methods.values()

    def bits_of(self, parameter: str) -> int:
        """Bits of one parameter; 32 for what has no class."""
        tensor_class = class_of(parameter)
        if tensor_class is None:
            return 32
        least = ROUTER_BITS if tensor_class == "router" else min(BITS)
        overrides = [bits for pattern, bits in self.overrides if fnmatchcase(parameter, pattern) and bits >= least]
        return [self.bits[tensor_class], *overrides][-1]

    @property
    def takes_calibration(self) -> bool:
        """Whether calibration prompts make a difference to any class."""
        return any(bits < 32 and self._method(c, calibrated=True) == "gptq" for c, bits in self.bits.items())

    def method_of(self, parameter: str, *, calibrated: bool) -> Method:
        tensor_class = class_of(parameter)
        return "searched" if tensor_class is None else self._method(tensor_class, calibrated=calibrated)

    def _method(self, tensor_class: TensorClass, *, calibrated: bool) -> Method:
        return self.methods.get(tensor_class, "gptq" if calibrated and tensor_class != "embedding" else "searched")

    def rotation_of(self, parameter: str, inputs: int) -> int | None:
        """Block size for a matrix of so many inputs: the largest power of two that divides them, at most `rotation`."""
        if class_of(parameter) != "mlp_down" or self.bits_of(parameter) == 32:
            return None
        block = min(self.rotation, inputs & -inputs)
        return block if block > 1 else None

    def group_of(self, parameter: str, inputs: int) -> int:
        """Inputs that share a multiplier in a matrix of so many: `group`, or the largest of its halves that divides them.

        Raises:
            UsageError: neither it nor a half that is a multiple of 32 divides; it names the parameter and groups that do.
        """
        group = self.group
        while inputs % group and group % (2 * SMALLEST_GROUP) == 0:
            group //= 2
        if inputs % group:
            fitting = [str(g) for g in (16, 32, 64, 128, 256) if inputs % g == 0] or [str(inputs)]
            cure = f"set the recipe's `group` to {' or '.join(fitting)}"
            raise UsageError(f"{parameter}: groups of {self.group} do not divide its {inputs} inputs; {cure}")
        return group

    def check(self, engines: Iterable[str], config: ModelConfig | None = None) -> None:
        """Raises UsageError when an engine cannot run this recipe, or when it does not fit the shape of a model."""
        shapes = matrix_shapes(config) if config is not None else {}
        if used := [pattern for pattern, _ in self.overrides if shapes and not any(fnmatchcase(n, pattern) for n in shapes)]:
            raise UsageError(f"recipe {self.name!r}: override {used[0]!r} matches no matrix of the model; see `overrides`")
        for engine in engines:
            self._check_engine(engine)
        for name, shape in shapes.items():
            if self.bits_of(name) == 4:
                self.group_of(name, shape[-1])
            if name.endswith(".experts.down_proj"):
                other = name.replace("down_proj", "gate_up_proj")
                if (self.bits_of(name) == 32) != (self.bits_of(other) == 32):
                    raise UsageError(f"recipe {self.name!r}: {name} and {other} must both be integers or both be float")

    def _check_engine(self, engine: str) -> None:
        support = SUPPORT[engine]
        used = {self.bits[c]: str(c) for c in CLASSES} | {bits: pattern for pattern, bits in self.overrides}
        if wrong := sorted(set(used) - support.bits):
            near = nearest(self, engine)
            raise UsageError(f"recipe {self.name!r}: {engine} cannot run {wrong[0]}-bit {used[wrong[0]]}; use --recipe {near}")
        if 4 in used and self.group % support.group_multiple:
            raise UsageError(
                f"recipe {self.name!r}: {support.product} of {engine} needs a group size that is a multiple of "
                f"{support.group_multiple}, not {self.group} ({used[4]}); set `group`, or use --recipe {nearest(self, engine)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON types, the form of a recipe file."""
        return {**asdict(self), "overrides": [list(pair) for pair in self.overrides]}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Recipe:
        """Inverse of `to_dict`; raises UsageError that begins with `where`."""
        names = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise UsageError(f"{where}: recipe key {unknown[0]!r} is unknown; choose {', '.join(sorted(names))}")
        if missing := sorted({"name", "bits"} - set(values)):
            raise UsageError(f"{where}: recipe key {missing[0]!r} is missing")
        for key in ("bits", "methods"):
            if not isinstance(values.get(key, {}), dict):
                raise UsageError(f"{where}: recipe key {key!r} must be an object by tensor class")
        pairs = values.get("overrides", [])
        if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
            raise UsageError(f"{where}: recipe key 'overrides' must be a list of [pattern, bits]")
        try:
            return cls(**{**values, "overrides": tuple((pattern, bits) for pattern, bits in pairs)})
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def matrix_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shape of every parameter that has a tensor class, by name."""
    return {name: shape for name, shape in parameter_shapes(config).items() if class_of(name) is not None}


def stored_bytes(recipe: Recipe, engine: str, name: str, shape: Shape) -> int:
    """Bytes of one parameter in an engine's file."""
    count, bits = math.prod(shape), recipe.bits_of(name)
    if bits == 32:
        return 4 * count
    columns = shape[-1]
    rows = count // columns
    group = recipe.group_of(name, columns) if bits == 4 else columns
    if engine == "onnx" or class_of(name) == "experts":  # multipliers of groups are bytes
        return count * bits // 8 + 4 * rows + (count // group if bits == 4 else 0)
    if bits == 8:
        return rows * (columns + _EXTREMES + 4)
    return rows * (columns + group) // 2 + 2 * rows * (columns // group + 1)  # scales in bfloat16


def file_bytes(recipe: Recipe, engine: str, config: ModelConfig) -> int:
    """Bytes of an engine's files in a bundle: every parameter, and graphs."""
    stored = sum(stored_bytes(recipe, engine, name, shape) for name, shape in parameter_shapes(config).items())
    return _GRAPH * config.num_layers + stored


def held_bytes(recipe: Recipe, engine: str, config: ModelConfig) -> int:
    """Bytes of a model's weights as an engine's kernels hold them: ONNX Runtime's have 8 bits where 4 are stored, experts
    aside."""
    held = 0
    for name, shape in parameter_shapes(config).items():
        widened = engine == "onnx" and recipe.bits_of(name) == 4 and class_of(name) != "experts"
        count = math.prod(shape)
        held += count + 4 * count // shape[-1] if widened else stored_bytes(recipe, engine, name, shape)
    return held


def _recipe(name: str, *, four: Iterable[TensorClass] = (), bits: int = 8, **options: Any) -> Recipe:
    routers: dict[TensorClass, int] = {"router": 32}  # one that errs derails the layer after it, and they are small
    return Recipe(name=name, bits={**dict.fromkeys(CLASSES, bits), **dict.fromkeys(four, 4), **routers}, **options)


_MLPS: tuple[TensorClass, ...] = ("mlp_up_gate", "mlp_down", "experts", "self_conditioning")
_ALL: tuple[TensorClass, ...] = (*_MLPS, "attention")
ROTATION = 128  # of 4-bit recipes; see benchmarks/results/tiny-quantize-ablation.json
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _recipe("fp32", bits=32),
        _recipe("w8"),
        _recipe("w4-mixed", four=_MLPS, rotation=ROTATION),
        _recipe("w4", four=_ALL, rotation=ROTATION),
        _recipe("w4-all", four=(*_ALL, "embedding"), rotation=ROTATION),
    )
}
# For accelerators alone: the integers of `w8` and `w4-mixed`, activations in 16 bits.
ACCELERATED: dict[str, Recipe] = {
    name: replace(RECIPES[base], name=name, activations=16) for name, base in (("w8a16", "w8"), ("w4a16-mixed", "w4-mixed"))
}


def names() -> str:
    return f"{', '.join(RECIPES)}, for accelerators {' or '.join(ACCELERATED)}"


def nearest(recipe: Recipe, engine: str) -> str:
    """The built-in recipe that an engine runs and whose bits are least far away, class by class."""

    def distance(other: Recipe) -> int:
        return sum(abs(other.bits[c] - recipe.bits[c]) for c in CLASSES)

    support = SUPPORT[engine]
    runs = [
        r
        for r in RECIPES.values()
        if r.name != recipe.name
        and set(r.bits.values()) <= support.bits
        and (4 not in r.bits.values() or r.group % support.group_multiple == 0)
    ]
    return min(runs, key=distance).name


def find(name: str) -> Recipe:
    """A built-in recipe, or one from a file whose name ends in `.json`; raises UsageError."""
    if built_in := RECIPES.get(name) or ACCELERATED.get(name):
        return built_in
    if not name.endswith(".json"):
        raise UsageError(f"--recipe {name!r} is unknown; choose {names()}, or a file NAME.json")
    try:
        values = json.loads(Path(name).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--recipe {name}: cannot be read ({error.strerror}); choose {names()}, or a file NAME.json") from None
    except (ValueError, RecursionError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).splitlines()[0]
        raise UsageError(f"--recipe {name}: cannot be read as JSON ({reason}); correct the file") from None
    if not isinstance(values, dict):
        raise UsageError(f"--recipe {name}: must hold one JSON object with the keys of a recipe")
    return Recipe.from_dict(values, f"--recipe {name}")


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
