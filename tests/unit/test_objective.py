"""Options of the objective, each against a naive twin or what it must do."""

from __future__ import annotations

import math
from dataclasses import replace

import micro
import pytest
import torch
from torch import Tensor

from dgemma.train import data, objective
from dgemma.train.levels import BINS, Levels
from dgemma.train.options import Objective
from dgemma.train.sources import Grouped

N, STOP = micro.N, 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: int = 4) -> data.Batch:
    return data.collate([data.Row((2, 9 + i), (*range(40, 45 + i), STOP), 2, i) for i in range(rows)], 0, N)


# Noise levels


def test_learned_levels_are_drawn_as_often_as_their_loss_is_high_and_weighted_back() -> None:
    levels = Levels(learned=True)

    def loss(t: Tensor) -> Tensor:
        return 0.1 + 4 * t**2

    centres = (torch.arange(BINS) + 0.5) / BINS
    levels.learn(centres, loss(centres))
    t, weights = levels.draw(200_000, generator())
    histogram = torch.bincount((t * BINS).long().clamp(max=BINS - 1), minlength=BINS) / len(t)
    naive = 0.2 + 0.8 * loss(centres) / loss(centres).mean()
    torch.testing.assert_close(histogram * BINS, naive, rtol=0.05, atol=0.01)
    uniform = torch.rand(200_000, generator=generator(1))
    assert float((weights * loss(t)).mean()) == pytest.approx(float(loss(uniform).mean()), rel=0.01)
    assert (weights * loss(t)).std() < 0.5 * loss(uniform).std(), "that is what they are for"


def test_levels_are_uniform_until_every_bin_has_a_loss() -> None:
    levels = Levels(learned=True)
    levels.learn(torch.linspace(0, 0.9, BINS), torch.ones(BINS))
    assert torch.equal(levels.density(), torch.ones(BINS))
    t, weights = levels.draw(1000, generator())
    torch.testing.assert_close(t, Levels(learned=False).draw(1000, generator())[0])
    assert torch.equal(weights, torch.ones(1000))


def test_running_means_follow_the_losses() -> None:
    levels, expected = Levels(learned=True), math.nan
    for loss in (3.0, 1.0, 2.0):
        levels.learn(torch.tensor([0.99]), torch.tensor([loss]))
        expected = loss if math.isnan(expected) else 0.99 * expected + 0.01 * loss
    assert float(levels.mean[-1]) == pytest.approx(expected) and levels.mean[:-1].isnan().all()


# Weights of positions


def test_weights_of_stops_and_pads_are_those_of_a_naive_mean() -> None:
    model, given = micro.model(), batch(2)
    options = Objective(first_step_share=1.0, pure_noise_share=1.0, stop_weight=3.0, pad_weight=0.25)
    found = objective.losses(model, given, micro.POLICY, options, generator(5))
    plain = objective.losses(model, given, micro.POLICY, Objective(first_step_share=1.0, pure_noise_share=1.0), generator(5))

    draws = generator(5)
    torch.randperm(2, generator=draws), torch.rand(2, generator=draws), torch.rand(2, generator=draws)
    noisy = objective.corrupted(given.canvas, torch.ones(2), micro.VOCAB, draws)
    _, kv = objective.encode_batch(model, given.prefix, given.valid)
    logits = objective.denoise_batch(model, noisy, torch.zeros(2, N, 32), kv, given.valid).log_softmax(-1)
    means = []
    for row in range(2):
        total = count = 0.0
        for i, token in enumerate(given.canvas[row].tolist()):
            weight = 3.0 if token == STOP else 0.25 if token == 0 else 1.0
            total, count = total - weight * float(logits[row, i, token]), count + weight
        means.append(total / count)
    assert float(found.diffusion) == pytest.approx(sum(means) / 2, rel=1e-4)
    assert float(found.diffusion) != pytest.approx(float(plain.diffusion), rel=1e-3)


# Widths


def test_widths_are_drawn_as_often_as_said() -> None:
    options, draws = Objective(narrow_share=0.5, growing_share=0.25, widths=(2, 4)), generator()
    drawn = [objective.draw_widths(N, options, draws) for _ in range(2000)]
    assert sum(width < N for width, _ in drawn) / 2000 == pytest.approx(0.5, abs=0.04)
    assert {width for width, _ in drawn} == {2, 4, N}
    assert sum(before < width for width, before in drawn) / 2000 == pytest.approx(0.25, abs=0.04)
    assert all(before in (width, width // 2) for width, before in drawn)
    assert objective.draw_widths(N, Objective(), draws) == (N, N)


def test_canvases_grow_from_one_position_to_all() -> None:
    options = Objective(grow_until=0.5)
    grown = [objective.widest(N, options, done / 100) for done in range(0, 101, 5)]
    assert grown[0] == 1 and grown == sorted(grown) and set(grown) == {1, 2, 4, 8, 16}
    assert objective.widest(N, options, 0.5) == N == objective.widest(N, Objective(), 0.0)


def test_a_narrow_batch_sees_the_first_positions_alone() -> None:
    model, given = micro.model(), batch()
    options = Objective(first_step_share=1.0, grow_until=1.0)
    changed = replace(given, canvas=given.canvas.clone())
    changed.canvas[:, 4:] = 77

    def diffusion(of: data.Batch, done: float) -> float:
        return float(objective.losses(model, of, micro.POLICY, options, generator(), done=done).diffusion)

    assert diffusion(given, 0.5) == pytest.approx(diffusion(changed, 0.5), rel=1e-5)  # the prefix may be padded otherwise
    assert diffusion(given, 1.0) != pytest.approx(diffusion(changed, 1.0), rel=1e-3)


# The rest


def test_a_dropped_prompt_keeps_its_first_id_and_the_canvases_before() -> None:
    row = data.Row((2, 5, 6, 70, 71), (72, STOP), 3, 9, "file")
    assert data.dropped(row, True) == data.Row([2, 70, 71], (72, STOP), 1, 9, "file")
    assert data.dropped(row, False) is row


def test_a_causal_objective_runs_no_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(objective, "denoise_batch")
    found = objective.losses(micro.model(), batch(), micro.POLICY, Objective(diffusion_weight=0.0), generator())
    assert float(found.diffusion) == 0 and found.exact == (None,) * 4
    assert float(found.next_token) > 0


def test_only_later_steps_of_whole_canvases_tell_whether_they_are_exact() -> None:
    found = objective.losses(micro.model(), batch(), micro.POLICY, Objective(first_step_share=0.5), generator())
    assert sorted(value is None for value in found.exact) == [False, False, True, True]
    narrow = Objective(first_step_share=0.0, narrow_share=1.0)
    found = objective.losses(micro.model(), batch(), micro.POLICY, narrow, generator())
    assert found.exact == (None,) * 4


def test_grouped_batches_hold_every_row_once_and_rows_of_similar_lengths() -> None:
    rows = [data.Row((2,) * (1 + 7 * i % 96), (5,), 1, i) for i in range(96)]
    source = Grouped(rows, 8, 3)
    steps = [source.rows(step) for step in range(12)]
    assert sorted(row.line for step in steps for row in step) == list(range(96))
    spreads = [max(lengths) - min(lengths) for step in steps if (lengths := [len(row.prefix) for row in step])]
    assert max(spreads) <= 8
    assert [row.line for row in Grouped(rows, 8, 3).rows(17)] == [row.line for row in source.rows(17)]
    assert [[row.line for row in step] for step in steps] != [[r.line for r in Grouped(rows, 8, 4).rows(i)] for i in range(12)]
