"""One run of `dgemma bench`: cost model, ceilings, fresh processes, canvases at growing prefixes, real prompts; a result.

The order is part of it: what may be impossible is found first, ceilings are measured before and after what is judged by
them, products also between its steps, and both decoders always run in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dgemma.benchmarks.bench import ceilings, compare, fresh_process, outputs, pairs, prefix_sweep, reliability, show
from dgemma.benchmarks.bench.budget import Budget
from dgemma.benchmarks.stats import quartiles
from dgemma.core import machine
from dgemma.core.accelerators import AUTO, QNN
from dgemma.core.cost import FLOAT, CostModel, held_bits
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.core.manifest import Manifest, read_manifest
from dgemma.core.shipped import bundle_path
from dgemma.runtime import memory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine, qnn_sessions
from dgemma.runtime.engines.base import Engine
from dgemma.runtime.session import Session

SEED, LOADS = 0, 5
Json = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure; raises UsageError when a value cannot be used."""

    bundle: Path
    budget: Budget
    engine: str | None = None
    threads: int | None = None
    outputs: tuple[int, ...] = (128, 500, 2600)
    compare: Path | None = None
    target: str = AUTO

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise UsageError(f"--threads {self.threads} must be between 1 and 1024")
        if not self.outputs or not all(1 <= k <= 1_000_000 for k in self.outputs):
            raise UsageError(f"--outputs {','.join(map(str, self.outputs))} must be numbers of tokens, 1 to 1,000,000")


def bench(request: BenchRequest, say: Say, stage: Say) -> Json:
    """Measure and return JSON types. `say` gets what is for reading, `stage` what is being done.

    Raises:
        BundleError, EngineError, UsageError: before anything is measured, where that can be known.
    """
    if request.target.startswith(QNN) and qnn_sessions.is_emulated():
        raise UsageError(
            "--target qnn: here an emulator stands in for the NPU, and its speed says nothing about a chip's; run bench on "
            "the device, or leave --target out"
        )
    old = compare.read(request.compare) if request.compare else None
    read_manifest(bundle_path(request.bundle), check_files=False)  # what is no bundle is said before any progress
    stage("checking the bundle")
    bundle = Bundle.open(request.bundle, by_record=True)
    threads = request.threads or machine.usable_cores()
    engine = open_engine(bundle, request.engine, threads, request.target)
    memory.check(bundle.manifest, engine.name, request.bundle)
    of = identity(bundle.manifest, engine.name, threads)
    if old and request.compare:
        compare.check_same(old, of, request.compare)
    if bundle.manifest.targets:
        say(runs_on(bundle.manifest, engine.label))
    model = CostModel(
        config=bundle.manifest.model,
        bits=held_bits(bundle.manifest.quantization, engine.name),
        soft=bundle.manifest.sampler.soft,
    )
    try:
        measured = _measure(request, bundle, engine, threads, model, say, stage)
    finally:
        engine.close()
    result: Json = {
        "benchmark": "bench",
        "machine": machine.facts(),
        "of": of,
        "bundle": {
            "digest": bundle.digest,
            "steps": bundle.manifest.steps,
            "context": bundle.manifest.context,
            "model": bundle.manifest.model.to_dict(),
        },
        "recipe": bundle.manifest.quantization,
        "options": {
            "engine": engine.name,
            "runs_on": engine.label,
            "threads": threads,
            "seconds": request.budget.seconds,
            "repeats": request.budget.repeats,
            "outputs": list(request.outputs),
            "variant": getattr(engine, "variant", None),
        },
        **measured,
    }
    result["ratios"] = compare.ratios(result)
    if old:
        result["comparison"] = {"with": old["bundle"]["digest"], "rows": compare.compare(old, result)}
    return result


def runs_on(manifest: Manifest, label: str) -> str:
    """What is measured of a bundle that has graphs for accelerators, and what is not."""
    emulated = [name for name, spec in manifest.targets.items() if spec.chip and label != f"onnx/qnn ({spec.chip})"]
    left = f"; not measured: {', '.join(emulated)}, because an emulator's speed says nothing" if emulated else ""
    if others := [name for name, spec in manifest.targets.items() if spec.chip is None]:
        left += f"; not measured: {', '.join(others)}, which nothing here runs"
    return f"Runs on {'the processor' if '/' not in label else 'the NPU'} ({label}){left}"


def identity(manifest: Manifest, engine: str, threads: int) -> Json:
    """What must be the same of two results that are compared."""
    return {
        "engine": engine,
        "threads": threads,
        "recipe": manifest.quantization.get("recipe"),
        "canvas_length": manifest.canvas_length,
        "parameters": manifest.quantization.get("parameters"),
        "real_weights": "random_weights" not in manifest.provenance,
    }


def _measure(
    request: BenchRequest, bundle: Bundle, engine: Engine, threads: int, model: CostModel, say: Say, stage: Say
) -> Json:
    manifest = bundle.manifest
    n = manifest.canvas_length
    planned = outputs.plan(request.outputs, n, manifest.context)
    calls = {"denoise": model.denoise(n, planned.prompt), "decode": model.decode(planned.prompt)}
    calls["encode"] = model.encode(min(manifest.chunk, planned.prompt), 0)
    stage("measuring the machine")
    load, before = machine.load_average(), reliability.calibrate()
    read = calls["decode"].weight_bytes
    shape = (n, manifest.model.hidden_size, manifest.model.intermediate_size)
    bits = {p.bits for call in calls.values() for p in call.products.values()}
    experts = model.bits.get(ceilings.EXPERTS, FLOAT)
    routed = (manifest.model, experts) if manifest.model.is_moe and experts < FLOAT else None
    probe = ceilings.Probe(*shape, read, threads, engine=engine.name, bits=bits, routed=routed)
    top = probe.ceilings()
    path, path_warning = machine.int8_path(machine.cpu_flags())
    for line in show.cost_model(calls, top, n, planned.prompt, manifest.chunk, path):
        say(line)
    stage("loading in fresh processes")
    times, found_memory = fresh_process.load_times(bundle.path, engine.name, threads, planned.prompt, LOADS, request.target)
    stage("canvases at growing prefixes")
    ids = fresh_process.filler(manifest.model.vocab_size, planned.prefixes[-1])
    prefill, found = prefix_sweep.PrefixSweep(engine, probe.pace).measure(planned.prefixes, ids, request.budget.share(0.5))
    groups = _groups(request, bundle, engine, stage)
    stage("measuring the machine again")
    top = top.best_of(probe.ceilings())
    after = reliability.calibrate()
    points = [_judged(point, model, top, n) for point in found]
    steps = _steps_per_canvas(groups, manifest)
    filled = _prefill(prefill, planned.prompt, manifest.chunk, model, top)
    made = outputs.outputs(planned, points, filled["ms"]["median"], steps["value"])
    spreads = {"a step": reliability.spread(points[0]["step_ms"]), "a token": reliability.spread(points[0]["token_ms"])}
    spreads |= {f"the ratio of '{name}'": reliability.spread(group["ratio"]) for name, group in groups.items()}
    warnings = reliability.warnings(before, after, load, machine.usable_cores(), spreads)
    return {
        "costs": {"prefix": planned.prompt, "calls": {name: cost.to_dict() for name, cost in calls.items()}},
        "ceilings": {**top.to_dict(), "int8_path": path},
        "load": times,
        "memory": _memory(found_memory, model.weight_bytes()),
        "prefill": filled,
        "first_canvas": _first_canvas(times, filled, points[0], steps["value"]),
        "growth": points,
        "groups": groups,
        "steps_per_canvas": steps,
        "outputs": made,
        "left_out": [{"tokens": tokens, "why": why} for tokens, why in planned.left_out.items()],
        "noise": {
            "calibration_before_s": before,
            "calibration_after_s": after,
            "load_average": load,
            "doubt": reliability.doubt(before, after, load, machine.usable_cores()),
            "warnings": [*warnings, *([path_warning] if path_warning else [])],
        },
    }


def _groups(request: BenchRequest, bundle: Bundle, engine: Engine, stage: Say) -> Json:
    """`pairs.summarize` of each group of real prompts; empty for random weights. Takes half of the budget."""
    given = pairs.prompts(bundle.path, bundle.manifest)
    if not given:
        return {}
    stage("real prompts")
    by = pairs.decoders(Session(bundle, engine), MAX_NEW_TOKENS, SEED)
    found = pairs.paired_runs(given, by, request.budget.share(0.5))
    return {group: pairs.summarize(done) for group, done in found.items() if done}


def _judged(found: prefix_sweep.PrefixPoint, model: CostModel, top: ceilings.Ceilings, canvas: int) -> Json:
    """A point with its floors, and how many tokens' time a step takes: more steps a canvas than that, and diffusion loses."""
    point, step = found.to_dict(), model.denoise(canvas, found.prefix)
    for figure, cost in (("step", step), ("token", model.decode(found.prefix))):
        middle, floors = point[f"{figure}_ms"]["median"], (top.floor_s(cost), top.kernel_floor_s(cost))
        for name, floor in zip(("floor", "kernel_floor"), floors, strict=True):
            point[f"{figure}_{name}_ms"] = None if floor is None else 1e3 * floor
            point[f"{figure}_over_{name}"] = None if floor is None else middle / (1e3 * floor)
    floors_s = [replace(top, kernels=dict(turn.rates)).kernel_floor_s(step) for turn in found.turns]
    paced = [turn.step / floor for turn, floor in zip(found.turns, floors_s, strict=True) if floor]
    point["step_over_pace"] = asdict(quartiles(paced)) if paced else None
    point["canvas_tokens_over_step"] = canvas * point["token_ms"]["median"] / point["step_ms"]["median"]
    return point


def _steps_per_canvas(groups: Json, manifest: Manifest) -> Json:
    """Of the fullest real answers, else all T: random weights do not converge."""
    if groups:
        name = next(iter(groups))
        return {"value": groups[name]["diffusion"]["steps_per_canvas"], "of": name}
    return {"value": float(manifest.steps), "of": "all steps; random weights, or no prompts: cost evidence only"}


def _prefill(seconds: list[float], tokens: int, chunk: int, model: CostModel, top: ceilings.Ceilings) -> Json:
    ms = asdict(quartiles([1e3 * s for s in seconds]))
    calls = [model.encode(min(chunk, tokens - start), start) for start in range(0, tokens, chunk)]
    floor = sum(1e3 * top.floor_s(call) for call in calls)
    kernels = [1e3 * least for call in calls if (least := top.kernel_floor_s(call)) is not None]
    kernel_floor = sum(kernels) if len(kernels) == len(calls) else None
    return {
        "tokens": tokens,
        "ms": ms,
        "tokens_per_s": 1e3 * tokens / ms["median"],
        "floor_ms": floor,
        "over_floor": ms["median"] / floor,
        "kernel_floor_ms": kernel_floor,
        "over_kernel_floor": kernel_floor and ms["median"] / kernel_floor,
    }


def _first_canvas(load: Json, prefill: Json, point: Json, steps: float) -> Json:
    """Seconds until the first canvas after the prompt of `growth` is there: session loaded, and from the start of a process."""
    warm = (prefill["ms"]["median"] + steps * point["step_ms"]["median"]) / 1e3
    cold = load["cold"] and load["cold"]["process_s"] + warm
    return {"loaded_s": warm, "warm_start_s": load["warm"]["process_s"]["median"] + warm, "cold_start_s": cold}


def _memory(found: Json, weights: int) -> Json:
    """With the bytes of all weights as kernels hold them once, and ratios to them; None where the system does not tell."""
    running, process = found.get("running"), found.get("process")
    resident = sum(running.values()) - sum(process.values()) if running and process else None
    return {
        **found,
        "weight_bytes": weights,
        "resident_over_weights": resident / weights if resident else None,
        "transient_over_weights": found["transient_bytes"] / weights if found["transient_bytes"] else None,
    }
