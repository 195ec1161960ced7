"""Ahead-of-time compilation of `generate` for TPU v4, from shapes alone, and a report of what the compiler says.

Nothing in the report is a measurement unless it is under `measured`, which only a machine with a TPU fills in; that path
has not been run on one. Weights are read only there.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.sampler import MOST_STEPS, SamplerConfig
from dgemma.model.hf_config import find_config
from dgemma.model.hub import name_of
from dgemma.reference import cost, has_tpu, hlo, sharding, texts, tpu
from dgemma.reference import weights as weight_files
from dgemma.reference.denoiser import denoise, soft_embed
from dgemma.reference.generate import Canvas, generate
from dgemma.reference.sampler import step

DTYPE = "bfloat16"
DEFAULT_PREFIX = 1024
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """What to compile, checked; `folder` is None for a preset. `slots` is S, `policy.steps` is T."""

    name: str
    folder: Path | None
    config: ModelConfig
    policy: SamplerConfig
    slots: int
    topology: str
    dtype: str = DTYPE

    def shapes(self) -> tuple[Any, ...]:
        """Shapes of `generate`'s arguments: weights, canvas, words, adaptive, prefix, length."""
        n = self.config.canvas_length
        return (
            weight_files.shapes(self.config, self.dtype),
            jax.ShapeDtypeStruct((n,), jnp.int32),
            jax.ShapeDtypeStruct((self.policy.steps, 2, n), jnp.uint32),
            jax.ShapeDtypeStruct((), jnp.bool_),
            texts.prefix_shapes(self.config, self.slots, weight_files.DTYPES[self.dtype]),
            jax.ShapeDtypeStruct((), jnp.int32),
        )

    def program(self) -> Callable[..., Canvas]:
        """`generate` of the six arguments."""

        def run(weights: Any, canvas: Any, words: Any, adaptive: Any, prefix: Any, length: Any) -> Canvas:
            return generate(weights, self.config, self.policy, canvas, words, adaptive, prefix, length)

        return run


def request(
    target: str, *, topology: str, canvas: int | None = None, context: int | None = None, steps: int | None = None
) -> CompileRequest:
    """Check the options against a checkpoint folder's config or a preset.

    Args:
        target: folder or preset name.
        topology: `v4:XxYxZ`.
        canvas: N; context: all positions, prefix and canvas; steps: T. None means the config's own, 1,024 and its canvas.
    Raises:
        UsageError, CheckpointError.
    """
    tpu.parse(topology)
    config, policy, folder = find_config(target)
    for option, value in (("--canvas", canvas), ("--context", context)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value} must be at least 1")
    if canvas is not None and canvas >= config.max_position_embeddings:
        raise UsageError(f"--canvas {canvas} must be below {config.max_position_embeddings}, the positions of the model")
    config = config if canvas is None else replace(config, canvas_length=canvas)
    n = config.canvas_length
    whole = min(DEFAULT_PREFIX + n, config.max_position_embeddings) if context is None else context
    if not n < whole <= config.max_position_embeddings:
        raise UsageError(
            f"--context {whole} must exceed the canvas of {n} and be at most {config.max_position_embeddings}, "
            "the positions of the model"
        )
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"--steps {steps} must be between 1 and {MOST_STEPS}")
    policy = policy if steps is None else replace(policy, steps=steps)
    name = target if folder is None else name_of(folder)
    return CompileRequest(name=name, folder=folder, config=config, policy=policy, slots=whole - n, topology=topology)


def compile_report(wanted: CompileRequest, progress: Progress) -> dict[str, Any]:
    """Compile for the topology and report; see `describe` for the words.

    Returns:
        JSON types only. `fits` is False where the compiler runs out of memory, or the arguments alone exceed it.
    Raises:
        UsageError, EngineError: topology or libtpu.
    """
    progress(f"topology {wanted.topology}")
    on = sharding.mesh(tpu.devices(wanted.topology))
    report = _counts(wanted, on.size)
    places = _places(wanted, on)
    arguments = _bytes_per_chip(wanted.shapes(), places)
    report["memory"] = {"usable": cost.V4.memory, "arguments": arguments}
    if arguments > cost.V4.memory:
        return report | {"fits": False, "reason": "the arguments alone exceed a chip's memory", "compile": None}
    progress("lower")
    started = time.monotonic()
    lowered = jax.jit(wanted.program(), in_shardings=places).trace(*wanted.shapes()).lower(lowering_platforms=("tpu",))
    middle = time.monotonic()
    progress("compile")
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return report | {"fits": False, "reason": " ".join(str(error).split())[:400], "compile": None}
    done = time.monotonic()
    stats = compiled.memory_analysis()
    sizes = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    report["memory"] = {"usable": cost.V4.memory, **sizes, "peak": sum(sizes.values()) - stats.alias_size_in_bytes}
    report["fits"], report["reason"] = report["memory"]["peak"] <= cost.V4.memory, None
    report["compile"] = {"lower_seconds": middle - started, "compile_seconds": done - middle, "peak_host_bytes": _peak_host()}
    report["compiler_estimate"] = _estimate(compiled.as_text())
    report["measured"] = _measure(wanted, compiled, places, progress) if has_tpu() else None
    return report


def one_step_flops(wanted: CompileRequest) -> float:
    """XLA's count of one denoising step (model, sampler, soft embedding) with every loop unrolled; not compiled."""

    def run(weights: Any, canvas: Any, soft: Any, words: Any, prefix: Any, length: Any) -> Any:
        logits, _ = denoise(weights, wanted.config, canvas, soft, prefix, length, unroll=True)
        made = soft_embed(weights, wanted.config, logits, wanted.policy.top_k)
        return step(logits, words, wanted.policy.entropy_bound), made

    weights, canvas, words, _, prefix, length = wanted.shapes()
    soft = jax.ShapeDtypeStruct((canvas.shape[0], wanted.config.hidden_size), weights["embed"].dtype)
    words = jax.ShapeDtypeStruct(words.shape[1:], words.dtype)
    analysis: Any = jax.jit(run).lower(weights, canvas, soft, words, prefix, length).cost_analysis()
    return float(analysis["flops"])


def write_artifacts(wanted: CompileRequest, folder: Path, progress: Progress) -> list[Path]:
    """`generate` as serialized StableHLO for tpu and for cpu, `jax.export`'s format; one chip, shapes as requested.

    Raises:
        OSError: the folder cannot be written.
    """
    from jax import export

    _register(export)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for platform in ("tpu", "cpu"):
        progress(f"export for {platform}")
        exported = export.export(jax.jit(wanted.program()), platforms=[platform])(*wanted.shapes())
        path = folder / f"generate-{platform}.jaxexport"
        path.write_bytes(exported.serialize())
        written.append(path)
    return written


def read_artifact(path: Path) -> Any:
    """A callable of `generate`'s six arguments, from `write_artifacts`, for the platform that it was made for."""
    from jax import export

    _register(export)
    return export.deserialize(bytearray(path.read_bytes())).call


def _register(export: Any) -> None:
    """Let artifacts hold `Canvas`; a second registration in one process is refused by JAX and means nothing."""
    try:
        export.register_namedtuple_serialization(Canvas, serialized_name="dgemma.reference.Canvas")
    except ValueError as error:
        if "already" not in str(error).lower() and "duplicate" not in str(error).lower():
            raise


def _counts(wanted: CompileRequest, chips: int) -> dict[str, Any]:
    """Everything that is known before compiling."""
    config, steps = wanted.config, wanted.policy.steps
    one = cost.step_cost(config, canvas=config.canvas_length, slots=wanted.slots, bytes_per_value=2)
    least = cost.floor(one, steps=steps, chips=chips)
    chosen = steps * one.flops_chosen / (chips * cost.V4.flops)
    counted = one_step_flops(wanted)
    return {
        "model": wanted.name,
        "parameters": weight_files.parameters(weight_files.shapes(config, DTYPE)),
        "dtype": wanted.dtype,
        "canvas": config.canvas_length,
        "prefix": wanted.slots,
        "steps": steps,
        "topology": wanted.topology,
        "chips": chips,
        "chip": cost.V4.name,
        "flops": {
            "total": one.flops * steps,
            "per_step": one.flops,
            "per_step_chosen_experts": one.flops_chosen,
            "per_step_xla_unrolled": counted,
            "xla_over_count": counted / one.flops,
        },
        "bytes_read_per_step": one.bytes,
        "floor": {
            "seconds": least.seconds,
            "compute_seconds": least.compute,
            "memory_seconds": least.memory,
            "what": "of this program, which runs every expert",
            "compute_seconds_chosen_experts": chosen,
            "peak_flops_per_chip": cost.V4.flops,
            "peak_bytes_per_second_per_chip": cost.V4.bandwidth,
        },
        "compiler_estimate": None,
        "measured": None,
        "versions": {name: _version(name) for name in ("dgemma", "jax", "jaxlib", "libtpu")},
    }


def _places(wanted: CompileRequest, on: Any) -> tuple[Any, ...]:
    """Shardings of `generate`'s arguments."""
    whole = sharding.replicated(on)
    weights, _, _, _, prefix, _ = wanted.shapes()
    return (
        sharding.weights(wanted.config, weights, on),
        whole,
        whole,
        whole,
        sharding.prefix(wanted.config, prefix, on),
        whole,
    )


def _bytes_per_chip(shapes: Any, places: Any) -> int:
    """Bytes of all arguments on one chip."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True)
    return sum(int(np.prod(place.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf, place in leaves)


def _estimate(text: str) -> dict[str, Any]:
    """The compiler's estimate over all T steps."""
    found = hlo.estimated_cycles(text)
    return {
        "what": "XLA's estimated_cycles weighted by trip counts; an estimate, not a measurement",
        "cycles": found.total,
        "seconds": found.total / tpu.CLOCK,
        "clock_hz": tpu.CLOCK,
        "instructions": found.instructions,
        "trip_counts": list(found.trips),
    }


def _measure(wanted: CompileRequest, compiled: Any, places: tuple[Any, ...], progress: Progress) -> dict[str, Any]:
    """Run the compiled program on this machine's chips, all T steps, an empty prefix; the median of five runs."""
    progress("weights")
    if wanted.folder is None:
        weights = weight_files.random(wanted.config, 0, wanted.dtype, places[0])
    else:
        weights = weight_files.load(wanted.folder, wanted.config, wanted.dtype, sharding=places[0])
    _, canvas, words, _, prefix, _ = wanted.shapes()
    noise = np.random.default_rng(0)
    arguments = (
        weights,
        noise.integers(0, wanted.config.vocab_size, canvas.shape, np.int32),
        noise.integers(0, 1 << 32, words.shape, np.uint32),
        np.bool_(False),
        jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), prefix),
        np.int32(0),
    )
    placed = jax.tree.map(partial(jax.device_put), arguments, places)
    progress("run")
    jax.block_until_ready(compiled(*placed))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*placed))
        seconds.append(time.perf_counter() - started)
    return {"seconds": float(np.median(seconds)), "runs": seconds, "device": placed[1].devices().pop().device_kind}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _peak_host() -> int:
    """Peak resident bytes of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(report: dict[str, Any]) -> list[str]:
    """Lines for people."""
    gib, memory, flops, least = 2**30, report["memory"], report["flops"], report["floor"]
    shape = f"{report['steps']} steps, canvas {report['canvas']}, prefix {report['prefix']:,}"
    chips = f"{report['chips']} × {report['chip']} ({report['topology']})"
    lines = [
        f"program       generate of {report['model']}, {report['parameters'] / 1e6:,.0f} M parameters: {shape}",
        f"chips         {chips}",
        f"fits          {'yes' if report['fits'] else 'no: ' + report['reason']}",
        "memory        per chip, GiB: " + ", ".join(f"{name} {size / gib:.2f}" for name, size in memory.items()),
    ]
    if took := report["compile"]:
        seconds, peak = took["lower_seconds"] + took["compile_seconds"], took["peak_host_bytes"] / gib
        lines.append(f"compiled      in {seconds:.0f} s, peak host memory {peak:.2f} GiB")
    lines += [
        f"operations    {flops['total'] / 1e12:.3g} TFLOP over all steps, loops counted by their trips "
        f"(XLA counts {100 * (flops['xla_over_count'] - 1):+.1f} % for one unrolled step)",
        f"floor         {1e3 * least['seconds']:.1f} ms at {least['peak_flops_per_chip'] / 1e12:.0f} TFLOP/s and "
        f"{least['peak_bytes_per_second_per_chip'] / 1e12:.1f} TB/s a chip (compute {1e3 * least['compute_seconds']:.1f}, "
        f"memory {1e3 * least['memory_seconds']:.1f})",
    ]
    if estimate := report["compiler_estimate"]:
        took, clock = 1e3 * estimate["seconds"], estimate["clock_hz"] / 1e9
        lines.append(f"estimate      {took:.0f} ms by the compiler's cycles at {clock:.2f} GHz; an estimate, not a measurement")
    if measured := report["measured"]:
        took, runs = 1e3 * measured["seconds"], len(measured["runs"])
        lines.append(f"measured      {took:.1f} ms, median of {runs}, {measured['device']}")
    return lines
