"""One run: the bundle and its peers in turns (A B A B …), one process at a time; a result in JSON types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from dgemma.benchmarks.bench import reliability
from dgemma.benchmarks.stats import quartiles
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.benchmarks.studies.peers.catalogue import OURS, PeersRequest, peers
from dgemma.benchmarks.studies.peers.peer import Peer, Sample
from dgemma.core import machine
from dgemma.core.errors import EngineError, UsageError
from dgemma.core.memory import available
from dgemma.runtime import memory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose

Json = dict[str, Any]
FIGURES = ("step", "token", "prefill")


@dataclass
class Turns:
    """A peer's samples by round, and why it stopped."""

    peer: Peer
    samples: dict[int, Sample] = field(default_factory=dict)
    why: str | None = None


def measure(request: PeersRequest, stage: Callable[[str], None]) -> Json:
    """Run everything; `stage` gets what is being done.

    Raises:
        BundleError, EngineError, UsageError: what concerns the bundle or an option. A peer that fails is left out.
    """
    stage("checking the bundle")
    bundle = Bundle.open(request.bundle)
    manifest = bundle.manifest
    engine, _ = choose(bundle, request.engine)
    memory.check(manifest, engine, request.bundle)
    if request.prefix + manifest.canvas_length > manifest.context:
        most = manifest.context - manifest.canvas_length
        raise UsageError(f"--prefix {request.prefix}: with a canvas it fills more than the context; give at most {most}")
    load, before = machine.load_average(), reliability.calibrate()
    facts = machine.facts()
    with TemporaryDirectory(prefix="dgemma-peers-") as folder:
        every = [Turns(one, why=one.missing) for one in peers(request, manifest, engine, Path(folder))]
        take_turns(every, request.rounds, stage)
    after = reliability.calibrate()
    runs = summarize(every)
    figures = {f"{run['peer']}, {name}": run[f"{name}_ms"] for run in runs for name in FIGURES}
    spreads = {name: reliability.spread(found) for name, found in figures.items() if found}
    return {
        "benchmark": "peers",
        "machine": facts,
        "bundle": bundle_facts(bundle),
        "options": {
            "engine": engine,
            "threads": request.threads,
            "prefix": request.prefix,
            "rounds": request.rounds,
            "repeats": request.repeats,
            "limit_s": request.limit_s,
            "peers": list(request.peers),
        },
        "runs": runs,
        "left_out": [{"peer": turns.peer.name, "why": turns.why} for turns in every if turns.why],
        "noise": {
            "calibration_before_s": before,
            "calibration_after_s": after,
            "load_average": load,
            "warnings": reliability.warnings(before, after, load, machine.usable_cores(), spreads),
        },
    }


def take_turns(every: Sequence[Turns], rounds: int, stage: Callable[[str], None]) -> None:
    """Each peer that still runs, in order, again and again. Raises EngineError when the bundle itself fails."""
    for number in range(rounds):
        for turns in every:
            if turns.why:
                continue
            stage(f"round {number + 1} of {rounds}: {turns.peer.name}")
            try:
                if reason := short_of_memory(turns.peer):
                    raise EngineError(reason)
                turns.samples[number] = turns.peer.measure()
            except EngineError as error:
                if turns.peer.name == OURS:
                    raise EngineError(f"the bundle's own process failed: {error}") from None
                turns.why = str(error) if not turns.samples else f"in round {number + 1}: {error}"
                stage(f"{turns.peer.name} left out: {turns.why}")


def short_of_memory(peer: Peer) -> str | None:
    free = available()
    if free is None or peer.need <= free:
        return None
    return f"it needs about {peer.need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB is free; close other programs"


def summarize(every: Sequence[Turns]) -> list[Json]:
    """A row for each peer that ran: figures in ms with quartiles, tokens/s, and time over the bundle's in the same round.

    A prefill is compared with the bundle's step. Bundles are first.
    """
    ours = every[0].samples
    return [_row(turns.peer, turns.samples, ours) for turns in every if turns.samples]


def _row(peer: Peer, samples: dict[int, Sample], ours: dict[int, Sample]) -> Json:
    figures: Json = {}
    for name in FIGURES:
        seconds = [s for sample in samples.values() for s in getattr(sample, f"{name}_s")]
        figures[f"{name}_ms"] = asdict(quartiles([1e3 * s for s in seconds])) if seconds else None
        if name == "token":
            figures["tokens_per_s"] = asdict(quartiles([1 / s for s in seconds])) if seconds else None
        against = "token_s" if name == "token" else "step_s"
        ratios = [
            median(getattr(sample, f"{name}_s")) / median(getattr(ours[number], against))
            for number, sample in samples.items()
            if getattr(sample, f"{name}_s")
        ]
        figures[f"{name}_over_ours"] = asdict(quartiles(ratios)) if ratios else None
    first = next(iter(samples.values()))
    return {
        "peer": peer.name,
        "weights": peer.weights,
        "bits": peer.bits,
        "version": first.version,
        "rounds": len(samples),
        **figures,
        "compile_s": first.compile_s,
        "note": peer.note,
    }
