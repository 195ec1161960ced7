"""What a device can do, and what share of it engines' steps reach: a JSON file, read strictly. CPU only.

A profile is a file, or one of those shipped in `benchmarks/devices` by name. Figures that nobody measured there say in
`sources` what they were estimated from.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from dgemma.benchmarks.bench.ceilings import Ceilings
from dgemma.core.cost import FLOAT, Cost
from dgemma.core.engines import ENGINES
from dgemma.core.errors import UsageError
from dgemma.core.schema import UnknownKey, WrongKind, read_as

DEVICES = Path(__file__).parents[1] / "devices"
# Of the rate of large int8 products, what the experts' kernel reaches with 16 rows to an expert: 160 to 220 GFLOP/s a core with
# AVX512-VNNI (docs/design/engines.md) of about 400. With AVX2 it is as fast as they are.
EXPERTS = 0.5
SOURCED = ("products", "bytes_per_s", "memory_bytes", "kernels")
NPU_SOURCED = ("peak", "share_products", "bytes_per_s", "call_s", "memory_bytes")
# Bounds of what any processor of today can do; a figure outside is one in another unit.
_LIMITS = {
    "int8": (1e8, 1e15), "int4": (1e8, 1e15), "float32": (1e8, 1e15), "bytes_per_s": (1e8, 1e13),
    "share_products": (0.01, 1.0), "share_reading": (0.01, 1.0), "functions_per_s": (1e6, 1e13), "values_per_s": (1e6, 1e14),
    "joined_bytes_per_s": (1e7, 1e13), "call_s": (0.0, 0.1), "layer_s": (0.0, 0.1), "integer_layer_s": (0.0, 0.1),
    "sampler_s": (0.0, 0.1), "memory_bytes": (2**24, 2**50), "threads": (1, 1024), "bytes": (2**10, 2**34),
    "float16": (1e8, 1e15), "watts": (0.1, 1000),
}  # fmt: skip


def _check(record: Any, where: str) -> None:
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name in _LIMITS and isinstance(value, (int, float)):
            low, high = _LIMITS[f.name]
            if not low <= value <= high:
                raise UsageError(f"{where}{f.name} {value!r} is impossible; give a figure between {low:g} and {high:g}")


@dataclass(frozen=True, kw_only=True)
class Products:
    """Operations per second of large matrix products (a multiply-add is two), by the bits of the weights."""

    int8: float
    int4: float
    float32: float

    def rate(self, bits: int) -> float:
        return self.int4 if bits <= 4 else self.int8 if bits <= 8 else self.float32


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What one engine makes of the device.

    Args:
        share_products: of `products`, that products inside a step reach.
        share_reading: of the bytes per second, that reading weights reaches.
        functions_per_s: exp or tanh of scores, gates and logits, with the passes around them.
        values_per_s: values written by norms, residuals and the rounding of inputs.
        joined_bytes_per_s: keys and values that are joined with new ones and turned.
        call_s, layer_s, integer_layer_s: of every call, every layer, every layer of integers on top.
        sampler_s: of every denoising step, for the sampler's many small nodes.
    """

    products: Products
    share_products: float
    share_reading: float
    functions_per_s: float
    values_per_s: float
    joined_bytes_per_s: float
    call_s: float
    layer_s: float
    integer_layer_s: float
    sampler_s: float


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Weights of at most `bytes` are read from caches, at this rate."""

    bytes: Annotated[int, 64]
    bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Operations per second that an NPU is said to be capable of, by the bits of the weights."""

    int8: float
    int4: float
    float16: float

    def rate(self, bits: int) -> float:
        return self.int4 if bits <= 4 else self.int8 if bits <= 8 else self.float16


@dataclass(frozen=True, kw_only=True)
class Npu:
    """A neural processing unit beside the processor, in published figures: nothing here was measured on one.

    Args:
        share_products: of `peak`, what whole prefills of language models reach.
        bytes_per_s: at which decoding reads weights.
        call_s: of starting one context.
        memory_bytes: of a model that is known to run there.
        watts: while it works, of what `sources` says; None where no source tells.
        sources: where each figure comes from, and that it is estimated or assumed.
    Raises:
        UsageError: a figure that no device has, or one without a source.
    """

    name: str
    peak: Peak
    share_products: float
    bytes_per_s: float
    call_s: float
    memory_bytes: Annotated[int, 64]
    sources: dict[str, str]
    watts: float | None = None

    def __post_init__(self) -> None:
        _check(self, "npu: ")
        _check(self.peak, "npu: peak: ")
        wanted = (*NPU_SOURCED, *(("watts",) if self.watts is not None else ()))
        if missing := [name for name in wanted if not self.sources.get(name)]:
            raise UsageError(f"npu: no source for {missing[0]}; say under `sources` where the figure comes from")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A device, for those engines that are named; with `npu`, the one that it has beside its processor.

    Args:
        sources: for products, bytes_per_s, memory_bytes and kernels, where the figures come from.
    Raises:
        UsageError: a figure that no device has.
    """

    name: str
    about: str
    threads: int
    memory_bytes: Annotated[int, 64]
    bytes_per_s: float
    engines: dict[str, Kernels]
    sources: dict[str, str]
    cache: Cache | None = None
    npu: Npu | None = None

    def __post_init__(self) -> None:
        _check(self, "")
        for name, kernels in self.engines.items():
            if name not in ENGINES:
                raise UsageError(f"engine {name!r} is unknown; choose onnx or executorch")
            _check(kernels, f"{name}: ")
            _check(kernels.products, f"{name}: products: ")
        if not self.engines:
            raise UsageError("no engine; give figures for onnx or executorch")
        if self.cache:
            _check(self.cache, "cache: ")
        if missing := [name for name in SOURCED if not self.sources.get(name)]:
            raise UsageError(f"no source for {missing[0]}; say under `sources` where the figure comes from")

    def kernels(self, engine: str) -> Kernels:
        """Raises UsageError for an engine that the profile does not have."""
        if engine not in self.engines:
            raise UsageError(f"--engine {engine}: device {self.name!r} has figures of {', '.join(self.engines)} only")
        return self.engines[engine]

    def read_rate(self, weight_bytes: int) -> float:
        """Bytes per second at which so many bytes of weights are read."""
        cached = self.cache is not None and weight_bytes <= self.cache.bytes
        return self.cache.bytes_per_s if self.cache and cached else self.bytes_per_s

    def ceilings(self, engine: str, weight_bytes: int) -> Ceilings:
        """What `dgemma bench` judges by."""
        read = self.read_rate(weight_bytes)
        return Ceilings(products=asdict(self.kernels(engine).products), bytes_per_s=read, read_bytes=weight_bytes)

    def seconds(self, engine: str, cost: Cost, layers: int) -> float:
        """A call: products at their roofline, then what runs beside them, one after the other.

        `cost` is of a model `as_run`. Source: roofline model (Williams, Waterman, Patterson 2009), one roof for each kind of
        work, since engines run one node after another.
        """
        return math.fsum(
            a * b for a, b in zip(terms(self, engine, cost, layers), coefficients(self.kernels(engine)), strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON types, the form of a profile file."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def terms(profile: Profile, engine: str, cost: Cost, layers: int) -> tuple[float, ...]:
    """What a call is made of, in the order of `coefficients`: seconds at the ceilings, counts, bytes, and numbers of parts."""
    rates = profile.kernels(engine).products
    experts = EXPERTS * max(kernels.products.int8 for kernels in profile.engines.values())  # one kernel, in every engine
    arithmetic = sum(
        p.operations / (experts if name == "experts" and p.bits < FLOAT else rates.rate(p.bits))
        for name, p in cost.products.items()
    )
    reading = cost.weight_bytes / profile.read_rate(cost.weight_bytes)
    bound = arithmetic > reading
    integers = any(p.bits <= 8 for p in cost.products.values())
    return (
        (arithmetic if bound else 0.0) + cost.attention / rates.float32,
        0.0 if bound else reading,
        float(cost.functions),
        float(cost.values),
        float(cost.cache_bytes),
        1.0,
        float(layers),
        float(layers if integers else 0),
        1.0 if "self_conditioning" in cost.products else 0.0,
    )


def coefficients(k: Kernels) -> tuple[float, ...]:
    """Seconds for each unit of `terms`."""
    return (
        1 / k.share_products,
        1 / k.share_reading,
        1 / k.functions_per_s,
        1 / k.values_per_s,
        1 / k.joined_bytes_per_s,
        k.call_s,
        k.layer_s,
        k.integer_layer_s,
        k.sampler_s,
    )


def names() -> list[str]:
    """Of the devices that are shipped."""
    return sorted(path.stem for path in DEVICES.glob("*.json"))


def from_dict(values: Any, where: str) -> Profile:
    """Raises UsageError, one line that begins with `where`."""
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must hold one JSON object; see {DEVICES.name}/ for complete profiles")
    try:
        return read_as(Profile, values)
    except UnknownKey as error:
        raise UsageError(f"{where}: {error} in a device profile; remove it, or correct its name") from None
    except WrongKind as error:
        raise UsageError(f"{where}: {error}; see {DEVICES.name}/ for complete profiles") from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def read_json(path: Path, option: str) -> Any:
    """Raises UsageError that names the option and the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        cure = "give a device profile or a result of dgemma bench"
        if isinstance(error, OSError):
            raise UsageError(f"{option} {path}: cannot be read ({error.strerror}); {cure}") from None
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).splitlines()[0]
        raise UsageError(f"{option} {path}: cannot be read as JSON ({reason}); {cure}") from None


def shipped(name: str) -> Profile:
    """Raises UsageError that lists the names that exist."""
    if name not in names():
        raise UsageError(
            f"--device {name!r} is unknown; choose {', '.join(names())}, or a file (profile, or JSON of dgemma bench)"
        )
    return from_dict(read_json(DEVICES / f"{name}.json", "--device"), f"--device {name}")
