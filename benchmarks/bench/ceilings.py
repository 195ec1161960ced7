"""What this machine can do at best, measured in the run that is judged by it: matrix products and memory read.

Products have the bundle's shape [N, D] × [D, F]. The integer ones are onnxruntime's fused operators, on either engine: a
ceiling belongs to the machine. Beside them stand the rates of the kernels that the bundle's engine runs: onnxruntime's int8
and float32, or ExecuTorch's, see `xnnpack.py`; and of one layer of experts, see `experts.py`, with as many rows to an expert as
a step has. A best case is the shortest of many calls, a pace their median.

Not known: attention is counted at the rate of the float32 product, and exact soft embeddings at that of the table's bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.benchmarks.bench import experts, xnnpack
from dgemma.benchmarks.bench.onnx_bytes import Node, model
from dgemma.core.config import ModelConfig
from dgemma.core.cost import FLOAT, Cost
from dgemma.core.install import pip_install
from dgemma.runtime.engines.sessions import open_session, session_options
from dgemma.runtime.native import build

PRODUCTS = ("int8", "int4", "float32")
EXPERTS = "experts"  # as tensor class and as kernel
BEST_S = 0.3  # how long a best case is looked for
BLOCK = 128  # weights per scale of the int4 product
_SMALL = 200_000_000  # operations: products smaller than that run several to a call, as they do in a model
_MOST = 256 << 20  # bytes that the memory ceiling is read from, at most


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Operations per second by product, bytes per second read, and why a product has none.

    Args:
        read_bytes: size of what was read: that of the weights, so that a small model's caches count.
        kernels: operations per second by product, of the kernels that the bundle's engine runs.
        missing_kernels: why a product that the bundle uses has none.
    """

    products: dict[str, float]
    bytes_per_s: float
    read_bytes: int
    missing: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, float] = field(default_factory=dict)
    missing_kernels: dict[str, str] = field(default_factory=dict)

    def rate(self, bits: int) -> float:
        """Operations per second for weights of that many bits: float32, or the faster of the integer products."""
        integer = [self.products[name] for name in ("int8", "int4") if name in self.products]
        return max(integer) if bits <= 8 and integer else self.products["float32"]

    def floor_s(self, cost: Cost) -> float:
        """The least that a call takes when arithmetic and reading overlap: attention is float32, and keys are read too."""
        return self._floor_s(cost, lambda _, bits: self.rate(bits))

    def kernel_floor_s(self, cost: Cost) -> float | None:
        """As `floor_s`, with products as fast as the kernels that run them; None where one of those was not measured."""
        if not {kernel_of(name, p.bits) for name, p in cost.products.items()} | {"float32"} <= self.kernels.keys():
            return None
        return self._floor_s(cost, lambda name, bits: self.kernels[kernel_of(name, bits)])

    def _floor_s(self, cost: Cost, rate: Callable[[str, int], float]) -> float:
        arithmetic = sum(p.operations / rate(name, p.bits) for name, p in cost.products.items())
        arithmetic += cost.attention / rate("attention", FLOAT)
        return max(arithmetic, (cost.weight_bytes + cost.cache_bytes) / self.bytes_per_s)

    def best_of(self, other: Ceilings) -> Ceilings:
        """The higher of each of two measurements."""
        return replace(
            self,
            products=_highest(self.products, other.products),
            kernels=_highest(self.kernels, other.kernels),
            bytes_per_s=max(self.bytes_per_s, other.bytes_per_s),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def form(bits: int) -> str:
    """The product that an engine runs for weights that its kernels hold in so many bits."""
    return "int4" if bits <= 4 else "int8" if bits <= 8 else "float32"


def kernel_of(tensor_class: str, bits: int) -> str:
    """The kernel that multiplies matrices of a class: integer experts have one of their own in both engines."""
    return EXPERTS if tensor_class == EXPERTS and bits < FLOAT else form(bits)


def _highest(rates: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
    return {name: max(rate, others.get(name, 0.0)) for name, rate in rates.items()}


class Probe:
    """Products and memory read at a bundle's shapes: made once, measured as often as wanted."""

    def __init__(
        self,
        rows: int,
        inner: int,
        outer: int,
        read_bytes: int,
        threads: int,
        *,
        engine: str,
        bits: Collection[int],
        routed: tuple[ModelConfig, int] | None = None,
    ) -> None:
        """Make the products.

        Args:
            engine: whose kernels are measured too.
            bits: of weights as those kernels hold them; float32 is measured in any case.
            routed: the model and the bits of its experts, where those are integers.
        """
        copies = max(1, min(16, _SMALL // (2 * rows * inner * outer)))
        shape = (rows, inner, outer, copies)
        self._threads, self._read_bytes = threads, max(1 << 20, min(_MOST, read_bytes))
        runs: dict[str, Callable[[], object]] = {}
        missing: dict[str, str] = {}
        for name in PRODUCTS:
            try:
                run = _onnxruntime(name, *shape, threads)
                run()  # a kernel that refuses is missing
                runs[name] = run
            except ModuleNotFoundError:
                missing[name] = f"onnxruntime is not installed; {pip_install('onnx')}"
            except Exception as error:  # this library's refusals have no common type
                missing[name] = f"onnxruntime refuses it: {(str(error).splitlines() or ['?'])[0][:120]}"
        if "float32" not in runs:
            missing["float32"] = f"{missing['float32']} (measured with numpy instead, on the threads that it takes)"
            a, b = np.ones((rows, inner), np.float32), np.ones((inner, outer), np.float32)
            runs["float32"] = lambda: [a @ b for _ in range(copies)]
        used = [name for name in PRODUCTS if name in {*map(form, bits), "float32"}]
        if engine == "executorch":
            kernels, self._missing_kernels = xnnpack.products(used, shape, threads)
        else:
            kernels = {name: runs[name] for name in used if name in runs}
            self._missing_kernels = {name: missing[name] for name in used if name not in runs}
        self._operations = dict.fromkeys(PRODUCTS, 2 * rows * inner * outer * copies)
        if routed:
            self._add_experts(*routed, rows, threads, kernels)
        self._products, self._kernels, self._missing = runs, kernels, missing

    def _add_experts(
        self, model: ModelConfig, bits: int, rows: int, threads: int, kernels: dict[str, Callable[[], object]]
    ) -> None:
        """A layer of the model's experts among the kernels, or why there is none."""
        assert model.num_experts and model.top_k_experts and model.moe_intermediate_size
        dims = {"experts": model.num_experts, "chosen": model.top_k_experts, "width": model.moe_intermediate_size}
        try:
            run, operations = experts.layer_call(bits=bits, hidden=model.hidden_size, rows=rows, threads=threads, **dims)
        except build.Unavailable as error:
            self._missing_kernels[EXPERTS] = f"needs the native library: {error}"
        else:
            kernels[EXPERTS], self._operations[EXPERTS] = run, operations

    def ceilings(self) -> Ceilings:
        """The best of everything; takes about `BEST_S` each."""

        def best(name: str, run: Callable[[], object]) -> float:
            return self._operations[name] / min(_durations(run, BEST_S))

        own = {name: best(name, run) for name, run in self._products.items()}
        kernels = {
            name: own[name] if run is self._products.get(name) else best(name, run) for name, run in self._kernels.items()
        }
        return Ceilings(
            products=own,
            bytes_per_s=_read(self._read_bytes, self._threads),
            read_bytes=self._read_bytes,
            missing=self._missing,
            kernels=kernels,
            missing_kernels=self._missing_kernels,
        )

    def pace(self, seconds: float) -> dict[str, float]:
        """Operations per second of the kernels at this moment: the median of calls, for about so long each."""
        return {name: self._operations[name] / median(_durations(run, seconds)) for name, run in self._kernels.items()}


def _nodes(name: str, inner: int, outer: int, copies: int) -> tuple[list[Node], dict[str, npt.NDArray[Any]]]:
    """Products of one input x with `copies` matrices, y0, y1, …, and their weights."""
    rng = np.random.default_rng(0)
    weights: dict[str, npt.NDArray[Any]] = {}
    nodes = []
    for i in range(copies):
        names = [f"weight{i}"]
        if name == "float32":
            weights[names[0]] = rng.standard_normal((inner, outer), dtype=np.float32)
            node = Node(op="MatMul", inputs=["x", *names], output=f"y{i}")
        else:
            names.append(f"scale{i}")
            if name == "int8":
                weights[names[0]] = rng.integers(-127, 128, (inner, outer), np.int8)
                weights[names[1]] = np.full(outer, 1e-3, np.float32)
                attributes: Mapping[str, int] = {}
            else:
                blocks = -(-inner // BLOCK)
                weights[names[0]] = rng.integers(0, 256, (outer, blocks, BLOCK // 2), np.uint8)
                weights[names[1]] = np.full(outer * blocks, 1e-3, np.float32)
                attributes = {"K": inner, "N": outer, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
            op = "DynamicQuantizeMatMul" if name == "int8" else "MatMulNBits"
            node = Node(op=op, inputs=["x", *names], output=f"y{i}", domain="com.microsoft", attributes=attributes)
        nodes.append(node)
    return nodes, weights


def _onnxruntime(name: str, rows: int, inner: int, outer: int, copies: int, threads: int) -> Callable[[], object]:
    """A call that runs the products once; quantizing activations is part of it."""
    nodes, weights = _nodes(name, inner, outer, copies)
    shapes = {node.output: (rows, outer) for node in nodes}
    session = open_session(model(nodes, weights, {"x": (rows, inner)}, shapes), session_options(threads))
    x = np.random.default_rng(1).standard_normal((rows, inner), dtype=np.float32)
    run: Callable[[], object] = lambda: session.run(None, {"x": x})  # noqa: E731
    return run


def _read(size: int, threads: int) -> float:
    """Bytes per second of a dot product of an array with itself, a slice to each thread; small arrays several times a call."""
    parts = np.array_split(np.ones(size // 4, np.float32), threads)
    times = max(1, _MOST // size // 4)

    def dots(part: npt.NDArray[np.float32]) -> None:
        for _ in range(times):
            np.dot(part, part)

    with ThreadPoolExecutor(threads) as pool:
        return times * size / min(_durations(lambda: list(pool.map(dots, parts)), BEST_S))


def _durations(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of calls, three at least, for so long; the first one, a warm-up, is not among them."""
    call()
    found: list[float] = []
    started = time.perf_counter()
    end = started + seconds
    while len(found) < 3 or started < end:
        call()
        now = time.perf_counter()
        found.append(now - started)
        started = now
    return found
