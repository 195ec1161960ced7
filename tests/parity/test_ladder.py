"""The ladder holds on clean backends, and finds planted faults: the right backend, the right layer, the right tensor.

The faults are those that were made in real ports: a swapped norm, a wrong theta, one token more in the window, conditioning
left out, a sampler off by one step. Each is planted in eager torch, in the reference, or in an exported graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jax
import micro
import micro_bundle
import numpy as np
import pytest
import torch
from edited import edited
from onnx import TensorProto
from onnx.helper import make_node, make_tensor
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
from dgemma.model import denoiser, generate, sampler
from dgemma.model.denoiser import Denoiser
from dgemma.model.taps import tap
from dgemma.quantize.read_onnx import read_integers
from dgemma.reference import denoiser as reference_denoiser
from dgemma.runtime.bundle import Bundle
from dgemma.verify import ladder, tolerance
from dgemma.verify.backend import Backend
from dgemma.verify.backends import fake_quantized
from dgemma.verify.engine_backend import EngineBackend
from dgemma.verify.jax_backend import JaxBackend
from dgemma.verify.torch_backend import TorchBackend

Patch = pytest.MonkeyPatch
Runs = list[tuple[int, Trajectory]]
MOST = 2 * micro.N  # tokens: two canvases


def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@pytest.fixture(scope="module")
def good() -> Bundle:
    return Bundle.open(micro_bundle.bundle("onnx"))


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Prompts longer than the window of 8."""
    return [(seed, torch_backend().trajectory(micro.prompt(n), seed, MOST)) for seed, n in ((1, 11), (2, 24))]


@pytest.fixture(scope="module")
def reference(good: Bundle) -> JaxBackend:
    return JaxBackend(micro_bundle.checkpoint(), "float32", good.manifest)


def torch_backend(model: Denoiser | None = None, policy: SamplerConfig = micro.POLICY) -> TorchBackend:
    return TorchBackend(model or micro.model(), policy, micro.N)


def climb(backends: Sequence[Backend], runs: Runs, limits: Sequence[tolerance.Tolerance] | None = None) -> dict[str, Any]:
    asked = [ladder.Asked(ids=t.prompt_ids.tolist(), seed=s, most=MOST, recorded=t) for s, t in runs]
    found = ladder.compare_backends(backends, limits or [tolerance.SAME_FLOAT] * len(backends), asked, "nobody", quietly)
    for backend in backends:
        if isinstance(backend, EngineBackend):
            backend.close()
    return found


def test_clean_backends_pass(reference: JaxBackend, good: Bundle, runs: Runs) -> None:
    bf16 = JaxBackend(micro_bundle.checkpoint(), "bfloat16", good.manifest)
    limits = [tolerance.BFLOAT16, tolerance.BFLOAT16, tolerance.SAME_FLOAT, tolerance.SAME_FLOAT]
    found = climb([bf16, reference, torch_backend(), EngineBackend(good, "onnx", 1)], runs, limits)
    assert list(found) == ["reference bfloat16", "reference float32", "torch", "onnx"]
    assert all(values["passed"] and values["fault"] is None for values in found.values())
    assert found["torch"]["nearest"]["name"] == "reference float32" and found["onnx"]["top"]["name"] == "reference bfloat16"
    assert found["onnx"]["fused"]["equal"] == 2
    for backend, low, high in (("reference bfloat16", 1e-3, 1.0), ("torch", 1e-9, 1e-5), ("onnx", 1e-9, 1e-5)):
        errors = {c["name"]: c["value"] for c in found[backend]["nearest"]["checks"]}
        assert low < errors["logits, error of range"] < high


# ---- faults in a model: planted in eager torch in place, or in what a bundle is exported from ----


def swapped_norms(model: Denoiser) -> None:
    layer = model.layers[1]
    layer.input_layernorm, layer.pre_feedforward_layernorm = layer.pre_feedforward_layernorm, layer.input_layernorm


def wrong_theta(model: Denoiser) -> None:
    config = replace(model.config, sliding_rope_theta=1e6)
    model.sliding_frequencies = denoiser.rope_frequencies(config, full=False)


def scalars_of_encode(model: Denoiser) -> None:
    model.layers[0].denoise_scalar = model.layers[0].encode_scalar


def values_through_key_norm(model: Denoiser) -> None:
    model.layers[1].self_attn.v_norm = model.layers[1].self_attn.k_norm


def flipped_weight(model: Denoiser) -> None:
    model.layers[0].mlp.down_proj.weight.data[3] *= -1


def unscaled_embedding(model: Denoiser) -> None:
    model.embed = lambda tokens: tap("embedded", model.embed_tokens(tokens))  # type: ignore[method-assign]


def no_softcap(model: Denoiser) -> None:
    model.head = lambda x: model.embed_tokens.logits(x).float()  # type: ignore[method-assign]


def unscaled_soft(model: Denoiser) -> None:
    model.soft_embed = lambda t, k=None: model.embed_tokens.expected(t.softmax(-1))  # type: ignore[method-assign,misc]


def without_conditioning(model: Denoiser) -> None:
    conditioning = model.self_conditioning
    forward = conditioning.forward
    conditioning.forward = lambda embedded, soft: forward(embedded, soft * 0)  # type: ignore[method-assign]


MODEL_FAULTS: dict[str, tuple[Callable[[Denoiser], None], str, str]] = {
    "swapped norms": (swapped_norms, "encode", "layers.1.attention_in"),
    "wrong theta": (wrong_theta, "encode", "layers.0.q"),
    "encode's scalar in denoise": (scalars_of_encode, "denoise", "layers.0.out"),
    "values through the key norm": (values_through_key_norm, "encode", "layers.1.v"),
    "flipped weight": (flipped_weight, "encode", "layers.0.mlp_out"),
    "unscaled embedding": (unscaled_embedding, "encode", "embedded"),
    "no softcap": (no_softcap, "denoise", "logits"),
    "unscaled soft embedding": (unscaled_soft, "denoise", "soft"),
    "no self-conditioning": (without_conditioning, "denoise", "conditioned"),
}


@pytest.mark.parametrize("name", MODEL_FAULTS)
def test_a_fault_in_the_model_is_named(name: str, reference: JaxBackend, good: Bundle, runs: Runs) -> None:
    plant, phase, tensor = MODEL_FAULTS[name]
    model = micro.model()
    plant(model)
    found = climb([reference, torch_backend(model), EngineBackend(good, "onnx", 1)], runs)
    fault = found["torch"]["fault"]
    assert not found["torch"]["passed"] and found["torch"]["against"] == "reference float32"
    assert (fault["phase"], fault["tensor"]) == (phase, tensor), fault
    assert found["onnx"]["passed"] and found["onnx"]["against"] == "reference float32"  # the backend below is not blamed


def one_more_token(patch: Patch) -> None:
    """W prefix tokens instead of W − 1, in denoising alone."""
    original = denoiser.denoise_masks
    patch.setattr(denoiser, "denoise_masks", lambda c, *a: original(replace(c, sliding_window=c.sliding_window + 1), *a))


def bound_of_own_too(patch: Patch) -> None:
    """cumsum ≤ bound, a position's own entropy included."""

    def accept(entropy: Tensor, bound: float) -> Tensor:
        order = entropy.double().argsort(-1)
        kept = entropy.double().gather(-1, order).cumsum(-1) <= bound
        return torch.zeros_like(kept).scatter(-1, order, kept)

    patch.setattr(sampler, "accept", accept)


def renoised_from_samples(patch: Patch) -> None:
    original = sampler.step
    for module in (sampler, generate):
        patch.setattr(module, "step", lambda t, words, bound: original(t, words.flip(1), bound))


CODE_FAULTS: dict[str, tuple[Callable[[Patch], None], str, str]] = {
    "W instead of W − 1": (one_more_token, "denoise", "layers.0.attention_out"),
    "a bound on the own entropy too": (bound_of_own_too, "denoise", "accepted"),
    "rows of noise swapped": (renoised_from_samples, "denoise", "canvas"),
}


@pytest.mark.parametrize("name", CODE_FAULTS)
def test_a_fault_in_the_code_is_named(name: str, reference: JaxBackend, runs: Runs) -> None:
    plant, phase, tensor = CODE_FAULTS[name]
    with Patch.context() as patch:
        plant(patch)
        fault = climb([reference, torch_backend()], runs)["torch"]["fault"]
    assert (fault["phase"], fault["tensor"]) == (phase, tensor), fault


class Late(SamplerConfig):
    """Temperatures of one step later."""

    def temperature(self, remaining: int) -> float:
        return super().temperature(remaining - 1)


class FirstNoise(TorchBackend):
    """Takes each canvas's noise as if it were the first."""

    def trajectory(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int) -> Trajectory:
        first = super().trajectory(prompt_ids, seed, micro.N)
        more = super().trajectory([*prompt_ids, *first.argmax[-1].tolist()], seed, micro.N)
        both = {name: np.concatenate([a, more.arrays()[name]]) for name, a in first.arrays().items()}
        both["canvas_index"][len(first.step) :] = 1
        both["prompt_ids"] = first.prompt_ids
        return Trajectory(**both)


def test_a_sampler_off_by_one_step_is_found_in_the_loop(reference: JaxBackend, runs: Runs) -> None:
    late = Late(steps=micro.T, entropy_bound=micro.POLICY.entropy_bound)
    fault = climb([reference, torch_backend(policy=late)], runs)["torch"]["fault"]
    assert (fault["phase"], fault["tensor"]) == ("loop", "temperature")


def test_the_noise_of_another_canvas_is_found_in_the_loop(reference: JaxBackend, runs: Runs) -> None:
    backend = FirstNoise(micro.model(), micro.POLICY, micro.N)
    fault = climb([reference, backend], runs)["torch"]["fault"]
    assert (fault["phase"], fault["tensor"], fault["canvas"]) == ("loop", "canvas_in", 1)


def settled(steps: int) -> SamplerConfig:
    """A policy with which the micro model stops early: everything is confident."""
    return replace(micro.POLICY, steps=steps, confidence_threshold=50.0, stability_threshold=0)


def test_all_steps_run_where_others_stop_is_a_wrong_stop_rule(good: Bundle, runs: Runs) -> None:
    """A backend that ran all 48 steps into garbage where the CPU stopped at 9."""
    above = TorchBackend(micro.model(), settled(12), micro.N)
    below = TorchBackend(micro.model(), replace(settled(12), stability_threshold=99), micro.N, name="never stops")
    found = climb([above, below], runs)["never stops"]
    assert (found["fault"]["phase"], found["fault"]["tensor"]) == ("loop", "stop")
    assert not next(c for c in found["checks"] if c["name"] == "steps run, ratio")["passed"]


def test_a_fault_in_the_reference_parts_it_from_all_below(good: Bundle, runs: Runs) -> None:
    """The torch backend is where they part; the engine that agrees with torch follows it."""
    with Patch.context() as patch:
        exact = partial(jax.nn.gelu, approximate=False)
        patch.setattr(reference_denoiser, "gated", lambda gate, up: exact(gate) * up)
        bad = JaxBackend(micro_bundle.checkpoint(), "float32", good.manifest)
        found = climb([bad, torch_backend(), EngineBackend(good, "onnx", 1)], runs)
    assert found["torch"]["fault"]["tensor"] == "layers.0.mlp_out" and found["torch"]["against"] == "reference float32"
    assert found["onnx"]["follows"] == "torch" and not found["onnx"]["passed"]


# ---- faults in an artifact ----


@contextmanager
def exported(plant: Callable[[Patch], None]) -> Iterator[Bundle]:
    """A bundle that was exported while a fault was in the code."""
    out = Path(mkdtemp()) / "bad.dgemma"
    with Patch.context() as patch, quiet():
        plant(patch)
        yield Bundle.open(export_bundle(micro_bundle.checkpoint(), out, engines=("onnx",)))


def loading(plant: Callable[[Denoiser], None]) -> Callable[[Patch], None]:
    """Plants a fault in whatever model the ONNX lowering is given."""

    def patch(monkeypatch: Patch) -> None:
        from dgemma.export.onnx import lower

        original = lower.sharing

        def sharing(model: Denoiser) -> Denoiser:
            copied = original(model)
            plant(copied)
            return copied

        monkeypatch.setattr(lower, "sharing", sharing)

    return patch


def late_temperatures(patch: Patch) -> None:
    """In the fused loop alone: each step but the last is denoised at the temperature of the one behind it."""
    from dgemma.export.onnx import loop

    original = loop.loop

    def made(*arguments: Any) -> Any:
        graph = original(*arguments)
        body = next(n for n in graph.node if n.op_type == "Loop").attribute[0].g
        reads = next(n for n in body.node if n.input[0] == "temperatures")
        later = make_tensor("later", TensorProto.INT64, [micro.T], [*range(1, micro.T), micro.T - 1])
        graph.initializer.append(later)
        body.node.insert(0, make_node("Gather", ["later", reads.input[1]], ["late_iteration"], axis=0))
        reads.input[1] = "late_iteration"
        return graph

    patch.setattr("dgemma.export.onnx.lower.loop", made)


GRAPH_FAULTS: dict[str, tuple[Callable[[Patch], None], str, str]] = {
    "wrong theta": (loading(wrong_theta), "encode", "layers.0.q"),
    "swapped norms": (loading(swapped_norms), "encode", "layers.1.attention_in"),
    "W instead of W − 1": (
        lambda patch: patch.setattr(
            "dgemma.export.graphs.denoise_masks",
            lambda c, *a: denoiser.denoise_masks(replace(c, sliding_window=c.sliding_window + 1), *a),
        ),
        "denoise",
        "layers.0.attention_out",
    ),
    "temperatures of the fused loop": (late_temperatures, "loop", "entropy"),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "W" not in n else n for n in GRAPH_FAULTS])
def test_a_fault_in_a_graph_is_named(name: str, good: Bundle, runs: Runs) -> None:
    plant, phase, tensor = GRAPH_FAULTS[name]
    with exported(plant) as bad:
        found = climb([torch_backend(), EngineBackend(bad, "onnx", 1)], runs)["onnx"]
    assert not found["passed"] and (found["fault"]["phase"], found["fault"]["tensor"]) == (phase, tensor), found["fault"]


def test_a_flipped_scale_is_named_by_its_layer(runs: Runs, tmp_path: Path) -> None:
    """The model on the bundle's integers follows the artifact; both part from the float model in the layer that is damaged."""
    name, quantized = "layers.1.mlp.up_proj.weight", micro_bundle.bundle("onnx", "w8")
    scale = read_integers(quantized / "onnx" / "shared.onnx")[name].scale
    flipped = scale * torch.where(torch.arange(len(scale)) < 12, -1, 1)
    bad = Bundle.open(edited(quantized, tmp_path / "bad.dgemma", {f"{name}.scale": flipped}))
    limits = [tolerance.SAME_FLOAT, tolerance.EIGHT_BITS, tolerance.SAME_INTEGERS]
    own = torch_backend()
    found = climb([own, fake_quantized(bad, own, "torch w8"), EngineBackend(bad, "onnx", 1)], runs, limits)
    fault = found["torch w8"]["fault"]
    assert (fault["phase"], fault["tensor"]) == ("encode", "layers.1.mlp_out"), fault
    assert found["onnx"]["follows"] == "torch w8"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_false_alarm_in_twenty_clean_runs(good: Bundle) -> None:
    for seed in range(20):
        folder = micro.save(Path(mkdtemp()) / "clean", seed=seed)
        model = micro.model(seed=seed)
        prompts = [(seed * 10 + i, micro.prompt(n)) for i, n in enumerate((11, 24))]
        own = torch_backend(model)
        runs = [(s, own.trajectory(ids, s, MOST)) for s, ids in prompts]
        out = Path(mkdtemp()) / "clean.dgemma"
        with quiet():
            bundle = Bundle.open(export_bundle(folder, out, engines=("onnx",)))
        backends = [JaxBackend(folder, "float32", bundle.manifest), own, EngineBackend(bundle, "onnx", 1)]
        found = climb(backends, runs)
        assert all(values["passed"] for values in found.values()), (seed, {k: v["fault"] for k, v in found.items()})
