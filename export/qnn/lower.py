"""From a model to contexts for Snapdragon NPUs: ranges, static graphs with shared weights, then a compiler per chip.

Contexts are compiled in child processes. It knows nothing of what runs them (`runtime/engines/qnn.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from dgemma.core.accelerators import CHIPS, name_of
from dgemma.core.errors import ExportError
from dgemma.core.manifest import StaticGraph, TargetSpec
from dgemma.core.memory import available
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.qnn import parts
from dgemma.export.qnn.checks import PACKAGE
from dgemma.export.qnn.compilers import Compilers
from dgemma.export.qnn.contexts import Context, Contexts
from dgemma.export.qnn.graph import IR_VERSION
from dgemma.export.qnn.kept import WORTH, Kept
from dgemma.export.request import ExportRequest, Weights
from dgemma.export.stages import QNN, Progress, Reached
from dgemma.export.static import range_prompts, recorded_ranges, table_of, write_constants

RANGES, GRAPHS, COMPILE = QNN["ranges"], QNN["graphs"], QNN["compile"]
FOLDER = "qnn"


def lower(
    request: ExportRequest, weights: Weights, stage: Path, progress: Progress, kept: Path | None = None
) -> dict[str, TargetSpec]:
    """Write graphs, contexts and constants below `stage`, whose `onnx` folder is written; returns targets by name. Contexts
    that take long are put into the folder `kept` too, and taken from there.

    Raises ExportError where the compiler refuses a graph, with its reason.
    """
    folder = stage / FOLDER
    folder.mkdir()
    model, config = weights.model, weights.model.config
    progress(Reached(RANGES))
    prompts = range_prompts(request)
    found = recorded_ranges(request, weights, prompts, RANGES, progress)
    progress(Reached(GRAPHS))
    contexts = Contexts(config=config, recipe=request.recipe, shapes=request.shapes)
    local = contexts.sizes.local
    with (folder / FILE).open("wb") as file:
        source = parts.Source(model=model, quantized=weights.quantized, ranges=found, weights=WeightFile(file))
        groups = []
        for i, context in enumerate(contexts.all):
            progress(Reached(GRAPHS, f"{i + 1} of {len(contexts.all)} contexts", i / len(contexts.all)))
            groups.append(list(written(source, context, local, folder)))
    write_constants(folder / "constants.npz", model)
    table = table_of(stage, weights)
    made_of = [metadata.version(PACKAGE), qairt(), *source.weights.places]
    shelf = Kept(kept, made_of) if kept is not None and contexts.seconds >= WORTH else None
    chips, targets = request.target.chips, {}
    for i, chip in enumerate(chips):
        compiler = Chip(name=chip, stage=stage, kept=shelf)
        graphs = compiler.compile(groups, contexts.at_once(available()), _counting(chip, contexts, i, len(chips), progress))
        targets[name_of(chip)] = TargetSpec(
            chip=chip,
            precision="a16" if weights.quantized else "fp16",
            versions={PACKAGE: metadata.version(PACKAGE), "qairt": qairt()},
            options=_options(chip),
            placement={
                "embeddings, rotations, masks": "cpu",
                "self-conditioning, layers, products of the head": "npu",
                "cap, sampler, soft embedding": "cpu",
            },
            local=local,
            constants=f"{FOLDER}/constants.npz",
            table=table,
            graphs=tuple(graphs),
        )
    return targets


def _options(chip: str) -> dict[str, str]:
    """Provider options of a chip's contexts, by the names of onnxruntime-qnn."""
    known = CHIPS[chip]
    return {"htp_arch": str(known.htp), "soc_model": str(known.soc), "enable_htp_fp16_precision": "1"}


def qairt() -> str:
    from onnxruntime_qnn.build_and_package_info import qnn_version

    return str(qnn_version)


def written(source: parts.Source, context: Context, local: int, folder: Path) -> Iterator[StaticGraph]:
    """The graphs of a context, written as they come."""
    for piece in context.pieces:
        span, rows = (piece.first, piece.last), piece.rows
        if piece.part == "layers":
            slots = piece.slots
            net = parts.layers(source, piece.name, span=span, rows=rows, slots=slots, local=min(slots, local))
        elif piece.part == "head":
            net = parts.head(source, piece.name, span=span, rows=rows)
        else:
            net = parts.condition(source, piece.name, rows=rows)
        path = folder / f"{piece.name}.onnx"
        path.write_bytes(net.model().SerializeToString(deterministic=True))
        yield StaticGraph(
            part=piece.part,  # type: ignore[arg-type]  # one of the literals
            first=piece.first, last=piece.last, rows=rows, slots=piece.slots, file="", binary="",
            source=f"{FOLDER}/{path.name}",
        )  # fmt: skip


def _counting(chip: str, contexts: Contexts, before: int, chips: int, progress: Progress) -> Callable[[int, int], None]:
    """Tells of every graph that a compiler finishes, and how much of the work on all chips is done."""
    done, count = 0.0, 0

    def said(context: int, graphs: int) -> None:
        nonlocal done, count
        count += 1
        done += contexts.all[context].pieces[graphs - 1].seconds
        progress(Reached(COMPILE, f"{chip} {count} of {contexts.graphs}", (before + done / contexts.seconds) / chips))

    return said


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Compiles contexts below `qnn/NAME`; `took` is that of `Compilers`."""

    name: str
    stage: Path
    kept: Kept | None
    took: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def compile(
        self, groups: Sequence[Sequence[StaticGraph]], at_once: int, said: Callable[[int, int], None]
    ) -> list[StaticGraph]:
        """Every group into one context, but those that were kept; returns the graphs with their files."""
        (self.stage / FOLDER / self.name).mkdir()
        jobs = {i: self._job(group) for i, group in enumerate(groups)}
        missing = {i: job for i, job in jobs.items() if self.kept is None or not self.kept.restore(job, self.stage)}
        for i in jobs.keys() - missing.keys():
            for graph in range(len(groups[i])):
                said(i, graph + 1)

        def ended(number: int) -> None:
            binaries = [self._binary(graph) for graph in groups[number]]
            if self.kept is not None:
                self.kept.keep(jobs[number], self.stage, binaries[0])

        compilers = Compilers(self.stage, said, ended)
        compilers.run(missing, at_once)
        self.took.update(compilers.took)
        place = f"{FOLDER}/{self.name}"
        return [
            replace(graph, file=f"{place}/{self._wrapper(graph).name}", binary=f"{place}/{self._binary(graph)}")
            for group in groups
            for graph in group
        ]

    def _wrapper(self, graph: StaticGraph) -> Path:
        return self.stage / FOLDER / self.name / Path(str(graph.source)).name

    def _job(self, group: Sequence[StaticGraph]) -> dict[str, Any]:
        pairs = [[graph.source, str(self._wrapper(graph).relative_to(self.stage))] for graph in group]
        return {"options": _options(self.name), "graphs": pairs}

    def _binary(self, graph: StaticGraph) -> str:
        """Name of a graph's context file, which is there; raises ExportError."""
        wrapper = self._wrapper(graph)
        binary = _finish(wrapper)
        if not (wrapper.parent / binary).is_file():
            raise ExportError(
                f"--target qnn:{self.name}: the compiler wrote no context for {wrapper.stem}; free disk space and memory"
            )
        return binary


def _finish(wrapper: Path) -> str:
    """Name of the context file that a wrapper refers to. onnxruntime writes wrappers in its newest version of ONNX (1.32: 14),
    which the older one for Android refuses (1.29: at most 13), so they get the version of their sources."""
    if not wrapper.is_file():
        return "missing"
    model = onnx.load(str(wrapper), load_external_data=False)
    before = model.SerializeToString(deterministic=True)
    model.ir_version = IR_VERSION
    domains = {node.domain for node in model.graph.node}
    used = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)
    if (after := model.SerializeToString(deterministic=True)) != before:  # a kept context's is as it should be
        wrapper.write_bytes(after)
    return next((a.s.decode() for n in model.graph.node for a in n.attribute if a.name == "ep_cache_context"), "missing")
