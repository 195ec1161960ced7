"""How tiny-moe begins: from tiny's weights, with half of each MLP as experts, and a loss that keeps experts in use."""

from __future__ import annotations

import pytest
import torch
from fake_bundle import MODEL_CONFIG
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.model.denoiser import Denoiser
from dgemma.train.balance import Balance
from dgemma.train.optimizers import initialize
from dgemma.train.tiny import experts

DENSE = ModelConfig.from_dict({**MODEL_CONFIG.to_dict(), "intermediate_size": 4 * experts.EXPERT_WIDTH})


@pytest.fixture(scope="module")
def dense() -> Denoiser:
    model = Denoiser(DENSE)
    initialize(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def mixture(dense: Denoiser) -> Denoiser:
    return experts.from_dense(dense, torch.Generator().manual_seed(0))


def test_a_position_computes_as_many_channels_as_before(dense: Denoiser, mixture: Denoiser) -> None:
    config = mixture.config
    assert config.num_experts == 8 and config.top_k_experts == 2
    assert config.intermediate_size + 2 * (config.moe_intermediate_size or 0) == dense.config.intermediate_size


def test_the_dense_channels_stay_and_experts_begin_near_the_rest(dense: Denoiser, mixture: Denoiser) -> None:
    old, new = dense.layers[0], mixture.layers[0]
    half, width = DENSE.intermediate_size // 2, experts.EXPERT_WIDTH
    assert torch.equal(new.mlp.up_proj.weight, old.mlp.up_proj.weight[:half])
    assert torch.equal(new.mlp.down_proj.weight, old.mlp.down_proj.weight[:, :half])
    assert torch.equal(new.self_attn.q_proj.weight, old.self_attn.q_proj.weight)
    for e, channels in ((0, slice(half, half + width)), (5, slice(half + width, half + 2 * width))):
        taken = torch.cat([old.mlp.gate_proj.weight[channels], old.mlp.up_proj.weight[channels]])
        off = (new.experts.gate_up_proj[e] - taken).detach()
        assert float(off.std() / taken.detach().std()) == pytest.approx(experts.APART, rel=0.1)
    assert not torch.equal(new.experts.down_proj[0], new.experts.down_proj[2])


def test_balance_is_one_where_all_experts_are_used_alike_and_more_where_a_few_take_all(mixture: Denoiser) -> None:
    balance = Balance(mixture)
    router, x = mixture.layers[0].router, torch.randn(4096, DENSE.hidden_size, generator=torch.Generator().manual_seed(1))
    weight = router.proj.weight.detach().clone()

    def of(changed: Tensor) -> float:
        with torch.no_grad():
            router.proj.weight.copy_(changed)
            router(x)
        assert balance.take().item() == 0, "passes without gradient do not count"
        router(x.unflatten(0, (64, -1)))  # as in a batch
        return balance.take().item()

    even = of(torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)) * 1e-3)
    direction = x.mean(0) + 1e-6
    with torch.no_grad():
        x += 10 * direction / direction.norm()
    one = torch.zeros_like(weight)
    one[0], one[1] = 50 * direction / direction.norm(), 50 * direction / direction.norm()
    few = of(one)
    router.proj.weight.data.copy_(weight)
    assert even == pytest.approx(1.0, abs=0.01) and few == pytest.approx(8 / 2, rel=0.05)
    balance.remove()
    router(x)
    assert not balance.losses


def test_the_loss_pulls_towards_even_use(mixture: Denoiser) -> None:
    balance = Balance(mixture)
    router = mixture.layers[1].router
    x = torch.randn(512, DENSE.hidden_size, generator=torch.Generator().manual_seed(1)) + 0.5
    losses = list[float]()
    for _ in range(60):
        router(x)
        loss = balance.take()
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, [router.proj.weight])
        with torch.no_grad():
            router.proj.weight -= 2.0 * gradient
    assert losses[-1] < losses[0] - 0.02
