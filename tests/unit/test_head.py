"""The streaming head in eager torch against all logits at once: the same decisions, entropies and soft embeddings."""

from __future__ import annotations

from dataclasses import replace

import micro
import pytest
import streamed
import torch
from torch import Tensor

from dgemma.core.errors import UsageError
from dgemma.core.sampler import SamplerConfig
from dgemma.export import head, request
from dgemma.model import sampler
from dgemma.verify.metrics import candidates_error

VOCABS = (40, 256, 300, 512, 1000, 1030)  # of one block, of whole blocks and tiles, and of neither
POLICY = replace(micro.POLICY, entropy_bound=30.0)  # accepts nearly all positions, so that nearly all draws show


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "TILE", 512)


def worst(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    """Largest error of entropies, soft embeddings and log-probabilities; infinite where a decision or draw differs."""
    if not all(torch.equal(a[i], b[i]) for i in (0, 1, 3, 5)):
        return float("inf")
    errors = [float((a[i] - b[i]).abs().max()) for i in (2, 4)]
    return max(*errors, float(candidates_error(*(t.numpy() for t in (*a[6:], *b[6:]))).max()))


@pytest.mark.parametrize("soft", ["exact", "topk:1", "topk:7"])
@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("recipe", ["fp32", "w8", "w4-all"])
def test_tiles_decide_as_all_logits_do(recipe: str, vocab: int, soft: str) -> None:
    """Seen: 4e-5 on soft embeddings of about ±300. Draws that differ must lie within rounding of a border between tokens."""
    if recipe == "w4-all" and vocab % 2:
        pytest.skip("pairs of ids share a byte")
    model, policy = streamed.model(vocab, recipe), replace(POLICY, soft=soft)
    for seed, scale in ((0, 1.0), (1, 0.05), (2, 8.0)):
        words, temperature = micro.noise(seed)[1][0], torch.tensor([0.7])
        hidden = streamed.rows(seed, scale)
        with torch.no_grad():
            found = streamed.eager(model, policy, hidden, words, temperature)
            assert worst(found, streamed.naive(model, policy, hidden, words, temperature)) < 2e-3
            assert worst(found, streamed.naive(model, policy, hidden, words.flip(0), temperature)) == float("inf")


@pytest.mark.parametrize("vocab", [300, 1030])
def test_draws_from_the_first_block_to_the_last(vocab: int) -> None:
    """The lowest and the highest words draw from both ends of a flat distribution; a block too far is noticed."""
    model = streamed.model(vocab, "fp32")
    words = torch.zeros(2, streamed.N, dtype=torch.int64)
    words[0, 1::2] = 2**32 - 1
    hidden, temperature = torch.zeros(1, streamed.N, micro.CONFIG.hidden_size), torch.tensor([0.5])
    policy = replace(POLICY, entropy_bound=1e6)
    with torch.no_grad():
        canvas = streamed.eager(model, policy, hidden, words, temperature)[0][0]
    assert canvas.tolist() == [0, vocab - 1] * (streamed.N // 2)


def test_the_maximum_may_grow_and_shrink_between_tiles() -> None:
    """Logits that rise, or fall, by tiles: weights of earlier ones are scaled again, and may vanish."""
    model = streamed.model(1030, "fp32")
    weight = model.embed_tokens.weight
    for slope in (1.0, -1.0):
        with torch.no_grad():
            weight.copy_(torch.linspace(-1, 1, 1030)[:, None].expand_as(weight) * slope)
            hidden = torch.full((1, streamed.N, weight.shape[1]), 3.0)  # logits from −30 to 30 and back, tempered ±75
            arguments = (model, POLICY, hidden, micro.noise(3)[1][0], torch.tensor([0.4]))
            assert worst(streamed.eager(*arguments), streamed.naive(*arguments)) < 1e-3


def test_parts_of_the_inverse_cdf_are_the_whole() -> None:
    weights = torch.rand(1, 4, 700)
    u = torch.rand(1, 4, dtype=torch.float64)
    blocks = sampler.in_blocks(weights)
    assert blocks.shape == (1, 4, 3, 256) and torch.equal(blocks.flatten(-2)[..., :700], weights)
    block, before, target = sampler.draw_block(blocks.sum(-1), u)
    inside = blocks.gather(-2, block[..., None, None].expand(1, 4, 1, 256)).squeeze(-2)
    drawn = sampler.draw_id(inside, block * 256, before, target, 700)
    assert torch.equal(drawn, sampler.inverse_cdf(weights, u))
    first, before = head.Part([(0, 700)])(
        blocks.unflatten(-1, (-1, head.PART)).sum(-1).flatten(-2), torch.zeros(1, 4, 1), block, before, target
    )
    inside = head.Pick()(weights, first)
    assert torch.equal(sampler.draw_id(inside, first, before, target, 700), drawn)
    assert not torch.equal(sampler.draw_id(inside, first + head.PART, before, target, 700), drawn)


def test_topk_is_the_mean_of_the_likeliest_rows() -> None:
    model = micro.model()
    logits = torch.randn(1, 2, micro.VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        found = model.soft_embed(logits, 2)[0, 0]
        ids = logits[0, 0].argsort(descending=True)[:2]
        shares = logits[0, 0, ids].exp() / logits[0, 0, ids].exp().sum()
        wanted = (shares[:, None] * model.embed_tokens.weight[ids]).sum(0) * model.embed_scale
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-3)
        assert torch.allclose(model.soft_embed(logits, micro.VOCAB), model.soft_embed(logits), rtol=1e-3, atol=2e-2)
        assert not torch.allclose(found, model.soft_embed(logits)[0, 0], rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("soft", ["", "topk", "topk:", "topk:0", "topk:1025", "topk:-1", "topk:2.0", "Exact", "16"])
def test_bad_soft_policies_are_refused(soft: str) -> None:
    with pytest.raises(UsageError, match="soft"):
        SamplerConfig(soft=soft)


def test_a_bad_option_is_named() -> None:
    with pytest.raises(UsageError, match="--soft 'topk:0' must be exact, or topk:K with K between 1 and 1024"):
        request.check("2b", engines=("onnx",), random_weights=0, soft="topk:0")
    assert request.check("2b", engines=("onnx",), random_weights=0, soft="topk:16").sampler.top_k == 16


def test_a_policy_without_soft_is_exact() -> None:
    """Bundles of format 1 have none."""
    old = {key: value for key, value in SamplerConfig().to_dict().items() if key != "soft"}
    assert SamplerConfig.from_dict(old).top_k is None
    assert SamplerConfig.from_dict({**old, "soft": "topk:16"}).top_k == 16


@pytest.mark.parametrize(("size", "count"), [(512, 1), (512, 7), (512, 8), (512, 9), (300, 7), (16, 1), (1, 1), (4096, 64)])
def test_the_likeliest_are_found_by_groups(size: int, count: int) -> None:
    logits = torch.randn(1, 5, size, generator=torch.Generator().manual_seed(size + count))
    best, ids = head.likeliest(logits, count)
    wanted = logits.topk(count, dim=-1)
    assert torch.equal(best, wanted.values) and torch.equal(ids, wanted.indices)


@pytest.mark.parametrize("top_k", [None, 1, 7])
def test_the_reference_embeds_alike(top_k: int | None) -> None:
    jnp = pytest.importorskip("jax.numpy")
    from dgemma.reference.denoiser import soft_embed

    model = micro.model()
    logits = torch.randn(1, 3, micro.VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        wanted, other = (model.soft_embed(logits, k)[0].numpy() for k in (top_k, 2))
    weights = {"embed": jnp.asarray(model.embed_tokens.weight.detach().numpy())}
    found = soft_embed(weights, micro.CONFIG, jnp.asarray(logits[0].numpy()), top_k)  # type: ignore[arg-type]
    assert abs(wanted - found).max() < 2e-3 < abs(other - found).max()
