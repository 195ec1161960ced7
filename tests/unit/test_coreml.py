"""`--target coreml`: what is refused before work, what a bundle then holds, and what its files compute when read back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import delegate_bundle
import micro
import micro_bundle
import numpy as np
import pytest
import torch

from dgemma.benchmarks.studies.read_back import ReadBackEngine
from dgemma.cli import dispatch
from dgemma.core.accelerators import Target
from dgemma.core.errors import EngineError, ExportError, UsageError
from dgemma.export import request, spans
from dgemma.export.delegates import backends, checks, coreml, coreml_check, forms, lower, mil, modules, recorded
from dgemma.export.delegates.forms import Form
from dgemma.export.quiet import quiet
from dgemma.model.generate import generate
from dgemma.quantize.integers import quantize
from dgemma.quantize.ranges import with_stored_weights
from dgemma.quantize.recipes import find
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine
from dgemma.runtime.session import Session

pytest.importorskip("coremltools")

PROMPT = micro.prompt(11)


def check(folder: Path, **options: Any) -> None:
    request.check(folder, **{"engines": ("onnx",), "recipe": "fp32", "target": "coreml", **options})


def test_what_core_ml_does_not_take_is_refused_before_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = micro_bundle.checkpoint()
    assert Target.parse("coreml") == Target(backend="coreml")
    with pytest.raises(UsageError, match="'coreml:M4' is unknown"):
        Target.parse("coreml:M4")
    with pytest.raises(UsageError, match=r"'w8a16' has 16-bit activations, but Core ML has float16; use --recipe fp32, w8,"):
        check(folder, recipe="w8a16")
    table = delegate_bundle.recipe("coreml").read_text().replace('"embedding": 8', '"embedding": 4')
    (tmp_path / "table.json").write_text(table)
    with pytest.raises(UsageError, match="4-bit embeddings"):
        check(folder, recipe=str(tmp_path / "table.json"))
    with pytest.raises(UsageError, match="leave --engine out, or give --engine onnx"):
        check(folder, engines=("executorch",))
    with pytest.raises(UsageError, match="mixture of experts does not run on Core ML"):
        check(micro.save(tmp_path / "moe", micro.MOE_CONFIG))
    with pytest.raises(UsageError, match=r"--context 200 exceeds"):
        check(folder, context=200)
    monkeypatch.setitem(checks.SUPPORT, "coreml", replace(checks.SUPPORT["coreml"], modules=("no_such_module",)))
    with pytest.raises(UsageError, match=r"needs package no_such_module; pip install .*\[export\]"):
        check(folder)


def test_a_layer_that_is_too_large_is_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "MOST_BYTES", 20_000)
    with pytest.raises(UsageError, match=r"--target coreml: layer 0 takes .* use a recipe of fewer bits"):
        check(micro_bundle.checkpoint())


def test_values_beyond_float16_are_refused() -> None:
    with pytest.raises(ExportError, match=r"layers.0.mlp.down_proj writes values up to 7e\+04; float16 ends at 65,504"):
        lower._check_ranges("coreml", {"norm.in": 3.0, "layers.0.mlp.down_proj.out": 7e4})


def test_norms_hold_in_float16() -> None:
    norm = modules.RMSNorm(64, 1e-6)
    x = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))
    x[0, 0] *= 9_700 / x[0, 0].abs().max()
    x[0, 1], x[0, 2] = 0, x[0, 2] * 20
    safe, unsafe = modules.Norm(norm, 9_700.0), modules.Norm(norm, 16.0)
    wanted = norm(x)
    got = safe.half()(x.half())
    assert torch.isfinite(got).all() and (got[0, :3].float() - wanted[0, :3]).abs().max() < 0.02
    assert not torch.allclose(unsafe.half()(x.half())[0, 0].float(), wanted[0, 0], atol=0.1), (
        "a norm that overflows is not seen"
    )


@pytest.fixture(scope="module")
def step() -> recorded.Recorded:
    return recorded.record(micro.model().eval(), {}, micro.POLICY, PROMPT)


def wrote(part: str, step: recorded.Recorded, folder: Path) -> Path:
    """A file with two methods of a small part of the float model."""
    source = modules.Source(model=micro.model().eval(), quantized={}, ranges={})
    made = [form(part, rows) for rows in (1, micro.N)]
    with quiet():
        lower.write(backends.of("coreml"), source, made, folder / f"{part}.pte", step)
    return folder / f"{part}.pte"


def form(part: str, rows: int) -> Form:
    return forms.head(micro.CONFIG, (0, micro.VOCAB), rows) if part == "head" else forms.condition(micro.CONFIG, rows)


def test_the_same_input_gives_the_same_bytes(step: recorded.Recorded, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("here", "there")]
    for place in places:
        place.mkdir()
    first, second = (wrote("head", step, place).read_bytes() for place in places)
    assert first == second
    assert [list(p.iterdir()) for p in places] == [[p / "head.pte"] for p in places], "the compiler's files are left"


def test_an_operator_that_core_ml_lacks_is_an_error(
    step: recorded.Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.Head, "forward", lambda head, hidden: head.product(torch.asinh(hidden).sinh()))
    with pytest.raises(ExportError, match=r"its compiler refused head_0_300_1 .*asinh.*; use another recipe, or leave"):
        wrote("head", step, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_computation_is_an_error_before_it_is_lowered(
    step: recorded.Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.Head, "forward", lambda head, hidden: 1.01 * head.product(hidden))
    with pytest.raises(ExportError, match=r"products of method head_0_300_16 differs from the model's by 1.0e-02 \(relative\)"):
        wrote("head", step, tmp_path)


def test_a_gelu_that_lost_its_kind_is_found(step: recorded.Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coremltools.converters.mil.frontend.torch import ops

    path = wrote("condition", step, tmp_path)
    methods = [form("condition", rows) for rows in (1, micro.N)]
    coreml_check.check(path, methods, step)
    for wrong, says in (
        ([form("condition", 1), replace(methods[1], inputs=methods[0].inputs)], "other tensors than the manifest says"),
        ([*methods, form("head", 1)], "method head_0_300_1 does not consist of a single call of CoreMLBackend"),
    ):
        with pytest.raises(ExportError, match=says):
            coreml_check.check(path, wrong, step)
    other = recorded.record(micro.model(seed=1).eval(), {}, micro.POLICY, PROMPT)
    with pytest.raises(ExportError, match=r"conditioned of condition_16 is .* from the model's in float16"):
        coreml_check.check(path, methods, other)
    path.unlink()
    monkeypatch.setattr(coreml, "_gelu", ops.gelu)
    with pytest.raises(ExportError, match="gelu with mode EXACT"):
        wrote("condition", step, tmp_path)


# A whole bundle, with blocks of 4 bits, 8 bits and a rotation.


@pytest.fixture(scope="module")
def bundle() -> Path:
    return delegate_bundle.bundle("coreml")


@pytest.fixture
def engine(bundle: Path) -> Iterator[ReadBackEngine]:
    made = ReadBackEngine(Bundle.open(bundle))
    yield made
    made.close()


def test_a_bundle_describes_what_it_holds(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = Bundle.open(bundle).manifest.targets["coreml"]
    assert (spec.chip, spec.precision, spec.needs) == (None, "w16", "iOS 18, macOS 15")
    assert spec.options == {"precision": "float16", "specification": "9"}
    assert set(spec.versions) == {"executorch", "coremltools"}
    layers = next(g for g in spec.graphs if g.method == "layers_0_2_16x64")
    assert layers.inputs and layers.outputs and layers.file == "coreml/layers_0_2.pte"
    shapes = {t.name: t.shape for t in layers.inputs}
    assert shapes["bias_full"] == (16, 80) and shapes["prefix_key_1"] == (1, 64, 1, 32)
    assert [t.name for t in layers.outputs] == ["hidden", "new_key_0", "new_value_0", "new_key_1", "new_value_1"]
    assert dispatch(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "coreml, w16: integers as weights, float16 for everything else" in shown
    assert "needs iOS 18, macOS 15; read back and compared when it was exported, not run anywhere yet" in shown
    assert "layers, products of the head: coreml" in shown


def test_graphs_for_processors_are_those_of_a_bundle_without_it(bundle: Path) -> None:
    plain = delegate_bundle.bundle("cpu")
    names = sorted(p.name for p in (plain / "onnx").iterdir())
    assert names == sorted(p.name for p in (bundle / "onnx").iterdir()) and len(names) == 3
    for name in names:
        assert (bundle / "onnx" / name).read_bytes() == (plain / "onnx" / name).read_bytes()


def test_weights_are_stored_once_and_as_integers(engine: ReadBackEngine) -> None:
    functions = {name: method.function for name, method in engine.methods.items()}
    products = {"condition": 3, "layers": 13, "head": 1}
    for name, function in functions.items():
        assert function.operators["constexpr_blockwise_shift_scale"] == products[name.partition("_")[0]]
        assert function.dtypes == {"float16"} and set(function.operators) <= set(mil.OPERATORS)
    layers = [f for name, f in functions.items() if name.startswith("layers")]
    assert len(layers) == 2
    matrices = quantize(micro.model(), find(str(delegate_bundle.recipe("coreml"))))
    stored = sum(m.integers.numel() * m.bits // 8 for name, m in matrices.items() if name != "embed_tokens.weight")
    assert stored < len(layers[0].weights) < 1.7 * stored, "scales, rotations and padding are no more than that"


def test_its_files_answer_as_the_model_does(bundle: Path, engine: ReadBackEngine) -> None:
    model = with_stored_weights(micro.model().eval(), quantize(micro.model(), find(str(delegate_bundle.recipe("coreml")))))
    wanted = generate(model, micro.POLICY, PROMPT, seed=3, max_new_tokens=micro.N).trajectory
    with Session.load(bundle, target="cpu") as session:
        greedy = session.decode_greedy(PROMPT, max_new_tokens=4).tokens
    session = Session(Bundle.open(bundle), engine)

    def off() -> tuple[float, float]:
        """Of the first step: mean difference of entropies, and share of other argmaxes."""
        got = session.generate(PROMPT, max_new_tokens=micro.N, seed=3, trace=True).trajectory
        assert got is not None
        differ = np.mean(got.argmax[0] != wanted.argmax[0])
        return float(np.abs(got.entropy[0] - wanted.entropy[0]).mean()), float(differ)

    assert session.decode_greedy(PROMPT, max_new_tokens=4).tokens == greedy
    right = off()
    assert right[0] < 0.01 and right[1] == 0
    engine._constants["denoise_scalars"] *= 1.2
    assert off()[0] > 5 * right[0], "wrong layer scalars are not seen"


def test_what_is_read_back_is_the_model_and_faults_are_seen(engine: ReadBackEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    model = micro.model().eval()
    matrices = quantize(model, find(str(delegate_bundle.recipe("coreml"))))
    step = recorded.record(model, matrices, micro.POLICY, PROMPT)
    method = engine.methods["layers_0_2_16x64"]
    call, function, place = method.call, method.function, method.place
    wanted = forms.layers(micro.CONFIG, (0, 2), micro.N, delegate_bundle.SLOTS, delegate_bundle.SLOTS)

    def worst(read: mil.Function, *, rounds: bool) -> float:
        return max(coreml_check.errors(wanted, call, read, place, step, rounds=rounds).values())

    assert worst(function, rounds=False) < 3e-3  # scales, norms and scalars are float16 either way
    assert worst(function, rounds=True) < recorded.ROUNDED
    plain = mil.OPERATORS["constexpr_blockwise_shift_scale"]
    monkeypatch.setitem(
        mil.OPERATORS, "constexpr_blockwise_shift_scale", lambda given: plain({**given, "scale": given["scale"][::-1]})
    )
    assert worst(function, rounds=True) > 10 * recorded.ROUNDED, "scales of other outputs are not seen"


def test_it_runs_nowhere_here_and_says_so(bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot run target 'coreml': its .pte files are for an app.*use --target cpu"):
        open_engine(Bundle.open(bundle), None, 1, "coreml")
    with pytest.raises(EngineError, match=r"exported without target 'coreml'; export it again with --target coreml"):
        open_engine(Bundle.open(delegate_bundle.bundle("cpu")), None, 1, "coreml")
    assert open_engine(Bundle.open(bundle), None, 1).name == "onnx"
