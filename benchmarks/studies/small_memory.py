"""What would let a mixture of experts run in less memory than its weights: trials with figures.

    python -m dgemma.benchmarks.studies.small_memory quality [--checkpoint checkpoints/tiny-moe] --out FILE
    python -m dgemma.benchmarks.studies.small_memory routing [--checkpoint checkpoints/tiny-moe] --out FILE
    python -m dgemma.benchmarks.studies.small_memory steps BUNDLE --engine ENGINE [--steps 3] --out FILE

`quality` rounds experts to 4, 3 and 2 bits, by the rule of recipes, and all other matrices to 8. `routing` counts which experts
rows choose: how many of a layer's a step touches, and how often the next token finds its experts in a cache. `steps` times
steps and tokens of a bundle and counts what was read from disk meanwhile; start it in a memory limit, for example with
`systemd-run --scope -p MemoryMax=13G`. A result that is there gains the new part.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.bench import memory
from dgemma.benchmarks.bench.fresh_process import filler, read_bytes
from dgemma.core import machine, prompts
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.core.memory import available

Json = dict[str, Any]
LEVELS = {4: (-8, 7), 3: (-4, 3), 2: (-2, 1)}
GROUPS = Path("/proc/self/cgroup")
LIMITS = {  # controllers, as /proc/self/cgroup names them → where their groups lie, and the file with the limit
    "": [("/sys/fs/cgroup", "memory.max")],
    "memory": [("/sys/fs/cgroup/memory", "memory.limit_in_bytes")],
}


def quality(folder: Path, per_task: int) -> Json:
    """Answers and steps with experts of few bits, and the bits of a weight that go with them."""
    from dgemma.benchmarks.studies.ablation import held_out_baseline
    from dgemma.model import checkpoint
    from dgemma.quantize.fake_quant import fake_quantize
    from dgemma.quantize.integers import quantize
    from dgemma.quantize.recipes import find

    loaded = checkpoint.load(folder)
    baseline = held_out_baseline(loaded, folder, prompts.held_out(), per_task, 6)
    eight = find("w8")
    rows = []
    for bits in (8, *LEVELS):
        recipe = replace(eight, bits={**eight.bits, "experts": 4 if bits < 8 else 8}, group=64)
        matrices = quantize(loaded.model, recipe, None, levels=LEVELS.get(bits, LEVELS[4]))
        rows.append({"experts_bits": bits, **baseline.figures(fake_quantize(loaded.model, matrices))})
        print(f"experts of {bits} bits: {rows[-1]}", flush=True)
    return {"checkpoint": folder.name, "prompts": len(baseline.items), "float": baseline.float_figures(), "rows": rows}


def routing(folder: Path, per_task: int) -> Json:
    """Shares of a layer's experts: touched by the rows of a step, and found in a cache by the next token of a text."""
    import torch

    from dgemma.benchmarks.studies.ablation import held_out_items
    from dgemma.model import checkpoint
    from dgemma.model.generate import extend, generate

    loaded = checkpoint.load(folder)
    model: Any = loaded.model
    count = model.config.num_experts or 0
    assert count
    seen: dict[int, list[Any]] = {i: [] for i in range(len(model.layers))}
    for i, layer in enumerate(model.layers):
        layer.router.register_forward_hook(lambda _, __, out, i=i: seen[i].append(out[1].flatten(0, -2)))
    plain, steps = model.denoise, 0
    touched: list[float] = []

    def denoise(*given: Any) -> Any:
        nonlocal steps
        for found in seen.values():
            found.clear()
        result = plain(*given)
        steps += 1
        touched.extend(len(found[-1].unique()) / count for found in seen.values())
        return result

    hits: dict[int, list[float]] = {size: [] for size in range(model.config.top_k_experts or 1, count)}
    with torch.no_grad():
        for item in held_out_items(folder, prompts.held_out(), per_task):
            model.denoise = denoise
            run = generate(model, loaded.sampler, item.prompt_ids, seed=0, max_new_tokens=MAX_NEW_TOKENS)
            model.denoise = plain
            for found in seen.values():
                found.clear()
            extend(model, None, [*item.prompt_ids, *run.tokens])
            for found in seen.values():
                order = [row.tolist() for row in torch.cat(found)]
                for size in hits:
                    hits[size] += kept(order, size, len(item.prompt_ids))
    return {
        "checkpoint": folder.name,
        "experts": count,
        "chosen": model.config.top_k_experts,
        "canvas": model.config.canvas_length,
        "steps": steps,
        "touched_by_a_step": sum(touched) / len(touched),
        "found_by_a_token": {str(size): sum(found) / len(found) for size, found in hits.items()},
    }


def kept(order: Sequence[Sequence[int]], size: int, first: int) -> Iterator[float]:
    """For each row from `first` on: the share of its experts that a cache of the `size` last used ones holds."""
    cache: OrderedDict[int, None] = OrderedDict()
    for row, experts in enumerate(order):
        if row >= first:
            yield sum(expert in cache for expert in experts) / len(experts)
        for expert in experts:
            cache[expert] = None
            cache.move_to_end(expert)
        while len(cache) > size:
            cache.popitem(last=False)


def steps(bundle: Path, engine: str, threads: int, prefix: int, count: int) -> Json:
    """Seconds of single steps and tokens, bytes read from disk in each, and resident memory at the end."""
    from dgemma.runtime.bundle import Bundle
    from dgemma.runtime.engines import open_engine
    from dgemma.runtime.loops import Loops
    from dgemma.runtime.prefix import Prefix, decode_feeds

    free = available()
    opened = Bundle.open(bundle, by_record=True)
    runner = open_engine(opened, engine, threads)
    runner.prepare("encode", "denoise", "decode")
    caches = Prefix(runner)
    caches.extend(filler(opened.manifest.model.vocab_size, prefix))
    started = time.perf_counter()
    caches.encode(lambda: False)
    encoded = time.perf_counter() - started
    canvas, feeds = Loops(runner).host(caches, 0, 0, False), decode_feeds(runner, caches, caches.ids[-1], prefix - 1)
    of_steps = [_timed(lambda: next(canvas)) for _ in range(count)]
    of_tokens = [_timed(lambda: runner.run("decode", feeds)) for _ in range(2 * count)]
    resident = memory.resident()
    runner.close()
    return {
        "bundle": bundle.name,
        "digest": opened.digest,
        "recipe": opened.manifest.quantization.get("recipe"),
        "engine": engine,
        "threads": threads,
        "prefix": prefix,
        "limit_bytes": limit(),
        "free_bytes": free,
        "encode_s": encoded,
        "steps": of_steps,
        "tokens": of_tokens,
        "resident_bytes": resident and resident.anonymous + resident.file,
    }


def _timed(call: Callable[[], object]) -> Json:
    before, started = read_bytes(), time.perf_counter()
    call()
    seconds, after = time.perf_counter() - started, read_bytes()
    return {"seconds": seconds, "read_bytes": None if before is None or after is None else after - before}


def limit() -> int | None:
    """Bytes that this process's control group may have, or None."""
    try:
        lines = GROUPS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for root, name in LIMITS.get(controllers, ()):
            try:
                return int((Path(root) / group.lstrip("/") / name).read_text(encoding="ascii"))
            except (OSError, ValueError):  # without a limit it reads "max"
                continue
    return None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description="Less memory than the weights take.")
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("quality", "routing"):
        part = parts.add_parser(name)
        part.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny-moe"))
        part.add_argument("--per-task", type=int, default=6)
        part.add_argument("--out", type=Path)
    part = parts.add_parser("steps")
    part.add_argument("bundle", type=Path)
    part.add_argument("--name", default="steps", help="what the result calls this run")
    part.add_argument("--engine", default="executorch")
    part.add_argument("--threads", type=int, default=machine.usable_cores())
    part.add_argument("--prefix", type=int, default=512)
    part.add_argument("--steps", type=int, default=3)
    part.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    report.check_out(given.out)
    if given.part == "steps":
        name, found = given.name, steps(given.bundle, given.engine, given.threads, given.prefix, given.steps)
    else:
        name, found = given.part, (quality if given.part == "quality" else routing)(given.checkpoint, given.per_task)
    print(json.dumps(found))
    if given.out:
        earlier = json.loads(given.out.read_text(encoding="utf-8"))["parts"] if given.out.exists() else {}
        result = {"benchmark": "small-memory", "parts": {**earlier, name: {**found, "machine": machine.facts()}}}
        report.write_json(given.out, result)
    return 0


if __name__ == "__main__":
    report.main(main)
