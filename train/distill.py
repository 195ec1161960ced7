"""Distillation to few denoising steps: a student learns to make at once of noise what its teacher's whole loop makes of it.

Predictions of one step are independent of each other, so choices that must agree cannot fall in one step, unless something
that all positions see decides them. Here that is the noise that the canvas begins as: the teacher draws with it
(`rollout.coupled_words`), so its last canvas follows from the first, and a student can learn how. As other
seeds give other noise, the student's answers stay as different as the teacher's. B rows, N canvas, V vocabulary, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.errors import UsageError
from dgemma.core.manifest import sha256_file
from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model import sampler as sampling
from dgemma.model.denoiser import Denoiser
from dgemma.train import data
from dgemma.train.data import Batch, Row
from dgemma.train.finetune import stored_dtype
from dgemma.train.loop import Loop, Measured
from dgemma.train.options import MOST_SEED, Course, Objective, Optimizer
from dgemma.train.passes import denoise_batch, encode_batch
from dgemma.train.rollout import coupled_words, denoise_rows
from dgemma.train.runs import Run, check_out, write_checkpoint
from dgemma.train.sources import GROUPS, Order, Stateless, dealt

MOST_STEPS = 16  # that a student may be given
_AT_ONCE = 64  # rows of the teacher's loop


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Defaults are for a model of a million parameters.

    Args:
        denoising_steps: K that the student takes for a canvas at most.
        steps: of the optimizer.
        batch: canvases of a step.
        rate: highest learning rate of AdamW, for embedding and norms; Muon's for the matrices is seven times that.
        uses: how often each of the teacher's canvases is learned from, at another of the student's steps.
        first_step_share: of rows, which learn the first step; the others a later one.
        next_token_weight: of the encoder's loss on the teacher's canvases, so that it still decodes token by token.
    """

    denoising_steps: int = 4
    steps: int = 2000
    batch: int = 32
    rate: float = 1.5e-3
    uses: int = 3
    first_step_share: float = 0.5
    next_token_weight: float = 0.3
    held_out_share: float = 0.05
    evaluate_every: int = 100
    save_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("denoising_steps", 1, MOST_STEPS), ("steps", 1, 10**9), ("batch", 2, 4096), ("uses", 1, 100),
            ("seed", 0, MOST_SEED),
        ):  # fmt: skip
            if not least <= (value := getattr(self, name)) <= most:
                said = "steps" if name == "denoising_steps" else "updates" if name == "steps" else name
                raise UsageError(f"--{said} {value}: must be from {least} to {most}")
        if not 0 < self.rate < 1:
            raise UsageError(f"--rate {self.rate}: must be above 0 and below 1")


@dataclass(frozen=True, slots=True)
class Taught(Row):
    """A row whose canvas is what the teacher makes of the noise."""

    noise: tuple[int, ...] = ()


def teach(teacher: Denoiser, policy: SamplerConfig, rows: Sequence[Row], generator: torch.Generator) -> list[Taught]:
    """The teacher's canvases behind the rows' prefixes; their own canvases are not looked at."""
    config, stops = teacher.config, set(teacher.config.eos_token_ids)
    n = config.canvas_length
    noise = torch.randint(0, config.vocab_size, (len(rows), n), generator=generator)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prefix))
    made: dict[int, Taught] = {}
    for start in range(0, len(order), _AT_ONCE):
        places = order[start : start + _AT_ONCE]
        own = noise[places]
        prefixes = [list(rows[i].prefix) for i in places]
        words = coupled_words(own, config.vocab_size, lambda row, run: torch.randint(0, 1 << 32, (2, n), generator=generator))
        found = denoise_rows(teacher, policy, prefixes, own, words)
        for i, canvas in zip(places, found, strict=True):
            end = next((at + 1 for at, token in enumerate(canvas.committed) if token in stops), None)
            row = rows[i]
            made[i] = Taught(row.prefix, canvas.committed[:end], row.prompt, row.line, row.file, canvas.noise)
    return [made[i] for i in range(len(rows))]


class Lessons(Stateless):
    """A dozen batches of the teacher's canvases at a time, dealt out `uses` times, each time in other batches."""

    def __init__(self, teacher: Denoiser, policy: SamplerConfig, rows: Sequence[Row], batch: int, uses: int, seed: int) -> None:
        self.teacher, self.policy, self.order, self.batch, self.uses, self.seed = (
            teacher, policy, Order(rows, seed), batch, uses, seed,
        )  # fmt: skip
        self.size = None
        self._lesson, self._rows = -1, list[Taught]()

    def rows(self, step: int) -> list[Row]:
        round_, index = divmod(step, GROUPS)
        lesson = round_ // self.uses
        if lesson != self._lesson:
            count = self.batch * GROUPS
            generator = torch.Generator().manual_seed((self.seed + 1) * 5_915_587 + lesson)
            taken = self.order.take(lesson * count, count)
            self._lesson, self._rows = lesson, teach(self.teacher, self.policy, taken, generator)
        return dealt(self._rows, self.batch, self.seed, round_)[index]


def losses(
    student: Denoiser, batch: Batch, noise: Tensor, policy: SamplerConfig, first_step_share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """How far each of the student's steps is from the teacher's canvas, and the next-token loss on that canvas.

    Args:
        batch: whose canvases are the teacher's.
        noise: ids [B, N] that they begin as.
        policy: the student's; a row learns one of its steps. What the sampler accepted on the way there is the teacher's.
    """
    rows, n = noise.shape
    pad, vocab = student.config.pad_token_id, student.config.vocab_size
    hidden, kv = encode_batch(student, torch.cat([batch.prefix, batch.canvas], 1), F.pad(batch.valid, (0, n), value=True))
    slots = batch.prefix.shape[1]
    target = batch.canvas.masked_fill(batch.canvas == pad, -100)
    next_token = F.cross_entropy(student.head(hidden[:, slots - 1 : -1]).flatten(0, 1), target.flatten(), ignore_index=-100)
    prefix = [(k[:, :slots], v[:, :slots]) for k, v in kv]
    last = torch.randint(2, policy.steps + 1, (rows,), generator=generator) if policy.steps > 1 else torch.ones(rows)
    last = torch.where(torch.rand(rows, generator=generator) < first_step_share, 1, last.long())
    canvas, soft = noise.clone(), torch.zeros(rows, n, student.config.hidden_size)
    for run in range(1, policy.steps):
        on = (last > run).nonzero().squeeze(1)
        if not len(on):
            break
        with torch.no_grad():
            own = [(k[on].detach(), v[on].detach()) for k, v in prefix]
            tempered = denoise_batch(student, canvas[on], soft[on], own, batch.valid[on])
            tempered = tempered / policy.temperature(policy.steps - run + 1)
            words = torch.randint(0, 1 << 32, (len(on), 2, n), generator=generator)
            done = sampling.step(tempered, words, policy.entropy_bound)
            canvas[on] = torch.where(done.accepted, batch.canvas[on], sampling.tokens(words[:, 1], vocab))
            soft[on] = student.soft_embed(tempered, policy.top_k)
    logits = denoise_batch(student, canvas, soft, prefix, batch.valid)
    return F.cross_entropy(logits.flatten(0, 1), batch.canvas.flatten()), next_token


class DistillLoop(Loop):
    """The loop, with the distillation's losses."""

    def measure(self, rows: Sequence[Row], seed: int, *, learn: bool) -> Measured:
        generator = torch.Generator().manual_seed(seed)
        sums, positions = [0.0, 0.0, 0.0], 0
        for batch, places in self.pieces(rows):
            share = len(places) / len(rows)
            noise = torch.tensor([list(row.noise) for row in (rows[i] for i in places) if isinstance(row, Taught)])
            with torch.set_grad_enabled(learn):
                diffusion, next_token = losses(
                    self.model, batch, noise, self.policy, self.objective.first_step_share, generator
                )  # fmt: skip
                total = (diffusion + self.objective.next_token_weight * next_token) * share
            if learn:
                total.backward()
            for i, value in enumerate((total, diffusion * share, next_token * share)):
                sums[i] += float(value.detach())
            positions += batch.positions
        return Measured(loss=sums[0], diffusion=sums[1], next_token=sums[2], positions=positions, exact=[None] * len(rows))


def distilling(source: Path, path: Path, out: Path, speak: data.Speak, options: DistillOptions, *, resume: bool = False) -> Run:
    """A checked run: the data is read and every line of it usable.

    Args:
        source: checkpoint folder, the teacher; the student begins as it.
        path: conversations; of their answers only whole canvases before the last one are read.
        out: folder to write; must not exist, unless a run there is resumed.
        speak: makes a conversation's ids; see `data`.
    Raises:
        CheckpointError, UsageError: naming file and line, tensor or option.
    """
    check_out(out, resume=resume)
    config, policy = checkpoint.read_config(source)
    rows, held_out = data.split(data.read(path, speak, config), options.held_out_share, options.seed)
    loaded, teacher = checkpoint.load(source), checkpoint.load(source).model.requires_grad_(False).eval()
    student, dtype = loaded.model.requires_grad_(True), stored_dtype(loaded)
    few = replace(policy, steps=options.denoising_steps)
    identity: dict[str, Any] = {
        **{f"--{name.replace('_', '-')}": value for name, value in asdict(options).items() if name != "save_seconds"},
        "checkpoint": "".join(sorted(loaded.files().values())),
        "--data": sha256_file(path),
    }

    def write(tensors: dict[str, Tensor]) -> None:
        write_checkpoint(out, student, few, tensors, source, dtype)

    lessons = Lessons(teacher, policy, rows, options.batch, options.uses, options.seed)
    exam = teach(teacher, policy, data.thinned(held_out), torch.Generator().manual_seed(options.seed))
    return Run(
        out=out, model=student, policy=few, source=lessons, held_out=exam,
        objective=Objective(first_step_share=options.first_step_share, next_token_weight=options.next_token_weight),
        optimizer=Optimizer(self_conditioning="adamw", rate=options.rate, muon_rate=7 * options.rate,
                            warmup_steps=max(1, min(100, options.steps // 20))),
        course=Course(steps=options.steps, evaluate_every=options.evaluate_every,
                      save_seconds=options.save_seconds, seed=options.seed),
        identity=identity, settings=identity, write=write, resumed=resume, cure="use a lower --rate", kind=DistillLoop,
    )  # fmt: skip
