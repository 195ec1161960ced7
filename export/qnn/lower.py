"""From a model to contexts for Snapdragon NPUs: ranges, static graphs with shared weights, then a compiler per chip.

Contexts are compiled in child processes. It knows nothing of what runs them (`runtime/engines/qnn.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from dgemma.core.accelerators import CHIPS, name_of
from dgemma.core.errors import ExportError
from dgemma.core.manifest import StaticGraph, TableSpec, TargetSpec
from dgemma.core.roles import TRIMS
from dgemma.export.graphs import Shapes
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.qnn import parts
from dgemma.export.qnn.checks import PACKAGE, split
from dgemma.export.qnn.graph import Array, StaticNet
from dgemma.export.request import ExportRequest, Text, Weights
from dgemma.export.stages import Progress, Reached
from dgemma.quantize.calibration import read_prompts
from dgemma.quantize.ranges import ranges

RANGES, GRAPHS, COMPILE = "qnn: ranges", "qnn: graphs", "qnn: compile"
FOLDER = "qnn"
HEAD_TILE = 16_384  # ids whose products with 256 rows are 16 MB: what a host holds at a time
FEWEST_SLOTS = 128
# Asked of checkpoints with a chat template where no calibration prompts are given, for the ranges of activations.
PROMPTS = (
    "Reverse the word table.",
    "Write 4271 in words.",
    "Invite each of Anna Ben Carla to the party in the garden on Monday at 5.",
    "Explain in two sentences why the sky is blue, and give an example in Python.",
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes that graphs are compiled for: rows, lengths of prefixes, and the most slots of a sliding layer's."""

    rows: tuple[int, ...]
    slots: tuple[int, ...]
    local: int

    @classmethod
    def of(cls, shapes: Shapes, window: int) -> Sizes:
        """One row (decoding), a quarter of the canvas (its active positions), the canvas and the chunk; prefixes double in
        length, so that at most half of one is filling."""
        lengths = [FEWEST_SLOTS]
        while lengths[-1] < shapes.context:
            lengths.append(2 * lengths[-1])
        slots = tuple(dict.fromkeys(min(length, shapes.context) for length in lengths))
        rows = sorted({1, max(1, shapes.canvas // 4), shapes.canvas, shapes.chunk})
        # W−1 tokens, canvas positions behind them, and what rounding to steps of the runtime's 64 slots adds at both ends
        local = -(-(window - 1 + shapes.canvas + 126) // 64) * 64
        return cls(rows=tuple(rows), slots=slots, local=min(local, shapes.context))


def lower(request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> dict[str, TargetSpec]:
    """Write graphs, contexts and constants below `stage`, whose `onnx` folder is written; returns targets by name.

    Raises ExportError where the compiler refuses a graph, with its reason.
    """
    folder = stage / FOLDER
    folder.mkdir()
    model, config = weights.model, weights.model.config
    progress(Reached(RANGES))
    prompts = range_prompts(request)
    found = ranges(
        model,
        request.sampler,
        prompts,
        weights.quantized,
        progress=lambda line: progress(Reached(RANGES, line.partition(" ")[2])),
    )
    progress(Reached(GRAPHS))
    sizes = Sizes.of(request.shapes, config.sliding_window)
    with (folder / FILE).open("wb") as file:
        source = parts.Source(model=model, quantized=weights.quantized, ranges=found, weights=WeightFile(file))
        groups = [list(group) for group in _written(source, request, sizes, folder)]
    _write_constants(folder / "constants.npz", source)
    table = _table(stage, weights)
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


def range_prompts(request: ExportRequest) -> list[list[int]]:
    """Ids that ranges are recorded for: of the calibration file, else our texts, else spread over the vocabulary."""
    if request.calibration is not None:
        return read_prompts(request.calibration, request.config.vocab_size)
    text, vocab = request.text, request.config.vocab_size
    room = request.shapes.context - request.shapes.canvas
    if text is None or text.chat is None:
        return [[(7919 * (i + 1) * (j + 1)) % vocab for j in range(min(24, room))] for i in range(4)]
    return [ids for line in PROMPTS if len(ids := _chat_ids(text, line)) <= room] or [[request.config.bos_token_id]]


def _chat_ids(text: Text, line: str) -> list[int]:
    """A user's turn, near enough to the runtime's (spaces at its ends may differ) for a range."""
    chat = text.chat
    assert chat is not None
    content = chat.user_lead + TRIMS[chat.trim](line) + chat.user_tail
    return [*chat.start, *chat.user_prefix, *text.tokenizer.encode(content), *chat.user_suffix, *chat.model_prefix]


def _written(source: parts.Source, request: ExportRequest, sizes: Sizes, folder: Path) -> Iterator[Iterator[StaticGraph]]:
    """Groups of graphs that share a context and its weights: self-conditioning with the first layers; others; the head."""
    config, vocab = source.config, source.config.vocab_size
    tiles = [(first, min(first + HEAD_TILE, vocab)) for first in range(0, vocab, HEAD_TILE)]
    spans = split(config, request.recipe)

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
        for tile in tiles:
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


def _write_constants(path: Path, source: parts.Source) -> None:
    """What graphs take as inputs and the host keeps; see `runtime/engines/accelerator_host.py`."""
    model = source.model

    def floats(*tensors: Tensor) -> Array:
        return np.concatenate([t.detach().float().numpy().reshape(-1) for t in tensors])

    arrays = {
        "encode_scalars": floats(*[layer.encode_scalar for layer in model.layers]),  # type: ignore[arg-type]
        "denoise_scalars": floats(*[layer.denoise_scalar for layer in model.layers]),  # type: ignore[arg-type]
        "sliding_frequencies": floats(model.sliding_frequencies),  # type: ignore[arg-type]
        "full_frequencies": floats(model.full_frequencies),  # type: ignore[arg-type]
        "embed_scale": np.array([model.embed_scale], np.float32),
    }
    np.savez(path, allow_pickle=False, **arrays)


def _table(stage: Path, weights: Weights) -> TableSpec:
    """Where the ONNX graphs for processors have the table, so that it is in the bundle once."""
    model = onnx.load(str(stage / "onnx" / "shared.onnx"), load_external_data=False)
    places: dict[str, Mapping[str, str]] = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer
    }
    stem, quantized = "model.embed_tokens.", "embed_tokens.weight" in weights.quantized
    rows, scales = (f"{stem}table.integers", f"{stem}table.scale") if quantized else (f"{stem}weight", None)
    try:
        place = places[rows]
        return TableSpec(
            file=f"onnx/{place['location']}",
            dtype="int8" if quantized else "float32",
            offset=int(place["offset"]),
            scales=None if scales is None else int(places[scales]["offset"]),
        )
    except KeyError:
        raise ExportError("the vocabulary is too small for a table of its own file region, which --target qnn needs") from None


def _compile(stage: Path, chip: str, groups: Sequence[Sequence[StaticGraph]], progress: Progress) -> list[StaticGraph]:
    """Compile every group into one context below `qnn/CHIP`; returns the graphs with their files."""
    folder = stage / FOLDER / chip
    folder.mkdir()
    total, done, found = sum(map(len, groups)), 0, []
    for group in groups:
        wrappers = [folder / Path(graph.source).name for graph in group]
        pairs = [[g.source, str(wrapper.relative_to(stage))] for g, wrapper in zip(group, wrappers, strict=True)]
        for _ in _child({"options": _options(chip), "graphs": pairs}, stage):
            done += 1
            progress(Reached(COMPILE, f"{chip} {done} of {total}", done / total))
        for graph, wrapper in zip(group, wrappers, strict=True):
            binary = _binary_of(wrapper)
            if not (folder / binary).is_file():
                raise ExportError(
                    f"--target qnn:{chip}: the compiler wrote no context for {wrapper.stem}; free disk space and memory"
                )
            relative = f"{FOLDER}/{chip}/"
            found.append(replace(graph, file=relative + wrapper.name, binary=relative + binary))
    return found


def _binary_of(wrapper: Path) -> str:
    """Name of the context file that a wrapper refers to."""
    if not wrapper.is_file():
        return "missing"
    nodes = onnx.load(str(wrapper), load_external_data=False).graph.node
    return next((a.s.decode() for n in nodes for a in n.attribute if a.name == "ep_cache_context"), "missing")


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
