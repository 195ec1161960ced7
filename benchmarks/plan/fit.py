"""A profile from results of `dgemma bench`: ceilings as measured, and the seconds of each kind of work that explain the times.

Least squares of relative errors, never negative and never above a ceiling, with a weak pull to `USUAL`: what the runs say
nothing of stays as it usually is. What it does not know: clocks that change while a result is taken, and kernels whose
rate depends on the shape of a product otherwise than through the constants of a layer and a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.benchmarks.plan.profile import Cache, Kernels, Products, Profile, coefficients, read_json, terms
from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.cost import Cost, as_run, held_bits
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.shapes import parameter_count

Json = dict[str, Any]
REFERENCE_FLOAT32 = 215e9  # operations per second of the machine that USUAL was fitted on
# Seconds for each unit of `terms`: committed results of tiny and 2b, 2 cores of an AMD EPYC (Zen 4).
USUAL = (1.1, 1.3, 1.5e-9, 1.3e-9, 2.0e-10, 6.5e-5, 4e-5, 1.5e-5, 4.5e-4)
# Chosen among 0.02, 0.005 and 0.001 with committed results in view: these are no independent test of it.
PULL = 0.005  # weight of an observation that says USUAL, against 1 of a measured time
# XNNPACK's dynamic int8 and int4 (groups of 128) against onnxruntime's int8, 2304 × 9216 at 256 rows: 553, 567 of 829 GFLOP/s.
XNNPACK_INT8, XNNPACK_INT4 = 0.67, 0.68
LARGE = 64 << 20  # bytes: a reading of less is one of caches


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One measured time: calls that follow each other, their costs as run, seconds."""

    run: str
    engine: str
    figure: str
    prefix: int
    costs: tuple[Cost, ...]
    layers: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """A result of `dgemma bench`, and the shape of its model."""

    where: str
    values: Json
    config: ModelConfig

    @property
    def engine(self) -> str:
        return str(self.values["of"]["engine"])

    def observations(self) -> Iterator[Observation]:
        """A step and a token at each prefix, and the prefill; medians."""
        calls = self.values["costs"]["calls"]
        table = self.config.vocab_size * self.config.hidden_size
        soft = "exact" if calls["denoise"]["products"]["embedding"]["weights"] > table else "gathered"
        bits = held_bits(self.values["recipe"], self.engine)
        model = as_run(self.config, bits, soft)
        common: Json = {"run": self.where, "engine": self.engine, "layers": self.config.num_layers}
        canvas = int(self.values["of"]["canvas_length"])
        for point in self.values["growth"]:
            at = int(point["prefix"])
            for figure, cost in (("step", model.denoise(canvas, at)), ("token", model.decode(at))):
                seconds = point[f"{figure}_ms"]["median"] / 1e3
                yield Observation(figure=figure, prefix=at, costs=(cost,), seconds=seconds, **common)
        product = calls["encode"]["products"]["attention"]
        chunk, tokens = product["operations"] // (2 * product["weights"]), int(self.values["prefill"]["tokens"])
        costs = tuple(model.encode(min(chunk, tokens - start), start) for start in range(0, tokens, chunk))
        seconds = self.values["prefill"]["ms"]["median"] / 1e3
        yield Observation(figure="prefill", prefix=tokens, costs=costs, seconds=seconds, **common)


def is_result(values: Any) -> bool:
    return isinstance(values, dict) and values.get("benchmark") == "bench"


def read_result(path: Path, option: str, known: Sequence[ModelConfig] = ()) -> Result:
    """A file; `known` are shapes that a result may be of that was written before results told their shape."""
    values = read_json(path, option)
    if not is_result(values):
        raise UsageError(
            f"{option} {path}: is not a result of dgemma bench; make one with `dgemma bench BUNDLE --out {path.name}`"
        )
    return as_result(values, f"{option} {path}", known)


def as_result(values: Json, where: str, known: Sequence[ModelConfig] = ()) -> Result:
    """Raises UsageError when a figure is missing, or the model's shape is not known."""
    try:
        shape = values["bundle"].get("model")
        config = ModelConfig.from_dict(shape) if shape else _known(values["of"]["parameters"], known)
        if config is None:
            raise UsageError(f"{where}: does not say what its model's shape is; run dgemma bench again, or name the checkpoint")
        result = Result(where=Path(where).name, values=values, config=config)
        if any(o.seconds <= 0 for o in result.observations()) or min(_rates(values)) <= 0:
            raise UsageError(f"{where}: has times or ceilings of 0; run dgemma bench again")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, CheckpointError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{where}: is not a complete result of dgemma bench ({error!r}); run dgemma bench again") from None
    return result


def _rates(values: Json) -> tuple[float, ...]:
    top = values["ceilings"]
    return (*(float(v) for v in top["products"].values()), float(top["bytes_per_s"]), float(top["products"]["float32"]))


def _known(parameters: int, known: Sequence[ModelConfig]) -> ModelConfig | None:
    found = [c for c in (*known, *PRESETS.values()) if parameters == parameter_count(c)]
    return found[0] if found else None


def fit(results: Sequence[Result]) -> Profile:
    """One machine's profile; raises UsageError for none, or for results of several machines."""
    if not results:
        raise UsageError("--fit needs at least one result of dgemma bench")
    machines = {(r.values["machine"]["cpu"], r.values["machine"]["cores"], r.values["options"]["threads"]) for r in results}
    if len(machines) > 1:
        raise UsageError(f"results of several machines or numbers of threads cannot be fitted together: {sorted(machines)}")
    bare = _ceilings(results)
    found = {}
    for engine in bare.engines:
        of = [o for r in results if r.engine == engine for o in r.observations()]
        found[engine] = _kernels(bare, engine, of)
    return replace(bare, engines=found)


def _ceilings(results: Sequence[Result]) -> Profile:
    """The best of all ceilings; kernels as they usually are."""
    tops = [r.values["ceilings"] for r in results]
    best = {k: max(float(t["products"].get(k, 0.0)) for t in tops) for k in ("int8", "int4", "float32")}
    integer = max(best["int8"], best["int4"]) or best["float32"]
    onnx = Products(int8=best["int8"] or integer, int4=best["int4"] or integer, float32=best["float32"])
    rates = {"onnx": onnx, "executorch": replace(onnx, int8=XNNPACK_INT8 * integer, int4=XNNPACK_INT4 * integer)}
    large = [t for t in tops if t["read_bytes"] >= LARGE]
    small = [t for t in tops if t["read_bytes"] < LARGE]
    cache = None
    if small:
        cache = Cache(bytes=max(int(t["read_bytes"]) for t in small), bytes_per_s=max(float(t["bytes_per_s"]) for t in small))
    first = results[0].values
    return Profile(
        name=str(first["machine"]["cpu"]),
        about=f"{first['machine']['cores']} cores, {first['machine']['int8']}",
        threads=int(first["options"]["threads"]),
        memory_bytes=int(first["machine"]["memory_bytes"] or 2**33),
        bytes_per_s=max(float(t["bytes_per_s"]) for t in (large or tops)),
        cache=cache,
        engines={engine: _usual(rates[engine]) for engine in sorted({r.engine for r in results})},
        sources={
            "products": "measured by dgemma bench; XNNPACK's integers estimated from onnxruntime's by the ratio of the kernels",
            "bytes_per_s": "measured by dgemma bench" + ("" if large else ", in caches only: results of a small model"),
            "memory_bytes": "as the system reports it",
            "kernels": f"fitted to {', '.join(r.where for r in results)}",
        },
    )


def _usual(products: Products) -> Kernels:
    """`USUAL`, with what computes scaled by float32 products."""
    return kernels_of(products, _scaled(products))


def _scaled(products: Products) -> tuple[float, ...]:
    slower = REFERENCE_FLOAT32 / products.float32
    return (*USUAL[:2], *(slower * value for value in USUAL[2:4]), *USUAL[4:])


def kernels_of(products: Products, seconds: Sequence[float]) -> Kernels:
    """Inverse of `profile.coefficients`."""
    a, b, functions, values, joined, call, layer, integer, sampler = (float(s) for s in seconds)
    return Kernels(
        products=products,
        share_products=1 / a,
        share_reading=1 / b,
        functions_per_s=1 / functions,
        values_per_s=1 / values,
        joined_bytes_per_s=1 / joined,
        call_s=call,
        layer_s=layer,
        integer_layer_s=integer,
        sampler_s=sampler,
    )


def _kernels(profile: Profile, engine: str, of: Sequence[Observation]) -> Kernels:
    """Least squares of predicted over measured − 1, in units of the usual coefficients."""
    products = profile.kernels(engine).products
    usual = np.array(_scaled(products))
    least = np.array([1 / usual[0], 1 / usual[1], *[0.02] * (len(usual) - 2)])  # no faster than a ceiling; nothing is free
    rows = [np.array(summed(profile, o)) * usual / o.seconds for o in of]
    pull = PULL**0.5 * np.eye(len(usual))
    a = np.vstack([*rows, pull])
    y = np.concatenate([np.ones(len(rows)), np.diag(pull)])
    return kernels_of(products, bounded_least_squares(a, y, least) * usual)


def summed(profile: Profile, o: Observation) -> tuple[float, ...]:
    """`terms` of all calls of an observation."""
    return tuple(map(sum, zip(*(terms(profile, o.engine, cost, o.layers) for cost in o.costs), strict=True)))


def predict(profile: Profile, o: Observation) -> float:
    """Seconds."""
    return float(np.dot(summed(profile, o), coefficients(profile.kernels(o.engine))))


def bounded_least_squares(
    a: npt.NDArray[np.float64], y: npt.NDArray[np.float64], least: npt.NDArray[np.float64], rounds: int = 5000
) -> npt.NDArray[np.float64]:
    """x ≥ least that minimizes |a·x − y|², by cyclic coordinate descent. a [M, P]; y [M]; least [P] → [P]."""
    gram, target, x = a.T @ a, a.T @ y, np.maximum(1.0, least)
    for _ in range(rounds):
        before = x.copy()
        for j in range(len(x)):
            x[j] = max(least[j], x[j] - (gram[j] @ x - target[j]) / gram[j, j])
        if np.abs(x - before).max() < 1e-12:
            break
    return x


def write_profile(profile: Profile, path: Path) -> None:
    path.write_text(json.dumps(profile.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def ratios(profile: Profile, results: Sequence[Result]) -> list[Mapping[str, Any]]:
    """Predicted over measured, a row for every figure of every result."""
    return [
        {
            "run": o.run,
            "engine": o.engine,
            "figure": o.figure,
            "prefix": o.prefix,
            "measured_ms": 1e3 * o.seconds,
            "predicted_ms": 1e3 * predict(profile, o),
            "ratio": predict(profile, o) / o.seconds,
        }
        for r in results
        for o in r.observations()
    ]
