"""Distillation on a micro model: the teacher's canvases, the student's steps, a run that learns and resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import pytest
import torch

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.messages import Message
from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.train import data, distill
from dgemma.train.data import Row, collate
from dgemma.train.distill import DistillOptions, distilling
from dgemma.train.loop import STATE
from dgemma.train.optimizers import is_muons
from dgemma.train.options import Optimizer

POLICY = SamplerConfig(steps=6, entropy_bound=4.0, confidence_threshold=1.0)
OPTIONS = DistillOptions(
    denoising_steps=2, temperature=(0.5, 0.2), steps=4, batch=4, evaluate_every=2, save_seconds=0.0, held_out_share=0.2
)


def speak(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[data.Exchange]:
    asked, answered = (str(message.content).encode() for message in messages)
    return [([2, *asked], [*answered, 1])]


def row(prefix: Sequence[int], canvas: Sequence[int] = (5,)) -> Row:
    return Row(prefix, canvas, len(prefix), 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = micro.save(tmp_path / "ckpt", policy=POLICY)
    (made / "chat_template.jinja").write_text("template")
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    turns = [[{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"it is {i}"}] for i in range(10)]
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    return path


def teacher(student: Denoiser | None = None, *, steps: int = 3, first_step_share: float = 1.0) -> distill.Teacher:
    few = replace(POLICY, steps=steps)
    model = micro.model()
    return distill.Teacher(
        model=model, policy=POLICY, student=student or model, few=few, first_step_share=first_step_share
    )  # fmt: skip


def test_the_teachers_canvas_is_a_function_of_prefix_and_noise() -> None:
    rows = [row([2, 70, 71]), row([2, *range(60, 80)]), row([2, 70, 71], (9, 9))]
    one, again = (teacher().teach(rows, torch.Generator().manual_seed(3)) for _ in range(2))
    other = teacher().teach(rows, torch.Generator().manual_seed(4))
    assert one == again
    assert [taught.prefix for taught in one] == [tuple(r.prefix) for r in rows]
    assert all(a.noise != b.noise and list(a.canvas) != list(b.canvas) for a, b in zip(one, other, strict=True))
    assert all(taught.soft is None for taught in one)


def test_a_later_step_begins_with_what_the_student_made_of_the_noise() -> None:
    """Against one row at a time through the model's own passes."""
    student, rows = micro.model(seed=9), [row([2, 70 + i]) for i in range(5)]
    few = replace(POLICY, steps=3)
    taught = teacher(student, first_step_share=0.0).teach(rows, torch.Generator().manual_seed(3))
    noise = torch.randint(0, student.config.vocab_size, (5, micro.N), generator=torch.Generator().manual_seed(3))
    behind_one = list[bool]()
    for i, one in enumerate(taught):
        _, kv = student.encode(torch.tensor([list(one.prefix)]))
        logits = student.denoise(noise[i : i + 1], torch.zeros(1, micro.N, 32), kv, 2)
        soft = student.soft_embed(logits / few.temperature(3), few.top_k)[0]
        assert one.soft is not None and tuple(noise[i].tolist()) != one.noise
        behind_one.append(torch.allclose(one.soft, soft, atol=1e-3))
    assert set(behind_one) == {True, False}  # the second step and the third, and never the first
    other = teacher(micro.model(seed=10), first_step_share=0.0).teach(rows, torch.Generator().manual_seed(3))
    assert [t.noise for t in other] != [t.noise for t in taught]
    assert not any(t.soft is not None for t in teacher(student, steps=1, first_step_share=0.0).teach(rows, torch.Generator()))


def test_lessons_hold_each_canvas_as_often_as_it_is_used() -> None:
    rows = [row([2, 60 + i]) for i in range(100)]
    lessons = distill.Lessons(teacher(), rows, batch=2, uses=2, seed=0)
    first = [taught for step in range(12) for taught in lessons.rows(step)]
    second = [taught for step in range(12, 24) for taught in lessons.rows(step)]
    third = lessons.rows(24)
    assert sorted(map(repr, first)) == sorted(map(repr, second)) and not {repr(t) for t in third} & {repr(t) for t in first}
    assert distill.Lessons(teacher(), rows, batch=2, uses=2, seed=0).rows(13) == lessons.rows(13)


def test_a_restored_lesson_is_the_one_that_was_dealt_out() -> None:
    """Its later steps are of a student that has learned since."""
    rows, student = [row([2, 60 + i]) for i in range(100)], micro.model()
    lessons = distill.Lessons(teacher(student, first_step_share=0.5), rows, batch=2, uses=2, seed=0)
    lessons.rows(0)
    state = lessons.state()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.5)
    again = distill.Lessons(teacher(student, first_step_share=0.5), rows, batch=2, uses=2, seed=0)
    again.restore(state)
    for one, other in zip(lessons.rows(13), again.rows(13), strict=True):
        assert isinstance(one, distill.Taught) and isinstance(other, distill.Taught) and one == other
        assert (one.soft is None) == (other.soft is None)
        assert one.soft is None or (other.soft is not None and torch.equal(one.soft, other.soft))
    assert distill.Lessons(teacher(student, first_step_share=0.5), rows, batch=2, uses=2, seed=0).rows(13) != lessons.rows(13)


@pytest.mark.parametrize("first_step_share", [1.0, 0.0])
def test_a_step_is_measured_on_its_canvas_and_what_it_sees_of_the_one_before(first_step_share: float) -> None:
    student = micro.model()
    school = teacher(student, steps=2, first_step_share=first_step_share)
    taught = school.teach([row([2, 70, 71]), row([2, 80, 81])], torch.Generator().manual_seed(0))
    batch, none = collate(taught, 0, micro.N), torch.zeros(micro.N, 32)
    noise = torch.tensor([t.noise for t in taught])
    soft = torch.stack([none if t.soft is None else t.soft for t in taught])
    found, _ = distill.losses(student, batch, noise, soft)
    naive = 0.0
    for t, seen, target in zip(taught, soft, batch.canvas, strict=True):
        _, kv = student.encode(torch.tensor([list(t.prefix)]))
        logits = student.denoise(torch.tensor([t.noise]), seen[None], kv, len(t.prefix))
        naive += float(torch.nn.functional.cross_entropy(logits[0], target)) / 2
    assert float(found) == pytest.approx(naive, rel=1e-4)
    assert bool(soft.any()) == (first_step_share == 0.0)


def test_a_student_learns_its_teachers_canvases(folder: Path, file: Path, tmp_path: Path) -> None:
    many = DistillOptions(denoising_steps=1, steps=60, batch=4, uses=5, evaluate_every=60, held_out_share=0.2)
    distilling(folder, file, tmp_path / "out", speak, many).run()
    log = [json.loads(line) for line in (tmp_path / "out/training/log.jsonl").read_text().splitlines()]
    lost = [sum(line["diffusion"] for line in log[1:][part]) for part in (slice(12), slice(-12, None))]
    assert lost[1] < 0.8 * lost[0]
    loaded = checkpoint.load(tmp_path / "out")
    assert loaded.sampler.steps == 1 and loaded.sampler.entropy_bound == POLICY.entropy_bound
    assert (tmp_path / "out/chat_template.jinja").read_text() == "template"


def test_a_killed_run_ends_as_one_that_was_not(folder: Path, file: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distilling(folder, file, whole, speak, OPTIONS).run()
    run = distilling(folder, file, cut, speak, OPTIONS)

    def kill(at: Any) -> None:
        if at.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(kill)
    assert (cut / "training" / STATE).exists()
    distilling(folder, file, cut, speak, OPTIONS, resume=True).run()
    logs = [[json.loads(line) for line in (out / "training/log.jsonl").read_text().splitlines()] for out in (whole, cut)]
    for line in logs[0] + logs[1]:
        line.pop("seconds", None)
    assert logs[0] == logs[1] and len({line["loss"] for line in logs[0][1:]}) == 4


def test_what_cannot_be_is_one_line(folder: Path, file: Path, tmp_path: Path) -> None:
    for wrong, named in (({"denoising_steps": 0}, "--steps 0"), ({"steps": 0}, "--updates 0"), ({"rate": 2.0}, "--rate")):
        with pytest.raises(UsageError, match=named):
            DistillOptions(**wrong)
    with pytest.raises(UsageError, match="exists already"):
        distilling(folder, file, tmp_path, speak, OPTIONS)
    with pytest.raises(CheckpointError, match=r"--student .*not of the shape"):
        distilling(
            folder,
            file,
            tmp_path / "out",
            speak,
            OPTIONS,
            begin=micro.save(tmp_path / "other", replace(micro.CONFIG, num_layers=3, layer_types=())),
        )
    with pytest.raises(CheckpointError, match="no state"):
        distilling(folder, file, tmp_path / "none", speak, OPTIONS, resume=True).run()


def test_muon_leaves_the_self_conditioning_alone_where_it_shall() -> None:
    names = {"self_conditioning.down_proj.weight", "layers.0.mlp.down_proj.weight", "embed_tokens.weight"}
    found = {}
    for policy in (Optimizer(), Optimizer(self_conditioning="adamw"), Optimizer(kind="adamw")):
        found[policy] = {name for name in names if is_muons(name, torch.zeros(2, 2), policy)}
    layer = {"layers.0.mlp.down_proj.weight"}
    assert list(found.values()) == [layer | {"self_conditioning.down_proj.weight"}, layer, set()]
