"""What one denoising step of the `2b` shape costs in transformers on this CPU: the yardstick of `dgemma bench`.

    python -m dgemma.benchmarks.transformers_step [--dtype float32 bfloat16] [--prefix 512] [--out FILE]

Random weights, eager attention, self-conditioning on. transformers builds no dense model: one expert of width 8 stands beside
each MLP, which costs nothing to speak of. Needs transformers, torch, and memory for the model (11 GB in float32). The
sampler's own work is not counted, as transformers does it outside of the model.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from dgemma.core import machine
from dgemma.core.config import PRESETS

CANVAS = 256


def build(dtype: Any) -> Any:
    """transformers' model of the preset's shape, weights N(0, 0.02²), in eval mode."""
    import torch
    from transformers.models.diffusion_gemma.configuration_diffusion_gemma import DiffusionGemmaConfig
    from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaForBlockDiffusion

    c = PRESETS["2b"]
    text = {
        "vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim, "global_head_dim": c.global_head_dim, "num_global_key_value_heads": c.global_num_kv_heads,
        "sliding_window": c.sliding_window, "num_experts": 1, "top_k_experts": 1, "moe_intermediate_size": 8,
    }  # fmt: skip
    vision = {
        "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "patch_size": 4,
        "position_embedding_size": 16,
    }  # fmt: skip
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=CANVAS)
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


def measure(dtype: str, prefix: int, repeats: int) -> dict[str, Any]:
    """Seconds of single steps with a cached prefix, the first one left out."""
    import torch
    from transformers import DynamicCache

    model = build(getattr(torch, dtype))
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    ids = torch.randint(3, 1000, (1, prefix), generator=torch.Generator().manual_seed(1))
    seconds: list[float] = []
    with torch.inference_mode():
        model.model.encoder(input_ids=ids, past_key_values=cache, position_ids=torch.arange(prefix)[None])
        signal = None
        for _ in range(repeats + 1):
            started = time.perf_counter()
            logits = model(
                decoder_input_ids=ids[:, :CANVAS], past_key_values=cache, self_conditioning_logits=signal,
                decoder_position_ids=torch.arange(prefix, prefix + CANVAS)[None],
            ).logits  # fmt: skip
            seconds.append(time.perf_counter() - started)
            signal = logits.float() / 0.8
            del logits
    del model, cache, signal
    gc.collect()
    return {"seconds": seconds[1:], "median": statistics.median(seconds[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.transformers_step", description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--prefix", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import torch
    import transformers

    found: dict[str, Any] = {"machine": machine.facts(), "transformers": transformers.__version__, "canvas": CANVAS}
    found |= {"prefix": options.prefix, "threads": torch.get_num_threads(), "step": {}}
    for dtype in options.dtype:
        print(f"{dtype} …", file=sys.stderr, flush=True)
        found["step"][dtype] = measure(dtype, options.prefix, options.repeats)
        print(f"{dtype}: {found['step'][dtype]['median']:.2f} s a step", file=sys.stderr, flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
