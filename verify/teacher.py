"""Teacher-forced comparison: each step of the artifact is fed what the float model's step read, and its outputs compared.

Only the prefix is the artifact's own, encoded by it from the same tokens. So errors of one step do not reach the next, and
every figure is about one call of `denoise`. N canvas, S prefix, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dgemma.core.errors import EngineError
from dgemma.core.noise import step_words
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose, open_engine
from dgemma.runtime.engines.base import Array, Engine, Feeds
from dgemma.runtime.prefix import Prefix
from dgemma.verify import metrics
from dgemma.verify.logits import LogitsEngine
from dgemma.verify.same_tokens import CLOSE, NEAR, Rule

if TYPE_CHECKING:
    from dgemma.verify.eager import Eager, Replayed

Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def open_forced(bundle: Bundle, engine: str | None, threads: int | None) -> tuple[Engine, str | None]:
    """The engine to force, with logits where they can be had; and why not, where they cannot. Raises EngineError."""
    name, version = choose(bundle, engine)
    if name != "onnx":
        return open_engine(bundle, name, threads), f"{name} graphs do not put out logits, and cannot be opened for them"
    try:
        return LogitsEngine(bundle, version=version, threads=threads), None
    except ModuleNotFoundError:
        return open_engine(bundle, name, threads), "logits need the onnx package; pip install 'dgemma[export]'"
    except EngineError as error:
        return open_engine(bundle, name, threads), str(error)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of both. Arrays [N]: argmax equal, errors of the entropy in nats, KL in nats or None without logits.

    Args:
        index: denoising steps run on this canvas, from 1.
        gaps: how far the float model's best two tempered logits are apart where the artifact chose another.
    """

    index: int
    same: Array
    jaccard: float
    entropy_error: Array
    kl: Array | None
    gaps: Array

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.entropy_error).all() and (self.kl is None or np.isfinite(self.kl).all()))


@dataclass
class Forced:
    """All steps, and the noise of what crosses them: soft embeddings, and the keys and values of the prefix by layer."""

    steps: list[Step] = field(default_factory=list)
    soft: metrics.Noise = field(default_factory=metrics.Noise)
    worst_soft: float = metrics.CEILING_DB
    keys: dict[int, metrics.Noise] = field(default_factory=dict)
    values: dict[int, metrics.Noise] = field(default_factory=dict)

    def figures(self, without_logits: str | None) -> dict[str, Any]:
        """JSON types. Rates are shares, errors nats, SQNR dB; None is a value that is not finite or not known."""
        same = np.concatenate([s.same for s in self.steps]) if self.steps else np.empty(0)
        gaps = np.concatenate([s.gaps for s in self.steps]) if self.steps else np.empty(0)
        keys, values = self.keys.values(), self.values.values()
        db = {
            "next_soft": self.soft.db, "next_soft_worst_step": self.worst_soft, "prefix_keys": _sum(keys).db,
            "prefix_values": _sum(values).db, "prefix_worst_layer": min([n.db for n in (*keys, *values)], default=np.nan),
        }  # fmt: skip
        return {
            "steps": len(self.steps),
            "not_finite": sum(not s.is_finite for s in self.steps) + sum(not np.isfinite(v) for v in db.values()),
            "same_argmax": metrics.finite(float(same.mean())) if same.size else None,
            "jaccard": metrics.finite(float(np.mean([s.jaccard for s in self.steps]))) if self.steps else None,
            "entropy_error": metrics.spread(_all(self.steps, "entropy_error")),
            "kl": None if without_logits else metrics.spread(_all(self.steps, "kl")),
            "kl_missing": without_logits,
            "sqnr_db": {name: metrics.finite(value) for name, value in db.items()},
            "flips": {"count": int((same == 0).sum()), **margins(gaps, "argmax")},
            "by_step": [self._at(i) for i in sorted({s.index for s in self.steps})],
        }

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


def compare(engine: Engine, eager: Eager, trajectories: Sequence[Trajectory], seed: int, progress: Progress) -> Forced:
    """Force every step of the float model's trajectories, all made with one seed, upon the artifact."""
    forced = Forced()
    for trajectory in progress(trajectories, "teacher-forced"):
        prefix = Prefix(engine)
        for step in eager.replay(trajectory):
            if len(prefix.ids) != len(step.ids):
                _encode(prefix, step, forced)
            outputs = engine.run("denoise", _feeds(engine, prefix, trajectory, step, seed))
            _add(forced, engine, trajectory, step, outputs)
    return forced


def _encode(prefix: Prefix, step: Replayed, forced: Forced) -> None:
    """Encode what the artifact's prefix lacks, and compare these keys and values with the float model's."""
    start = prefix.encoded
    prefix.extend(step.ids[start:])
    prefix.encode(lambda: False)
    views = prefix.feeds("denoise")
    for layer, pair in enumerate(step.prefix or []):
        for kind, noises, tensor in (("key", forced.keys, pair[0]), ("value", forced.values, pair[1])):
            mine = views[f"prefix_{kind}_{layer}"][:, start : prefix.encoded]
            noises.setdefault(layer, metrics.Noise()).add(tensor[:, start:].float().numpy(), mine)


def _feeds(engine: Engine, prefix: Prefix, trajectory: Trajectory, step: Replayed, seed: int) -> Feeds:
    row, n = step.row, trajectory.canvas_in.shape[1]
    run = engine.bundle.manifest.steps - int(trajectory.step[row]) + 1
    words = step_words(seed, int(trajectory.canvas_index[row]), run, n).astype(np.int64)
    return {
        **prefix.feeds("denoise"),
        "prefix_length": np.array([prefix.encoded], np.int64),
        "canvas": np.ascontiguousarray(trajectory.canvas_in[row][None]),
        "soft": np.ascontiguousarray(step.soft.float().numpy()),
        "words": words,
        "temperature": trajectory.temperature[row : row + 1].astype(np.float32),
    }


def _add(forced: Forced, engine: Engine, trajectory: Trajectory, step: Replayed, outputs: Feeds) -> None:
    row, tempered = step.row, step.tempered[0].float().numpy()  # [N, V]
    same = outputs["argmax"][0] == trajectory.argmax[row]
    best = np.sort(np.partition(tempered[~same], -2, axis=-1)[:, -2:], axis=-1)  # [flips, 2]
    kl: Array | None = None
    if isinstance(engine, LogitsEngine):
        kl = metrics.kl_divergence(tempered, engine.tempered_logits(outputs, trajectory.temperature[row]))
    forced.steps.append(
        Step(
            index=engine.bundle.manifest.steps - int(trajectory.step[row]) + 1,
            same=same,
            jaccard=metrics.jaccard(outputs["accepted"][0], trajectory.accepted[row]),
            entropy_error=np.abs(outputs["entropy"][0].astype(np.float64) - trajectory.entropy[row]),
            kl=kl,
            gaps=best[:, 1] - best[:, 0],
        )
    )
    soft = step.next_soft.float().numpy()
    forced.soft.add(soft, outputs["next_soft"])
    forced.worst_soft = float(np.minimum(forced.worst_soft, metrics.sqnr(soft, outputs["next_soft"])))


def _all(steps: Sequence[Step], name: str) -> Array:
    return np.concatenate([getattr(s, name) for s in steps]) if steps else np.empty(0)


def _sum(noises: Iterable[metrics.Noise]) -> metrics.Noise:
    total = metrics.Noise()
    for noise in noises:
        total.signal += noise.signal
        total.error += noise.error
    return total
