"""What one denoising step of a bundle's shape costs in transformers on this CPU, and one token of its causal encoder.

    python -m dgemma.benchmarks.studies.peers.transformers_step BUNDLE [--dtype float32] [--compiled] [--prefix 512] \
        [--repeats 3] [--layers 6]

Random weights, eager attention, self-conditioning on, experts as transformers runs them by default (`grouped_mm`). It builds no
dense model: one expert of width 8 stands beside each MLP, which costs nothing to speak of. The sampler's own work is not
counted, as transformers does it outside of the model. `--compiled` puts the step through `torch.compile`; tokens stay eager,
for their cache grows. `--layers K` is for models that do not fit: it runs the first K layers, and one alone, and adds the
missing layers at the mean of those between. Needs transformers, torch, and memory for the model (11 GB for `2b` in float32).
The last line of output is JSON: seconds of single calls.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.studies.peers.peer import Sample
from dgemma.core.config import FULL, ModelConfig
from dgemma.core.errors import EngineError, UsageError
from dgemma.core.manifest import read_manifest

DTYPES = {"float32": 4, "bfloat16": 2}  # bytes of a weight
COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # where torch keeps compiled code: by default in a folder that outlives the process
_TEMPERATURE = 0.8


def settings(c: ModelConfig) -> dict[str, Any]:
    """transformers' `text_config` of a shape, dense ones with one narrow expert."""
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "global_head_dim": c.global_head_dim,
        "num_global_key_value_heads": c.global_num_kv_heads,
        "layer_types": list(c.layer_types),
        "sliding_window": c.sliding_window,
        "num_experts": c.num_experts or 1,
        "top_k_experts": c.top_k_experts or 1,
        "moe_intermediate_size": c.moe_intermediate_size or 8,
        "pad_token_id": c.pad_token_id,
        "bos_token_id": c.bos_token_id,
        "eos_token_id": list(c.eos_token_ids),
    }


def build(shape: ModelConfig, canvas: int, dtype: Any) -> Any:
    """transformers' model of the shape, weights N(0, 0.02²), in eval mode."""
    import torch
    from transformers.models.diffusion_gemma.configuration_diffusion_gemma import DiffusionGemmaConfig
    from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaForBlockDiffusion

    vision = {
        "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "patch_size": 4,
        "position_embedding_size": 16,
    }  # fmt: skip
    config = DiffusionGemmaConfig(text_config=settings(shape), vision_config=vision, canvas_length=canvas)
    config._attn_implementation = "eager"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = DiffusionGemmaForBlockDiffusion(config)
        model.to_empty(device="cpu")
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}.values():
            if tensor.is_floating_point():
                tensor.normal_(0.0, 0.02, generator=generator) if tensor.ndim > 1 else tensor.fill_(1.0)
    made: Any = model
    return made.eval()


def measure(shape: ModelConfig, canvas: int, dtype: str, *, prefix: int, repeats: int, tokens: int, compiled: bool) -> Sample:
    """Seconds of single steps and tokens with a cached prefix; the first of each warms up and is left out."""
    import torch
    import transformers

    model = build(shape, canvas, getattr(torch, dtype))
    cache = transformers.DynamicCache(config=model.config.get_text_config(decoder=True))
    ids = torch.randint(0, shape.vocab_size, (1, max(prefix, canvas)), generator=torch.Generator().manual_seed(1))
    after = torch.arange(prefix, prefix + canvas)[None]

    def step(signal: Any) -> Any:
        """`signal` is float32 [B, N, V]: the last step's tempered logits."""
        inputs = {"decoder_input_ids": ids[:, :canvas], "decoder_position_ids": after}
        return model(**inputs, past_key_values=cache, self_conditioning_logits=signal).logits

    def token(position: int) -> Any:
        hidden = model.model.encoder(
            input_ids=ids[:, :1], past_key_values=cache, position_ids=torch.tensor([[position]])
        ).last_hidden_state
        return model.final_logit_softcapping * torch.tanh(model.lm_head(hidden).float() / model.final_logit_softcapping)

    with torch.inference_mode():
        model.model.encoder(input_ids=ids[:, :prefix], past_key_values=cache, position_ids=torch.arange(prefix)[None])
        run: Callable[[Any], Any] = torch.compile(step, dynamic=False) if compiled else step
        steps: list[float] = []
        signal = torch.zeros(1, canvas, shape.vocab_size)
        for _ in range(repeats + 1):
            started = time.perf_counter()
            logits = run(signal)
            steps.append(time.perf_counter() - started)
            signal = logits.float() / _TEMPERATURE
            del logits
        singles: list[float] = []
        for i in range(0 if compiled else tokens + 1):
            started = time.perf_counter()
            token(prefix + i)
            singles.append(time.perf_counter() - started)
    first = steps[0] - median(steps[1:]) if compiled else None
    version = f"{transformers.__version__}, torch {torch.__version__.partition('+')[0]}"
    return Sample(version=version, step_s=steps[1:], token_s=singles[1:], compile_s=first)


def first_layers(shape: ModelConfig, layers: int) -> ModelConfig:
    """The shape cut off behind so many layers; the last one is a full layer, as it has to be."""
    return replace(shape, num_layers=layers, layer_types=(*shape.layer_types[: layers - 1], FULL))


def scaled(one: Sample, some: Sample, layers: int, whole: int) -> Sample:
    """What `whole` layers take: each call of `some`, which has `layers`, and the mean of a layer for those that are missing."""

    def grown(short: Sequence[float], long: Sequence[float]) -> list[float]:
        return [s + (s - median(short)) / (layers - 1) * (whole - layers) for s in long]

    return replace(some, step_s=grown(one.step_s, some.step_s), token_s=grown(one.token_s, some.token_s))


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--prefix", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, help="else as many as torch takes")
    parser.add_argument("--layers", type=int, help="measure with so many layers, two at least, and scale to all")
    given = parser.parse_args()
    manifest, _ = read_manifest(given.bundle)
    if given.layers is not None and not 2 <= given.layers <= manifest.model.num_layers:
        raise UsageError(f"--layers {given.layers} must be between 2 and the model's {manifest.model.num_layers}")
    try:
        import torch
        import transformers.models.diffusion_gemma  # noqa: F401
    except ImportError as error:
        raise EngineError(f"transformers cannot be imported ({error}); pip install 'transformers==5.23.*'") from None
    if given.threads:
        torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="dgemma-compiled-") as folder:
        os.environ.setdefault(COMPILED, folder)
        run = partial(
            measure,
            canvas=manifest.canvas_length,
            dtype=given.dtype,
            prefix=given.prefix,
            repeats=given.repeats,
            tokens=given.tokens,
            compiled=given.compiled,
        )
        if given.layers:
            one, some = (run(first_layers(manifest.model, layers)) for layers in (1, given.layers))
            sample = scaled(one, some, given.layers, manifest.model.num_layers)
        else:
            sample = run(manifest.model)
    print(sample.to_line())
    return 0


if __name__ == "__main__":
    report.main(main)
