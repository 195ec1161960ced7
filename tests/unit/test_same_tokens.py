"""Each kind of difference between two trajectories is found, named, and measured; and eager logits belong to their row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgemma.benchmarks.studies.same_tokens import Report, read_prompts
from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.noise import step_words, uniform_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.verify.divergence import Divergence, accept_margin, first_divergence, sample_margin
from dgemma.verify.torch_backend import TorchBackend

CONFIG = ModelConfig(
    vocab_size=300, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    global_num_kv_heads=1, global_head_dim=8, sliding_window=6, canvas_length=6,
)  # fmt: skip
SAMPLER = SamplerConfig(steps=4, entropy_bound=8.0)


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> TorchBackend:
    from dgemma.model.checkpoint import random_weights, save

    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    model = random_weights(CONFIG, 3)
    model.embed_tokens.weight.data *= 20
    save(folder, model, SAMPLER)
    return TorchBackend(folder, SAMPLER, CONFIG.canvas_length)


@pytest.fixture(scope="module")
def trajectory(eager: TorchBackend) -> Trajectory:
    """Two canvases."""
    return eager.trajectory([5, 6, 7, 8, 9, 10, 11, 12], seed=1, max_new_tokens=12)


def changed(t: Trajectory, **arrays: Any) -> Trajectory:
    return replace(t, **arrays)


def flip(array: Any, row: int, position: int) -> Any:
    copy = array.copy()
    copy[row, position] = not copy[row, position] if copy.dtype == bool else (copy[row, position] + 1) % 300
    return copy


def test_equal_trajectories_have_no_difference(trajectory: Trajectory) -> None:
    assert first_divergence(trajectory, trajectory, SAMPLER, seed=1) is None


def test_eager_logits_belong_to_their_row_on_every_canvas(eager: TorchBackend, trajectory: Trajectory) -> None:
    assert set(trajectory.canvas_index.tolist()) == {0, 1}
    for row in range(len(trajectory.step)):
        logits = eager.logits(trajectory, row)
        assert np.array_equal(logits.argmax(-1), trajectory.argmax[row])
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        assert np.allclose(-(p * np.log(p + 1e-30)).sum(-1), trajectory.entropy[row], atol=1e-4)


def test_sampled_tokens_lie_in_their_interval_and_others_do_not(eager: TorchBackend, trajectory: Trajectory) -> None:
    row = int(np.flatnonzero(trajectory.accepted.any(-1))[0])
    position = int(np.flatnonzero(trajectory.accepted[row])[0])
    token = int(trajectory.canvas_out[row, position])
    logits = eager.logits(trajectory, row)[position]
    weights = np.exp((logits - logits.max()).astype(np.float64))
    running = np.cumsum(weights) / weights.sum()
    run = SAMPLER.steps - int(trajectory.step[row]) + 1
    word = step_words(1, int(trajectory.canvas_index[row]), run, CONFIG.canvas_length)[0, position : position + 1]
    u = float(uniform_from_word(word)[0])
    assert np.searchsorted(running, u, side="right") == token  # the noise stream that margins assume is the right one
    assert sample_margin(logits, token, u) <= (running[token] - (running[token - 1] if token else 0)) / 2


def test_an_argmax_flip_is_measured_in_logits(eager: TorchBackend, trajectory: Trajectory) -> None:
    other = changed(trajectory, argmax=flip(trajectory.argmax, 1, 3))
    found = first_divergence(trajectory, other, SAMPLER, seed=1, logits=eager.logits)
    assert found is not None
    assert (found.rule, found.row, found.position) == ("argmax", 1, 3)
    best = np.sort(eager.logits(trajectory, 1)[3])
    assert found.margin == pytest.approx(float(best[-1] - best[-2]))
    blind = first_divergence(trajectory, other, SAMPLER, seed=1)
    assert blind is not None
    assert blind.margin is None
    assert blind.is_near_tie is None


def test_an_acceptance_flip_is_measured_in_nats(trajectory: Trajectory) -> None:
    found = first_divergence(trajectory, changed(trajectory, accepted=flip(trajectory.accepted, 0, 2)), SAMPLER, seed=1)
    assert found is not None
    assert (found.rule, found.row, found.position) == ("accept", 0, 2)
    assert found.margin == pytest.approx(accept_margin(trajectory.entropy[0], 2, SAMPLER.entropy_bound))


def test_accept_margin_sums_what_is_ahead() -> None:
    entropy = np.array([0.5, 0.25, 0.5, 1.0], np.float32)
    assert accept_margin(entropy, 1, 0.1) == pytest.approx(0.1)  # nothing ahead
    assert accept_margin(entropy, 2, 0.8) == pytest.approx(0.05)  # 0.25, and 0.5 at the lower index
    assert accept_margin(np.array([0.5, 0.25, 0.75], np.float32), 0, 0.3) == pytest.approx(0.05)  # 0.25 alone


def test_accept_margin_counts_a_change_of_order() -> None:
    entropy = np.array([0.5, 0.25, 0.5, 1.0], np.float32)
    assert accept_margin(entropy, 0, 0.3) == 0.0  # behind its equal, it would not be accepted
    late = np.array([0.01, 0.9, 0.905], np.float32)
    assert accept_margin(late, 2, 0.1) == pytest.approx(0.005, abs=1e-6)  # 0.91 ahead of it, but for 0.005 only 0.01
    assert accept_margin(late, 1, 0.1) == pytest.approx(0.005, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_a_decision_flips_at_its_accept_margin_and_not_before(seed: int) -> None:
    generator = np.random.default_rng(seed)
    entropy, bound = generator.exponential(0.1, 8), 0.3

    def accepted(e: Any, position: int) -> bool:
        index = np.arange(len(e))
        return bool(e[(e < e[position]) | ((e == e[position]) & (index < position))].sum() <= bound)

    for position in range(8):
        margin = accept_margin(entropy, position, bound)
        for scale, flips in ((1.001, True), (0.999, False)):
            moved = [entropy.copy() for _ in range(2)]
            moved[0][position] += margin * scale * (1 if accepted(entropy, position) else -1)
            own = accepted(moved[0], position) != accepted(entropy, position)
            ahead = entropy[(entropy < entropy[position])].sum()
            total = abs(ahead - bound) <= margin * scale  # the entropies ahead of it move instead
            assert (own or total) == flips


def test_a_flipped_sample_needs_acceptance_and_logits(eager: TorchBackend, trajectory: Trajectory) -> None:
    row = int(np.flatnonzero(trajectory.accepted.any(-1))[0])
    position = int(np.flatnonzero(trajectory.accepted[row])[0])
    other = changed(trajectory, canvas_out=flip(trajectory.canvas_out, row, position))
    found = first_divergence(trajectory, other, SAMPLER, seed=1, logits=eager.logits)
    assert found is not None
    assert found.rule == "sample"
    assert found.margin is not None


def test_wrong_noise_is_never_a_near_tie(trajectory: Trajectory) -> None:
    found = first_divergence(trajectory, changed(trajectory, canvas_in=flip(trajectory.canvas_in, 0, 0)), SAMPLER, seed=1)
    assert found is not None
    assert (found.rule, found.is_near_tie) == ("host", None)
    tokens = trajectory.tokens.copy()
    tokens[-1] += 1
    found = first_divergence(trajectory, changed(trajectory, tokens=tokens), SAMPLER, seed=1)
    assert found is not None
    assert found.rule == "host"


def test_an_early_stop_is_measured_at_the_threshold(trajectory: Trajectory) -> None:
    names = ("canvas_index", "step", "temperature", "canvas_in", "argmax", "entropy", "accepted", "canvas_out")
    shorter = changed(trajectory, **{name: getattr(trajectory, name)[:-1] for name in names})
    found = first_divergence(trajectory, shorter, SAMPLER, seed=1)
    assert found is not None
    assert (found.rule, found.row, found.position) == ("stop", len(shorter.step) - 1, None)
    mean = float(trajectory.entropy[found.row].mean(dtype=np.float64))
    assert found.margin == pytest.approx(abs(mean - SAMPLER.confidence_threshold))


def test_trajectories_of_two_prompts_are_refused(trajectory: Trajectory) -> None:
    with pytest.raises(UsageError, match="different prompts"):
        first_divergence(trajectory, changed(trajectory, prompt_ids=trajectory.prompt_ids + 1), SAMPLER, seed=1)


def test_the_report_counts_and_does_not_excuse_wide_margins() -> None:
    def difference(margin: float | None) -> Divergence:
        return Divergence(row=0, canvas=0, step=4, rule="accept", position=1, margin=margin, entropy_error=1e-6)

    report = Report(first="onnx/host")
    report.add("torch", "p", 0, None, True, 1, 3)
    report.add("torch", "p", 1, difference(1e-6), True, 1, 2)
    report.add("torch", "p", 2, difference(0.5), False, 2, 4)
    report.add("torch", "p", 3, difference(None), False, 1, 2)
    assert report.steps == {"torch": 11}
    assert (report.compared, report.equal, report.same_tokens) == ({"torch": 4}, {"torch": 1}, {"torch": 2})
    assert (report.canvases, report.equal_canvases) == ({"torch": 5}, {"torch": 1})
    assert report.unexplained == 2
    report.rounded = ["torch"]
    assert report.unexplained == 0
    assert report.to_dict()["differences"][0]["near_tie"] is True


def test_prompts_are_drawn_evenly_and_bad_lines_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "p{i}"}}\n' for i in range(10)))
    assert read_prompts(file, 5) == ["p0", "p2", "p4", "p6", "p8"]
    assert len(read_prompts(file, 99)) == 10
    file.write_text('{"prompt": "a"}\n{}\n')
    with pytest.raises(UsageError, match=r"prompts\.jsonl:2:"):
        read_prompts(file, 5)
