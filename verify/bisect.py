"""From a step that is wrong to the first tensor that is: two backends are walked to it abreast, with all their taps.

A backend without taps of its own (ExecuTorch) is bisected by what it has: keys and values of every layer of the prefix, and the
outputs of a step. Generations that part although every forced step agrees part in the loop around the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dgemma.core.trajectory import Trajectory
from dgemma.verify.backend import Array, Backend, StepOut, ids_before, tap_order, words_of
from dgemma.verify.divergence import Divergence
from dgemma.verify.metrics import relative_error
from dgemma.verify.routing import changed_margins
from dgemma.verify.tolerance import Tolerance

Found = tuple[str, float, str | None]  # name, error, and the cause where it is known better than by the name

# What a wrong tensor most likely comes from, where every tensor before it is right.
_CAUSES = {
    "embedded": "the embedding table or its scale",
    "conditioned": "self-conditioning",
    "attention_in": "input_layernorm",
    "q": "q_proj, q_norm or rope",
    "k": "k_proj, k_norm or rope",
    "v": "v_proj or v_norm",
    "attention_out": "the mask, the prefix or o_proj",
    "mlp_in": "post_attention_layernorm or pre_feedforward_layernorm",
    "router": "the router's norm, scale or projection",
    "mlp_out": "the MLP, or in a mixture its experts",
    "out": "post_feedforward_layernorm or the layer scalar",
    "hidden": "the last norm",
    "logits": "the head or its softcap",
    "entropy": "the sampler's temperature or entropy",
    "argmax": "the sampler's argmax",
    "accepted": "the sampler's acceptance",
    "canvas": "the sampler's draw or renoising",
    "soft": "the soft embedding",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Where two backends part.

    Args:
        run: number of the golden prompt; `canvas`, and `step` remaining; `row` counts all steps of the run.
        phase: encode (the prefix), denoise (a forced step), or loop (between the steps).
        tensor: tap, output or rule that is the first to differ.
        error: of it, in the tolerance's measure; None where there is none.
        cause: what that points at, in words.
    """

    run: int
    canvas: int
    step: int
    row: int
    phase: str
    tensor: str
    error: float | None
    cause: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        error = "" if self.error is None else f", error {self.error:.3g}"
        return f"{self.tensor} ({self.phase}) is the first to differ: {self.cause}{error}"


def forced_fault(
    above: Backend, below: Backend, guide: Backend, trajectory: Trajectory, seed: int, run: int, row: int, tolerance: Tolerance
) -> Fault | None:
    """The first tensor that differs on the way to a row of a trajectory; None when none of those that can be read does."""
    canvas = int(trajectory.canvas_index[row])
    where = {"run": run, "canvas": canvas, "step": int(trajectory.step[row]), "row": row}
    backends = [above.tapped(), below.tapped()]
    try:
        found = _encode_fault(backends, ids_before(trajectory, canvas), tolerance)
        phase = "encode"
        if found is None:
            found, phase = _step_fault(backends, guide, trajectory, seed, row, tolerance), "denoise"
    finally:
        for backend, plain in zip(backends, (above, below), strict=True):
            if backend is not plain:
                backend.close()
    if found is None:
        return None
    tensor, error, cause = found
    return Fault(**where, phase=phase, tensor=tensor, error=error, cause=cause or _CAUSES[tensor.rpartition(".")[2]])


def loop_fault(a: Trajectory, b: Trajectory, run: int, difference: Divergence, tolerance: Tolerance) -> Fault:
    """Why two generations part although their forced steps agree."""
    row = difference.row
    tensor: str = difference.rule if difference.rule != "host" else "canvas_in"
    error = difference.margin
    cause = {"stop": "the stop rule", "host": "the noise or the bookkeeping of canvases"}.get(
        difference.rule, "what is carried from step to step, or the noise of the step"
    )
    if row < min(len(a.step), len(b.step)) and a.temperature[row] != b.temperature[row]:
        tensor, cause, error = "temperature", "the temperature of the step", float(abs(a.temperature[row] - b.temperature[row]))
    elif difference.entropy_error > tolerance.entropy and difference.rule not in ("stop", "host"):
        first = row == 0 or a.canvas_index[row] != a.canvas_index[row - 1]
        tensor, error = "entropy", difference.entropy_error
        cause = "the temperature of the step" if first else "the temperature or the self-conditioning carried into the step"
    return Fault(
        run=run, canvas=difference.canvas, step=difference.step, row=row, phase="loop", tensor=tensor, error=error, cause=cause
    )


def _encode_fault(backends: Sequence[Backend], ids: Sequence[int], tolerance: Tolerance) -> Found | None:
    """Both encode the same tokens in the same chunks."""
    chunk = min(backend.chunk for backend in backends)
    for backend in backends:
        backend.reset()
    for start in range(0, len(ids), chunk):
        taps = [backend.extend(ids[start : start + chunk], taps=True) for backend in backends]
        if found := _first(backends[0], taps[0], taps[1], tolerance, without=("logits", "conditioned")):
            return found
    return None


def _step_fault(
    backends: Sequence[Backend], guide: Backend, trajectory: Trajectory, seed: int, row: int, tolerance: Tolerance
) -> Found | None:
    """Both run one step on the guide's soft embedding, from their own prefixes."""
    canvas_in, temperature = trajectory.canvas_in[row], trajectory.temperature[row]
    soft = _soft_before(guide, trajectory, row)
    words = words_of(trajectory, row, seed, guide.sampler)
    a, b = (backend.step(canvas_in, soft, words, temperature, taps=True) for backend in backends)
    logits = {name: {**out.taps} | ({} if out.logits is None else {"logits": out.logits}) for name, out in (("a", a), ("b", b))}
    return _first(backends[0], logits["a"], logits["b"], tolerance) or _outputs(a, b, tolerance)


def _soft_before(guide: Backend, trajectory: Trajectory, row: int) -> Array:
    """What the row's step is fed: the guide's soft embedding of the step before. Afterwards its prefix is the same again."""
    canvas = int(trajectory.canvas_index[row])
    soft = np.zeros((trajectory.canvas_in.shape[1], guide.config.hidden_size), np.float32)
    first = int(np.flatnonzero(trajectory.canvas_index == canvas)[0])
    if row == first:
        return soft
    for _, out in guide.replay(trajectory, canvas, row - 1):
        soft = out.soft
    return soft


def _first(
    backend: Backend, a: Mapping[str, Array], b: Mapping[str, Array], tolerance: Tolerance, without: Sequence[str] = ()
) -> Found | None:
    """Where the scores of a router agree and its choice does not, the choice is named, not the output that it changed."""
    for name in tap_order(backend.config):
        if name in a and name in b and name not in without:
            error = relative_error(a[name], b[name])
            if not error <= tolerance.tensors:  # NaN differs
                return _other_experts(name, backend.config.top_k_experts, a, b) or (name, error, None)
    return None


def _other_experts(name: str, count: int | None, a: Mapping[str, Array], b: Mapping[str, Array]) -> Found | None:
    """The choice of experts, where it differs in the layer of an output."""
    stem, _, last = name.rpartition(".")
    router = f"{stem}.router"
    if last != "mlp_out" or count is None or not (router in a and router in b):
        return None
    margins = changed_margins(a[router], b[router], count)
    if not margins.size:
        return None
    where = f"other experts at {margins.size} of {len(a[router])} positions, margins up to {margins.max():.3g} nats"
    return router, relative_error(a[router], b[router]), where


def _outputs(a: StepOut, b: StepOut, tolerance: Tolerance) -> Found | None:
    """Entropy, soft embedding, then what is decided from them."""
    entropy = float(np.abs(a.entropy.astype(np.float64) - b.entropy).max())
    if not entropy <= tolerance.entropy:
        return "entropy", entropy, None
    soft = relative_error(a.soft, b.soft)
    if not soft <= tolerance.tensors:
        return "soft", soft, None
    for name in ("argmax", "accepted", "canvas"):
        share = float((getattr(a, name) != getattr(b, name)).mean())
        if share > 0:
            return name, share, None
    return None
