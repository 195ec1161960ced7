"""`dgemma train` on a micro model: runs that are killed resume bit for bit, and what a file may hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from byte_chat import line, speak

from dgemma.core.errors import TrainingError, UsageError
from dgemma.model import checkpoint
from dgemma.train import config as files
from dgemma.train import records
from dgemma.train.loop import Loop, Measured, Progress
from dgemma.train.runs import Run
from dgemma.train.training import begin, training

SHAPE = {key: value for key, value in micro.CONFIG.to_dict().items() if key not in ("layer_types", "eos_token_ids")}


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """A config as TOML gives it, with its data and texts beside it."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "chat_template.jinja").write_text("template")
    (tmp_path / "chat.jsonl").write_text("".join(line(f"say {i}", f"it is {i}" * (1 + i % 3)) for i in range(24)))
    return {
        "model": {"tokenizer": "texts", **SHAPE},
        "data": {"files": ["chat.jsonl"], "held_out": 0.1},
        "run": {"steps": 5, "batch": 4, "evaluate_every": 2, "save_seconds": 0},
        "optimizer": {"warmup_steps": 2},
    }


def prepared(values: dict[str, Any], folder: Path, out: str, *, resume: bool = False) -> Run:
    config = files.parse(values, folder)
    shape = config.model.config(micro.VOCAB)
    return training(config, shape, folder / "texts", folder / out, speak, resume=resume)


def killed_at(step: int) -> Any:
    def kill(at: Progress) -> None:
        if at.step == step:
            raise SystemExit

    return kill


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": {"kind": "adamw"}, "objective": {"diffusion_weight": 0}},
        {
            "run": {"tokens": 700, "steps": None},
            "objective": {
                "levels": "learned", "pure_noise_share": 0.0, "narrow_share": 0.5, "growing_share": 0.5, "grow_until": 0.5,
                "prompt_dropout": 0.3, "stop_weight": 2.0, "pad_weight": 0.5,
            },
        },
    ],
    ids=["muon", "causal", "every option"],
)  # fmt: skip
def test_a_killed_run_resumes_bit_for_bit(values: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    for section, given in changes.items():
        merged = {**values.get(section, {}), **given}
        values[section] = {key: value for key, value in merged.items() if value is not None}
    whole = prepared(values, tmp_path, "whole").run()
    with pytest.raises(SystemExit):
        prepared(values, tmp_path, "killed").run(killed_at(3))
    outcome = prepared(values, tmp_path, "killed", resume=True).run()
    assert (outcome.step, outcome.tokens, outcome.stopped) == (whole.step, whole.tokens, False) and whole.step >= 4
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert first == second
    logs = [
        [{k: v for k, v in entry.items() if k != "seconds"} for entry in records.read(tmp_path / name / "training")]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1] and [entry["step"] for entry in logs[0]] == list(range(whole.step + 1))
    assert (tmp_path / "whole" / "chat_template.jinja").read_text() == "template"
    assert checkpoint.load(tmp_path / "whole").config == replace(micro.CONFIG)


def test_what_a_run_leaves(values: dict[str, Any], tmp_path: Path) -> None:
    prepared(values, tmp_path, "out").run()
    left = {path.name for path in (tmp_path / "out" / "training").iterdir()}
    assert {records.LOG, records.PICTURE, "config.json"} <= left and "state.pt" not in left
    if records.EVENTS in left:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = EventAccumulator(str(tmp_path / "out" / "training" / records.EVENTS)).Reload()
        held_out = [(event.step, event.value) for event in board.Scalars("held_out")]
        logged = [(e["step"], e["held_out"]) for e in records.read(tmp_path / "out" / "training") if "held_out" in e]
        assert held_out == [(step, pytest.approx(value)) for step, value in logged]
    settings = json.loads((tmp_path / "out" / "training" / "config.json").read_text())
    assert settings["course"]["steps"] == 5 and settings["config"]["run"]["batch"] == 4
    with pytest.raises(UsageError, match="exists already"):
        prepared(values, tmp_path, "out")


def test_minutes_become_tokens_once(values: dict[str, Any], tmp_path: Path) -> None:
    del values["run"]["steps"]
    values["run"]["minutes"] = 0.02
    run = prepared(values, tmp_path, "out")
    tokens = run.course.tokens
    assert tokens
    with pytest.raises(SystemExit):
        run.run(killed_at(1))
    assert prepared(values, tmp_path, "out", resume=True).course.tokens == tokens


def test_training_can_begin_with_other_weights(values: dict[str, Any], tmp_path: Path) -> None:
    micro.save(tmp_path / "begin")
    model = begin(micro.CONFIG, tmp_path / "begin", 0)
    assert torch.equal(model.norm.weight, micro.model().norm.weight) and model.norm.weight.requires_grad
    random = begin(micro.CONFIG, None, 0)
    assert not torch.equal(random.norm.weight, model.norm.weight)


def test_a_loss_that_is_no_number_says_where(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Loop.measure

    def broken(self: Loop, rows: Any, seed: int, *, learn: bool) -> Measured:
        found = inner(self, rows, seed, learn=learn)
        return replace(found, loss=math.nan) if learn and self.step == 2 else found

    monkeypatch.setattr(Loop, "measure", broken)
    with pytest.raises(TrainingError, match=r"step 3: the loss is not a number \(data: chat.jsonl:\d+, .*\[optimizer\]"):
        prepared(values, tmp_path, "out").run()
    checkpoint.load(tmp_path / "out")


def test_exercises_are_a_source_that_resumes(values: dict[str, Any], tmp_path: Path) -> None:
    values["data"] = {"tasks": "tiny"}
    values["model"]["max_position_embeddings"] = 512
    values["run"] |= {"steps": 3, "evaluate_every": 9}
    values["objective"] = {"diffusion_weight": 0}
    run = prepared(values, tmp_path, "whole")
    assert run.plan().rows is None and len(run.held_out) > 100
    run.held_out = run.held_out[:4]
    run.run()
    for resume in (False, True):
        run = prepared(values, tmp_path, "killed", resume=resume)
        run.held_out = run.held_out[:4]
        if resume:
            run.run()
        else:
            with pytest.raises(SystemExit):
                run.run(killed_at(2))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert first == second


def test_a_mixtures_routers_are_balanced_while_it_trains_and_not_after(values: dict[str, Any], tmp_path: Path) -> None:
    values["model"] |= {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
    losses = {}
    for weight in (0.0, 5.0):
        values["objective"] = {"balance_weight": weight}
        run = prepared(values, tmp_path, f"balance {weight}")
        run.plan()
        run.run()
        losses[weight] = records.read(tmp_path / f"balance {weight}" / "training")[-1]["loss"]
        assert not any(module._forward_hooks for module in run.model.modules())
    assert losses[5.0] > losses[0.0] + 1


def test_a_plan_counts_and_changes_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(values, tmp_path, "out")
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    plan = run.plan()
    sizes = sum(p.numel() for p in before.values())
    assert (plan.steps, plan.parameters, plan.trained, plan.state_bytes) == (5, sizes, sizes, 20 * sizes)
    assert plan.rows + plan.held_out >= 24 and plan.step_seconds is not None and plan.tokens > 5 * 4 * micro.N
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    assert not (tmp_path / "out").exists()


def test_several_files_and_a_held_out_one(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text(line("more", "of it"))
    (tmp_path / "held.jsonl").write_text(line("held", "out"))
    values["data"] = {"files": ["chat.jsonl", "more.jsonl"], "held_out": "held.jsonl"}
    run = prepared(values, tmp_path, "out")
    assert [(row.file, row.line) for row in run.held_out] == [("held.jsonl", 1)]
    taken = {row.file for step in range(12) for row in run.source.rows(step)}
    assert taken == {"chat.jsonl", "more.jsonl"} and run.source.size >= 25


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("modle", {}, "unknown key modle; the sections are model, data"),
        ("model", {"hiden_size": 4}, "unknown key model.hiden_size; did you mean hidden_size?"),
        ("model", {"zzz": 4}, "unknown key model.zzz; there are tokenizer, preset"),
        ("model", {"hidden_size": -1}, "model: config value hidden_size=-1 must be a positive integer"),
        ("model", {"preset": "3b"}, "model.preset '3b' is unknown; choose one of 2b"),
        ("model", {"dtype": "int8"}, "model.dtype 'int8': must be float32 or bfloat16"),
        ("data", {"files": []}, "data.files: name at least one file"),
        ("data", {"files": "chat.jsonl"}, "data.files 'chat.jsonl': must be a list"),
        ("data", {"held_out": 2.0}, "data.held_out 2.0: a share"),
        ("data", {"tasks": "tiny"}, "data.files: name at least one file of conversations, or data.tasks, but not both"),
        ("optimizer", {"kind": "sgd"}, "optimizer.kind 'sgd': must be adamw or muon"),
        ("optimizer", {"self_conditioning": "sgd"}, "optimizer.self_conditioning 'sgd': must be adamw or muon"),
        ("optimizer", {"rate": 0.0}, "optimizer.rate 0.0: must be above 0"),
        ("optimizer", {"decay_from": 1.0}, "optimizer.decay_from 1.0"),
        ("optimizer", {"warmup_steps": 0}, "optimizer.warmup_steps 0"),
        ("objective", {"levels": "cosine"}, "objective.levels 'cosine': must be uniform or learned"),
        ("objective", {"narrow_share": 2.0}, "objective.narrow_share 2.0: must be from 0 to 1"),
        ("objective", {"narrow_share": 0.5, "widths": []}, "objective.widths"),
        ("objective", {"stop_weight": -1.0}, "objective.stop_weight -1.0: must be 0 or more"),
        ("objective", {"diffusion_weight": 0.0, "next_token_weight": 0.0}, "nothing to learn"),
        ("run", {"tokens": 5}, "run: give one of steps, tokens and minutes, not steps and tokens"),
        ("run", {"batch": 1}, "run.batch 1: must be from 2 to 4096"),
        ("run", {"batch": 2.5}, "run.batch 2.5: must be a whole number"),
        ("run", {"bfloat16": 1}, "run.bfloat16 1: must be true or false"),
        ("sampler", {"steps": 0}, "steps"),
    ],
)
def test_what_is_wrong_in_a_file(
    values: dict[str, Any], tmp_path: Path, section: str, change: dict[str, Any], message: str
) -> None:
    values[section] = {**values.get(section, {}), **change}
    with pytest.raises(UsageError) as caught:
        prepared(values, tmp_path, "out")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        files.read(tmp_path / "none.toml")
    path = tmp_path / "config.toml"
    path.write_text("[model")
    with pytest.raises(UsageError, match="is not TOML"):
        files.read(path)
    path.write_text("model = 1\n")
    with pytest.raises(UsageError, match=r"config.toml: model: must be a section"):
        files.read(path)
