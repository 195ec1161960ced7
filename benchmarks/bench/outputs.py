"""What outputs of K tokens take, from the cost of a canvas at measured prefix lengths; lengths between are interpolated.

Diffusion encodes every canvas but the last and denoises ceil(K / N) of them; the baseline decodes K tokens one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_POINTS = 6  # prefix lengths that are measured, at most


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which outputs fit into the context after a prompt of `prompt` tokens, and where to measure them.

    Args:
        left_out: tokens → why.
        prefixes: lengths that a canvas of the longest output starts from, thinned out.
    """

    prompt: int
    canvas: int
    outputs: tuple[int, ...]
    left_out: dict[int, str]
    prefixes: tuple[int, ...]


def plan(outputs: Sequence[int], canvas: int, context: int) -> Plan:
    """A prompt of two canvases (of one, or what remains, in a short context), and whole canvases after it."""
    prompt = max(1, min(2 * canvas, context - canvas))
    if prompt + canvas < context:
        fit = [k for k in outputs if prompt + -(-k // canvas) * canvas <= context]
    else:
        fit = [k for k in outputs if k <= canvas]
    left = {
        k: f"needs a context of {prompt + -(-k // canvas) * canvas} (a prompt of {prompt}) and the bundle has {context}"
        for k in outputs
        if k not in fit
    }
    count = max([1, *(-(-k // canvas) for k in fit)])
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, min(count, _POINTS))})
    return Plan(
        prompt=prompt, canvas=canvas, outputs=tuple(fit), left_out=left, prefixes=tuple(prompt + i * canvas for i in chosen)
    )


def outputs(given: Plan, points: Sequence[dict[str, Any]], prefill_ms: float, steps_per_canvas: float) -> list[dict[str, Any]]:
    """For each output: canvases, seconds and tokens/s of both decoders, prefill included, and their ratio."""
    prefix = [point["prefix"] for point in points]
    at = {name: [point[name]["median"] for point in points] for name in ("step_ms", "token_ms")}
    grown = [given.canvas * p["encode_ms"] / p["encoded"] for p in points]
    found = []
    for tokens in given.outputs:
        starts = [given.prompt + i * given.canvas for i in range(-(-tokens // given.canvas))]
        steps = steps_per_canvas * float(np.interp(starts, prefix, at["step_ms"]).sum())
        commits = float(np.interp(starts[1:], prefix, grown).sum())
        single = given.prompt + np.arange(tokens)
        decode = float(np.interp(single, prefix, at["token_ms"]).sum())
        diffusion_s, other_s = (prefill_ms + steps + commits) / 1e3, (prefill_ms + decode) / 1e3
        found.append(
            {
                "tokens": tokens,
                "canvases": len(starts),
                "diffusion_s": diffusion_s,
                "autoregressive_s": other_s,
                "diffusion_tokens_per_s": tokens / diffusion_s,
                "autoregressive_tokens_per_s": tokens / other_s,
                "ratio": other_s / diffusion_s,
            }
        )
    return found
