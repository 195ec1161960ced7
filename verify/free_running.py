"""Free-running comparison: the float model and the artifact each answer the same prompts with the same noise.

Both stop adaptively. What counts is what a user sees: steps run, and answers right or wrong; the same bundle decoding
autoregressively is asked as well. First differences are put down to a rule and its margin, as in `same_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgemma.core.errors import UsageError
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.core.metrics import paired_difference, ratio_of_sums, wilson
from dgemma.core.prompts import TaskPrompt
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.session import Session
from dgemma.runtime.tokenizer import chat_ids
from dgemma.verify.backend import Backend
from dgemma.verify.divergence import NEAR, Divergence, first_divergence
from dgemma.verify.teacher_forced import margins

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
DECODERS = ("float", "artifact", "autoregressive")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One prompt on all decoders; `steps` and `texts` by decoder, and no texts where the bundle has no tokenizer."""

    item: TaskPrompt
    reference: Trajectory
    artifact: Trajectory
    steps: dict[str, int]
    texts: dict[str, str]
    difference: Divergence | None

    def is_right(self, decoder: str) -> bool:
        """White space at both ends does not count."""
        return self.item.answer is not None and self.texts[decoder].strip() == self.item.answer.strip()


def prompt_ids(session: Session, item: TaskPrompt) -> list[int]:
    """An item's ids as the session would make them; raises UsageError or TokenizerError."""
    if not isinstance(item.prompt, str):
        return list(item.prompt)
    assert session.tokenizer is not None
    return chat_ids(session.manifest, session.tokenizer, item.prompt, [])


def answer_all(
    session: Session, float_model: Backend, items: Sequence[TaskPrompt], seed: int, progress: Progress
) -> tuple[list[Run], int]:
    """Ask every item that leaves room for a canvas.

    Returns:
        the runs, and how many items were left out for being too long.
    Raises:
        UsageError: all of them were.
    """
    n, context = session.manifest.canvas_length, session.manifest.context
    runs: list[Run] = []
    for item in progress(items, "free-running"):
        ids = prompt_ids(session, item)
        most = min(MAX_NEW_TOKENS, (context - len(ids)) // n * n)
        if most >= 1:
            runs.append(_run(session, float_model, item, ids, seed, most))
    if not runs:
        raise UsageError(f"no prompt leaves room for a canvas of {n} in the context of {context}; give shorter --prompts")
    return runs, len(items) - len(runs)


def _run(session: Session, float_model: Backend, item: TaskPrompt, ids: list[int], seed: int, most: int) -> Run:
    reference = float_model.trajectory(ids, seed, most)
    result = session.generate(ids, max_new_tokens=most, seed=seed, trace=True)
    assert result.trajectory is not None
    steps, texts = {"float": len(reference.step), "artifact": result.steps}, dict[str, str]()
    if item.answer is not None and session.tokenizer is not None:
        greedy = session.decode_greedy(ids, max_new_tokens=most)
        steps["autoregressive"] = greedy.steps
        texts = {"float": session.tokenizer.decode(reference.tokens.tolist()), "artifact": result.text}
        texts["autoregressive"] = greedy.text
    difference = first_divergence(reference, result.trajectory, float_model.sampler, seed=seed, logits=float_model.logits)
    return Run(item=item, reference=reference, artifact=result.trajectory, steps=steps, texts=texts, difference=difference)


def figures(runs: Sequence[Run], left_out: int) -> dict[str, Any]:
    """JSON types: shares with 95 % intervals, steps, first differences by rule; None for what there are no answers for."""
    inflation = ratio_of_sums([r.steps["artifact"] for r in runs], [r.steps["float"] for r in runs])
    answered = [r for r in runs if r.texts]
    return {
        "prompts": len(runs),
        "left_out": left_out,
        "equal_trajectories": sum(r.difference is None for r in runs),
        "same_tokens": sum(np.array_equal(r.reference.tokens, r.artifact.tokens) for r in runs),
        "steps": {name: sum(r.steps[name] for r in runs) for name in ("float", "artifact")},
        "step_inflation": _interval(inflation),
        "exact_match": {name: _exact(answered, name) for name in DECODERS} if answered else None,
        "exact_match_loss": _loss(answered, "float", "artifact"),
        "gain_over_autoregressive": _loss(answered, "artifact", "autoregressive"),
        "tasks": {task: _task(answered, task) for task in dict.fromkeys(r.item.task for r in answered)},
        "differences": _differences([r.difference for r in runs if r.difference is not None]),
    }


def _interval(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), values, strict=True))


def _exact(runs: Sequence[Run], decoder: str) -> dict[str, Any]:
    right = sum(r.is_right(decoder) for r in runs)
    low, high = wilson(right, len(runs))
    steps = float(np.mean([r.steps[decoder] for r in runs]))
    return {"n": len(runs), "right": right, "value": right / len(runs), "low": low, "high": high, "mean_steps": steps}


def _loss(runs: Sequence[Run], a: str, b: str) -> dict[str, float] | None:
    """Share right of a minus that of b, on the same prompts."""
    if not runs:
        return None
    return _interval(paired_difference([r.is_right(a) for r in runs], [r.is_right(b) for r in runs]))


def _task(runs: Sequence[Run], task: str) -> dict[str, int]:
    mine = [r for r in runs if r.item.task == task]
    return {"n": len(mine), **{name: sum(r.is_right(name) for r in mine) for name in DECODERS}}


def _differences(found: Sequence[Divergence]) -> dict[str, Any]:
    """Count by rule; with the margins that are known, in the rule's unit (see `divergence.Divergence`)."""
    by_rule: dict[str, Any] = {}
    for rule in NEAR:
        mine = [d for d in found if d.rule == rule]
        if mine:
            known = np.array([d.margin for d in mine if d.margin is not None])
            by_rule[rule] = {"count": len(mine), **margins(known, rule)}
    totals = {name: sum(d[name] for d in by_rule.values()) for name in ("near_ties", "close")}
    return {"count": len(found), **totals, "by_rule": by_rule}
