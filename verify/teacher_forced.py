"""Teacher-forced comparison: backends are fed the same canvases and soft embeddings, step by step, and their outputs compared.

Only the prefix is each one's own, encoded by it from the same tokens. So errors of one step do not reach the next, and
every figure is about one call of `denoise`. N canvas, S prefix, D hidden, V vocabulary, K kv heads, d head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgemma.core.trajectory import Trajectory
from dgemma.verify import metrics
from dgemma.verify.backend import Array, Backend, StepOut, words_of
from dgemma.verify.divergence import CLOSE, NEAR, Rule
from dgemma.verify.routing import Routing

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
Pair = tuple[str, str]  # names of the reference and of what is compared with it


@dataclass(frozen=True, kw_only=True)
class Place:
    """One denoising step of one run: `row` counts the steps of the trajectory, from 0."""

    run: int
    row: int


@dataclass(frozen=True, kw_only=True)
class ForcedStep:
    """One step of both. Arrays [N]: argmax equal, next token equal, entropy errors in nats, KL in nats or None without logits.

    Args:
        index: denoising steps run on this canvas, from 1.
        log_probs_error: largest error of a candidate's log-probability, in nats times temperature over the widest range that
            capped logits can have; None where one of both has none.
        broken: positions where what the other puts out about its draws and candidates contradicts its argmax or its next token.
        gaps: how far the reference's best two tempered logits are apart where the other chose another; empty without logits.
        logits_error: largest error of a logit over the range of the reference's; None without logits.
        soft_error: relative error of the next soft embedding, as is that of keys and values in `TeacherForced.errors`.
    """

    place: Place
    index: int
    same: Array
    canvas: Array
    jaccard: float
    entropy_error: Array
    kl: Array | None
    gaps: Array
    logits_error: float | None
    soft_error: float
    log_probs_error: float | None = None
    broken: int = 0

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.entropy_error).all() and (self.kl is None or np.isfinite(self.kl).all()))


@dataclass
class TeacherForced:
    """All steps, and the noise of what crosses them: soft embeddings, and the keys and values of the prefix by layer."""

    steps: list[ForcedStep] = field(default_factory=list)
    soft: metrics.Noise = field(default_factory=metrics.Noise)
    worst_soft: float = metrics.CEILING_DB
    keys: dict[int, metrics.Noise] = field(default_factory=dict)
    values: dict[int, metrics.Noise] = field(default_factory=dict)
    prefixes: list[tuple[Place, float]] = field(default_factory=list)  # worst relative error of keys and values encoded there
    cap: float = 1.0  # of logits
    top_k: int | None = None  # experts of a row; None where there are none
    routing: dict[int, Routing] = field(default_factory=dict)  # by layer, where both give routers' scores

    def add_prefix(self, place: Place, reference: Sequence[tuple[Array, Array]], other: Sequence[tuple[Array, Array]]) -> None:
        """Compare keys and values [n, K, d] that both encoded before the step at `place`."""
        worst = 0.0
        for layer, pairs in enumerate(zip(reference, other, strict=True)):
            for noises, a, b in zip((self.keys, self.values), *pairs, strict=True):
                noises.setdefault(layer, metrics.Noise()).add(a, b)
                worst = float(np.maximum(worst, metrics.relative_error(a, b)))  # keeps NaN
        self.prefixes.append((place, worst))

    def add(self, place: Place, trajectory: Trajectory, steps: int, reference: StepOut, other: StepOut) -> None:
        """Compare one step of both; `steps` is T."""
        temperature = trajectory.temperature[place.row]
        same = other.argmax == reference.argmax
        kl: Array | None = None
        gaps, error = np.empty(0), None
        if reference.logits is not None:
            best = np.sort(np.partition(reference.logits[~same] / temperature, -2, axis=-1)[:, -2:], axis=-1)  # [flips, 2]
            gaps = best[:, 1] - best[:, 0]
        if reference.logits is not None and other.logits is not None:
            kl = metrics.kl_divergence(reference.logits / temperature, other.logits / temperature)
            error = metrics.range_error(reference.logits, other.logits)
        for layer in sorted(reference.routers.keys() & other.routers.keys()) if self.top_k else ():
            self.routing.setdefault(layer, Routing()).add(reference.routers[layer], other.routers[layer], self.top_k or 0)
        self.soft.add(reference.soft, other.soft)
        self.worst_soft = float(np.minimum(self.worst_soft, metrics.sqnr(reference.soft, other.soft)))
        self.steps.append(
            ForcedStep(
                place=place,
                index=steps - int(trajectory.step[place.row]) + 1,
                same=same,
                canvas=other.canvas == reference.canvas,
                jaccard=metrics.jaccard(other.accepted, reference.accepted),
                entropy_error=np.abs(other.entropy.astype(np.float64) - reference.entropy),
                kl=kl,
                gaps=gaps,
                logits_error=error,
                soft_error=metrics.relative_error(reference.soft, other.soft),
                log_probs_error=self._log_probs_error(float(temperature), reference, other),
                broken=broken(other),
            )
        )

    def _log_probs_error(self, temperature: float, reference: StepOut, other: StepOut) -> float | None:
        sides = (reference.likeliest, reference.log_probs, other.likeliest, other.log_probs)
        if any(side is None for side in sides):
            return None
        return float(metrics.candidates_error(*sides).max()) * temperature / (2 * self.cap)  # type: ignore[arg-type]

    def figures(self, without_logits: str | None) -> dict[str, Any]:
        """JSON types. Rates are shares, errors nats, SQNR dB; None is a value that is not finite or not known. `experts`, of
        mixtures alone, is by layer as `Routing.figures`."""
        same = np.concatenate([s.same for s in self.steps]) if self.steps else np.empty(0)
        gaps = np.concatenate([s.gaps for s in self.steps]) if self.steps else np.empty(0)
        keys, values = self.keys.values(), self.values.values()
        db = {
            "next_soft": self.soft.db,
            "next_soft_worst_step": self.worst_soft,
            "prefix_keys": _sum(keys).db,
            "prefix_values": _sum(values).db,
            "prefix_worst_layer": min([n.db for n in (*keys, *values)], default=np.nan),
        }
        return {
            "steps": len(self.steps),
            "not_finite": sum(not s.is_finite for s in self.steps) + sum(not np.isfinite(v) for v in db.values()),
            "same_argmax": metrics.finite(float(same.mean())) if same.size else None,
            "jaccard": metrics.finite(float(np.mean([s.jaccard for s in self.steps]))) if self.steps else None,
            "entropy_error": metrics.spread(_all(self.steps, "entropy_error")),
            "log_probs_error": metrics.finite(max(errors)) if (errors := self.log_probs_errors) else None,
            "kl": None if without_logits else metrics.spread(_all(self.steps, "kl")),
            "kl_missing": without_logits,
            "sqnr_db": {name: metrics.finite(value) for name, value in db.items()},
            "flips": {"count": int((same == 0).sum()), **margins(gaps, "argmax")},
            "by_step": [self._at(i) for i in sorted({s.index for s in self.steps})],
            **({"experts": {str(i): r.figures() for i, r in self.routing.items()} or None} if self.top_k else {}),
        }

    @property
    def log_probs_errors(self) -> list[float]:
        """Of the steps that have one."""
        return [s.log_probs_error for s in self.steps if s.log_probs_error is not None]

    def _at(self, index: int) -> dict[str, Any]:
        steps = [s for s in self.steps if s.index == index]
        rates = np.array([s.same.mean() for s in steps])
        return {
            "step": index,
            "canvases": len(steps),
            "same_argmax": float(rates.mean()),
            "same_argmax_p01": float(np.quantile(rates, 0.01)),
            "jaccard": float(np.mean([s.jaccard for s in steps])),
            "entropy_error": metrics.spread(_all(steps, "entropy_error")),
            "kl": metrics.spread(_all(steps, "kl")) if steps[0].kl is not None else None,
        }


def margins(values: Array, rule: Rule) -> dict[str, Any]:
    """How many margins of a rule are near-ties, how many close (near-ties too); median and largest, None for none."""
    known = bool(values.size)
    return {
        "near_ties": int((values <= NEAR[rule]).sum()),
        "close": int((values <= CLOSE[rule]).sum()),
        "median_margin": float(np.median(values)) if known else None,
        "largest_margin": float(values.max()) if known else None,
    }


def force(
    backends: Sequence[Backend],
    pairs: Sequence[Pair],
    guide: Backend,
    runs: Sequence[tuple[int, Trajectory]],
    progress: Progress,
) -> dict[Pair, TeacherForced]:
    """Walk along trajectories with all backends abreast.

    Args:
        pairs: which of the backends to compare, by name.
        guide: one of the backends, whose soft embeddings all are fed.
        runs: seed and trajectory of each; canvases come from it.
    """
    config = guide.config
    found = {pair: TeacherForced(top_k=config.top_k_experts, cap=config.final_logit_softcapping) for pair in pairs}
    for run, (seed, trajectory) in enumerate(progress(runs, "teacher-forced")):
        for backend in backends:
            backend.reset()
        pending, encoded = trajectory.prompt_ids.tolist(), 0
        soft = np.empty(0)
        for row, index in enumerate(trajectory.canvas_index.tolist()):
            place = Place(run=run, row=row)
            if row == 0 or index != trajectory.canvas_index[row - 1]:
                pending += [] if row == 0 else trajectory.argmax[row - 1].tolist()
                _extend(backends, found, place, pending, encoded)
                pending, encoded = [], encoded + len(pending)
                soft = np.zeros((trajectory.canvas_in.shape[1], guide.config.hidden_size), np.float32)
            words = words_of(trajectory, row, seed, guide.sampler)
            outs = {r.name: r.step(trajectory.canvas_in[row], soft, words, trajectory.temperature[row]) for r in backends}
            for (above, below), forced in found.items():
                forced.add(place, trajectory, guide.sampler.steps, outs[above], outs[below])
            soft = outs[guide.name].soft
    return found


def _extend(
    backends: Sequence[Backend], found: Mapping[Pair, TeacherForced], place: Place, ids: list[int], encoded: int
) -> None:
    for backend in backends:
        backend.extend(ids)
    new = {backend.name: backend.prefix(encoded) for backend in backends}
    for (above, below), forced in found.items():
        forced.add_prefix(place, new[above], new[below])


def broken(out: StepOut) -> int:
    """Positions where a step's own outputs contradict each other."""
    if out.drawn is None or out.likeliest is None or out.log_probs is None:
        return 0
    wrong = out.accepted & (out.drawn != out.canvas)
    wrong |= (out.likeliest[:, 0] != out.argmax) & (out.log_probs[:, 0] > out.log_probs[:, 1:2].max(-1, initial=-np.inf))
    wrong |= (np.diff(out.log_probs, axis=-1) > 0).any(-1) | ~(out.log_probs <= 1e-5).all(-1)
    return int(wrong.sum())


def _all(steps: Sequence[ForcedStep], name: str) -> Array:
    return np.concatenate([getattr(s, name) for s in steps]) if steps else np.empty(0)


def _sum(noises: Iterable[metrics.Noise]) -> metrics.Noise:
    total = metrics.Noise()
    for noise in noises:
        total.signal += noise.signal
        total.error += noise.error
    return total
