"""The bundle's golden trajectories, run again: the artifact must give every step of them, up to near-ties.

A difference counts as explained by a near-tie alone. Margins of argmax and sampled tokens need logits, which come from the
bundle's ONNX graph where that can be had, and are not known otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array
from dgemma.runtime.noise import canvas_noise
from dgemma.runtime.prefix import Prefix
from dgemma.runtime.session import Session
from dgemma.verify import golden
from dgemma.verify.gate import Check
from dgemma.verify.logits import LogitsEngine
from dgemma.verify.same_tokens import first_difference
from dgemma.verify.teacher import open_forced
from dgemma.verify.verdict import circumstances

Progress = Callable[[Sequence[Any], str], Iterable[Any]]


class OwnLogits:
    """Tempered logits of any row of the artifact's trajectories of one seed: the canvas replayed by its ONNX graph."""

    def __init__(self, engine: LogitsEngine, seed: int) -> None:
        self.engine, self.seed = engine, seed

    def __call__(self, trajectory: Trajectory, row: int) -> Array:
        """[N, V] float32."""
        manifest, canvas = self.engine.bundle.manifest, int(trajectory.canvas_index[row])
        prefix = Prefix(self.engine)
        prefix.extend(trajectory.prompt_ids.tolist())
        for before in range(canvas):
            prefix.extend(trajectory.argmax[trajectory.canvas_index == before][-1].tolist())
        prefix.encode(lambda: False)
        _, words = canvas_noise(self.seed, canvas, manifest.steps, manifest.canvas_length)
        soft = np.zeros((1, manifest.canvas_length, manifest.model.hidden_size), np.float32)
        outputs: dict[str, Array] = {}
        for i, r in enumerate(range(int(np.flatnonzero(trajectory.canvas_index == canvas)[0]), row + 1)):
            feeds = {
                **prefix.feeds("denoise"), "prefix_length": np.array([prefix.encoded], np.int64), "soft": soft,
                "canvas": np.ascontiguousarray(trajectory.canvas_in[r][None]), "words": words[i].astype(np.int64),
                "temperature": trajectory.temperature[r : r + 1],
            }  # fmt: skip
            outputs = self.engine.run("denoise", feeds)
            soft = outputs["next_soft"]
        return self.engine.tempered_logits(outputs, trajectory.temperature[row])


def replay(path: Path, engines: Sequence[str | None], threads: int | None, progress: Progress) -> tuple[str, dict[str, Any]]:
    """Replay on each engine.

    Args:
        engines: names; None is the one that a session would take.
        threads: None is one, as the golden trajectories were made on one.
    Returns:
        the manifest's digest, and engine → figures with the key `checks`.
    Raises:
        BundleError, EngineError.
    """
    found: dict[str, Any] = {}
    digest = ""
    for engine in engines:
        with Session.load(path, engine=engine, threads=1 if threads is None else threads) as session:
            runs, digest = golden.read(session.bundle), session.bundle.digest
            facts = circumstances(session.engine, session.engine_version)
            found[session.engine] = {**facts, **_replay(session, runs, progress)}
    return digest, found


def _replay(session: Session, runs: Sequence[tuple[int, Trajectory]], progress: Progress) -> dict[str, Any]:
    differences: list[dict[str, Any]] = []
    for i, (seed, wanted) in enumerate(progress(runs, f"golden replay, {session.engine}")):
        result = session.generate(wanted.prompt_ids.tolist(), max_new_tokens=golden.MAX_NEW_TOKENS, seed=seed, trace=True)
        assert result.trajectory is not None
        difference = first_difference(wanted, result.trajectory, session.manifest.sampler, seed=seed)
        if difference is not None and difference.margin is None and (logits := _own_logits(session.bundle, seed)):
            difference = first_difference(wanted, result.trajectory, session.manifest.sampler, seed=seed, logits=logits)
        if difference is not None:
            differences.append({"run": i, "seed": seed, **asdict(difference), "near_tie": difference.is_near_tie})
    unexplained = sum(d["near_tie"] is not True for d in differences)
    check = Check(name="golden differences that are no near-tie", value=unexplained, limit=0)
    return {
        "trajectories": len(runs),
        "steps": sum(len(t.step) for _, t in runs),
        "equal": len(runs) - len(differences),
        "differences": differences,
        "checks": [check.to_dict()],
        "passed": check.passed,
    }


def _own_logits(bundle: Bundle, seed: int) -> OwnLogits | None:
    if "onnx" not in bundle.manifest.graphs:
        return None
    engine, _ = open_forced(bundle, "onnx", 1)
    return OwnLogits(engine, seed) if isinstance(engine, LogitsEngine) else None
