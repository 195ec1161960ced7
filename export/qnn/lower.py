"""From a model to contexts for Snapdragon NPUs: ranges, static graphs with shared weights, then a compiler per chip.

Contexts are compiled in child processes. It knows nothing of what runs them (`runtime/engines/qnn.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import onnx

from dgemma.core.accelerators import CHIPS, QNN, name_of
from dgemma.core.errors import ExportError
from dgemma.core.manifest import StaticGraph, TargetSpec
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.qnn import parts
from dgemma.export.qnn.checks import PACKAGE
from dgemma.export.qnn.graph import IR_VERSION, StaticNet
from dgemma.export.request import ExportRequest, Weights
from dgemma.export.spans import split
from dgemma.export.stages import Progress, Reached
from dgemma.export.static import Sizes, range_prompts, recorded_ranges, table_of, tiles, write_constants

RANGES, GRAPHS, COMPILE = "qnn: ranges", "qnn: graphs", "qnn: compile"
FOLDER = "qnn"


def lower(request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> dict[str, TargetSpec]:
    """Write graphs, contexts and constants below `stage`, whose `onnx` folder is written; returns targets by name.

    Raises ExportError where the compiler refuses a graph, with its reason.
    """
    folder = stage / FOLDER
    folder.mkdir()
    model, config = weights.model, weights.model.config
    progress(Reached(RANGES))
    prompts = range_prompts(request)
    found = recorded_ranges(request, weights, prompts, RANGES, progress)
    progress(Reached(GRAPHS))
    sizes = Sizes.of(request.shapes, config.sliding_window)
    with (folder / FILE).open("wb") as file:
        source = parts.Source(model=model, quantized=weights.quantized, ranges=found, weights=WeightFile(file))
        groups = [list(group) for group in _written(source, request, sizes, folder)]
    write_constants(folder / "constants.npz", model)
    table = table_of(stage, weights)
    targets = {}
    for chip in request.target.chips:
        graphs = _compile(stage, chip, groups, progress)
        targets[name_of(chip)] = TargetSpec(
            chip=chip,
            precision="a16" if weights.quantized else "fp16",
            versions={PACKAGE: metadata.version(PACKAGE), "qairt": _qairt()},
            options=_options(chip),
            placement={
                "embeddings, rotations, masks": "cpu",
                "self-conditioning, layers, products of the head": "npu",
                "cap, sampler, soft embedding": "cpu",
            },
            local=sizes.local,
            constants=f"{FOLDER}/constants.npz",
            table=table,
            graphs=tuple(graphs),
        )
    return targets


def _options(chip: str) -> dict[str, str]:
    """Provider options of a chip's contexts, by the names of onnxruntime-qnn."""
    known = CHIPS[chip]
    return {"htp_arch": str(known.htp), "soc_model": str(known.soc), "enable_htp_fp16_precision": "1"}


def _qairt() -> str:
    from onnxruntime_qnn.build_and_package_info import qnn_version

    return str(qnn_version)


def _written(source: parts.Source, request: ExportRequest, sizes: Sizes, folder: Path) -> Iterator[Iterator[StaticGraph]]:
    """Groups of graphs that share a context and its weights: self-conditioning with the first layers; others; the head."""
    spans = split(source.config, request.recipe, QNN)

    def of_layers(span: tuple[int, int]) -> Iterator[StaticGraph]:
        if span[0] == 0:
            for rows in (r for r in sizes.rows if r <= request.shapes.canvas):
                yield write("condition", (0, 0), rows, 0, partial(parts.condition, source, rows=rows))
        for rows in sizes.rows:
            for slots in sizes.slots:
                local = min(slots, sizes.local)
                make = partial(parts.layers, source, span=span, rows=rows, slots=slots, local=local)
                yield write("layers", span, rows, slots, make)

    def of_head() -> Iterator[StaticGraph]:
        for tile in tiles(source.config.vocab_size):
            for rows in sizes.rows:
                yield write("head", tile, rows, 0, partial(parts.head, source, span=tile, rows=rows))

    def write(part: str, span: tuple[int, int], rows: int, slots: int, make: Callable[[str], StaticNet]) -> StaticGraph:
        name = "-".join([part, *map(str, span), f"{rows}x{slots}" if slots else str(rows)])
        path = folder / f"{name}.onnx"
        model = make(name).model()
        path.write_bytes(model.SerializeToString(deterministic=True))
        return StaticGraph(
            part=part,  # type: ignore[arg-type]  # one of the literals
            first=span[0], last=span[1], rows=rows, slots=slots, file="", binary="", source=f"{FOLDER}/{path.name}",
        )  # fmt: skip

    for span in spans:
        yield of_layers(span)
    yield of_head()


def _compile(stage: Path, chip: str, groups: Sequence[Sequence[StaticGraph]], progress: Progress) -> list[StaticGraph]:
    """Compile every group into one context below `qnn/CHIP`; returns the graphs with their files."""
    folder = stage / FOLDER / chip
    folder.mkdir()
    total, done, found = sum(map(len, groups)), 0, []
    for group in groups:
        sources = [str(graph.source) for graph in group]
        wrappers = [folder / Path(source).name for source in sources]
        pairs = [[source, str(wrapper.relative_to(stage))] for source, wrapper in zip(sources, wrappers, strict=True)]
        for _ in _child({"options": _options(chip), "graphs": pairs}, stage):
            done += 1
            progress(Reached(COMPILE, f"{chip} {done} of {total}", done / total))
        for graph, wrapper in zip(group, wrappers, strict=True):
            binary = _finish(wrapper)
            if not (folder / binary).is_file():
                raise ExportError(
                    f"--target qnn:{chip}: the compiler wrote no context for {wrapper.stem}; free disk space and memory"
                )
            relative = f"{FOLDER}/{chip}/"
            found.append(replace(graph, file=relative + wrapper.name, binary=relative + binary))
    return found


def _finish(wrapper: Path) -> str:
    """Name of the context file that a wrapper refers to. onnxruntime writes wrappers in its newest version of ONNX (1.32: 14),
    which the older one for Android refuses (1.29: at most 13), so they get the version of their sources."""
    if not wrapper.is_file():
        return "missing"
    model = onnx.load(str(wrapper), load_external_data=False)
    model.ir_version = IR_VERSION
    domains = {node.domain for node in model.graph.node}
    used = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)
    wrapper.write_bytes(model.SerializeToString(deterministic=True))
    return next((a.s.decode() for n in model.graph.node for a in n.attribute if a.name == "ep_cache_context"), "missing")


def _child(job: dict[str, object], folder: Path) -> Iterator[str]:
    """Run `compile.py` on a job in a folder, which the job's names are relative to: contexts hold a hash of the names. Yields a
    line for each graph that is done; raises ExportError with the compiler's last words."""
    path, log = folder / "job.json", folder / "log.txt"
    path.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-P", str(Path(__file__).with_name("compile.py").resolve()), path.name]
    count = 0
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("done "):
                    count += 1
                    yield line.strip()
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
    words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    path.unlink()
    log.unlink()
    graphs = job["graphs"]
    assert isinstance(graphs, list)
    if process.returncode != 0 or count != len(graphs):
        reason = words[-1][:300] if words else f"it ended with status {process.returncode}"
        name = Path(graphs[min(count, len(graphs) - 1)][0]).name
        raise ExportError(
            f"--target qnn: the NPU's compiler refused {name}: {reason}; use another recipe, or leave --target out"
        )
