"""Fine-tuning a micro model: the loss against a naive twin, resume, adapters, data, and what stops a run."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
import torch.nn.functional as F
from byte_chat import STOP, line, speak
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgemma.core.errors import CheckpointError, TrainingError, UsageError
from dgemma.model import checkpoint
from dgemma.model.generate import extend
from dgemma.train import data, loop, lora, objective, passes
from dgemma.train.finetune import finetuning, merge
from dgemma.train.loop import STATE, Loop, flushed_denormals
from dgemma.train.options import FinetuneOptions, Objective
from dgemma.train.original import Original
from dgemma.train.records import LOG
from dgemma.train.runs import Run
from dgemma.train.sources import Order

N = micro.N
OPTIONS = FinetuneOptions(steps=6, batch=4, evaluate_every=2, save_seconds=0.0, held_out_share=0.2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = micro.save(tmp_path / "ckpt")
    (made / "chat_template.jinja").write_text("template")
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(line(f"say {i}", f"it is {i}" * (1 + i % 3)) for i in range(10)))
    return path


def tuned(folder: Path, file: Path, out: Path, **changes: Any) -> Run:
    resume = changes.pop("resume", False)
    return finetuning(folder, file, out, speak, replace(OPTIONS, **changes), resume=resume)


# The objective


def padded(row: data.Row) -> list[int]:
    return [*row.canvas, *[0] * (N - len(row.canvas))]


def naive(model: Any, row: data.Row, t: float, seed: int) -> tuple[float, float]:
    """Both losses of one first step, without padding, position by position."""
    canvas = padded(row)
    n, generator = len(canvas), torch.Generator().manual_seed(seed)
    torch.randperm(1, generator=generator)
    torch.rand(1, generator=generator)
    torch.rand(1, generator=generator)
    noise, uniform = torch.randint(0, micro.VOCAB, (1, n), generator=generator)[0], torch.rand(1, n, generator=generator)[0]
    noisy = [int(noise[i]) if uniform[i] < t else canvas[i] for i in range(n)]
    prefix = extend(model, None, row.prefix)
    logits = model.denoise(torch.tensor([noisy]), torch.zeros(1, n, micro.CONFIG.hidden_size), prefix, len(row.prefix))[0]
    diffusion = [-float(F.log_softmax(logits[i].double(), -1)[canvas[i]]) for i in range(n)]
    hidden, _ = model.encode(torch.tensor([[*row.prefix, *canvas]]))
    said = model.head(hidden)[0].double()
    spoken = [i for i in range(n) if canvas[i] != 0]
    ar = [-float(F.log_softmax(said[len(row.prefix) + i - 1], -1)[canvas[i]]) for i in spoken]
    return sum(diffusion) / n, sum(ar) / len(ar)


def test_the_losses_are_those_of_a_naive_twin() -> None:
    model = micro.model()
    row = data.Row((2, 9, 40, 41, 42, 43, 44, 45, 46, 47, 48), (*range(60, 70), STOP), 11, 1)
    options = Objective(first_step_share=1.0, pure_noise_share=1.0)
    batch = data.collate([row], 0, N)
    found = objective.losses(model, batch, micro.POLICY, options, torch.Generator().manual_seed(5))
    expected = naive(model, row, 1.0, 5)
    assert (float(found.diffusion), float(found.next_token)) == pytest.approx(expected, rel=1e-4)
    assert float(found.diffusion) != pytest.approx(naive(model, row, 0.0, 5)[0], rel=1e-2)
    total = float(found.diffusion) + 0.3 * float(found.next_token)
    assert float(found.total(options)) == pytest.approx(total)


def test_padding_changes_no_row() -> None:
    """The same row alone and beside a longer one, with noise that is the same: none at all."""
    model = micro.model()
    short, long = data.Row((2, 9), (*range(40, 40 + N),), 2, 1), data.Row((2, *range(50, 62)), (*range(70, 70 + N),), 13, 2)

    def per_row(*rows: data.Row) -> Tensor:
        batch = data.collate(rows, 0, N)
        _, kv = passes.encode_batch(model, batch.prefix, batch.valid)
        return passes.denoise_batch(model, batch.canvas, torch.zeros(*batch.canvas.shape, 32), kv, batch.valid)

    both = per_row(short, long)
    torch.testing.assert_close(both[:1], per_row(short), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both[1:], per_row(short), atol=1e-2)


def test_steps_and_rate_follow_data_and_width() -> None:
    options = FinetuneOptions()
    assert options.steps_for(10) == 900 and options.steps_for(16_000) == 6000
    assert options.rate_for(2000) == pytest.approx(3.2e-5) and replace(options, lora=8).rate_for(2000) == pytest.approx(3.5e-4)
    assert options.rate_for(200) == pytest.approx(3.2e-5 * 10)
    assert replace(options, lora=8).rate_for(200) == pytest.approx(3.5e-4 * 10**0.78)
    assert replace(options, lora=8, rate=0.1).rate_for(200) == 0.1
    policy, course = options.optimizer(100, 600), options.course(100)
    factors = [policy.factor(step, course.done(step, 0)) for step in (0, 4, 50)]
    assert factors == pytest.approx([0.2, 0.96, 0.5])


def test_noise_replaces_the_share_that_it_is_told() -> None:
    canvas, generator = torch.full((2, 4000), 7), torch.Generator().manual_seed(0)
    kept = (objective.corrupted(canvas, torch.tensor([0.25, 1.0]), 300, generator) == 7).float().mean(1)
    assert kept.tolist() == pytest.approx([0.75, 1 / 300], abs=0.02)


def test_a_later_step_is_conditioned_on_the_models_own_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = micro.model(), []
    inner = objective.denoise_batch

    def spy(model: Any, canvas: Tensor, soft: Tensor, *rest: Any) -> Tensor:
        seen.append(soft.clone())
        return inner(model, canvas, soft, *rest)

    monkeypatch.setattr(objective, "denoise_batch", spy)
    batch = data.collate([data.Row((2, 9), tuple(range(40, 40 + N)), 2, i) for i in range(4)], 0, N)
    objective.losses(model, batch, micro.POLICY, Objective(), torch.Generator().manual_seed(0))
    assert [len(soft) for soft in seen] == [2, 4]
    assert (seen[0] == 0).all() and sorted((soft == 0).all().item() for soft in seen[1]) == [False, False, True, True]


@pytest.mark.parametrize("adapted", [False, True])
def test_rows_that_are_kept_pull_back_to_the_original_model(adapted: bool) -> None:
    """Where nothing has been learned they pull nowhere, whatever their answers are; their answers themselves would."""
    model = micro.model().requires_grad_(True)
    if adapted:
        lora.attach(model, 4, 0)
    original = Original(model)
    rows = [data.Row((2, 9 + i), tuple(range(40 + i, 52 + i)), 2, i, kept=True) for i in range(4)]

    def pull(rows: list[data.Row]) -> float:
        model.zero_grad()
        batch = data.collate(rows, 0, N)
        found = objective.losses(model, batch, micro.POLICY, Objective(), torch.Generator().manual_seed(0), original=original)
        found.total(Objective()).backward()  # type: ignore[no-untyped-call]
        return sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)

    assert pull(rows) < 1e-3 * pull([replace(row, kept=False) for row in rows])
    assert pull([*rows[:2], replace(rows[2], kept=False)]) > 0
    learned = next(p for name, p in model.named_parameters() if p.requires_grad and name.endswith(("lora_B", "q_proj.weight")))
    with torch.no_grad():
        before = learned.clone()
        learned += 0.1 * torch.randn(learned.shape, generator=torch.Generator().manual_seed(1))
        start = float((learned - before).norm())
    moving = torch.optim.SGD([learned], lr=0.05)
    for _ in range(20):
        pull(rows)
        moving.step()
    assert float((learned.detach() - before).norm()) < start


@pytest.mark.parametrize("adapted", [False, True])
def test_kept_rows_count_so_many_times(adapted: bool) -> None:
    """Both losses are sums over rows, and what kept rows come to in them is multiplied."""
    model = micro.model()
    if adapted:
        lora.attach(model, 4, 0)
    rows = [data.Row((2, 9 + i), tuple(range(40 + i, 52 + i)), 2, i, kept=i > 1) for i in range(4)]
    batch = data.collate(rows, 0, N)

    def found(weight: float) -> Tensor:
        one = objective.losses(
            model, batch, micro.POLICY, Objective(), torch.Generator().manual_seed(0), original=Original(model, weight)
        )
        return torch.stack([one.diffusion, one.next_token])

    without, once, thrice = found(0.0), found(1.0), found(3.0)
    assert (once - without > 0.01).all()
    torch.testing.assert_close(thrice - without, 3 * (once - without))


def test_a_run_weighs_what_is_replayed(folder: Path, file: Path, tmp_path: Path) -> None:
    weights = []
    for name, weight in (("default", None), ("eight", 8.0), ("one", 1.0)):
        options = replace(OPTIONS, steps=2) if weight is None else replace(OPTIONS, steps=2, replay_weight=weight)
        finetuning(folder, file, tmp_path / name, speak, options, replay=file).run()
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


# Data


def test_a_long_answer_takes_several_canvases() -> None:
    first, second = data.canvases([2, 5], list(range(10, 10 + N + 3)), N, 4)
    assert [*first.prefix] == [2, 5] and [*first.canvas] == [*range(10, 10 + N)]
    assert [*second.prefix] == [2, 5, *range(10, 10 + N)] and [*second.canvas] == [10 + N, 11 + N, 12 + N]
    assert [(row.prompt, row.line) for row in (first, second)] == [(2, 4)] * 2
    assert data.collate([second], 0, N).canvas[0, :4].tolist() == [10 + N, 11 + N, 12 + N, 0]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "has no messages"),
        ('{"text": "a"}', "has no messages"),
        ('{"messages": []}', "messages must be a list of at least one"),
        ('{"messages": [{"role": "clown", "content": "a"}]}', "role 'clown' is unknown"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no assistant message"),
        (line("a" * 200, "b"), "positions, the model has 128"),
    ],
)
def test_bad_data_names_file_line_and_reason(bad: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line("a", "b") + "\n" + bad.strip() + "\n")
    with pytest.raises(UsageError, match=reason) as caught:
        data.read(path, speak, micro.CONFIG)
    assert str(caught.value).startswith(f"{path}:3: ") and "\n" not in str(caught.value)


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        data.read(tmp_path / "none", speak, micro.CONFIG)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="holds no conversations"):
        data.read(tmp_path / "empty", speak, micro.CONFIG)
    with pytest.raises(UsageError, match="at least two"):
        data.split([[]], 0.1, 0)


def test_every_row_comes_once_before_any_comes_again() -> None:
    rows = [data.Row((2,), (i,), 1, i) for i in range(7)]
    order = Order(rows, 3)
    taken = [row.line for row in order.take(0, 21)]
    assert [sorted(taken[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert taken[:7] != taken[7:14] and [row.line for row in Order(rows, 3).take(5, 4)] == taken[5:9]


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch": 1}, {"lora": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"seed": -1}])
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(bad))} "):
        FinetuneOptions(**bad)


# Runs


def test_a_killed_run_resumes_bit_for_bit(folder: Path, file: Path, tmp_path: Path) -> None:
    tuned(folder, file, tmp_path / "whole").run()
    killed = tmp_path / "killed"

    def kill(at: loop.Progress) -> None:
        if at.step == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        tuned(folder, file, killed).run(kill)
    assert not (killed / "model.safetensors").exists() and (killed / "training" / STATE).exists()
    outcome = tuned(folder, file, killed, resume=True).run()
    assert (outcome.step, outcome.stopped) == (6, False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1] != (folder / "model.safetensors").read_bytes()
    logs = [
        [{k: v for k, v in json.loads(text).items() if k != "seconds"} for text in (path / "training" / LOG).open()]
        for path in (tmp_path / "whole", killed)
    ]
    assert logs[0] == logs[1] and [entry["step"] for entry in logs[0]] == [0, 1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in logs[0] if "held_out" in entry] == [0, 2, 4, 6]
    assert (killed / "chat_template.jinja").read_text() == "template" and not (killed / "training" / STATE).exists()
    checkpoint.load(killed)


def test_a_state_of_other_options_is_refused(folder: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="no state to continue from"):
        tuned(folder, file, out, resume=True).run()

    def stop(at: loop.Progress) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        tuned(folder, file, tmp_path / "other").run(stop)
    with pytest.raises(CheckpointError, match="different --seed"):
        tuned(folder, file, tmp_path / "other", seed=1, resume=True).run()
    with pytest.raises(UsageError, match="exists already"):
        tuned(folder, file, tmp_path / "other")
    (tmp_path / "other" / "training" / STATE).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tuned(folder, file, tmp_path / "other", resume=True).run()


def test_ctrl_c_writes_a_checkpoint_and_a_state(folder: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupt(at: loop.Progress) -> None:
        if at.step == 2:
            signal.raise_signal(signal.SIGINT)

    outcome = tuned(folder, file, out).run(interrupt)
    assert outcome.stopped and outcome.step == 2 and (out / "training" / STATE).exists()
    checkpoint.load(out)
    assert tuned(folder, file, out, resume=True).run().step == 6


def test_a_loss_that_is_no_number_keeps_the_best_weights(
    folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, out = Loop.measure, tmp_path / "out"

    def broken(self: Loop, rows: Any, seed: int, *, learn: bool) -> loop.Measured:
        found = inner(self, rows, seed, learn=learn)
        return replace(found, loss=float("nan")) if learn and self.step == 4 else found

    monkeypatch.setattr(Loop, "measure", broken)
    with pytest.raises(TrainingError, match=r"step 5: the loss is not a number \(data: chat.jsonl:.*are in .*lower --rate"):
        tuned(folder, file, out).run()
    checkpoint.load(out)


def test_it_learns(folder: Path, file: Path, tmp_path: Path) -> None:
    for rank in (None, 4):
        out = tmp_path / f"rank {rank}"
        run = tuned(folder, file, out, steps=40, evaluate_every=20, rate=0.01, lora=rank)
        seen: list[float] = []
        best = run.run(lambda at, seen=seen: seen.append(at.held_out)).held_out  # type: ignore[misc]
        assert best < 0.8 * seen[0]


# Adapters


def test_a_fresh_adapter_changes_nothing_and_a_merged_one_is_equal(folder: Path, file: Path, tmp_path: Path) -> None:
    adapted, tokens = micro.model(), torch.tensor([micro.prompt(12)])
    before = adapted.encode(tokens)[0]
    lora.attach(adapted, 4, 0)
    assert torch.equal(adapted.encode(tokens)[0], before)
    run = tuned(folder, file, tmp_path / "adapter", lora=4, rate=0.01, steps=20)
    run.run()
    trained = run.model
    config = json.loads((tmp_path / "adapter" / lora.CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    changed = merge(folder, tmp_path / "adapter", tmp_path / "merged")
    merged = checkpoint.load(tmp_path / "merged").model
    assert changed == len(lora.targets(merged))
    with torch.no_grad():
        names = lora.targets(merged)
        base = checkpoint.load(folder).model
        tensors = load_file(tmp_path / "adapter" / lora.WEIGHTS)
        for name, linear in names.items():
            a, b = (tensors[f"base_model.model.model.decoder.{name}.lora_{x}.weight"] for x in "AB")
            torch.testing.assert_close(linear.weight, base.get_submodule(name).weight + 2.0 * b @ a)
            wrapped = trained.get_submodule(name)
            wrapped.lora_A.copy_(a), wrapped.lora_B.copy_(b)
        torch.testing.assert_close(merged.encode(tokens)[0], trained.encode(tokens)[0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(merged.encode(tokens)[0], base.encode(tokens)[0], atol=1e-2)


def test_adapters_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    named = {"layers.0.self_attn.q_proj.lora_A": torch.ones(4, 32), "layers.0.self_attn.q_proj.lora_B": torch.ones(32, 4)}
    lora.save(adapter, named, 4, "base")
    assert merge(folder, adapter, tmp_path / "good") == 1
    with pytest.raises(UsageError, match="exists already"):
        merge(folder, adapter, tmp_path / "good")

    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            merge(folder, adapter, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    config = json.loads((adapter / lora.CONFIG).read_text())
    for change, match in (({"peft_type": "IA3"}, "only LORA"), ({"use_dora": True}, "use_dora"), ({"r": "x"}, "numbers")):
        (adapter / lora.CONFIG).write_text(json.dumps(config | change))
        refused(match)
    (adapter / lora.CONFIG).write_text(json.dumps(config))
    wrong = "layers.0.self_attn.q_proj.lora_B"
    lora.save(adapter, {**named, wrong: torch.ones(30, 4)}, 4, "base")
    refused("does not fit")
    lora.save(adapter, {**named, wrong: torch.full((32, 4), float("nan"))}, 4, "base")
    refused("NaN")
    lora.save(adapter, {"layers.7.self_attn.q_proj.lora_A": torch.ones(4, 32)}, 4, "base")
    refused("does not belong to this checkpoint")
    lora.save(adapter, named, 4, "base")
    tensors = load_file(adapter / lora.WEIGHTS)
    halves = [name.replace(".decoder.", ".encoder.language_model.") for name in tensors if ".decoder." in name]
    assert len(tensors) == 4 and torch.equal(tensors[halves[0]], named["layers.0.self_attn.q_proj.lora_A"])
    save_file({**tensors, halves[1]: 2 * tensors[halves[1]]}, adapter / lora.WEIGHTS)
    refused("in encoder and decoder differ")
    lora.save(adapter, {}, 4, "base")
    refused("holds no adapter")
    (adapter / lora.WEIGHTS).write_bytes(b"x")
    refused("cannot be read")


def test_denormal_floats_are_as_before_afterwards() -> None:
    """What else runs in the process counts on them."""
    denormal = torch.tensor([1e-40])
    with flushed_denormals():
        assert float(denormal * 1.0) == 0
    assert float(denormal * 1.0) > 0
