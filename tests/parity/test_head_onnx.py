"""The streaming head as onnxruntime runs it against all logits at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import micro
import micro_bundle
import numpy as np
import pytest
import streamed
import torch

from dgemma.export import head
from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
from dgemma.model import checkpoint
from dgemma.model.generate import generate
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session
from dgemma.verify.logits import LogitsEngine
from dgemma.verify.metrics import candidates_error

CASES = [
    ("w8", 1030, "topk:7"),
    ("w8", 1024, "exact"),
    pytest.param("w8", 300, "topk:7", marks=pytest.mark.slow),
    pytest.param("fp32", 1030, "exact", marks=pytest.mark.slow),
    pytest.param("w4-all", 1030, "topk:3", marks=pytest.mark.slow),
    pytest.param("w4-all", 1030, "exact", marks=pytest.mark.slow),
    pytest.param("fp32", 1030, "topk:1", marks=pytest.mark.slow),
]
POLICY = replace(micro.POLICY, entropy_bound=30.0)


@pytest.mark.parametrize(("recipe", "vocab", "soft"), CASES)
def test_the_graph_decides_as_all_logits_do(recipe: str, vocab: int, soft: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "TILE", 512)
    model, policy = streamed.model(vocab, recipe), replace(POLICY, soft=soft)
    session = streamed.session(model, policy)
    for seed, scale in ((0, 1.0), (1, 0.05), (2, 8.0), (3, 1000.0)):
        words, hidden, temperature = micro.noise(seed)[1][0], streamed.rows(seed, scale), torch.tensor([0.7])
        feeds = {"rows": hidden.numpy(), "words": words.numpy(), "temperature": temperature.numpy()}
        found = dict(zip(streamed.OUTPUTS, session.run(list(streamed.OUTPUTS), feeds), strict=True))
        with torch.no_grad():
            wanted = dict(zip(streamed.OUTPUTS, streamed.naive(model, policy, hidden, words, temperature), strict=True))
            logits = model.head(hidden)
        names = streamed.OUTPUTS
        if scale == 1000.0:  # most logits are at the cap, and which of them is largest, the last bit of a tanh
            names = ("entropy",)
            chosen = logits.gather(-1, torch.from_numpy(found["argmax"])[..., None])[..., 0]
            np.testing.assert_allclose(chosen.numpy(), logits.amax(-1).numpy(), rtol=1e-6)
        if len(names) > 1:
            sides = [np.asarray(made[name]) for made in (wanted, found) for name in ("likeliest", "log_probs")]
            assert candidates_error(*sides).max() < 2e-3, scale
            assert candidates_error(*sides[:2], sides[2][..., ::-1], sides[3]).max() > 1e-2, "other ids are not seen"
        for name in set(names) - {"likeliest", "log_probs"}:
            np.testing.assert_allclose(found[name], wanted[name].numpy(), rtol=1e-4, atol=2e-3, err_msg=f"{name} {scale}")
        other = session.run(["next_canvas"], {**feeds, "words": words.flip(0).numpy()})[0]
        assert not np.array_equal(other, found["next_canvas"])


@pytest.mark.slow
@pytest.mark.parametrize("soft", ["exact", "topk:7"])
def test_whole_graphs_of_several_tiles_agree_with_eager(soft: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both loops and eager PyTorch give one trajectory, logits can be read, and another policy gives another soft embedding."""
    monkeypatch.setattr(head, "TILE", 256)
    with quiet():
        path = export_bundle(micro_bundle.checkpoint(), tmp_path / "b.dgemma", engines=("onnx",), soft=soft)
    model = checkpoint.load(micro_bundle.checkpoint()).model
    bundle = Bundle.open(path)
    policy = bundle.manifest.sampler
    assert policy == replace(micro.POLICY, soft=soft)
    with Session.load(path, threads=1) as session:
        for seed in range(3):
            found = []
            for loop in ("host", "graph"):
                session.reset()
                result = session.generate(micro.prompt(9), max_new_tokens=40, seed=seed, loop=loop, trace=True)
                assert result.trajectory is not None
                found.append(result.trajectory)
            eager = generate(model, policy, micro.prompt(9), seed=seed, max_new_tokens=40).trajectory
            for name in ("step", "argmax", "accepted", "canvas_out", "tokens"):
                for one in found:
                    np.testing.assert_array_equal(getattr(one, name), getattr(eager, name), err_msg=name)
        greedy = session.decode_greedy(micro.prompt(9), max_new_tokens=3)
        assert len(greedy.tokens) == 3
    engine = LogitsEngine(bundle, version="", threads=1)
    inputs = bundle.graph("onnx", "denoise").inputs
    feeds = {t.name: np.zeros([1 if isinstance(d, str) else d for d in t.shape], t.dtype) for t in inputs}
    feeds["temperature"] += 1
    outputs = engine.run("denoise", feeds)
    with torch.no_grad():
        logits = model.denoise(torch.zeros(1, micro.N, dtype=torch.int64), torch.zeros(1, micro.N, 32), None, 0)
        soft_of = [model.soft_embed(logits, k)[0].numpy() for k in (policy.top_k, None if policy.top_k else 7)]
    np.testing.assert_allclose(engine.logits(outputs), logits[0].numpy(), atol=5e-4)
    np.testing.assert_allclose(outputs["next_soft"][0], soft_of[0], atol=5e-3)
    assert np.abs(outputs["next_soft"][0] - soft_of[1]).max() > 5e-2
