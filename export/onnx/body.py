"""Wiring the pieces: one graph that encodes, decodes and denoises, and the plain denoising step from which loops are made.

The shared graph has the inputs of all graphs except the loop. Inputs that a caller leaves out have defaults; a canvas that is
not empty makes it a denoising step. So one session, with one packed copy of each weight, serves all of them. It knows the names
of the graphs' tensors, and nothing of what the pieces compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from dgemma.core.manifest import TensorSpec
from dgemma.export.onnx.head import Head
from dgemma.export.onnx.wiring import Wiring, value_info

Shape = tuple[int | str, ...]
SAMPLED = ("next_canvas", "entropy", "accepted", "next_soft", "drawn", "likeliest", "log_probs")  # beside the argmax


def _kv(specs: Sequence[TensorSpec], stem: str) -> list[str]:
    return [s.name for s in specs if s.name.startswith((f"{stem}_key", f"{stem}_value"))]


def denoising_step(wiring: Wiring, head: Head, specs: Sequence[TensorSpec]) -> list[onnx.NodeProto]:
    """`denoise` as plain nodes, its bound an input as well; specs are the others."""
    prefix = {name: name for name in _kv(specs, "prefix")}
    rows = next(s for s in specs if s.name == "canvas").shape[1]
    wiring.constant("always", np.array([True]))
    wiring.constant("positions", np.arange(int(rows))[None])
    wiring.constant("settled", np.array([[False]]))
    given, steered = ("words", "argmax", "entropy", "drawn", "temperature", "bound"), ("next_canvas", "accepted")
    return [
        *wiring.piece("embed", {"ids": "canvas"}, {"embedded": "embedded"}),
        *wiring.piece("condition", {"embedded": "embedded", "soft": "soft"}, {"conditioned": "conditioned"}),
        *wiring.piece(
            "stack",
            {
                "x": "conditioned",
                "length": "prefix_length",
                "is_canvas": "always",
                "positions": "positions",
                "settled": "settled",
                **prefix,
            },
            {"hidden": "hidden"},
        ),
        *head.walk("hidden", "argmax"),
        *head.decide({name: name for name in ("entropy", "next_soft", "drawn")} | {n: f"own_{n}" for n in steered}),
        *wiring.piece("steer", {name: name for name in given}, {name: name for name in steered}),
    ]


def _branch(name: str, nodes: list[onnx.NodeProto], outputs: list[tuple[str, str, Shape]]) -> onnx.GraphProto:
    """A branch of an `If`: outputs by name, dtype and shape."""
    made = [value_info(TensorSpec(name=n, dtype=dtype, shape=shape)) for n, dtype, shape in outputs]
    return helper.make_graph(nodes, name, [], made)


def _positions(ids: str, out: str) -> list[onnx.NodeProto]:
    """Where each row is behind the length: as given, or one after the other where a caller leaves positions out."""
    node, shape = helper.make_node, (1, "M")
    given = _branch("given", [node("Identity", ["positions"], ["given_rows"])], [("given_rows", "int64", shape)])
    consecutive = _branch(
        "consecutive",
        [node("Range", ["first", "row_count", "step"], ["range"]), node("Unsqueeze", ["range", "zero"], ["range_rows"])],
        [("range_rows", "int64", shape)],
    )
    return [
        node("Size", [ids], ["row_count"]),
        node("Size", ["positions"], ["positions_given"]),
        node("Greater", ["positions_given", "first"], ["has_positions"]),
        node("If", ["has_positions"], [out], then_branch=given, else_branch=consecutive),
    ]


def _wanted(hidden: str, out: str) -> list[onnx.NodeProto]:
    """The rows that the head is for: a whole canvas, or those given of tokens, where row 0 is the last of `count`: `check`
    leaves the count at 1, and `decode` the rows at [0]."""
    node = helper.make_node
    return [
        node("Size", ["rows"], ["rows_given"]),
        node("Max", ["canvas_size", "rows_given"], ["columns"]),
        node("Range", ["first", "columns", "step"], ["column"]),
        node("Where", ["is_canvas", "column", "rows"], ["row_behind"]),
        node("Sub", ["count", "one"], ["last"]),
        node("Add", ["row_behind", "last"], ["row"]),
        node("Gather", [hidden, "row"], [out], axis=1),
    ]


def shared(
    wiring: Wiring, head: Head, specs: Mapping[str, tuple[Sequence[TensorSpec], Sequence[TensorSpec]]]
) -> onnx.GraphProto:
    """One graph for all but the loop. `specs` maps their names to inputs and outputs."""
    (chunk, new), (canvas, sampled), (_, decoded) = specs["encode"], specs["denoise"], specs["decode"]
    chosen, checked = ([s for s in side if s.name in ("rows", "next_tokens")] for side in specs["check"])
    active = [s for s in specs["denoise_active"][0] if s.name in ("positions", "settled")]
    guided, seen = ([s for s in side if s.name in ("guidance", "negative", "hidden")] for side in specs["denoise_guided"])
    hidden = int(next(s for s in canvas if s.name == "soft").shape[-1])
    of_rows = {s.name: replace(s, shape=(1, "R", *s.shape[2:])) for s in sampled}
    conditioned = _conditioned(wiring, hidden)
    walked = head.walk("guided", "argmax", is_canvas="is_canvas")
    decided = _decided(wiring, head, of_rows, hidden)
    for name, number in (("zero", 0), ("one", 1)):
        wiring.constant(name, np.array([number]))
    wiring.constant("first", np.array(0))
    wiring.constant("step", np.array(1))
    node = helper.make_node
    stack = {name: name for name in ("x", "length", "settled", *_kv(chunk, "prefix"))}
    stack |= {"is_canvas": "is_canvas_row", "positions": "row_positions"}
    nodes = [
        node("Concat", ["tokens", "canvas"], ["ids"], axis=1),
        node("Add", ["start", "prefix_length"], ["length"]),
        node("Size", ["canvas"], ["canvas_size"]),
        node("Greater", ["canvas_size", "first"], ["is_canvas"]),
        node("Reshape", ["is_canvas", "one"], ["is_canvas_row"]),
        *_positions("ids", "row_positions"),
        *wiring.piece("embed", {"ids": "ids"}, {"embedded": "embedded"}),
        conditioned,
        *wiring.piece("stack", stack, {"hidden": "hidden", **{name: name for name in _kv(new, "new")}}),
        *_wanted("hidden", "wanted"),
        node("Sub", ["wanted", "negative"], ["apart"]),
        node("Mul", ["guidance", "apart"], ["pushed"]),
        node("Add", ["negative", "pushed"], ["guided"]),
        *walked,
        decided,
        node("Slice", ["argmax", "zero", "one", "one"], ["first_argmax"]),
        node("Reshape", ["first_argmax", "one"], ["next_token"]),
        node("Identity", ["argmax"], ["next_tokens"]),
    ]
    for name, default in _defaults(hidden).items():
        wiring.constant(name, default)
    opened: dict[str, Shape] = {  # letters of their own, for defaults are of other sizes than what a caller gives
        "canvas": (1, "A"),
        "positions": (1, "P"),
        "settled": (1, "E"),
        "soft": (1, "A", hidden),
        "words": (2, "W"),
        "rows": ("L",),
        "negative": (1, "G", hidden),
        "hidden": (1, "M", hidden),
    }
    opened |= {s.name: s.shape for s in of_rows.values()} | {s.name: (1, "M", *s.shape[2:]) for s in new}

    def infos(listed: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
        unique = {s.name: replace(s, shape=opened.get(s.name, s.shape)) for s in listed}
        return [value_info(s) for s in unique.values()]

    return helper.make_graph(
        [*wiring.expansions, *nodes],
        "shared",
        infos([*chunk, *chosen, *canvas, *active, *guided]),
        infos([*sampled, *decoded, *checked, *seen]),
        list(wiring.initializers.values()),
    )


def _conditioned(wiring: Wiring, hidden: int) -> onnx.NodeProto:
    """The rows that enter the layers: of a canvas with self-conditioning, of tokens as they were embedded."""
    rows = (1, "M", hidden)
    canvas = _branch(
        "condition_canvas",
        wiring.piece("condition", {"embedded": "embedded", "soft": "soft"}, {"conditioned": "canvas_x"}),
        [("canvas_x", "float32", rows)],
    )
    identity = helper.make_node("Identity", ["embedded"], ["token_x"])
    tokens = _branch("plain_tokens", [identity], [("token_x", "float32", rows)])
    return helper.make_node("If", ["is_canvas"], ["x"], then_branch=canvas, else_branch=tokens)


def _decided(wiring: Wiring, head: Head, of_rows: Mapping[str, TensorSpec], hidden: int) -> onnx.NodeProto:
    """What only a canvas has beside the argmax: the outputs of sampling. For tokens they are empty."""
    listed = [of_rows[name] for name in SAMPLED]
    sample = _branch(
        "sample_canvas",
        head.decide({name: f"canvas_{name}" for name in SAMPLED}),
        [(f"canvas_{s.name}", s.dtype, s.shape) for s in listed],
    )
    for name, dtype, shape in (("ids", np.int64, (1, 0)), ("reals", np.float32, (1, 0)), ("flags", np.bool_, (1, 0))):
        wiring.constant(f"no_{name}", np.zeros(shape, dtype))
    candidates = of_rows["likeliest"].shape[-1]
    assert isinstance(candidates, int)
    wiring.constant("no_rows", np.zeros((1, 0, hidden), np.float32))
    wiring.constant("no_likeliest", np.zeros((1, 0, candidates), np.int64))
    wiring.constant("no_log_probs", np.zeros((1, 0, candidates), np.float32))
    nothing = {"next_canvas": "no_ids", "entropy": "no_reals", "accepted": "no_flags", "next_soft": "no_rows"}
    nothing |= {"drawn": "no_ids", "likeliest": "no_likeliest", "log_probs": "no_log_probs"}
    greedy = _branch(
        "greedy",
        [helper.make_node("Identity", [source], [f"token_{name}"]) for name, source in nothing.items()],
        [(f"token_{s.name}", s.dtype, s.shape) for s in listed],
    )
    return helper.make_node("If", ["is_canvas"], list(SAMPLED), then_branch=sample, else_branch=greedy)


def _defaults(hidden: int) -> dict[str, npt.NDArray[Any]]:
    """What an input is when its caller leaves it out: no tokens, no canvas, one row for the head."""
    return {
        "tokens": np.zeros((1, 0), np.int64),
        "start": np.zeros(1, np.int64),
        "count": np.ones(1, np.int64),
        "rows": np.zeros(1, np.int64),
        "canvas": np.zeros((1, 0), np.int64),
        "positions": np.zeros((1, 0), np.int64),
        "settled": np.zeros((1, 1), np.bool_),
        "soft": np.zeros((1, 0, hidden), np.float32),
        "words": np.zeros((2, 1), np.int64),
        "temperature": np.ones(1, np.float32),
        "guidance": np.ones(1, np.float32),
        "negative": np.zeros((1, 1, hidden), np.float32),  # 0 + 1 · (x − 0) is x to the bit
        "prefix_length": np.zeros(1, np.int64),
    }
