"""Wiring the head: tiles of the vocabulary one after the other, then the sampler on their results.

A tile's product waits until the tile before has been used up, so that only one tile's logits are held; otherwise an engine
might multiply all tiles first. It knows the names of the pieces' values (`head_pieces.py`), not what they compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from dgemma.core.sampler import SamplerConfig
from dgemma.export.head import BEFORE, PART, stored, tiles
from dgemma.export.onnx.wiring import Wiring
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.read_onnx import WEIGHT

Nodes = list[onnx.NodeProto]
_TABLE = f"{WEIGHT}embed_tokens."


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of one graph.

    Args:
        hidden: D, the width of a row.
        weight, scale: initializers of the table and, where it has them, of its ids' scales.
        axis: of the table's ids.
        is_exact: whether the soft embedding is.
    """

    wiring: Wiring
    vocab_size: int
    hidden: int
    weight: str
    scale: str | None
    axis: int
    is_exact: bool

    @classmethod
    def of(cls, wiring: Wiring, model: Denoiser, policy: SamplerConfig) -> Head:
        table = stored(model)
        return cls(
            wiring=wiring,
            vocab_size=model.config.vocab_size,
            hidden=model.config.hidden_size,
            weight=_TABLE + table.names[0],
            scale=_TABLE + table.names[1] if table.names[1] else None,
            axis=0 if table.upright else 1,
            is_exact=policy.top_k is None,
        )

    def walk(self, rows: str, argmax: str, is_canvas: str | None = None) -> Nodes:
        """All tiles: `rows` [1, R, D] → `argmax` [1, R] and values `head/…`; `is_canvas` says whether a soft embedding is
        wanted, None for always."""
        node, wiring, spans = helper.make_node, self.wiring, tiles(self.vocab_size)
        wiring.constant("head/before", np.full((1, 1, 1), BEFORE, np.float32))
        for name, number in (("0", 0), ("1", 1), ("2", 2)):
            wiring.constant(f"head/{name}", np.array([number]))
        nodes = wiring.piece("read", {"rows": rows}, {"read": "head/read_0", "inverse": "head/inverse"})
        total, before = rows, "head/before"
        for i, (start, end) in enumerate(spans):
            kind = "last_tile" if i == len(spans) - 1 else "tile"
            own = {name: f"head/{name}_{i}" for name in _TILE}
            for name, number in (("first", start), ("end", end)):
                wiring.constant(own[name], np.array([number]))
            if i:
                nodes += [
                    node("Equal", [f"head/done_{i - 1}", f"head/done_{i - 1}"], [f"head/turn_{i}"]),
                    node("Where", [f"head/turn_{i}", "head/read_0", "head/read_0"], [own["read"]]),
                ]
            nodes.append(node("Slice", [self.weight, own["first"], own["end"], f"head/{self.axis}"], [own["weight"]]))
            if self.scale:
                nodes.append(node("Slice", [self.scale, own["first"], own["end"], "head/0"], [own["scale"]]))
            given = {name: own[name] for name in ("read", "weight", "first")}
            given |= {"inverse": "head/inverse", "before": before, "temperature": "temperature"}
            given["scale"] = own["scale"] if self.scale else "head/inverse"
            taken = {"done": own["tile_done"] if self.is_exact else own["done"]}
            kept = {name: own[name] for name in ("unit", "weights", "maximum", "parts", "sums", "moment", "best", "ids")}
            nodes += wiring.piece(kind, given, kept | taken, f"tile_{i}")
            if self.is_exact:
                nodes += self._absorb(kind, i, total, before, own, is_canvas)
                total = own["total"]
            before = own["maximum"]
        joined = {"maxima": "maximum", "tile_sums": "sums", "moments": "moment", "best": "best", "ids": "ids"}
        for name, one in (*joined.items(), ("parts", "parts")):
            nodes.append(node("Concat", [f"head/{one}_{i}" for i in range(len(spans))], [f"head/{name}"], axis=2))
        nodes.append(node("Identity", [before], ["head/maximum"]))
        outputs = {name: f"head/{name}" for name in ("entropy", "sums", "total", "likeliest", "log_probs", "probabilities")}
        if self.is_exact:
            nodes.append(node("Identity", [total], ["head/weighted"]))
        return nodes + wiring.piece("combine", {name: f"head/{name}" for name in joined}, {"argmax": argmax, **outputs})

    def _absorb(self, kind: str, i: int, total: str, before: str, own: Mapping[str, str], is_canvas: str | None) -> Nodes:
        """The tile's share of the soft embedding, left out where there is no canvas: it costs as much as the table is long."""
        node = helper.make_node
        given = {"total": total, "before": before, "weights": own["weights"], "maximum": own["maximum"], "first": own["first"]}
        absorbed = own["total"] if is_canvas is None else f"absorb_{i}/out"
        nodes = self.wiring.piece(f"absorb_{kind}", given, {"absorbed": absorbed}, f"absorb_{i}")
        if is_canvas is not None:
            then = helper.make_graph(nodes, f"absorb_{i}", [], [_real(absorbed)])
            passed = [node("Identity", [total], [f"absorb_{i}/passed"])]
            other = helper.make_graph(passed, f"pass_{i}", [], [_real(f"absorb_{i}/passed")])
            nodes = [node("If", [is_canvas], [own["total"]], then_branch=then, else_branch=other)]
        return [
            *nodes,
            node("Slice", [own["total"], "head/0", "head/1", "head/2"], [f"head/absorbed_{i}"]),
            node("Add", [f"head/absorbed_{i}", own["tile_done"]], [own["done"]]),
        ]

    def decide(self, outputs: Mapping[str, str]) -> Nodes:
        """What a step decides, after `walk`, by the names of `denoise`'s outputs but for the argmax; those of the candidates
        may be left out."""
        node, wiring = helper.make_node, self.wiring
        entropy = {"entropy": "head/entropy"}
        drawn = {"block": "head/block", "before": "head/before_block", "target": "head/target"}
        accepted = {"accepted": outputs["accepted"]}
        nodes = wiring.piece("draw", {"words": "words", "sums": "head/sums", **entropy}, {**accepted, **drawn})
        part = {"first": "head/first", "before_part": "head/before_part"}
        nodes += wiring.piece("part", {"parts": "head/parts", "maxima": "head/maxima", **drawn}, part)
        if len(tiles(self.vocab_size)) == 1:
            given = {"tile_weights": "head/weights_0", "first": part["first"]}
            nodes += wiring.piece("pick", given, {"weights": "head/in_part"})
        else:
            nodes += self._positions(part["first"])
            given = {"products": "head/products", "temperature": "temperature", "maximum": "head/maximum"}
            nodes += wiring.piece("weigh", given, {"weights": "head/in_part"})
        given = {"weights": "head/in_part", "words": "words", "target": drawn["target"], **part, **accepted}
        chosen = {"next_canvas": outputs["next_canvas"], "drawn": outputs.get("drawn", "head/drawn")}
        nodes += wiring.piece("choose", given, chosen)
        soft = {"next_soft": outputs["next_soft"]}
        if self.is_exact:
            nodes += wiring.piece("soft", {"weighted": "head/weighted", "total": "head/total"}, soft)
        elif len(tiles(self.vocab_size)) == 1:
            nodes += wiring.piece("mean", {name: f"head/{name}" for name in ("likeliest", "probabilities")}, soft)
        else:
            nodes.append(node("Unsqueeze", ["head/soft", "head/0"], [outputs["next_soft"]]))
        walked = [name for name in ("entropy", "likeliest", "log_probs") if name in outputs]
        return [*nodes, *(node("Identity", [f"head/{name}"], [outputs[name]]) for name in walked)]

    def _positions(self, first: str) -> Nodes:
        """What each position looks up, one after the other: all rows at once, made float, would take as much memory as all
        else together, and more time. Scan asks for the shapes of its results, which are not inferred behind an operator of our
        own."""
        node = helper.make_node
        scanned = {"read": "head/read_0", "inverse": "head/inverse", "first": first}
        if not self.is_exact:
            scanned |= {"likeliest": "head/likeliest", "probabilities": "head/probabilities"}
        kinds = {"read": TensorProto.UINT8 if self.scale else TensorProto.FLOAT}
        kinds |= dict.fromkeys(("first", "likeliest"), TensorProto.INT64)
        results = {"products": PART} if self.is_exact else {"products": PART, "soft": self.hidden}
        inner = self.wiring.piece(
            "position", {name: f"position/{name}" for name in scanned}, {name: f"position/{name}" for name in results}
        )
        body = helper.make_graph(
            inner,
            "position",
            [helper.make_tensor_value_info(f"position/{name}", kinds.get(name, TensorProto.FLOAT), None) for name in scanned],
            [helper.make_tensor_value_info(f"position/{name}", TensorProto.FLOAT, [size]) for name, size in results.items()],
        )
        each = [f"head/each_{name}" for name in scanned]
        return [
            *(node("Squeeze", [source, "head/0"], [f"head/each_{name}"]) for name, source in scanned.items()),
            node("Scan", each, [f"head/{name}" for name in results], body=body, num_scan_inputs=len(each)),
        ]


_TILE = (
    "read", "weight", "scale", "first", "end", "unit", "weights", "maximum", "parts", "sums", "moment", "best", "ids",
    "tile_done", "done", "total",
)  # fmt: skip


def _real(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
