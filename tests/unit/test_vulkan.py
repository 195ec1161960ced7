"""`--target vulkan`: what is refused before work, what a bundle then holds, and what its files compute when read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import delegate_bundle
import micro
import micro_bundle
import pytest
import torch

from dgemma.cli import dispatch
from dgemma.core.accelerators import Target
from dgemma.core.errors import EngineError, ExportError, UsageError
from dgemma.export import request
from dgemma.export.delegates import backends, forms, lower, modules, package, recorded, vulkan, vulkan_graph
from dgemma.export.quiet import quiet
from dgemma.quantize.integers import quantize
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import find
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine

SLOTS = delegate_bundle.SLOTS


def check(**options: Any) -> None:
    request.check(micro_bundle.checkpoint(), **{"engines": ("onnx",), "recipe": "fp32", "target": "vulkan", **options})


def test_what_vulkan_does_not_take_is_refused_before_work() -> None:
    assert Target.parse("vulkan") == Target(backend="vulkan")
    with pytest.raises(UsageError, match=r"'w8' has weights of 8 bits, but Vulkan takes 4 or 32; use --recipe fp32, or a file"):
        check(recipe="w8")
    with pytest.raises(UsageError, match="'w8a16' has 16-bit activations, but Vulkan has float16"):
        check(recipe="w8a16")
    with pytest.raises(UsageError, match="--target vulkan reads the table of ids from the ONNX graphs' file"):
        check(engines=("executorch",))


def matrices() -> dict[str, QuantizedMatrix]:
    return quantize(micro.model(), find(str(delegate_bundle.recipe("vulkan"))))


@pytest.fixture(scope="module")
def step() -> recorded.Recorded:
    return recorded.record(micro.model().eval(), matrices(), micro.POLICY, micro.prompt(11))


def wrote(form: forms.Form, step: recorded.Recorded, folder: Path) -> Path:
    """A file with one method."""
    source = modules.Source(model=micro.model().eval(), quantized=matrices(), ranges={}, zeros=True)
    with quiet():
        lower.write(backends.of("vulkan"), source, [form], folder / "part.pte", step)
    return folder / "part.pte"


def test_a_part_is_written_and_computed_and_faults_are_seen(step: recorded.Recorded, tmp_path: Path) -> None:
    form = forms.condition(micro.CONFIG, micro.N)
    path = wrote(form, step, tmp_path)
    file = package.PteFile(path)
    call = package.the_calls(file, [form], vulkan.BACKEND)[form.name]
    graph = vulkan_graph.read(call.processed, file.data)
    assert graph.operators["et_vk.linear_q4gsw.default"] == 3, "4-bit weights are not taken as they are"
    assert vulkan.errors(form, call, graph, step)["conditioned"] < recorded.ROUNDED / 5

    def moved(key: str) -> bytes:
        raw = file.data(key)
        return raw[1:] + raw[:1] if len(raw) > 200 else raw  # integers by two

    wrong = vulkan.errors(form, call, vulkan_graph.read(call.processed, moved), step)
    assert not wrong["conditioned"] < 3 * recorded.ROUNDED
    with pytest.raises(ValueError, match=r"has operator aten\.topk\.default"):
        vulkan._check_form(form, call, replace(graph, operators={**graph.operators, "aten.topk.default": 1}))
    elsewhere = recorded.record(micro.model(seed=1).eval(), {}, micro.POLICY, micro.prompt(11))
    with pytest.raises(ExportError, match=r"conditioned of condition_16 is .* from the model's in float16"):
        vulkan.check(path, [form], elsewhere)


def test_an_operator_that_vulkan_lacks_is_an_error(
    step: recorded.Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.Head, "forward", lambda head, hidden: head.product(torch.asinh(hidden).sinh()))
    with pytest.raises(ExportError, match=r"calls of the backend, and outside of them .*asinh.*; use another recipe, or leave"):
        wrote(forms.head(micro.CONFIG, (0, micro.VOCAB), micro.N), step, tmp_path)
    assert list(tmp_path.iterdir()) == []


# A whole bundle, which takes a minute or more.


@pytest.fixture(scope="module")
def bundle() -> Path:
    return delegate_bundle.bundle("vulkan", "vulkan")


def layers(rows: int) -> forms.Form:
    return forms.layers(micro.CONFIG, (0, 2), rows, SLOTS, SLOTS)


@pytest.mark.slow
def test_a_bundle_describes_what_it_holds(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Bundle.open(bundle)
    spec = opened.manifest.targets["vulkan"]
    assert (spec.precision, spec.needs) == ("w16", vulkan.NEEDS)
    assert {g.file for g in spec.graphs} == {"vulkan/layers_0_2.pte", "vulkan/head.pte"}
    assert dispatch(["inspect", str(bundle)]) == 0
    assert "vulkan, w16: integers as weights, float16 for everything else" in capsys.readouterr().out
    with pytest.raises(EngineError, match=r"cannot run target 'vulkan'.*use --target cpu"):
        open_engine(opened, None, 1, "vulkan")


@pytest.mark.slow
def test_weights_are_stored_once_and_blocks_of_4_bits_as_they_are(bundle: Path) -> None:
    file = package.PteFile(bundle / "vulkan" / "layers_0_2.pte")
    calls = package.the_calls(file, [layers(1), layers(micro.N)], vulkan.BACKEND)
    for call in calls.values():
        graph = vulkan_graph.read(call.processed, file.data)
        assert graph.operators["et_vk.linear_q4gsw.default"] == 6 and graph.operators["aten.linear.default"] == 7
        assert graph.dtypes == {"float16"} and set(graph.operators) <= vulkan_graph.OPERATORS
    integers = sum(m.integers.numel() // 2 for m in matrices().values())
    floats = sum(2 * p.numel() for name, p in micro.model().named_parameters() if "self_attn" in name and p.ndim == 2)
    assert integers + floats < sum(file.named.values()) < 1.3 * (integers + floats)


@pytest.mark.slow
def test_what_is_read_back_is_the_model(bundle: Path, step: recorded.Recorded) -> None:
    path, form = bundle / "vulkan" / "layers_0_2.pte", layers(micro.N)
    vulkan.check(path, [form], step)
    file = package.PteFile(path)
    call = package.the_calls(file, [form], vulkan.BACKEND)[form.name]

    def worst(graph: vulkan_graph.Graph) -> float:
        return max(vulkan.errors(form, call, graph, step).values())

    graph = vulkan_graph.read(call.processed, file.data)
    assert worst(graph) < recorded.ROUNDED

    elsewhere = recorded.record(micro.model(seed=1).eval(), {}, micro.POLICY, micro.prompt(11))
    with pytest.raises(ExportError, match=r"of layers_0_2_16x64 is .* from the model's in float16"):
        vulkan.check(path, [form], elsewhere)
    with pytest.raises(ExportError, match="other tensors than the manifest says"):
        vulkan.check(path, [replace(form, inputs=layers(1).inputs)], step)
