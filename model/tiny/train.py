"""Train `tiny` from scratch: uniform-noise block diffusion with self-conditioning, plus next-token loss on the encoder.

Half of the rows learn a first step (pure noise, no self-conditioning), half a later one on the model's own trajectory:
a first step runs without gradient, the sampler accepts and renoises, and the loss is taken on what follows. Tasks that
are solved are drawn less often. A killed run resumes from its last checkpoint.

Some batches see only the first positions of a canvas, and a later step of theirs may have become wider than the one
before it: what a canvas that starts narrow and grows asks of the model.

Run: `python -m dgemma.model.tiny.train --out checkpoints/tiny --work WORK --minutes 106 --narrow-share 0`, and then
`python -m dgemma.model.tiny.train --out checkpoints/tiny --work WORK2 --init --minutes 45 --rate 0.5 --decay-from 0.1`

`--mixture-of checkpoints/tiny` trains `tiny-moe` from tiny instead (see `experts`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.model import checkpoint, sampler
from dgemma.model.denoiser import KV, Denoiser
from dgemma.model.tiny import experts, tasks
from dgemma.model.tiny.vocabulary import END_OF_TURN, user_turn

HARD = {"add": 0.25, "sort_numbers": 0.5}  # tasks that a model of this size does not get, however often it sees them
WIDTHS = (4, 8, 16, 32)  # of narrow canvases, each as likely
ASLEEP = 10.0  # seconds; a step that took longer was interrupted by a machine that slept, and that time is not training


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a run depends on, beside the code and the clock."""

    minutes: float = 100.0
    seed: int = 0
    batch: int = 32
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup_steps: int = 100
    decay_from: float = 0.4  # of the time budget; linear to zero after it
    autoregressive_weight: float = 0.3
    first_step_share: float = 0.5
    pure_noise_share: float = 0.7  # of first-step rows; the others draw t uniformly
    least_task_weight: float = 0.15
    narrow_share: float = 0.5  # of batches
    growing_share: float = 0.3  # of batches; the step before has half the width
    balance_weight: float = 0.01  # of the experts' load-balancing loss
    bfloat16: bool = True  # layers under autocast: fast with AVX512-BF16 or AMX, slow in emulation without them


def tiny_config(vocab_size: int, end_of_turn: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size, hidden_size=128, intermediate_size=512, num_layers=6, num_heads=4, num_kv_heads=2,
        head_dim=32, global_num_kv_heads=1, global_head_dim=64, sliding_window=256, canvas_length=64,
        max_position_embeddings=1024, eos_token_ids=(1, end_of_turn),
    )  # fmt: skip


def initialize(model: Denoiser, generator: torch.Generator) -> None:
    """Normal weights scaled by fan-in; q and k gains start so that their product is 1/√d, else attention is too sharp."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.normal_(0.0, 0.5 / math.sqrt(p.shape[1]), generator=generator)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                p.fill_(p.shape[0] ** -0.25)
        model.embed_tokens.weight.normal_(0.0, 1.0 / math.sqrt(model.config.hidden_size), generator=generator)


@dataclass
class Batch:
    """prefix [B, P] left-padded (valid marks real tokens), canvas [B, N] with pads after the stop token."""

    prefix: Tensor
    valid: Tensor
    canvas: Tensor
    task: list[str]


class Data:
    """Endless batches of similar prefix lengths, tasks drawn by weight."""

    def __init__(self, tokenizer: Path, config: ModelConfig, train: TrainConfig, seed: int) -> None:
        self.sp = spm.SentencePieceProcessor(model_file=str(tokenizer))
        self.n, self.batch = config.canvas_length, train.batch
        self.rng = random.Random(seed)
        self.solved = dict.fromkeys(tasks.TASKS, 0.0)  # running exact match of a canvas, per task
        self.least = train.least_task_weight
        self.bos, self.end = config.bos_token_id, self.sp.piece_to_id(END_OF_TURN)

    def row(self, example: tasks.Example) -> tuple[list[int], list[int]]:
        """(prefix, canvas) ids of one canvas of the answer, chosen at random where there are several."""
        answer = [*self.sp.encode(example.answer), self.end]
        index = self.rng.randrange(-(-len(answer) // self.n))
        before, canvas = answer[: index * self.n], answer[index * self.n : (index + 1) * self.n]
        return [self.bos, *self.sp.encode(user_turn(example.prompt)), *before], canvas + [0] * (self.n - len(canvas))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            weights = [max(self.least, 1.0 - s) * HARD.get(t, 1.0) for t, s in self.solved.items()]
            names = self.rng.choices(list(tasks.TASKS), weights, k=self.batch * 12)
            rows = [(*self.row(tasks.make(t, self.rng, "train")), t) for t in names]
            rows.sort(key=lambda r: len(r[0]))
            groups = []
            while rows:  # fewer rows where prefixes are long, so that every batch costs about the same
                count = max(8, self.batch * 128 // (len(rows[-1][0]) + self.n + 16))
                groups.append(rows[-count:])
                rows = rows[:-count]
            self.rng.shuffle(groups)
            for group in groups:
                yield collate(group)


def collate(rows: list[tuple[list[int], list[int], str]]) -> Batch:
    longest = -(-max(len(p) for p, _, _ in rows) // 16) * 16
    prefix = torch.tensor([[0] * (longest - len(p)) + p for p, _, _ in rows])
    valid = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p, _, _ in rows])
    return Batch(prefix, valid, torch.tensor([c for _, c, _ in rows]), [t for _, _, t in rows])


def computed(x: Tensor) -> Tensor:
    """The tensor in the type that layers are computed in: float32, or bfloat16 under autocast."""
    return x.bfloat16() if torch.is_autocast_enabled("cpu") else x


def encode_batch(model: Denoiser, tokens: Tensor, valid: Tensor) -> tuple[Tensor, list[KV]]:
    """Causal pass over left-padded rows; rope is relative, so the padding only shifts a row."""
    n = tokens.shape[1]
    i = torch.arange(n)
    causal = (i[None, :] <= i[:, None]) & valid[:, None, None, None, :]
    near = causal & (i[None, :] > i[:, None] - model.config.sliding_window)
    return model.stack(computed(model.embed(tokens)), i, (near, causal), None, "encode")


def denoise_batch(model: Denoiser, canvas: Tensor, soft: Tensor, prefix: list[KV], valid: Tensor) -> Tensor:
    """Logits [B, N, V] over left-padded prefixes."""
    n, slots = canvas.shape[1], valid.shape[1]
    seen = F.pad(valid, (0, n), value=True)[:, None, None, None, :]
    slot = torch.arange(slots + n)
    recent = seen & (slot > slots - model.config.sliding_window)
    x = model.self_conditioning(computed(model.embed(canvas)), computed(soft))
    x, _ = model.stack(x, torch.arange(n) + slots, (recent, seen), prefix, "denoise")
    return model.head(x)


def advance(model: Denoiser, logits: Tensor, temperature: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One sampler step: the next canvas and its self-conditioning; temperature [B]."""
    tempered = logits / temperature[:, None, None]
    words = torch.randint(0, 1 << 32, (logits.shape[0], 2, logits.shape[1]), generator=generator)
    return sampler.step(tempered, words, 0.1).canvas, model.soft_embed(tempered)


def draw_widths(n: int, train: TrainConfig, generator: torch.Generator) -> tuple[int, int]:
    """How much of a canvas of n positions this batch sees, and how much of it the step before saw."""
    narrow, growing = (torch.rand(2, generator=generator) < torch.tensor([train.narrow_share, train.growing_share])).tolist()
    width = WIDTHS[int(torch.randint(len(WIDTHS), (), generator=generator))] if narrow else n
    return width, width // 2 if growing else width


def loss(model: Denoiser, batch: Batch, train: TrainConfig, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Diffusion loss plus weighted next-token loss, and what the log wants to know."""
    rows, n = batch.canvas.shape
    vocab = model.config.vocab_size
    width, before = draw_widths(n, train, generator)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    hidden, kv = encode_batch(model, torch.cat([batch.prefix, batch.canvas], 1), F.pad(batch.valid, (0, n), value=True))
    slots = batch.prefix.shape[1]
    prefix = [(k[:, :slots], v[:, :slots]) for k, v in kv]
    predicted = model.head(hidden[:, slots - 1 : -1])
    target = batch.canvas.masked_fill(batch.canvas == 0, -100)
    ar_loss = F.cross_entropy(predicted.flatten(0, 1), target.flatten(), ignore_index=-100)

    first = torch.arange(rows) < int(rows * train.first_step_share)
    order = torch.randperm(rows, generator=generator)
    first = first[order]
    t = torch.where(rand(rows) < train.pure_noise_share, torch.ones(rows), rand(rows))
    canvas = batch.canvas[:, :width]
    noisy = torch.where(rand(rows, width) < t[:, None], torch.randint(0, vocab, (rows, width), generator=generator), canvas)
    soft = torch.zeros(rows, width, model.config.hidden_size)
    later = (~first).nonzero().squeeze(1)
    with torch.no_grad():
        own = [(k[later].detach(), v[later].detach()) for k, v in prefix]
        logits = denoise_batch(model, noisy[later, :before], soft[later, :before], own, batch.valid[later])
        temperature = 0.8 - 0.4 * rand(len(later)) * (rand(len(later)) < 0.5)
        noisy[later, :before], following = advance(model, logits, temperature, generator)
        soft[later, :before] = following.to(soft.dtype)
    logits = denoise_batch(model, noisy, soft, prefix, batch.valid)
    diffusion_loss = F.cross_entropy(logits.flatten(0, 1), canvas.flatten())
    exact = (logits.argmax(-1) == canvas).all(1)
    ar_exact = ((predicted.argmax(-1) == batch.canvas) | (batch.canvas == 0)).all(1)
    counted = ~first & (before == n)
    losses = {"diffusion": diffusion_loss.detach(), "ar": ar_loss.detach()}
    parts = {**losses, "exact": exact, "ar_exact": ar_exact, "counted": counted}
    return diffusion_loss + train.autoregressive_weight * ar_loss, parts


def optimizers(model: Denoiser, train: TrainConfig) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon with Nesterov momentum for the matrices of the layers, AdamW for norms and the embedding; no weight decay."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith("embed_tokens")]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or n.startswith("embed_tokens")]
    muon = torch.optim.Muon(matrices, lr=train.muon_lr, momentum=0.95, weight_decay=0.0)
    return muon, torch.optim.AdamW(rest, lr=train.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)


def learning_rate(progress: float, step: int, train: TrainConfig) -> float:
    """Factor on both rates: warm-up by steps, constant, then linear to zero by time."""
    return min(1.0, (step + 1) / train.warmup_steps) * min(1.0, max(0.0, (1 - progress) / (1 - train.decay_from)))


def save(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def start(out: Path, train: TrainConfig, *, init: bool, dense: Path | None) -> Denoiser:
    """The model as training begins: a mixture made from the checkpoint `dense`, the weights in `out`, or random ones."""
    generator = torch.Generator().manual_seed(train.seed)
    if dense is not None:
        return experts.from_dense(checkpoint.load(dense).model, generator)
    sp = spm.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    model = Denoiser(tiny_config(sp.vocab_size(), sp.piece_to_id(END_OF_TURN)))
    if init:
        model.load_state_dict(checkpoint.load(out).model.state_dict())
    else:
        initialize(model, generator)
    return model


def run(out: Path, work: Path, train: TrainConfig, *, init: bool, dense: Path | None) -> None:
    """Train until the time is used up, from what `start` gives or from the last state in `work`."""
    torch.manual_seed(train.seed)
    model = start(out, train, init=init, dense=dense)
    balance = experts.Balance(model)
    muon, adam = optimizers(model, train)
    step, used, seen = 0, 0.0, 0
    solved, last_state = None, work / "last.pt"
    if last_state.exists():
        state = torch.load(last_state, weights_only=True)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, used, seen, solved = state["step"], state["used"], state["seen"], state["solved"]
    data = Data(out / "tokenizer.model", model.config, train, seed=train.seed * 1_000_003 + step)
    data.solved.update(solved or {})
    generator = torch.Generator().manual_seed(train.seed * 7919 + step)
    parameters = sum(p.numel() for p in model.parameters())
    (work / "config.json").write_text(json.dumps({"train": asdict(train), "parameters": parameters}) + "\n")
    log = (work / "log.jsonl").open("a")
    budget, last, logged, saved = train.minutes * 60, time.monotonic(), used, used
    sums = {"diffusion": 0.0, "ar": 0.0, "ar_exact": 0.0, "balance": 0.0, "steps": 0.0}
    for batch in data:
        factor = learning_rate(used / budget, step, train)
        for optimizer, base in ((muon, train.muon_lr), (adam, train.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=train.bfloat16):
            total, parts = loss(model, batch, train, generator)
        routing = balance.take()
        (total + train.balance_weight * routing).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        step, seen = step + 1, seen + batch.prefix.numel() + batch.canvas.numel()
        now = time.monotonic()
        used, last = used + min(now - last, ASLEEP), now
        for task, right, counted in zip(batch.task, parts["exact"].tolist(), parts["counted"].tolist(), strict=True):
            if counted:
                data.solved[task] += 0.01 * (right - data.solved[task])
        for key in ("diffusion", "ar"):
            sums[key] += float(parts[key])
        sums["ar_exact"] += float(parts["ar_exact"].float().mean())
        sums["balance"] += float(routing.detach())
        sums["steps"] += 1
        if used - logged >= 60 or used >= budget:
            line = {
                "step": step,
                "minutes": round(used / 60, 2),
                "tokens": seen,
                "lr": round(factor, 4),
                **{k: round(v / sums["steps"], 4) for k, v in sums.items() if k != "steps"},
                "exact": {k: round(v, 3) for k, v in data.solved.items()},
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(json.dumps(line), flush=True)
            sums, logged = dict.fromkeys(sums, 0.0), used
        if used - saved >= 180 or used >= budget:
            save(
                last_state,
                {
                    "model": model.state_dict(),
                    "muon": muon.state_dict(),
                    "adam": adam.state_dict(),
                    "step": step,
                    "used": used,
                    "seen": seen,
                    "solved": data.solved,
                },
            )
            saved = used
        if used >= budget:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; holds tokenizer.model")
    parser.add_argument("--work", type=Path, required=True, help="folder for the training state and log")
    parser.add_argument("--minutes", type=float, default=TrainConfig.minutes)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--init", action="store_true", help="go on from the weights in --out, with fresh optimizers")
    parser.add_argument("--mixture-of", type=Path, help="start a mixture of experts from this dense checkpoint")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    parser.add_argument("--decay-from", type=float, default=TrainConfig.decay_from)
    parser.add_argument("--narrow-share", type=float, default=TrainConfig.narrow_share)
    parser.add_argument("--float32", action="store_true", help="compute in float32, for processors without bfloat16 products")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    train = TrainConfig(
        minutes=options.minutes,
        seed=options.seed,
        decay_from=options.decay_from,
        narrow_share=options.narrow_share,
        bfloat16=not options.float32,
        muon_lr=TrainConfig.muon_lr * options.rate,
        adam_lr=TrainConfig.adam_lr * options.rate,
    )
    run(options.out, options.work, train, init=options.init, dense=options.mixture_of)


if __name__ == "__main__":
    main()
