"""All graphs of a mixture of experts, float and quantized, on both engines, against its naive twin: eager PyTorch, which
computes every expert. The case has experts without rows, rows that all go to the same experts, and ties; see `mixture.py`.

Quantized, both have the same integers, but a last bit before activations are rounded moves some of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import micro
import mixture
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dgemma.export import graphs
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.model.taps import collecting
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.quantize.integers import quantize
from dgemma.quantize.recipes import find
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine
from dgemma.runtime.session import Session
from dgemma.verify import ladder
from dgemma.verify.metrics import candidates_error, relative_error
from dgemma.verify.routing import chosen

# ExecuTorch takes 80 s of one core to lower.
CASES = ["onnx fp32", "onnx w8", *(pytest.param(f"executorch {r}", marks=pytest.mark.slow) for r in ("fp32", "w8"))]
LIMITS = {"fp32": 1e-4, "w8": 0.1}  # relative error of floats, and share of other ids where there are integers
LENGTH, SLOTS = 21, 64
GRAPHS: dict[str, Callable[[Denoiser], nn.Module]] = {
    "encode": graphs.Encode,
    "decode": graphs.Decode,
    "check": graphs.Check,
    "denoise": lambda model: graphs.Denoise(model, micro.POLICY),
    "denoise_active": lambda model: graphs.DenoiseActive(model, micro.POLICY),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    engine: Any
    recipe: str
    name: str

    def twin(self) -> Denoiser:
        """A fresh one."""
        model = checkpoint.load(mixture.folder()).model
        return model if self.recipe == "fp32" else fake_quantize(model, quantize(model, find(self.recipe)))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    name, recipe = request.param.split()
    opened = open_engine(Bundle.open(mixture.bundle(name, recipe)), name, 1)
    yield Case(engine=opened, recipe=recipe, name=name)
    opened.close()


def arguments(graph: str, rows: int) -> list[Tensor]:
    """Inputs in the graph's order, but for the prefix; `rows` tokens, or active positions."""
    canvas, words = micro.noise(3)
    soft = torch.randn(1, micro.N, mixture.CONFIG.hidden_size, generator=torch.Generator().manual_seed(5))
    start, temperature = torch.tensor([LENGTH]), torch.tensor([0.7])
    if graph == "denoise":
        return [canvas, soft, words[0], temperature, start]
    if graph == "denoise_active":
        at = torch.arange(rows) * 2
        settled = ~torch.isin(torch.arange(micro.N), at)
        return [canvas[:, at], at[None], soft[:, at], words[0][:, at], temperature, start, settled[None]]
    last = torch.arange(rows) if graph == "check" else torch.tensor([rows])
    return [torch.tensor([micro.prompt(rows)]), start, last]


def difference(case: Case, graph: str, twin: Denoiser, rows: int = 7) -> float:
    """Largest relative error of floats against the twin, or the largest share of ids that are others."""
    prefix = graphs.flatten(micro.prefix(twin, LENGTH, SLOTS))
    given = arguments(graph, rows)
    shapes = graphs.Shapes(canvas=micro.N, chunk=SLOTS, context=micro.CONTEXT)
    names = [spec.name for spec in graphs.specs(mixture.CONFIG, shapes, micro.POLICY)[graph][0]]
    feeds = {name: np.ascontiguousarray(t.numpy()) for name, t in zip(names, [*given, *prefix], strict=True)}
    with torch.no_grad():
        wanted = GRAPHS[graph](twin)(*given, prefix)
    worst = 0.0
    outputs = case.engine.run(graph, feeds)
    by_name = dict(zip(outputs, wanted, strict=True))
    if "likeliest" in by_name:
        sides = [side.pop(name) for side in (by_name, outputs) for name in ("likeliest", "log_probs")]
        worst = float(candidates_error(*map(np.asarray, sides)).max()) / float(-sides[1].min())
        del by_name["drawn"]  # of flat distributions, which other integers move
    for name, expected in by_name.items():
        found = outputs[name]
        if expected.dtype == torch.float32:
            worst = max(worst, relative_error(expected.numpy(), found))
        else:
            worst = max(worst, float((found != expected.numpy()).mean()))
    return worst


def test_the_case_is_what_it_says() -> None:
    """Scores of the routers, in both modes."""
    model, count = checkpoint.load(mixture.folder()).model, mixture.CONFIG.top_k_experts or 0
    found: dict[str, list[Tensor]] = {}

    def keep(name: str, x: Tensor) -> Tensor:
        found.setdefault(name, []).append(x[0])
        return x

    with torch.no_grad(), collecting(keep):
        prefix = micro.prefix(model, LENGTH, SLOTS)
        for graph in ("encode", "denoise"):
            GRAPHS[graph](model)(*arguments(graph, 7), graphs.flatten(prefix))
    first, second = (torch.cat(found[f"layers.{i}.router"]).numpy() for i in (0, 1))
    assert set(zip(*np.nonzero(chosen(first, count)), strict=True)) == {(i, e) for i in range(len(first)) for e in mixture.ALL}
    picked = chosen(second, count)
    assert not picked[:, mixture.NOBODY].any()
    np.testing.assert_allclose(*(second[:, twin] for twin in mixture.TWINS), atol=1e-5)  # sums of one row differ by place
    tied = picked[:, mixture.TWINS[0]] != picked[:, mixture.TWINS[1]]
    assert tied.any() and picked[:, mixture.TWINS].all(1).any() and not tied.all()


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_give_what_the_twin_gives(case: Case, graph: str) -> None:
    for rows in (1, 7):
        assert difference(case, graph, case.twin(), rows) < LIMITS[case.recipe]


def shifted(twin: Denoiser) -> None:
    """Every row's experts are their neighbours."""
    for layer in twin.layers:
        plain = layer.experts.forward
        layer.experts.forward = lambda x, weights, ids, plain=plain: plain(x, weights, (ids + 1) % 6)  # type: ignore[method-assign]


def equal_weights(twin: Denoiser) -> None:
    """The chosen experts count alike. (That weights do not add up to 1 would not show: the norm behind them takes it out.)"""
    for layer in twin.layers:
        plain = layer.router.forward
        layer.router.forward = lambda x, plain=plain: (torch.full_like(plain(x)[0], 0.5), plain(x)[1])  # type: ignore[method-assign]


def one_expert(twin: Denoiser) -> None:
    for layer in twin.layers:
        layer.router.top_k = 1


@pytest.mark.parametrize("control", [shifted, equal_weights, one_expert])
@pytest.mark.parametrize("graph", ["encode", "denoise"])
def test_the_comparison_notices(case: Case, graph: str, control: Callable[[Denoiser], None]) -> None:
    clean, twin = difference(case, graph, case.twin()), case.twin()
    control(twin)
    noticed = difference(case, graph, twin)
    assert noticed > 2 * clean, (noticed, clean)
    assert case.recipe != "fp32" or noticed > 1.5 * LIMITS["fp32"]


def test_both_loops_generate_what_the_twin_does(case: Case) -> None:
    """Several canvases. On integers a last bit may decide, so there the loops are held to each other alone."""
    with Session.load(case.engine.bundle.path, engine=case.name, threads=1) as session:
        for seed, length in ((0, 3), (1, 30)):
            found = []
            for loop in ("host", "graph"):
                session.reset()
                result = session.generate(micro.prompt(length), max_new_tokens=40, seed=seed, loop=loop, trace=True)
                assert result.trajectory is not None
                found.append(result.trajectory)
            if case.recipe == "fp32":
                found.append(generate(case.twin(), micro.POLICY, micro.prompt(length), seed=seed, max_new_tokens=40).trajectory)
            for name in ("step", "canvas_index", "argmax", "accepted", "canvas_out", "tokens"):
                for other in found[1:]:
                    np.testing.assert_array_equal(getattr(found[0], name), getattr(other, name), err_msg=name)


def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@pytest.mark.parametrize("name", ["onnx", pytest.param("executorch", marks=pytest.mark.slow)])
def test_verify_holds_and_counts_what_it_can_read(name: str) -> None:
    """Of the twins in layer 1, backends may take either; nothing else may differ."""
    _, found = ladder.climb(mixture.bundle(name), str(mixture.folder()), [name], 1, quietly)
    assert all(values["passed"] for values in found.values()), found
    layers = found[name]["nearest"]["teacher_forced"]["experts"]
    if name == "executorch":
        assert layers is None
        return
    assert list(layers) == ["0", "1"] and layers["0"]["other"] == 0
    assert layers["1"]["rows"] > 0 and (layers["1"]["largest_margin"] or 0) < 1e-4


def test_the_bundle_that_java_reads_is_of_today() -> None:
    """`python tests/support/mixture.py` makes it again. Bits of random weights are the processor's, so sizes are compared."""
    of_weights = {"tools", "digest", "files", "provenance"}
    held, fresh = (
        json.loads((path / "manifest.json").read_text()) for path in (mixture.FOR_JAVA, mixture.bundle("onnx", "w8"))
    )
    assert {k: v for k, v in held.items() if k not in of_weights} == {k: v for k, v in fresh.items() if k not in of_weights}
    sizes = [{name: file["size"] for name, file in m["files"].items() if name.startswith("onnx/")} for m in (held, fresh)]
    assert sizes[0] == sizes[1] and len(sizes[0]) == 3
