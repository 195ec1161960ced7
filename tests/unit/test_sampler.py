"""The torch sampler against naive numpy twins written from the contract's text, with controls that must differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgemma.core.errors import UsageError
from dgemma.core.noise import step_words, token_from_word, uniform_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.model import sampler
from dgemma.model.generate import AdaptiveStop

F32 = npt.NDArray[np.float32]
VOCABS = (1, 2, 255, 256, 257, 300, 512, 1000, 2049)


def logits(seed: int, *shape: int, scale: float = 4.0) -> F32:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def naive_draw(weights: F32, u: float) -> tuple[int, float]:
    """Token of one row, and the target's distance from the nearest boundary as a share of the total."""
    running = np.cumsum([float(weights[i : i + 256].sum(dtype=np.float32)) for i in range(0, len(weights), 256)])
    target = u * running[-1]
    block = next(i for i, r in enumerate(running) if r > target)
    before = running[block - 1] if block else 0.0
    inside = before + np.cumsum(weights[block * 256 : block * 256 + 256].astype(np.float64))
    beyond = np.flatnonzero(inside > target)
    token = block * 256 + (int(beyond[0]) if len(beyond) else len(inside) - 1)
    return token, float(np.abs(np.concatenate([running, inside]) - target).min() / running[-1])


def naive_accept(entropy: F32, bound: float) -> npt.NDArray[np.bool_]:
    """By sorting: cumsum − own ≤ bound, in float64."""
    order = np.argsort(entropy, kind="stable")
    ahead = np.concatenate([[0.0], np.cumsum(entropy[order].astype(np.float64))[:-1]])
    accepted = np.zeros(len(entropy), bool)
    accepted[order] = ahead <= bound
    return accepted


def naive_entropy(row: F32) -> float:
    p = np.exp(row.astype(np.float64) - row.max())
    p /= p.sum()
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.mark.parametrize("vocab", VOCABS)
def test_inverse_cdf_equals_the_naive_twin(vocab: int) -> None:
    rows = 64
    x = logits(vocab, rows, vocab)
    weights = np.exp(x - x.max(-1, keepdims=True))
    u = uniform_from_word(step_words(vocab, 0, 1, rows)[0]).astype(np.float64)
    got = sampler.inverse_cdf(torch.from_numpy(weights)[None], torch.from_numpy(u)[None])[0].tolist()
    want = [naive_draw(w, float(v)) for w, v in zip(weights, u, strict=True)]
    # float32 block sums may be added in another order, which matters within 1e-6 of a boundary
    wrong = [(g, t, margin) for g, (t, margin) in zip(got, want, strict=True) if g != t and margin > 1e-6]
    assert not wrong
    assert sum(margin <= 1e-6 for _, margin in want) < rows / 8
    assert all(0 <= token < vocab for token in got)


def test_inverse_cdf_draws_the_distribution_and_nothing_else() -> None:
    """Frequencies of 40,000 draws are those of the weights; with u reversed they are too, with u squared they are not."""
    vocab, draws = 300, 40_000
    weights = np.exp(logits(3, vocab, scale=1.5))
    p = weights / weights.sum()
    u = uniform_from_word(step_words(5, 0, 1, draws)[0]).astype(np.float64)

    def chi_square(v: npt.NDArray[np.float64]) -> float:
        rows = torch.from_numpy(weights).expand(1, 1000, vocab)
        parts = [sampler.inverse_cdf(rows, torch.from_numpy(v[i : i + 1000])[None]) for i in range(0, draws, 1000)]
        counts = np.bincount(torch.cat(parts, 1)[0].numpy(), minlength=vocab)
        return float(((counts - draws * p) ** 2 / (draws * p)).sum())

    limit = vocab + 5 * (2 * vocab) ** 0.5
    assert chi_square(u) < limit
    assert chi_square(1 - 2.0**-24 - u) < limit
    assert chi_square(u * u) > limit


def test_no_weight_is_never_drawn() -> None:
    weights = torch.zeros(1, 4, 600)
    weights[..., 37] = weights[..., 411] = 1.0
    got = sampler.inverse_cdf(weights, torch.tensor([[0.0, 0.5 - 2.0**-24, 0.5, 1 - 2.0**-24]], dtype=torch.float64))
    assert got.tolist() == [[37, 37, 411, 411]]


ENTROPIES = st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 3.0]) | st.floats(0, 8, width=32), min_size=1, max_size=24)


@given(ENTROPIES, st.sampled_from([0.1, 0.125, 0.5, 1.0, 2.0]))
def test_accept_equals_sorting(values: list[float], bound: float) -> None:
    entropy = np.array(values, np.float32)
    got = sampler.accept(torch.from_numpy(entropy)[None], bound)[0].numpy()
    want = naive_accept(entropy, bound)
    order = np.argsort(entropy, kind="stable")
    ahead = np.concatenate([[0.0], np.cumsum(entropy[order].astype(np.float64))[:-1]])
    if np.abs(ahead - bound).min() > 1e-12 or set(values) <= {0.0, 0.125, 0.25, 0.5, 1.0, 3.0}:
        assert got.tolist() == want.tolist()
    assert got[order[0]]
    assert sorted(got[order].tolist(), reverse=True) == got[order].tolist()  # the accepted are the lowest


def test_accept_counts_what_is_ahead_and_breaks_ties_by_index() -> None:
    entropy = torch.tensor([[0.5, 0.25, 0.5, 0.5]])
    assert sampler.accept(entropy, 0.75).tolist() == [[True, True, True, False]]
    assert sampler.accept(entropy, 0.7499).tolist() == [[True, True, False, False]]
    own_counted = naive_accept(np.array([0.5, 0.25, 0.5, 0.5], np.float32), 0.75 - 0.5)
    assert own_counted.tolist() != [True, True, True, False]


@pytest.mark.parametrize("scale", [0.0, 0.1, 4.0, 30.0])
def test_entropy_is_that_of_the_softmax(scale: float) -> None:
    x = logits(9, 8, 700, scale=scale)
    words = torch.zeros(1, 2, 8, dtype=torch.int64)
    got = sampler.step(torch.from_numpy(x)[None], words, 0.1).entropy[0].numpy()
    want = np.array([naive_entropy(row) for row in x])
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 5e-6
    if scale:
        halved = sampler.step(torch.from_numpy(x / 2)[None], words, 0.1).entropy[0].numpy()
        assert np.abs(halved - want).max() > 1e-4  # a forgotten temperature shows


@given(st.integers(0, 2**32), st.sampled_from(VOCABS), st.sampled_from([0.1, 2.0, 50.0]))
def test_step_equals_the_naive_twin(seed: int, vocab: int, bound: float) -> None:
    n = 7
    x = logits(seed, n, vocab, scale=6.0)
    noise = step_words(seed, 0, 1, n)
    got = sampler.step(torch.from_numpy(x)[None], torch.from_numpy(noise.astype(np.int64))[None], bound)
    accepted = naive_accept(got.entropy[0].numpy(), bound)
    assert got.accepted[0].tolist() == accepted.tolist()
    assert got.argmax[0].tolist() == x.argmax(-1).tolist()
    renoised = token_from_word(noise[1], vocab)
    for i in range(n):
        token, margin = naive_draw(np.exp(x[i] - x[i].max()), float(uniform_from_word(noise[0])[i]))
        if margin > 1e-6:
            assert int(got.canvas[0, i]) == (token if accepted[i] else int(renoised[i]))


def test_batch_rows_do_not_mix() -> None:
    x = torch.from_numpy(logits(1, 3, 5, 300))
    words = torch.from_numpy(np.stack([step_words(s, 0, 1, 5) for s in range(3)]).astype(np.int64))
    whole = sampler.step(x, words, 1.0)
    for b in range(3):
        alone = sampler.step(x[b : b + 1], words[b : b + 1], 1.0)
        for name in ("canvas", "argmax", "accepted"):
            assert torch.equal(getattr(whole, name)[b], getattr(alone, name)[0])


def run_stop(canvases: list[int], entropies: list[float], **policy: Any) -> list[bool]:
    stop = AdaptiveStop(SamplerConfig(**policy))
    return [stop(torch.tensor([[c, c]]), torch.tensor([[e, e]])) for c, e in zip(canvases, entropies, strict=True)]


def test_adaptive_stop() -> None:
    low = [0.001] * 5
    assert run_stop([1, 1, 1, 2, 2], low) == [False, True, True, False, True]
    assert run_stop([1, 1, 1, 2, 2], low, stability_threshold=2) == [False, False, True, False, False]
    assert run_stop([1, 2, 3, 4, 5], low, stability_threshold=0) == [True] * 5
    assert run_stop([1, 1, 1], [0.001, 0.005, 0.0049], confidence_threshold=0.005)[2]
    assert run_stop([1, 1], [1.0, 1.0]) == [False, False]
    assert run_stop([1, 1], [0.5, 0.5], confidence_threshold=0.5) == [False, False]  # strictly below


def test_temperature_schedule() -> None:
    policy = SamplerConfig(steps=4)
    assert [round(policy.temperature(r), 12) for r in (4, 3, 2, 1)] == [0.8, 0.7, 0.6, 0.5]


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0}, {"steps": 4097}, {"steps": 2.0}, {"steps": True}, {"t_min": 0.0}, {"t_max": 0.4}, {"entropy_bound": 0.0},
        {"entropy_bound": float("nan")}, {"stability_threshold": -1}, {"confidence_threshold": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_policies_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))) as caught:
        SamplerConfig(**values)
    assert "\n" not in str(caught.value)


def test_policy_round_trip() -> None:
    policy = SamplerConfig(steps=7, entropy_bound=0.3)
    assert SamplerConfig.from_dict(policy.to_dict()) == policy
    with pytest.raises(UsageError, match="'top_k'"):
        SamplerConfig.from_dict({"top_k": 3})
