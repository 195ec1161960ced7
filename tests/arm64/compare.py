"""Trajectories of two machines laid beside each other, canvas by canvas: which bits are the same, and why others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.verify.divergence import NEAR, Logits, Rule, first_divergence

DECISIONS = ("canvas_in", "argmax", "accepted", "canvas_out")


def canvas(trajectory: Trajectory, index: int) -> dict[str, np.ndarray[Any, Any]]:
    """The rows of one canvas: decisions, steps and entropies."""
    rows = trajectory.canvas_index == index
    return {name: getattr(trajectory, name)[rows] for name in (*DECISIONS, "step", "entropy")}


def compare(
    ours: Sequence[Trajectory],
    theirs: Sequence[Trajectory],
    seeds: Sequence[int],
    sampler: SamplerConfig,
    logits: Logits | None = None,
    limits: Mapping[Rule, float] = NEAR,
) -> dict[str, Any]:
    """Figures over all prompts; `ours` is the machine that the other is held against.

    Returns:
        canvases: of ours. bit_equal: all decisions and every bit of the entropies. same_decisions: of the others, those with
        the same argmax, acceptance and canvases in every step. differing: the rest, with those behind a first difference.
        prompts, same_tokens: how many, and with how many the answer is the same. max_entropy_error: nats, in canvases of the
        same decisions; entropies, equal_entropies: how many values these and the bit-equal canvases have, and how many of
        them have equal bits. differences: the first one of each prompt, with its rule and margin, see `Divergence`, and
        whether `limits` explain it.
    """
    found: dict[str, Any] = dict.fromkeys(
        ("canvases", "bit_equal", "same_decisions", "differing", "entropies", "equal_entropies"), 0
    )
    found |= {"prompts": len(ours), "same_tokens": 0, "max_entropy_error": 0.0, "differences": []}
    for number, (a, b, seed) in enumerate(zip(ours, theirs, seeds, strict=True)):
        for index in range(int(a.canvas_index[-1]) + 1):
            x, y = canvas(a, index), canvas(b, index)
            found["canvases"] += 1
            if not all(np.array_equal(x[name], y[name]) for name in (*DECISIONS, "step")):
                found["differing"] += 1
                continue
            equal = x["entropy"].view(np.uint32) == y["entropy"].view(np.uint32)
            found["bit_equal" if equal.all() else "same_decisions"] += 1
            found["entropies"] += equal.size
            found["equal_entropies"] += int(equal.sum())
            error = float(np.abs(x["entropy"] - y["entropy"]).max())
            found["max_entropy_error"] = max(found["max_entropy_error"], error)
        found["same_tokens"] += bool(np.array_equal(a.tokens, b.tokens))
        difference = first_divergence(a, b, sampler, seed=seed, logits=logits)
        if difference is not None:
            explained = difference.within(limits) is True
            found["differences"].append({"prompt": number, **asdict(difference), "explained": explained})
    return found


def line(run: dict[str, Any]) -> str:
    """One run for people."""
    causes = [f"{d['rule']} {'?' if d['margin'] is None else format(d['margin'], '.1e')}" for d in run["differences"]]
    error, same = run["max_entropy_error"], run["equal_entropies"] / max(1, run["entropies"])
    why = f" ({', '.join(causes)})" if causes else ""
    return (
        f"{run['bundle']:<10} {run['engine']:<10} {run['cpu']:<11} {run['canvases']:>4} canvases: "
        f"{run['bit_equal']} bit-equal, {run['same_decisions']} with the same decisions, {run['differing']} differ{why}; "
        f"{run['same_tokens']} of {run['prompts']} answers the same; {same:.1%} of entropies bit-equal, {error:.1e} nats"
    )
