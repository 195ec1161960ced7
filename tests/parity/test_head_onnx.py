"""The streaming head as onnxruntime runs it against all logits at once."""

from __future__ import annotations

from dataclasses import replace

import micro
import numpy as np
import pytest
import streamed
import torch

from dgemma.export import head

CASES = [
    ("w8", 1030, "topk:7"), ("w8", 1024, "exact"), pytest.param("w8", 300, "topk:7", marks=pytest.mark.slow),
    pytest.param("fp32", 1030, "exact", marks=pytest.mark.slow), pytest.param("w4-all", 1030, "topk:3", marks=pytest.mark.slow),
    pytest.param("w4-all", 1030, "exact", marks=pytest.mark.slow), pytest.param("fp32", 1030, "topk:1", marks=pytest.mark.slow),
]  # fmt: skip
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
        for name in names:
            np.testing.assert_allclose(found[name], wanted[name].numpy(), rtol=1e-4, atol=2e-3, err_msg=f"{name} {scale}")
        other = session.run(["next_canvas"], {**feeds, "words": words.flip(0).numpy()})[0]
        assert not np.array_equal(other, found["next_canvas"])
