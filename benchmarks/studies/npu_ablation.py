"""What each choice of an NPU's recipes costs on tiny: 8 or 4 bits, 16-bit activations, their ranges, what else has 16 bits.

    python -m dgemma.benchmarks.studies.npu_ablation CHECKPOINT [--count K] [--out FILE]

Graphs of all layers, made as `export --target qnn` makes them, run on the processor in float32 over the float model's own
steps on held-out prompts: its canvases, soft embeddings and prefixes, and its head behind them. So every figure is one choice's
cost in one step; what float16 and the NPU add is not in it, and `npu.py` has what becomes of answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from dgemma.benchmarks import report
from dgemma.benchmarks.studies.npu import MAX_NEW_TOKENS, SEED
from dgemma.core import machine, prompts
from dgemma.core.progress import progress
from dgemma.export import request, static
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.qnn import parts
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.integers import quantize
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.ranges import ranges
from dgemma.quantize.recipes import find
from dgemma.runtime.engines.accelerator_host import Array, Pass, padded
from dgemma.verify import metrics
from dgemma.verify.backend import ids_before
from dgemma.verify.static_graphs import open_source
from dgemma.verify.torch_backend import TorchBackend

SLOTS = (128, 256, 384)
PRODUCTS = frozenset({"products"})
EVERY = PRODUCTS | {"norms", "softmax", "rotations"}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: a recipe's integers, what is rounded to 16 bits, and the range over the largest magnitude seen."""

    name: str
    recipe: str
    rounded: frozenset[str] = PRODUCTS
    headroom: float = parts.HEADROOM


VARIANTS = (
    Variant(name="weights alone", recipe="w8a16", rounded=frozenset()),
    Variant(name="as exported", recipe="w8a16"),
    Variant(name="range: largest seen", recipe="w8a16", headroom=1.0),
    Variant(name="range: half of it", recipe="w8a16", headroom=0.5),
    Variant(name="range: a quarter", recipe="w8a16", headroom=0.25),
    Variant(name="range: 16 times", recipe="w8a16", headroom=16.0),
    Variant(name="norms in 16 bits too", recipe="w8a16", rounded=PRODUCTS | {"norms"}),
    Variant(name="softmax in 16 bits too", recipe="w8a16", rounded=PRODUCTS | {"softmax"}),
    Variant(name="rotations in 16 bits too", recipe="w8a16", rounded=PRODUCTS | {"rotations"}),
    Variant(name="all in 16 bits", recipe="w8a16", rounded=EVERY),
    Variant(name="weights alone", recipe="w4a16-mixed", rounded=frozenset()),
    Variant(name="as exported", recipe="w4a16-mixed"),
    Variant(name="range: a quarter", recipe="w4a16-mixed", headroom=0.25),
    Variant(name="all in 16 bits", recipe="w4a16-mixed", rounded=EVERY),
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a graph of all layers is fed in one step of the float model, and the tempered logits [N, V] that came of it."""

    feeds: dict[str, Array]
    slots: int
    temperature: float
    logits: Array


def steps(model: Denoiser, backend: TorchBackend, asked: Sequence[Sequence[int]]) -> Iterator[Step]:
    """The float model's own, prompt by prompt."""
    n = backend.config.canvas_length
    for ids in progress(asked, "steps of the float model"):
        trajectory = backend.trajectory(ids, SEED, MAX_NEW_TOKENS)
        for canvas in sorted(set(trajectory.canvas_index.tolist())):
            soft = np.zeros((n, backend.config.hidden_size), np.float32)
            length = len(ids_before(trajectory, canvas))
            for row, out in backend.replay(trajectory, canvas):
                x = _conditioned(model, trajectory.canvas_in[row], soft)
                feeds, slots = _feeds(model, backend.prefix(0), length, n)
                assert out.logits is not None
                temperature = float(trajectory.temperature[row])
                yield Step(feeds={**feeds, "x": x}, slots=slots, temperature=temperature, logits=out.logits / temperature)
                soft = out.soft


@torch.no_grad()
def _conditioned(model: Denoiser, canvas: Array, soft: Array) -> Array:
    x: Array = model.self_conditioning(model.embed(torch.from_numpy(canvas)[None]), torch.from_numpy(soft)[None]).numpy()
    return x


def _feeds(model: Denoiser, prefix: Sequence[tuple[Array, Array]], length: int, n: int) -> tuple[dict[str, Array], int]:
    """All inputs but x, and the slots of the graph that they are for."""
    config, slots = model.config, next(s for s in SLOTS if s >= length)
    made = Pass(
        n=n, rows=n, length=length, slots=slots, local=slots, canvas=True, positions=np.arange(n), settled=np.zeros(1, np.bool_)
    )
    feeds: dict[str, Array] = {}
    for kind, window in (("sliding", config.sliding_window), ("full", None)):
        feeds[f"bias_{kind}"] = made.bias(slots, window)
        frequencies: Any = getattr(model, f"{kind}_frequencies")
        feeds[f"cos_{kind}"], feeds[f"sin_{kind}"] = made.rotations(frequencies.numpy())
    for i, pair in enumerate(prefix):
        scalar: Any = model.layers[i].denoise_scalar
        feeds[f"scalar_{i}"] = scalar.numpy()
        for kind, array in zip(("key", "value"), pair, strict=True):
            feeds[f"prefix_{kind}_{i}"] = padded(array[None], slots, 1)
    return feeds, slots


def judge(model: Denoiser, made: dict[int, Any], taken: Sequence[Step]) -> dict[str, Any]:
    """Sessions by slots, over all steps: KL in nats and the share of positions whose argmax is another."""
    kl, other = [], []
    for step in taken:
        hidden = made[step.slots].run(["hidden"], step.feeds)[0]
        with torch.no_grad():
            logits = model.head(torch.from_numpy(hidden))[0].numpy() / step.temperature
        kl.append(metrics.kl_divergence(step.logits, logits))
        other.append(logits.argmax(-1) != step.logits.argmax(-1))
    joined = np.concatenate(kl)
    return {
        "kl_mean": float(joined.mean()),
        "kl_p99": float(np.quantile(joined, 0.99)),
        "kl_max": float(joined.max()),
        "other_argmax": float(np.concatenate(other).mean()),
    }


def sessions(
    model: Denoiser, quantized: Mapping[str, QuantizedMatrix], seen: Mapping[str, float], variant: Variant, folder: Path,
    slots: set[int],
) -> dict[int, Any]:  # fmt: skip
    """Slots → a session of the variant's graph of all layers on the processor, its files in a folder."""
    n, made = model.config.canvas_length, dict[int, bytes]()
    with (folder / FILE).open("wb") as file:
        source = parts.Source(
            model=model, quantized=quantized, ranges=seen, weights=WeightFile(file), rounded=variant.rounded,
            headroom=variant.headroom,
        )  # fmt: skip
        for each in sorted(slots):
            net = parts.layers(source, "layers", (0, model.config.num_layers), n, each, each)
            made[each] = net.model().SerializeToString()
    return {each: open_source(folder / "layers.onnx", graph, 1) for each, graph in made.items()}


def prompt_ids_of(folder: Path, count: int) -> list[list[int]]:
    """Held-out prompts, spread over the tasks."""
    import sentencepiece

    from dgemma.train.tiny.vocabulary import prompt_ids

    sp: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    items = prompts.evenly(prompts.read(prompts.held_out()), count)
    return [prompt_ids(sp, str(item.prompt)) for item in items]


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Figures in JSON types."""
    torch.set_num_threads(1)
    loaded = checkpoint.load(folder)
    model = loaded.model.eval()
    asked = prompt_ids_of(folder, count)
    taken = list(steps(model, TorchBackend(model, loaded.sampler, model.config.canvas_length), asked))
    rows = []
    for recipe in dict.fromkeys(v.recipe for v in VARIANTS):
        quantized = quantize(model, find(recipe))
        export = request.check(folder, engines=("onnx",), recipe=recipe, target="qnn:SM8650")
        seen = ranges(model, loaded.sampler, static.range_prompts(export), quantized)
        for variant in progress([v for v in VARIANTS if v.recipe == recipe], recipe):
            with TemporaryDirectory() as scratch:
                made = sessions(model, quantized, seen, variant, Path(scratch), {s.slots for s in taken})
                rows.append({"recipe": recipe, "name": variant.name, **judge(model, made, taken)})
    return {"benchmark": "npu_ablation", "prompts": len(asked), "steps": len(taken), "rows": rows, "machine": machine.facts()}


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="npu_ablation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=17)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    result = measure(options.checkpoint, options.count)
    if options.out:
        report.write_json(options.out, result)
    report.table(f"{result['steps']} steps", ("recipe", "variant", "KL mean", "other argmax"), [
        (row["recipe"], row["name"], f"{row['kl_mean']:.2e}", f"{row['other_argmax']:.3%}") for row in result["rows"]
    ])  # fmt: skip
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    report.main(run)
