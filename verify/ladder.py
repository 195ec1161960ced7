"""The ladder: a bundle's golden prompts on every backend that is there, each compared with the ones above.

Backends from the top: the JAX reference in bfloat16 as on TPU, the reference in float32, eager torch, for a quantized bundle
torch on the bundle's own integers, ONNX Runtime, ExecuTorch, and for a bundle with an NPU's graphs these, on the processor and
in the emulator. Each generates on its own; then all walk abreast along the
trajectories of one of them, the guide, step by step on the same inputs. A backend is judged against the nearest one above that
passed, so that one fault is found once; the rounded reference at the top against the guide. Backends that are missing are
named with the reason. Last come generations under options drawn at random (`options.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dgemma.core.engines import ENGINES
from dgemma.core.errors import EngineError
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.verify import bisect, golden, options, outcome, teacher_forced, tolerance
from dgemma.verify.backend import Backend
from dgemma.verify.backends import BFLOAT16, backends_of
from dgemma.verify.comparison import Comparison, Generated, divergence_of
from dgemma.verify.divergence import NEAR
from dgemma.verify.engine_backend import EngineBackend
from dgemma.verify.gate import Check
from dgemma.verify.tolerance import Tolerance

DRAWS = 4  # generations with options beside the golden prompts: they add 15 % to the ladder's time on tiny
Progress = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One golden prompt: its ids, its seed, the most tokens to answer with, and what was recorded of it."""

    ids: list[int]
    seed: int
    most: int
    recorded: Trajectory


def climb(
    path: Path,
    checkpoint: str | None,
    engines: Sequence[str],
    threads: int | None,
    progress: Progress,
    draws: int | None = None,
) -> tuple[str, dict[str, Any]]:
    """Run the ladder.

    Args:
        checkpoint: the float model's folder, or preset of random weights; None leaves the backends above the engines out.
        engines: names, in the order of the ladder.
        threads: None is one, as the golden trajectories were made on one.
        draws: generations under options drawn at random; None is `DRAWS`, and none of a large model.
    Returns:
        the manifest's digest; and backend → facts, `against`, figures, `checks`, `passed`, `backends_missing` (backend → why).
    Raises:
        DgemmaError: the bundle, its golden trajectories or the checkpoint cannot be used.
    """
    bundle = Bundle.open(path)
    asked = [
        Asked(ids=ids, seed=seed, most=golden.room_for(bundle.manifest, ids), recorded=t)
        for seed, t in golden.read(bundle)
        for ids in [t.prompt_ids.tolist()]
    ]
    with ExitStack() as stack:
        backends, tolerances, missing = backends_of(bundle, checkpoint, engines, 1 if threads is None else threads)
        if not backends:
            raise EngineError(f"{path}: no backend can be run: {'; '.join(f'{k}: {v}' for k, v in missing.items())}")
        for backend in backends:
            stack.callback(backend.close)
        recorder = next(name for name in ENGINES if name in bundle.manifest.graphs)
        found = compare_backends(backends, tolerances, asked, recorder, progress)
        if draws is None:
            draws = 0 if golden.is_large(bundle.manifest) else DRAWS
        steered = options.draw_all(draws, bundle.manifest, backends, [(one.seed, one.most, one.recorded) for one in asked])
        for name, figures in (options.compare(backends, tolerances, steered, progress) if steered else {}).items():
            found[name]["options"] = figures
            found[name]["checks"] += figures["checks"]
            found[name]["passed"] &= all(check["passed"] for check in figures["checks"])
    for values in found.values():
        values["backends_missing"] = missing
    return bundle.digest, found


def _generate(backend: Backend, asked: Sequence[Asked], progress: Progress) -> Generated:
    made, fused = [], []
    for one in progress(asked, f"generations, {backend.name}"):
        made.append(backend.trajectory(one.ids, one.seed, one.most))
        if isinstance(backend, EngineBackend) and backend.fused:
            fused.append(backend.trajectory(one.ids, one.seed, one.most, loop="graph"))
    backend.release()
    return Generated(runs=made, fused=fused or None)


def compare_backends(
    backends: Sequence[Backend], tolerances: Sequence[Tolerance], asked: Sequence[Asked], recorder: str, progress: Progress
) -> dict[str, Any]:
    """Generate on every backend, force all of them, and judge each.

    Args:
        tolerances: of each backend against the one above it.
        asked: the golden prompts; `recorder` names the engine that recorded them.
    Returns:
        backend → figures, as `climb` gives them.
    """
    started = time.monotonic()
    generated = {backend.name: _generate(backend, asked, progress) for backend in backends}
    guide = next((r for r in backends if r.name != BFLOAT16), backends[0])  # what it is fed, all are; so it must not be rounded
    seeds = [one.seed for one in asked]
    pairs = [(above.name, below.name) for i, below in enumerate(backends) for above in backends[:i]]
    along = list(zip(seeds, generated[guide.name].runs, strict=True))
    forced = teacher_forced.force(backends, pairs, guide, along, progress) if pairs else {}

    def compare(i: int, j: int) -> Comparison:
        """Backend j against backend i, which is above it."""
        above, below = backends[i], backends[j]
        between = tolerance.widest(*tolerances[i + 1 : j + 1])
        found = Comparison(above=above, below=below, tolerance=between, forced=forced[above.name, below.name])
        a, b = generated[above.name], generated[below.name]
        found.steps_ratio = b.steps / a.steps
        for run, (x, y) in enumerate(zip(a.runs, b.runs, strict=True)):
            if difference := divergence_of(above, x, y, seeds[run]):
                found.differences.append((run, difference))
        return found

    base = list(backends).index(guide)
    passed = [base]
    result: dict[str, Any] = {}
    for j, backend in enumerate(backends):
        own = _own(backend, recorder, tolerances[j], asked, generated)
        checks = [Check(**{k: c[k] for k in ("name", "value", "limit")}) for c in own["checks"]]
        entry: dict[str, Any] = {
            **outcome.circumstances(*_library(backend)),
            "golden_runs": len(asked),
            "steps": generated[backend.name].steps,
            **own,
            "against": None,
            "follows": None,
        }
        if j != base:
            compared = compare(passed[-1], j) if j > base else compare(j, base)
            other = compared.above if j > base else compared.below
            mine = compared.checks()
            entry |= {"against": other.name, "nearest": {"name": other.name, **compared.figures()}}
            if 0 < base < j:
                entry["top"] = {"name": backends[0].name, **compare(0, j).figures()}
            if not all(c.passed for c in mine):
                found = compared.fault(guide, seeds, generated)
                entry["fault"] = found.to_dict() | {"text": str(found)} if found else None
                if j - 1 > passed[-1] and all(c.passed for c in compare(j - 1, j).checks()):
                    entry["follows"] = backends[j - 1].name
            checks = mine + checks
        entry |= {"checks": [c.to_dict() for c in checks], "passed": all(c.passed for c in checks)}
        if entry["passed"] and j > base:
            passed.append(j)
        result[backend.name] = entry
    result[backends[-1].name]["seconds"] = round(time.monotonic() - started, 1)
    return result


def _own(
    backend: Backend, recorder: str, limit: Tolerance, asked: Sequence[Asked], generated: dict[str, Generated]
) -> dict[str, Any]:
    """An engine's fused loop against its host loop, and the one that recorded the golden trajectories against these."""
    mine = generated[backend.name]
    if mine.fused is None:
        return {"checks": [], "fault": None}
    parts = [("fused", "fused generations that diverge without a near-tie", mine.runs, mine.fused, NEAR)]
    if backend.name == recorder:
        recorded = [one.recorded for one in asked]
        parts.insert(0, ("recorded", "golden differences that are not near-ties", recorded, mine.runs, limit.margins or NEAR))
    fault: dict[str, Any] | None = None
    figures: dict[str, Any] = {}
    checks = []
    for name, label, reference, other, limits in parts:
        pairs = enumerate(zip(reference, other, strict=True))
        found = [(i, d) for i, (x, y) in pairs if (d := divergence_of(backend, x, y, asked[i].seed))]
        beyond = [(i, d) for i, d in found if d.within(limits) is not True]
        figures[name] = {
            "equal": len(asked) - len(found),
            "differences": [{"run": i, **asdict(d), "limit": limits[d.rule], "allowed": d.within(limits)} for i, d in found],
        }
        checks.append(Check(name=label, value=len(beyond), limit=0).to_dict())
        if beyond and fault is None:
            run, difference = beyond[0]
            part = bisect.loop_fault(reference[run], other[run], run, difference, tolerance.SAME_FLOAT)
            fault = part.to_dict() | {"text": f"{name}: {part}"}
    return {**figures, "checks": checks, "fault": fault}


def _library(backend: Backend) -> tuple[str, str]:
    """The library that runs a backend, and its version."""
    name = next(iter(backend.facts), "numpy")
    return name, str(backend.facts.get(name, "unknown"))
