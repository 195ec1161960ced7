"""Distillation to few denoising steps: a student learns to make at once of noise what its teacher's whole loop makes of it.

Predictions of one step are independent of each other, so choices that must agree cannot fall in one step, unless something
that all positions see decides them. Here that is the noise that the canvas begins as: the teacher draws with it
(`rollout.coupled_words`), so its last canvas follows from the first, and a student can learn how. The sampler renoises what it
does not accept, so a later step has other noise to go by: the teacher then begins with the canvas that the student has brought
there. As other seeds give other noise, the student's answers stay as different as the teacher's. B rows, N canvas, D hidden,
V vocabulary, K steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import sha256_file
from dgemma.core.sampler import SamplerConfig
from dgemma.core.schedule import Ends, is_temperature, read_ends
from dgemma.model import checkpoint
from dgemma.model import sampler as sampling
from dgemma.model.denoiser import Denoiser
from dgemma.train import data
from dgemma.train.data import Batch, Row
from dgemma.train.finetune import stored_dtype
from dgemma.train.loop import Loop, Measured
from dgemma.train.options import MOST_SEED, Course, Objective, Optimizer
from dgemma.train.passes import denoise_batch, encode_batch
from dgemma.train.rollout import coupled_words, denoise_rows, left_padded
from dgemma.train.runs import Run, check_out, write_checkpoint
from dgemma.train.sources import GROUPS, Order, Stateless, dealt

MOST_STEPS = 16  # that a student may be given
_AT_ONCE = 64  # rows of the teacher's loop


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Defaults are for a model of a million parameters.

    Args:
        denoising_steps: K that the student takes for a canvas at most.
        entropy_bound: of the student's sampler; None: the teacher's. A student is surer of what agrees than its entropies say,
            so it may accept more in a step.
        temperature: of the student's sampler, t_max and t_min; None: the teacher's.
        steps: of the optimizer.
        batch: canvases of a step.
        rate: highest learning rate of AdamW, for embedding and norms; Muon's for the matrices is seven times that.
        uses: how often each of the teacher's canvases is learned from, at another of the student's steps.
        first_step_share: of rows, which learn the first step; the others a later one.
        next_token_weight: of the encoder's loss on the teacher's canvases, so that it still decodes token by token.
    """

    denoising_steps: int = 4
    entropy_bound: float | None = None
    temperature: Ends | None = None
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

    def policy(self, teacher: SamplerConfig) -> SamplerConfig:
        """The student's sampler; raises UsageError where temperature or entropy bound cannot be."""
        t_max, t_min = self.temperature or (teacher.t_max, teacher.t_min)
        bound = teacher.entropy_bound if self.entropy_bound is None else self.entropy_bound
        return replace(teacher, steps=self.denoising_steps, t_max=t_max, t_min=t_min, entropy_bound=bound)


def read_temperature(text: str | None) -> Ends | None:
    """First and last temperature, of A:B; raises UsageError."""
    ends = read_ends("temperature", text, is_temperature, "two numbers, A:B")
    if ends and not 0 < ends[1] < ends[0]:
        raise UsageError(f"--temperature {text}: the last must be above 0 and below the first")
    return ends


@dataclass(frozen=True, slots=True)
class Taught(Row):
    """A row whose canvas is what the teacher makes of the canvas at one of the student's steps.

    Args:
        noise: that canvas.
        soft: what the step sees of the one before it, [N, D]; None at the first.
    """

    noise: tuple[int, ...] = ()
    soft: Tensor | None = field(default=None, compare=False)


Draw = Callable[[int], Tensor]  # rows → words [rows, 2, N] int64


@torch.no_grad()
def _advance(
    student: Denoiser, policy: SamplerConfig, prefixes: Sequence[Sequence[int]], noise: Tensor, done: Tensor, draw: Draw
) -> tuple[Tensor, Tensor]:
    """Canvas [B, N] and soft embeddings [B, N, D] after `done` [B] of the student's own steps from noise."""
    canvas, soft = noise.clone(), torch.zeros(*noise.shape, student.config.hidden_size)
    ids, valid = left_padded(prefixes)
    kv = encode_batch(student, ids, valid)[1]
    for run in range(1, int(done.max()) + 1):
        on = (done >= run).nonzero().squeeze(1)
        logits = denoise_batch(student, canvas[on], soft[on], [(k[on], v[on]) for k, v in kv], valid[on])
        tempered = logits / policy.temperature(policy.steps - run + 1)
        canvas[on] = sampling.step(tempered, draw(len(on)), policy.entropy_bound).canvas
        soft[on] = student.soft_embed(tempered, policy.top_k)
    return canvas, soft


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Makes rows to learn from.

    Args:
        model, policy: the teacher and its sampler.
        student, few: the student as it is now, and its sampler, of K steps.
        first_step_share: of rows, which learn the student's first step.
    """

    model: Denoiser
    policy: SamplerConfig
    student: Denoiser
    few: SamplerConfig
    first_step_share: float

    def teach(self, rows: Sequence[Row], generator: torch.Generator) -> list[Taught]:
        """The teacher's canvases behind the rows' prefixes; their own canvases are not looked at.

        A row gets one of the student's K steps, the canvas that it brings there by itself, and what the teacher's loop makes of
        that canvas.
        """
        config, stops = self.model.config, set(self.model.config.eos_token_ids)
        n = config.canvas_length
        count = len(rows)
        noise = torch.randint(0, config.vocab_size, (count, n), generator=generator)
        later = torch.rand(count, generator=generator) >= self.first_step_share
        done = torch.randint(1, max(2, self.few.steps), (count,), generator=generator) * (later & (self.few.steps > 1))
        order = sorted(range(count), key=lambda i: len(rows[i].prefix))
        made: dict[int, Taught] = {}

        def draw(rows: int) -> Tensor:
            return torch.randint(0, 1 << 32, (rows, 2, n), generator=generator)

        for start in range(0, count, _AT_ONCE):
            places = order[start : start + _AT_ONCE]
            prefixes = [list(rows[i].prefix) for i in places]
            begun, soft = _advance(self.student, self.few, prefixes, noise[places], done[places], draw)
            words = coupled_words(begun, config.vocab_size, lambda row, run: draw(1)[0])
            found = denoise_rows(self.model, self.policy, prefixes, begun, words)
            for at, (i, canvas) in enumerate(zip(places, found, strict=True)):
                end = next((at + 1 for at, token in enumerate(canvas.committed) if token in stops), None)
                row, seen = rows[i], soft[at].clone() if done[i] else None
                made[i] = Taught(tuple(row.prefix), canvas.committed[:end], row.prompt, row.line, row.file, canvas.noise, seen)
        return [made[i] for i in range(count)]


class Lessons(Stateless):
    """A dozen batches of the teacher's canvases at a time, dealt out `uses` times, each time in other batches."""

    def __init__(self, teacher: Teacher, rows: Sequence[Row], batch: int, uses: int, seed: int) -> None:
        self.teacher, self.order, self.batch, self.uses, self.seed = teacher, Order(rows, seed), batch, uses, seed
        self.size = None
        self._lesson, self._rows = -1, list[Taught]()

    def rows(self, step: int) -> list[Row]:
        round_, index = divmod(step, GROUPS)
        lesson = round_ // self.uses
        if lesson != self._lesson:
            count = self.batch * GROUPS
            generator = torch.Generator().manual_seed((self.seed + 1) * 5_915_587 + lesson)
            self._lesson, self._rows = lesson, self.teacher.teach(self.order.take(lesson * count, count), generator)
        return dealt(self._rows, self.batch, self.seed, round_)[index]

    def state(self) -> dict[str, Any]:
        """The lesson that is dealt out: the student that it was made with has learned since."""
        return {"lesson": self._lesson, "rows": [[getattr(row, f.name) for f in fields(Taught)] for row in self._rows]}

    def restore(self, state: dict[str, Any]) -> None:
        names = [f.name for f in fields(Taught)]
        self._lesson = state["lesson"]
        self._rows = [Taught(**dict(zip(names, values, strict=True))) for values in state["rows"]]


def losses(student: Denoiser, batch: Batch, noise: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """How far each row's step is from the teacher's canvas, and the next-token loss on that canvas.

    Args:
        batch: whose canvases are the teacher's.
        noise, soft: canvas [B, N] and soft embeddings [B, N, D] that the steps begin with.
    """
    n = noise.shape[1]
    pad = student.config.pad_token_id
    hidden, kv = encode_batch(student, torch.cat([batch.prefix, batch.canvas], 1), F.pad(batch.valid, (0, n), value=True))
    slots = batch.prefix.shape[1]
    target = batch.canvas.masked_fill(batch.canvas == pad, -100)
    next_token = F.cross_entropy(student.head(hidden[:, slots - 1 : -1]).flatten(0, 1), target.flatten(), ignore_index=-100)
    logits = denoise_batch(student, noise, soft, [(k[:, :slots], v[:, :slots]) for k, v in kv], batch.valid)
    return F.cross_entropy(logits.flatten(0, 1), batch.canvas.flatten()), next_token


class DistillLoop(Loop):
    """The loop, with the distillation's losses."""

    def measure(self, rows: Sequence[Row], seed: int, *, learn: bool) -> Measured:
        sums, positions = [0.0, 0.0, 0.0], 0
        for batch, places in self.pieces(rows):
            share = len(places) / len(rows)
            taught = [row for row in (rows[i] for i in places) if isinstance(row, Taught)]
            noise = torch.tensor([row.noise for row in taught])
            none = torch.zeros(noise.shape[1], self.model.config.hidden_size)
            soft = torch.stack([none if row.soft is None else row.soft for row in taught])
            with torch.set_grad_enabled(learn):
                diffusion, next_token = losses(self.model, batch, noise, soft)
                total = (diffusion + self.objective.next_token_weight * next_token) * share
            if learn:
                total.backward()
            for i, value in enumerate((total, diffusion * share, next_token * share)):
                sums[i] += float(value.detach())
            positions += batch.positions
        return Measured(loss=sums[0], diffusion=sums[1], next_token=sums[2], positions=positions, exact=[None] * len(rows))


def distilling(
    source: Path, path: Path, out: Path, speak: data.Speak, options: DistillOptions, *,
    begin: Path | None = None, resume: bool = False,
) -> Run:  # fmt: skip
    """A checked run: the data is read and every line of it usable.

    Args:
        source: checkpoint folder, the teacher.
        begin: checkpoint folder of the same shape that the student begins as; None: the teacher's.
        path: conversations; of their answers only whole canvases before the last one are read.
        out: folder to write; must not exist, unless a run there is resumed.
        speak: makes a conversation's ids; see `data`.
    Raises:
        CheckpointError, UsageError: naming file and line, tensor or option.
    """
    check_out(out, resume=resume)
    config, policy = checkpoint.read_config(source)
    rows, held_out = data.split(data.read(path, speak, config), options.held_out_share, options.seed)
    taught, loaded = checkpoint.load(source), checkpoint.load(begin or source)
    teacher, student, dtype = taught.model.requires_grad_(False).eval(), loaded.model.requires_grad_(True), stored_dtype(loaded)
    if student.config != config:
        raise CheckpointError(f"--student {begin}: is not of the shape of {source}; give a checkpoint distilled from it")
    few = options.policy(policy)
    identity: dict[str, Any] = {
        **{f"--{name.replace('_', '-')}": value for name, value in asdict(options).items() if name != "save_seconds"},
        "checkpoint": "".join(sorted(taught.files().values())),
        **({"--student": "".join(sorted(loaded.files().values()))} if begin else {}),
        "--data": sha256_file(path),
    }

    def write(tensors: dict[str, Tensor]) -> None:
        write_checkpoint(out, student, few, tensors, source, dtype)

    school = Teacher(model=teacher, policy=policy, student=student, few=few, first_step_share=options.first_step_share)
    lessons = Lessons(school, rows, options.batch, options.uses, options.seed)
    # First steps alone: later ones begin with what the student makes of the noise, and it learns.
    exam = replace(school, first_step_share=1.0).teach(data.thinned(held_out), torch.Generator().manual_seed(options.seed))
    return Run(
        out=out, model=student, policy=few, source=lessons, held_out=exam,
        objective=Objective(first_step_share=options.first_step_share, next_token_weight=options.next_token_weight),
        optimizer=Optimizer(self_conditioning="adamw", rate=options.rate, muon_rate=7 * options.rate,
                            warmup_steps=max(1, min(100, options.steps // 20))),
        course=Course(steps=options.steps, evaluate_every=options.evaluate_every,
                      save_seconds=options.save_seconds, seed=options.seed),
        identity=identity, settings=identity, write=write, resumed=resume, cure="use a lower --rate", kind=DistillLoop,
    )  # fmt: skip
